//! What people read: messages, states, attempts, events; and how long.

use super::*;
use crate::model::{EventKind, RefusalCode, RequestId, Stage};

async fn found(bed: &TestBed<impl Harness>, filter: MessageFilter) -> Vec<MessageId> {
    let page = bed.store.list_messages(filter, page(100)).await.unwrap();
    page.items.into_iter().map(|summary| summary.message.id).collect()
}

/// What the events of a delivery say its state is.
fn replay(events: &[Event], delivery: DeliveryId) -> DeliveryState {
    let of_delivery = events.iter().filter(|event| event.delivery_id == Some(delivery));
    of_delivery.fold(DeliveryState::Queued, |state, event| match event.kind {
        EventKind::MessageDeferred => DeliveryState::Deferred,
        EventKind::MessageDelivered => DeliveryState::Delivered,
        EventKind::MessageBounced => DeliveryState::Bounced,
        EventKind::MessageExpired => DeliveryState::Expired,
        EventKind::MessageCancelled => DeliveryState::Cancelled,
        _ => state,
    })
}

pub(super) async fn the_journal_is_read_on_from_any_position_also_after_a_restart<H: Harness>() {
    let mut bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let watched = bed.store.watch_events();
    let begin = bed.store.end_of_journal().await.unwrap();
    for number in 0..5 {
        let new = new_suppression(Some(tenant), &format!("x{number}@one.example"));
        bed.store.suppress(new, now()).await.unwrap();
    }
    let end = bed.store.end_of_journal().await.unwrap();
    assert_eq!(*watched.borrow(), end);
    for _ in 0..2 {
        let entries = bed.store.events_after(begin, 100).await.unwrap().items;
        let addresses: Vec<_> =
            entries.iter().map(|entry| entry.event.data["address"].as_str().unwrap()).collect();
        assert_eq!(addresses, [0, 1, 2, 3, 4].map(|number| format!("x{number}@one.example")));
        assert!(entries.is_sorted_by(|one, next| one.cursor < next.cursor));
        assert!(begin < entries[0].cursor && entries[4].cursor == end);
        for (position, entry) in entries.iter().enumerate() {
            let of_event = bed.store.cursor_of(entry.event.id).await.unwrap();
            for cursor in [entry.cursor, entry.cursor.to_string().parse().unwrap(), of_event] {
                let rest = bed.store.events_after(cursor, 2).await.unwrap().items;
                let expected = &entries[position + 1..entries.len().min(position + 3)];
                assert_eq!(format!("{rest:?}"), format!("{expected:?}"), "behind {cursor}");
            }
        }
        assert!(bed.store.events_after(end, 100).await.unwrap().items.is_empty());
        bed = bed.restart().await;
        assert!(*bed.store.watch_events().borrow() >= end);
    }
}

pub(super) async fn the_events_of_a_tenant_are_read_on_from_any_position<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (tenant, other) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let begin = bed.store.end_of_journal().await.unwrap();
    let suppress = async |tenant, count| {
        for number in 0..count {
            let new = new_suppression(Some(tenant), &format!("x{number}@{tenant}.example"));
            bed.store.suppress(new, now()).await.unwrap();
        }
    };
    let mut expected = Vec::new();
    for count in [3, 120, 1, 70] {
        suppress(other, 80).await;
        suppress(tenant, count).await;
    }
    bed.store.end_of_journal().await.unwrap();
    let all = bed.store.events_after(begin, 10_000).await.unwrap().items;
    expected.extend(all.iter().filter(|entry| entry.event.tenant_id == Some(tenant)));
    let filter = EventFilter { tenant_id: Some(tenant), ..EventFilter::default() };
    let (mut found, mut position) = (Vec::new(), Some(begin));
    while let Some(after) = position {
        let (entries, next) = bed.store.filtered_events_after(filter.clone(), after).await.unwrap();
        assert!(entries.len() <= 100 && next.is_none_or(|next| next > after));
        found.extend(entries);
        position = next;
    }
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    let from_half = bed.store.filtered_events_after(filter, found[60].cursor).await.unwrap().0;
    assert_eq!(from_half[0].cursor, found[61].cursor);
}

