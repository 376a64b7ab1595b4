//! Imports the messages of a bundle. They are parsed, and large contents are written to their files, before the transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::fields::Field;
use super::messages::{ATTEMPTS, DELIVERIES, EVENTS, MESSAGE, MessagePart};
use crate::mail::{Address, Content, Timestamp};
use crate::model::{DeliveryState, EventId, MessageId, MessageKind, TenantId};
use crate::store::database::{
    self, Connection, DatabaseError, OptionalExtension, Value as Column, params_from_iter,
};
use crate::store::sql::blob_store::{self, BodyFiles, BodyPlacement, FreshFile};
use crate::store::sql::checksum::Checksum;
use crate::store::sql::journal::index;
use crate::store::sql::spool::queue_rows;
use crate::store::sql::sql_types::us;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{BundleObject, ImportOptions, Result, StoreError};

/// Maximum of octets of contents that one job writes into the database. Other contents of the job are written to files before.
const INLINE_OCTETS_OF_JOB_MAX: usize = 2 * 1024 * 1024;

/// A message of a bundle.
pub(super) struct ParsedMessage {
    id: MessageId,
    columns: Vec<Column>,
    deliveries: Vec<ParsedDelivery>,
    attempts: Vec<Vec<Column>>,
    events: Vec<Vec<Column>>,
    content: Option<Content>,
    /// The file of a large content.
    file: Option<FreshFile>,
}

struct ParsedDelivery {
    columns: Vec<Column>,
    destination: String,
    state: DeliveryState,
}

/// What becomes of a message.
pub(super) enum MessageDecision {
    Created {
        open_deliveries: u64,
    },
    Unchanged,
    /// It has open deliveries, and the import is without them.
    LeftOut,
    Conflict(String),
}

/// The messages among the objects by their places, or why one is not imported.
pub(super) type ParsedMessages = HashMap<usize, std::result::Result<ParsedMessage, String>>;

/// Parses the messages among the objects.
pub(super) fn parse_all(objects: &[BundleObject], now: Timestamp) -> ParsedMessages {
    let messages = objects.iter().enumerate().filter(|(_, object)| is_message(object));
    messages.map(|(place, object)| (place, ParsedMessage::parse(object, now))).collect()
}

pub(super) fn is_message(object: &BundleObject) -> bool {
    object.get("object").is_some_and(|kind| kind == "message")
}

/// Writes large contents of new messages to files. If the file of a message is there, its content goes into the database: the
/// file is of an import that is in progress or was interrupted, or it goes with a deleted message.
pub(super) fn write_files(
    connection: &Connection,
    files: &Arc<BodyFiles>,
    messages: &mut ParsedMessages,
    options: &ImportOptions,
) -> Result<()> {
    let mut inline_octets = 0;
    for message in messages.values_mut().flatten().filter(|message| message.is_taken(options)) {
        let Some(content) = &message.content else { continue };
        let is_inline = !files.is_large(content) && inline_octets + content.len() <= INLINE_OCTETS_OF_JOB_MAX;
        if is_inline {
            inline_octets += content.len();
        } else if !blob_store::is_known(connection, message.id)? && !is_stored(connection, message.id)? {
            message.file = files.write_if_absent(message.id, content)?;
        }
    }
    Ok(())
}

fn is_stored(connection: &Connection, id: MessageId) -> Result<bool> {
    Ok(connection.prepare_cached("SELECT 1 FROM message WHERE id = ?1")?.exists([id])?)
}

