//! The queue manager of a process.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::announced_backoffs::Unannounced;
use super::bounce_breaker::BounceBreaker;
use super::claim::{Claim, GivenBack, Releaser};
use super::claim_pass::{ClaimLimits, ClaimPass, Claimed};
use super::claim_table::{ClaimTable, LEFT_TO_DUE, Wakes};
use super::dispatch::Dispatcher;
use super::failure_reasons::FailureReasons;
use super::queue_key::QueueKey;
use super::site::Sites;
use super::site_resolution::SiteResolution;
use super::wait_reasons::WaitRegistry;
use crate::clock::Clock;
use crate::config;
use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, Environment, TenantId};
use crate::rng::Rng;
use crate::store::{Batch, Queue, QueueOverview, QueueRequest, Result, Spool, SpoolFeed, Store};

/// Decides in memory which deliveries of the spool are next. In SQLite a claim writes nothing: after a crash, all unfinished
/// deliveries are due.
pub struct QueueManager {
    store: Arc<Store>,
    clock: Clock,
    rng: Rng,
    pub(super) feed: Arc<SpoolFeed>,
    state: Mutex<State>,
    releaser: Releaser,
    dispatch: Mutex<Dispatch>,
    pub(super) freed: mpsc::Sender<(QueueKey, TenantId)>,
    pub(super) lookups: SiteResolution,
    sites: Sites,
    pub(super) breaker: BounceBreaker,
    wait_reasons: WaitRegistry,
    failures: FailureReasons,
    /// Back-offs that other nodes are to be told.
    pub(super) unannounced: Mutex<Unannounced>,
    /// Signals that a waiting claim may get a slot.
    pub(super) scheduler_wakeup: Notify,
    work: Notify,
    fresh: Notify,
    /// Locked during a pass.
    pass: tokio::sync::Mutex<()>,
    claimed: AtomicU64,
    gone: AtomicU64,
}

/// Nobody awaits the channels of this module. They are the standard library's, because `try_recv` of tokio's parks the thread
/// while another thread sends, and can consume the wake-up of a `Runtime::block_on` on this thread.
struct State {
    table: ClaimTable,
    given_back: mpsc::Receiver<GivenBack>,
}

struct Dispatch {
    dispatcher: Dispatcher,
    freed: mpsc::Receiver<(QueueKey, TenantId)>,
}

/// Numbers of deliveries in the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Unfinished.
    pub open: u64,
    /// Claimed: being delivered or waiting in memory.
    pub claimed: u64,
}

/// Numbers of deliveries that passes chose from the database, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClaimCounts {
    /// This process has claimed them.
    pub claimed: u64,
    /// Another node had claimed them before, or they were deleted.
    pub gone: u64,
}

/// The claim table after all changes so far.
pub(super) struct Table<'a>(MutexGuard<'a, State>);

impl Deref for Table<'_> {
    type Target = ClaimTable;
    fn deref(&self) -> &ClaimTable {
        &self.0.table
    }
}

impl DerefMut for Table<'_> {
    fn deref_mut(&mut self) -> &mut ClaimTable {
        &mut self.0.table
    }
}

/// The dispatcher after all returned slots so far.
pub(crate) struct Dispatching<'a>(MutexGuard<'a, Dispatch>);

impl Deref for Dispatching<'_> {
    type Target = Dispatcher;
    fn deref(&self) -> &Dispatcher {
        &self.0.dispatcher
    }
}

impl DerefMut for Dispatching<'_> {
    fn deref_mut(&mut self) -> &mut Dispatcher {
        &mut self.0.dispatcher
    }
}

impl QueueManager {
    /// Creates the only reader of the store's feed.
    pub fn new(store: Arc<Store>, config: &config::Relay, clock: Clock, rng: Rng) -> Self {
        let (sender, given_back) = mpsc::channel();
        let (freed, free_slots) = mpsc::channel();
        let feed = store.feed();
        let sites = Sites::new(config, clock.clone());
        let dispatcher = Dispatcher::new(config.connections_max, sites.default_rule().clone());
        Self {
            releaser: Releaser { sender, feed: feed.clone() },
            feed,
            store,
            clock,
            rng,
            state: Mutex::new(State { table: ClaimTable::default(), given_back }),
            dispatch: Mutex::new(Dispatch { dispatcher, freed: free_slots }),
            freed,
            lookups: SiteResolution::new(),
            sites,
            breaker: BounceBreaker::default(),
            wait_reasons: WaitRegistry::default(),
            failures: FailureReasons::default(),
            unannounced: Mutex::default(),
            scheduler_wakeup: Notify::new(),
            work: Notify::new(),
            fresh: Notify::new(),
            pass: tokio::sync::Mutex::default(),
            claimed: AtomicU64::new(0),
            gone: AtomicU64::new(0),
        }
    }

    /// The store of the queue.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Why deliveries failed lately.
    pub fn failure_reasons(&self) -> &FailureReasons {
        &self.failures
    }

    /// The clock by which mail is due.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The randomness of the queue and of the delivery agents.
    pub fn rng(&self) -> &Rng {
        &self.rng
    }

    /// The sites of destinations.
    pub fn sites(&self) -> &Sites {
        &self.sites
    }

    /// The recorded reasons why mail waits.
    pub fn wait_reasons(&self) -> &WaitRegistry {
        &self.wait_reasons
    }

