//! What people see of the queue and do to it: pauses, flushes, retries, cancellations, counts.

use super::*;
use crate::mail::Host;
use crate::model::{EventKind, QueueFilter, TenantStatus};

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn to(text: &str) -> QueueFilter {
    QueueFilter::destination(host(text))
}

fn pause_of(part: QueueFilter, until: Option<Timestamp>) -> Pause {
    Pause { part, reason: Some("repairs".into()), since: now(), until }
}

fn first_id(new: &NewMessage) -> DeliveryId {
    new.recipients[0].0
}

async fn overview(bed: &Bed<impl Harness>, part: QueueFilter, at: Timestamp) -> QueueOverview {
    let request = QueueRequest { part, limit: 100, after: None };
    // Counts are cached for a moment; of these few rows a short one.
    let fresh = async {
        loop {
            let found = bed.queue.overview(request.clone(), at).await.unwrap();
            if found.counted_at == at {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), fresh)
        .await
        .expect("the count stays the old one")
}

/// Defers all that is due for a minute.
async fn defer_all(bed: &Bed<impl Harness>) {
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Deferred)).await.unwrap();
}

pub(super) async fn a_paused_destination_is_held_for_everybody_and_resumes<H: Harness>() {
    for bed in [Bed::<H>::new().await, Bed::<H>::without_hand_over().await] {
        let (one, other) = (bed.tenant("one").await, bed.tenant("other").await);
        let before = bed.enqueue(one.id, &["x@paused.example", "x@free.example"]).await;
        let pause = pause_of(to("paused.example"), None);
        assert_eq!(bed.store.pause(pause.clone()).await.unwrap(), pause);
        let during = bed.enqueue(other.id, &["y@paused.example"]).await;
        assert_eq!(ids(&bed.claim(later(0)).await.batches), [before.recipients[1].0]);
        // Set aside: no later look finds it due.
        let again = bed.claim(later(10)).await;
        assert!(again.batches.is_empty() && again.next_due_at.is_none(), "{again:?}");
        assert!(bed.queue.is_paused((one.id, Environment::Live), &host("paused.example"), now()));
        assert_eq!(bed.store.pauses(now()).await.unwrap(), [pause]);

        assert!(!bed.store.resume(to("free.example"), now()).await.unwrap());
        assert!(bed.store.resume(to("paused.example"), now()).await.unwrap());
        assert!(!bed.store.resume(to("paused.example"), now()).await.unwrap());
        assert_eq!(ids(&bed.claim(later(0)).await.batches), [first_id(&before), first_id(&during)]);
        assert!(bed.store.pauses(now()).await.unwrap().is_empty());
        assert!(!bed.queue.is_paused((one.id, Environment::Live), &host("paused.example"), now()));
    }
}

pub(super) async fn a_pause_of_one_tenants_mail_for_a_destination_holds_nothing_else<H: Harness>() {
    let bed = Bed::<H>::without_hand_over().await;
    let (one, other) = (bed.tenant("one").await, bed.tenant("other").await);
    let part = QueueFilter { tenant_id: Some(one.id), ..to("paused.example") };
    bed.store.pause(pause_of(part.clone(), None)).await.unwrap();
    let waiting = bed.enqueue(one.id, &["x@paused.example", "x@free.example"]).await;
    let theirs = bed.enqueue(other.id, &["x@paused.example"]).await;
    assert_eq!(ids(&bed.claim(later(0)).await.batches), [waiting.recipients[1].0, first_id(&theirs)]);
    assert!(bed.store.resume(part, now()).await.unwrap());
    assert_eq!(ids(&bed.claim(later(0)).await.batches), [first_id(&waiting)]);
}

