//! Retention on PostgreSQL: once the retention of all tenants has ended for a partition, it is dropped as a whole. Rows of the
//! tenants with the longest retention wait for that; those of others are deleted one by one, see `retention`.

use super::retention::{JOB_ROWS_MAX, days_before};
use crate::mail::{SignedDuration, Timestamp};
use crate::model::MessageId;
use crate::store::database::{Connection, Engine};
use crate::store::sql::Store;
use crate::store::sql::postgres::partitions::{self, DAYS, Group, LastChange, Partition, Span, WEEKS};
use crate::store::sql::sql_types::us;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Result, RetentionPolicy};

/// How long rows wait for the end of their partition's last messages. Afterwards they are deleted one by one.
const WAIT_DAYS_MAX: u32 = 7;
/// When a partition that could not be dropped is looked at again: while messages are open, and when all have ended, but not
/// long enough ago.
const WAIT_OF_OPEN: SignedDuration = SignedDuration::from_hours(1);
const WAIT_MIN: SignedDuration = SignedDuration::from_mins(1);
const WAIT_MAX: SignedDuration = SignedDuration::from_hours(24);
/// Maximum of bodies that are copied so that a partition can be dropped, and of those in one job.
const COPIED_BODIES_MAX: usize = 500_000;
const JOB_BODIES_MAX: usize = 20;

/// The longest retention of all tenants, in days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Longest {
    rows: u32,
    bodies: u32,
}

impl Longest {
    fn read(connection: &Connection, policy: RetentionPolicy) -> Result<Self> {
        let RetentionPolicy { row_days, body_days, .. } = policy;
        let mut longest = Self { rows: row_days, bodies: body_days.min(row_days) };
        let mut statement =
            connection.prepare_cached("SELECT retention_days, body_retention_days FROM tenant")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let rows = row.get::<_, Option<u32>>(0)?.unwrap_or(row_days);
            // A body is deleted with its message.
            let bodies = row.get::<_, Option<u32>>(1)?.unwrap_or(body_days).min(rows);
            longest = Self { rows: longest.rows.max(rows), bodies: longest.bodies.max(bodies) };
        }
        Ok(longest)
    }
}

/// The retention by which a partition was chosen to be dropped.
#[derive(Debug, Clone, Copy)]
struct Terms {
    policy: RetentionPolicy,
    longest: Longest,
}

impl Terms {
    /// Whether the longest retention is still the same. Each transaction that removes something asks this, because an operator
    /// may give a tenant a longer retention between the transactions of one week.
    fn hold(&self, tx: &Tx<'_>) -> Result<bool> {
        Ok(Longest::read(tx, self.policy)? == self.longest)
    }
}

/// Ids that are not deleted one by one for owners with this retention, because their partitions will be dropped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole {
    days: u32,
    span: Span,
}

/// Those of messages and events, and of bodies.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WholePeriods {
    pub(super) rows: Option<Whole>,
    pub(super) bodies: Option<Whole>,
}

impl WholePeriods {
    pub(super) fn read(connection: &Connection, policy: RetentionPolicy, now: Timestamp) -> Result<Self> {
        if connection.engine() == Engine::Sqlite {
            return Ok(Self::default());
        }
        let longest = Longest::read(connection, policy)?;
        Ok(Self {
            rows: Whole::read(connection, &WEEKS, longest.rows, now)?,
            bodies: Whole::read(connection, &DAYS, longest.bodies, now)?,
        })
    }
}

impl Whole {
    /// Nothing waits for longer than its retention.
    fn read(connection: &Connection, group: &Group, days: u32, now: Timestamp) -> Result<Option<Self>> {
        let partitions = group.read(connection)?;
        let overdue = partitions::ms(days_before(days_before(now, days), WAIT_DAYS_MAX));
        let waiting = |partition: &Partition| {
            partition.dated().filter(|span| !partition.is_kept() && span.to_ms > overdue)
        };
        let first = partitions.iter().find_map(waiting);
        let end = partitions.last().and_then(Partition::begin_ms);
        Ok(first.zip(end).filter(|_| group.is_short_for(days)).map(|(first, to_ms)| {
            let from_ms = first.from_ms.max(first.to_ms.saturating_sub(group.period_ms()));
            Self { days, span: Span { from_ms, to_ms } }
        }))
    }

    /// The ids that wait, of owners with this retention.
    pub(super) fn span_for(whole: Option<Self>, days: u32) -> Option<Span> {
        whole.filter(|whole| whole.days == days).map(|whole| whole.span)
    }

