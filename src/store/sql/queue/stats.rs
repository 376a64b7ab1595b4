//! Counts open deliveries with one scan of a covering index. The result is cached for ten times as long as the scan took,
//! so that requests cost at most a tenth of one reader's time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::Instrument as _;
use ulid::Ulid;

use super::pauses::PausedTenants;
use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, DeliveryState, QueueFilter, TenantId};
use crate::store::database::{Connection, Engine, Row, params};
use crate::store::sql::Store;
use crate::store::sql::sql_types::us;
use crate::store::{
    DeferralCauses, GroupPlace, OPEN_ENDED_PAUSE_US, PAGE_OBJECTS_MAX, QueueCounts, QueueGroup,
    QueueOverview, QueueRequest, RESTORED_US, Result, StoreError, is_held,
};

/// Sampled deliveries of a group, to find out why they wait.
const SAMPLES_MAX: usize = 16;
/// Maximum of cached counts, one for each requested part.
const CACHED_MAX: usize = 16;
/// A count is cached for this many times its duration.
const CACHE_FACTOR: u32 = 10;

/// The result of one count.
pub(super) struct QueueStats {
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
    restored: u64,
    oldest_at: Timestamp,
    next_due_us: i64,
    deferred_us: i64,
    /// A sample of the deferred ones.
    samples: Vec<DeliveryId>,
}

/// Cached counts.
#[derive(Default)]
pub(in crate::store::sql) struct StatsCache {
    cached: Mutex<Vec<CachedStats>>,
    /// Locked while counting.
    counting: Arc<tokio::sync::Mutex<()>>,
}

struct CachedStats {
    part: QueueFilter,
    stats: Arc<QueueStats>,
    good_until: Instant,
}

impl StatsCache {
    fn find(&self, part: &QueueFilter) -> Option<Arc<QueueStats>> {
        let mut cached = self.cached.lock();
        let now = Instant::now();
        cached.retain(|entry| entry.good_until > now);
        cached.iter().find(|entry| entry.part == *part).map(|entry| Arc::clone(&entry.stats))
    }

    fn insert(&self, part: QueueFilter, stats: Arc<QueueStats>, took: Duration) {
        let mut cached = self.cached.lock();
        if cached.len() >= CACHED_MAX {
            cached.remove(0);
        }
        cached.push(CachedStats { part, stats, good_until: Instant::now() + took * CACHE_FACTOR });
    }
}

impl Store {
    pub(super) async fn queue_stats(
        &self,
        part: &QueueFilter,
        in_flight: HashSet<DeliveryId>,
        now: Timestamp,
    ) -> Result<Arc<QueueStats>> {
        if let Some(stats) = self.stats_cache.find(part) {
            return Ok(stats);
        }
        let guard = Arc::clone(&self.stats_cache.counting).lock_owned().await;
        // Another caller may have counted meanwhile.
        if let Some(stats) = self.stats_cache.find(part) {
            return Ok(stats);
        }
        let (store, part) = (self.clone(), part.clone());
        let counted = async move {
            let stats = store.count(part, in_flight, now).await;
            drop(guard);
            stats
        };
        // The query goes on when its caller gives up. Its result must not be lost, and no other may begin beside it.
        let counted = tokio::spawn(counted.in_current_span()).await;
        counted.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())))
    }

    async fn count(
        &self,
        part: QueueFilter,
        in_flight: HashSet<DeliveryId>,
        now: Timestamp,
    ) -> Result<Arc<QueueStats>> {
        let count = Count {
            part: part.clone(),
            in_flight,
            epoch: self.lease.epoch(),
            now,
            page_rows: self.bounds.slice_rows_max,
        };
        let started = Instant::now();
        let stats = Arc::new(self.read_slow(move |connection| count.run(connection)).await?);
        self.stats_cache.insert(part, Arc::clone(&stats), started.elapsed());
        Ok(stats)
    }
}

/// What is counted.
struct Count {
    part: QueueFilter,
    in_flight: HashSet<DeliveryId>,
    /// Names this node: what others have claimed is in flight.
    epoch: i64,
    now: Timestamp,
    /// Rows that are read at once: PostgreSQL sends all rows of a query.
    page_rows: usize,
}

/// A count in progress.
struct Counting<'a> {
    in_flight: &'a HashSet<DeliveryId>,
    epoch: i64,
    paused: PausedTenants,
    now_us: i64,
    totals: QueueCounts,
    groups: Vec<Group>,
    truncated: bool,
    /// The tenant of the last row.
    tenant: Option<(String, TenantId)>,
    /// Indexes of its groups, by destination.
    places: HashMap<String, usize>,
}

/// An open delivery in the index.
struct Entry<'a> {
    next_us: i64,
    id: &'a str,
    /// The node that has claimed it; 0 if none has.
    owner: i64,
}

/// The place of a row in the index.
struct IndexPlace {
    tenant_id: String,
    next_us: i64,
    id: String,
}

