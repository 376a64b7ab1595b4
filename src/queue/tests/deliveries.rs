//! Accepting, the life of a delivery, and what a restart leaves.

use super::*;
use crate::model::EventKind;

pub(super) async fn an_accepted_message_is_handed_over_in_memory_with_its_bytes<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    let new = bed.enqueue(tenant.id, &["x@one.example", "y@two.example", "z@one.example"]).await;
    bed.queue.wait_for_fresh().await;
    let limits = ClaimLimits { deliveries_max: 100, per_tenant_max: 100, admits: Arc::new(|_: &Host| true) };
    let batches = bed.queue.claim_fresh(&limits);
    let destinations: Vec<_> =
        batches.iter().map(|batch| (batch.destination.to_string(), batch.deliveries.len())).collect();
    assert_eq!(destinations, [("one.example".to_owned(), 2), ("two.example".to_owned(), 1)]);
    for batch in &batches {
        assert_eq!(batch.message.id, new.message.id);
        assert_eq!(batch.content.as_ref(), Some(&new.content));
    }
    assert_eq!(bed.queue.depth().await.unwrap(), QueueDepth { open: 3, claimed: 3 });
    assert!(bed.claim(later(0)).await.batches.is_empty());
}

pub(super) async fn a_message_claimed_from_the_database_is_the_one_that_was_accepted<H: Harness>() {
    let bed = Bed::<H>::without_hand_over().await;
    let tenant = bed.tenant("a").await;
    let new = bed.enqueue(tenant.id, &[r#""a b"@one.example"#, "y@[192.0.2.7]"]).await;
    bed.queue.wait_for_work().await;
    let claimed = bed.claim(later(0)).await;
    assert_eq!(claimed.batches.len(), 2);
    let batch = &claimed.batches[0];
    assert_eq!(format!("{:?}", batch.message), format!("{:?}", new.message));
    assert!(batch.content.is_none());
    assert_eq!(bed.store.content(new.message.id, now()).await.unwrap().as_ref(), Some(&new.content));
    let mut recipients: Vec<_> =
        claimed.batches.iter().map(|batch| batch.deliveries[0].recipient.to_string()).collect();
    recipients.sort();
    assert_eq!(recipients, [r#""a b"@one.example"#, "y@[192.0.2.7]"]);
}

pub(super) async fn what_was_unfinished_before_a_crash_is_due_after_it<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    let done = bed.enqueue(tenant.id, &["done@one.example"]).await;
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    let claimed = bed.enqueue(tenant.id, &["claimed@one.example"]).await;
    assert_eq!(bed.claim(later(0)).await.batches.len(), 1);
    let waiting = bed.enqueue(tenant.id, &["waiting@one.example"]).await;
    let bed = bed.restart().await;
    let found = bed.claim(later(0)).await;
    let mut expected: Vec<_> = [&claimed, &waiting].iter().map(|new| new.recipients[0].0).collect();
    expected.sort();
    assert_eq!(ids(&found.batches), expected);
    assert_eq!(bed.store.content(done.message.id, now()).await.unwrap(), Some(done.content));
}

pub(super) async fn a_deferred_delivery_is_due_again_at_its_time_and_not_before<H: Harness>() {
    for bed in [Bed::<H>::new().await, Bed::<H>::without_hand_over().await] {
        let tenant = bed.tenant("a").await;
        let new = bed.enqueue(tenant.id, &["x@one.example"]).await;
        let batches = bed.claim(later(0)).await.batches;
        let mut records = outcomes(&batches, DeliveryState::Deferred);
        let again_at = later(60);
        records.records[0].next_attempt_at = Some(again_at);
        bed.store.record(records).await.unwrap();
        let early = bed.claim(later(0)).await;
        assert!(early.batches.is_empty());
        assert_eq!(early.next_due_at, Some(again_at));
        let batches = bed.claim(again_at).await.batches;
        assert_eq!(ids(&batches), [new.recipients[0].0]);
        let delivery = &batches[0].deliveries[0];
        assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Deferred, 1));
        assert_eq!(delivery.last_reply.as_deref(), Some("250 2.0.0 fine"));
        bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
        assert_eq!(bed.claim(later(600)).await.next_due_at, None);
        assert_eq!(bed.queue.depth().await.unwrap(), QueueDepth::default());
    }
}

pub(super) async fn a_delivery_that_is_held_back_is_as_it_was_and_counts_no_attempt<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    let new = bed.enqueue(tenant.id, &["x@one.example"]).await;
    for state in [DeliveryState::Queued, DeliveryState::Deferred] {
        let batches = bed.claim(later(0)).await.batches;
        let mut records = outcomes(&batches, state);
        records.records[0] =
            AttemptRecord { attempt: None, reply: "back-off".into(), ..records.records[0].clone() };
        records.records[0].next_attempt_at = Some(later(0));
        bed.store.record(records).await.unwrap();
        let delivery = &bed.store.deliveries(new.message.id).await.unwrap()[0];
        assert_eq!((delivery.state, delivery.attempts), (state, 0));
        assert_eq!(delivery.last_reply.as_deref(), Some("back-off"));
    }
    let events = bed.store.message_events(new.message.id, None, 10).await.unwrap().items;
    assert_eq!(events.len(), 1, "that it was accepted: {events:?}");
}

