//! Who gets what when: exclusiveness, fairness, limits, suspension.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::mail::Host;
use crate::model::TenantStatus;

/// A case takes less than a second. It has no other timer: the runtime must make progress by wake-ups alone.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);

fn status(status: TenantStatus) -> TenantPatch {
    TenantPatch { status: Some(status), ..TenantPatch::default() }
}

fn per_tenant(batches: &[Batch]) -> HashMap<TenantId, usize> {
    let mut counts = HashMap::new();
    for batch in batches {
        *counts.entry(batch.message.tenant_id).or_default() += batch.deliveries.len();
    }
    counts
}

pub(super) async fn the_room_is_split_between_tenants_however_deep_one_queue_is<H: Harness>() {
    for bed in [Bed::<H>::new().await, Bed::<H>::without_hand_over().await] {
        let (big, small, tiny) =
            (bed.tenant("big").await, bed.tenant("small").await, bed.tenant("tiny").await);
        for number in 0..300 {
            bed.enqueue(big.id, &[&format!("x@d{number}.example")]).await;
        }
        for number in 0..30 {
            bed.enqueue(small.id, &[&format!("x@d{number}.example")]).await;
        }
        bed.enqueue(tiny.id, &["x@one.example"]).await;
        let limits =
            ClaimLimits { deliveries_max: 60, per_tenant_max: 1000, admits: Arc::new(|_: &Host| true) };
        let claimed = bed.queue.claim_due(later(0), &limits).await.unwrap();
        let counts = per_tenant(&claimed.batches);
        assert_eq!(counts[&tiny.id], 1);
        assert!(counts[&small.id] >= 20, "{counts:?}");
        assert_eq!(counts.values().sum::<usize>(), 60);
        // There is more, and it is due.
        assert!(claimed.next_due_at.is_some_and(|at| at <= later(0)));
    }
}

pub(super) async fn a_tenant_never_has_more_out_than_its_limit<H: Harness>() {
    for bed in [Bed::<H>::new().await, Bed::<H>::without_hand_over().await] {
        let tenant = bed.tenant("a").await;
        for _ in 0..30 {
            bed.enqueue(tenant.id, &["x@one.example"]).await;
        }
        let limits =
            ClaimLimits { deliveries_max: 100, per_tenant_max: 7, admits: Arc::new(|_: &Host| true) };
        let first = bed.queue.claim_due(later(0), &limits).await.unwrap();
        assert_eq!(ids(&first.batches).len(), 7);
        let none = bed.queue.claim_due(later(0), &limits).await.unwrap();
        assert!(none.batches.is_empty() && none.next_due_at.is_some_and(|at| at <= later(0)));
        // The end of a claim makes a slot free and signals that there is work.
        let done = outcomes(&first.batches[..1], DeliveryState::Delivered);
        let freed = done.records.len();
        while tokio::time::timeout(Duration::ZERO, bed.queue.wait_for_work()).await.is_ok() {}
        bed.store.record(done).await.unwrap();
        bed.queue.wait_for_work().await;
        let next = bed.queue.claim_due(later(0), &limits).await.unwrap();
        assert_eq!(ids(&next.batches).len(), freed);
    }
}

pub(super) async fn a_saturated_destination_holds_up_nothing_but_itself<H: Harness>() {
    for bed in [Bed::<H>::new().await, Bed::<H>::without_hand_over().await] {
        let tenant = bed.tenant("a").await;
        for _ in 0..300 {
            bed.enqueue(tenant.id, &["x@busy.example"]).await;
        }
        let free = bed.enqueue(tenant.id, &["x@free.example", "y@busy.example"]).await;
        let busy = Host::parse("busy.example").unwrap();
        let limits = ClaimLimits {
            deliveries_max: 100,
            per_tenant_max: 1000,
            admits: Arc::new(move |host: &Host| *host != busy),
        };
        let claimed = bed.queue.claim_due(later(0), &limits).await.unwrap();
        assert_eq!(ids(&claimed.batches), [free.recipients[0].0]);
        assert!(claimed.next_due_at.is_some_and(|at| at <= later(0)));
        assert_eq!(ids(&bed.claim(later(0)).await.batches).len(), 301);
    }
}

