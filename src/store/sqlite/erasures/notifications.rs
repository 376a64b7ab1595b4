//! Delivery status notifications that this server made about a recipient, for the sender of the message.

use rusqlite::{Connection, params};

use super::deliveries::Outcome;
use super::targets::{Hits, Targets};
use super::texts::PAGE_ROWS;
use crate::model::{DeliveryId, MessageId, MessageKind, TenantId};
use crate::store::sqlite::blob_store::{self, BodyFiles};
use crate::store::sqlite::sql_types::sql_limit;
use crate::store::sqlite::unit_of_work::Tx;
use crate::store::{Result, StoreError};

/// Notifications of a page.
#[derive(Default)]
pub(super) struct FoundNotifications {
    pub(super) about: Vec<(MessageId, Hits)>,
    /// Where to read on; `None` at the end.
    pub(super) last: Option<MessageId>,
}

/// Reads on after a notification.
pub(super) fn page(
    connection: &Connection,
    files: &BodyFiles,
    after: Option<MessageId>,
    targets: &Targets,
) -> Result<FoundNotifications> {
    let sql = "SELECT id, tenant_id FROM message WHERE kind <> 'message' AND kind = ?1 AND id > ?2
               ORDER BY id LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let mut rows = statement.query(params![MessageKind::Report, after, sql_limit(PAGE_ROWS / 10)])?;
    let mut found = FoundNotifications::default();
    while let Some(row) = rows.next()? {
        let (id, owner): (MessageId, TenantId) = (row.get(0)?, row.get(1)?);
        found.last = Some(id);
        let content = match blob_store::read(connection, files, id) {
            Ok(content) => content,
            // It cannot be sent either.
            Err(StoreError::Damaged { .. }) => continue,
            Err(error) => return Err(error),
        };
        let Some(content) = content else { continue };
        let mut hits = Hits::new();
        targets.replace_text(&String::from_utf8_lossy(&content.submitted), Some(owner), &mut hits);
        if !hits.is_empty() {
            found.about.push((id, hits));
        }
    }
    Ok(found)
}

/// Its deliveries that are not finished.
pub(super) fn open_deliveries(connection: &Connection, id: MessageId) -> Result<Vec<DeliveryId>> {
    let sql = "SELECT id FROM delivery WHERE message_id = ?1 AND next_attempt_us IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    let ids = statement.query_map([id], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// Removes the content of a notification that is not on its way.
pub(super) fn erase(tx: &Tx<'_>, id: MessageId, hits: Hits) -> Result<Outcome> {
    if !open_deliveries(tx, id)?.is_empty() {
        return Ok(Outcome::Open(hits));
    }
    match blob_store::release(tx, id)? {
        0 => Ok(Outcome::Nothing),
        _ => Ok(Outcome::Erased(hits)),
    }
}
