//! The durable verbs of the spool, as a queue manager uses them.

use super::*;
use crate::mail::Host;
use crate::model::QueueFilter;

fn range(tenant: TenantId, rows_max: usize) -> DueRange {
    DueRange { tenant_id: tenant, after: None, until: None, rows_max }
}

async fn due<H: Harness>(bed: &TestBed<H>, range: DueRange, at: Timestamp) -> DuePage {
    bed.store.due_pages(vec![range], at).await.unwrap().remove(0)
}

pub(super) async fn what_is_due_comes_page_by_page_in_its_order_and_with_what_comes_next<H: Harness>() {
    let bed = TestBed::<H>::without_hand_over().await;
    let (tenant, other) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let mut expected = Vec::new();
    for number in 0..5 {
        expected.push(bed.enqueue(tenant, &[&format!("x@d{number}.example")]).await.recipients[0].0);
        bed.enqueue(other, &["x@one.example"]).await;
    }
    let mut scheduled = new_message(tenant, &["x@one.example"], "later");
    let release_at = later(3600);
    scheduled.message.parameters.release_at = Some(release_at);
    bed.store.enqueue(scheduled).await.unwrap();

    let mut found = Vec::new();
    let mut after = None;
    let last = loop {
        let page = due(&bed, DueRange { after, ..range(tenant, 2) }, later(0)).await;
        found.extend(page.rows.iter().map(|row| row.at.id));
        after = page.rows.last().map(|row| row.at).or(after);
        if page.is_last {
            break page;
        }
        assert_eq!((page.rows.len(), page.next_due_us), (2, None));
    };
    assert_eq!(found, expected);
    assert_eq!(last.next_due_us, Some(release_at.as_microsecond()));
    let bounded = due(&bed, DueRange { until: after, ..range(tenant, 100) }, later(0)).await;
    assert_eq!(bounded.rows.len(), 5);
    let both = bed.store.due_pages(vec![range(other, 100), range(tenant, 100)], later(0)).await.unwrap();
    assert_eq!(both.iter().map(|page| page.rows.len()).collect::<Vec<_>>(), [5, 5]);
}

pub(super) async fn what_is_finished_or_gone_is_not_taken<H: Harness>() {
    let bed = TestBed::<H>::without_hand_over().await;
    let tenant = bed.tenant("a").await.id;
    let (done, open) =
        (bed.enqueue(tenant, &["x@a.example"]).await, bed.enqueue(tenant, &["y@a.example"]).await);
    let id = |new: &NewMessage| new.recipients[0].0;
    bed.store.cancel(done.message.id, vec![id(&done)], now()).await.unwrap();
    let asked = vec![id(&done), DeliveryId::generate(now()), id(&open)];
    let taken = bed.store.take(asked, now()).await.unwrap();
    assert_eq!(taken.iter().map(|(_, delivery)| delivery.id).collect::<Vec<_>>(), [id(&open)]);
    assert_eq!(taken[0].0.id, open.message.id);
}

pub(super) async fn a_row_is_put_off_only_while_the_pause_that_was_seen_is_there<H: Harness>() {
    let bed = TestBed::<H>::without_hand_over().await;
    let tenant = bed.tenant("a").await.id;
    bed.enqueue(tenant, &["x@paused.example"]).await;
    let part = QueueFilter::destination(Host::parse("paused.example").unwrap());
    let pause = Pause { part: part.clone(), reason: None, since: now(), until: None };
    bed.store.pause(pause).await.unwrap();
    let row = due(&bed, range(tenant, 10), later(0)).await.rows.remove(0);
    let paused = PausedRow {
        tenant_id: tenant,
        destination: row.destination,
        at: row.at,
        until_us: OPEN_ENDED_PAUSE_US,
    };
    // Somebody ends the pause between the look and the write.
    bed.store.resume(part.clone(), now()).await.unwrap();
    assert_eq!(bed.store.postpone_paused(vec![paused.clone()]).await.unwrap(), [tenant]);
    assert_eq!(due(&bed, range(tenant, 10), later(0)).await.rows.len(), 1);

    bed.store.pause(Pause { part: part.clone(), reason: None, since: now(), until: None }).await.unwrap();
    assert_eq!(bed.store.postpone_paused(vec![paused]).await.unwrap(), []);
    assert!(due(&bed, range(tenant, 10), later(0)).await.rows.is_empty());
    bed.store.resume(part, now()).await.unwrap();
    assert_eq!(due(&bed, range(tenant, 10), later(0)).await.rows.len(), 1);
}

