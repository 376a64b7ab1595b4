//! Counting what waits: one walk over the index of open deliveries, which reads no row, kept for ten times as long as
//! it took. So whoever asks, however often, costs a reader a tenth of its time at most.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use ulid::Ulid;

use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, DeliveryState, QueueFilter, TenantId};
use crate::store::memory::lock;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::sql_types::us;
use crate::store::{
    GroupPlace, LaterBecause, PARKED_US, QueueCounts, QueueGroup, QueueOverview, QueueRequest, Result,
    StoreError,
};

/// Deliveries of a group that are looked at to tell why they are due later.
const SAMPLES_MAX: usize = 16;
/// Groups on a page.
const PAGE_GROUPS_MAX: usize = 100;
/// Parts of the queue whose counts are kept.
const KEPT_MAX: usize = 16;
/// How much longer than it took a count is kept.
const KEPT_FACTOR: u32 = 10;

/// One count.
pub(super) struct Survey {
    counted_at: Timestamp,
    totals: QueueCounts,
    /// The deepest first.
    groups: Vec<Group>,
    truncated: bool,
}

struct Group {
    tenant_id: TenantId,
    destination: Host,
    counts: QueueCounts,
    oldest_at: Timestamp,
    next_due_us: i64,
    later_us: i64,
    /// Some of those that are due later.
    samples: Vec<DeliveryId>,
}

/// The counts that are kept.
#[derive(Default)]
pub(in crate::store::sqlite) struct Surveys {
    kept: Mutex<Vec<Kept>>,
    /// One count at a time.
    turn: tokio::sync::Mutex<()>,
}

struct Kept {
    part: QueueFilter,
    survey: Arc<Survey>,
    good_until: Instant,
}

impl Surveys {
    fn find(&self, part: &QueueFilter) -> Option<Arc<Survey>> {
        let mut kept = lock(&self.kept);
        let now = Instant::now();
        kept.retain(|kept| kept.good_until > now);
        kept.iter().find(|kept| kept.part == *part).map(|kept| Arc::clone(&kept.survey))
    }

    fn keep(&self, part: QueueFilter, survey: Arc<Survey>, took: Duration) {
        let mut kept = lock(&self.kept);
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push(Kept { part, survey, good_until: Instant::now() + took * KEPT_FACTOR });
    }
}

impl SqliteStore {
    pub(super) async fn survey(
        &self,
        part: &QueueFilter,
        in_flight: HashSet<DeliveryId>,
        now: Timestamp,
    ) -> Result<Arc<Survey>> {
        if let Some(survey) = self.surveys.find(part) {
            return Ok(survey);
        }
        let _turn = self.surveys.turn.lock().await;
        // Who waited for the turn may find what it wants.
        if let Some(survey) = self.surveys.find(part) {
            return Ok(survey);
        }
        let asked = part.clone();
        let started = Instant::now();
        let survey =
            self.read_at_leisure(move |connection| count(connection, &asked, &in_flight, now)).await?;
        let survey = Arc::new(survey);
        self.surveys.keep(part.clone(), Arc::clone(&survey), started.elapsed());
        Ok(survey)
    }
}

/// What is being counted.
struct Counting<'a> {
    in_flight: &'a HashSet<DeliveryId>,
    now_us: i64,
    totals: QueueCounts,
    groups: Vec<Group>,
    truncated: bool,
}

/// One open delivery, as the index has it.
struct Entry<'a> {
    next_us: i64,
    id: &'a str,
}

fn count(
    connection: &Connection,
    part: &QueueFilter,
    in_flight: &HashSet<DeliveryId>,
    now: Timestamp,
) -> Result<Survey> {
    // In the order of the index, so that nothing has to be sorted.
    let filter = if part.tenant_id.is_some() { "tenant_id = ?1" } else { "?1 IS NULL" };
    let sql = format!(
        "SELECT tenant_id, next_attempt_us, id, destination FROM delivery
         WHERE next_attempt_us IS NOT NULL AND {filter} AND (?2 IS NULL OR destination = ?2)
         ORDER BY tenant_id, next_attempt_us, id"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![part.tenant_id, part.destination])?;
    let mut counting = Counting {
        in_flight,
        now_us: us(now),
        totals: QueueCounts::default(),
        groups: Vec::new(),
        truncated: false,
    };
    let mut tenant: Option<(String, TenantId)> = None;
    // Where the groups of this tenant are.
    let mut places: HashMap<String, usize> = HashMap::new();
    while let Some(row) = rows.next()? {
        let text = |column: usize| -> Result<&str> {
            row.get_ref(column)?.as_str().map_err(|error| StoreError::Failed(error.to_string()))
        };
        let tenant_text = text(0)?;
        let tenant_id = match &tenant {
            Some((known, id)) if known == tenant_text => *id,
            _ => {
                let id = row.get(0)?;
                tenant = Some((tenant_text.to_owned(), id));
                places.clear();
                id
            }
        };
        let entry = Entry { next_us: row.get(1)?, id: text(2)? };
        let destination = text(3)?;
        let at = match places.get(destination) {
            Some(&at) => Some(at),
            None => counting.open_group(tenant_id, || Ok(row.get(3)?), &entry)?.inspect(|&at| {
                places.insert(destination.to_owned(), at);
            }),
        };
        counting.add(at, &entry)?;
    }
    Ok(counting.finish(now))
}

impl Counting<'_> {
    /// Makes a group, if there may be another one.
    fn open_group(
        &mut self,
        tenant_id: TenantId,
        destination: impl FnOnce() -> Result<Host>,
        first: &Entry<'_>,
    ) -> Result<Option<usize>> {
        if self.groups.len() >= QueueOverview::GROUPS_MAX {
            self.truncated = true;
            return Ok(None);
        }
        self.groups.push(Group {
            tenant_id,
            destination: destination()?,
            counts: QueueCounts::default(),
            oldest_at: Timestamp::MAX,
            next_due_us: first.next_us,
            later_us: PARKED_US,
            samples: Vec::new(),
        });
        Ok(Some(self.groups.len() - 1))
    }

    fn add(&mut self, at: Option<usize>, entry: &Entry<'_>) -> Result<()> {
        let mut one = QueueCounts { open: 1, ..QueueCounts::default() };
        match entry.next_us {
            PARKED_US => one.parked = 1,
            next if next > self.now_us => one.later = 1,
            _ if self.has(entry)? => one.in_flight = 1,
            _ => one.due = 1,
        }
        self.totals += one;
        let Some(group) = at.and_then(|at| self.groups.get_mut(at)) else { return Ok(()) };
        group.counts += one;
        group.oldest_at = group.oldest_at.min(accepted_at(entry.id));
        if one.later == 1 {
            group.later_us = group.later_us.min(entry.next_us);
            if group.samples.len() < SAMPLES_MAX {
                group.samples.push(read_id(entry.id)?);
            }
        }
        Ok(())
    }

    fn has(&self, entry: &Entry<'_>) -> Result<bool> {
        Ok(!self.in_flight.is_empty() && self.in_flight.contains(&read_id(entry.id)?))
    }

    fn finish(self, counted_at: Timestamp) -> Survey {
        let Self { totals, mut groups, truncated, .. } = self;
        groups.sort_by_cached_key(Group::key);
        Survey { counted_at, totals, groups, truncated }
    }
}

