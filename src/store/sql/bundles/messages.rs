//! The messages of a bundle, each with its deliveries, attempts, events and content: their fields, and the export.

use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::fields::Form::{Json, Number, Switch, Text, Time};
use super::fields::{Field, any_text, holds, is, is_exactly};
use super::parts::is_count;
use crate::mail::{
    Address, DomainName, EnhancedStatus, EnvelopeId, Notify, OriginalRecipient, ReturnContent, ReversePath,
};
use crate::model::{
    AttemptId, BounceClass, DeliveryId, DeliveryState, Environment, EventId, EventKind, KeyId, ListName,
    MessageId, MessageKind, TenantId,
};
use crate::store::database::{self, Connection, params};
use crate::store::sql::blob_store::{self, BodyFiles};
use crate::store::sql::sql_types::sql_limit;
use crate::store::{BundleObject, PAGE_OBJECTS_MAX, PAGE_OCTETS_MAX, Page, Result, StoreError};

/// The first one is the id.
pub(super) const MESSAGE: &[Field] = &[
    Field::new("id", "id", Text(is_exactly::<MessageId>)),
    Field::new("key_id", "key_id", Text(is_exactly::<KeyId>)),
    Field::new("kind", "kind", Text(is_exported_kind)),
    Field::new("environment", "environment", Text(is::<Environment>)),
    Field::new("from", "reverse_path", Text(is_reverse_path)),
    Field::new("body", "body", Text(any_text)),
    Field::new("smtputf8", "smtputf8", Switch),
    Field::new("require_tls", "require_tls", Switch),
    Field::new("return_content", "return_content", Text(is::<ReturnContent>)),
    Field::new("envelope_id", "envelope_id", Text(is::<EnvelopeId>)),
    Field::new("size", "size", Number(is_natural)),
    Field::new("subject", "subject", Text(any_text)),
    Field::new("header_from", "header_from", Text(any_text)),
    Field::new("message_id", "header_message_id", Text(any_text)),
    Field::new("dkim_domain", "dkim_domain", Text(is_exactly::<DomainName>)),
    Field::new("sender_domain", "sender_domain", Text(is_exactly::<DomainName>)),
    Field::new("list", "list", Text(is::<ListName>)),
    Field::new("tags", "tags", Json(holds::<Vec<String>>)),
    Field::new("metadata", "metadata", Json(holds::<Map<String, Value>>)),
    Field::new("created_at", "created_us", Time),
    Field::new("send_at", "release_us", Time),
    Field::new("expires_at", "expires_us", Time),
];

/// What belongs to a message.
pub(super) struct MessagePart {
    /// The name of the list.
    pub(super) list: &'static str,
    pub(super) table: &'static str,
    pub(super) order: &'static str,
    /// The first one is the id.
    pub(super) fields: &'static [Field],
}

pub(super) const DELIVERIES: MessagePart = MessagePart {
    list: "deliveries",
    table: "delivery",
    order: "position",
    fields: &[
        Field::new("id", "id", Text(is_exactly::<DeliveryId>)),
        Field::new("recipient", "recipient", Text(is::<Address>)),
        Field::new("original_recipient", "original_recipient", Text(is::<OriginalRecipient>)),
        Field::new("notify", "notify", Text(is::<Notify>)),
        Field::new("status", "state", Text(is::<DeliveryState>)),
        Field::new("attempts", "attempts", Number(is_count)),
        Field::new("last_reply", "last_reply", Text(any_text)),
        Field::new("bounce_class", "bounce_class", Text(is::<BounceClass>)),
        Field::new("complained_at", "complained_us", Time),
        Field::new("updated_at", "updated_us", Time),
    ],
};

pub(super) const ATTEMPTS: MessagePart = MessagePart {
    list: "attempts",
    table: "attempt",
    order: "started_us, id",
    fields: &[
        Field::new("id", "id", Text(is_exactly::<AttemptId>)),
        Field::new("delivery_id", "delivery_id", Text(is_exactly::<DeliveryId>)),
        Field::new("at", "started_us", Time),
        Field::new("duration_ms", "duration_ms", Number(is_natural)),
        Field::new("host", "host", Text(any_text)),
        Field::new("address", "address", Text(is::<IpAddr>)),
        Field::new("source", "source", Text(is::<IpAddr>)),
        Field::new("tls", "tls", Text(any_text)),
        Field::new("tls_policy", "tls_policy", Text(any_text)),
        Field::new("reply_code", "code", Number(is_reply_code)),
        Field::new("enhanced_code", "enhanced", Text(is::<EnhancedStatus>)),
        Field::new("reply", "text", Text(any_text)),
        Field::new("transcript", "transcript", Text(any_text)),
        Field::new("transcript_of", "transcript_of", Text(is_exactly::<AttemptId>)),
        Field::new("outcome", "outcome", Text(is::<DeliveryState>)),
        Field::new("bounce_class", "bounce_class", Text(is::<BounceClass>)),
        Field::new("reason", "reason", Text(any_text)),
    ],
};

