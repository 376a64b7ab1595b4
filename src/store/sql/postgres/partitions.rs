//! The partitions of the tables that grow with mail. Each takes the ids of a period, so that data past its retention goes as a
//! whole. The first one of a table, `…_past`, takes what is older, such as imported mail, and the last one, `…_future`, what
//! is newer, such as the ids of a clock that is wrong: so there is one for each id, and pages that sort by id read one after
//! the other.

mod bodies;
mod extension;
mod weeks;

use std::fmt;

use ulid::Ulid;

pub(in crate::store::sql) use self::bodies::{copy_needed, is_empty, needed_bodies, replace};
pub(in crate::store::sql) use self::extension::{extend, is_extended};
pub(in crate::store::sql) use self::weeks::{LastChange, last_change, remove_stragglers};
use crate::mail::Timestamp;
use crate::model::{AttemptId, DeliveryId, EventId, MessageId};
use crate::store::database::{self, Connection, DatabaseError, params};
use crate::store::sql::unit_of_work::Tx;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const PAST: &str = "past";
const FUTURE: &str = "future";
/// The end of the name of a partition that has only what could not be dropped.
const KEPT: &str = "_kept";
/// How long a change of partitions waits for statements that use the tables. Everything else waits behind it.
const LOCK_TIMEOUT_MS: u32 = 300;
/// The ids of deliveries are at most so much later than that of their message.
const DELIVERY_DELAY_MS: u64 = DAY_MS;

/// A partitioned table.
pub(in crate::store::sql) struct Table {
    name: &'static str,
    /// The column with the ids by which it is partitioned, and how they begin.
    key: &'static str,
    prefix: &'static str,
    /// Settings of its partitions.
    settings: &'static str,
}

/// Tables whose partitions have the same bounds.
pub(in crate::store::sql) struct Group {
    tables: &'static [Table],
    period_ms: u64,
    /// From the begin of a period until 1970.
    offset_ms: u64,
}

const fn table(name: &'static str, key: &'static str, prefix: &'static str) -> Table {
    Table { name, key, prefix, settings: "" }
}

/// Messages and what belongs to them, by weeks that begin on Monday, in UTC.
pub(in crate::store::sql) static WEEKS: Group = Group {
    tables: &[
        table("message", "id", MessageId::PREFIX),
        // Longer rows with results fit on the page, so that no index changes.
        Table { settings: " WITH (fillfactor = 40)", ..table("delivery", "id", DeliveryId::PREFIX) },
        table("attempt", "id", AttemptId::PREFIX),
        table("event", "id", EventId::PREFIX),
        table("message_search", "message_id", MessageId::PREFIX),
    ],
    period_ms: 7 * DAY_MS,
    offset_ms: 3 * DAY_MS,
};

/// Bodies, by days in UTC.
pub(in crate::store::sql) static DAYS: Group = Group {
    tables: &[
        table("body", "message_id", MessageId::PREFIX),
        table("body_piece", "message_id", MessageId::PREFIX),
    ],
    period_ms: DAY_MS,
    offset_ms: 0,
};

/// The partitions of the tables of a group that have the same bounds, in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store::sql) struct Partition {
    /// The end of their names.
    suffix: String,
    /// `None` for the first one.
    from: Option<u64>,
    /// `None` for the last one.
    to: Option<u64>,
}

impl Partition {
    /// The bounds of one that is dropped as a whole once it is old.
    pub(in crate::store::sql) fn dated(&self) -> Option<Span> {
        Some(Span { from_ms: self.from?, to_ms: self.to? })
    }

    /// The begin of its time; `None` for the first one.
    pub(in crate::store::sql) fn begin_ms(&self) -> Option<u64> {
        self.from
    }

    /// Whether it has only what could not be dropped with the others of its period.
    pub(in crate::store::sql) fn is_kept(&self) -> bool {
        self.suffix.ends_with(KEPT)
    }