pub(super) async fn the_journal_and_the_states_agree<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let recipients: Vec<_> = (0..40).map(|number| format!("u{number}@d{}.example", number % 7)).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    let new = bed.enqueue(tenant, &recipients).await;
    let choices = [
        DeliveryState::Deferred,
        DeliveryState::Delivered,
        DeliveryState::Deferred,
        DeliveryState::Bounced,
        DeliveryState::Expired,
    ];
    for round in 0..4 {
        let batches = bed.claim(later(3600 * (round + 1))).await.batches;
        let mut records = outcomes(&batches, DeliveryState::Deferred);
        for (number, record) in records.records.iter_mut().enumerate() {
            record.state = choices[(number + round as usize) % choices.len()];
            if !record.state.is_open() {
                record.next_attempt_at = None;
            }
            if record.state == DeliveryState::Expired {
                record.attempt = None;
            }
        }
        bed.store.record(records).await.unwrap();
        let events = bed.store.message_events(new.message.id, None, 1000).await.unwrap().items;
        let attempts = bed.store.attempts(new.message.id, None, 1000).await.unwrap().items;
        let deliveries = bed.store.deliveries(new.message.id).await.unwrap();
        assert!(events.is_sorted_by_key(|event| event.id));
        assert_eq!(events[0].kind, EventKind::MessageAccepted);
        let order: Vec<_> = deliveries.iter().map(|delivery| delivery.recipient.to_string()).collect();
        assert_eq!(order, recipients);
        for delivery in &deliveries {
            assert_eq!(delivery.state, replay(&events, delivery.id));
            assert_eq!(delivery.next_attempt_at.is_some(), delivery.state.is_open());
            let tries = attempts.iter().filter(|attempt| attempt.delivery_id == delivery.id).count();
            assert_eq!(delivery.attempts as usize, tries);
        }
    }
    let deliveries = bed.store.deliveries(new.message.id).await.unwrap();
    let open = deliveries.iter().filter(|delivery| delivery.state.is_open()).count() as u64;
    assert_eq!(bed.store.count_open().await.unwrap(), open);
}

pub(super) async fn an_event_tells_what_the_reply_was<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = bed.enqueue(tenant, &["x@one.example"]).await;
    let batches = bed.claim(later(0)).await.batches;
    let records = outcomes(&batches, DeliveryState::Delivered);
    let attempt = records.records[0].attempt.clone().unwrap();
    bed.store.record(records).await.unwrap();
    let events = bed.store.message_events(new.message.id, None, 1000).await.unwrap().items;
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::MessageAccepted, EventKind::MessageDelivered]);
    let expected = serde_json::json!({
        "recipient": "x@one.example", "host": "mx.example.net", "code": 250, "enhanced": "2.0.0",
        "reply": "250 2.0.0 fine", "attempts": 1,
    });
    assert_eq!(events[1].data, expected);
    assert_eq!((events[1].tenant_id, events[1].delivery_id), (Some(tenant), Some(new.recipients[0].0)));
    let attempts = bed.store.attempts(new.message.id, None, 1000).await.unwrap().items;
    assert_eq!(format!("{attempts:?}"), format!("{:?}", [attempt]));
}

pub(super) async fn a_message_in_a_list_has_the_last_reply_to_a_delivery_of_its_status<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    bed.enqueue(tenant, &["x@one.example", "y@one.example", "z@one.example"]).await;
    let listed =
        async || bed.store.list_messages(MessageFilter::default(), page(1)).await.unwrap().items.remove(0);
    assert_eq!(listed().await.last_reply, None);
    let mut records = outcomes(&bed.claim(later(0)).await.batches, DeliveryState::Deferred);
    for (record, (state, reply, seconds)) in records.records.iter_mut().zip([
        (DeliveryState::Delivered, "250 fine", 3),
        (DeliveryState::Deferred, "451 later", 2),
        (DeliveryState::Deferred, "451 earlier", 1),
    ]) {
        record.state = state;
        record.next_attempt_at = record.next_attempt_at.filter(|_| state.is_open());
        record.reply = reply.to_owned();
        record.at = later(seconds);
    }
    bed.store.record(records).await.unwrap();
    assert_eq!(listed().await.last_reply.as_deref(), Some("451 later"));
    let mut records = outcomes(&bed.claim(later(3600)).await.batches, DeliveryState::Delivered);
    records.records.iter_mut().for_each(|record| record.at = later(3600));
    bed.store.record(records).await.unwrap();
    assert_eq!(listed().await.last_reply.as_deref(), Some("250 2.0.0 fine"));
}