    /// Whether a message of an owner with this retention waits.
    pub(super) fn waits(whole: Option<Self>, days: u32, id: MessageId) -> bool {
        let created_ms = partitions::ms(id.created_at());
        Self::span_for(whole, days).is_some_and(|span| (span.from_ms..span.to_ms).contains(&created_ms))
    }
}

/// The ranges of ids before `end` that are deleted one by one, as the first and the one after the last.
pub(super) fn ranges_of_rows(end: String, prefix: &str, whole: Option<Span>) -> Vec<(String, String)> {
    let Some(whole) = whole else { return vec![(String::new(), end)] };
    let (from, to) = whole.ids(prefix);
    let ranges = [(String::new(), from.min(end.clone())), (to, end)];
    ranges.into_iter().filter(|(low, high)| low < high).collect()
}

/// When partitions are looked at again that could not be dropped.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::store::sql) struct PartitionWaits {
    week: Option<Timestamp>,
    day: Option<Timestamp>,
    /// Of both. A try while others use the tables stops all mail for a moment.
    in_use: Option<Timestamp>,
}

/// The oldest partition, and the one before it, which takes its ids.
struct Oldest {
    before: Partition,
    partition: Partition,
    span: Span,
}

impl Oldest {
    /// The oldest one after this time whose ids are all before `end`.
    fn read(connection: &Connection, group: &Group, after_ms: u64, end: Timestamp) -> Result<Option<Self>> {
        let partitions = group.read(connection)?;
        let old = |pair: &[Partition]| {
            let [before, partition] = pair else { return None };
            let span = partition.dated()?;
            (span.from_ms >= after_ms && span.to_ms <= partitions::ms(end)).then(|| Self {
                before: before.clone(),
                partition: partition.clone(),
                span,
            })
        };
        Ok(partitions.windows(2).find_map(old))
    }
}

/// What is done with a day of bodies.
enum DayStep {
    Drop,
    /// Copy these before.
    Thin(Vec<MessageId>),
    /// Another time.
    Wait,
    /// It has only bodies that are deleted one by one.
    Keep,
}

impl DayStep {
    fn of(connection: &Connection, day: &Partition, end: Timestamp) -> Result<Self> {
        if day.is_kept() {
            return Ok(if partitions::is_empty(connection, day)? { Self::Drop } else { Self::Keep });
        }
        let needed = partitions::needed_bodies(connection, day, end, COPIED_BODIES_MAX + 1)?;
        Ok(match needed.len() {
            0 => Self::Drop,
            1..=COPIED_BODIES_MAX => Self::Thin(needed),
            _ => Self::Wait,
        })
    }
}

impl Store {
    /// Makes the partitions of the next periods.
    pub(super) async fn extend_all_partitions(&self, now: Timestamp) -> Result<()> {
        if self.engine == Engine::Sqlite {
            return Ok(());
        }
        for group in [&WEEKS, &DAYS] {
            // Not on a lane: the first time, PostgreSQL reads all that there is, which may take minutes.
            let extend = move |connection: &Connection| {
                if partitions::is_extended(connection, group, now)? {
                    return Ok(true);
                }
                let transaction = connection.transaction()?;
                let is_extended = partitions::extend(&transaction, group, now)?;
                transaction.commit()?;
                Ok(is_extended)
            };
            if !self.read_slow(extend).await? {
                tracing::info!("new partitions wait for statements that use the tables");
            }
        }
        Ok(())
    }

    /// Drops the partitions that are past the retention of all tenants.
    pub(super) async fn drop_partitions(&self, policy: RetentionPolicy, now: Timestamp) -> Result<()> {
        if self.engine == Engine::Sqlite {
            return Ok(());
        }
        if self.retention.lock().waits.in_use.is_some_and(|at| at > now) {
            return Ok(());
        }
        let longest = self.read(move |connection| Longest::read(connection, policy)).await?;
        let terms = Terms { policy, longest };
        let dropped_days = self.drop_days(terms, now).await?;
        let dropped_weeks = self.drop_weeks(terms, now).await?;
        if !dropped_days || !dropped_weeks {
            self.retention.lock().waits.in_use = now.checked_add(WAIT_MIN).ok();
        }
        Ok(())
    }