pub(super) async fn what_waits_for_another_try_is_made_due_and_nothing_else<H: Harness>() {
    let bed = Bed::<H>::without_hand_over().await;
    let (tenant, other) = (bed.tenant("a").await, bed.tenant("b").await);
    for owner in [tenant.id, other.id] {
        bed.enqueue(owner, &["x@one.example", "y@two.example"]).await;
    }
    let mut records = outcomes(&bed.claim(later(0)).await.batches, DeliveryState::Deferred);
    records.records.iter_mut().for_each(|record| record.next_attempt_at = Some(later(3600)));
    bed.store.record(records).await.unwrap();
    let mut scheduled = new_message(tenant.id, &["z@one.example"], "body");
    scheduled.message.parameters.release_at = Some(later(7200));
    bed.store.enqueue(scheduled).await.unwrap();
    assert!(bed.claim(later(60)).await.batches.is_empty());

    bed.store.flush(QueueFilter::tenant(tenant.id), later(60)).await.unwrap();
    let due = bed.claim(later(60)).await.batches;
    assert_eq!(ids(&due).len(), 2);
    assert!(due.iter().all(|batch| batch.message.tenant_id == tenant.id));
}

pub(super) async fn more_than_one_step_holds_is_made_due<H: Harness>() {
    let bed = Bed::<H>::without_hand_over().await;
    let tenant = bed.tenant("a").await;
    let recipients: Vec<_> = (0..1000).map(|number| format!("u{number}@one.example")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    for _ in 0..5 {
        bed.enqueue(tenant.id, &recipients).await;
    }
    let limits = ClaimLimits { deliveries_max: 10_000, per_tenant_max: 10_000, ..plenty() };
    let claimed = bed.queue.claim_due(later(0), &limits).await.unwrap();
    let mut records = outcomes(&claimed.batches, DeliveryState::Deferred);
    assert_eq!(records.records.len(), 5000);
    records.records.iter_mut().for_each(|record| record.next_attempt_at = Some(later(3600)));
    bed.store.record(records).await.unwrap();
    bed.store.flush(QueueFilter::tenant(tenant.id), later(60)).await.unwrap();
    let due = bed.queue.claim_due(later(60), &limits).await.unwrap();
    assert_eq!(ids(&due.batches).len(), 5000);
}

pub(super) async fn a_message_that_is_held_is_due_when_it_is_released_and_not_before<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    let mut new = new_message(tenant.id, &["x@one.example"], "body");
    let release_at = new.message.created_at + SignedDuration::from_hours(1);
    new.message.parameters.release_at = Some(release_at);
    bed.store.enqueue(new.clone()).await.unwrap();
    for bed in [bed.restart().await] {
        let early = bed.claim(later(60)).await;
        assert!(early.batches.is_empty());
        assert_eq!(early.next_due_at, Some(release_at));
        let delivery = &bed.store.deliveries(new.message.id).await.unwrap()[0];
        assert_eq!((delivery.state, delivery.next_attempt_at), (DeliveryState::Queued, Some(release_at)));
        let batches = bed.claim(release_at).await.batches;
        assert_eq!(ids(&batches), [new.recipients[0].0]);
        assert_eq!(batches[0].message.parameters, new.message.parameters);
    }
}