pub(super) async fn more_than_one_pass_looks_at_is_reached_by_the_next_ones<H: Harness>() {
    let bed = Bed::<H>::without_hand_over().await;
    let tenant = bed.tenant("a").await;
    let busy: Vec<_> = (0..1000).map(|number| format!("u{number}@busy.example")).collect();
    let busy: Vec<_> = busy.iter().map(String::as_str).collect();
    for _ in 0..20 {
        bed.enqueue(tenant.id, &busy).await;
    }
    let free = bed.enqueue(tenant.id, &["x@free.example"]).await;
    let limits = ClaimLimits {
        deliveries_max: 100,
        per_tenant_max: 1000,
        admits: Arc::new(|host: &Host| *host != Host::parse("busy.example").unwrap()),
    };
    for pass in 0.. {
        assert!(pass < 10, "the free destination was never reached");
        let claimed = bed.queue.claim_due(later(0), &limits).await.unwrap();
        if !claimed.batches.is_empty() {
            assert_eq!(ids(&claimed.batches), [free.recipients[0].0]);
            break;
        }
    }
    // And from there on around to the rows that were passed over.
    let claimed = bed.claim(later(0)).await;
    assert_eq!(ids(&claimed.batches).len(), 999);
}

pub(super) async fn a_suspended_tenant_is_held_and_resumes<H: Harness>() {
    for bed in [Bed::<H>::new().await, Bed::<H>::without_hand_over().await] {
        let (suspended, other) = (bed.tenant("suspended").await, bed.tenant("other").await);
        let before = bed.enqueue(suspended.id, &["x@one.example"]).await;
        bed.store.update_tenant(suspended.id, status(TenantStatus::Suspended), now()).await.unwrap().unwrap();
        let during = bed.enqueue(suspended.id, &["y@one.example"]).await;
        let theirs = bed.enqueue(other.id, &["z@one.example"]).await;
        let claimed = bed.claim(later(0)).await;
        assert_eq!(ids(&claimed.batches), [theirs.recipients[0].0]);
        assert_eq!(claimed.next_due_at, None);
        bed.store.update_tenant(suspended.id, status(TenantStatus::Active), now()).await.unwrap().unwrap();
        bed.queue.wait_for_work().await;
        let mut expected = [before.recipients[0].0, during.recipients[0].0];
        expected.sort();
        assert_eq!(ids(&bed.claim(later(0)).await.batches), expected);
    }
}

pub(super) async fn a_suspended_tenant_is_held_over_a_restart<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    bed.enqueue(tenant.id, &["x@one.example"]).await;
    bed.store.update_tenant(tenant.id, status(TenantStatus::Suspended), now()).await.unwrap();
    let bed = bed.restart().await;
    assert!(bed.claim(later(0)).await.batches.is_empty());
    bed.store.update_tenant(tenant.id, status(TenantStatus::Active), now()).await.unwrap();
    assert_eq!(bed.claim(later(0)).await.batches.len(), 1);
}

pub(super) async fn a_batch_holds_at_most_a_hundred_deliveries<H: Harness>() {
    for bed in [Bed::<H>::new().await, Bed::<H>::without_hand_over().await] {
        let tenant = bed.tenant("a").await;
        let recipients: Vec<_> = (0..250).map(|number| format!("u{number}@one.example")).collect();
        let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
        bed.enqueue(tenant.id, &recipients).await;
        let limits = ClaimLimits { deliveries_max: 230, ..plenty() };
        let claimed = bed.queue.claim_due(later(0), &limits).await.unwrap();
        let sizes: Vec<_> = claimed.batches.iter().map(|batch| batch.deliveries.len()).collect();
        assert!(sizes.iter().all(|&size| size <= 100), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), 230);
        assert_eq!(ids(&bed.claim(later(0)).await.batches).len(), 20);
    }
}

