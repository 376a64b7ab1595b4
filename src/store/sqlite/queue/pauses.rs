//! Pauses, and the deliveries that they move to their end.
//!
//! The row of a lifted pause stays until its deliveries are due again: after a crash in between, [`read_lifted`] finds the
//! unfinished ones.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params};

use crate::mail::{Host, SignedDuration, Timestamp};
use crate::model::{QueueFilter, TenantId, TenantStatus};
use crate::store::sqlite::Tx;
use crate::store::sqlite::directory::{note_all_resumed, note_resumed, require_tenant};
use crate::store::sqlite::sql_types::{count, time, us};
use crate::store::{Conflict, OPEN_ENDED_PAUSE_US, PAUSES_MAX, Pause, PausedRow, Result, StoreError};

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

fn read_part(row: &rusqlite::Row<'_>) -> rusqlite::Result<QueueFilter> {
    let is_empty = |column: &str| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str()?.is_empty());
    Ok(QueueFilter {
        tenant_id: if is_empty("tenant_id")? { None } else { Some(row.get("tenant_id")?) },
        destination: if is_empty("destination")? { None } else { Some(row.get("destination")?) },
    })
}

/// Returns the end of an earlier pause of the same part.
pub(super) fn write(tx: &Tx<'_>, pause: &Pause) -> Result<Option<i64>> {
    require_tenant(tx, pause.part.tenant_id)?;
    delete_expired(tx, pause.since)?;
    let (tenant, destination) = key(&pause.part);
    let earlier: Option<i64> = tx
        .prepare_cached("SELECT until_us FROM pause WHERE tenant_id = ?1 AND destination = ?2")?
        .query_row([&tenant, &destination], |row| row.get(0))
        .optional()?;
    let sql = "INSERT INTO pause (tenant_id, destination, reason, since_us, until_us, is_lifted)
               VALUES (?1, ?2, ?3, ?4, ?5, 0)
               ON CONFLICT (tenant_id, destination) DO UPDATE SET
                   reason = excluded.reason, since_us = excluded.since_us, until_us = excluded.until_us,
                   is_lifted = 0";
    let row = params![tenant, destination, pause.reason, us(pause.since), end_us(pause)];
    tx.prepare_cached(sql)?.execute(row)?;
    let pauses = tx.prepare_cached("SELECT count(*) FROM pause")?.query_row([], |row| count(row, 0))?;
    if pauses > PAUSES_MAX { Err(StoreError::Conflict(Conflict::TooManyPauses)) } else { Ok(earlier) }
}

/// The tenants whose mail is paused or who are suspended. Their mail stays due in its rows.
pub(super) struct HeldTenants {
    everybody: bool,
    tenants: HashSet<TenantId>,
}

impl HeldTenants {
    pub(super) fn read(connection: &Connection, now: Timestamp) -> Result<Self> {
        let sql = "SELECT id FROM tenant WHERE status = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        let suspended = statement.query_map([TenantStatus::Suspended], |row| row.get(0))?;
        let mut held = Self { everybody: false, tenants: suspended.collect::<rusqlite::Result<_>>()? };
        for pause in read(connection, now)? {
            match (pause.part.tenant_id, pause.part.destination) {
                (None, None) => held.everybody = true,
                (Some(tenant), None) => drop(held.tenants.insert(tenant)),
                (_, Some(_)) => {}
            }
        }
        Ok(held)
    }

    pub(super) fn has(&self, tenant: TenantId) -> bool {
        self.everybody || self.tenants.contains(&tenant)
    }
}

/// Returns the end that the pause had; `None` if there is no such pause.
pub(super) fn lift(tx: &Tx<'_>, part: &QueueFilter, now: Timestamp) -> Result<Option<i64>> {
    let sql = "UPDATE pause SET is_lifted = 1
               WHERE tenant_id = ?1 AND destination = ?2 AND is_lifted = 0 AND until_us > ?3 RETURNING until_us";
    let (tenant, destination) = key(part);
    let until_us: Option<i64> = tx
        .prepare_cached(sql)?
        .query_row(params![tenant, destination, us(now)], |row| row.get(0))
        .optional()?;
    match (until_us, part.tenant_id, &part.destination) {
        (Some(_), Some(tenant), None) => note_resumed(tx, tenant, now)?,
        (Some(_), None, None) => note_all_resumed(tx, now)?,
        _ => {}
    }
    Ok(until_us)
}

/// Deletes a lifted pause, unless a new one has replaced it.
pub(super) fn delete_lifted(tx: &Tx<'_>, part: &QueueFilter) -> Result<()> {
    let (tenant, destination) = key(part);
    tx.prepare_cached("DELETE FROM pause WHERE tenant_id = ?1 AND destination = ?2 AND is_lifted = 1")?
        .execute(params![tenant, destination])?;
    Ok(())
}

pub(super) fn delete_expired(tx: &Tx<'_>, now: Timestamp) -> Result<()> {
    let before = now.checked_sub(EXPIRED_RETENTION).unwrap_or(Timestamp::MIN);
    tx.prepare_cached("DELETE FROM pause WHERE until_us < ?1 AND is_lifted = 0")?.execute([us(before)])?;
    Ok(())
}

/// The pauses in force, the latest first.
pub(super) fn read(connection: &Connection, now: Timestamp) -> Result<Vec<Pause>> {
    let sql = "SELECT * FROM pause WHERE is_lifted = 0 AND until_us > ?1 ORDER BY since_us DESC";
    let mut statement = connection.prepare_cached(sql)?;
    let pauses = statement.query_map([us(now)], |row| {
        let until_us: i64 = row.get("until_us")?;
        Ok(Pause {
            part: read_part(row)?,
            reason: row.get("reason")?,
            since: time(row, "since_us")?,
            until: (until_us != OPEN_ENDED_PAUSE_US).then(|| time_of(until_us)),
        })
    })?;
    Ok(pauses.collect::<rusqlite::Result<_>>()?)
}

/// The parts and ends of all pauses that were not lifted, including those that ended recently.
pub(in crate::store::sqlite) fn read_unlifted(
    connection: &Connection,
) -> rusqlite::Result<Vec<(QueueFilter, i64)>> {
    read_ends(connection, false)
}

/// Lifted pauses whose deliveries may not be due yet.
pub(super) fn read_lifted(connection: &Connection) -> Result<Vec<(QueueFilter, i64)>> {
    Ok(read_ends(connection, true)?)
}

fn read_ends(connection: &Connection, lifted: bool) -> rusqlite::Result<Vec<(QueueFilter, i64)>> {
    let mut statement = connection.prepare("SELECT * FROM pause WHERE is_lifted = ?1")?;
    let ends = statement.query_map([lifted], |row| Ok((read_part(row)?, row.get("until_us")?)))?;
    ends.collect()
}

/// Moves the next attempt of deliveries to the end of their pause, if neither has changed. Ending a pause first lifts it and
/// then makes its deliveries due, so none stays behind. Returns the tenants with a delivery that was not moved.
pub(in crate::store::sqlite) fn postpone_paused(tx: &Tx<'_>, rows: &[PausedRow]) -> Result<Vec<TenantId>> {
    let sql = "UPDATE delivery SET next_attempt_us = ?3
               WHERE id = ?1 AND next_attempt_us = ?2
                 AND EXISTS (SELECT 1 FROM pause WHERE tenant_id IN ('', ?4) AND destination = ?5
                                                  AND until_us = ?3 AND is_lifted = 0)";
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
