//! Accepting a message: its row, its body, a delivery for each recipient and its event.

use std::mem;
use std::sync::Arc;

use rusqlite::params;
use serde::Serialize;

use super::batches::Batches;
use super::claim_table::ClaimTable;
use super::submission_key;
use crate::mail::Recipient;
use crate::model::{DeliveryId, DeliveryState, EventKind, MessageId};
use crate::store::sqlite::blob_store::{self, FreshFile, Place};
use crate::store::sqlite::checksum::Checksum;
use crate::store::sqlite::events::Subject;
use crate::store::sqlite::sql_types::{to_json, us};
use crate::store::sqlite::writer::Tx;
use crate::store::{Annotations, Delivery, Message, NewMessage, Result, UsageCounts, UsedBy};

/// A message on its way into the database. Dropped before its commit, its claims are void and its file is removed.
pub(super) struct EnqueueJob {
    memory: Arc<ClaimTable>,
    new: Arc<NewMessage>,
    /// Where the content is, if not in the database.
    file: Option<FreshFile>,
    checksum: Checksum,
    is_claimed: bool,
    /// What the relay gets after the commit, if the message is claimed.
    batches: Batches,
}

/// What was made of the content of a message before the writer has it.
pub(super) struct Stored {
    /// Its file, if it is large.
    pub(super) file: Option<FreshFile>,
    pub(super) checksum: Checksum,
}

/// What the event of an accepted message says.
#[derive(Serialize)]
struct EventPayload<'a> {
    from: &'a str,
    recipients: usize,
    size: u64,
}

/// What the event of a suppressed recipient says.
#[derive(Serialize)]
struct LeftOut<'a> {
    recipient: &'a str,
}

impl EnqueueJob {
    pub(super) fn new(memory: &Arc<ClaimTable>, new: Arc<NewMessage>, stored: Stored) -> Self {
        let Stored { file, checksum } = stored;
        // What is held until later (RFC 4865) waits in the database.
        let is_held = new.message.begins_at() > new.message.created_at;
        let is_claimed = !is_held && memory.claim_fresh(&new);
        let batches = if is_claimed { batches_of(&new) } else { Batches::default() };
        Self { memory: Arc::clone(memory), new, file, checksum, is_claimed, batches }
    }

    /// Answers the id of the message, or of the one that was submitted under its key before: then nothing is written.
    pub(super) fn write(&self, tx: &Tx<'_>) -> Result<MessageId> {
        let NewMessage { message, recipients, suppressed, content, submission_key } = &*self.new;
        if let Some(key) = submission_key
            && let Some(earlier) = submission_key::take(tx, key, message)?
        {
            return Ok(earlier);
        }
        let reverse_path = message.reverse_path.to_string();
        insert_message(tx, message, &reverse_path)?;
        let place = if self.file.is_some() { Place::File } else { Place::Row };
        blob_store::insert(tx, message.id, content, self.checksum, place)?;
        insert_deliveries(tx, &self.new)?;
        let subject = Subject {
            tenant_id: Some(message.tenant_id),
            message_id: Some(message.id),
            ..Subject::default()
        };
        let told = EventPayload { from: &reverse_path, recipients: recipients.len(), size: message.size };
        tx.append(EventKind::MessageAccepted, subject, &told, message.created_at)?;
        for recipient in suppressed {
            let told = LeftOut { recipient: &recipient.to_string() };
            tx.append(EventKind::MessageSuppressed, subject, &told, message.created_at)?;
        }
        self.count(tx);
        Ok(message.id)
    }

    /// What the server writes itself, nobody has sent.
    fn count(&self, tx: &Tx<'_>) {
        let NewMessage { message, recipients, suppressed, .. } = &*self.new;
        if message.key_id.is_some() {
            let Message { tenant_id, environment, created_at: at, .. } = *message;
            let (sent, suppressed) = (recipients.len() as u64, suppressed.len() as u64);
            let counts = UsageCounts { sent, suppressed, ..UsageCounts::default() };
            tx.count(UsedBy { tenant_id, environment, at }, counts);
        }
    }

    /// The commit is synced: the relay may have it, if it is what was written.
    pub(super) fn conclude(mut self, written: MessageId) -> MessageId {
        let message = &self.new.message;
        if written != message.id {
            return written;
        }
        if let Some(file) = self.file.take() {
            file.keep();
        }
        if mem::take(&mut self.is_claimed) {
            self.memory.make_ready(message, self.batches.take());
        } else {
            self.memory.note_due(message.tenant_id, message.begins_at());
        }
        written
    }

    pub(super) fn message_id(&self) -> MessageId {
        self.new.message.id
    }

    fn delivery_ids(&self) -> impl Iterator<Item = DeliveryId> {
        self.new.recipients.iter().map(|&(id, _)| id)
    }
}

impl Drop for EnqueueJob {
    fn drop(&mut self) {
        if self.is_claimed {
            self.memory.forget(self.delivery_ids());
        }
    }
}

fn insert_message(tx: &Tx<'_>, message: &Message, reverse_path: &str) -> Result<()> {
    let sql = "INSERT INTO message (id, tenant_id, key_id, environment, reverse_path, body, smtputf8, size,
                                    subject, header_from, header_message_id, dkim_domain, created_us, expires_us,
                                    return_content, envelope_id, require_tls, release_us, tags, metadata)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)";
    let parameters = &message.parameters;
    let Annotations { tags, metadata } = &message.annotations;
    tx.prepare_cached(sql)?.execute(params![
        message.id,
        message.tenant_id,
        message.key_id,
        message.environment,
        reverse_path,
        message.body,
        message.smtputf8,
        message.size as i64,
        message.subject,
        message.header_from,
        message.header_message_id,
        message.dkim_domain,
        us(message.created_at),
        us(message.expires_at),
        parameters.return_content,
        parameters.envelope_id,
        parameters.require_tls,
        parameters.release_at.map(us),
        (!tags.is_empty()).then(|| to_json(tags)).transpose()?,
        metadata.as_json(),
    ])?;
    Ok(())
}

fn insert_deliveries(tx: &Tx<'_>, new: &NewMessage) -> Result<()> {
    let sql = "INSERT INTO delivery (id, message_id, tenant_id, position, recipient, destination, state,
                                     attempts, next_attempt_us, updated_us, notify, original_recipient)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, ?9, ?10, ?11)";
    let mut insert = tx.prepare_cached(sql)?;
    let message_id = new.message.id.to_string();
    let tenant_id = new.message.tenant_id.to_string();
    let (begins_us, created_us) = (us(new.message.begins_at()), us(new.message.created_at));
    for (position, (id, recipient)) in new.recipients.iter().enumerate() {
        let position = position as i64;
        let state = DeliveryState::Queued;
        let Recipient { address, parameters } = recipient;
        insert.execute(params![
            id,
            message_id,
            tenant_id,
            position,
            address,
            address.host(),
            state,
            begins_us,
            created_us,
            parameters.notify,
            parameters.original_recipient,
        ])?;
    }
    Ok(())
}

/// The deliveries as rows would give them, grouped by destination.
fn batches_of(new: &NewMessage) -> Batches {
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
            last_class: None,
            updated_at: message.created_at,
        };
        batches.add(&message, delivery, Some(&new.content));
    }
    batches
}