pub(super) async fn a_submission_under_the_same_key_is_stored_once_for_a_day<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let (tenant, other) = (bed.tenant("a").await, bed.tenant("b").await);
    let key = SubmissionKey { name: "order 17".to_owned(), digest: [7; 32] };
    let submission = |tenant: TenantId, key: &SubmissionKey| NewMessage {
        submission_key: Some(key.clone()),
        ..new_message(tenant, &["x@one.example"], "body")
    };
    let first = submission(tenant.id, &key);
    assert_eq!(bed.store.enqueue(first.clone()).await.unwrap(), first.message.id);
    assert_eq!(bed.store.enqueue(submission(tenant.id, &key)).await.unwrap(), first.message.id);
    assert_eq!(bed.queue.depth().await.unwrap(), QueueDepth { open: 1, claimed: 1 });
    let another = SubmissionKey { digest: [8; 32], ..key.clone() };
    let before = async |tenant: TenantId, environment, key: &SubmissionKey, hours| {
        let at = first.message.created_at + SignedDuration::from_hours(hours);
        bed.store.find_submission(tenant, environment, key, at).await
    };
    assert_eq!(before(tenant.id, Environment::Live, &key, 1).await.unwrap(), Some(first.message.id));
    assert_eq!(before(tenant.id, Environment::Live, &key, 25).await.unwrap(), None);
    assert_eq!(before(tenant.id, Environment::Test, &key, 1).await.unwrap(), None);
    assert_eq!(before(other.id, Environment::Live, &key, 1).await.unwrap(), None);
    let refused = before(tenant.id, Environment::Live, &another, 1).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::SubmissionKey))), "{refused:?}");
    let refused = bed.store.enqueue(submission(tenant.id, &another)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::SubmissionKey))), "{refused:?}");
    let theirs = submission(other.id, &another);
    assert_eq!(bed.store.enqueue(theirs.clone()).await.unwrap(), theirs.message.id);
    let mut in_test = submission(tenant.id, &another);
    in_test.message.environment = Environment::Test;
    assert_eq!(bed.store.enqueue(in_test.clone()).await.unwrap(), in_test.message.id);
    let mut a_day_later = submission(tenant.id, &another);
    a_day_later.message.created_at = first.message.created_at + SignedDuration::from_hours(25);
    assert_eq!(bed.store.enqueue(a_day_later.clone()).await.unwrap(), a_day_later.message.id);
    assert_eq!(bed.queue.depth().await.unwrap(), QueueDepth { open: 4, claimed: 4 });
    let at = first.message.created_at + SignedDuration::from_hours(26);
    assert_eq!(bed.store.prune(KEEP, at, 100).await.unwrap().submission_keys, 2);
    bed.store.remove_tenant(tenant.id, now()).await.unwrap();
}

pub(super) async fn of_submissions_at_the_same_time_under_one_key_one_is_stored<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = Arc::clone(&bed.store);
        let new = NewMessage {
            submission_key: Some(SubmissionKey { name: "k".to_owned(), digest: [7; 32] }),
            ..new_message(tenant.id, &["x@one.example"], "body")
        };
        tasks.spawn(async move { store.enqueue(new).await.unwrap() });
    }
    let ids = tasks.join_all().await;
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(bed.queue.depth().await.unwrap(), QueueDepth { open: 1, claimed: 1 });
}

pub(super) async fn a_released_delivery_is_due_as_it_was_and_wakes_the_relay<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    bed.enqueue(tenant.id, &["x@one.example"]).await;
    bed.queue.wait_for_fresh().await;
    let first = ids(&bed.claim(later(0)).await.batches);
    bed.queue.release(first.clone());
    bed.queue.wait_for_work().await;
    let again = bed.claim(later(0)).await.batches;
    assert_eq!(ids(&again), first);
    assert_eq!(again[0].deliveries[0].attempts, 0);
}

pub(super) async fn a_final_state_is_final<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    let new = bed.enqueue(tenant.id, &["x@one.example"]).await;
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Bounced)).await.unwrap();
    bed.store.record(outcomes(&batches, DeliveryState::Deferred)).await.unwrap();
    let delivery = &bed.store.deliveries(new.message.id).await.unwrap()[0];
    assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Bounced, 1));
    assert!(delivery.next_attempt_at.is_none());
    assert_eq!(bed.store.message_events(new.message.id, None, 1000).await.unwrap().items.len(), 2);
    assert!(bed.claim(later(6000)).await.batches.is_empty());
}