pub(super) async fn of_a_long_story_as_much_is_read_as_was_asked_for<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let recipients: Vec<_> = (0..25).map(|number| format!("u{number}@one.example")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    let id = bed.enqueue(tenant, &recipients).await.message.id;
    for (hours, state) in [(1, DeliveryState::Deferred), (2, DeliveryState::Delivered)] {
        let batches = bed.claim(later(3600 * hours)).await.batches;
        bed.store.record(outcomes(&batches, state)).await.unwrap();
    }
    let (events, attempts) = (
        bed.store.message_events(id, None, 1000).await.unwrap().items,
        bed.store.attempts(id, None, 1000).await.unwrap().items,
    );
    assert_eq!((events.len(), attempts.len()), (51, 50));
    let first_events = bed.store.message_events(id, None, 7).await.unwrap().items;
    assert_eq!(format!("{first_events:?}"), format!("{:?}", &events[..7]));
    let first_attempts = bed.store.attempts(id, None, 7).await.unwrap().items;
    assert_eq!(format!("{first_attempts:?}"), format!("{:?}", &attempts[..7]));

    let one = bed.store.deliveries(id).await.unwrap()[24].id;
    let of_one = bed.store.message_events(id, Some(one), 1000).await.unwrap().items;
    let kinds: Vec<_> = of_one.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::MessageAccepted, EventKind::MessageDeferred, EventKind::MessageDelivered]);
    let of_one = bed.store.attempts(id, Some(one), 1000).await.unwrap().items;
    assert!(of_one.len() == 2 && of_one.iter().all(|attempt| attempt.delivery_id == one));
    assert_eq!(bed.store.attempts(id, Some(one), 1).await.unwrap().items[0].id, of_one[0].id);

    let listed = bed.store.list_messages(MessageFilter::default(), page(1)).await.unwrap().items.remove(0);
    let shown: Vec<_> = listed.recipients.iter().map(Address::to_string).collect();
    assert_eq!(shown, recipients[..MessageSummary::RECIPIENTS_MAX]);
    assert_eq!((listed.recipient_count, listed.states), (25, vec![DeliveryState::Delivered]));
}

pub(super) async fn a_report_is_listed_apart_and_raises_no_event_counts_nowhere_and_suppresses_nobody<
    H: Harness,
>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let sent = bed.enqueue(a, &["x@one.example"]).await.message.id;
    let mut records = outcomes(&bed.claim(later(0)).await.batches, DeliveryState::Bounced);
    let report = new_report(a, "sender@example.com");
    let report_id = report.message.id;
    records.report = Some(report);
    bed.store.record(records).await.unwrap();
    let (start, counts) = (bed.store.end_of_journal().await.unwrap(), bed.store.counts());
    let mut refused = outcomes(&bed.claim(later(0)).await.batches, DeliveryState::Bounced);
    refused.records[0].suppress = Some(new_suppression(Some(a), "sender@example.com"));
    bed.store.record(refused).await.unwrap();
    let cancelled = new_report(a, "other@example.com");
    let (cancelled_id, delivery) = (cancelled.message.id, cancelled.recipients[0].0);
    bed.store.enqueue(cancelled).await.unwrap();
    bed.store.cancel(cancelled_id, vec![delivery], now()).await.unwrap();

    assert_eq!(bed.store.end_of_journal().await.unwrap(), start, "no event of a report");
    assert!(bed.store.message_events(report_id, None, 10).await.unwrap().items.is_empty());
    let attempts = bed.store.attempts(report_id, None, 10).await.unwrap().items;
    assert_eq!(attempts.len(), 1, "the timeline shows its attempts");
    assert_eq!(bed.store.counts().attempts, counts.attempts);
    assert!(bed.store.list_suppressions(Default::default(), page(10)).await.unwrap().items.is_empty());
    for (tenant_id, reports) in
        [(Some(a), &[cancelled_id, report_id][..]), (Some(b), &[]), (None, &[cancelled_id, report_id])]
    {
        let of = |kind| MessageFilter { tenant_id, kind, ..MessageFilter::default() };
        let messages = if tenant_id == Some(b) { vec![] } else { vec![sent] };
        assert_eq!(found(&bed, of(MessageKind::Message)).await, messages);
        assert_eq!(found(&bed, of(MessageKind::Report)).await, reports);
        let to = Some(address("sender@example.com"));
        let to_sender = found(&bed, MessageFilter { to: to.clone(), ..of(MessageKind::Report) }).await;
        assert_eq!(to_sender, reports.iter().copied().filter(|id| *id == report_id).collect::<Vec<_>>());
        assert_eq!(found(&bed, MessageFilter { to, ..of(MessageKind::Message) }).await, []);
        let state = Some(DeliveryState::Bounced);
        let bounced = found(&bed, MessageFilter { status: state, ..of(MessageKind::Report) }).await;
        assert_eq!(bounced, to_sender);
        assert_eq!(found(&bed, MessageFilter { status: state, ..of(MessageKind::Message) }).await, messages);
    }
}

