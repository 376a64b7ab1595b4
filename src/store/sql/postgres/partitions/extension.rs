//! Makes partitions ahead of time.

use super::{FUTURE, Group, PAST, Partition, date_of, ms};
use crate::mail::Timestamp;
use crate::store::database::{self, Connection};

/// Periods after the present one that have partitions.
const PERIODS_AHEAD: u64 = 2;

/// Whether there are partitions until the end of the last period ahead.
pub(in crate::store::sql) fn is_extended(
    connection: &Connection,
    group: &Group,
    now: Timestamp,
) -> database::Result<bool> {
    let future = group.read(connection)?.pop();
    Ok(future.is_none_or(|future| future.from >= Some(Periods::new(group, now).end)))
}

/// Makes the partitions that are missing, in a transaction that writes alone. False if the tables are in use.
pub(in crate::store::sql) fn extend(
    connection: &Connection,
    group: &Group,
    now: Timestamp,
) -> database::Result<bool> {
    let periods = Periods::new(group, now);
    match group.read(connection)?.pop() {
        Some(future) if future.from < Some(periods.end) => {
            group.change(connection, || split(connection, group, &future, &periods))
        }
        _ => Ok(true),
    }
}

/// Begins of periods, in milliseconds since 1970.
struct Periods {
    present: u64,
    next: u64,
    /// Of the first one that gets no partition.
    end: u64,
}

impl Periods {
    fn new(group: &Group, now: Timestamp) -> Self {
        let present = group.begin(ms(now));
        let next = present + group.period_ms;
        Self { present, next, end: next + PERIODS_AHEAD * group.period_ms }
    }
}

/// Makes partitions of the first part of `future`.
fn split(
    connection: &Connection,
    group: &Group,
    future: &Partition,
    periods: &Periods,
) -> database::Result<()> {
    let until = end_of_rows(connection, group, future, periods)?;
    let mut from = match future.from {
        Some(from) => from,
        None => group
            .begin(oldest(connection, group)?.map_or(periods.present, |oldest| oldest.min(periods.present))),
    };
    group.detach(connection, future)?;
    if future.from.is_none() {
        let past = Partition { suffix: PAST.to_owned(), from: None, to: Some(from) };
        group.create(connection, &past)?;
    }
    let rest = Partition { suffix: FUTURE.to_owned(), from: Some(periods.end), to: None };
    match until {
        None => group.attach(connection, &rest)?,
        Some(until) => {
            let filled = Partition { suffix: date_of(from)?, from: Some(from), to: Some(until) };
            turn_into(connection, group, &filled, &rest)?;
            from = until;
        }
    }
    while from < periods.end {
        // What nobody has written for long, needs one partition only.
        let to = periods.present.max(from + group.period_ms);
        group.create(connection, &Partition { suffix: date_of(from)?, from: Some(from), to: Some(to) })?;
        from = to;
    }
    Ok(())
}

/// The rows of the tables stay where they are, whose number may be large: the detached partition of the future becomes that of
/// a period. The rows of the rest have ids of a wrong clock, or were imported.
fn turn_into(
    connection: &Connection,
    group: &Group,
    filled: &Partition,
    rest: &Partition,
) -> database::Result<()> {
    let suffix = &filled.suffix;
    group.for_each(connection, |_| format!("ALTER TABLE {{t}}_{FUTURE} RENAME TO {{t}}_{suffix}"))?;
    group.create(connection, rest)?;
    group.for_each(connection, |table| {
        let is_of_rest = format!("{} >= '{}'", table.key, table.first_id(rest.from.unwrap_or_default()));
        format!(
            "INSERT INTO {{t}}_{FUTURE} SELECT * FROM {{t}}_{suffix} WHERE {is_of_rest};
             DELETE FROM {{t}}_{suffix} WHERE {is_of_rest}"
        )
    })?;
    group.attach(connection, filled)
}

/// Where the periods end whose rows are in `future`; `None` without such rows.
fn end_of_rows(
    connection: &Connection,
    group: &Group,
    future: &Partition,
    periods: &Periods,
) -> database::Result<Option<u64>> {
    let has_rows = |from: u64, to: u64| -> database::Result<bool> {
        for table in group.tables {
            let sql =
                format!("SELECT 1 FROM {}_{FUTURE} WHERE {1} >= ?1 AND {1} < ?2", table.name, table.key);
            if connection.prepare_cached(&sql)?.exists([table.first_id(from), table.first_id(to)])? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    if has_rows(periods.next.max(future.from.unwrap_or(0)), periods.end)? {
        return Ok(Some(periods.end));
    }
    Ok(has_rows(0, periods.next)?.then_some(periods.next))
}

/// The time of the oldest id.
fn oldest(connection: &Connection, group: &Group) -> database::Result<Option<u64>> {
    let mut oldest = None;
    for table in group.tables {
        let sql = format!("SELECT min({}) FROM {}_{FUTURE}", table.key, table.name);
        let id: Option<String> = connection.query_row(&sql, [], |row| row.get(0))?;
        let time = id.and_then(|id| table.time_of(&id));
        oldest = [oldest, time].into_iter().flatten().min();
    }
    Ok(oldest)
}
