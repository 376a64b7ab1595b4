//! Making due now what waits for another try, step by step.

use rusqlite::params;

use crate::mail::{TenantId, Timestamp};
use crate::store::Result;
use crate::store::sqlite::rows::us;
use crate::store::sqlite::writer::Tx;

/// Rows looked at in one transaction.
const STEP_ROWS: usize = 2000;

/// How far it has come: behind this row.
#[derive(Clone)]
pub(super) struct Place {
    next_attempt_us: i64,
    id: String,
}

impl Place {
    /// Before the first row that is not due yet.
    pub(super) fn after(now: Timestamp) -> Self {
        // Behind every id.
        Self { next_attempt_us: us(now), id: "~".into() }
    }
}

/// Answers where to go on, if there is more. A row that nothing was said about waits for its first try, and not
/// because of us.
pub(super) fn step(tx: &Tx<'_>, tenant: TenantId, now: Timestamp, from: &Place) -> Result<Option<Place>> {
    let sql = "SELECT next_attempt_us, id, last_reply IS NOT NULL FROM delivery
               WHERE tenant_id = ?1 AND next_attempt_us IS NOT NULL AND (next_attempt_us, id) > (?2, ?3)
               ORDER BY next_attempt_us, id LIMIT ?4";
    let mut statement = tx.prepare_cached(sql)?;
    let bounds = params![tenant, from.next_attempt_us, from.id, STEP_ROWS as i64];
    let rows = statement.query_map(bounds, |row| {
        Ok((Place { next_attempt_us: row.get(0)?, id: row.get(1)? }, row.get::<_, bool>(2)?))
    })?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut update = tx.prepare_cached("UPDATE delivery SET next_attempt_us = ?2 WHERE id = ?1")?;
    for (place, was_tried) in &rows {
        if *was_tried {
            update.execute(params![place.id, us(now)])?;
        }
    }
    Ok(rows.into_iter().nth(STEP_ROWS - 1).map(|(place, _)| place))
}
