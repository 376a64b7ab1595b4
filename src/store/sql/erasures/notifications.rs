//! Delivery status notifications that this server made about a recipient, for the sender of the message.

use std::sync::Arc;

use super::deliveries;
use super::pages::Table;
use super::pass::Counts;
use super::targets::{Hits, Targets};
use super::texts::PAGE_ROWS;
use crate::model::{DeliveryId, MessageId, MessageKind, TenantId};
use crate::store::database::{self, Connection, params};
use crate::store::sql::Store;
use crate::store::sql::blob_store::{self, BodyFiles};
use crate::store::sql::sql_types::sql_limit;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Result, StoreError};

/// The table of notifications.
#[derive(Clone)]
pub(super) struct Notifications {
    files: Arc<BodyFiles>,
}

impl Notifications {
    pub(super) fn of(store: &Store) -> Self {
        Self { files: Arc::clone(&store.bodies) }
    }
}

impl Table for Notifications {
    type Found = Vec<(MessageId, Hits)>;

    fn page(
        &self,
        connection: &Connection,
        after: &str,
        targets: &Targets,
    ) -> Result<(Self::Found, Option<String>)> {
        let sql = "SELECT id, tenant_id FROM message WHERE kind <> 'message' AND kind = ?1 AND id > ?2
               ORDER BY id LIMIT ?3";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![MessageKind::Report, after, sql_limit(PAGE_ROWS / 10)])?;
        let (mut about, mut last) = (Vec::new(), None);
        while let Some(row) = rows.next()? {
            let (id, owner): (MessageId, TenantId) = (row.get(0)?, row.get(1)?);
            last = Some(id.to_string());
            let content = match blob_store::read(connection, &self.files, id) {
                Ok(content) => content,
                // It cannot be sent either.
                Err(StoreError::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            let Some(content) = content else { continue };
            let mut hits = Hits::new();
            targets.replace_text(&String::from_utf8_lossy(&content.submitted), Some(owner), &mut hits);
            // One to the recipients alone is erased with its deliveries.
            if !hits.is_empty() && deliveries::is_to_others(connection, id, owner, targets)? {
                about.push((id, hits));
            }
        }
        Ok((about, last))
    }
}

/// Its deliveries that are not finished.
pub(super) fn open_deliveries(connection: &Connection, id: MessageId) -> Result<Vec<DeliveryId>> {
    let sql = "SELECT id FROM delivery WHERE message_id = ?1 AND next_attempt_us IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    let ids = statement.query_map([id], |row| row.get(0))?;
    Ok(ids.collect::<database::Result<_>>()?)
}

/// Removes the content of a notification, unless it is open. Returns the erasures that wait for its end.
pub(super) fn erase(tx: &Tx<'_>, id: MessageId, hits: &Hits, counts: &mut Counts) -> Result<Hits> {
    if !open_deliveries(tx, id)?.is_empty() {
        return Ok(hits.clone());
    }
    if blob_store::release(tx, id)? > 0 {
        hits.iter().for_each(|place| counts.entry(*place).or_default().other += 1);
    }
    Ok(Hits::new())
}