impl Count {
    fn run(&self, connection: &Connection) -> Result<QueueStats> {
        // All pages show the same moment.
        let snapshot = connection.snapshot()?;
        let mut counting = Counting {
            in_flight: &self.in_flight,
            epoch: self.epoch,
            paused: PausedTenants::read(&snapshot, self.now)?,
            now_us: us(self.now),
            totals: QueueCounts::default(),
            groups: Vec::new(),
            truncated: false,
            tenant: None,
            places: HashMap::new(),
        };
        let tenant_id = self.part.tenant_id.map(|id| id.to_string()).unwrap_or_default();
        let mut last = Some(IndexPlace { tenant_id, next_us: i64::MIN, id: String::new() });
        while let Some(after) = last {
            last = self.add_page(&snapshot, &after, &mut counting)?;
        }
        if snapshot.engine() == Engine::Postgres {
            self.add_claimed(&snapshot, &mut counting)?;
        }
        Ok(counting.finish(self.now))
    }

    /// Counts the deliveries that a node has claimed, which are few and in no index.
    fn add_claimed(&self, connection: &Connection, counting: &mut Counting<'_>) -> Result<()> {
        let sql = "SELECT tenant_id, next_attempt_us, id, destination, owner FROM queue
                   WHERE owner <> 0 AND (tenant_id = ?1 OR ?1 IS NULL) AND (destination = ?2 OR ?2 IS NULL)
                   ORDER BY tenant_id";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![self.part.tenant_id, self.part.destination])?;
        counting.tenant = None;
        while let Some(row) = rows.next()? {
            let entry = Entry { next_us: row.get(1)?, id: text(&row, 2)?, owner: row.get(4)? };
            counting.add_row(&row, &entry)?;
        }
        Ok(())
    }

    /// Counts the next rows of the index. Returns the last of them, unless the index ends.
    fn add_page(
        &self,
        connection: &Connection,
        after: &IndexPlace,
        counting: &mut Counting<'_>,
    ) -> Result<Option<IndexPlace>> {
        // In the order of the index, without sorting.
        let is_behind = match self.part.tenant_id {
            Some(_) => "tenant_id = ?1 AND (next_attempt_us, id) > (?2, ?3)",
            None => "(tenant_id, next_attempt_us, id) > (?1, ?2, ?3)",
        };
        let sql = format!(
            "SELECT tenant_id, next_attempt_us, id, destination FROM queue
             WHERE owner = 0 AND {is_behind} AND (destination = ?4 OR ?4 IS NULL)
             ORDER BY tenant_id, next_attempt_us, id LIMIT {}",
            self.page_rows
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows =
            statement.query(params![after.tenant_id, after.next_us, after.id, self.part.destination])?;
        let mut rows_read = 0;
        while let Some(row) = rows.next()? {
            rows_read += 1;
            let entry = Entry { next_us: row.get(1)?, id: text(&row, 2)?, owner: 0 };
            counting.add_row(&row, &entry)?;
            if rows_read == self.page_rows {
                let (tenant_id, id) = (text(&row, 0)?.to_owned(), entry.id.to_owned());
                return Ok(Some(IndexPlace { tenant_id, next_us: entry.next_us, id }));
            }
        }
        Ok(None)
    }
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a str> {
    row.get_ref(column)?.as_str().map_err(|error| StoreError::Failed(error.to_string()))
}

impl Counting<'_> {
    fn add_row(&mut self, row: &Row<'_>, entry: &Entry<'_>) -> Result<()> {
        let tenant_text = text(row, 0)?;
        let tenant_id = match &self.tenant {
            Some((known, id)) if known == tenant_text => *id,
            _ => {
                let id = row.get(0)?;
                self.tenant = Some((tenant_text.to_owned(), id));
                self.places = self.places_of(id, entry);
                id
            }
        };
        let destination = text(row, 3)?;
        let at = match self.places.get(destination) {
            Some(&at) => Some(at),
            None => self.open_group(tenant_id, || Ok(row.get(3)?), entry)?.inspect(|&at| {
                self.places.insert(destination.to_owned(), at);
            }),
        };
        self.add(at, tenant_id, entry)
    }

    /// The groups that the tenant has already. The rows of the index are in the order of tenants, so there it has none.
    fn places_of(&self, tenant: TenantId, first: &Entry<'_>) -> HashMap<String, usize> {
        if first.owner == 0 {
            return HashMap::new();
        }
        let groups = self.groups.iter().enumerate().filter(|(_, group)| group.tenant_id == tenant);
        groups.map(|(at, group)| (group.destination.to_string(), at)).collect()
    }

    /// Adds a group, unless the maximum is reached.
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
            restored: 0,
            oldest_at: Timestamp::MAX,
            next_due_us: first.next_us,
            deferred_us: OPEN_ENDED_PAUSE_US,
            samples: Vec::new(),
        });
        Ok(Some(self.groups.len() - 1))
    }

    fn add(&mut self, at: Option<usize>, tenant: TenantId, entry: &Entry<'_>) -> Result<()> {
        let mut one = QueueCounts { open: 1, ..QueueCounts::default() };
        match entry.next_us {
            next if is_held(next) => one.paused = 1,
            next if next > self.now_us => one.deferred = 1,
            _ if self.has(entry)? => one.in_flight = 1,
            _ if self.paused.has(tenant) => one.paused = 1,
            _ => one.due = 1,
        }
        self.totals += one;
        let Some(group) = at.and_then(|at| self.groups.get_mut(at)) else { return Ok(()) };
        group.counts += one;
        group.restored += u64::from(entry.next_us == RESTORED_US);
        group.next_due_us = group.next_due_us.min(entry.next_us);
        group.oldest_at = group.oldest_at.min(accepted_at(entry.id));
        if one.deferred == 1 {
            group.deferred_us = group.deferred_us.min(entry.next_us);
            if group.samples.len() < SAMPLES_MAX {
                group.samples.push(read_id(entry.id)?);
            }
        }
        Ok(())
    }

    fn has(&self, entry: &Entry<'_>) -> Result<bool> {
        let is_of_another_node = entry.owner != 0 && entry.owner != self.epoch;
        Ok(is_of_another_node || !self.in_flight.is_empty() && self.in_flight.contains(&read_id(entry.id)?))
    }

    fn finish(self, counted_at: Timestamp) -> QueueStats {
        let Self { totals, mut groups, truncated, .. } = self;
        groups.sort_by_cached_key(Group::key);
        QueueStats { counted_at, totals, groups, truncated }
    }
}

