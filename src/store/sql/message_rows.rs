//! The rows of messages.

use super::delivery_rows;
use super::sql_types::{count, json_if_any, time, time_if_any};
use crate::mail::MailParameters;
use crate::model::{DeliveryState, MessageId, MessageKind};
use crate::store::database::{self, Connection, OptionalExtension, Row};
use crate::store::{Annotations, Message, MessageSummary, Metadata, Result};

pub(super) fn read_row(row: &Row<'_>) -> database::Result<Message> {
    Ok(Message {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        key_id: row.get("key_id")?,
        kind: row.get("kind")?,
        environment: row.get("environment")?,
        reverse_path: row.get("reverse_path")?,
        body: row.get("body")?,
        smtputf8: row.get("smtputf8")?,
        parameters: MailParameters {
            return_content: row.get("return_content")?,
            envelope_id: row.get("envelope_id")?,
            require_tls: row.get("require_tls")?,
            release_at: time_if_any(row, "release_us")?,
            hold_for_s: None,
            deliver_by: None,
        },
        annotations: annotations(row)?,
        size: count(row, "size")?,
        subject: row.get("subject")?,
        header_from: row.get("header_from")?,
        header_message_id: row.get("header_message_id")?,
        dkim_domain: row.get("dkim_domain")?,
        sender_domain: row.get("sender_domain")?,
        list: row.get("list")?,
        created_at: time(row, "created_us")?,
        expires_at: time(row, "expires_us")?,
    })
}

/// The tags and metadata of a message.
pub(super) fn annotations(row: &Row<'_>) -> database::Result<Annotations> {
    Ok(Annotations {
        tags: json_if_any(row, "tags")?.unwrap_or_default(),
        metadata: Metadata::from_json(row.get("metadata")?),
    })
}

pub(super) fn find(connection: &Connection, id: MessageId) -> database::Result<Option<Message>> {
    let mut statement = connection.prepare_cached("SELECT * FROM message WHERE id = ?1")?;
    statement.query_row([id], read_row).optional()
}

pub(super) fn kind(connection: &Connection, id: MessageId) -> database::Result<Option<MessageKind>> {
    let mut statement = connection.prepare_cached("SELECT kind FROM message WHERE id = ?1")?;
    statement.query_row([id], |row| row.get(0)).optional()
}

/// A message with the states of its deliveries.
pub(super) fn summary(connection: &Connection, message: Message) -> Result<MessageSummary> {
    let recipients = delivery_rows::recipients(connection, message.id, MessageSummary::RECIPIENTS_MAX)?;
    let counted = delivery_rows::states(connection, message.id)?;
    let states: Vec<_> = counted.iter().map(|(state, _)| *state).collect();
    Ok(MessageSummary {
        last_reply: delivery_rows::last_reply(connection, message.id, DeliveryState::combine(&states))?,
        message,
        recipients,
        recipient_count: counted.iter().map(|(_, count)| count).sum(),
        states,
    })
}