pub(super) async fn a_pause_of_all_mail_holds_everybody_and_ends_by_hand_or_by_itself<H: Harness>() {
    for bed in [Bed::<H>::new().await, Bed::<H>::without_hand_over().await] {
        let (one, other) = (bed.tenant("one").await, bed.tenant("other").await);
        let everything = QueueFilter::default();
        let before = bed.enqueue(one.id, &["x@a.example"]).await;
        bed.store.pause(pause_of(everything.clone(), None)).await.unwrap();
        let during = bed.enqueue(other.id, &["y@b.example"]).await;
        let held = bed.claim(later(10)).await;
        assert!(held.batches.is_empty() && held.next_due_at.is_none(), "{held:?}");
        assert!(bed.queue.is_paused((one.id, Environment::Live), &host("a.example"), now()));
        let counts = overview(&bed, everything.clone(), later(1)).await.totals;
        assert_eq!((counts.open, counts.paused), (2, 2));

        let bed = bed.restart().await;
        assert!(bed.claim(later(10)).await.batches.is_empty());
        let resumed_at = later(20);
        assert!(bed.store.resume(everything.clone(), resumed_at).await.unwrap());
        assert!(!bed.store.resume(everything.clone(), resumed_at).await.unwrap());
        let claimed = bed.claim(resumed_at).await.batches;
        assert_eq!(ids(&claimed), [first_id(&before), first_id(&during)]);
        // They could not be tried before, so they do not expire untried.
        assert_eq!(claimed[0].deliveries[0].next_attempt_at, Some(resumed_at));
        bed.store.record(outcomes(&claimed, DeliveryState::Delivered)).await.unwrap();

        let until = later(100);
        bed.store.pause(pause_of(everything.clone(), Some(until))).await.unwrap();
        let third = bed.enqueue(one.id, &["x@a.example"]).await;
        let held = bed.claim(later(30)).await;
        assert!(held.batches.is_empty());
        assert_eq!(held.next_due_at, Some(until));
        assert_eq!(ids(&bed.claim(until).await.batches), [first_id(&third)]);
    }
}

pub(super) async fn a_pause_holds_no_test_mail_but_a_suspension_does<H: Harness>() {
    let parts: [fn(TenantId) -> QueueFilter; 3] =
        [|_| QueueFilter::default(), QueueFilter::tenant, |_| to("a.example")];
    for part in parts {
        let bed = Bed::<H>::new().await;
        let tenant = bed.tenant("one").await;
        let enqueue = async || {
            bed.enqueue(tenant.id, &["x@a.example"]).await;
            let mut new = new_message(tenant.id, &["x@a.example"], "test");
            new.message.environment = Environment::Test;
            bed.store.enqueue(new.clone()).await.unwrap();
            first_id(&new)
        };
        let before = enqueue().await;
        bed.store.pause(pause_of(part(tenant.id), None)).await.unwrap();
        let during = enqueue().await;
        assert_eq!(ids(&bed.claim(later(0)).await.batches), [before, during]);
        let of_test = (tenant.id, Environment::Test);
        assert!(!bed.queue.is_paused(of_test, &host("a.example"), now()));
        let again = bed.claim(later(10)).await;
        assert!(again.batches.is_empty() && again.next_due_at.is_none(), "{again:?}");

        let suspended = TenantPatch { status: Some(TenantStatus::Suspended), ..TenantPatch::default() };
        bed.store.update_tenant(tenant.id, suspended, now()).await.unwrap();
        enqueue().await;
        assert!(bed.claim(later(10)).await.batches.is_empty());
        assert!(bed.queue.is_paused(of_test, &host("a.example"), now()));
    }
}

pub(super) async fn what_its_tenant_holds_counts_as_paused<H: Harness>() {
    let bed = Bed::<H>::without_hand_over().await;
    let (one, other) = (bed.tenant("one").await, bed.tenant("other").await);
    bed.enqueue(one.id, &["x@a.example"]).await;
    bed.enqueue(other.id, &["x@a.example"]).await;
    bed.store.pause(pause_of(QueueFilter::tenant(one.id), None)).await.unwrap();
    let counts = overview(&bed, QueueFilter::default(), later(1)).await.totals;
    assert_eq!((counts.open, counts.paused, counts.due), (2, 1, 1));
    let suspended = TenantPatch { status: Some(TenantStatus::Suspended), ..TenantPatch::default() };
    bed.store.update_tenant(other.id, suspended, now()).await.unwrap();
    let counts = overview(&bed, QueueFilter::default(), later(2)).await.totals;
    assert_eq!((counts.open, counts.paused, counts.due), (2, 2, 0));
}