    /// Its bounds in SQL.
    fn bounds(&self, table: &Table) -> String {
        let spell = |bound: Option<u64>, end: &str| {
            bound.map_or(end.to_owned(), |bound| format!("'{}'", table.first_id(bound)))
        };
        format!("FOR VALUES FROM ({}) TO ({})", spell(self.from, "MINVALUE"), spell(self.to, "MAXVALUE"))
    }
}

impl fmt::Display for Partition {
    /// For logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {}", self.suffix)
    }
}

/// A time in which ids are made, from the first millisecond to the one before the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store::sql) struct Span {
    pub(in crate::store::sql) from_ms: u64,
    pub(in crate::store::sql) to_ms: u64,
}

impl Span {
    /// The first id of it, and the first one after it.
    pub(in crate::store::sql) fn ids(self, prefix: &str) -> (String, String) {
        (first_id(prefix, self.from_ms), first_id(prefix, self.to_ms))
    }
}

/// Sorts before all ids of this millisecond.
fn first_id(prefix: &str, ms: u64) -> String {
    format!("{prefix}{}", Ulid::from_parts(ms, 0))
}

impl Table {
    fn first_id(&self, ms: u64) -> String {
        first_id(self.prefix, ms)
    }

    /// A bound as PostgreSQL spells it; `None` for the begin and the end of everything.
    fn time_of(&self, bound: &str) -> Option<u64> {
        let id = bound.trim_matches('\'').strip_prefix(self.prefix)?;
        Some(Ulid::from_string(id).ok()?.timestamp_ms())
    }
}

