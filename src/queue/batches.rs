//! Groups deliveries into batches: those of one message for one destination.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use crate::mail::{Content, Host};
use crate::model::{DeliveryState, MessageId};
use crate::store::{Batch, Delivery, Message, NewMessage};

/// Maximum of deliveries in one batch.
const DELIVERIES_MAX: usize = 100;

/// Batches under construction.
#[derive(Default)]
pub(super) struct Batches {
    all: Vec<Batch>,
    /// The index of the batch of a message and destination that is not full.
    open: HashMap<(MessageId, Host), usize>,
}

impl Batches {
    /// Adds a delivery to its batch. A new batch gets the content, if there is one.
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

    /// Takes the batches.
    pub(super) fn take(&mut self) -> Vec<Batch> {
        self.open.clear();
        mem::take(&mut self.all)
    }
}

/// The batches of an accepted message.
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
