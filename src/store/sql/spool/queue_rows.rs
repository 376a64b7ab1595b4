//! The rows of `queue`: the open deliveries. In SQLite it is a view of `delivery`, because only one process claims them, in
//! its memory. In PostgreSQL it is a table with the node that has claimed each.

use std::collections::HashMap;

use crate::mail::Host;
use crate::model::{DeliveryId, MessageId, TenantId};
use crate::store::Result;
use crate::store::database::{self, Engine, params};
use crate::store::sql::job::ResultsOfJob;
use crate::store::sql::unit_of_work::Tx;

/// A new row.
pub(in crate::store::sql) struct QueueRow<'a> {
    pub(in crate::store::sql) id: DeliveryId,
    pub(in crate::store::sql) tenant_id: TenantId,
    pub(in crate::store::sql) destination: &'a Host,
    pub(in crate::store::sql) next_attempt_us: i64,
    /// Whether this process has claimed it.
    pub(in crate::store::sql) is_claimed: bool,
}

/// An open delivery of which this node may write the result, with what that needs.
pub(in crate::store::sql) struct HeldDelivery {
    pub(in crate::store::sql) recipient: String,
    /// Before this result.
    pub(in crate::store::sql) attempts: u32,
}

/// Adds the row of a delivery that was just inserted.
pub(in crate::store::sql) fn insert(tx: &Tx<'_>, row: &QueueRow<'_>) -> database::Result<()> {
    if tx.engine() == Engine::Sqlite {
        return Ok(());
    }
    let QueueRow { id, tenant_id, destination, next_attempt_us, is_claimed } = row;
    let owner = if *is_claimed { tx.lease.epoch() } else { 0 };
    let sql =
        "INSERT INTO queue (id, tenant_id, destination, next_attempt_us, owner) VALUES (?1, ?2, ?3, ?4, ?5)";
    tx.prepare_cached(sql)?.post(params![id, tenant_id, destination, next_attempt_us, owner])
}

/// Adds the rows of the open deliveries of a message, which no node has.
pub(in crate::store::sql) fn insert_of_message(tx: &Tx<'_>, id: MessageId) -> database::Result<()> {
    if tx.engine() == Engine::Sqlite {
        return Ok(());
    }
    let sql = "INSERT INTO queue (id, tenant_id, destination, next_attempt_us, owner)
               SELECT id, tenant_id, destination, next_attempt_us, 0 FROM delivery
               WHERE message_id = ?1 AND next_attempt_us IS NOT NULL";
    tx.prepare_cached(sql)?.execute([id]).map(drop)
}

/// Ends the claim of a delivery that will be attempted again. With another due time, a trigger has done so.
pub(super) fn put_back(tx: &Tx<'_>, id: DeliveryId, next_attempt_us: i64) -> database::Result<()> {
    let sql = "UPDATE queue SET owner = 0 WHERE id = ?1 AND next_attempt_us = ?2 AND owner <> 0";
    tx.prepare_cached(sql)?.post(params![id, next_attempt_us])
}

/// Claims those that no node has, and that no other transaction is changing. Returns these.
pub(super) fn claim(tx: &Tx<'_>, ids: &[DeliveryId]) -> Result<Vec<DeliveryId>> {
    let sql = "UPDATE queue SET owner = ?2 FROM
                   (SELECT id FROM queue WHERE id = ANY (string_to_array(?1, ',')) AND owner = 0
                    ORDER BY id FOR UPDATE SKIP LOCKED) free
               WHERE queue.id = free.id RETURNING queue.id";
    let mut statement = tx.prepare_cached(sql)?;
    let claimed = statement.query_map(params![list(ids), tx.lease.epoch()], |row| row.get(0))?;
    Ok(claimed.collect::<database::Result<_>>()?)
}

/// Locks the deliveries of these results that no other node has. A result of one that another node has claimed meanwhile must
/// change nothing, nor one that was committed by a transaction without an answer and is written again.
pub(in crate::store::sql) fn lock(
    tx: &Tx<'_>,
    results: &ResultsOfJob,
) -> database::Result<HashMap<DeliveryId, HeldDelivery>> {
    let sql = "SELECT q.id, d.recipient, d.attempts FROM queue q JOIN delivery d ON d.id = q.id
               WHERE q.id = ANY (string_to_array(?1, ',')) AND q.owner IN (0, ?2)
                 AND NOT EXISTS (SELECT 1 FROM attempt a
                                 WHERE a.id = ANY (string_to_array(?3, ',')) AND a.id >= ?4 AND a.id <= ?5
                                   AND a.delivery_id = q.id)
                 AND d.id >= ?6 AND d.id <= ?7
               ORDER BY q.id FOR UPDATE OF q";
    let mut statement = tx.prepare_cached(sql)?;
    let ResultsOfJob { deliveries, attempts, .. } = results;
    // The bounds leave out partitions before the statement looks into each of them.
    let ((first_attempt, last_attempt), (first, last)) = (bounds(attempts), bounds(deliveries));
    let row =
        params![list(deliveries), tx.lease.epoch(), list(attempts), first_attempt, last_attempt, first, last];
    let held = statement.query_map(row, |row| {
        let held = HeldDelivery { recipient: row.get(1)?, attempts: row.get(2)? };
        Ok((row.get(0)?, held))
    })?;
    held.collect()
}

/// The first and the last one; empty without any.
fn bounds(ids: &[impl ToString + Ord]) -> (String, String) {
    let [first, last] = [ids.iter().min(), ids.iter().max()].map(|id| id.map(ToString::to_string));
    (first.unwrap_or_default(), last.unwrap_or_default())
}

fn list(ids: &[impl ToString]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
