//! Webhooks: deliveries written with events, claims, and the consequences of attempts.

use super::*;
use crate::model::{DisabledReason, EventKind, WebhookStatus};

/// Makes an event of a tenant that has no message.
async fn suppress(bed: &TestBed<impl Harness>, tenant: TenantId, address: &str) {
    bed.store.suppress(new_suppression(Some(tenant), address), now()).await.unwrap();
}

async fn waiting(bed: &TestBed<impl Harness>, webhook: WebhookId) -> Vec<WebhookDelivery> {
    let served = bed.store.claim_webhook(webhook, WebhooksInFlight::default(), 100, later(0)).await.unwrap();
    served.unwrap().work.deliveries
}

fn outcome(delivery: &WebhookDelivery, at: Timestamp, verdict: WebhookVerdict) -> WebhookOutcome {
    let status = if verdict == WebhookVerdict::Delivered { 204 } else { 500 };
    WebhookOutcome {
        delivery_id: delivery.id,
        webhook_id: delivery.webhook_id,
        attempt: WebhookAttempt {
            at,
            duration_ms: 5,
            status: Some(status),
            response: "é".repeat(2000),
            error: None,
        },
        verdict,
        failing_since_max: at - SignedDuration::from_hours(120),
    }
}

async fn disabled_reason(bed: &TestBed<impl Harness>, webhook: WebhookId) -> Option<DisabledReason> {
    let webhook = bed.store.webhook(None, webhook).await.unwrap().unwrap();
    assert_eq!(webhook.disabled_reason.is_some(), webhook.status == WebhookStatus::Disabled);
    webhook.disabled_reason
}

pub(super) async fn what_is_to_be_told_outlives_a_crash<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let webhook = bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    suppress(&bed, tenant, "x@one.example").await;
    let bed = bed.restart().await;
    assert_eq!(bed.store.take_due_webhooks(later(0)), (vec![webhook], None));
    let copies = waiting(&bed, webhook).await;
    assert_eq!((copies.len(), copies[0].event.kind), (1, EventKind::SuppressionCreated));
    let secrets =
        bed.store.claim_webhook(webhook, WebhooksInFlight::default(), 1, now()).await.unwrap().unwrap();
    assert_eq!(secrets.secrets, [WebhookSecret(Zeroizing::new(vec![7; 32]))]);
    suppress(&bed, tenant, "y@one.example").await;
    assert_eq!(waiting(&bed, webhook).await.len(), 2, "who is to be copies is known after a restart");
    bed.store.record_webhook(outcome(&copies[0], now(), WebhookVerdict::Delivered)).await.unwrap();
    let noted = bed.store.webhook_delivery(copies[0].id).await.unwrap().unwrap();
    let attempt = noted.last_attempt.unwrap();
    assert_eq!((attempt.status, attempt.response.len()), (Some(204), 1024));
    assert_eq!(waiting(&bed, webhook).await.len(), 1);
}

pub(super) async fn a_webhook_gets_the_events_of_its_environments_and_of_shared_objects<H: Harness>() {
    use Environment::{Live, Test};
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut webhooks = Vec::new();
    for environments in [vec![Live], vec![Test], vec![Live, Test]] {
        let new = NewWebhook { environments: environments.clone(), ..new_webhook(Some(tenant)) };
        let made = bed.store.create_webhook(new, now()).await.unwrap();
        assert_eq!(made.environments, environments);
        webhooks.push((made.id, environments));
    }
    let append = async || {
        for environment in [Some(Live), Some(Test), None] {
            let (kind, data, at) = (EventKind::DomainVerified, serde_json::json!({}), now());
            let event = NewEvent { kind, tenant_id: Some(tenant), environment, data, at };
            bed.store.append(event).await.unwrap();
        }
    };
    append().await;
    let heard = async |webhook| {
        waiting(&bed, webhook).await.iter().map(|one| one.event.environment).collect::<Vec<_>>()
    };
    for (webhook, environments) in &webhooks {
        let own = environments.iter().copied().map(Some).chain([None]).collect::<Vec<_>>();
        assert_eq!(heard(*webhook).await, own);
    }
    let patch = WebhookPatch { environments: Some(vec![Live, Test]), ..WebhookPatch::default() };
    bed.store.update_webhook(webhooks[1].0, patch, now()).await.unwrap();
    append().await;
    assert_eq!(heard(webhooks[1].0).await, [Some(Test), None, Some(Live), Some(Test), None]);
    let list = async |filter| {
        let page = PageRequest { limit: 10, ..PageRequest::default() };
        bed.store.list_events(filter, page).await.unwrap().items
    };
    let kind = Some(EventKind::DomainVerified);
    let all = list(EventFilter { kind, ..EventFilter::default() }).await;
    for environment in [Live, Test] {
        let filter = EventFilter { kind, environment: Some(environment), ..EventFilter::default() };
        let listed: Vec<_> = list(filter.clone()).await.iter().map(|event| event.id).collect();
        let taken: Vec<_> = all.iter().filter(|event| filter.takes(event)).map(|event| event.id).collect();
        assert_eq!((listed.len(), listed), (4, taken));
    }
}

