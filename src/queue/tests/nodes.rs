//! Two nodes of one database, each with its queue manager.

use std::collections::HashSet;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::model::{ErasureId, MessageId};
use crate::queue::ErasurePass;
use crate::store::contract::postgres::PostgresHarness;

const MESSAGES: i64 = 100;
const RECIPIENTS: [&str; 2] = ["x@one.example", "y@one.example"];

struct Nodes {
    queues: [QueueManager; 2],
    /// The due deliveries, which no node has.
    due: HashSet<DeliveryId>,
    _harness: PostgresHarness,
}

impl Nodes {
    async fn start() -> Option<Self> {
        if !PostgresHarness::is_available() {
            return None;
        }
        let harness = PostgresHarness::new().await;
        let open = |options| Store::open(PostgresOptions { hot_queue_bytes_max: 0, ..options });
        let one = open(harness.options()).await.unwrap();
        let stores = [one, open(harness.options_of_node("other")).await.unwrap()].map(Arc::new);
        until("they know each other", || stores.iter().all(|store| store.nodes().count == 2)).await;
        let due = enqueue(&stores[0]).await;
        let queues = stores
            .map(|store| QueueManager::new(store, &config::Relay::default(), Clock::system(), Rng::system()));
        until("both know that mail is due", || queues.iter().all(|queue| queue.lock().due.next().is_some()))
            .await;
        Some(Self { queues, due, _harness: harness })
    }
}