pub(super) async fn a_pause_ends_by_itself_when_its_time_has_come<H: Harness>() {
    for bed in [Bed::<H>::new().await, Bed::<H>::without_hand_over().await] {
        let (one, other) = (bed.tenant("one").await, bed.tenant("other").await);
        let until = later(100);
        bed.store.pause(pause_of(to("paused.example"), Some(until))).await.unwrap();
        bed.store.pause(pause_of(QueueFilter::tenant(other.id), Some(until))).await.unwrap();
        bed.enqueue(one.id, &["x@paused.example"]).await;
        bed.enqueue(other.id, &["x@free.example"]).await;
        bed.claim(later(0)).await;
        let early = bed.claim(later(0)).await;
        assert!(early.batches.is_empty());
        assert_eq!(early.next_due_at, Some(until));
        assert_eq!(ids(&bed.claim(until).await.batches).len(), 2);
        assert!(bed.store.pauses(until).await.unwrap().is_empty());
    }
}

pub(super) async fn a_later_pause_of_the_same_part_replaces_the_one_before<H: Harness>() {
    let bed = Bed::<H>::without_hand_over().await;
    let tenant = bed.tenant("a").await;
    let new = bed.enqueue(tenant.id, &["x@paused.example"]).await;
    bed.store.pause(pause_of(to("paused.example"), None)).await.unwrap();
    assert!(bed.claim(later(0)).await.batches.is_empty());
    let until = later(100);
    bed.store.pause(pause_of(to("paused.example"), Some(until))).await.unwrap();
    assert_eq!(bed.store.pauses(now()).await.unwrap().len(), 1);
    assert!(bed.claim(later(0)).await.batches.is_empty());
    assert_eq!(ids(&bed.claim(until).await.batches), [first_id(&new)]);
}

pub(super) async fn pauses_outlive_a_restart<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let (one, other) = (bed.tenant("one").await, bed.tenant("other").await);
    bed.store.pause(pause_of(to("paused.example"), None)).await.unwrap();
    bed.store.pause(pause_of(QueueFilter::tenant(other.id), None)).await.unwrap();
    let new = bed.enqueue(one.id, &["x@paused.example", "x@free.example"]).await;
    let theirs = bed.enqueue(other.id, &["x@free.example"]).await;
    let bed = bed.restart().await;
    assert_eq!(ids(&bed.claim(later(0)).await.batches), [new.recipients[1].0]);
    assert_eq!(bed.store.pauses(now()).await.unwrap().len(), 2);
    assert!(bed.store.resume(QueueFilter::tenant(other.id), now()).await.unwrap());
    assert_eq!(ids(&bed.claim(later(0)).await.batches), [first_id(&theirs)]);
}

pub(super) async fn what_fell_due_while_its_tenant_was_held_is_due_when_that_ended<H: Harness>() {
    let bed = Bed::<H>::without_hand_over().await;
    let tenant = bed.tenant("a").await;
    let status = |status| TenantPatch { status: Some(status), ..TenantPatch::default() };
    let waiting = bed.enqueue(tenant.id, &["x@one.example"]).await;
    bed.store.update_tenant(tenant.id, status(TenantStatus::Suspended), now()).await.unwrap();
    let resumed_at = later(3600);
    bed.store.update_tenant(tenant.id, status(TenantStatus::Active), resumed_at).await.unwrap();
    let bed = bed.restart().await;
    let claimed = bed.claim(later(3600)).await.batches;
    assert_eq!(ids(&claimed), [first_id(&waiting)]);
    assert_eq!(claimed[0].deliveries[0].next_attempt_at, Some(resumed_at));
}