    /// False if a partition that is due could not be dropped.
    async fn drop_days(&self, terms: Terms, now: Timestamp) -> Result<bool> {
        let end = days_before(now, terms.longest.bodies);
        let may_look = self.retention.lock().waits.day.is_none_or(|at| at <= now);
        let mut after_ms = 0;
        loop {
            let next = move |connection: &Connection| {
                let Some(day) = Oldest::read(connection, &DAYS, after_ms, end)? else { return Ok(None) };
                let may_look = may_look || day.partition.is_kept();
                let step =
                    if may_look { DayStep::of(connection, &day.partition, end)? } else { DayStep::Wait };
                Ok(Some((day, step)))
            };
            let Some((Oldest { before, partition, span }, step)) = self.read_slow(next).await? else {
                return Ok(true);
            };
            after_ms = span.to_ms;
            let is_done = match step {
                DayStep::Keep => true,
                DayStep::Drop => self.drop_day(terms, before, partition).await?,
                DayStep::Thin(needed) => self.thin(terms, partition, needed).await?,
                DayStep::Wait => {
                    if may_look {
                        self.retention.lock().waits.day = now.checked_add(WAIT_OF_OPEN).ok();
                    }
                    return Ok(true);
                }
            };
            if !is_done {
                return Ok(false);
            }
        }
    }

    /// Replaces a day of bodies by those that are needed.
    async fn thin(&self, terms: Terms, day: Partition, needed: Vec<MessageId>) -> Result<bool> {
        for messages in needed.chunks(JOB_BODIES_MAX) {
            let (from, messages) = (day.clone(), messages.to_vec());
            self.write(move |tx| partitions::copy_needed(tx, &from, &messages)).await?;
        }
        let copied = needed.len();
        let is_replaced = self.write({
            let day = day.clone();
            move |tx| Ok(terms.hold(tx)? && partitions::replace(tx, &day)?)
        });
        let is_replaced = is_replaced.await?;
        if is_replaced {
            tracing::info!(copied, "dropped the bodies of {day}, but for those that messages need");
        }
        Ok(is_replaced)
    }

    /// False if a partition that is due could not be dropped.
    async fn drop_weeks(&self, terms: Terms, now: Timestamp) -> Result<bool> {
        let end = days_before(now, terms.longest.rows);
        while self.retention.lock().waits.week.is_none_or(|at| at <= now) {
            let next = move |connection: &Connection| {
                let Some(week) = Oldest::read(connection, &WEEKS, 0, end)? else { return Ok(None) };
                let last = partitions::last_change(connection, week.span)?;
                Ok(Some((week, last)))
            };
            let Some((week, last)) = self.read_slow(next).await? else { return Ok(true) };
            let wait = match last {
                LastChange::Open => Some(WAIT_OF_OPEN),
                LastChange::At(changed_us) if changed_us >= us(end) => {
                    let left = SignedDuration::from_micros(changed_us.saturating_sub(us(end)));
                    Some(left.clamp(WAIT_MIN, WAIT_MAX))
                }
                LastChange::At(_) | LastChange::None => None,
            };
            self.retention.lock().waits.week = wait.and_then(|wait| now.checked_add(wait).ok());
            if wait.is_some() {
                return Ok(true);
            }
            if !self.drop_week(terms, week).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Drops a week after what would stay after it. The last transaction finds nothing of that and drops, so that no report
    /// comes between.
    async fn drop_week(&self, terms: Terms, week: Oldest) -> Result<bool> {
        let Oldest { before, partition, span } = week;
        loop {
            let (earlier, gone) = (before.clone(), partition.clone());
            let step = move |tx: &Tx<'_>| {
                if !terms.hold(tx)? || partitions::has_open(tx, span)? {
                    return Ok(Some(false));
                }
                match partitions::remove_stragglers(tx, span, JOB_ROWS_MAX)? {
                    None => Ok(Some(false)),
                    Some(0) => Ok(Some(WEEKS.drop(tx, &earlier, &gone)?)),
                    Some(_) => Ok(None),
                }
            };
            if let Some(is_dropped) = self.write(step).await? {
                note_drop(&partition, is_dropped);
                return Ok(is_dropped);
            }
        }
    }

    async fn drop_day(&self, terms: Terms, before: Partition, gone: Partition) -> Result<bool> {
        let day = gone.clone();
        let step = move |tx: &Tx<'_>| Ok(terms.hold(tx)? && DAYS.drop(tx, &before, &gone)?);
        let is_dropped = self.write(step).await?;
        note_drop(&day, is_dropped);
        Ok(is_dropped)
    }
}

fn note_drop(partition: &Partition, is_dropped: bool) {
    if is_dropped {
        tracing::info!("dropped {partition}, whose retention has ended");
    } else {
        tracing::debug!("{partition} is in use");
    }
}
