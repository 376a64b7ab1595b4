//! Enqueues a message: its row, its body, a delivery for each recipient and its event.

use std::sync::Arc;

use serde::Serialize;

use super::queue_rows::{self, QueueRow};
use super::submission_key;
use crate::mail::Recipient;
use crate::model::{DeliveryState, EventKind, MessageId, MessageKind};
use crate::store::database::params;
use crate::store::sql::blob_store::{self, BodyPlacement, FreshFile};
use crate::store::sql::checksum::Checksum;
use crate::store::sql::events::Subject;
use crate::store::sql::job::RowsOfJob;
use crate::store::sql::sql_types::{tenant_may_be_missing, to_json, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::sql::writer::HotJob;
use crate::store::{
    AcceptedMessage, Annotations, HotQueuePermit, Message, NewMessage, Result, SpoolChange, SpoolFeed,
    UsageCounts, UsedBy,
};

/// A message to enqueue. If it is dropped before its commit, its body file is deleted.
pub(in crate::store::sql) struct EnqueueJob {
    feed: Arc<SpoolFeed>,
    new: Arc<NewMessage>,
    /// The body file, if the content is not in the database.
    file: Option<FreshFile>,
    placement: BodyPlacement,
    checksum: Checksum,
    /// Reserved memory for the message until it is delivered.
    memory: Option<HotQueuePermit>,
    /// The lease by which this process claims its deliveries if it has memory for them.
    epoch: i64,
}

/// Messages to enqueue in one transaction.
pub(super) struct EnqueueBatch {
    pub(super) jobs: Vec<EnqueueJob>,
}

impl EnqueueBatch {
    /// Writes them in the order of their submission keys. Returns the ids of the messages in their own order, see
    /// [`EnqueueJob::write`].
    pub(super) fn write(&self, tx: &Tx<'_>) -> Result<Vec<MessageId>> {
        // Before anything is written: a job that fails after a change costs the others of its transaction a repetition.
        for job in self.jobs.iter().filter(|_| self.jobs.len() > 1) {
            job.require_free_key(tx)?;
        }
        let mut jobs: Vec<_> = self.jobs.iter().enumerate().collect();
        jobs.sort_by_key(|(_, job)| job.shared_key());
        let written = jobs.into_iter().map(|(place, job)| Ok((place, job.write(tx)?)));
        let mut written = written.collect::<Result<Vec<_>>>()?;
        written.sort_by_key(|(place, _)| *place);
        Ok(written.into_iter().map(|(_, id)| id).collect())
    }

    /// How its lane runs it.
    pub(super) fn as_hot_job(&self) -> HotJob {
        let octets = self.jobs.iter().map(EnqueueJob::octets).sum();
        let keys = || self.jobs.iter().filter_map(EnqueueJob::shared_key);
        let rows = RowsOfJob { shared_keys: keys().min().zip(keys().max()), ..RowsOfJob::default() };
        HotJob { octets, rows }
    }

    /// After the synced commit.
    pub(super) fn conclude(self, written: Vec<MessageId>) -> Vec<MessageId> {
        self.jobs.into_iter().zip(written).map(|(job, id)| job.conclude(id)).collect()
    }
}

/// The results of work on the content before the transaction.
pub(super) struct Stored {
    /// The body file of a large message.
    pub(super) file: Option<FreshFile>,
    pub(super) placement: BodyPlacement,
    pub(super) checksum: Checksum,
}

/// The data of the event of an accepted message.
#[derive(Serialize)]
struct AcceptedData<'a> {
    from: &'a str,
    recipients: usize,
    size: u64,
}

/// The data of the event of a suppressed recipient.
#[derive(Serialize)]
struct SuppressedData<'a> {
    recipient: &'a str,
}

impl EnqueueJob {
    pub(super) fn new(feed: &Arc<SpoolFeed>, epoch: i64, new: Arc<NewMessage>, stored: Stored) -> Self {
        let Stored { file, placement, checksum } = stored;
        // Scheduled mail (RFC 4865) waits in the database.
        let is_scheduled = new.message.begins_at() > new.message.created_at;
        let memory = if is_scheduled { None } else { feed.reserve(&new) };
        Self { feed: Arc::clone(feed), new, file, placement, checksum, memory, epoch }
    }

    pub(super) fn has_key(&self) -> bool {
        self.new.submission_key.is_some()
    }

    /// The octets of its content in the transaction.
    pub(super) fn octets(&self) -> usize {
        match self.placement {
            BodyPlacement::Row => self.new.content.len(),
            BodyPlacement::File | BodyPlacement::Pieces => 0,
        }
    }

    /// Its submission key, for the order of jobs.
    fn shared_key(&self) -> Option<String> {
        let NewMessage { message, submission_key, .. } = &*self.new;
        let key = submission_key.as_ref()?;
        Some(format!("{} {} {}", message.tenant_id, message.environment, key.name))
    }

