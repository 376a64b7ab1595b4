//! The lease of this process on the deliveries that it has claimed, in a database that several processes serve.
//!
//! The lease is extended by heartbeats. Other nodes may take the deliveries over [`LEASE_TIME`] after the last one that the
//! database answered. This process stops earlier, by its own clock, so that two nodes never send the same message.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, watch};

use crate::model::DeliveryId;

/// How long other nodes wait after a heartbeat before they take over.
pub(in crate::store) const LEASE_TIME: Duration = Duration::from_secs(15);
/// After this time without an answer nothing is accepted, and no transaction with another server begins.
const STALE_AFTER: Duration = Duration::from_secs(3);
/// After this time without an answer, transactions with other servers are ended.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Maximum of claims that one statement ends, because the next heartbeat waits for it.
const GIVEN_BACK_AT_ONCE_MAX: usize = 2000;

/// Whether this process may use the deliveries that it has claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseState {
    /// It may accept and deliver.
    Fresh,
    /// The database has not answered for some seconds: it must begin nothing.
    Stale,
    /// Other nodes may soon take over, or have done so: it must end what it has begun.
    Lost,
}

/// The lease at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Whether this process may use what it has claimed.
    pub state: LeaseState,
    /// Claims belong to it: with another one, those of the former are lost.
    pub epoch: i64,
}

/// The nodes that serve a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nodes {
    /// How many there are; at least 1.
    pub count: u32,
    /// The place of this one among them, from 0.
    pub rank: u32,
}

/// The lease. Clones share it.
#[derive(Debug, Clone)]
pub(in crate::store) struct NodeLease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Whether other processes may serve the database too.
    is_shared: bool,
    /// Names the node in the database; 0 until it has a lease.
    epoch: AtomicI64,
    /// When the last answered heartbeat was sent, in milliseconds of the clock that goes on while the system sleeps.
    confirmed_ms: AtomicI64,
    nodes: watch::Sender<Nodes>,
    lease: watch::Sender<Lease>,
    /// Claims that ended without a result.
    given_back: Mutex<Vec<DeliveryId>>,
    has_given_back: Notify,
    has_announced: Notify,
    had_unknown_outcome: AtomicBool,
}

impl NodeLease {
    /// Of a database that no other process serves.
    pub(in crate::store) fn unshared() -> Self {
        Self::new(false, LeaseState::Fresh)
    }

    /// Of a database that other processes may serve. It is lost until [`Self::begin`].
    pub(in crate::store) fn shared() -> Self {
        Self::new(true, LeaseState::Lost)
    }

    fn new(is_shared: bool, state: LeaseState) -> Self {
        Self(Arc::new(Inner {
            is_shared,
            epoch: AtomicI64::new(0),
            confirmed_ms: AtomicI64::new(0),
            nodes: watch::Sender::new(Nodes { count: 1, rank: 0 }),
            lease: watch::Sender::new(Lease { state, epoch: 0 }),
            given_back: Mutex::default(),
            has_given_back: Notify::new(),
            has_announced: Notify::new(),
            had_unknown_outcome: AtomicBool::new(false),
        }))
    }

    /// The number that names this node in the database. 0 if no other process serves it.
    pub(in crate::store) fn epoch(&self) -> i64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    /// Whether other processes may serve the database too.
    pub(in crate::store) fn is_shared(&self) -> bool {
        self.0.is_shared
    }

    pub(in crate::store) fn state(&self) -> LeaseState {
        if !self.0.is_shared {
            return LeaseState::Fresh;
        }
        if self.epoch() == 0 {
            return LeaseState::Lost;
        }
        let age_ms = uptime_ms() - self.0.confirmed_ms.load(Ordering::Acquire);
        match Duration::from_millis(age_ms.try_into().unwrap_or(0)) {
            age if age >= LOST_AFTER => LeaseState::Lost,
            age if age >= STALE_AFTER => LeaseState::Stale,
            _ => LeaseState::Fresh,
        }
    }

    pub(in crate::store) fn current(&self) -> Lease {
        Lease { state: self.state(), epoch: self.epoch() }
    }

    /// Waits for an answer of the database, but not longer than until the lease is in this state or a worse one: `None` then.
    /// A server that takes connections and does not answer would otherwise keep callers waiting without a limit.
    pub(in crate::store) async fn before<T>(
        &self,
        state: LeaseState,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        if !self.0.is_shared {
            return Some(answer.await);
        }
        let mut lease = self.watch();
        tokio::select! {
            biased;
            // Before its first lease, a node reads and writes what it needs to begin.
            _ = lease.wait_for(|lease| lease.epoch != 0 && lease.state >= state) => None,
            answer = answer => Some(answer),
        }
    }

    /// Changes of the lease. It is as late as the last [`Self::publish`].
    pub(in crate::store) fn watch(&self) -> watch::Receiver<Lease> {
        self.0.lease.subscribe()
    }

    /// Ends claims without a result, soon.
    pub(in crate::store) fn give_back(&self, ids: Vec<DeliveryId>) {
        if self.0.is_shared && !ids.is_empty() {
            self.0.given_back.lock().extend(ids);
            self.0.has_given_back.notify_one();
        }
    }

    /// Waits until there are claims to end.
    pub(in crate::store) async fn wait_for_given_back(&self) {
        self.0.has_given_back.notified().await;
    }

    /// A committed change was announced to the other nodes, which should read it soon.
    pub(in crate::store) fn note_announced(&self) {
        self.0.has_announced.notify_one();
    }

    /// A transaction may be committed, now or later, although its callers have got an error.
    pub(in crate::store) fn note_unknown_outcome(&self) {
        self.0.had_unknown_outcome.store(true, Ordering::Release);
    }

