//! Pauses, and the deliveries that they move to their end.
//!
//! A pause that is lifted or gets an earlier end leaves its former end in `ended_pause`, in the same transaction, until all
//! deliveries that it had moved there are due: after a crash or a failure in between, [`read_ended`] finds the unfinished ones.

use std::collections::HashSet;

use crate::mail::{Host, SignedDuration, Timestamp};
use crate::model::{QueueFilter, TenantId};
use crate::store::database::{self, Connection, DatabaseError, OptionalExtension, params};
use crate::store::sql::Tx;
use crate::store::sql::directory::{note_all_resumed, note_resumed, require_tenant};
use crate::store::sql::sql_types::{count, time, us};
use crate::store::{
    Conflict, OPEN_ENDED_PAUSE_US, PAUSES_MAX, Pause, PausedRow, Result, StoreError, is_held,
};

/// A former end of a pause, until the deliveries that were moved there are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EndedPause {
    pub(super) part: QueueFilter,
    pub(super) until_us: i64,
    /// Begins with the time of the first end of a pause with this end, and grows with each further one. Only the last round
    /// forgets it.
    round: i64,
}

/// Retention of a pause that ended at its time: deliveries that expired during the pause get one attempt.
const EXPIRED_RETENTION: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The end of a pause in its row.
pub(super) fn end_us(pause: &Pause) -> i64 {
    pause.until.map_or(OPEN_ENDED_PAUSE_US, us)
}

pub(super) fn time_of(at_us: i64) -> Timestamp {
    Timestamp::from_microsecond(at_us).unwrap_or(Timestamp::MAX)
}

/// The key of the row.
fn key(part: &QueueFilter) -> (String, String) {
    let tenant = part.tenant_id.map(|id| id.to_string()).unwrap_or_default();
    (tenant, part.destination.as_ref().map(Host::to_string).unwrap_or_default())
}

fn read_part(row: &database::Row<'_>) -> database::Result<QueueFilter> {
    let is_empty = |column: &str| Ok::<_, DatabaseError>(row.get_ref(column)?.as_str()?.is_empty());
    Ok(QueueFilter {
        tenant_id: if is_empty("tenant_id")? { None } else { Some(row.get("tenant_id")?) },
        destination: if is_empty("destination")? { None } else { Some(row.get("destination")?) },
    })
}

/// Returns the end that the pause of the same part had before, if that was later.
pub(super) fn write(tx: &Tx<'_>, pause: &Pause) -> Result<Option<EndedPause>> {
    require_tenant(tx, pause.part.tenant_id)?;
    let (tenant, destination) = key(&pause.part);
    let before_us: Option<i64> = tx
        .prepare_cached("SELECT until_us FROM pause WHERE tenant_id = ?1 AND destination = ?2")?
        .query_row([&tenant, &destination], |row| row.get(0))
        .optional()?
        .filter(|&before_us| before_us >= oldest_kept_us(pause.since));
    if before_us.is_none() && count_kept(tx, pause.since)? >= PAUSES_MAX {
        return Err(StoreError::Conflict(Conflict::TooManyPauses));
    }
    delete_expired(tx, pause.since)?;
    let sql =
        "INSERT INTO pause (tenant_id, destination, reason, since_us, until_us) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT (tenant_id, destination) DO UPDATE SET
                   reason = excluded.reason, since_us = excluded.since_us, until_us = excluded.until_us";
    let row = params![tenant, destination, pause.reason, us(pause.since), end_us(pause)];
    tx.prepare_cached(sql)?.execute(row)?;
    let shortened_us = before_us.filter(|&before_us| before_us > end_us(pause));
    shortened_us.map(|until_us| note_ended(tx, &pause.part, until_us, pause.since)).transpose()
}

/// Deliveries that were moved to this end of a pause are to be made due.
fn note_ended(tx: &Tx<'_>, part: &QueueFilter, until_us: i64, at: Timestamp) -> Result<EndedPause> {
    let (tenant, destination) = key(part);
    let sql = "INSERT INTO ended_pause (tenant_id, destination, until_us, round) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT (tenant_id, destination, until_us) DO UPDATE SET round = max(ended_pause.round + 1, excluded.round)
               RETURNING round";
    let row = params![tenant, destination, until_us, us(at)];
    let round = tx.prepare_cached(sql)?.query_row(row, |row| row.get(0))?;
    Ok(EndedPause { part: part.clone(), until_us, round })
}

/// The tenants whose mail is paused or who do not send. Their mail stays due in its rows.
pub(super) struct PausedTenants {
    everybody: bool,
    tenants: HashSet<TenantId>,
}