impl ParsedMessage {
    fn parse(object: &BundleObject, now: Timestamp) -> std::result::Result<Self, String> {
        let columns = parse_fields(MESSAGE, object)?;
        let id: MessageId = text(object, "id").parse().map_err(|_| "it has no id")?;
        let deliveries = objects(object, &DELIVERIES)?;
        let ids = ids_of(&deliveries);
        let parsed = deliveries.into_iter().map(ParsedDelivery::parse);
        let deliveries = parsed.collect::<std::result::Result<Vec<_>, String>>()?;
        let rows_of = |part: &MessagePart| {
            let rows = objects(object, part)?.into_iter();
            let rows = rows.map(|row| match row.get("delivery_id").and_then(Value::as_str) {
                Some(delivery) if !ids.contains(delivery) => {
                    Err(format!("one of its {} names a delivery of another message", part.list))
                }
                _ => parse_fields(part.fields, row),
            });
            rows.collect::<std::result::Result<Vec<_>, String>>()
        };
        let attempts = objects(object, &ATTEMPTS)?;
        let attempt_ids = ids_of(&attempts);
        let mut shared = attempts.iter().filter_map(|attempt| attempt.get("transcript_of")?.as_str());
        if !shared.all(|id| attempt_ids.contains(id)) {
            return Err("one of its attempts names the transcript of another message".into());
        }
        let is_past =
            |event: &&BundleObject| text(event, "id").parse().is_ok_and(|id: EventId| id.created_at() <= now);
        if id.created_at() > now || !objects(object, &EVENTS)?.iter().all(is_past) {
            return Err("it or one of its events is of the future: compare the clocks of both servers".into());
        }
        let (attempts, events) = (rows_of(&ATTEMPTS)?, rows_of(&EVENTS)?);
        Ok(Self { id, columns, deliveries, attempts, events, content: content_of(object)?, file: None })
    }

    /// Whether the import takes it, if it is new.
    fn is_taken(&self, options: &ImportOptions) -> bool {
        !options.dry_run && (options.has_open || !self.is_open())
    }

    fn is_open(&self) -> bool {
        self.deliveries.iter().any(|delivery| delivery.state.is_open())
    }

    pub(super) fn import(
        &self,
        tx: &Tx<'_>,
        tenant: TenantId,
        options: &ImportOptions,
        now: Timestamp,
    ) -> Result<MessageDecision> {
        let sql = "SELECT tenant_id FROM message WHERE id = ?1";
        let owner: Option<TenantId> =
            tx.prepare_cached(sql)?.query_row([self.id], |row| row.get(0)).optional()?;
        match owner {
            Some(owner) if owner == tenant => return Ok(MessageDecision::Unchanged),
            Some(_) => return Ok(MessageDecision::Conflict("this id belongs to something else here".into())),
            None if self.is_open() && !options.has_open => return Ok(MessageDecision::LeftOut),
            None if self.is_open() && self.content.is_none() => {
                let reason = "it has open deliveries, but no content to deliver: cancel it on the other server, and export again";
                return Ok(MessageDecision::Conflict(reason.into()));
            }
            None => {}
        }
        match tx.attempt(|| self.insert(tx, tenant, now)) {
            Ok(open_deliveries) => Ok(MessageDecision::Created { open_deliveries }),
            Err(Failure::Refused(reason)) => Ok(MessageDecision::Conflict(reason)),
            Err(Failure::Store(error)) => Err(error),
        }
    }

    /// Returns the number of open deliveries.
    fn insert(&self, tx: &Tx<'_>, tenant: TenantId, now: Timestamp) -> std::result::Result<u64, Failure> {
        let tenant = Column::from(tenant.to_string());
        let id = Column::from(self.id.to_string());
        insert_row(tx, "message", MESSAGE, &self.columns, vec![("tenant_id", tenant.clone())])?;
        if let Some(content) = &self.content {
            let place = if self.file.is_some() { BodyPlacement::File } else { BodyPlacement::Row };
            blob_store::insert(tx, self.id, content, Checksum::of(content), place)?;
        }
        let mut open_deliveries = 0;
        for (position, delivery) in self.deliveries.iter().enumerate() {
            let is_open = delivery.state.is_open();
            open_deliveries += u64::from(is_open);
            let others = vec![
                ("message_id", id.clone()),
                ("tenant_id", tenant.clone()),
                ("position", i64::try_from(position).unwrap_or(i64::MAX).into()),
                ("destination", delivery.destination.clone().into()),
                ("next_attempt_us", is_open.then(|| self.begins_us().max(us(now))).into()),
            ];
            insert_row(tx, "delivery", DELIVERIES.fields, &delivery.columns, others)?;
        }
        queue_rows::insert_of_message(tx, self.id)?;
        for attempt in &self.attempts {
            insert_row(tx, "attempt", ATTEMPTS.fields, attempt, vec![("message_id", id.clone())])?;
        }
        // Retention does not look at these again.
        let sql = "UPDATE attempt SET transcript = '' WHERE message_id = ?1
                   AND id <= (SELECT up_to FROM transcript_removal WHERE id = 1)";
        tx.prepare_cached(sql)?.execute([self.id])?;
        let environment = self.column("environment");
        for event in &self.events {
            let mut others = vec![
                ("message_id", id.clone()),
                ("tenant_id", tenant.clone()),
                ("environment", environment.clone()),
            ];
            if tx.engine() == database::Engine::Postgres {
                // It is older than all others.
                others.push(("transaction_id", Column::Integer(0)));
            }
            insert_row(tx, "event", EVENTS.fields, event, others)?;
        }
        if *self.column("kind") == Column::from(MessageKind::Message.as_str().to_owned()) {
            index::add(tx, self.id)?;
        }
        Ok(open_deliveries)
    }

