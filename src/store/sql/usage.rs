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
use crate::store::database::{self, Connection, Engine, Row, ToSql, params};
use crate::store::memory::{UsagePartRow, UsageSums};
use crate::store::{
    AppliedBrake, BrakeReading, DELETED_USAGE_LIFETIME, Ledger, LimitLevel, LimitWarning, Page, QuotaBlock,
    QuotaWish, Result, StoreError, USAGE_HOURS_LIFETIME, USAGE_PARTS_LIFETIME, UnusedQuota, Usage,
    UsageCounts, UsageCursor, UsageFilter, UsageSum, UsedBy,
};

/// Maximum of rows of usage by key and domain of a tenant and day: a tenant can create any number of keys.
const PARTS_OF_DAY_MAX: usize = 5_000;

const INTERVAL_KEY: [&str; 4] = ["tenant_id", "span", "start_us", "environment"];
const PART_KEY: [&str; 5] = ["tenant_id", "start_us", "environment", "key_id", "domain"];

static ADD_TO_INTERVAL: LazyLock<Upsert> = LazyLock::new(|| Upsert::new("usage", &INTERVAL_KEY));
static ADD_TO_PART: LazyLock<Upsert> = LazyLock::new(|| Upsert::new("usage_part", &PART_KEY));

/// The table with the rows of `usage` or `usage_part`. On PostgreSQL, each lane has rows of its own, and those names are views
/// that sum them.
pub(super) fn table_of(engine: Engine, name: &str) -> String {
    match engine {
        Engine::Sqlite => name.to_owned(),
        Engine::Postgres => format!("{name}_by_slot"),
    }
}

/// A statement that adds to the counts of a row.
struct Upsert {
    sqlite: String,
    /// The slot follows the key.
    postgres: String,
}

impl Upsert {
    fn new(name: &str, key: &[&str]) -> Self {
        let with_slot = [key, &["slot"]].concat();
        Self { sqlite: upsert(name, key), postgres: upsert(&table_of(Engine::Postgres, name), &with_slot) }
    }

    fn post(&self, tx: &Tx<'_>, key: &[&dyn ToSql], counts: UsageCounts) -> Result<()> {
        let counts = counts.values().map(|count| count as i64);
        let (sql, slot): (_, &[&dyn ToSql]) = match tx.engine() {
            Engine::Sqlite => (&self.sqlite, &[]),
            Engine::Postgres => (&self.postgres, &[&tx.slot]),
        };
        let counts = counts.iter().map(|count| count as &dyn ToSql);
        let row: Vec<_> = key.iter().chain(slot).copied().chain(counts).collect();
        Ok(tx.prepare_cached(sql)?.post(&*row)?)
    }
}

/// Adds counts to a row of the table with these key columns. The tenant may have been deleted in this transaction.
fn upsert(table: &str, keys: &[&str]) -> String {
    let names = [keys, UsageCounts::NAMES].concat();
    let values: Vec<_> = (1..=names.len()).map(|number| format!("?{number}")).collect();
    let add = UsageCounts::NAMES.iter().map(|count| format!("{count} = {table}.{count} + excluded.{count}"));
    let add = add.collect::<Vec<_>>().join(", ");
    format!(
        "INSERT INTO {table} ({})
         SELECT {} WHERE EXISTS (SELECT 1 FROM tenant WHERE id = ?1)
         ON CONFLICT ({}) DO UPDATE SET {add}",
        names.join(", "),
        values.join(", "),
        keys.join(", "),
    )
}

/// The key and the counts of a row in slot 0, from rows of other slots that were deleted.
fn fold_statement(name: &str, key: &[&str]) -> String {
    let table = table_of(Engine::Postgres, name);
    let counts = UsageCounts::NAMES;
    let sums = counts.iter().map(|count| format!("sum({count})")).collect::<Vec<_>>().join(", ");
    let add = counts.iter().map(|count| format!("{count} = {table}.{count} + excluded.{count}"));
    let add = add.collect::<Vec<_>>().join(", ");
    let (key, counts) = (key.join(", "), counts.join(", "));
    format!(
        "WITH folded AS (DELETE FROM {table} WHERE ctid IN
             (SELECT ctid FROM {table} WHERE slot <> 0 AND start_us < ?1 LIMIT ?2) RETURNING *)
         INSERT INTO {table} ({key}, slot, {counts}) SELECT {key}, 0, {sums} FROM folded GROUP BY {key}
         ON CONFLICT ({key}, slot) DO UPDATE SET {add}"
    )
}

