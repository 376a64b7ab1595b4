//! What must be known and done before a week of messages is dropped.

use super::{DAYS, Partition, Span, WEEKS};
use crate::model::{AttemptId, DeliveryId, EventId, MessageId};
use crate::store::Result;
use crate::store::database::{self, Connection, params};
use crate::store::sql::sql_types::sql_limit;
use crate::store::sql::unit_of_work::Tx;

/// When the deliveries of messages changed last.
pub(in crate::store::sql) enum LastChange {
    /// There are none.
    None,
    /// One is open.
    Open,
    /// In microseconds since 1970.
    At(i64),
}

/// Reads all deliveries of a time.
pub(in crate::store::sql) fn last_change(
    connection: &Connection,
    span: Span,
) -> database::Result<LastChange> {
    if WEEKS.has_open(connection, span)? {
        return Ok(LastChange::Open);
    }
    // Also the open ones whose ids are of quite another time.
    let sql = "SELECT max(updated_us), count(next_attempt_us) FROM delivery WHERE message_id >= ?1 AND message_id < ?2";
    let (low, high) = span.ids(MessageId::PREFIX);
    let (changed, open): (Option<i64>, i64) =
        connection.query_row(sql, [low, high], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(match changed {
        _ if open > 0 => LastChange::Open,
        Some(changed_us) => LastChange::At(changed_us),
        None => LastChange::None,
    })
}

/// What belongs to messages of a week, and is not in partitions of that week: what happened to them later, and rows of tables
/// that have none.
const STRAGGLERS: &[(&str, Option<&str>)] = &[
    (
        "DELETE FROM event WHERE id IN (SELECT id FROM event
             WHERE message_id >= ?1 AND message_id < ?2 AND (id < ?4 OR id >= ?5) LIMIT ?3)",
        Some(EventId::PREFIX),
    ),
    (
        "DELETE FROM attempt WHERE id IN (SELECT id FROM attempt
             WHERE message_id >= ?1 AND message_id < ?2 AND (id < ?4 OR id >= ?5) LIMIT ?3)",
        Some(AttemptId::PREFIX),
    ),
    (
        "DELETE FROM delivery WHERE id IN (SELECT id FROM delivery
             WHERE message_id >= ?1 AND message_id < ?2 AND (id < ?4 OR id >= ?5) LIMIT ?3)",
        Some(DeliveryId::PREFIX),
    ),
    (
        "DELETE FROM trouble WHERE (tenant_id, state, message_id, id) IN (SELECT tenant_id, state, message_id, id FROM trouble
             WHERE state IN ('deferred', 'bounced', 'expired', 'cancelled')
                 AND message_id >= ?1 AND message_id < ?2 LIMIT ?3)",
        None,
    ),
    (
        "DELETE FROM report_count WHERE subject IN
             (SELECT subject FROM report_count WHERE message_id >= ?1 AND message_id < ?2 LIMIT ?3)",
        None,
    ),
    (
        "DELETE FROM report WHERE id IN
             (SELECT id FROM report WHERE message_id >= ?1 AND message_id < ?2 LIMIT ?3)",
        None,
    ),
    (
        "DELETE FROM body_piece WHERE (message_id, number) IN (SELECT message_id, number FROM body_piece
             WHERE message_id >= ?1 AND message_id < ?2 LIMIT ?3)",
        None,
    ),
    (
        "DELETE FROM body WHERE message_id IN
             (SELECT message_id FROM body WHERE message_id >= ?1 AND message_id < ?2 LIMIT ?3)",
        None,
    ),
];

/// Deletes at most `limit` rows of each table that belong to messages of a week and would stay after it. Returns their number;
/// `None` if partitions of bodies must be dropped before.
pub(in crate::store::sql) fn remove_stragglers(tx: &Tx<'_>, week: Span, limit: usize) -> Result<Option<u64>> {
    let has_rest = |partition: &Partition| {
        !partition.is_kept() && partition.dated().is_some_and(|day| day.from_ms < week.to_ms)
    };
    if DAYS.read(tx)?.iter().any(has_rest) {
        return Ok(None);
    }
    let (low, high) = week.ids(MessageId::PREFIX);
    let limit = sql_limit(limit);
    let mut removed = 0;
    for (sql, prefix) in STRAGGLERS {
        let mut delete = tx.prepare_cached(sql)?;
        removed += match prefix {
            Some(prefix) => {
                let (first, end) = week.ids(prefix);
                delete.execute(params![low, high, limit, first, end])?
            }
            None => delete.execute(params![low, high, limit])?,
        } as u64;
    }
    Ok(Some(removed))
}