pub(super) async fn the_pauses_of_a_tenant_go_with_it_and_nobody_elses_can_be_made<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    bed.store.pause(pause_of(QueueFilter::tenant(tenant.id), None)).await.unwrap();
    bed.store.remove_tenant(tenant.id, now()).await.unwrap().unwrap();
    assert!(bed.store.pauses(now()).await.unwrap().is_empty());
    let refused = bed.store.pause(pause_of(QueueFilter::tenant(tenant.id), None)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::NoTenant))), "{refused:?}");
}

pub(super) async fn a_flush_makes_due_what_was_tried_and_leaves_what_is_scheduled<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let (one, other) = (bed.tenant("one").await, bed.tenant("other").await);
    // More than one step of a flush.
    let mut deferred = Vec::new();
    for _ in 0..600 {
        deferred.push(first_id(&bed.enqueue(one.id, &["x@a.example"]).await));
    }
    let elsewhere = first_id(&bed.enqueue(one.id, &["x@b.example"]).await);
    let theirs = first_id(&bed.enqueue(other.id, &["x@a.example"]).await);
    defer_all(&bed).await;
    let mut scheduled = new_message(one.id, &["x@a.example"], "later");
    scheduled.message.parameters.release_at = Some(later(30));
    bed.store.enqueue(scheduled.clone()).await.unwrap();

    let at = now();
    assert!(bed.claim(at).await.batches.is_empty());
    let part = QueueFilter { tenant_id: Some(one.id), ..to("a.example") };
    assert_eq!(bed.store.flush(part.clone(), at).await.unwrap(), 600);
    assert_eq!(bed.store.flush(part, at).await.unwrap(), 0);
    deferred.sort();
    assert_eq!(ids(&bed.claim(at).await.batches), deferred);
    assert_eq!(bed.store.flush(QueueFilter::default(), at).await.unwrap(), 2);
    assert_eq!(ids(&bed.claim(at).await.batches), [elsewhere, theirs]);
}

pub(super) async fn a_retry_makes_one_messages_deferred_deliveries_due<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    let new = bed.enqueue(tenant.id, &["x@a.example", "y@b.example"]).await;
    let other = bed.enqueue(tenant.id, &["x@a.example"]).await;
    let batches = bed.claim(later(0)).await.batches;
    let (tried, flying): (Vec<_>, Vec<_>) =
        batches.into_iter().partition(|batch| batch.destination == host("a.example"));
    bed.store.record(outcomes(&tried, DeliveryState::Deferred)).await.unwrap();
    let steered = bed.queue.retry(new.message.id, now()).await.unwrap();
    let expected = RetryCancelResult { changed: vec![first_id(&new)], in_flight: vec![new.recipients[1].0] };
    assert_eq!(steered, expected);
    assert_eq!(ids(&bed.claim(now()).await.batches), [first_id(&new)]);
    bed.store.record(outcomes(&flying, DeliveryState::Delivered)).await.unwrap();
    assert_eq!(ids(&bed.claim(later(70)).await.batches), [first_id(&other)]);
}

pub(super) async fn what_is_cancelled_is_never_handed_out_and_what_is_in_flight_is_told<H: Harness>() {
    for bed in [Bed::<H>::new().await, Bed::<H>::without_hand_over().await] {
        let tenant = bed.tenant("a").await;
        let other = bed.enqueue(tenant.id, &["x@a.example"]).await;
        let new = bed.enqueue(tenant.id, &["x@a.example", "y@a.example", "z@b.example"]).await;
        let mut all: Vec<_> = new.recipients.iter().map(|(id, _)| *id).collect();
        let cancelled = bed.queue.cancel(new.message.id, now()).await.unwrap();
        assert_eq!(cancelled, RetryCancelResult { changed: all.clone(), in_flight: vec![] });
        assert_eq!(ids(&bed.claim(later(0)).await.batches), [first_id(&other)]);
        assert_eq!(bed.queue.depth().await.unwrap(), QueueDepth { open: 1, claimed: 1 });
        let deliveries = bed.store.deliveries(new.message.id).await.unwrap();
        assert!(
            deliveries.iter().all(|d| d.state == DeliveryState::Cancelled && d.next_attempt_at.is_none())
        );
        let events = bed.store.message_events(new.message.id, None, 100).await.unwrap().items;
        let cancelled_ids = events.iter().filter(|event| event.kind == EventKind::MessageCancelled);
        let mut cancelled_ids: Vec<_> = cancelled_ids.filter_map(|event| event.delivery_id).collect();
        cancelled_ids.sort();
        all.sort();
        assert_eq!(cancelled_ids, all);

        let late = bed.queue.cancel(other.message.id, now()).await.unwrap();
        assert_eq!(late, RetryCancelResult { changed: vec![], in_flight: vec![first_id(&other)] });
        assert_eq!(bed.queue.cancel(new.message.id, now()).await.unwrap(), RetryCancelResult::default());
    }
}