pub(super) async fn the_feed_tells_what_was_committed_in_its_order_and_what_holds_after_a_restart<
    H: Harness,
>() {
    let bed = TestBed::<H>::with_hot_queue(1024 * 1024).await;
    let tenant = bed.tenant("a").await.id;
    let feed = bed.store.feed();
    feed.take();
    let new = bed.enqueue(tenant, &["x@a.example"]).await;
    let suspended = TenantPatch { status: Some(TenantStatus::Suspended), ..TenantPatch::default() };
    bed.store.update_tenant(tenant, suspended, now()).await.unwrap();
    let changes = feed.take();
    // A node of a cluster applies its own announcements again, in order: the last change counts.
    let [SpoolChange::Accepted(accepted), SpoolChange::TenantSuspended(of), ..] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert_eq!((accepted.new.message.id, *of), (new.message.id, tenant));
    for (status, sends) in [(TenantStatus::Active, true), (TenantStatus::Archived, false)] {
        let patch = TenantPatch { status: Some(status), ..TenantPatch::default() };
        bed.store.update_tenant(tenant, patch, now()).await.unwrap();
        match &feed.take()[..] {
            [.., SpoolChange::TenantResumed { tenant_id, .. }] if sends => assert_eq!(*tenant_id, tenant),
            [.., SpoolChange::TenantSuspended(of)] if !sends => assert_eq!(*of, tenant),
            changes => panic!("{status:?}: {changes:?}"),
        }
    }
    drop((changes, feed));

    let bed = bed.restart().await;
    let changes = bed.store.feed().take();
    let is = |wanted: fn(&SpoolChange) -> bool| changes.iter().any(wanted);
    assert!(is(|change| matches!(change, SpoolChange::TenantSuspended(_))), "{changes:?}");
    assert!(is(|change| matches!(change, SpoolChange::Due { .. })), "{changes:?}");
}

pub(super) async fn memory_for_accepted_messages_is_bounded_and_comes_back<H: Harness>() {
    let bed = TestBed::<H>::with_hot_queue(5000).await;
    let tenant = bed.tenant("a").await.id;
    let feed = bed.store.feed();
    for _ in 0..2 {
        feed.take();
        for _ in 0..20 {
            bed.enqueue(tenant, &["x@one.example"]).await;
        }
        let changes = feed.take();
        let accepted = changes.iter().filter(|change| matches!(change, SpoolChange::Accepted(_))).count();
        assert!((1..20).contains(&accepted), "{accepted}");
        let due = changes.iter().filter(|change| matches!(change, SpoolChange::Due { .. })).count();
        assert_eq!(due, 1, "one for the tenant, however much is accepted");
    }
}

pub(super) async fn what_waits_is_counted_for_all_and_for_a_tenant<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    bed.enqueue(a, &["x@one.example", "y@two.example"]).await;
    bed.enqueue(b, &["x@one.example"]).await;
    // More than one page of the count.
    let more =
        |tenant: TenantId, count| (0..count).map(move |_| new_message(tenant, &["x@one.example"], "body"));
    bed.store.enqueue_all(more(a, 140).chain(more(b, 120)).collect()).await.unwrap();
    for (part, groups, open) in [
        (QueueFilter::default(), 3, 263),
        (QueueFilter { tenant_id: Some(a), destination: None }, 2, 142),
        (QueueFilter::destination(Host::parse("one.example").unwrap()), 2, 262),
    ] {
        let request = QueueRequest { part, limit: 10, after: None };
        let counted = bed.store.overview(request, HashSet::new(), later(0)).await.unwrap();
        assert_eq!((counted.groups.len(), counted.totals.open), (groups, open));
        assert_eq!(counted.groups.iter().map(|group| group.counts.open).sum::<u64>(), open);
    }
}