pub(super) async fn what_does_not_fit_into_memory_is_claimed_from_the_database<H: Harness>() {
    let bed = Bed::<H>::with_hot_queue(5000).await;
    let tenant = bed.tenant("a").await;
    for _ in 0..20 {
        bed.enqueue(tenant.id, &["x@one.example"]).await;
    }
    let batches = bed.claim(later(0)).await.batches;
    assert_eq!(ids(&batches).len(), 20);
    let in_memory = batches.iter().filter(|batch| batch.content.is_some()).count();
    assert!((1..20).contains(&in_memory), "{in_memory}");
    // The memory is free again after the queue manager has applied the records.
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    assert_eq!(bed.queue.depth().await.unwrap(), QueueDepth::default());
    bed.enqueue(tenant.id, &["x@one.example"]).await;
    assert!(bed.claim(later(0)).await.batches[0].content.is_some());
}

pub(super) async fn recipients_take_room_in_memory_too<H: Harness>() {
    let bed = Bed::<H>::with_hot_queue(50_000).await;
    let tenant = bed.tenant("a").await;
    let many: Vec<_> = (0..100).map(|number| format!("u{number}@one.example")).collect();
    bed.enqueue(tenant.id, &many.iter().map(String::as_str).collect::<Vec<_>>()).await;
    bed.enqueue(tenant.id, &["x@two.example", "y@two.example"]).await;
    let mut batches = bed.claim(later(0)).await.batches;
    batches.sort_by_key(|batch| batch.deliveries.len());
    let found: Vec<_> =
        batches.iter().map(|batch| (batch.deliveries.len(), batch.content.is_some())).collect();
    assert_eq!(found, [(2, true), (100, false)]);
}

pub(super) async fn with_room_for_one_neither_fresh_mail_nor_what_is_due_again_waits_for_ever<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    bed.enqueue(tenant.id, &["x@one.example"]).await;
    let due_again = ids(&bed.claim(later(0)).await.batches);
    bed.queue.release(due_again);
    let limits = ClaimLimits { deliveries_max: 1, per_tenant_max: 1, ..plenty() };
    let mut is_fresh = Vec::new();
    // The choice is random.
    while is_fresh.len() < 100 && (!is_fresh.contains(&true) || !is_fresh.contains(&false)) {
        bed.enqueue(tenant.id, &["x@one.example"]).await;
        let claimed = bed.queue.claim_due(later(0), &limits).await.unwrap().batches;
        is_fresh.push(claimed[0].content.is_some());
        bed.queue.release(ids(&claimed));
    }
    assert!(is_fresh.contains(&true) && is_fresh.contains(&false), "{is_fresh:?}");
}

pub(super) async fn a_flood_of_fresh_mail_leaves_room_for_what_is_due_again<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let (one, other) = (bed.tenant("a").await, bed.tenant("b").await);
    bed.enqueue(one.id, &["x@one.example"]).await;
    bed.queue.release(ids(&bed.claim(later(0)).await.batches));
    bed.settle().await;
    for tenant in [&one, &other] {
        for _ in 0..9 {
            bed.enqueue(tenant.id, &["x@one.example"]).await;
        }
    }
    let limits = ClaimLimits { per_tenant_max: 8, ..plenty() };
    let fresh = bed.queue.claim_fresh(&limits);
    let of = |tenant: &Tenant| fresh.iter().filter(|batch| batch.message.tenant_id == tenant.id).count();
    assert_eq!((of(&one), of(&other)), (6, 8));
    let left = bed.queue.claim_due(later(0), &limits).await.unwrap().batches;
    assert_eq!(left.iter().filter(|batch| batch.content.is_none()).count(), 1, "half of two");
}