pub(super) async fn later_events_of_a_message_wait_for_the_first_tries_of_an_earlier_one<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let webhook = bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    bed.enqueue(tenant, &["x@one.example"]).await;
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    suppress(&bed, tenant, "y@one.example").await;
    let kinds =
        async || waiting(&bed, webhook).await.iter().map(|copies| copies.event.kind).collect::<Vec<_>>();
    assert_eq!(kinds().await, [EventKind::MessageAccepted, EventKind::SuppressionCreated]);
    let first = waiting(&bed, webhook).await.remove(0);
    let busy = WebhooksInFlight { deliveries: vec![first.id], messages: vec![batches[0].message.id] };
    let beside = bed.store.claim_webhook(webhook, busy, 10, later(0)).await.unwrap().unwrap().work.deliveries;
    assert_eq!(beside.len(), 1, "only what has nothing to do with the message");
    for _ in 0..2 {
        let retry = outcome(&first, now(), WebhookVerdict::Retry(now()));
        bed.store.record_webhook(retry).await.unwrap();
        assert_eq!(kinds().await, [EventKind::SuppressionCreated, EventKind::MessageAccepted]);
    }
    bed.store.record_webhook(outcome(&first, now(), WebhookVerdict::Retry(later(3600)))).await.unwrap();
    assert_eq!(kinds().await, [EventKind::SuppressionCreated, EventKind::MessageDelivered]);
}

pub(super) async fn what_waits_for_an_earlier_event_is_not_due_before_it<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let webhook = bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    bed.enqueue(tenant, &["x@one.example", "y@two.example"]).await;
    let batches = bed.claim(later(0)).await.batches;
    let deliver = async |number: usize| {
        let records = outcomes(&batches[number..=number], DeliveryState::Delivered);
        bed.store.record(records).await.unwrap();
    };
    deliver(0).await;
    let first = waiting(&bed, webhook).await.remove(0);
    let due = async || {
        let page = PageRequest { limit: 10, ..PageRequest::default() };
        let copies = bed.store.list_webhook_deliveries(webhook, None, page).await.unwrap().items;
        copies.iter().rev().map(|copies| copies.next_attempt_at.unwrap()).collect::<Vec<_>>()
    };
    for again_at in [later(5), later(300)] {
        bed.store.take_due_webhooks(later(10));
        bed.store.record_webhook(outcome(&first, now(), WebhookVerdict::Retry(again_at))).await.unwrap();
        assert_eq!(due().await, [again_at; 2]);
    }
    let again_at = due().await[0];
    deliver(1).await;
    assert_eq!(due().await, [again_at; 3], "nor what comes later");
    let served = async |at| {
        let claimed = bed.store.claim_webhook(webhook, WebhooksInFlight::default(), 10, at).await.unwrap();
        claimed.unwrap().work.deliveries.iter().map(|copies| copies.id).collect::<Vec<_>>()
    };
    assert_eq!(served(later(0)).await, [], "nothing is due before");
    assert_eq!(served(again_at).await, [first.id]);
    let last_in_order = outcome(&first, now(), WebhookVerdict::Retry(later(9000)));
    bed.store.record_webhook(last_in_order).await.unwrap();
    assert_eq!(due().await[1..], [again_at; 2], "after three tries it holds up nothing");
}