impl PausedTenants {
    pub(super) fn read(connection: &Connection, now: Timestamp) -> Result<Self> {
        let sql = "SELECT id FROM tenant WHERE status <> 'active'";
        let mut statement = connection.prepare_cached(sql)?;
        let suspended = statement.query_map([], |row| row.get(0))?;
        let mut paused = Self { everybody: false, tenants: suspended.collect::<database::Result<_>>()? };
        for pause in read(connection, now)? {
            match (pause.part.tenant_id, pause.part.destination) {
                (None, None) => paused.everybody = true,
                (Some(tenant), None) => drop(paused.tenants.insert(tenant)),
                (_, Some(_)) => {}
            }
        }
        Ok(paused)
    }

    pub(super) fn has(&self, tenant: TenantId) -> bool {
        self.everybody || self.tenants.contains(&tenant)
    }
}

/// Deletes a pause. Returns the end that it had; `None` if there is no such pause.
pub(super) fn lift(tx: &Tx<'_>, part: &QueueFilter, now: Timestamp) -> Result<Option<EndedPause>> {
    let sql =
        "DELETE FROM pause WHERE tenant_id = ?1 AND destination = ?2 AND until_us > ?3 RETURNING until_us";
    let (tenant, destination) = key(part);
    let lifted_us: Option<i64> = tx
        .prepare_cached(sql)?
        .query_row(params![tenant, destination, us(now)], |row| row.get(0))
        .optional()?;
    let Some(until_us) = lifted_us else { return Ok(None) };
    let ended = note_ended(tx, part, until_us, now)?;
    match (part.tenant_id, &part.destination) {
        (Some(tenant), None) => note_resumed(tx, tenant, now)?,
        (None, None) => note_all_resumed(tx, now)?,
        (_, Some(_)) => {}
    }
    Ok(Some(ended))
}

/// All deliveries that were moved to this end are due, unless such a pause ended again meanwhile.
pub(super) fn delete_ended(tx: &Tx<'_>, ended: &EndedPause) -> Result<()> {
    let (tenant, destination) = key(&ended.part);
    let sql = "DELETE FROM ended_pause
               WHERE tenant_id = ?1 AND destination = ?2 AND until_us = ?3 AND round = ?4";
    tx.prepare_cached(sql)?.execute(params![tenant, destination, ended.until_us, ended.round])?;
    Ok(())
}

/// The pauses that [`delete_expired`] keeps.
fn count_kept(connection: &Connection, now: Timestamp) -> Result<u64> {
    let mut statement = connection.prepare_cached("SELECT count(*) FROM pause WHERE until_us >= ?1")?;
    Ok(statement.query_row([oldest_kept_us(now)], |row| count(row, 0))?)
}

pub(super) fn delete_expired(tx: &Tx<'_>, now: Timestamp) -> Result<()> {
    tx.prepare_cached("DELETE FROM pause WHERE until_us < ?1")?.execute([oldest_kept_us(now)])?;
    Ok(())
}

fn oldest_kept_us(now: Timestamp) -> i64 {
    us(now.checked_sub(EXPIRED_RETENTION).unwrap_or(Timestamp::MIN))
}

/// The pauses in force, the latest first.
pub(super) fn read(connection: &Connection, now: Timestamp) -> Result<Vec<Pause>> {
    let sql = "SELECT * FROM pause WHERE until_us > ?1 ORDER BY since_us DESC";
    let mut statement = connection.prepare_cached(sql)?;
    let pauses = statement.query_map([us(now)], |row| {
        let until_us: i64 = row.get("until_us")?;
        Ok(Pause {
            part: read_part(row)?,
            reason: row.get("reason")?,
            since: time(row, "since_us")?,
            until: (!is_held(until_us)).then(|| time_of(until_us)),
        })
    })?;
    Ok(pauses.collect::<database::Result<_>>()?)
}

/// The parts and ends of all pauses, including those that ended recently.
pub(in crate::store::sql) fn read_ends(connection: &Connection) -> database::Result<Vec<(QueueFilter, i64)>> {
    let mut statement = connection.prepare_cached("SELECT * FROM pause")?;
    let ends = statement.query_map([], |row| Ok((read_part(row)?, row.get("until_us")?)))?;
    ends.collect()
}

/// Ends of earlier pauses whose deliveries may not be due yet.
pub(super) fn read_ended(connection: &Connection) -> Result<Vec<EndedPause>> {
    let mut statement = connection.prepare_cached("SELECT * FROM ended_pause")?;
    let ended = statement.query_map([], |row| {
        Ok(EndedPause { part: read_part(row)?, until_us: row.get("until_us")?, round: row.get("round")? })
    })?;
    Ok(ended.collect::<database::Result<_>>()?)
}