pub(super) async fn a_claim_that_nobody_waited_for_is_released<H: Harness>() {
    let bed = Bed::<H>::without_hand_over().await;
    let tenant = bed.tenant("a").await;
    bed.enqueue(tenant.id, &["x@one.example"]).await;
    for _ in 0..20 {
        let limits = plenty();
        let mut claim = Box::pin(bed.queue.claim_due(later(0), &limits));
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(claim.as_mut().poll(context)));
        let polled = polled.await;
        // On a busy machine the other thread is done before the first look, and then the claim is the caller's.
        if let std::task::Poll::Ready(claimed) = polled {
            bed.queue.release(ids(&claimed.unwrap().batches));
        }
    }
    // The next pass waits for the dropped ones.
    assert_eq!(ids(&bed.claim(later(0)).await.batches).len(), 1);
}

pub(super) async fn what_cannot_be_recorded_is_not_due_until_it_is_released<H: Harness>() {
    for bed in [Bed::<H>::new().await, Bed::<H>::without_hand_over().await] {
        let tenant = bed.tenant("a").await;
        let mut message = bed.enqueue(tenant.id, &["x@one.example"]).await;
        message.recipients[0].0 = DeliveryId::generate(now());
        let claimed = bed.claim(later(0)).await.batches;
        let mut records = outcomes(&claimed, DeliveryState::Delivered);
        // A report with the id of a message that is there cannot be written.
        records.report = Some(message);
        assert!(bed.store.record(records).await.is_err());
        assert!(bed.claim(later(1)).await.batches.is_empty());
        bed.queue.release(ids(&claimed));
        assert_eq!(ids(&bed.claim(later(1)).await.batches), ids(&claimed));
        bed.store.record(outcomes(&claimed, DeliveryState::Delivered)).await.unwrap();
        assert!(bed.claim(later(2)).await.batches.is_empty());
    }
}

