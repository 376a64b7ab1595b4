//! Deliveries to a recipient, and what a message has because of them.

use super::pages::Table;
use super::pass::Counts;
use super::targets::{Hits, LABEL_DOMAIN, Targets};
use super::texts::{self, PAGE_ROWS};
use crate::model::{DeliveryId, DeliveryState, MessageId, TenantId};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::sql::blob_store;
use crate::store::sql::journal::index;
use crate::store::sql::sql_types::sql_limit;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{ErasureCounts, Result};

/// A delivery, as far as an erasure needs it.
pub(super) struct DeliveryRow {
    pub(super) id: DeliveryId,
    pub(super) message_id: MessageId,
    tenant_id: TenantId,
    recipient: String,
    original_recipient: Option<String>,
    last_reply: Option<String>,
    pub(super) is_open: bool,
    state: DeliveryState,
}

const COLUMNS: &str = "id, message_id, tenant_id, recipient, original_recipient, last_reply,
                       next_attempt_us IS NOT NULL AS is_open, state";

fn read_row(row: &Row<'_>) -> database::Result<DeliveryRow> {
    Ok(DeliveryRow {
        id: row.get("id")?,
        message_id: row.get("message_id")?,
        tenant_id: row.get("tenant_id")?,
        recipient: row.get("recipient")?,
        original_recipient: row.get("original_recipient")?,
        last_reply: row.get("last_reply")?,
        is_open: row.get("is_open")?,
        state: row.get("state")?,
    })
}

/// Deliveries of a page.
#[derive(Default)]
pub(super) struct FoundDeliveries {
    /// Those to the recipients, with the erasures.
    pub(super) to: Vec<(DeliveryRow, Hits)>,
    /// Others, whose reply or original recipient names one.
    pub(super) naming: Vec<DeliveryId>,
}

/// The table of deliveries. Damaged rows are left out.
#[derive(Clone)]
pub(super) struct Deliveries;

impl Table for Deliveries {
    type Found = FoundDeliveries;

    fn page(
        &self,
        connection: &Connection,
        after: &str,
        targets: &Targets,
    ) -> Result<(FoundDeliveries, Option<String>)> {
        let sql = format!("SELECT {COLUMNS} FROM delivery WHERE id > ?1 ORDER BY id LIMIT ?2");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![after, sql_limit(PAGE_ROWS)])?;
        let (mut found, mut last) = (FoundDeliveries::default(), None);
        while let Some(row) = rows.next()? {
            last = Some(row.get("id")?);
            let Ok(delivery) = read_row(&row) else { continue };
            let mut hits = Hits::new();
            if targets.label_of(&delivery.recipient, Some(delivery.tenant_id), &mut hits).is_some() {
                found.to.push((delivery, hits));
            } else if delivery.texts(targets, &mut hits).is_some() {
                found.naming.push(delivery.id);
            }
        }
        Ok((found, last))
    }
}

/// Reads on among the open deliveries, in the order of their index.
pub(super) fn open_page(
    connection: &Connection,
    after: &OpenPlace,
    targets: &Targets,
) -> Result<(Vec<DeliveryRow>, Option<OpenPlace>)> {
    let sql = format!(
        "SELECT {COLUMNS}, next_attempt_us FROM delivery
         WHERE id IN (SELECT id FROM queue WHERE (tenant_id, next_attempt_us, id) > (?1, ?2, ?3)
                      ORDER BY tenant_id, next_attempt_us, id LIMIT ?4)
         ORDER BY tenant_id, next_attempt_us, id"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let OpenPlace(tenant, at_us, id) = after;
    let mut rows = statement.query(params![tenant, at_us, id, sql_limit(PAGE_ROWS)])?;
    let (mut open, mut last) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        last = Some(OpenPlace(row.get("tenant_id")?, row.get("next_attempt_us")?, row.get("id")?));
        let Ok(delivery) = read_row(&row) else { continue };
        if targets.label_of(&delivery.recipient, Some(delivery.tenant_id), &mut Hits::new()).is_some() {
            open.push(delivery);
        }
    }
    Ok((open, last))
}

/// A place in the index of open deliveries: tenant, time, id.
#[derive(Default)]
pub(super) struct OpenPlace(String, i64, String);

