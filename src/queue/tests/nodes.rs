//! Two nodes of one database, each with its queue manager.

use std::collections::HashSet;
use std::time::Duration;

use super::*;
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