/// Moves the next attempt of deliveries to the end of their pause, if neither has changed. A pause first gets its
/// new end and then makes its deliveries due, so none stays behind. Returns the tenants with a delivery that was not moved.
pub(in crate::store::sql) fn postpone_paused(tx: &Tx<'_>, rows: &[PausedRow]) -> Result<Vec<TenantId>> {
    let sql = "UPDATE delivery SET next_attempt_us = ?3
               WHERE id = ?1 AND next_attempt_us = ?2
                 AND EXISTS (SELECT 1 FROM queue WHERE queue.id = ?1 AND queue.owner = 0)
                 AND EXISTS (SELECT 1 FROM pause WHERE tenant_id IN ('', ?4) AND destination = ?5
                                                  AND until_us = ?3)";
    let mut statement = tx.prepare_cached(sql)?;
    let mut due = Vec::new();
    for row in rows {
        let PausedRow { tenant_id, destination, at, until_us } = row;
        let paused = params![at.id, at.next_attempt_us, until_us, tenant_id, destination];
        if statement.execute(paused)? == 0 && !due.contains(tenant_id) {
            due.push(*tenant_id);
        }
    }
    Ok(due)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::{address, now};
    use crate::store::sql::sql_types::sql_limit;
    use crate::store::sql::tests::Bed;
    use crate::store::{DueRange, Journal, Queue, Spool};

    #[tokio::test]
    async fn mail_of_an_open_ended_pause_that_got_an_end_is_due_after_a_failure_in_between() {
        let bed = Bed::without_hand_over().await;
        let tenant_id = bed.tenant("a").await.id;
        bed.enqueue(tenant_id, &["x@one.example"]).await;
        let due = async || {
            let range = DueRange { tenant_id, after: None, until: None, rows_max: 10 };
            bed.store.due_pages(vec![range], now()).await.unwrap().remove(0).rows
        };
        let destination = address("x@one.example").host().clone();
        let part = QueueFilter { tenant_id: None, destination: Some(destination.clone()) };
        let open_ended = Pause { part, reason: None, since: now(), until: None };
        bed.store.pause(open_ended.clone()).await.unwrap();
        let at = due().await[0].at;
        let row = PausedRow { tenant_id, destination, at, until_us: OPEN_ENDED_PAUSE_US };
        assert_eq!(bed.store.postpone_paused(vec![row]).await.unwrap(), []);
        assert_eq!(due().await.len(), 0);
        let ends = |seconds| Pause {
            since: now(),
            until: Some(now() + SignedDuration::from_secs(seconds)),
            ..open_ended.clone()
        };
        // Only the first step of each change: the process ends before the second.
        for pause in [ends(7200), ends(3600)] {
            bed.engine().write(move |tx| write(tx, &pause)).await.unwrap();
        }
        assert_eq!(due().await.len(), 0);
        let bed = bed.restart().await;
        bed.store.expire_pauses(now()).await.unwrap();
        let range = DueRange { tenant_id, after: None, until: None, rows_max: 10 };
        assert_eq!(bed.store.due_pages(vec![range], now()).await.unwrap().remove(0).rows.len(), 1);
        assert_eq!(bed.engine().read(read_ended).await.unwrap(), []);
    }

    #[tokio::test]
    async fn the_end_of_a_pause_is_not_forgotten_while_the_next_one_with_the_same_end_still_ends() {
        let bed = Bed::without_hand_over().await;
        let part = QueueFilter::destination(address("x@one.example").host().clone());
        let pause = Pause { part: part.clone(), reason: None, since: now(), until: None };
        let mut rounds = Vec::new();
        for _ in 0..2 {
            bed.store.pause(pause.clone()).await.unwrap();
            let part = part.clone();
            let lifted = bed.engine().write(move |tx| lift(tx, &part, now())).await.unwrap();
            rounds.push(lifted.unwrap());
        }
        for (round, left) in rounds.into_iter().zip([1, 0]) {
            bed.engine().write(move |tx| delete_ended(tx, &round)).await.unwrap();
            assert_eq!(bed.engine().read(read_ended).await.unwrap().len(), left);
        }
    }

    #[tokio::test]
    async fn one_pause_too_many_is_refused_before_anything_is_written() {
        let bed = Bed::new().await;
        let fill = |tx: &Tx<'_>| {
            let sql = "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?1)
                       INSERT INTO pause (tenant_id, destination, since_us, until_us)
                       SELECT '', 'd' || number || '.example', 0, ?2 FROM numbers";
            Ok(tx.execute(sql, params![sql_limit(PAUSES_MAX as usize), OPEN_ENDED_PAUSE_US])?)
        };
        bed.engine().write(fill).await.unwrap();
        let pause = |text: &str| {
            let part = QueueFilter { tenant_id: None, destination: Some(address(text).host().clone()) };
            bed.store.pause(Pause { part, reason: None, since: now(), until: None })
        };
        let refused = pause("x@another.example").await;
        assert!(matches!(refused, Err(StoreError::Conflict(Conflict::TooManyPauses))), "{refused:?}");
        pause("x@d7.example").await.unwrap();
        assert_eq!(bed.store.counts().repeated_commits, 0);
    }
}