impl Group {
    /// The table whose partitions stand for those of all.
    fn lead(&self) -> &'static Table {
        &self.tables[0]
    }

    pub(in crate::store::sql) fn period_ms(&self) -> u64 {
        self.period_ms
    }

    /// Whether what is kept for so many days may wait for the end of its period.
    pub(in crate::store::sql) fn is_short_for(&self, days: u32) -> bool {
        u64::from(days) * DAY_MS >= self.period_ms
    }

    /// The begin of the period of a time.
    fn begin(&self, ms: u64) -> u64 {
        ms - (ms + self.offset_ms) % self.period_ms
    }

    /// The partitions, the oldest first.
    pub(in crate::store::sql) fn read(&self, connection: &Connection) -> database::Result<Vec<Partition>> {
        let lead = self.lead();
        let sql = "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
                   FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass(?1)";
        let mut statement = connection.prepare_cached(sql)?;
        let rows = statement.query_map([lead.name], |row| {
            let (name, bounds): (String, String) = (row.get(0)?, row.get(1)?);
            let bounds = bounds.trim_start_matches("FOR VALUES FROM (").trim_end_matches(')');
            let (from, to) = bounds.split_once(") TO (").unwrap_or_default();
            let suffix = name[(lead.name.len() + 1).min(name.len())..].to_owned();
            Ok(Partition { suffix, from: lead.time_of(from), to: lead.time_of(to) })
        })?;
        let mut partitions = rows.collect::<database::Result<Vec<_>>>()?;
        partitions.sort_by_key(|partition| partition.from);
        Ok(partitions)
    }

    /// Executes a statement for each table. In it, `{t}` is the name of the table.
    fn for_each(&self, connection: &Connection, sql: impl Fn(&Table) -> String) -> database::Result<()> {
        let statements: Vec<_> =
            self.tables.iter().map(|table| sql(table).replace("{t}", table.name)).collect();
        connection.execute_batch(&statements.join("; "))
    }

    fn attach(&self, connection: &Connection, partition: &Partition) -> database::Result<()> {
        self.for_each(connection, |table| {
            format!(
                "ALTER TABLE {{t}} ATTACH PARTITION {{t}}_{} {}",
                partition.suffix,
                partition.bounds(table)
            )
        })
    }

    fn detach(&self, connection: &Connection, partition: &Partition) -> database::Result<()> {
        self.for_each(connection, |_| {
            format!("ALTER TABLE {{t}} DETACH PARTITION {{t}}_{}", partition.suffix)
        })
    }

    fn create(&self, connection: &Connection, partition: &Partition) -> database::Result<()> {
        self.for_each(connection, |table| {
            let (suffix, bounds) = (&partition.suffix, partition.bounds(table));
            format!("CREATE TABLE {{t}}_{suffix} PARTITION OF {{t}} {bounds}{}", table.settings)
        })
    }

    /// Drops a partition; the one before it takes its ids from now on.
    fn remove(&self, connection: &Connection, before: &Partition, gone: &Partition) -> database::Result<()> {
        self.detach(connection, before)?;
        // Also copies that were to replace it.
        let suffix = &gone.suffix;
        self.for_each(connection, |_| {
            format!("DROP TABLE {{t}}_{suffix}; DROP TABLE IF EXISTS {{t}}_{suffix}{KEPT}")
        })?;
        self.attach(connection, &Partition { to: gone.to, ..before.clone() })
    }

    /// Changes partitions in a transaction. False if statements use the tables for longer than a moment, so that nothing was
    /// changed.
    fn change(
        &self,
        connection: &Connection,
        change: impl FnOnce() -> database::Result<()>,
    ) -> database::Result<bool> {
        // The first change reads everything, for longer than statements of this user may be allowed to take.
        let settings = format!("SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; SET LOCAL statement_timeout = 0");
        connection.execute_batch(&settings)?;
        let changed = connection.attempt(|| {
            let tables: Vec<_> = self.tables.iter().map(|table| format!("ONLY {}", table.name)).collect();
            connection
                .execute_batch(&format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", tables.join(", ")))?;
            change()
        });
        connection.execute_batch("SET LOCAL lock_timeout = 0")?;
        match changed {
            Ok(()) => Ok(true),
            Err(error) if error.is_lock_timeout() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a message of this time is open, or a delivery that would be dropped with it. Its message may be of another
    /// period, since clocks jump.
    fn has_open(&self, connection: &Connection, span: Span) -> database::Result<bool> {
        if has_open(connection, span)? {
            return Ok(true);
        }
        if self.tables.iter().all(|table| table.prefix != DeliveryId::PREFIX) {
            return Ok(false);
        }
        let (first, end) = span.ids(DeliveryId::PREFIX);
        connection.prepare_cached("SELECT 1 FROM queue WHERE id >= ?1 AND id < ?2")?.exists([first, end])
    }

    /// Drops the partitions of `gone`, unless one of its messages is open again, or the tables are in use.
    pub(in crate::store::sql) fn drop(
        &self,
        tx: &Tx<'_>,
        before: &Partition,
        gone: &Partition,
    ) -> database::Result<bool> {
        match gone.dated() {
            Some(span) if !self.has_open(tx, span)? => self.change(tx, || self.remove(tx, before, gone)),
            _ => Ok(false),
        }
    }
}

/// Whether a message of this time is open.
pub(in crate::store::sql) fn has_open(connection: &Connection, span: Span) -> database::Result<bool> {
    let sql = "SELECT 1 FROM queue q JOIN delivery d ON d.id = q.id
               WHERE q.id >= ?1 AND q.id < ?2 AND d.message_id >= ?3 AND d.message_id < ?4";
    let (first, end) = open_ids(span);
    let (low, high) = span.ids(MessageId::PREFIX);
    connection.prepare_cached(sql)?.exists(params![first, end, low, high])
}

/// Between these ids are those of the deliveries of messages of this time.
fn open_ids(span: Span) -> (String, String) {
    Span { to_ms: span.to_ms + DELIVERY_DELAY_MS, ..span }.ids(DeliveryId::PREFIX)
}

/// The date of a period, as in the names of partitions.
fn date_of(ms: u64) -> database::Result<String> {
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let time = time.ok_or_else(|| DatabaseError::Lost(format!("{ms} ms is no time of a partition")))?;
    Ok(time.strftime("%Y%m%d").to_string())
}

/// Milliseconds since 1970.
pub(in crate::store::sql) fn ms(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}