fn read_id(text: &str) -> Result<DeliveryId> {
    text.parse().map_err(|error: crate::model::IdError| StoreError::Failed(error.to_string()))
}

/// The creation time in an id.
fn accepted_at(id: &str) -> Timestamp {
    let ulid = id.strip_prefix(DeliveryId::PREFIX).and_then(|rest| Ulid::from_string(rest).ok());
    let ms = ulid.and_then(|ulid| i64::try_from(ulid.timestamp_ms()).ok());
    ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

impl Group {
    /// Deepest first, with a stable order.
    fn key(&self) -> (std::cmp::Reverse<u64>, TenantId, String) {
        (std::cmp::Reverse(self.counts.open), self.tenant_id, self.destination.to_string())
    }
}

/// A page of groups with the reasons why they wait.
pub(super) fn page(
    connection: &Connection,
    stats: &QueueStats,
    request: &QueueRequest,
) -> Result<QueueOverview> {
    let behind = |place: &GroupPlace| {
        let key = (std::cmp::Reverse(place.open), place.tenant_id, place.destination.to_string());
        stats.groups.partition_point(|group| group.key() <= key)
    };
    let first = request.after.as_ref().map_or(0, behind);
    let rest = stats.groups.get(first..).unwrap_or_default();
    let limit = request.limit.clamp(1, PAGE_OBJECTS_MAX);
    let groups = rest.iter().take(limit).map(|group| explain(connection, group)).collect::<Result<_>>()?;
    Ok(QueueOverview {
        counted_at: stats.counted_at,
        totals: stats.totals,
        oldest_at: stats.groups.iter().map(|group| group.oldest_at).min(),
        group_count: stats.groups.len() as u64,
        truncated: stats.truncated,
        groups,
        has_more: rest.len() > limit,
    })
}

fn explain(connection: &Connection, group: &Group) -> Result<QueueGroup> {
    let time = |at_us: i64| (!is_held(at_us)).then(|| super::pauses::time_of(at_us));
    Ok(QueueGroup {
        tenant_id: group.tenant_id,
        destination: group.destination.clone(),
        counts: group.counts,
        restored: group.restored,
        oldest_at: group.oldest_at,
        next_due_at: time(group.next_due_us),
        deferred_until: time(group.deferred_us),
        deferral_causes: read_causes(connection, &group.samples)?,
    })
}

fn read_causes(connection: &Connection, samples: &[DeliveryId]) -> Result<DeferralCauses> {
    // A delivery that a pause moved was not scheduled by its sender.
    let sql = "SELECT d.state, d.last_reply, m.release_us IS NOT NULL AND m.release_us = d.next_attempt_us
               FROM delivery d JOIN message m ON m.id = d.message_id
               WHERE d.id = ?1 AND d.next_attempt_us IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    let mut causes = DeferralCauses::default();
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

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::{Context, Waker};

    use super::*;
    use crate::store::contract::now;
    use crate::store::sql::tests::Bed;

    #[tokio::test]
    async fn a_count_is_cached_although_its_caller_gave_up() {
        let bed = Bed::new().await;
        let store = bed.engine();
        let part = QueueFilter::default();
        let mut asked = Box::pin(store.queue_stats(&part, HashSet::new(), now()));
        assert!(asked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(asked);
        let is_cached = async {
            while store.stats_cache.cached.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), is_cached).await.expect("the count is cached");
    }
}
