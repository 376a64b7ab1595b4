//! Usage of tenants, counted in the transaction that causes it. Jobs only collect amounts; they are summed before the
//! commit, so that many messages of one tenant change its rows once.

use rusqlite::{Connection, Row, params};

use super::SqliteStore;
use super::events::Subject;
use super::sql_types::{count, sql_limit, time, us};
use super::unit_of_work::Tx;
use crate::mail::Timestamp;
use crate::model::{EventKind, MessageId, TenantId, UsageInterval};
use crate::store::{
    Ledger, LimitLevel, LimitWarning, Result, StoreError, USAGE_HOURS_LIFETIME, Usage, UsageCounts, UsedBy,
};

impl Tx<'_> {
    /// Adds usage.
    pub(super) fn count(&self, by: UsedBy, counts: UsageCounts) {
        self.usage.add(by, counts);
    }

    /// Adds usage of a delivery.
    pub(super) fn count_delivery(&self, of: MessageId, at: Timestamp, counts: UsageCounts) -> Result<()> {
        let sql = "SELECT tenant_id, environment FROM message WHERE id = ?1";
        let mut statement = self.prepare_cached(sql)?;
        let mut rows = statement.query([of])?;
        if let Some(row) = rows.next()? {
            self.count(UsedBy { tenant_id: row.get(0)?, environment: row.get(1)?, at }, counts);
        }
        Ok(())
    }

    /// Writes the collected usage.
    pub(super) fn write_usage(&self) -> Result<()> {
        // The tenant may have been deleted in this transaction.
        let sql = "INSERT INTO usage (tenant_id, span, start_us, environment,
                                      sent, delivered, bounced, complained, suppressed, rejected, api_requests)
                   SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11
                   WHERE EXISTS (SELECT 1 FROM tenant WHERE id = ?1)
                   ON CONFLICT (tenant_id, span, start_us, environment) DO UPDATE SET
                       sent = usage.sent + excluded.sent,
                       delivered = usage.delivered + excluded.delivered,
                       bounced = usage.bounced + excluded.bounced,
                       complained = usage.complained + excluded.complained,
                       suppressed = usage.suppressed + excluded.suppressed,
                       rejected = usage.rejected + excluded.rejected,
                       api_requests = usage.api_requests + excluded.api_requests";
        let mut add = self.prepare_cached(sql)?;
        for ((tenant, interval, start, environment), counts) in self.usage.take_sums() {
            add.execute(params![
                tenant,
                interval,
                us(start),
                environment,
                counts.sent as i64,
                counts.delivered as i64,
                counts.bounced as i64,
                counts.complained as i64,
                counts.suppressed as i64,
                counts.rejected as i64,
                counts.api_requests as i64,
            ])?;
        }
        Ok(())
    }
}

impl Ledger for SqliteStore {
    async fn usage(
        &self,
        tenant: TenantId,
        interval: UsageInterval,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Usage>> {
        self.read(move |connection| {
            let sql =
                "SELECT * FROM usage WHERE tenant_id = ?1 AND span = ?2 AND start_us >= ?3 AND start_us < ?4
                       ORDER BY start_us, environment";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![tenant, interval, us(from), us(to)], read_row)?;
            rows.collect::<rusqlite::Result<_>>().map_err(StoreError::from)
        })
        .await
    }

    async fn count_requests(&self, requests: Vec<(UsedBy, u64)>) -> Result<()> {
        self.write(move |tx| {
            for &(by, api_requests) in &requests {
                tx.count(by, UsageCounts { api_requests, ..UsageCounts::default() });
            }
            Ok(())
        })
        .await
    }

    fn warn_of_limit(&self, warning: LimitWarning) {
        if !self.writer.leave(move |tx| append_warning(tx, &warning)) {
            tracing::warn!("a warning about a send limit was not recorded: too many writes are pending");
        }
    }
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<Usage> {
    Ok(Usage {
        start: time(row, "start_us")?,
        environment: row.get("environment")?,
        counts: UsageCounts {
            sent: count(row, "sent")?,
            delivered: count(row, "delivered")?,
            bounced: count(row, "bounced")?,
            complained: count(row, "complained")?,
            suppressed: count(row, "suppressed")?,
            rejected: count(row, "rejected")?,
            api_requests: count(row, "api_requests")?,
        },
    })
}

/// Appends the event unless this limit has one in this period, possibly from before a restart.
fn append_warning(tx: &Tx<'_>, warning: &LimitWarning) -> Result<()> {
    let kind = match warning.level {
        LimitLevel::Approaching => EventKind::SendLimitApproaching,
        LimitLevel::Exceeded => EventKind::SendLimitExceeded,
    };
    let sql = "INSERT INTO limit_warning (tenant_id, environment, period, kind, resets_us)
               SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM tenant WHERE id = ?1)
               ON CONFLICT (tenant_id, environment, period, kind) DO UPDATE SET resets_us = excluded.resets_us
               WHERE limit_warning.resets_us <> excluded.resets_us";
    let LimitWarning { tenant_id, environment, period, resets_at, .. } = warning;
    let row = params![tenant_id, environment, period, kind, us(*resets_at)];
    if tx.prepare_cached(sql)?.execute(row)? == 0 {
        return Ok(());
    }
    let subject = Subject {
        tenant_id: Some(warning.tenant_id),
        environment: Some(warning.environment),
        ..Subject::default()
    };
    tx.append(kind, subject, warning, warning.at)
}

/// Whether a tenant has hourly usage past its retention.
pub(super) fn has_old_hours(connection: &Connection, tenant: TenantId, now: Timestamp) -> Result<bool> {
    let sql = "SELECT 1 FROM usage WHERE tenant_id = ?1 AND span = ?2 AND start_us < ?3";
    let bounds = params![tenant, UsageInterval::Hour, us(oldest_hour(now))];
    Ok(connection.prepare_cached(sql)?.exists(bounds)?)
}

/// Deletes hourly usage of a tenant past its retention, at most `limit` rows.
pub(super) fn remove_old_hours(tx: &Tx<'_>, tenant: TenantId, now: Timestamp, limit: usize) -> Result<u64> {
    let sql = "DELETE FROM usage WHERE tenant_id = ?1 AND span = ?2 AND (start_us, environment) IN
                   (SELECT start_us, environment FROM usage
                    WHERE tenant_id = ?1 AND span = ?2 AND start_us < ?3 ORDER BY start_us LIMIT ?4)";
    let bounds = params![tenant, UsageInterval::Hour, us(oldest_hour(now)), sql_limit(limit)];
    Ok(tx.prepare_cached(sql)?.execute(bounds)? as u64)
}

/// Retention ends for whole days, so that no day is shown in part.
fn oldest_hour(now: Timestamp) -> Timestamp {
    UsageInterval::Day.start_of(now.checked_sub(USAGE_HOURS_LIFETIME).unwrap_or(Timestamp::MIN))
}