pub(super) async fn a_webhook_that_fails_for_days_is_disabled_and_one_success_begins_anew<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let webhook = bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    suppress(&bed, tenant, "x@one.example").await;
    let copies = waiting(&bed, webhook).await.remove(0);
    let hours = |hours: i64| now() + SignedDuration::from_hours(hours);
    let fail = async |at| {
        let retry = outcome(&copies, at, WebhookVerdict::Retry(now()));
        bed.store.record_webhook(retry).await.unwrap();
        disabled_reason(&bed, webhook).await
    };
    assert_eq!(fail(hours(0)).await, None);
    assert_eq!(fail(hours(119)).await, None);
    suppress(&bed, tenant, "y@one.example").await;
    let other = waiting(&bed, webhook).await.remove(1);
    bed.store.record_webhook(outcome(&other, hours(119), WebhookVerdict::Delivered)).await.unwrap();
    assert_eq!(fail(hours(121)).await, None);
    assert_eq!(fail(hours(241)).await, Some(DisabledReason::Failing));
    let kind = Some(EventKind::WebhookDisabled);
    let filter = EventFilter { tenant_id: Some(tenant), kind, ..EventFilter::default() };
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    let events = bed.store.list_events(filter, page).await.unwrap().items;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].data["reason"], "failing");
    suppress(&bed, tenant, "z@one.example").await;
    let patch = WebhookPatch { status: Some(WebhookStatus::Enabled), ..WebhookPatch::default() };
    bed.store.update_webhook(webhook, patch, now()).await.unwrap();
    assert_eq!(
        waiting(&bed, webhook).await.len(),
        1,
        "what waited is taken up; what came meanwhile is not copies"
    );
}

pub(super) async fn a_webhook_that_does_not_keep_up_is_disabled_before_it_fills_the_disk<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let webhook = bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    for number in 0..20 {
        suppress(&bed, tenant, &format!("x{number}@one.example")).await;
    }
    assert_eq!(disabled_reason(&bed, webhook).await, None);
    let copies = async || {
        let page = PageRequest { limit: 100, ..PageRequest::default() };
        bed.store.list_webhook_deliveries(webhook, None, page).await.unwrap().items
    };
    let first = copies().await.pop().unwrap();
    bed.store.record_webhook(outcome(&first, now(), WebhookVerdict::Delivered)).await.unwrap();
    suppress(&bed, tenant, "one-more@one.example").await;
    assert_eq!(disabled_reason(&bed, webhook).await, None, "there was room for one");
    let is_full = |asked: Result<Option<WebhookDelivery>>| {
        matches!(asked, Err(StoreError::Conflict(Conflict::WebhookBacklog)))
    };
    assert!(is_full(bed.store.test_webhook(webhook, now()).await));
    assert!(is_full(bed.store.replay_webhook_delivery(first.id, now()).await));
    let pending = copies().await.remove(0).id;
    assert!(bed.store.replay_webhook_delivery(pending, now()).await.unwrap().is_some(), "that is no more");
    suppress(&bed, tenant, "too-many@one.example").await;
    assert_eq!(disabled_reason(&bed, webhook).await, Some(DisabledReason::BacklogFull));
    assert_eq!(copies().await.len(), 21);
}

pub(super) async fn waiting_events_of_a_tenant_take_so_much_and_a_webhook_that_keeps_up_stays<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let create = async || bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    let (slow, slower, quick) = (create().await, create().await, create().await);
    let happen = async || {
        // Of 2023 octets, a little less than the part of each webhook.
        let data = serde_json::json!({ "text": "x".repeat(1500) });
        let (kind, tenant_id) = (EventKind::DomainVerified, Some(tenant));
        let event = NewEvent { kind, tenant_id, environment: None, data, at: now() };
        bed.store.append(event).await.unwrap();
        for delivery in waiting(&bed, quick).await {
            let delivered = outcome(&delivery, now(), WebhookVerdict::Delivered);
            bed.store.record_webhook(delivered).await.unwrap();
        }
    };
    let copies = async |webhook| {
        bed.store.list_webhook_deliveries(webhook, None, page(100)).await.unwrap().items.len()
    };
    let mut events = 0;
    while disabled_reason(&bed, slow).await.is_none() && events < 20 {
        happen().await;
        events += 1;
    }
    assert_eq!(disabled_reason(&bed, slow).await, Some(DisabledReason::BacklogFull));
    assert_eq!(disabled_reason(&bed, slower).await, Some(DisabledReason::BacklogFull));
    assert_eq!((events, copies(slow).await, copies(slower).await), (11, 11, 10), "more than 40 KiB");
    assert_eq!(disabled_reason(&bed, quick).await, None);
    // What waits for the disabled ones still takes space, so another one gets its own part only.
    let another = create().await;
    for _ in 0..3 {
        happen().await;
    }
    assert_eq!(disabled_reason(&bed, another).await, Some(DisabledReason::BacklogFull));
    assert_eq!(copies(another).await, 2);
    let enable = async |webhook| {
        let patch = WebhookPatch { status: Some(WebhookStatus::Enabled), ..WebhookPatch::default() };
        bed.store.update_webhook(webhook, patch, now()).await.unwrap();
        happen().await;
        disabled_reason(&bed, webhook).await
    };
    assert_eq!(enable(another).await, Some(DisabledReason::BacklogFull));
    for webhook in [slow, slower] {
        assert!(bed.store.delete_webhook(webhook).await.unwrap());
    }
    assert_eq!(enable(another).await, None);
}

