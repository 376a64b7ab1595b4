//! Deliveries grouped for the relay: those of a message for one destination go together.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use crate::mail::{Content, Host};
use crate::model::{DeliveryState, MessageId};
use crate::store::{Batch, Delivery, Message, NewMessage};

/// Deliveries in one batch.
const DELIVERIES_MAX: usize = 100;

/// Batches that deliveries are added to.
#[derive(Default)]
pub(super) struct Batches {
    all: Vec<Batch>,
    /// Where the batch of a message and destination is that still takes deliveries.
    open: HashMap<(MessageId, Host), usize>,
}

impl Batches {
    /// Adds a delivery to the batch that it belongs to; a fresh one has the content if it is at hand.
    pub(super) fn add(&mut self, message: &Arc<Message>, delivery: Delivery, content: Option<&Content>) {
        let key = (message.id, delivery.recipient.host().clone());
        if let Some(&at) = self.open.get(&key)
            && let Some(batch) = self.all.get_mut(at)
            && batch.deliveries.len() < DELIVERIES_MAX
        {
            batch.deliveries.push(delivery);
            return;
        }
        let batch = Batch {
            message: Arc::clone(message),
            destination: key.1.clone(),
            deliveries: vec![delivery],
            content: content.cloned(),
        };
        self.open.insert(key, self.all.len());
        self.all.push(batch);
    }

    /// What was added so far.
    pub(super) fn take(&mut self) -> Vec<Batch> {
        self.open.clear();
        mem::take(&mut self.all)
    }
}

/// The deliveries of an accepted message as their rows say them, grouped by destination.
pub(super) fn batches_of(new: &NewMessage) -> Vec<Batch> {
    let message = Arc::new(new.message.clone());
    let mut batches = Batches::default();
    for (id, recipient) in &new.recipients {
        let delivery = Delivery {
            id: *id,
            message_id: message.id,
            recipient: recipient.address.clone(),
            parameters: recipient.parameters.clone(),
            state: DeliveryState::Queued,
            attempts: 0,
            next_attempt_at: Some(message.created_at),
            last_reply: None,
            bounce_class: None,
            updated_at: message.created_at,
        };
        batches.add(&message, delivery, Some(&new.content));
    }
    batches.take()
}