    /// The time before which the sender wants no delivery.
    fn begins_us(&self) -> i64 {
        match self.column("send_at") {
            Column::Integer(release_us) => *release_us,
            _ => i64::MIN,
        }
    }

    fn column(&self, name: &str) -> &Column {
        let place = MESSAGE.iter().position(|field| field.name == name).unwrap_or_default();
        &self.columns[place]
    }

    /// After the commit of a transaction that has imported it.
    pub(super) fn keep_file(self) {
        if let Some(file) = self.file {
            file.keep();
        }
    }
}

impl ParsedDelivery {
    fn parse(object: &BundleObject) -> std::result::Result<Self, String> {
        let columns = parse_fields(DELIVERIES.fields, object)?;
        let recipient: Address =
            text(object, "recipient").parse().map_err(|_| "a delivery has no recipient")?;
        let state = text(object, "status").parse().map_err(|_| "a delivery has no status")?;
        Ok(Self { columns, destination: recipient.host().to_string(), state })
    }
}

/// Why a message is not inserted.
enum Failure {
    /// It conflicts with what is stored.
    Refused(String),
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        if error.is_constraint() {
            Self::Refused(format!("it cannot be stored: {error}"))
        } else {
            Self::Store(error.into())
        }
    }
}

/// Inserts a row: its fields, and columns that are no fields.
fn insert_row(
    tx: &Tx<'_>,
    table: &str,
    fields: &[Field],
    columns: &[Column],
    others: Vec<(&'static str, Column)>,
) -> std::result::Result<(), Failure> {
    let (names, values): (Vec<_>, Vec<_>) = others.into_iter().unzip();
    let names: Vec<_> = fields.iter().map(|field| field.column).chain(names).collect();
    let places: Vec<_> = (1..=names.len()).map(|place| format!("?{place}")).collect();
    let sql = format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), places.join(", "));
    tx.prepare_cached(&sql)?.execute(params_from_iter(columns.iter().chain(&values)))?;
    Ok(())
}

fn parse_fields(fields: &[Field], object: &BundleObject) -> std::result::Result<Vec<Column>, String> {
    let parse = |field: &Field| object.get(field.name).map_or(Ok(Column::Null), |value| field.parse(value));
    fields.iter().map(parse).collect()
}

/// The objects in a list of a message.
fn objects<'a>(
    message: &'a BundleObject,
    part: &MessagePart,
) -> std::result::Result<Vec<&'a BundleObject>, String> {
    let objects = match message.get(part.list) {
        None => Some(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(Value::as_object).collect(),
        Some(_) => None,
    };
    objects.ok_or_else(|| format!("{} must be a list of objects", part.list))
}

/// The ids of objects.
fn ids_of<'a>(objects: &[&'a BundleObject]) -> HashSet<&'a str> {
    objects.iter().map(|object| text(object, "id")).collect()
}

fn content_of(message: &BundleObject) -> std::result::Result<Option<Content>, String> {
    let Some(text) = message.get("content").and_then(Value::as_str) else { return Ok(None) };
    let whole = BASE64_STANDARD.decode(text).map_err(|_| "content must be base64")?;
    let prefix_octets = message.get("content_prefix_octets").and_then(Value::as_u64).unwrap_or(0);
    let prefix_octets = usize::try_from(prefix_octets).unwrap_or(usize::MAX);
    if prefix_octets > whole.len() {
        return Err("content_prefix_octets must be at most the octets of content".into());
    }
    let whole = Bytes::from(whole);
    Ok(Some(Content { prefix: whole.slice(..prefix_octets), submitted: whole.slice(prefix_octets..) }))
}

fn text<'a>(object: &'a BundleObject, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}
