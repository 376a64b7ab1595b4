//! Deliveries to a recipient, and what a message has because of them.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::targets::{Hits, LABEL_DOMAIN, Targets};
use super::texts::PAGE_ROWS;
use crate::model::{DeliveryId, DeliveryState, MessageId, TenantId};
use crate::store::sqlite::blob_store;
use crate::store::sqlite::journal::index;
use crate::store::sqlite::sql_types::sql_limit;
use crate::store::sqlite::unit_of_work::Tx;
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

fn read_row(row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
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
    /// Where to read on; `None` at the end.
    pub(super) last: Option<DeliveryId>,
}

/// Reads on after a delivery. A damaged row belongs to nobody, and is left out.
pub(super) fn page(
    connection: &Connection,
    after: Option<DeliveryId>,
    targets: &Targets,
) -> Result<FoundDeliveries> {
    let sql = format!("SELECT {COLUMNS} FROM delivery WHERE id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let mut rows = statement.query(params![after, sql_limit(PAGE_ROWS)])?;
    let mut found = FoundDeliveries::default();
    while let Some(row) = rows.next()? {
        found.last = Some(row.get("id")?);
        let Ok(delivery) = read_row(row) else { continue };
        let mut hits = Hits::new();
        if targets.label_of(&delivery.recipient, Some(delivery.tenant_id), &mut hits).is_some() {
            found.to.push((delivery, hits));
        } else if delivery.texts(targets, &mut hits).is_some() {
            found.naming.push(delivery.id);
        }
    }
    Ok(found)
}

/// Reads on among the open deliveries, in the order of their index.
pub(super) fn open_page(
    connection: &Connection,
    after: &OpenPlace,
    targets: &Targets,
) -> Result<(Vec<DeliveryRow>, Option<OpenPlace>)> {
    let sql = format!(
        "SELECT {COLUMNS}, next_attempt_us FROM delivery
         WHERE next_attempt_us IS NOT NULL AND (tenant_id, next_attempt_us, id) > (?1, ?2, ?3)
         ORDER BY tenant_id, next_attempt_us, id LIMIT ?4"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let OpenPlace(tenant, at_us, id) = after;
    let mut rows = statement.query(params![tenant, at_us, id, sql_limit(PAGE_ROWS)])?;
    let (mut open, mut last) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        last = Some(OpenPlace(row.get("tenant_id")?, row.get("next_attempt_us")?, row.get("id")?));
        let Ok(delivery) = read_row(row) else { continue };
        if targets.label_of(&delivery.recipient, Some(delivery.tenant_id), &mut Hits::new()).is_some() {
            open.push(delivery);
        }
    }
    Ok((open, last))
}

/// A place in the index of open deliveries: tenant, time, id.
#[derive(Default)]
pub(super) struct OpenPlace(String, i64, String);

/// What happens to one delivery.
pub(super) enum Outcome {
    /// It is gone, or not to the recipients any more.
    Nothing,
    /// It is open, so it stays until it ends.
    Open(Hits),
    /// Erased by these erasures.
    Erased(Hits),
}

/// Replaces the recipient of a finished delivery. Adds to the counts of each of its erasures.
pub(super) fn erase(
    tx: &Tx<'_>,
    id: DeliveryId,
    targets: &Targets,
    counts: &mut [ErasureCounts],
) -> Result<Outcome> {
    let Some(delivery) = find(tx, id)? else { return Ok(Outcome::Nothing) };
    let mut hits = Hits::new();
    let Some(label) = targets.label_of(&delivery.recipient, Some(delivery.tenant_id), &mut hits) else {
        return Ok(Outcome::Nothing);
    };
    if delivery.is_open {
        return Ok(Outcome::Open(hits));
    }
    let last_reply =
        delivery.texts(targets, &mut Hits::new()).map_or(delivery.last_reply, |(_, reply)| reply);
    let sql =
        "UPDATE delivery SET recipient = ?2, destination = ?3, original_recipient = NULL, last_reply = ?4
               WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, label, LABEL_DOMAIN, last_reply])?;
    let sql = "DELETE FROM report_raw WHERE report_id IN (SELECT id FROM report WHERE delivery_id = ?1)";
    tx.prepare_cached(sql)?.execute([id])?;
    let is_message_erased = !has_other_recipients(tx, delivery.message_id)?;
    if is_message_erased {
        erase_content(tx, delivery.message_id)?;
    }
    rewrite_message(tx, delivery.message_id, delivery.tenant_id, targets)?;
    index::renew(tx, delivery.message_id)?;
    for place in &hits {
        let one = &mut counts[*place];
        one.deliveries += 1;
        one.messages += u64::from(is_message_erased);
        one.shared_messages += u64::from(!is_message_erased);
        one.cancelled += u64::from(delivery.state == DeliveryState::Cancelled);
    }
    Ok(Outcome::Erased(hits))
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
    let sql = "SELECT recipient FROM delivery WHERE message_id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut recipients = statement.query([delivery.message_id])?;
    let mut is_shared = false;
    while let Some(row) = recipients.next()? {
        let recipient: String = row.get(0)?;
        let label = targets.label_of(&recipient, Some(delivery.tenant_id), &mut Hits::new());
        is_shared |= label.is_none() && !recipient.ends_with(LABEL_DOMAIN);
    }
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

fn has_other_recipients(connection: &Connection, message: MessageId) -> Result<bool> {
    let sql = "SELECT 1 FROM delivery WHERE message_id = ?1 AND destination <> ?2";
    Ok(connection.prepare_cached(sql)?.exists(params![message, LABEL_DOMAIN])?)
}

/// Replaces what a message says about the recipients in its subject, tags and metadata.
fn rewrite_message(tx: &Tx<'_>, message: MessageId, owner: TenantId, targets: &Targets) -> Result<()> {
    let sql = "SELECT subject, tags, metadata FROM message WHERE id = ?1";
    let [subject, tags, metadata]: [Option<String>; 3] =
        tx.prepare_cached(sql)?.query_row([message], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))?;
    let (owner, mut hits) = (Some(owner), Hits::new());
    let new_subject = subject.as_deref().and_then(|text| targets.replace_text(text, owner, &mut hits));
    let new_tags = tags.as_deref().and_then(|text| targets.replace_json(text, owner, &mut hits));
    let new_metadata = metadata.as_deref().and_then(|text| targets.replace_json(text, owner, &mut hits));
    if !hits.is_empty() {
        let sql = "UPDATE message SET subject = ?2, tags = ?3, metadata = ?4 WHERE id = ?1";
        let row = params![message, new_subject.or(subject), new_tags.or(tags), new_metadata.or(metadata)];
        tx.prepare_cached(sql)?.execute(row)?;
    }
    Ok(())
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