/// Replaces the recipient of a delivery, unless it is open. Returns the erasures that wait for its end.
pub(super) fn erase(tx: &Tx<'_>, id: DeliveryId, targets: &Targets, counts: &mut Counts) -> Result<Hits> {
    let Some(delivery) = find(tx, id)? else { return Ok(Hits::new()) };
    let mut hits = Hits::new();
    let Some(label) = targets.label_of(&delivery.recipient, Some(delivery.tenant_id), &mut hits) else {
        return Ok(Hits::new());
    };
    if delivery.is_open {
        return Ok(hits);
    }
    for place in &hits {
        count(tx, &delivery, targets, counts.entry(*place).or_default())?;
    }
    let last_reply =
        delivery.texts(targets, &mut Hits::new()).map_or(delivery.last_reply, |(_, reply)| reply);
    let sql =
        "UPDATE delivery SET recipient = ?2, destination = ?3, original_recipient = NULL, last_reply = ?4
               WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, label, LABEL_DOMAIN, last_reply])?;
    let sql = "DELETE FROM report_raw WHERE report_id IN (SELECT id FROM report WHERE delivery_id = ?1)";
    tx.prepare_cached(sql)?.execute([id])?;
    texts::rewrite_message(tx, delivery.message_id, targets, counts)?;
    if !has_other_recipients(tx, delivery.message_id)? {
        erase_content(tx, delivery.message_id)?;
    }
    index::renew(tx, delivery.message_id)?;
    Ok(Hits::new())
}

/// Replaces what another delivery says about the recipients.
pub(super) fn rewrite_texts(tx: &Tx<'_>, id: DeliveryId, targets: &Targets) -> Result<()> {
    let Some(delivery) = find(tx, id)? else { return Ok(()) };
    let Some((original, reply)) = delivery.texts(targets, &mut Hits::new()) else { return Ok(()) };
    let sql = "UPDATE delivery SET original_recipient = ?2, last_reply = ?3 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, original, reply])?;
    Ok(())
}

/// Counts a delivery without changing it.
pub(super) fn count(
    connection: &Connection,
    delivery: &DeliveryRow,
    targets: &Targets,
    counts: &mut ErasureCounts,
) -> Result<()> {
    let is_shared = is_to_others(connection, delivery.message_id, delivery.tenant_id, targets)?;
    counts.deliveries += 1;
    counts.messages += u64::from(!is_shared);
    counts.shared_messages += u64::from(is_shared);
    counts.cancelled += u64::from(delivery.is_open || delivery.state == DeliveryState::Cancelled);
    Ok(())
}

impl DeliveryRow {
    /// Original recipient and last reply, if one of them names an erased recipient.
    fn texts(&self, targets: &Targets, hits: &mut Hits) -> Option<(Option<String>, Option<String>)> {
        let owner = Some(self.tenant_id);
        let mut replace =
            |text: &Option<String>| text.as_deref().and_then(|text| targets.replace_text(text, owner, hits));
        let (original, reply) = (replace(&self.original_recipient), replace(&self.last_reply));
        let is_changed = original.is_some() || reply.is_some();
        let (original, reply) =
            (original.or(self.original_recipient.clone()), reply.or(self.last_reply.clone()));
        is_changed.then_some((original, reply))
    }
}

fn find(connection: &Connection, id: DeliveryId) -> Result<Option<DeliveryRow>> {
    let sql = format!("SELECT {COLUMNS} FROM delivery WHERE id = ?1");
    Ok(connection.prepare_cached(&sql)?.query_row([id], read_row).optional()?)
}

/// Whether a message has a recipient that is not erased.
pub(super) fn is_to_others(
    connection: &Connection,
    message: MessageId,
    owner: TenantId,
    targets: &Targets,
) -> Result<bool> {
    let mut statement = connection.prepare_cached("SELECT recipient FROM delivery WHERE message_id = ?1")?;
    let mut recipients = statement.query([message])?;
    while let Some(row) = recipients.next()? {
        let recipient: String = row.get(0)?;
        let is_erased = recipient.ends_with(LABEL_DOMAIN)
            || targets.label_of(&recipient, Some(owner), &mut Hits::new()).is_some();
        if !is_erased {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a message has a delivery whose recipient is not replaced yet.
fn has_other_recipients(connection: &Connection, message: MessageId) -> Result<bool> {
    let sql = "SELECT 1 FROM delivery WHERE message_id = ?1 AND destination <> ?2";
    Ok(connection.prepare_cached(sql)?.exists(params![message, LABEL_DOMAIN])?)
}

/// Removes the content of a message to nobody else, and what was said about it.
fn erase_content(tx: &Tx<'_>, message: MessageId) -> Result<()> {
    blob_store::release(tx, message)?;
    let sql = "UPDATE message SET subject = NULL, metadata = NULL WHERE id = ?1";
    tx.prepare_cached(sql)?.execute([message])?;
    let sql = "UPDATE attempt SET transcript = '' WHERE message_id = ?1";
    tx.prepare_cached(sql)?.execute([message])?;
    Ok(())
}