pub(super) async fn messages_are_found_by_what_people_know_of_them<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let bounced = bed.enqueue(a, &["x@one.example", "y@one.example"]).await;
    let batches = bed.claim(later(0)).await.batches;
    let mut records = outcomes(&batches, DeliveryState::Bounced);
    records.records[1].state = DeliveryState::Delivered;
    bed.store.record(records).await.unwrap();
    let queued = bed.enqueue(a, &["z@one.example"]).await;
    let theirs = bed.enqueue(b, &["x@one.example"]).await;
    let (bounced_id, queued_id, theirs_id) = (bounced.message.id, queued.message.id, theirs.message.id);
    let of = |tenant_id| MessageFilter { tenant_id, ..MessageFilter::default() };
    assert_eq!(found(&bed, of(None)).await, [theirs_id, queued_id, bounced_id]);
    assert_eq!(found(&bed, of(Some(a))).await, [queued_id, bounced_id]);
    for scope in [None, Some(a)] {
        let in_state = |state| MessageFilter { delivery_state: Some(state), ..of(scope) };
        assert_eq!(found(&bed, in_state(DeliveryState::Bounced)).await, [bounced_id]);
        assert_eq!(found(&bed, in_state(DeliveryState::Delivered)).await, [bounced_id]);
        assert_eq!(found(&bed, in_state(DeliveryState::Expired)).await, []);
    }
    assert_eq!(
        found(&bed, MessageFilter { status: Some(DeliveryState::Queued), ..of(Some(a)) }).await,
        [queued_id]
    );
    let to = |text| MessageFilter { to: Some(address(text)), ..of(Some(a)) };
    assert_eq!(found(&bed, to("x@one.example")).await, [bounced_id]);
    assert_eq!(found(&bed, to("X@one.example")).await, []);
    let from = |path| MessageFilter { from: Some(path), ..of(None) };
    assert_eq!(found(&bed, from(ReversePath::Mailbox(address("sender@example.com")))).await.len(), 3);
    assert_eq!(found(&bed, from(ReversePath::Null)).await, []);
    let header = theirs.message.header_message_id.clone();
    assert_eq!(
        found(&bed, MessageFilter { header_message_id: header.clone(), ..of(None) }).await,
        [theirs_id]
    );
    assert_eq!(found(&bed, MessageFilter { header_message_id: header, ..of(Some(a)) }).await, []);
    let test = MessageFilter { environment: Some(Environment::Test), ..of(None) };
    assert_eq!(found(&bed, test).await, []);
    let MessageSummary { message, recipients, .. } =
        bed.store.list_messages(of(Some(a)), page(1)).await.unwrap().items.remove(0);
    assert_eq!(format!("{message:?}"), format!("{:?}", queued.message));
    assert_eq!(recipients, [address("z@one.example")]);
}

