//! The queue manager of a process: what may be delivered now, and to whom it is handed out.

use std::collections::HashSet;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use super::claim::{Claim, GivenBack, Releaser};
use super::claim_pass::{ClaimPass, ClaimRoom, Claimed};
use super::claim_table::{ClaimTable, LEFT_TO_DUE, Wakes};
use super::dispatch::Dispatcher;
use super::queue_key::QueueKey;
use super::site::Sites;
use super::site_resolution::SiteResolution;
use super::wait_reasons::WaitRegistry;
use crate::clock::Clock;
use crate::config;
use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, MessageId, TenantId};
use crate::rng::Rng;
use crate::store::{
    Batch, Queue, QueueOverview, QueueRequest, Result, Spool, SpoolFeed, Steered, Store, StoreError,
};

/// Decides in memory what of the spool is delivered next. A claim writes nothing: after a crash everything that is not
/// finished is due.
pub struct QueueManager {
    store: Arc<Store>,
    clock: Clock,
    rng: Rng,
    feed: Arc<SpoolFeed>,
    state: Mutex<State>,
    releaser: Releaser,
    dispatch: Mutex<Dispatch>,
    pub(super) freed: mpsc::UnboundedSender<(QueueKey, TenantId)>,
    pub(super) lookups: SiteResolution,
    sites: Sites,
    wait_reasons: WaitRegistry,
    /// Something may have its turn that could not before.
    pub(super) turn: Notify,
    work: Notify,
    fresh: Notify,
    /// Held during a pass.
    pass: tokio::sync::Mutex<()>,
}

struct State {
    table: ClaimTable,
    given_back: mpsc::UnboundedReceiver<GivenBack>,
}

struct Dispatch {
    dispatcher: Dispatcher,
    freed: mpsc::UnboundedReceiver<(QueueKey, TenantId)>,
}

/// How many deliveries wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Not finished.
    pub open: u64,
    /// Being worked on or waiting in memory.
    pub claimed: u64,
}

/// The table, with all changes up to now.
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

