//! The usage that brakes compare, and when they were last applied.

use std::sync::LazyLock;

use super::events::Subject;
use super::sql_types::{json, us};
use super::unit_of_work::Tx;
use super::usage::read_counts;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{Brakes, Environment, EventKind, LimitPeriod, TenantId};
use crate::store::database::{Connection, params};
use crate::store::{AppliedBrake, BrakeReading, Result, TenantSettings, UsageCounts};

/// Found with a partial index that has the same condition. A quotation mark inside a value is escaped, so no other text in
/// the JSON can match.
pub(super) const WITH_BRAKES: &str = r#"SELECT id, settings FROM tenant INDEXED BY tenant_with_brakes
    WHERE status = 'active' AND instr(settings, '"brakes":{') > 0 ORDER BY id"#;

/// The active tenants with brakes, and their usage.
pub(super) fn read(connection: &Connection, now: Timestamp) -> Result<Vec<BrakeReading>> {
    let mut statement = connection.prepare_cached(WITH_BRAKES)?;
    let rows = statement.query_map([], |row| {
        let settings: TenantSettings = json(row, "settings")?;
        Ok((row.get::<_, TenantId>("id")?, settings.brakes))
    })?;
    let mut readings = Vec::new();
    for row in rows {
        if let (tenant_id, Some(brakes)) = row? {
            let counts = counts(connection, tenant_id, &brakes, now)?;
            readings.push(BrakeReading { tenant_id, brakes, counts });
        }
    }
    Ok(readings)
}

static SUMS: LazyLock<String> = LazyLock::new(|| {
    let sums = UsageCounts::NAMES.iter().map(|count| format!("coalesce(sum({count}), 0) AS {count}"));
    let sums = sums.collect::<Vec<_>>().join(", ");
    format!(
        "SELECT {sums} FROM usage
         WHERE tenant_id = ?1 AND span = 'hour' AND environment = 'live' AND start_us >= ?2
           AND start_us > coalesce((SELECT applied_us FROM brake WHERE tenant_id = ?1), 0)"
    )
});

/// Live usage in the window, which ends with the current hour. The hour in which the brakes were last applied, and those
/// before it, do not count again.
fn counts(connection: &Connection, tenant: TenantId, brakes: &Brakes, now: Timestamp) -> Result<UsageCounts> {
    let before = SignedDuration::from_hours(i64::from(brakes.window.hours()) - 1);
    let from = LimitPeriod::Hour.start_of(now.checked_sub(before).unwrap_or(Timestamp::MIN));
    Ok(connection.prepare_cached(&SUMS)?.query_row(params![tenant, us(from)], read_counts)?)
}

/// Writes the event, unless the tenant was deleted.
pub(super) fn apply(tx: &Tx<'_>, applied: &AppliedBrake) -> Result<()> {
    let sql = "INSERT INTO brake (tenant_id, applied_us)
               SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM tenant WHERE id = ?1)
               ON CONFLICT (tenant_id) DO UPDATE SET applied_us = excluded.applied_us";
    if tx.prepare_cached(sql)?.execute(params![applied.tenant_id, us(applied.at)])? == 0 {
        return Ok(());
    }
    let (tenant_id, environment) = (Some(applied.tenant_id), Some(Environment::Live));
    let subject = Subject { tenant_id, environment, ..Subject::default() };
    tx.append(EventKind::BrakeApplied, subject, applied, applied.at)
}