/// Producers, claimers that record at random, and nothing may be handed out while it is out, or after its end.
async fn run_crowd<H: Harness>(hand_over_octets: u64, messages: usize, seed: u64) {
    let bed = Bed::<H>::with_hot_queue(hand_over_octets).await;
    let tenants = [bed.tenant("a").await.id, bed.tenant("b").await.id];
    let out = Arc::new(parking_lot::Mutex::new(HashMap::<DeliveryId, &'static str>::new()));
    let mut producers = tokio::task::JoinSet::new();
    for producer in 0..4 {
        let store = Arc::clone(&bed.store);
        producers.spawn(async move {
            for number in 0..messages {
                let recipients = ["x@one.example", "y@two.example", "z@one.example"];
                let new =
                    new_message(tenants[(producer + number) % 2], &recipients[..1 + number % 3], "body");
                store.enqueue(new).await.unwrap();
            }
        });
    }
    let total: usize = 4 * (0..messages).map(|number| 1 + number % 3).sum::<usize>();
    let mut recorders = tokio::task::JoinSet::new();
    let done = |out: &HashMap<_, _>| out.values().filter(|state| **state == "done").count();
    let mut random = seed | 1;
    while done(&out.lock()) < total {
        let limits =
            ClaimLimits { deliveries_max: 17, per_tenant_max: 40, admits: Arc::new(|_: &Host| true) };
        let (due, fresh) =
            tokio::join!(bed.queue.claim_due(later(600), &limits), async { bed.queue.claim_fresh(&limits) });
        for batch in due.unwrap().batches.into_iter().chain(fresh) {
            for delivery in &batch.deliveries {
                let before = out.lock().insert(delivery.id, "out");
                assert!(matches!(before, None | Some("free")), "{:?} was {before:?}", delivery.id);
            }
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (store, queue) = (Arc::clone(&bed.store), Arc::clone(&bed.queue));
            let (out, choice) = (Arc::clone(&out), random >> 62);
            recorders.spawn(async move {
                let state = match choice {
                    0 => DeliveryState::Deferred,
                    _ => DeliveryState::Delivered,
                };
                let word = if state.is_open() || choice == 1 { "free" } else { "done" };
                for delivery in &batch.deliveries {
                    out.lock().insert(delivery.id, word);
                }
                match choice {
                    1 => queue.release(ids(&[batch])),
                    _ => store.record(outcomes(&[batch], state)).await.unwrap(),
                }
            });
        }
        tokio::task::yield_now().await;
    }
    while let Some(recorded) = recorders.join_next().await {
        recorded.unwrap();
    }
    assert_eq!(bed.queue.depth().await.unwrap(), QueueDepth::default());
}

pub(super) async fn nothing_is_handed_out_twice_whoever_races<H: Harness>() {
    let run_cases = || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let cases = (0u64..50_000, 5usize..40, any::<u64>());
        let mut runner = TestRunner::new(ProptestConfig { cases: 6, ..ProptestConfig::default() });
        runner.run(&cases, |(hand_over, messages, seed)| {
            let case = run_crowd::<H>(hand_over, messages, seed);
            let ended = runtime.block_on(async { tokio::time::timeout(CASE_TIMEOUT, case).await });
            assert!(ended.is_ok(), "the case does not end");
            Ok(())
        })
    };
    // A thread outside of the runtime of the test, because each case runs on a runtime of its own.
    std::thread::spawn(run_cases).join().unwrap().unwrap();
}

pub(super) async fn fresh_mail_is_claimed_evenly_and_what_finds_no_room_is_left_to_the_next_claim<
    H: Harness,
>() {
    let bed = Bed::<H>::new().await;
    let (one, other) = (bed.tenant("one").await, bed.tenant("other").await);
    for _ in 0..30 {
        bed.enqueue(one.id, &["x@one.example"]).await;
    }
    for _ in 0..3 {
        bed.enqueue(other.id, &["x@one.example"]).await;
    }
    let limits = |deliveries_max| ClaimLimits {
        deliveries_max,
        per_tenant_max: 7,
        admits: Arc::new(|host: &Host| host.to_string() == "one.example"),
    };
    let of = |batches: &[Batch], tenant: &Tenant| {
        batches.iter().filter(|batch| batch.message.tenant_id == tenant.id).count()
    };
    let first = bed.queue.claim_fresh(&limits(4));
    assert_eq!((of(&first, &one), of(&first, &other)), (2, 2));
    let second = bed.queue.claim_fresh(&limits(100));
    assert_eq!((of(&second, &one), of(&second, &other)), (5, 1), "seven of one tenant are out");
    assert!(bed.queue.claim_fresh(&limits(0)).is_empty());
    while tokio::time::timeout(Duration::ZERO, bed.queue.wait_for_work()).await.is_ok() {}
    bed.store.record(outcomes(&first, DeliveryState::Delivered)).await.unwrap();
    bed.queue.wait_for_work().await;
    assert_eq!(ids(&bed.queue.claim_due(later(0), &limits(100)).await.unwrap().batches).len(), 2);
    bed.enqueue(one.id, &["x@elsewhere.example"]).await;
    let passed_over = bed.queue.claim_fresh(&limits(100));
    assert!(passed_over.iter().all(|batch| batch.destination.to_string() == "one.example"));
}

pub(super) async fn a_call_examines_a_bounded_number_of_refused_destinations_and_the_next_continues<
    H: Harness,
>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    for number in 0..300 {
        bed.enqueue(tenant.id, &[&format!("x@d{number}.example")]).await;
    }
    let examined = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&examined);
    let admits = move |host: &Host| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        host.to_string() == "d299.example"
    };
    let limits = ClaimLimits { deliveries_max: 10, per_tenant_max: 100, admits: Arc::new(admits) };
    let mut claimed = Vec::new();
    for _ in 0..5 {
        examined.store(0, std::sync::atomic::Ordering::Relaxed);
        claimed.extend(bed.queue.claim_fresh(&limits));
        assert!(examined.load(std::sync::atomic::Ordering::Relaxed) < 150);
    }
    assert_eq!(claimed.len(), 1, "the last destination is reached");
}