pub(super) async fn what_a_transaction_took_back_is_not_told<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    suppress(&bed, tenant, "before@one.example").await;
    // An unknown tenant: the webhook's row and all that followed from it are undone.
    let unknown = TenantId::generate(now());
    assert!(bed.store.create_webhook(new_webhook(Some(unknown)), now()).await.is_err());
    let webhook = bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    suppress(&bed, tenant, "after@one.example").await;
    assert_eq!(waiting(&bed, webhook).await.len(), 1);
}

pub(super) async fn what_was_told_is_forgotten_after_its_retention_and_goes_with_its_webhook<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let webhook = bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    suppress(&bed, tenant, "x@one.example").await;
    let copies = waiting(&bed, webhook).await.remove(0);
    let policy = RetentionPolicy { webhook_days: 7, ..KEEP };
    let days = |days: i64| now() + SignedDuration::from_hours(24 * days);
    let pruned = async |at| bed.store.prune(policy, at, 10).await.unwrap().webhook_deliveries;
    assert_eq!(pruned(days(8)).await, 0, "it is pending");
    bed.store.record_webhook(outcome(&copies, now(), WebhookVerdict::Delivered)).await.unwrap();
    assert_eq!(pruned(days(6)).await, 0);
    bed.store.replay_webhook_delivery(copies.id, days(8)).await.unwrap();
    assert_eq!(pruned(days(8)).await, 0, "it is pending again");
    bed.store.record_webhook(outcome(&copies, now(), WebhookVerdict::Delivered)).await.unwrap();
    assert_eq!(pruned(days(8)).await, 1);
    assert!(bed.store.webhook_delivery(copies.id).await.unwrap().is_none());
    suppress(&bed, tenant, "y@one.example").await;
    let patch = WebhookPatch { status: Some(WebhookStatus::Disabled), ..WebhookPatch::default() };
    bed.store.update_webhook(webhook, patch, now()).await.unwrap();
    assert_eq!((pruned(days(6)).await, pruned(days(8)).await), (0, 1), "nobody attempts it");
    assert_eq!(bed.store.webhook_backlog().await.unwrap(), 0);
    assert!(bed.store.delete_webhook(webhook).await.unwrap());
    assert!(!bed.store.delete_webhook(webhook).await.unwrap());
    assert_eq!(bed.store.webhook(None, webhook).await.unwrap().map(|w| w.id), None);
}

pub(super) async fn a_page_of_events_looks_at_so_many_and_says_where_to_go_on<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (busy, quiet) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let begin = now();
    suppress(&bed, quiet, "x@one.example").await;
    for number in 0..120 {
        suppress(&bed, busy, &format!("x{number}@one.example")).await;
    }
    suppress(&bed, quiet, "y@one.example").await;
    let kind = Some(EventKind::SuppressionCreated);
    let filter = EventFilter { tenant_id: Some(quiet), kind, ..EventFilter::default() };
    for upwards in [false, true] {
        let pages = pages_of_events(&bed, &filter, 10, upwards).await;
        assert_eq!(pages.len(), 3, "124 events, 50 or so at a time");
        let found: Vec<_> =
            pages.iter().flat_map(|(events, _)| events).map(|event| &event.data["address"]).collect();
        let expected =
            if upwards { ["x@one.example", "y@one.example"] } else { ["y@one.example", "x@one.example"] };
        assert_eq!(found, expected);
    }
    let first =
        bed.store.list_events(filter.clone(), PageRequest { limit: 1, ..PageRequest::default() }).await;
    let created_after = first.unwrap().items.first().map(|event| event.created_at);
    // The look begins at the time, not at the end of the journal.
    let request = PageRequest { limit: 10, created_after, ..PageRequest::default() };
    let page = bed.store.list_events(filter.clone(), request).await.unwrap();
    assert_eq!((page.items.len(), page.next), (1, None));
    let created_before = Some(begin + SignedDuration::from_millis(20));
    let request = PageRequest { limit: 10, created_before, ..PageRequest::default() };
    let page = bed.store.list_events(filter, request).await.unwrap();
    assert_eq!((page.items.len(), page.next), (1, None));
}