async fn enqueue(store: &Store) -> HashSet<DeliveryId> {
    let tenant = store.create_tenant(crate::store::contract::new_tenant("a"), now()).await.unwrap().id;
    let mut due = HashSet::new();
    for number in 0..MESSAGES {
        let mut new = new_message(tenant, &RECIPIENTS, "body");
        let at = now() + SignedDuration::from_millis(number * 7);
        for (id, _) in &mut new.recipients {
            *id = DeliveryId::generate(at);
        }
        due.extend(new.recipients.iter().map(|(id, _)| *id));
        store.enqueue(new).await.unwrap();
    }
    due
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn nodes_claim_different_deliveries_of_a_backlog() {
    let Some(nodes) = Nodes::start().await else { return };
    let [one, other] = &nodes.queues;
    let (at, limits) = (later(0), plenty());
    let claims = tokio::join!(one.claim_due(at, &limits), other.claim_due(at, &limits));
    let claimed = [claims.0.unwrap().batches, claims.1.unwrap().batches];
    assert!(claimed.iter().all(|batches| !batches.is_empty()));
    let all: HashSet<_> = claimed.iter().flat_map(|batches| ids(batches)).collect();
    assert_eq!(all, nodes.due);
    for (queue, batches) in nodes.queues.iter().zip(&claimed) {
        assert_eq!(queue.claim_counts(), ClaimCounts { claimed: ids(batches).len() as u64, gone: 0 });
    }
    // The recipients of a message stay together.
    let sizes: Vec<_> = claimed.iter().flatten().map(|batch| batch.deliveries.len()).collect();
    assert_eq!(sizes, [RECIPIENTS.len()].repeat(MESSAGES as usize));
}

#[tokio::test]
async fn a_node_claims_what_another_one_leaves_in_the_next_period() {
    let Some(nodes) = Nodes::start().await else { return };
    let queue = &nodes.queues[0];
    let begin = later(0);
    let first = queue.claim_due(begin, &plenty()).await.unwrap();
    let at = first.next_due_at.expect("it looks again");
    let wait = at.duration_since(begin);
    assert!(wait > SignedDuration::ZERO && wait <= SignedDuration::from_secs(5), "{wait}");
    let second = queue.claim_due(at, &plenty()).await.unwrap();
    let all: HashSet<_> = ids(&first.batches).into_iter().chain(ids(&second.batches)).collect();
    assert_eq!(all, nodes.due);
    assert!(!second.batches.is_empty());
    assert_eq!(second.next_due_at, None);
}

/// Mail that the first of two nodes has in memory. It cancels what the other one asks for.
struct InMemory {
    one: Arc<QueueManager>,
    other: Arc<QueueManager>,
    message: MessageId,
    recipients: Vec<DeliveryId>,
    _applied: AbortOnDropHandle<()>,
    _harness: PostgresHarness,
}

impl InMemory {
    async fn start() -> Option<Self> {
        if !PostgresHarness::is_available() {
            return None;
        }
        let harness = PostgresHarness::new().await;
        let open = async |options| Arc::new(Store::open(options).await.unwrap());
        let stores = [open(harness.options()).await, open(harness.options_of_node("other")).await];
        until("they know each other", || stores.iter().all(|store| store.nodes().count == 2)).await;
        let [one, other] = stores.map(|store| {
            let queue = QueueManager::new(store, &config::Relay::default(), Clock::system(), Rng::system());
            Arc::new(queue)
        });
        let tenant = one.store().create_tenant(crate::store::contract::new_tenant("a"), now()).await.unwrap();
        let new = new_message(tenant.id, &RECIPIENTS, "body");
        let recipients = new.recipients.iter().map(|(id, _)| *id).collect();
        let message = one.store().enqueue(new).await.unwrap();
        let mut feed = one.store().take_cancellation_feed().unwrap();
        let applying = Arc::clone(&one);
        let applied = tokio::spawn(async move {
            while let Some(asked) = feed.recv().await {
                applying.apply_announced_cancellation(asked).await.unwrap();
            }
        });
        let _applied = AbortOnDropHandle::new(applied);
        Some(Self { one, other, message, recipients, _applied, _harness: harness })
    }

    fn claim_fresh(&self, deliveries_max: usize) -> Vec<DeliveryId> {
        ids(&self.one.claim_fresh(&ClaimLimits { deliveries_max, ..plenty() }))
    }

    async fn states(&self) -> Vec<DeliveryState> {
        let deliveries = self.other.store().deliveries(self.message).await.unwrap();
        deliveries.into_iter().map(|delivery| delivery.state).collect()
    }
}

#[tokio::test]
async fn what_another_node_has_in_memory_is_cancelled_and_what_its_relay_has_is_in_flight() {
    let Some(nodes) = InMemory::start().await else { return };
    let [first, second] = nodes.recipients[..] else { panic!() };
    assert_eq!(nodes.claim_fresh(1), [first]);
    let retried = nodes.other.retry(nodes.message, now()).await.unwrap();
    let neither = RetryCancelResult { changed: vec![], in_flight: vec![first, second] };
    assert_eq!(retried, neither, "another node has them");
    let cancelled = nodes.other.cancel(nodes.message, now()).await.unwrap();
    assert_eq!(cancelled, RetryCancelResult { changed: vec![second], in_flight: vec![first] });
    assert_eq!(nodes.states().await, [DeliveryState::Queued, DeliveryState::Cancelled]);
    assert_eq!(nodes.claim_fresh(10), []);
    let again = nodes.other.cancel(nodes.message, now()).await.unwrap();
    assert_eq!(again, RetryCancelResult { changed: vec![], in_flight: vec![first] });
    // Its relay gives it back, and nobody has claimed it yet.
    nodes.one.release(vec![first]);
    drop(nodes.one.lock());
    let cancelled = async {
        loop {
            let last = nodes.other.cancel(nodes.message, now()).await.unwrap();
            if !last.changed.is_empty() {
                return last;
            }
        }
    };
    let last = tokio::time::timeout(Duration::from_secs(20), cancelled).await.unwrap();
    assert_eq!(last, RetryCancelResult { changed: vec![first], in_flight: vec![] });
}

#[tokio::test]
async fn a_node_that_reads_an_old_cancellation_ignores_it() {
    let Some(nodes) = InMemory::start().await else { return };
    let asked = |age_s| AnnouncedCancellation {
        at: Timestamp::now() - SignedDuration::from_secs(age_s),
        message_id: nodes.message,
        deliveries: nodes.recipients.clone(),
    };
    nodes.one.apply_announced_cancellation(asked(60)).await.unwrap();
    assert_eq!(nodes.states().await, [DeliveryState::Queued; 2]);
    nodes.one.apply_announced_cancellation(asked(1)).await.unwrap();
    assert_eq!(nodes.states().await, [DeliveryState::Cancelled; 2]);
}

#[tokio::test]
async fn mail_for_an_erased_recipient_is_cancelled_by_the_node_that_has_it_in_memory() {
    let Some(nodes) = InMemory::start().await else { return };
    let erasure = NewErasure {
        id: ErasureId::generate(now()),
        tenant_id: None,
        folded: RECIPIENTS[1].into(),
        keeps_suppression: false,
    };
    nodes.other.store().note_erasure(erasure, now()).await.unwrap();
    let first = nodes.other.erase_recipients(now()).await.unwrap();
    assert_eq!(first, ErasurePass { erasures: 0, open_deliveries: 1 });
    let erased = async {
        while nodes.other.erase_recipients(now()).await.unwrap().erasures == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), erased).await.unwrap();
    assert_eq!(nodes.states().await, [DeliveryState::Queued, DeliveryState::Cancelled]);
    assert_eq!(nodes.claim_fresh(10), [nodes.recipients[0]]);
}