fn read_id(text: &str) -> Result<DeliveryId> {
    text.parse().map_err(|error: crate::model::IdError| StoreError::Failed(error.to_string()))
}

/// An id holds the time of its making.
fn accepted_at(id: &str) -> Timestamp {
    let ulid = id.strip_prefix(DeliveryId::PREFIX).and_then(|rest| Ulid::from_string(rest).ok());
    let ms = ulid.and_then(|ulid| i64::try_from(ulid.timestamp_ms()).ok());
    ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

impl Group {
    /// Deepest first, and the same order each time.
    fn key(&self) -> (std::cmp::Reverse<u64>, TenantId, String) {
        (std::cmp::Reverse(self.counts.open), self.tenant_id, self.destination.to_string())
    }
}

/// One page of a count, with why its groups wait.
pub(super) fn page(
    connection: &Connection,
    survey: &Survey,
    request: &QueueRequest,
) -> Result<QueueOverview> {
    let behind = |place: &GroupPlace| {
        let key = (std::cmp::Reverse(place.open), place.tenant_id, place.destination.to_string());
        survey.groups.partition_point(|group| group.key() <= key)
    };
    let first = request.after.as_ref().map_or(0, behind);
    let rest = survey.groups.get(first..).unwrap_or_default();
    let limit = request.limit.clamp(1, PAGE_GROUPS_MAX);
    let groups = rest.iter().take(limit).map(|group| explain(connection, group)).collect::<Result<_>>()?;
    Ok(QueueOverview {
        counted_at: survey.counted_at,
        totals: survey.totals,
        oldest_at: survey.groups.iter().map(|group| group.oldest_at).min(),
        group_count: survey.groups.len() as u64,
        truncated: survey.truncated,
        groups,
        has_more: rest.len() > limit,
    })
}

fn explain(connection: &Connection, group: &Group) -> Result<QueueGroup> {
    let time = |at_us: i64| (at_us != PARKED_US).then(|| super::pauses::time_of(at_us));
    Ok(QueueGroup {
        tenant_id: group.tenant_id,
        destination: group.destination.clone(),
        counts: group.counts,
        oldest_at: group.oldest_at,
        next_due_at: time(group.next_due_us),
        later_at: time(group.later_us),
        later_because: read_causes(connection, &group.samples)?,
    })
}

fn read_causes(connection: &Connection, samples: &[DeliveryId]) -> Result<LaterBecause> {
    // What a pause put off was not scheduled by its sender.
    let sql = "SELECT d.state, d.last_reply, m.release_us IS NOT NULL AND m.release_us = d.next_attempt_us
               FROM delivery d JOIN message m ON m.id = d.message_id
               WHERE d.id = ?1 AND d.next_attempt_us IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    let mut causes = LaterBecause::default();
    let mut replies: HashMap<String, usize> = HashMap::new();
    for id in samples {
        let mut rows = statement.query([id])?;
        let Some(row) = rows.next()? else { continue };
        causes.deferred |= row.get::<_, DeliveryState>(0)? == DeliveryState::Deferred;
        causes.scheduled |= row.get::<_, bool>(2)?;
        if let Some(reply) = row.get::<_, Option<String>>(1)? {
            *replies.entry(reply).or_default() += 1;
        }
    }
    let most = replies.into_iter().max_by(|(one, a), (other, b)| a.cmp(b).then_with(|| other.cmp(one)));
    causes.last_reply = most.map(|(reply, _)| reply);
    Ok(causes)
}
