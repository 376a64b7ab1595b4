//! Usage of tenants, counted in the transaction that causes it. Jobs only collect amounts; they are summed before the
//! commit, so that many messages of one tenant change its rows once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use super::Store;
use super::brakes;
use super::events::Subject;
use super::keyset::read_rows;
use super::sql_types::{count, sql_limit, time, us};
use super::unit_of_work::Tx;
use crate::mail::{DomainName, SignedDuration, Timestamp};
use crate::model::{Environment, EventKind, MessageId, TenantId, UsageGroup, UsageInterval};
use crate::store::database::{self, Connection, Row, ToSql, params};
use crate::store::memory::{UsagePartRow, UsageSums};
use crate::store::{
    AppliedBrake, BrakeReading, DELETED_USAGE_LIFETIME, Ledger, LimitLevel, LimitWarning, Page, Result,
    StoreError, USAGE_HOURS_LIFETIME, USAGE_PARTS_LIFETIME, Usage, UsageCounts, UsageCursor, UsageFilter,
    UsageSum, UsedBy,
};

/// Maximum of rows of usage by key and domain of a tenant and day: a tenant can create any number of keys.
const PARTS_OF_DAY_MAX: usize = 5_000;

static ADD_TO_INTERVAL: LazyLock<String> =
    LazyLock::new(|| upsert("usage", &["tenant_id", "span", "start_us", "environment"]));
static ADD_TO_PART: LazyLock<String> =
    LazyLock::new(|| upsert("usage_part", &["tenant_id", "start_us", "environment", "key_id", "domain"]));

/// Adds counts to a row of the table with these key columns. The tenant may have been deleted in this transaction.
fn upsert(table: &str, keys: &[&str]) -> String {
    let place = |from: usize, count: usize| {
        (from..from + count).map(|number| format!("?{number}")).collect::<Vec<_>>().join(", ")
    };
    let add = UsageCounts::NAMES.iter().map(|count| format!("{count} = {table}.{count} + excluded.{count}"));
    let add = add.collect::<Vec<_>>().join(", ");
    let (keys_text, counts) = (keys.join(", "), UsageCounts::NAMES.join(", "));
    format!(
        "INSERT INTO {table} ({keys_text}, {counts})
         SELECT {} WHERE EXISTS (SELECT 1 FROM tenant WHERE id = ?{})
         ON CONFLICT ({keys_text}) DO UPDATE SET {add}",
        place(1, keys.len() + UsageCounts::NAMES.len()),
        keys.iter().position(|key| *key == "tenant_id").map_or(1, |at| at + 1),
    )
}

/// The values of a statement of [`upsert`].
fn row_of<'a>(keys: &'a [&'a dyn ToSql], counts: &'a [i64]) -> Vec<&'a dyn ToSql> {
    keys.iter().copied().chain(counts.iter().map(|count| count as &dyn ToSql)).collect()
}