/// The dispatcher, with all slots that were freed up to now.
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
    /// The only reader of the store's feed.
    pub fn new(store: Arc<Store>, config: &config::Relay, clock: Clock, rng: Rng) -> Self {
        let (sender, given_back) = mpsc::unbounded_channel();
        let (freed, free_slots) = mpsc::unbounded_channel();
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
            wait_reasons: WaitRegistry::default(),
            turn: Notify::new(),
            work: Notify::new(),
            fresh: Notify::new(),
            pass: tokio::sync::Mutex::default(),
        }
    }

    /// Where the queue is kept.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The clock by which mail is due.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The randomness of the queue and of those who deliver.
    pub fn rng(&self) -> &Rng {
        &self.rng
    }

    /// Which hosts take mail for which destinations.
    pub fn sites(&self) -> &Sites {
        &self.sites
    }

    /// Why mail waits, where only those who deliver know it.
    pub fn wait_reasons(&self) -> &WaitRegistry {
        &self.wait_reasons
    }

    /// The dispatcher after it was told of every slot that is free.
    pub(crate) fn dispatcher(&self) -> Dispatching<'_> {
        // Each change is one step.
        let mut dispatch = self.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok((lane, holder)) = dispatch.freed.try_recv() {
            dispatch.dispatcher.free(&lane, &holder);
        }
        Dispatching(dispatch)
    }

    pub(super) fn claim_of(&self, batch: Batch) -> Claim {
        Claim::new(batch, self.releaser.clone())
    }

    /// The table after it was told of everything that was committed or given back.
    pub(super) fn lock(&self) -> Table<'_> {
        // Nothing that holds the lock can leave the table half changed.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
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
        if wakes.work {
            self.work.notify_one();
        }
        if wakes.fresh {
            self.fresh.notify_one();
        }
        Table(state)
    }

    /// Takes due deliveries that nobody has claimed yet, grouped by message and destination. What it answers is the
    /// caller's until it is recorded in the store or given to [`QueueManager::release`].
    pub async fn claim_due(&self, now: Timestamp, room: &ClaimRoom) -> Result<Claimed> {
        // The next pass begins when it is known whether the caller took what was claimed.
        let _turn = self.pass.lock().await;
        ClaimPass::begin(self, now, room).run().await
    }

    /// Takes of what was accepted just now and waits in memory as much as there is room for, also while
    /// [`QueueManager::claim_due`] looks into the database, whose matter the rest is.
    pub fn claim_fresh(&self, room: &ClaimRoom) -> Vec<Batch> {
        let mut table = self.lock();
        let mut batches = Vec::new();
        table.serve_in_turns(room.deliveries_max, |table, tenant, share| {
            let left_to_due = if table.due.has(tenant) { room.per_tenant_max / LEFT_TO_DUE } else { 0 };
            let wanted = share.min(table.allowance_of(tenant, room).saturating_sub(left_to_due));
            let taken = table.take_hot(tenant, wanted, &*room.admits);
            let count = taken.iter().map(|batch| batch.deliveries.len()).sum();
            batches.extend(taken);
            Some(count)
        });
        let has_leftovers = !table.hot.is_empty();
        table.has_leftovers |= has_leftovers;
        drop(table);
        if has_leftovers {
            // A pass tries again, for nobody tells when what is not admitted now will be.
            self.work.notify_one();
        }
        batches
    }

    /// Completes when there may be something for [`QueueManager::claim_fresh`].
    pub async fn wait_for_fresh(&self) {
        self.wait_for(&self.fresh).await;
    }

    /// Completes when [`QueueManager::claim_due`] may have something earlier than its last answer said.
    pub async fn wait_for_work(&self) {
        self.wait_for(&self.work).await;
    }

    async fn wait_for(&self, signal: &Notify) {
        loop {
            // Who waits for the other signal is told of it by this.
            drop(self.lock());
            tokio::select! {
                biased;
                () = signal.notified() => return,
                () = self.feed.changed() => {}
            }
        }
    }

    /// Ends claims without a trace: the deliveries are due as they were.
    pub fn release(&self, deliveries: Vec<DeliveryId>) {
        self.give_back(GivenBack { deliveries, unscanned: Vec::new() });
    }

    pub(super) fn give_back(&self, given_back: GivenBack) {
        self.releaser.give_back(given_back);
    }

    /// Whether a pause or suspension holds a tenant's mail for a destination.
    pub fn is_paused(&self, tenant: TenantId, destination: &Host, now: Timestamp) -> bool {
        self.lock().is_paused(tenant, destination, now)
    }

    /// How many deliveries wait, and how many of them are claimed.
    ///
    /// # Errors
    /// The store's.
    pub async fn depth(&self) -> Result<QueueDepth> {
        let open = self.store.count_open().await?;
        Ok(QueueDepth { open, claimed: self.lock().claims() as u64 })
    }

    /// See [`Queue::overview`].
    ///
    /// # Errors
    /// The store's.
    pub async fn overview(&self, request: QueueRequest, now: Timestamp) -> Result<QueueOverview> {
        let in_flight = self.lock().handed_out();
        self.store.overview(request, in_flight, now).await
    }

    /// Makes the deliveries of a message due now that were tried and wait for their next try.
    ///
    /// # Errors
    /// The store's.
    pub async fn retry(&self, message: MessageId, now: Timestamp) -> Result<Steered> {
        let open = self.store.open_deliveries(message).await?;
        let Some(tenant) = open.tenant_id else { return Ok(Steered::default()) };
        let ids = open.deliveries.into_iter().map(|(id, _)| id);
        let (in_flight, ids) = {
            let table = self.lock();
            ids.partition(|&id| table.is_handed_out(id))
        };
        let changed = self.store.make_due(tenant, ids, now).await?;
        Ok(Steered { changed, in_flight })
    }

    /// Ends the open deliveries of a message that the relay does not have, each with its event. They are claimed first,
    /// so that the relay cannot get them meanwhile.
    ///
    /// # Errors
    /// The store's.
    pub async fn cancel(self: &Arc<Self>, message: MessageId, now: Timestamp) -> Result<Steered> {
        let manager = Arc::clone(self);
        // What was begun is done, whoever waits for it.
        let done = tokio::spawn(async move { manager.cancel_now(message, now).await });
        done.await.map_err(|error| StoreError::Failed(error.to_string()))?
    }

    async fn cancel_now(&self, message: MessageId, now: Timestamp) -> Result<Steered> {
        let open = self.store.open_deliveries(message).await?;
        let Some(tenant) = open.tenant_id else { return Ok(Steered::default()) };
        let taken: HashSet<DeliveryId> = self.lock().take_back(tenant, &open.deliveries);
        let ids = open.deliveries.into_iter().map(|(id, _)| id);
        let (claimed, in_flight): (Vec<_>, Vec<_>) = ids.partition(|id| taken.contains(id));
        let cancelled = self.store.cancel(message, claimed.clone(), now).await;
        // Of those that were cancelled the claims have ended; the others are due as they were.
        self.release(claimed);
        Ok(Steered { changed: cancelled?, in_flight })
    }
}