/// Moves usage of past days into one row for all lanes, from at most `limit` rows of each table.
pub(super) fn fold_slots(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<()> {
    if tx.engine() == Engine::Sqlite {
        return Ok(());
    }
    let before = us(UsageInterval::Day.start_of(now));
    for sql in [fold_statement("usage", &INTERVAL_KEY), fold_statement("usage_part", &PART_KEY)] {
        tx.prepare_cached(&sql)?.execute(params![before, sql_limit(limit)])?;
    }
    Ok(())
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
        for ((tenant, interval, start, environment), counts) in intervals {
            ADD_TO_INTERVAL.post(self, params![tenant, interval, us(start), environment], counts)?;
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
        for ((tenant, day, environment, key, domain), counts) in sums {
            ADD_TO_PART.post(self, params![tenant, us(day), environment, key, domain], counts)?;
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

    fn shares_quota(&self) -> bool {
        self.quota_table.is_some()
    }

    async fn take_quota(&self, wish: QuotaWish) -> Result<Option<QuotaBlock>> {
        match &self.quota_table {
            Some(table) => table.take(&wish, self.lease.nodes().count).await,
            None => Ok(Some(QuotaBlock { granted: wish.needed, taken: wish.needed })),
        }
    }

    async fn give_back_quota(&self, unused: Vec<UnusedQuota>) -> Result<()> {
        match &self.quota_table {
            Some(table) => table.give_back(&unused).await,
            None => Ok(()),
        }
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

/// Rows of a tenant that end.
struct ExpiredRows {
    table: &'static str,
    /// The tenant is `?1`, the time `?2`.
    condition: &'static str,
    /// The rest of the key.
    key: &'static str,
    lifetime: SignedDuration,
}

fn expired_rows(is_deleted: bool) -> [ExpiredRows; 2] {
    const HOURS: &str = "tenant_id = ?1 AND span = 'hour' AND start_us < ?2";
    const DAYS: &str = "tenant_id = ?1 AND span = 'day' AND start_us < ?2";
    let (condition, of_intervals, of_parts) = match is_deleted {
        false => (HOURS, USAGE_HOURS_LIFETIME, USAGE_PARTS_LIFETIME),
        true => (DAYS, DELETED_USAGE_LIFETIME, DELETED_USAGE_LIFETIME),
    };
    [
        ExpiredRows { table: "usage", condition, key: "span, start_us, environment", lifetime: of_intervals },
        ExpiredRows {
            table: "usage_part",
            condition: "tenant_id = ?1 AND start_us < ?2",
            key: "start_us, environment, key_id, domain",
            lifetime: of_parts,
        },
    ]
}

/// Whether a tenant has usage past its retention, or was deleted and has none.
pub(super) fn has_expired(
    connection: &Connection,
    tenant: TenantId,
    is_deleted: bool,
    now: Timestamp,
) -> Result<bool> {
    for ExpiredRows { table, condition, lifetime, .. } in expired_rows(is_deleted) {
        let sql = format!("SELECT 1 FROM {} WHERE {condition}", table_of(connection.engine(), table));
        if connection.prepare_cached(&sql)?.exists(params![tenant, us(oldest_day(now, lifetime))])? {
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
    for ExpiredRows { table, condition, key, lifetime } in expired_rows(is_deleted) {
        let table = table_of(tx.engine(), table);
        let sql = format!(
            "DELETE FROM {table} WHERE {condition}
                 AND ({key}) IN (SELECT {key} FROM {table} WHERE {condition} ORDER BY start_us LIMIT ?3)"
        );
        let row = params![tenant, us(oldest_day(now, lifetime)), sql_limit(limit)];
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