impl Tx<'_> {
    /// Adds usage; `domain` is the sending domain, if it is known.
    pub(super) fn count(&self, by: UsedBy, domain: Option<&DomainName>, counts: UsageCounts) {
        self.usage.add(by, domain.cloned(), counts);
    }

    /// Adds usage of a delivery.
    pub(super) fn count_delivery(&self, of: MessageId, at: Timestamp, counts: UsageCounts) -> Result<()> {
        let sql = "SELECT tenant_id, key_id, environment, coalesce(sender_domain, dkim_domain)
                   FROM message WHERE id = ?1";
        let mut statement = self.prepare_cached(sql)?;
        let mut rows = statement.query([of])?;
        if let Some(row) = rows.next()? {
            let (tenant_id, key_id, environment) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let domain: Option<DomainName> = row.get(3)?;
            self.count(UsedBy { tenant_id, key_id, environment, at }, domain.as_ref(), counts);
        }
        Ok(())
    }

    /// Writes the collected usage. Returns rows by key and domain that exist after the commit.
    pub(super) fn write_usage(&self) -> Result<Vec<UsagePartRow>> {
        let UsageSums { intervals, parts } = self.usage.take_sums();
        let mut add = self.prepare_cached(&ADD_TO_INTERVAL)?;
        for ((tenant, interval, start, environment), counts) in intervals {
            let counts = counts.values().map(|count| count as i64);
            add.post(&*row_of(params![tenant, interval, us(start), environment], &counts))?;
        }
        let (mut existing, mut sums) = (Vec::new(), BTreeMap::<_, UsageCounts>::new());
        for (part, counts) in parts {
            let (tenant, day, environment, ..) = part;
            let is_known = self.usage_parts.contains(&part);
            let is_within = is_known || self.is_within_limit(&part)?;
            // The rest of a day with too many rows has neither key nor domain.
            let (key, domain) = if is_within { names_of(&part) } else { Default::default() };
            *sums.entry((tenant, day, environment, key, domain)).or_default() += counts;
            if !is_known && is_within {
                existing.push(part);
            }
        }
        let mut add = self.prepare_cached(&ADD_TO_PART)?;
        for ((tenant, day, environment, key, domain), counts) in sums {
            let counts = counts.values().map(|count| count as i64);
            add.post(&*row_of(params![tenant, us(day), environment, key, domain], &counts))?;
        }
        Ok(existing)
    }

    /// Whether the row of a part exists or may be added.
    fn is_within_limit(&self, part: &UsagePartRow) -> Result<bool> {
        let (tenant, day, environment, ..) = part;
        let (key, domain) = names_of(part);
        let sql = "SELECT 1 FROM usage_part WHERE tenant_id = ?1 AND start_us = ?2 AND environment = ?3
                   AND key_id = ?4 AND domain = ?5";
        if self.prepare_cached(sql)?.exists(params![tenant, us(*day), environment, key, domain])? {
            return Ok(true);
        }
        let sql = "SELECT 1 FROM usage_part WHERE tenant_id = ?1 AND start_us = ?2 LIMIT 1 OFFSET ?3";
        let is_full =
            self.prepare_cached(sql)?.exists(params![tenant, us(*day), sql_limit(PARTS_OF_DAY_MAX - 1)])?;
        Ok(!is_full)
    }
}

/// The key and the domain in the row of a part.
fn names_of((.., key, domain): &UsagePartRow) -> (String, String) {
    (
        key.map_or_else(String::new, |key| key.to_string()),
        domain.as_ref().map_or_else(String::new, DomainName::to_string),
    )
}