/// All pages from one end to the other, and where each says to go on.
async fn pages_of_events(
    bed: &TestBed<impl Harness>,
    filter: &EventFilter,
    limit: usize,
    upwards: bool,
) -> Vec<(Vec<Event>, Option<EventId>)> {
    let mut request = PageRequest { limit, ..PageRequest::default() };
    if upwards {
        request.before = Some(EventId::from(ulid::Ulid::nil()).to_string());
    }
    let mut pages = Vec::new();
    loop {
        let EventPage { mut items, next } =
            bed.store.list_events(filter.clone(), request.clone()).await.unwrap();
        assert!(items.len() <= limit);
        if upwards {
            items.reverse();
        }
        pages.push((items, next));
        let Some(next) = next.map(|id| id.to_string()) else { return pages };
        let cursor = if upwards { &mut request.before } else { &mut request.after };
        *cursor = Some(next);
    }
}

pub(super) async fn events_of_a_type_without_message_are_found_behind_any_number_of_others<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    for _ in 0..120 {
        bed.enqueue(tenant, &["y@one.example"]).await;
    }
    let filter = EventFilter { kind: Some(EventKind::TenantCreated), ..EventFilter::default() };
    for tenant_id in [None, Some(tenant)] {
        for upwards in [false, true] {
            let filter = EventFilter { tenant_id, ..filter.clone() };
            let pages = pages_of_events(&bed, &filter, 10, upwards).await;
            assert_eq!(pages.iter().map(|(events, _)| events.len()).collect::<Vec<_>>(), [1]);
        }
    }
}

pub(super) async fn pages_of_events_skip_nothing_and_show_no_id_of_another_tenant<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (busy, quiet) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    for burst in 0..12 {
        // Events of one millisecond, of both and of nobody.
        let news = (0..20).map(|number| {
            let tenant = [Some(busy), Some(quiet), Some(busy), None][number % 4];
            new_suppression(tenant, &format!("x{number}@{burst}.example"))
        });
        bed.store.suppress_all(news.collect(), now()).await.unwrap();
    }
    let everything = pages_of_events(&bed, &EventFilter::default(), 100, true).await;
    let everything: Vec<_> = everything.into_iter().flat_map(|(events, _)| events).collect();
    // Also the creation of the tenants.
    assert_eq!(everything.len(), 12 * 20 + 2);
    let ids_of =
        |tenant| everything.iter().filter(move |event| event.tenant_id == Some(tenant)).map(|event| event.id);
    let filter = EventFilter { tenant_id: Some(quiet), ..EventFilter::default() };
    for upwards in [false, true] {
        for limit in [2, 100] {
            let pages = pages_of_events(&bed, &filter, limit, upwards).await;
            let mut found: Vec<_> =
                pages.iter().flat_map(|(events, _)| events).map(|event| event.id).collect();
            if !upwards {
                found.reverse();
            }
            assert!(ids_of(quiet).eq(found), "upwards: {upwards}, {limit} at a time");
            assert!(pages.len() > 3, "cut by the limit or by what is looked at");
            let copies: Vec<_> = pages.iter().filter_map(|(_, next)| *next).collect();
            assert!(ids_of(busy).all(|id| !copies.contains(&id)));
        }
    }
}

pub(super) async fn events_are_found_by_the_microsecond_they_happened_at<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let begin = now();
    let at = |number: i64| begin + SignedDuration::from_micros(500 * number);
    for number in 0..6 {
        let new = new_suppression(Some(tenant), &format!("x{number}@one.example"));
        bed.store.suppress(new, at(number)).await.unwrap();
    }
    for (since, until) in [(None, Some(3)), (Some(2), None), (Some(1), Some(4)), (Some(3), Some(3))] {
        let [created_after, created_before] = [since, until].map(|number| number.map(at));
        let request = PageRequest { limit: 100, created_after, created_before, ..PageRequest::default() };
        for tenant_id in [None, Some(tenant)] {
            let kind = Some(EventKind::SuppressionCreated);
            let filter = EventFilter { tenant_id, kind, ..EventFilter::default() };
            let events = bed.store.list_events(filter, request.clone()).await.unwrap().items;
            let found: Vec<_> = events.iter().rev().map(|event| event.created_at).collect();
            let expected: Vec<_> = (since.unwrap_or(0)..until.unwrap_or(6)).map(at).collect();
            assert_eq!(found, expected, "{request:?}");
        }
    }
}
