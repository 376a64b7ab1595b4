//! Send limits of two nodes on one database in PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use super::{QuotaRequest, QuotaReservation, SendLimits};
use crate::clock::Clock;
use crate::mail::Timestamp;
use crate::model::{Environment, LimitPeriod, TenantId};
use crate::store::contract::Harness;
use crate::store::contract::postgres::PostgresHarness;
use crate::store::{RateLimit, Spool, Store};
use crate::submission::shared_window::give_back_unused;

/// The limits of two nodes that know of each other.
async fn two_nodes() -> Option<(PostgresHarness, Arc<SendLimits>, Arc<SendLimits>)> {
    if !PostgresHarness::is_available() {
        return None;
    }
    let harness = PostgresHarness::new().await;
    let one = Arc::new(Store::open(harness.options()).await.unwrap());
    let other = Arc::new(Store::open(harness.options_of_node("other")).await.unwrap());
    until("both nodes know of each other", async || one.nodes().count == 2 && other.nodes().count == 2).await;
    Some((harness, Arc::new(SendLimits::new(one)), Arc::new(SendLimits::new(other))))
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

fn tenant() -> TenantId {
    TenantId::generate(Timestamp::UNIX_EPOCH)
}

/// A request at this moment of a day that is far away, in the middle of its minute.
fn request(tenant: TenantId, limits: RateLimit, ms: u64) -> QuotaRequest {
    let minute: Timestamp = "2027-03-01T12:00:10Z".parse().unwrap();
    QuotaRequest { account: (tenant, Environment::Live), limits, at: minute + Duration::from_millis(ms) }
}

fn a_minute(emails: u32) -> RateLimit {
    RateLimit { emails_per_minute: Some(emails), emails_per_day: Some(1_000_000), ..RateLimit::default() }
}

async fn takes(limits: &SendLimits, request: QuotaRequest, count: u64) -> bool {
    limits.take(request, count).await.unwrap().map(QuotaReservation::confirm).is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_for_all_nodes_together_and_is_used_up() {
    let Some((_harness, one, other)) = two_nodes().await else { return };
    let tenant = tenant();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        let limits = Arc::clone(if client % 2 == 0 { &one } else { &other });
        clients.spawn(async move {
            let (mut accepted, mut refused_since) = (0, None);
            // Each step is a millisecond, so that a client that is refused tries until blocks were given back.
            for ms in 0..5_000 {
                if takes(&limits, request(tenant, a_minute(1_000), ms), 1).await {
                    (accepted, refused_since) = (accepted + 1, None);
                    continue;
                }
                let since = *refused_since.get_or_insert_with(std::time::Instant::now);
                if since.elapsed() > Duration::from_secs(2) {
                    break;
                }
                give_back_unused(&*limits, &limits.store).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            accepted
        });
    }
    let accepted: u64 = clients.join_all().await.into_iter().sum();
    assert_eq!(accepted, 1_000);
}

#[tokio::test]
async fn a_node_gives_back_each_second_what_it_does_not_use() {
    let Some((_harness, one, other)) = two_nodes().await else { return };
    let (tenant, limits) = (tenant(), a_minute(160));
    assert!(takes(&one, request(tenant, limits, 0), 1).await);
    assert!(!takes(&other, request(tenant, limits, 0), 159).await, "the first node has a block of ten");
    let stop = tokio_util::sync::CancellationToken::new();
    let sharing = tokio::spawn({
        let (one, stop) = (Arc::clone(&one), stop.clone());
        async move { one.share_until(&Clock::system(), stop).await }
    });
    let begun = std::time::Instant::now();
    until("the block is given back", async || {
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap();
        takes(&other, request(tenant, limits, ms), 159).await
    })
    .await;
    stop.cancel();
    sharing.await.unwrap();
    assert!(!takes(&one, request(tenant, limits, 0), 1).await, "all is used");
}

#[tokio::test]
async fn quota_of_a_message_that_is_not_stored_goes_back_to_all_nodes() {
    let Some((_harness, one, other)) = two_nodes().await else { return };
    let (tenant, limits) = (tenant(), a_minute(10));
    let dropped = one.take(request(tenant, limits, 0), 10).await.unwrap().unwrap();
    give_back_unused(&*one, &one.store).await;
    assert!(!takes(&other, request(tenant, limits, 0), 1).await, "it is in use");
    drop(dropped);
    give_back_unused(&*one, &one.store).await;
    assert!(takes(&other, request(tenant, limits, 1_000), 10).await);
    let status = other.status(&request(tenant, limits, 1_000)).await.unwrap().unwrap();
    assert_eq!((status.limit, status.used), (10, 10));
}

#[tokio::test]
async fn an_hour_begins_with_what_the_usage_says_also_after_a_crash_of_the_server() {
    let Some((harness, one, other)) = two_nodes().await else { return };
    let bed = crate::store::contract::TestBed::of(harness, one.store.as_ref().clone());
    let tenant = bed.tenant("a").await.id;
    bed.enqueue(tenant, &["x@example.net", "y@example.net"]).await;
    let limits = RateLimit { emails_per_hour: Some(10), ..RateLimit::default() };
    let now = crate::store::contract::now();
    let request = QuotaRequest { account: (tenant, Environment::Live), limits, at: now };
    assert!(takes(&one, request, 5).await);
    assert!(!takes(&other, request, 4).await, "seven of ten are used");
    give_back_unused(&*one, &one.store).await;
    give_back_unused(&*other, &other.store).await;
    bed.harness.execute("TRUNCATE quota").await;
    assert!(!takes(&one, request, 9).await, "the usage is read again");
    assert_eq!(LimitPeriod::Hour.end_of(now), one.status(&request).await.unwrap().unwrap().resets_at);
}
