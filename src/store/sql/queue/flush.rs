//! Makes deliveries due before their time: deferred ones, and those of an ended pause.

use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, TenantId};
use crate::store::database::{self, Connection, OptionalExtension, params};
use crate::store::sql::Tx;
use crate::store::sql::sql_types::{sql_limit, us};
use crate::store::{DueCursor, OPEN_ENDED_PAUSE_US, Result};

/// Selects deliveries.
#[derive(Clone, Copy)]
pub(super) enum Which {
    /// Waiting for a retry or the end of a back-off.
    Deferred,
    /// Paused until this time.
    PausedUntil(i64),
}

/// Deliveries of a tenant, all or those for a destination, after a position.
#[derive(Clone)]
pub(super) struct Range {
    pub(super) tenant: TenantId,
    pub(super) which: Which,
    pub(super) behind: Option<DueCursor>,
    destination: Option<Host>,
    /// Excludes deliveries that are due at this time or earlier.
    from_us: i64,
}

impl Range {
    pub(super) fn deferred(tenant: TenantId, destination: Option<Host>, now: Timestamp) -> Self {
        Self { tenant, which: Which::Deferred, behind: None, destination, from_us: us(now) }
    }

    pub(super) fn paused(tenant: TenantId, destination: Host, until_us: i64) -> Self {
        let which = Which::PausedUntil(until_us);
        Self { tenant, which, behind: None, destination: Some(destination), from_us: until_us - 1 }
    }

    pub(super) fn page(&self, connection: &Connection, rows_max: usize) -> Result<Vec<DueCursor>> {
        let sql = "SELECT next_attempt_us, id FROM queue
                   WHERE tenant_id = ?1 AND owner = 0
                     AND (next_attempt_us, id) > (?2, ?3) AND next_attempt_us <= ?4
                     AND (destination = ?5 OR ?5 IS NULL)
                   ORDER BY next_attempt_us, id LIMIT ?6";
        let behind =
            self.behind.map_or((self.from_us, "~".to_owned()), |at| (at.next_attempt_us, at.id.to_string()));
        let end_us = match self.which {
            Which::Deferred => OPEN_ENDED_PAUSE_US - 1,
            Which::PausedUntil(until_us) => until_us,
        };
        let bounds = params![self.tenant, behind.0, behind.1, end_us, self.destination, sql_limit(rows_max)];
        let mut statement = connection.prepare_cached(sql)?;
        let rows = statement
            .query_map(bounds, |row| Ok(DueCursor { next_attempt_us: row.get(0)?, id: row.get(1)? }))?;
        Ok(rows.collect::<database::Result<_>>()?)
    }
}

impl Which {
    /// Makes those deliveries due that still meet the selection and that no node has. Returns these.
    pub(super) fn make_due(self, tx: &Tx<'_>, ids: &[DeliveryId], now: Timestamp) -> Result<Vec<DeliveryId>> {
        let sql = match self {
            Self::Deferred => {
                "UPDATE delivery SET next_attempt_us = ?2
                 WHERE id = ?1 AND (state = 'deferred' OR last_reply IS NOT NULL)
                   AND next_attempt_us > ?2 AND next_attempt_us < ?3
                   AND EXISTS (SELECT 1 FROM queue WHERE queue.id = ?1 AND queue.owner = 0)
                 RETURNING id"
            }
            Self::PausedUntil(_) => {
                "UPDATE delivery SET next_attempt_us = ?2 WHERE id = ?1 AND next_attempt_us = ?3
                   AND EXISTS (SELECT 1 FROM queue WHERE queue.id = ?1 AND queue.owner = 0)
                 RETURNING id"
            }
        };
        let bound = match self {
            Self::Deferred => OPEN_ENDED_PAUSE_US,
            Self::PausedUntil(until_us) => until_us,
        };
        let mut statement = tx.prepare_cached(sql)?;
        let mut changed: Vec<DeliveryId> = Vec::new();
        for id in ids {
            let row = params![id, us(now), bound];
            changed.extend(statement.query_row(row, |row| row.get::<_, DeliveryId>(0)).optional()?);
        }
        Ok(changed)
    }
}
