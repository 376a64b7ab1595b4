//! The messages of a bundle, each with its deliveries, attempts, events and content. They are exported only: with the rest of an
//! archive, not to be sent again.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::fields::Form::{Json, Number, Switch, Text, Time};
use super::fields::{Field, any_number, any_text};
use crate::model::{MessageId, TenantId};
use crate::store::sqlite::blob_store::{self, BodyFiles};
use crate::store::sqlite::sql_types::sql_limit;
use crate::store::{BundleObject, PAGE_OBJECTS_MAX, PAGE_OCTETS_MAX, Page, Result, StoreError};

const MESSAGE: &[Field] = &[
    Field::new("id", "id", Text(any_text)),
    Field::new("key_id", "key_id", Text(any_text)),
    Field::new("kind", "kind", Text(any_text)),
    Field::new("environment", "environment", Text(any_text)),
    Field::new("from", "reverse_path", Text(any_text)),
    Field::new("body", "body", Text(any_text)),
    Field::new("smtputf8", "smtputf8", Switch),
    Field::new("require_tls", "require_tls", Switch),
    Field::new("return_content", "return_content", Text(any_text)),
    Field::new("envelope_id", "envelope_id", Text(any_text)),
    Field::new("size", "size", Number(any_number)),
    Field::new("subject", "subject", Text(any_text)),
    Field::new("header_from", "header_from", Text(any_text)),
    Field::new("message_id", "header_message_id", Text(any_text)),
    Field::new("dkim_domain", "dkim_domain", Text(any_text)),
    Field::new("list", "list", Text(any_text)),
    Field::new("tags", "tags", Json(any_text)),
    Field::new("metadata", "metadata", Json(any_text)),
    Field::new("created_at", "created_us", Time),
    Field::new("send_at", "release_us", Time),
    Field::new("expires_at", "expires_us", Time),
];

/// What belongs to a message: the name of the list, the table, its order and its fields.
const PARTS: &[(&str, &str, &str, &[Field])] = &[
    (
        "deliveries",
        "delivery",
        "position",
        &[
            Field::new("id", "id", Text(any_text)),
            Field::new("recipient", "recipient", Text(any_text)),
            Field::new("original_recipient", "original_recipient", Text(any_text)),
            Field::new("status", "state", Text(any_text)),
            Field::new("attempts", "attempts", Number(any_number)),
            Field::new("last_reply", "last_reply", Text(any_text)),
            Field::new("bounce_class", "bounce_class", Text(any_text)),
            Field::new("complained_at", "complained_us", Time),
            Field::new("updated_at", "updated_us", Time),
        ],
    ),
    (
        "attempts",
        "attempt",
        "started_us, id",
        &[
            Field::new("id", "id", Text(any_text)),
            Field::new("delivery_id", "delivery_id", Text(any_text)),
            Field::new("at", "started_us", Time),
            Field::new("duration_ms", "duration_ms", Number(any_number)),
            Field::new("host", "host", Text(any_text)),
            Field::new("address", "address", Text(any_text)),
            Field::new("source", "source", Text(any_text)),
            Field::new("tls", "tls", Text(any_text)),
            Field::new("tls_policy", "tls_policy", Text(any_text)),
            Field::new("reply_code", "code", Number(any_number)),
            Field::new("enhanced_code", "enhanced", Text(any_text)),
            Field::new("reply", "text", Text(any_text)),
            Field::new("transcript", "transcript", Text(any_text)),
            Field::new("transcript_of", "transcript_of", Text(any_text)),
            Field::new("outcome", "outcome", Text(any_text)),
            Field::new("bounce_class", "bounce_class", Text(any_text)),
            Field::new("reason", "reason", Text(any_text)),
        ],
    ),
    (
        "events",
        "event",
        "id",
        &[
            Field::new("id", "id", Text(any_text)),
            Field::new("type", "kind", Text(any_text)),
            Field::new("delivery_id", "delivery_id", Text(any_text)),
            Field::new("data", "data", Json(any_text)),
            Field::new("created_at", "created_us", Time),
        ],
    ),
];

/// The next messages. A page ends when its contents have as many octets as a page may have; the first one always fits.
pub(super) fn page(
    connection: &Connection,
    files: &BodyFiles,
    tenant: TenantId,
    after: &str,
) -> Result<Page<BundleObject>> {
    // A confirmation mail has a code for the owner of an address.
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
    for (name, table, order, fields) in PARTS {
        let of_message = format!("{table} WHERE message_id = ?1 ORDER BY {order}");
        message.insert((*name).to_owned(), objects(connection, &of_message, fields, id)?.into());
    }
    let content = match blob_store::read(connection, files, id) {
        Err(StoreError::Damaged { .. }) => None,
        content => content?,
    };
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
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