pub(super) async fn a_report_is_a_message_of_the_tenant_written_with_the_records<H: Harness>() {
    for (bed, is_handed_over) in [(Bed::<H>::new().await, true), (Bed::<H>::without_hand_over().await, false)]
    {
        let tenant = bed.tenant("a").await;
        bed.enqueue(tenant.id, &["x@one.example"]).await;
        let batches = bed.claim(later(0)).await.batches;
        let mut report = new_message(tenant.id, &["sender@example.com"], &"report ".repeat(2000));
        report.message.reverse_path = ReversePath::Null;
        report.message.key_id = None;
        let mut records = outcomes(&batches, DeliveryState::Bounced);
        records.report = Some(report.clone());
        bed.store.record(records).await.unwrap();
        match is_handed_over {
            true => bed.queue.wait_for_fresh().await,
            false => bed.queue.wait_for_work().await,
        }
        let claimed = bed.claim(later(0)).await.batches;
        assert_eq!(ids(&claimed), [report.recipients[0].0]);
        assert_eq!(claimed[0].message.reverse_path, ReversePath::Null);
        assert_eq!(bed.store.content(report.message.id, now()).await.unwrap(), Some(report.content));
    }
}

pub(super) async fn records_of_a_removed_tenant_are_passed_over_with_their_report<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    bed.enqueue(tenant.id, &["x@one.example"]).await;
    let batches = bed.claim(later(0)).await.batches;
    bed.store.remove_tenant(tenant.id, now()).await.unwrap();
    let mut records = outcomes(&batches, DeliveryState::Deferred);
    records.report = Some(new_message(tenant.id, &["sender@example.com"], "report"));
    records.records[0].suppress = Some(new_suppression(Some(tenant.id), "x@one.example"));
    bed.store.record(records).await.unwrap();
    assert_eq!(bed.queue.depth().await.unwrap(), QueueDepth::default());
    assert!(bed.claim(later(600)).await.batches.is_empty());
    let refused = bed.store.enqueue(new_message(tenant.id, &["x@one.example"], "late")).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::NoTenant))), "{refused:?}");
    assert_eq!(bed.queue.depth().await.unwrap(), QueueDepth::default());
}

pub(super) async fn a_job_that_fails_does_not_take_others_with_it<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    let nobody = TenantId::generate(now());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..60 {
        let store = Arc::clone(&bed.store);
        let is_bad = number % 3 == 0;
        let new = new_message(if is_bad { nobody } else { tenant.id }, &["x@one.example"], "body");
        tasks.spawn(async move { (is_bad, store.enqueue(new).await) });
    }
    while let Some(done) = tasks.join_next().await {
        let (is_bad, answer) = done.unwrap();
        assert_eq!(answer.is_err(), is_bad, "{answer:?}");
    }
    assert_eq!(bed.queue.depth().await.unwrap(), QueueDepth { open: 40, claimed: 40 });
    assert_eq!(ids(&bed.claim(later(0)).await.batches).len(), 40);
}

pub(super) async fn a_recipient_is_suppressed_by_the_record_and_told_once<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    for expected in [1, 0] {
        let new = bed.enqueue(tenant.id, &["Bob@one.example"]).await;
        let batches = bed.claim(later(0)).await.batches;
        let mut records = outcomes(&batches, DeliveryState::Bounced);
        records.records[0].suppress = Some(new_suppression(Some(tenant.id), "Bob@one.example"));
        bed.store.record(records).await.unwrap();
        let events = bed.store.message_events(new.message.id, None, 1000).await.unwrap().items;
        let suppressions = events.iter().filter(|event| event.kind == EventKind::SuppressionCreated).count();
        assert_eq!(suppressions, expected);
    }
    let found =
        bed.store.suppression_of(tenant.id, Environment::Live, "bob@one.example", now()).await.unwrap();
    assert!(found.is_some());
}

pub(super) async fn a_dropped_enqueue_is_done_whole_or_not_at_all<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    for _ in 0..50 {
        let new = new_message(tenant.id, &["x@one.example"], "body");
        let mut enqueue = Box::pin(bed.store.enqueue(new));
        // Polled once, then dropped while the writer is at it.
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(enqueue.as_mut().poll(context)));
        let _ = polled.await;
        drop(enqueue);
    }
    bed.store.checkpoint().await.unwrap();
    let depth = bed.queue.depth().await.unwrap();
    assert_eq!(depth.open, depth.claimed);
    assert_eq!(ids(&bed.claim(later(0)).await.batches).len() as u64, depth.open);
}
