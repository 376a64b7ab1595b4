//! Sites that rest, in a queue manager that runs.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::mail::DomainName;
use crate::model::Weight;
use crate::policy::site_feedback::SiteFeedback;
use crate::queue::{Claim, DeliveryAgents, MxRoute, RouteDecision, RouteId, Routed, Slot, SourcePoolId};
use crate::store::contract::postgres::PostgresHarness;

/// Agents that leave all work to the test.
struct Agents(UnboundedSender<(Slot, Claim)>);

impl DeliveryAgents for Agents {
    async fn route(&self, _: &Batch) -> Result<Option<Routed>> {
        let decision = RouteDecision::Mx(MxRoute { route: RouteId(0), sources: Some(SourcePoolId(0)) });
        Ok(Some(Routed { decision, weight: Weight::default() }))
    }

    fn known_route(&self, _: TenantId, _: &Host) -> Option<RouteDecision> {
        None
    }

    async fn mail_hosts(&self, _: &DomainName) -> Option<Vec<String>> {
        None
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    fn deliver(&self, slot: Slot, claim: Claim) {
        self.0.send((slot, claim)).unwrap();
    }

    fn end_idle_connections(&self) -> bool {
        false
    }

    fn end_attempts(&self) {}
}

async fn enqueue_now<H: Harness>(bed: &Bed<H>, tenant: TenantId) {
    let mut new = new_message(tenant, &["x@[192.0.2.7]"], "body");
    new.message.created_at = Timestamp::now();
    bed.store.enqueue(new).await.unwrap();
}

async fn next(given: &mut UnboundedReceiver<(Slot, Claim)>) -> (Slot, Claim) {
    timeout(Duration::from_secs(20), given.recv()).await.unwrap().unwrap()
}

pub(super) async fn a_site_is_tried_again_when_its_rest_is_over_and_begins_anew_when_it_accepts_something<
    H: Harness,
>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let (sender, mut given) = unbounded_channel();
    let stop = CancellationToken::new();
    let (queue, agents, until_stop) = (Arc::clone(&bed.queue), Arc::new(Agents(sender)), stop.clone());
    let running = tokio::spawn(async move { queue.run(&agents, &until_stop).await });
    enqueue_now(&bed, tenant).await;
    let (slot, claim) = next(&mut given).await;
    let queue_key = slot.queue_key.clone();
    claim.settle();
    drop(slot);
    let close = |at| {
        let throttled = SiteFeedback::Throttled { reason: "421 4.7.0 too much".into() };
        bed.queue.dispatcher().apply_feedback(&queue_key, &throttled, at, at).backoff.unwrap().until
    };
    // As if it had been throttled so long ago that the rest is nearly over.
    let until = close(Instant::now() - Duration::from_secs(29));
    assert!(until > Instant::now());
    enqueue_now(&bed, tenant).await;
    let (slot, claim) = next(&mut given).await;
    assert!(Instant::now() >= until, "it was spared a try until then");
    claim.settle();
    bed.queue.apply_feedback(&queue_key, &SiteFeedback::Served { host: "192.0.2.7".into() }, Instant::now());
    drop(slot);
    let now = Instant::now();
    assert_eq!(close(now) - now, Duration::from_secs(30), "no longer than the first one");
    stop.cancel();
    timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
}

pub(super) async fn a_claim_of_a_former_lease_is_not_delivered<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let (sender, mut given) = unbounded_channel();
    let stop = CancellationToken::new();
    let (queue, agents, until_stop) = (Arc::clone(&bed.queue), Arc::new(Agents(sender)), stop.clone());
    let running = tokio::spawn(async move { queue.run(&agents, &until_stop).await });
    enqueue_now(&bed, tenant).await;
    let (_slot, mut claim) = next(&mut given).await;
    let is_in_place = async |claim: &Claim| bed.queue.is_in_place(claim, async { Ok(None) }).await;
    assert!(is_in_place(&claim).await);
    claim.epoch -= 1;
    assert!(!is_in_place(&claim).await);
    claim.settle();
    stop.cancel();
    timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_back_off_that_one_node_learns_from_a_reply_holds_on_the_other_and_is_not_announced_again() {
    if !PostgresHarness::is_available() {
        return;
    }
    let bed = Bed::<PostgresHarness>::new().await;
    let other = Arc::new(Store::open(bed.harness.options_of_node("other")).await.unwrap());
    let other = QueueManager::new(other, &config::Relay::default(), Clock::system(), Rng::system());
    let mut feed = other.store().take_backoff_feed().unwrap();
    let know_each_other = || bed.store.nodes().count == 2 && other.store().nodes().count == 2;
    let waiting = async {
        while !know_each_other() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), waiting).await.unwrap();

    let tenant = bed.tenant("a").await.id;
    let (sender, mut given) = unbounded_channel();
    let stop = CancellationToken::new();
    let (queue, agents, until_stop) = (Arc::clone(&bed.queue), Arc::new(Agents(sender)), stop.clone());
    let running = tokio::spawn(async move { queue.run(&agents, &until_stop).await });
    enqueue_now(&bed, tenant).await;
    let (slot, claim) = next(&mut given).await;
    let queue_key = slot.queue_key.clone();
    let unreachable = SiteFeedback::Unreachable { host: "192.0.2.7".into(), reason: "time-out".into() };
    bed.queue.apply_feedback(&queue_key, &unreachable, Instant::now());
    assert!(bed.queue.dispatcher().backoff(&queue_key, Instant::now()).is_some());
    assert_eq!(bed.queue.take_unannounced_backoffs(), [], "it may be the network of one node");
    bed.queue.dispatcher().end_backoffs(|_| true);
    let refused = SiteFeedback::Refused { host: "192.0.2.7".into(), reason: "554 5.7.1 no".into() };
    bed.queue.apply_feedback(&queue_key, &refused, Instant::now());
    let announced = crate::store::AnnouncedBackoff {
        site: "0123abcd".into(),
        pool: None,
        until: Some(Clock::system().now() + SignedDuration::from_hours(1)),
        reason: "421 4.7.0 too much".into(),
    };
    other.apply_announced_backoff(announced.clone());
    other.end_backoffs(&QueueFilter::default());
    let ended = crate::store::AnnouncedBackoff { until: None, reason: String::new(), ..announced };
    assert_eq!(other.take_unannounced_backoffs(), [ended], "it ends on all nodes");
    let is_held = |at| other.dispatcher().backoff(&queue_key, at).is_some();
    let mut both = Vec::new();
    for is_begun in [true, false] {
        let announced = bed.queue.take_unannounced_backoffs();
        assert_eq!(announced.len(), 1);
        bed.store.announce_backoffs(announced).await.unwrap();
        let received = timeout(Duration::from_secs(20), feed.recv()).await.unwrap().unwrap();
        other.apply_announced_backoff(received.clone());
        both.push(received);
        assert_eq!(is_held(Instant::now()), is_begun);
        assert_eq!(other.take_unannounced_backoffs(), []);
        assert!(!is_held(Instant::now() + Duration::from_secs(90)));
        bed.queue.end_backoffs(&QueueFilter::default());
    }
    // They hold for a site with a limiter, too.
    for (announced, is_begun) in both.into_iter().zip([true, false]) {
        bed.queue.apply_announced_backoff(announced);
        assert_eq!(bed.queue.dispatcher().backoff(&queue_key, Instant::now()).is_some(), is_begun);
        assert_eq!(bed.queue.take_unannounced_backoffs(), []);
    }
    claim.settle();
    drop(slot);
    stop.cancel();
    timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
}