    /// Fails if the submission key was used for another message.
    fn require_free_key(&self, tx: &Tx<'_>) -> Result<()> {
        let NewMessage { message, submission_key, .. } = &*self.new;
        let owner = (message.tenant_id, message.environment);
        let find = |key| submission_key::find(tx, owner, key, message.created_at).map(drop);
        submission_key.as_ref().map_or(Ok(()), find)
    }

    /// Returns the id of the message. If its submission key was used before, writes nothing and returns the id of that
    /// message.
    pub(in crate::store::sql) fn write(&self, tx: &Tx<'_>) -> Result<MessageId> {
        let NewMessage { message, content, submission_key, .. } = &*self.new;
        if let Some(key) = submission_key
            && let Some(earlier) = submission_key::take(tx, key, message)?
        {
            return Ok(earlier);
        }
        let reverse_path = message.reverse_path.to_string();
        insert_message(tx, message, &reverse_path)?;
        blob_store::insert(tx, message.id, content, self.checksum, self.placement)?;
        // With another lease than at the reservation, any node may claim them.
        insert_deliveries(tx, &self.new, self.memory.is_some() && tx.lease.epoch() == self.epoch)?;
        if message.kind == MessageKind::Message {
            self.write_events(tx, &reverse_path)?;
            self.count(tx);
        }
        Ok(message.id)
    }

    fn write_events(&self, tx: &Tx<'_>, reverse_path: &str) -> Result<()> {
        let NewMessage { message, recipients, suppressed, .. } = &*self.new;
        let subject = Subject {
            tenant_id: Some(message.tenant_id),
            environment: Some(message.environment),
            message_id: Some(message.id),
            ..Subject::default()
        };
        let data = AcceptedData { from: reverse_path, recipients: recipients.len(), size: message.size };
        tx.append(EventKind::MessageAccepted, subject, &data, message.created_at)?;
        for recipient in suppressed {
            let data = SuppressedData { recipient: &recipient.to_string() };
            tx.append(EventKind::MessageSuppressed, subject, &data, message.created_at)?;
        }
        Ok(())
    }

    fn count(&self, tx: &Tx<'_>) {
        let NewMessage { message, recipients, suppressed, .. } = &*self.new;
        let Message { tenant_id, key_id, environment, created_at: at, .. } = *message;
        let (sent, suppressed) = (recipients.len() as u64, suppressed.len() as u64);
        let counts = UsageCounts { sent, suppressed, ..UsageCounts::default() };
        tx.count(UsedBy { tenant_id, key_id, environment, at }, message.sender_domain.as_ref(), counts);
    }

    /// After the synced commit: hands the message over for delivery, if it was written.
    pub(in crate::store::sql) fn conclude(self, written: MessageId) -> MessageId {
        let Self { feed, new, file, memory, epoch, .. } = self;
        let message = &new.message;
        if written != message.id {
            return written;
        }
        if let Some(file) = file {
            file.keep();
        }
        feed.send(match memory {
            Some(memory) => SpoolChange::Accepted(AcceptedMessage { new, memory, epoch }),
            None => SpoolChange::Due { tenant_id: message.tenant_id, at: message.begins_at() },
        });
        written
    }

    pub(in crate::store::sql) fn message_id(&self) -> MessageId {
        self.new.message.id
    }
}

fn insert_message(tx: &Tx<'_>, message: &Message, reverse_path: &str) -> Result<()> {
    let sql = "INSERT INTO message (id, tenant_id, key_id, environment, reverse_path, body, smtputf8, size,
                                    subject, header_from, header_message_id, dkim_domain, created_us, expires_us,
                                    return_content, envelope_id, require_tls, release_us, tags, metadata, kind, sender_domain,
                                    list)
               VALUES (?1, (SELECT id FROM tenant WHERE id = ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,
                       ?14, ?15, ?16, ?17, ?18, ?19, ?20,
                       ?21, ?22, ?23)";
    let parameters = &message.parameters;
    let Annotations { tags, metadata } = &message.annotations;
    let row = params![
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
        message.kind,
        message.sender_domain,
        message.list,
    ];
    tx.inserted_row.note("message", message.id);
    tx.prepare_cached(sql)?.post(row).map_err(tenant_may_be_missing)?;
    Ok(())
}

fn insert_deliveries(tx: &Tx<'_>, new: &NewMessage, is_claimed: bool) -> Result<()> {
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
        insert.post(params![
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
        queue_rows::insert(
            tx,
            &QueueRow {
                id: *id,
                tenant_id: new.message.tenant_id,
                destination: address.host(),
                next_attempt_us: begins_us,
                is_claimed,
            },
        )?;
    }
    Ok(())
}
