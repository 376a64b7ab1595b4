//! A day of bodies is dropped when the retention of nearly all of them has ended. The few that messages still need, because
//! they are open or ended late, are copied into a partition of the same bounds that replaces it.

use super::{DAYS, KEPT, Partition, open_ids};
use crate::mail::Timestamp;
use crate::model::MessageId;
use crate::store::Result;
use crate::store::database::{self, Connection, params};
use crate::store::sql::sql_types::{sql_limit, us};
use crate::store::sql::unit_of_work::Tx;

/// The messages of a partition that were open at `end` or later, at most `limit`.
pub(in crate::store::sql) fn needed_bodies(
    connection: &Connection,
    partition: &Partition,
    end: Timestamp,
    limit: usize,
) -> database::Result<Vec<MessageId>> {
    let Some(span) = partition.dated() else { return Ok(Vec::new()) };
    let sql = "SELECT DISTINCT message_id FROM delivery WHERE message_id >= ?1 AND message_id < ?2
                   AND (next_attempt_us IS NOT NULL OR updated_us >= ?3) LIMIT ?4";
    let (low, high) = span.ids(MessageId::PREFIX);
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map(params![low, high, us(end), sql_limit(limit)], |row| row.get(0))?.collect()
}

/// Whether a partition has no rows.
pub(in crate::store::sql) fn is_empty(
    connection: &Connection,
    partition: &Partition,
) -> database::Result<bool> {
    for table in DAYS.tables {
        let sql = format!("SELECT 1 FROM {}_{}", table.name, partition.suffix);
        if connection.prepare_cached(&format!("{sql} LIMIT 1"))?.exists([])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies bodies of a partition into the tables that will replace it.
pub(in crate::store::sql) fn copy_needed(
    tx: &Tx<'_>,
    from: &Partition,
    messages: &[MessageId],
) -> Result<()> {
    let suffix = &from.suffix;
    DAYS.for_each(tx, |_| {
        format!("CREATE TABLE IF NOT EXISTS {{t}}_{suffix}{KEPT} (LIKE {{t}} INCLUDING ALL)")
    })?;
    let ids: Vec<_> = messages.iter().map(MessageId::to_string).collect();
    for table in DAYS.tables {
        let name = table.name;
        let sql = format!(
            "INSERT INTO {name}_{suffix}{KEPT} SELECT * FROM {name}_{suffix}
             WHERE message_id = ANY (string_to_array(?1, ',')) ON CONFLICT DO NOTHING"
        );
        tx.execute(&sql, [ids.join(",")])?;
    }
    Ok(())
}

/// Replaces a partition by the copies. False if the tables are in use.
pub(in crate::store::sql) fn replace(tx: &Tx<'_>, partition: &Partition) -> Result<bool> {
    let Some(span) = partition.dated() else { return Ok(false) };
    let suffix = &partition.suffix;
    let replaced = DAYS.change(tx, || {
        for table in DAYS.tables {
            let name = table.name;
            // An import or a released body may have changed the rows since they were copied.
            let sql = format!(
                "INSERT INTO {name}_{suffix}{KEPT} SELECT * FROM {name}_{suffix} WHERE message_id IN
                     (SELECT d.message_id FROM queue q JOIN delivery d ON d.id = q.id WHERE q.id >= ?1 AND q.id < ?2)
                 ON CONFLICT DO NOTHING"
            );
            let (first, end) = open_ids(span);
            tx.execute(&sql, [first, end])?;
            let sql = format!(
                "DELETE FROM {name}_{suffix}{KEPT} AS kept
                 WHERE NOT EXISTS (SELECT 1 FROM {name}_{suffix} WHERE message_id = kept.message_id)"
            );
            tx.execute(&sql, [])?;
        }
        DAYS.for_each(tx, |_| format!("DROP TABLE {{t}}_{suffix}"))?;
        DAYS.attach(tx, &Partition { suffix: format!("{suffix}{KEPT}"), ..partition.clone() })
    })?;
    Ok(replaced)
}