pub(super) async fn the_overview_counts_each_group_and_says_why_it_is_due_later<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let (one, other) = (bed.tenant("one").await, bed.tenant("other").await);
    for _ in 0..3 {
        bed.enqueue(one.id, &["x@a.example"]).await;
    }
    let oldest = bed.enqueue(other.id, &["x@b.example"]).await;
    defer_all(&bed).await;
    let mut scheduled = new_message(one.id, &["x@a.example"], "later");
    let release_at = later(30);
    scheduled.message.parameters.release_at = Some(release_at);
    bed.store.enqueue(scheduled).await.unwrap();
    bed.store.pause(pause_of(to("c.example"), None)).await.unwrap();
    bed.enqueue(one.id, &["x@c.example"]).await;
    bed.claim(later(0)).await;
    bed.enqueue(other.id, &["x@b.example"]).await;
    bed.claim(later(0)).await;
    bed.enqueue(other.id, &["x@b.example"]).await;

    let at = now();
    let found = overview(&bed, QueueFilter::default(), at).await;
    let totals = QueueCounts { open: 8, in_flight: 1, due: 1, paused: 1, deferred: 5 };
    assert_eq!((found.totals, found.group_count, found.truncated), (totals, 3, false));
    let [first, second, third] = &found.groups[..] else { panic!("{found:?}") };
    assert_eq!((first.tenant_id, first.destination.clone()), (one.id, host("a.example")));
    assert_eq!(first.counts, QueueCounts { open: 4, deferred: 4, ..QueueCounts::default() });
    let because =
        DeferralCauses { deferred: true, scheduled: true, last_reply: Some("250 2.0.0 fine".to_owned()) };
    assert_eq!((&first.deferral_causes, first.deferred_until), (&because, Some(release_at)));
    assert_eq!(second.counts, QueueCounts { open: 3, in_flight: 1, due: 1, deferred: 1, paused: 0 });
    assert_eq!(second.oldest_at.as_millisecond(), oldest.message.created_at.as_millisecond());
    assert!(second.next_due_at.unwrap() < at && second.deferred_until.unwrap() > at);
    assert_eq!((third.counts.paused, third.next_due_at), (1, None));

    let of_other = overview(&bed, QueueFilter::tenant(other.id), now()).await;
    assert_eq!((of_other.totals.open, of_other.group_count), (3, 1));
    let of_a = overview(&bed, to("a.example"), now()).await;
    assert_eq!((of_a.totals.open, of_a.group_count), (4, 1));
}

pub(super) async fn the_groups_of_a_long_queue_come_page_by_page_each_once<H: Harness>() {
    let bed = Bed::<H>::new().await;
    let tenant = bed.tenant("a").await;
    for number in 0..25 {
        for _ in 0..=number % 3 {
            bed.enqueue(tenant.id, &[&format!("x@d{number}.example")]).await;
        }
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let request = QueueRequest { part: QueueFilter::default(), limit: 10, after };
        let page = bed.queue.overview(request, now()).await.unwrap();
        seen.extend(page.groups.iter().map(|group| (group.counts.open, group.destination.to_string())));
        let last = page.groups.last().unwrap();
        after = Some(GroupPlace {
            open: last.counts.open,
            tenant_id: last.tenant_id,
            destination: last.destination.clone(),
        });
        if !page.has_more {
            break;
        }
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted_by_key(|(open, _)| std::cmp::Reverse(*open)));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 25);
}