pub(super) async fn a_refusal_is_noted_without_waiting_and_seen_by_its_tenant_only<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let at = now();
    let rejection = Rejection {
        id: RequestId::generate(at),
        tenant_id: a,
        key_id: None,
        environment: Environment::Test,
        stage: Stage::Rcpt,
        code: RefusalCode::RecipientSuppressed,
        message: "x@one.example is suppressed".to_owned(),
        client_address: Some(IpAddr::from([192, 0, 2, 1])),
        created_at: at,
    };
    bed.store.reject(rejection.clone());
    // One of a tenant that is gone is dropped and takes nothing with it.
    bed.store.reject(Rejection {
        tenant_id: TenantId::generate(at),
        id: RequestId::generate(at),
        ..rejection.clone()
    });
    bed.store.checkpoint().await.unwrap();
    for (scope, count) in [(None, 1), (Some(a), 1), (Some(b), 0)] {
        let list = bed
            .store
            .list_rejections(RejectionFilter { tenant_id: scope, environment: None }, page(10))
            .await
            .unwrap();
        assert_eq!(list.items.len(), count);
        if let Some(found) = list.items.first() {
            assert_eq!(format!("{found:?}"), format!("{rejection:?}"));
        }
    }
}

pub(super) async fn retention_counts_from_the_last_delivery_and_spares_what_is_open<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, short) = (bed.tenant("a").await.id, bed.tenant("short").await.id);
    let patch = TenantPatch { retention_days: Some(Some(2)), ..TenantPatch::default() };
    bed.store.update_tenant(short, patch, now()).await.unwrap();
    let (old, open) = (bed.enqueue(a, &["x@one.example"]).await, bed.enqueue(a, &["open@one.example"]).await);
    let theirs = bed.enqueue(short, &["x@one.example"]).await;
    let mut batches = bed.claim(later(0)).await.batches;
    batches.retain(|batch| batch.message.id != open.message.id);
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    let policy = RetentionPolicy { body_days: 1, row_days: 10, ..KEEP };
    let day = |days: i64| later(days * 24 * 3600 + 60);
    let prune = async |at| bed.store.prune(policy, at, 100).await.unwrap();
    let has_body = async |new: &NewMessage| bed.store.content(new.message.id, now()).await.unwrap().is_some();

    assert_eq!(prune(now()).await, Pruned::default());
    let first = prune(day(1)).await;
    assert_eq!((first.bodies, first.messages), (2, 0));
    assert!(!has_body(&old).await && has_body(&open).await);
    assert!(bed.store.message(None, theirs.message.id).await.unwrap().is_some());
    let second = prune(day(2)).await;
    // Those of its message, and two of the tenant.
    assert_eq!((second.bodies, second.messages, second.events), (0, 1, 4));
    assert!(bed.store.message(None, theirs.message.id).await.unwrap().is_none());
    let third = prune(day(10)).await;
    assert_eq!((third.bodies, third.messages, third.events), (0, 1, 3));
    assert!(bed.store.message(None, old.message.id).await.unwrap().is_none());
    assert!(has_body(&open).await);
    assert_eq!(bed.store.count_open().await.unwrap(), 1);
}

pub(super) async fn bodies_of_a_tenant_go_when_it_wants_and_before_its_rows<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, soon, late) =
        (bed.tenant("a").await.id, bed.tenant("soon").await.id, bed.tenant("late").await.id);
    for (tenant, days) in [(soon, 1), (late, 9)] {
        let patch = TenantPatch { body_retention_days: Some(Some(days)), ..TenantPatch::default() };
        let changed = bed.store.update_tenant(tenant, patch, now()).await.unwrap().unwrap();
        assert_eq!(changed.body_retention_days, Some(days));
    }
    let mut messages = Vec::new();
    for tenant in [soon, a, late] {
        messages.push(bed.enqueue(tenant, &["x@one.example"]).await.message.id);
    }
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    let policy = RetentionPolicy { body_days: 3, ..KEEP };
    for (days, left) in [(1, 2), (2, 2), (3, 1), (8, 1), (9, 0)] {
        bed.store.prune(policy, later(days * 24 * 3600 + 60), 100).await.unwrap();
        for (place, id) in messages.iter().enumerate() {
            let has_body = bed.store.content(*id, now()).await.unwrap().is_some();
            assert_eq!(has_body, place >= 3 - left, "message {place} after {days} days");
            assert!(bed.store.message(None, *id).await.unwrap().is_some());
        }
    }
}