    /// Locks the dispatcher and returns freed slots to it.
    pub(crate) fn dispatcher(&self) -> Dispatching<'_> {
        // Each change is one step, so a panic leaves nothing half changed.
        let mut dispatch = self.dispatch.lock();
        while let Ok((queue_key, holder)) = dispatch.freed.try_recv() {
            dispatch.dispatcher.free(&queue_key, &holder);
        }
        dispatch.dispatcher.share_among(self.store.nodes().count);
        Dispatching(dispatch)
    }

    pub(super) fn claim_of(&self, batch: Batch, epoch: i64) -> Claim {
        Claim::new(batch, epoch, self.releaser.clone())
    }

    /// Locks the claim table and applies committed changes and returned claims.
    pub(super) fn lock(&self) -> Table<'_> {
        // No holder can leave the table half changed.
        let mut state = self.state.lock();
        let mut wakes = Wakes::default();
        for change in self.feed.take() {
            let more = state.table.apply(change);
            wakes = Wakes { work: wakes.work | more.work, fresh: wakes.fresh | more.fresh };
        }
        while let Ok(GivenBack { deliveries, unscanned }) = state.given_back.try_recv() {
            state.table.release(&deliveries);
            for tenant in unscanned {
                state.table.note_scan(tenant, None, Some(i64::MIN));
            }
            wakes.work = true;
        }
        self.store.release(mem::take(&mut state.table.given_back));
        if wakes.work {
            self.work.notify_one();
        }
        if wakes.fresh {
            self.fresh.notify_one();
        }
        Table(state)
    }

    /// Claims due deliveries, grouped by message and destination, until they are recorded in the store or given to
    /// [`QueueManager::release`].
    pub async fn claim_due(&self, now: Timestamp, limits: &ClaimLimits) -> Result<Claimed> {
        // The next pass must wait until this one has claimed or released its deliveries.
        let _pass = self.pass.lock().await;
        ClaimPass::begin(self, now, limits).run().await
    }

    /// Claims mail from the hot queue within the limits, also while [`QueueManager::claim_due`] reads the database.
    pub fn claim_fresh(&self, limits: &ClaimLimits) -> Vec<Batch> {
        let mut table = self.lock();
        let mut batches = Vec::new();
        table.serve_round_robin(limits.deliveries_max, |table, tenant, share| {
            let left_to_due = if table.due.has(tenant) { limits.per_tenant_max / LEFT_TO_DUE } else { 0 };
            let wanted = share.min(table.allowance_of(tenant, limits).saturating_sub(left_to_due));
            let taken = table.take_hot(tenant, wanted, &*limits.admits);
            let count = taken.iter().map(|batch| batch.deliveries.len()).sum();
            batches.extend(taken);
            Some(count)
        });
        let has_leftovers = !table.hot.is_empty();
        table.has_leftovers |= has_leftovers;
        drop(table);
        if has_leftovers {
            // A pass tries again, because nothing signals when the filter admits more.
            self.work.notify_one();
        }
        batches
    }

    /// Completes when [`QueueManager::claim_fresh`] may find mail.
    pub async fn wait_for_fresh(&self) {
        self.wait_for(&self.fresh).await;
    }

    /// Completes when deliveries may be due earlier than [`QueueManager::claim_due`] returned.
    pub async fn wait_for_work(&self) {
        self.wait_for(&self.work).await;
    }

    async fn wait_for(&self, signal: &Notify) {
        loop {
            // Applies changes, which also signals those that wait for the other signal.
            drop(self.lock());
            tokio::select! {
                biased;
                () = signal.notified() => return,
                () = self.feed.changed() => {}
            }
        }
    }

    /// Ends claims; the deliveries are due as before.
    pub fn release(&self, deliveries: Vec<DeliveryId>) {
        self.give_back(GivenBack { deliveries, unscanned: Vec::new() });
    }

    pub(super) fn give_back(&self, given_back: GivenBack) {
        self.releaser.give_back(given_back);
    }

    /// Whether the relay has a delivery.
    pub fn is_in_flight(&self, id: DeliveryId) -> bool {
        self.lock().is_handed_out(id)
    }

    /// The number of deliveries of a tenant that the relay has.
    pub fn in_flight_of(&self, tenant: TenantId) -> usize {
        self.lock().handed_out_of(tenant)
    }

    /// Whether claimed mail for a destination is paused, or its tenant suspended. Test mail is not paused.
    pub fn is_paused(&self, of: (TenantId, Environment), destination: &Host, now: Timestamp) -> bool {
        self.lock().is_paused(of, destination, now)
    }

    /// The numbers of unfinished and claimed deliveries.
    ///
    /// # Errors
    /// The store's.
    pub async fn depth(&self) -> Result<QueueDepth> {
        let open = self.store.count_open().await?;
        Ok(QueueDepth { open, claimed: self.lock().claims() as u64 })
    }

    /// Counts what a pass chose from the database, and what of it was still there.
    pub(super) fn note_claims(&self, chosen: usize, claimed: usize) {
        self.claimed.fetch_add(claimed as u64, Ordering::Relaxed);
        self.gone.fetch_add(chosen.saturating_sub(claimed) as u64, Ordering::Relaxed);
    }

    /// Numbers of deliveries that passes chose from the database.
    pub fn claim_counts(&self) -> ClaimCounts {
        ClaimCounts { claimed: self.claimed.load(Ordering::Relaxed), gone: self.gone.load(Ordering::Relaxed) }
    }

    /// See [`Queue::overview`].
    ///
    /// # Errors
    /// The store's.
    pub async fn overview(&self, request: QueueRequest, now: Timestamp) -> Result<QueueOverview> {
        let in_flight = self.lock().handed_out();
        self.store.overview(request, in_flight, now).await
    }
}