impl Ledger for Store {
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
            rows.collect::<database::Result<_>>().map_err(StoreError::from)
        })
        .await
    }

    async fn usage_of_all(
        &self,
        interval: UsageInterval,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Usage>> {
        self.read_slow(move |connection| {
            let sums = UsageCounts::NAMES.iter().map(|name| format!("sum({name}) AS {name}"));
            let sums = sums.collect::<Vec<_>>().join(", ");
            let sql = format!(
                "SELECT start_us, environment, {sums} FROM usage WHERE span = ?1 AND start_us >= ?2 AND start_us < ?3
                 GROUP BY start_us, environment ORDER BY start_us, environment"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement.query_map(params![interval, us(from), us(to)], read_row)?;
            rows.collect::<database::Result<_>>().map_err(StoreError::from)
        })
        .await
    }

    fn usage_by_minute(
        &self,
        tenant: Option<TenantId>,
        environment: Environment,
        during: Range<Timestamp>,
    ) -> (Vec<(Timestamp, UsageCounts)>, Timestamp) {
        self.minutes.read(tenant, environment, during)
    }

    async fn usage_sums(&self, filter: UsageFilter) -> Result<Page<UsageSum>> {
        self.read_slow(move |connection| sums(connection, &filter)).await
    }

    async fn count_requests(&self, requests: Vec<(UsedBy, u64)>) -> Result<()> {
        self.write(move |tx| {
            for &(by, api_requests) in &requests {
                tx.count(by, None, UsageCounts { api_requests, ..UsageCounts::default() });
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

    async fn brake_readings(&self, now: Timestamp) -> Result<Vec<BrakeReading>> {
        self.read_slow(move |connection| brakes::read(connection, now)).await
    }

    async fn apply_brake(&self, applied: AppliedBrake) -> Result<()> {
        self.write(move |tx| brakes::apply(tx, &applied)).await
    }
}

fn read_row(row: &Row<'_>) -> database::Result<Usage> {
    Ok(Usage {
        start: time(row, "start_us")?,
        environment: row.get("environment")?,
        counts: read_counts(row)?,
    })
}

pub(super) fn read_counts(row: &Row<'_>) -> database::Result<UsageCounts> {
    UsageCounts::read(|name| count(row, name))
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

/// Usage by tenant and group. A tenant that was deleted stands in `deleted_tenant`.
fn sums(connection: &Connection, filter: &UsageFilter) -> Result<Page<UsageSum>> {
    let (table, group) = match filter.group {
        UsageGroup::Tenant => ("usage", "''"),
        UsageGroup::Day => ("usage", "CAST(u.start_us AS TEXT)"),
        UsageGroup::Key => ("usage_part", "u.key_id"),
        UsageGroup::Domain => ("usage_part", "u.domain"),
    };
    let of_days = if table == "usage" { "AND u.span = 'day'" } else { "" };
    let counts = UsageCounts::NAMES.iter().map(|count| match *count {
        "api_requests" => "sum(u.api_requests) AS api_requests".to_owned(),
        count => format!("coalesce(sum(u.{count}) FILTER (WHERE u.environment = ?6), 0) AS {count}"),
    });
    let counts = counts.collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT t.*, {group} AS part, {counts},
                coalesce(sum(u.sent) FILTER (WHERE u.environment = 'test'), 0) AS test_sent
         FROM (SELECT id, name, slug, external_ref, FALSE AS is_deleted FROM tenant
               UNION ALL SELECT id, name, slug, external_ref, TRUE FROM deleted_tenant) t
         CROSS JOIN {table} u ON u.tenant_id = t.id
         WHERE TRUE {of_days} AND u.start_us >= ?1 AND u.start_us < ?2
           AND (t.id = ?3 OR ?3 IS NULL) AND t.id >= ?4 AND (u.environment = ?8 OR ?8 IS NULL)
         GROUP BY t.id, t.name, t.slug, t.external_ref, t.is_deleted, part
         HAVING t.id > ?4 OR {group} > ?5
         ORDER BY t.id, part LIMIT ?7"
    );
    let UsageFilter { tenant_id, from, to, environment, only, after, limit, .. } = filter;
    let (after_id, after_part) = match after {
        Some(UsageCursor { tenant_id, group }) => (tenant_id.to_string(), group.as_str()),
        None => Default::default(),
    };
    let limit_of_rows = sql_limit(limit.saturating_add(1));
    let row = params![us(*from), us(*to), tenant_id, after_id, after_part, environment, limit_of_rows, only];
    read_rows(connection.prepare_cached(&sql)?.query(row)?, *limit, |row| {
        Ok(UsageSum {
            tenant_id: row.get("id")?,
            tenant_name: row.get("name")?,
            tenant_slug: row.get("slug")?,
            external_ref: row.get("external_ref")?,
            is_deleted: row.get("is_deleted")?,
            group: row.get("part")?,
            counts: read_counts(row)?,
            test_sent: count(row, "test_sent")?,
        })
    })
}

/// The days of a deleted tenant stay, so its name does too.
pub(super) fn note_deleted_tenant(tx: &Tx<'_>, tenant: TenantId) -> Result<()> {
    let sql = "INSERT INTO deleted_tenant (id, name, slug, external_ref)
               SELECT id, name, slug, external_ref FROM tenant WHERE id = ?1
               ON CONFLICT (id) DO UPDATE SET name = excluded.name, slug = excluded.slug,
                   external_ref = excluded.external_ref";
    tx.prepare_cached(sql)?.execute([tenant])?;
    Ok(())
}

/// The usage of a deleted tenant that was imported again is no longer that of a deleted one.
pub(super) fn forget_deletion(tx: &Tx<'_>, tenant: TenantId) -> Result<()> {
    tx.prepare_cached("DELETE FROM deleted_tenant WHERE id = ?1")?.execute([tenant])?;
    Ok(())
}

/// The tenants that were deleted and still have usage.
pub(super) fn deleted_tenants(connection: &Connection) -> Result<Vec<TenantId>> {
    let mut statement = connection.prepare_cached("SELECT id FROM deleted_tenant ORDER BY id")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect::<database::Result<_>>().map_err(StoreError::from)
}

/// Tables with the rows of a tenant that end, as `FROM` clauses with the time in `?2`.
fn expired_rows(is_deleted: bool) -> &'static [(&'static str, &'static str, SignedDuration)] {
    const KEY: &str = "span, start_us, environment";
    const PART_KEY: &str = "start_us, environment, key_id, domain";
    const HOURS: &str = "usage WHERE tenant_id = ?1 AND span = 'hour' AND start_us < ?2";
    const DAYS: &str = "usage WHERE tenant_id = ?1 AND span = 'day' AND start_us < ?2";
    const PARTS: &str = "usage_part WHERE tenant_id = ?1 AND start_us < ?2";
    match is_deleted {
        false => &[(HOURS, KEY, USAGE_HOURS_LIFETIME), (PARTS, PART_KEY, USAGE_PARTS_LIFETIME)],
        true => &[(DAYS, KEY, DELETED_USAGE_LIFETIME), (PARTS, PART_KEY, DELETED_USAGE_LIFETIME)],
    }
}

/// Whether a tenant has usage past its retention, or was deleted and has none.
pub(super) fn has_expired(
    connection: &Connection,
    tenant: TenantId,
    is_deleted: bool,
    now: Timestamp,
) -> Result<bool> {
    for (rows, _, lifetime) in expired_rows(is_deleted) {
        let sql = format!("SELECT 1 FROM {rows}");
        if connection.prepare_cached(&sql)?.exists(params![tenant, us(oldest_day(now, *lifetime))])? {
            return Ok(true);
        }
    }
    Ok(is_deleted && !has_usage(connection, tenant)?)
}

fn has_usage(connection: &Connection, tenant: TenantId) -> Result<bool> {
    let sql =
        "SELECT 1 FROM usage WHERE tenant_id = ?1 UNION ALL SELECT 1 FROM usage_part WHERE tenant_id = ?1";
    Ok(connection.prepare_cached(sql)?.exists([tenant])?)
}

/// Deletes usage of a tenant past its retention, at most `limit` rows of each table, and forgets a deleted tenant without
/// usage.
pub(super) fn remove_expired(
    tx: &Tx<'_>,
    tenant: TenantId,
    is_deleted: bool,
    now: Timestamp,
    limit: usize,
) -> Result<u64> {
    let mut removed = 0;
    for (rows, key, lifetime) in expired_rows(is_deleted) {
        let sql = format!(
            "DELETE FROM {rows} AND ({key}) IN (SELECT {key} FROM {rows} ORDER BY start_us LIMIT ?3)"
        );
        let row = params![tenant, us(oldest_day(now, *lifetime)), sql_limit(limit)];
        removed += tx.prepare_cached(&sql)?.execute(row)?;
    }
    if is_deleted && !has_usage(tx, tenant)? {
        forget_deletion(tx, tenant)?;
    }
    Ok(removed as u64)
}

/// Retention ends for whole days, so that no day is shown in part.
fn oldest_day(now: Timestamp, lifetime: SignedDuration) -> Timestamp {
    UsageInterval::Day.start_of(now.checked_sub(lifetime).unwrap_or(Timestamp::MIN))
}