    /// Whether [`Self::note_unknown_outcome`] was called.
    pub(in crate::store) fn had_unknown_outcome(&self) -> bool {
        self.0.had_unknown_outcome.load(Ordering::Acquire)
    }

    /// Waits for [`Self::note_announced`].
    pub(in crate::store) async fn wait_for_announced(&self) {
        self.0.has_announced.notified().await;
    }

    /// The claims to end next.
    pub(in crate::store) fn given_back(&self) -> Vec<DeliveryId> {
        self.0.given_back.lock().iter().take(GIVEN_BACK_AT_ONCE_MAX).copied().collect()
    }

    /// The first of them have ended.
    pub(in crate::store) fn forget_given_back(&self, count: usize) {
        let mut given_back = self.0.given_back.lock();
        let count = count.min(given_back.len());
        given_back.drain(..count);
        if !given_back.is_empty() {
            self.0.has_given_back.notify_one();
        }
    }

    /// Whether claims of this process have ended, of which the database does not know yet.
    #[cfg(test)]
    pub(in crate::store) fn has_given_back(&self) -> bool {
        !self.0.given_back.lock().is_empty()
    }

    /// Those of these deliveries whose former claims have ended. A statement that ends claims is repeated if it was not
    /// answered, and would end a new claim too.
    pub(in crate::store) fn claimable(&self, mut ids: Vec<DeliveryId>) -> Vec<DeliveryId> {
        let given_back: HashSet<DeliveryId> = self.0.given_back.lock().iter().copied().collect();
        ids.retain(|id| !given_back.contains(id));
        ids
    }

    /// The nodes at the last heartbeat.
    pub(in crate::store) fn nodes(&self) -> Nodes {
        *self.0.nodes.borrow()
    }

    /// Begins a lease by an answer to a request that was sent at this time.
    pub(in crate::store) fn begin(&self, epoch: i64, sent_ms: i64) {
        self.0.confirmed_ms.store(sent_ms, Ordering::Release);
        self.0.epoch.store(epoch, Ordering::Release);
        self.publish();
    }

    /// Extends it by the answer to a heartbeat that was sent at this time.
    pub(in crate::store) fn extend(&self, sent_ms: i64, nodes: Nodes) {
        self.0.confirmed_ms.store(sent_ms, Ordering::Release);
        self.0.nodes.send_if_modified(|known| mem::replace(known, nodes) != nodes);
        self.publish();
    }

    /// Another node has taken over, or this one gives up.
    pub(in crate::store) fn end(&self) {
        self.0.epoch.store(0, Ordering::Release);
        self.publish();
    }

    /// Publishes to [`Self::watch`] that the state has changed, also by the time that has passed.
    pub(in crate::store) fn publish(&self) {
        let lease = self.current();
        self.0.lease.send_if_modified(|known| mem::replace(known, lease) != lease);
    }
}

/// Milliseconds since the system started, including those that it slept.
pub(in crate::store) fn uptime_ms() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_not_claimed_again_before_its_former_claim_has_ended() {
        let lease = NodeLease::shared();
        let ids: Vec<_> = (0..GIVEN_BACK_AT_ONCE_MAX + 1)
            .map(|_| DeliveryId::generate(crate::mail::Timestamp::now()))
            .collect();
        lease.give_back(ids.clone());
        assert_eq!(lease.claimable(ids.clone()), []);
        let ending = lease.given_back();
        assert_eq!(ending, ids[..GIVEN_BACK_AT_ONCE_MAX]);
        lease.forget_given_back(ending.len());
        assert_eq!(lease.claimable(ids.clone()), ending);
        lease.forget_given_back(lease.given_back().len());
        assert_eq!(lease.claimable(ids.clone()), ids);
    }

    #[tokio::test]
    async fn an_answer_is_awaited_until_the_lease_is_too_old() {
        let lease = NodeLease::shared();
        assert_eq!(lease.before(LeaseState::Stale, async { 1 }).await, Some(1), "before the first lease");
        lease.begin(7, uptime_ms() - 3_500);
        assert_eq!(lease.before(LeaseState::Stale, async { 2 }).await, None);
        assert_eq!(lease.before(LeaseState::Lost, async { 3 }).await, Some(3));
        lease.begin(7, uptime_ms());
        let (never, waiting) = (std::future::pending::<()>(), lease.clone());
        let waiting = tokio::spawn(async move { waiting.before(LeaseState::Lost, never).await });
        // It waits before the lease is lost.
        tokio::task::yield_now().await;
        lease.begin(7, uptime_ms() - 10_500);
        assert_eq!(waiting.await.unwrap(), None);
        assert_eq!(NodeLease::unshared().before(LeaseState::Stale, async { 4 }).await, Some(4));
    }

    #[test]
    fn a_lease_ages_from_the_moment_at_which_the_answered_heartbeat_was_sent() {
        let lease = NodeLease::shared();
        assert_eq!(lease.state(), LeaseState::Lost);
        let nodes = Nodes { count: 2, rank: 1 };
        for (age_ms, state) in
            [(0, LeaseState::Fresh), (3_500, LeaseState::Stale), (10_500, LeaseState::Lost)]
        {
            lease.begin(7, uptime_ms() - age_ms);
            assert_eq!(
                (lease.state(), *lease.watch().borrow()),
                (state, Lease { state, epoch: 7 }),
                "{age_ms}"
            );
        }
        lease.extend(uptime_ms(), nodes);
        assert_eq!((lease.state(), lease.nodes()), (LeaseState::Fresh, nodes));
        lease.end();
        assert_eq!((lease.epoch(), lease.state()), (0, LeaseState::Lost));
        assert_eq!(NodeLease::unshared().state(), LeaseState::Fresh);
    }
}