pub(super) const EVENTS: MessagePart = MessagePart {
    list: "events",
    table: "event",
    order: "id",
    fields: &[
        Field::new("id", "id", Text(is_exactly::<EventId>)),
        Field::new("type", "kind", Text(is_event_of_message)),
        Field::new("delivery_id", "delivery_id", Text(is_exactly::<DeliveryId>)),
        Field::new("data", "data", Json(is_json)),
        Field::new("created_at", "created_us", Time),
    ],
};

const PARTS: [&MessagePart; 3] = [&DELIVERIES, &ATTEMPTS, &EVENTS];

/// A confirmation mail has a code for the owner of an address.
fn is_exported_kind(text: &str) -> bool {
    text.parse().is_ok_and(|kind: MessageKind| kind != MessageKind::Confirmation)
}

fn is_reverse_path(text: &str) -> bool {
    ReversePath::parse(text).is_ok()
}

fn is_event_of_message(text: &str) -> bool {
    text.parse().is_ok_and(EventKind::names_message)
}

fn is_json(text: &str) -> bool {
    holds::<Value>(text)
}

fn is_natural(number: i64) -> bool {
    number >= 0
}

fn is_reply_code(number: i64) -> bool {
    u16::try_from(number).is_ok()
}

/// The next messages. A page ends when its contents have as many octets as a page may have; the first one always fits.
pub(super) fn page(
    connection: &Connection,
    files: &BodyFiles,
    tenant: TenantId,
    after: &str,
) -> Result<Page<BundleObject>> {
    let sql = "SELECT id, size FROM message WHERE tenant_id = ?1 AND id > ?2 AND kind <> 'confirmation'
               ORDER BY id LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![tenant, after, sql_limit(PAGE_OBJECTS_MAX + 1)])?;
    let mut page = Page { items: Vec::new(), has_more: false };
    let mut octets = 0;
    while let Some(row) = rows.next()? {
        let (id, size): (MessageId, i64) = (row.get(0)?, row.get(1)?);
        octets += usize::try_from(size).unwrap_or_default();
        if page.items.len() == PAGE_OBJECTS_MAX || (octets > PAGE_OCTETS_MAX && !page.items.is_empty()) {
            page.has_more = true;
            break;
        }
        page.items.extend(read(connection, files, id)?);
    }
    Ok(page)
}

/// `None` if it was deleted since it was found.
fn read(connection: &Connection, files: &BodyFiles, id: MessageId) -> Result<Option<BundleObject>> {
    let found = objects(connection, "message WHERE id = ?1", MESSAGE, id)?;
    let Some(Value::Object(mut message)) = found.into_iter().next() else { return Ok(None) };
    message.insert("object".to_owned(), json!("message"));
    for MessagePart { list, table, order, fields } in PARTS {
        let of_message = format!("{table} WHERE message_id = ?1 ORDER BY {order}");
        message.insert((*list).to_owned(), objects(connection, &of_message, fields, id)?.into());
    }
    let content = match blob_store::read(connection, files, id) {
        Err(StoreError::Damaged { .. }) => None,
        content => content?,
    };
    let prefix_octets = content.as_ref().map(|content| content.prefix.len());
    message.insert("content_prefix_octets".to_owned(), json!(prefix_octets));
    let content = content.map(|content| BASE64_STANDARD.encode(content.to_vec()));
    message.insert("content".to_owned(), json!(content));
    Ok(Some(message))
}

fn objects(connection: &Connection, from: &str, fields: &[Field], id: MessageId) -> Result<Vec<Value>> {
    let columns: Vec<_> = fields.iter().map(|field| field.column).collect();
    let sql = format!("SELECT {} FROM {from}", columns.join(", "));
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([id], |row| {
        let mut object = BundleObject::new();
        for (place, field) in fields.iter().enumerate() {
            object.insert(field.name.to_owned(), field.read(row, place)?);
        }
        Ok(Value::Object(object))
    })?;
    Ok(rows.collect::<database::Result<_>>()?)
}