pub(super) async fn what_is_to_go_is_found_behind_a_long_queue_that_is_older<H: Harness>() {
    let bed = TestBed::<H>::without_hand_over().await;
    let tenant = bed.tenant("a").await.id;
    for _ in 0..50 {
        bed.enqueue(tenant, &["open@one.example"]).await;
    }
    let last = bed.enqueue(tenant, &["x@one.example"]).await.message.id;
    let mut batches = bed.claim(later(0)).await.batches;
    batches.retain(|batch| batch.message.id == last);
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    let policy = RetentionPolicy { body_days: 1, transcript_days: 1, row_days: 1, ..KEEP };
    let mut removed = Vec::new();
    for _ in 0..6 {
        let pruned = bed.store.prune(policy, later(2 * 24 * 3600), 100).await.unwrap();
        removed.push((pruned.bodies, pruned.messages, pruned.truncated));
    }
    let nothing = [(0, 0, true), (0, 0, true), (0, 0, false)];
    assert_eq!(removed, [&[(0, 0, true), (0, 0, true), (1, 1, false)][..], &nothing].concat());
}

pub(super) async fn pruning_takes_no_more_than_its_limit<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenants = [bed.tenant("a").await.id, bed.tenant("b").await.id];
    for number in 0..20 {
        bed.enqueue(tenants[number % 2], &["x@one.example"]).await;
    }
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    let policy = RetentionPolicy { body_days: 0, transcript_days: 0, row_days: 0, ..KEEP };
    for (expected, truncated) in [(15, true), (5, false), (0, false)] {
        let pruned = bed.store.prune(policy, later(60), 15).await.unwrap();
        assert_eq!((pruned.messages, pruned.truncated), (expected, truncated));
        assert!(pruned.bodies <= 15);
    }
}

pub(super) async fn recipients_of_one_try_share_its_transcript_which_goes_before_the_attempts_do<
    H: Harness,
>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = bed.enqueue(tenant, &["x@one.example", "y@one.example", "z@one.example"]).await;
    let batches = bed.claim(later(0)).await.batches;
    let mut records = outcomes(&batches, DeliveryState::Deferred);
    let dialogue: Arc<str> = "> MAIL FROM:<>".into();
    for record in &mut records.records {
        record.attempt.as_mut().unwrap().transcript = dialogue.clone();
    }
    bed.store.record(records).await.unwrap();
    let attempts = async || bed.store.attempts(new.message.id, None, 10).await.unwrap().items;
    let found: Vec<_> =
        attempts().await.into_iter().map(|a| (a.transcript.to_string(), a.bounce_class)).collect();
    assert_eq!(found, vec![("> MAIL FROM:<>".to_owned(), Some(BounceClass::Policy)); 3]);
    let delivery = bed.store.deliveries(new.message.id).await.unwrap().remove(1);
    assert_eq!(delivery.bounce_class, Some(BounceClass::Policy));
    let of_one = bed.store.attempts(new.message.id, Some(delivery.id), 10).await.unwrap().items;
    assert_eq!((of_one.len(), &*of_one[0].transcript), (1, "> MAIL FROM:<>"));

    let policy = RetentionPolicy { transcript_days: 2, ..KEEP };
    let prune = async |days: i64, limit| {
        bed.store.prune(policy, later(days * 24 * 3600 + 60), limit).await.unwrap().transcripts
    };
    assert_eq!(prune(1, 100).await, 0);
    assert_eq!(prune(2, 2).await, 2, "no more than the limit");
    assert_eq!((prune(2, 100).await, prune(2, 100).await), (1, 0), "none is looked at twice");
    let left = attempts().await;
    assert!(
        left.len() == 3
            && left.iter().all(|attempt| attempt.transcript.is_empty() && attempt.code == Some(250))
    );
}
