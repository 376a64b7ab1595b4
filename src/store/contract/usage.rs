//! What tenants used: never more or less than the journal tells, and apart from one another.

use super::*;
use crate::model::{
    EventKind, LimitPeriod, RefusalCode, ReportKind, RequestId, Stage, SuppressionReason, UsageGroup,
};
use crate::store::{Consequence, Reports};

/// The last hundred years.
async fn usage(bed: &TestBed<impl Harness>, tenant: TenantId, interval: UsageInterval) -> Vec<Usage> {
    let from = Timestamp::UNIX_EPOCH;
    bed.store.usage(tenant, interval, from, later(365 * 24 * 3600)).await.unwrap()
}

async fn sum(bed: &TestBed<impl Harness>, tenant: TenantId, environment: Environment) -> UsageCounts {
    let of_environment = |days: Vec<Usage>| {
        let mut sum = UsageCounts::default();
        days.iter().filter(|day| day.environment == environment).for_each(|day| sum += day.counts);
        sum
    };
    let days = of_environment(usage(bed, tenant, UsageInterval::Day).await);
    let hours = of_environment(usage(bed, tenant, UsageInterval::Hour).await);
    assert_eq!(days, hours, "the hours come to the days");
    days
}

/// The same from the journal, event for event.
async fn recount(bed: &TestBed<impl Harness>, tenant: TenantId, environment: Environment) -> UsageCounts {
    let mut counts = UsageCounts::default();
    let all = PageRequest { limit: 100, ..PageRequest::default() };
    let filter = MessageFilter { environment: Some(environment), ..MessageFilter::default() };
    let filter = MessageFilter { tenant_id: Some(tenant), ..filter };
    for summary in bed.store.list_messages(filter, all.clone()).await.unwrap().items {
        counts.sent += summary.recipient_count;
        for event in bed.store.message_events(summary.message.id, None, 1000).await.unwrap().items {
            match event.kind {
                EventKind::MessageDelivered => counts.delivered += 1,
                EventKind::MessageBounced if event.data["late"] == true => counts.bounced_late += 1,
                EventKind::MessageDeferred => counts.deferred += 1,
                EventKind::MessageBounced => counts.bounced += 1,
                EventKind::MessageExpired => {
                    counts.bounced += 1;
                    counts.expired += 1;
                }
                EventKind::MessageUnsubscribed => counts.unsubscribed += 1,
                EventKind::MessageComplained => counts.complained += 1,
                EventKind::MessageSuppressed => counts.suppressed += 1,
                _ => {}
            }
        }
    }
    for rejection in bed
        .store
        .list_rejections(RejectionFilter { tenant_id: Some(tenant), environment: None }, all)
        .await
        .unwrap()
        .items
    {
        match rejection.code {
            _ if rejection.environment != environment => {}
            RefusalCode::RecipientSuppressed => counts.suppressed += 1,
            _ => counts.rejected += 1,
        }
    }
    counts
}

async fn send(bed: &TestBed<impl Harness>, tenant: TenantId, environment: Environment, recipients: &[&str]) {
    let mut new = new_message(tenant, recipients, "body");
    new.message.environment = environment;
    new.suppressed = recipients
        .iter()
        .filter(|to| to.starts_with("complained@"))
        .map(|_| address("s@x.example"))
        .collect();
    bed.store.enqueue(new).await.unwrap();
}

fn rejection(tenant: TenantId, environment: Environment, code: RefusalCode) -> Rejection {
    let at = now();
    Rejection {
        id: RequestId::generate(at),
        tenant_id: tenant,
        key_id: None,
        environment,
        stage: Stage::Rcpt,
        code,
        message: "no".to_owned(),
        client_address: None,
        created_at: at,
    }
}

/// What becomes of deliveries depends on the recipient's local part; a bounce is reported.
fn outcome_of(batch: &Batch) -> RecordBatch {
    let mut records = outcomes(std::slice::from_ref(batch), DeliveryState::Delivered);
    for (record, delivery) in records.records.iter_mut().zip(&batch.deliveries) {
        let recipient = delivery.recipient.to_string();
        record.state = match recipient.split('@').next().unwrap() {
            "bounced" => DeliveryState::Bounced,
            "expired" => DeliveryState::Expired,
            "deferred" if delivery.attempts == 0 => DeliveryState::Deferred,
            _ => DeliveryState::Delivered,
        };
        record.next_attempt_at = record.state.is_open().then(|| record.at + SignedDuration::from_secs(60));
        if record.state == DeliveryState::Bounced && batch.message.kind == MessageKind::Message {
            records.report = Some(new_report(record.tenant_id, "bounced@a.example"));
        }
    }
    records
}

/// The recipients `complained` of a delivered batch complain.
async fn complain(bed: &TestBed<impl Harness>, batch: &Batch) {
    let message = &batch.message;
    for delivery in &batch.deliveries {
        if !delivery.recipient.to_string().starts_with("complained@") {
            continue;
        }
        let suppress = NewSuppression::of_all_mail(
            Some(message.tenant_id),
            message.environment,
            delivery.recipient.clone(),
            SuppressionReason::Complaint,
        );
        let complaint = Consequence::Complaint { suppress, list: None };
        let new = returned(ReportKind::Complaint, Some((message, Some(delivery.id))), 0, complaint);
        bed.store.record_report(new).await.unwrap();
    }
}

pub(super) async fn what_was_used_is_what_the_journal_tells<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let (live, test) = (Environment::Live, Environment::Test);
    for _ in 0..3 {
        send(&bed, a, live, &["x@one.example", "bounced@one.example", "deferred@two.example"]).await;
        send(&bed, a, live, &["expired@one.example", "complained@two.example"]).await;
        send(&bed, a, test, &["x@one.example", "bounced@two.example"]).await;
        send(&bed, b, live, &["x@one.example"]).await;
    }
    for (tenant, environment, code) in [
        (a, live, RefusalCode::RecipientSuppressed),
        (a, live, RefusalCode::DomainNotAllowedForKey),
        (a, live, RefusalCode::SendLimitExceeded),
        (a, test, RefusalCode::RecipientInvalid),
        (b, test, RefusalCode::RecipientSuppressed),
    ] {
        bed.store.reject(rejection(tenant, environment, code));
    }
    for round in 0..4 {
        for batch in bed.claim(later(3600 * round)).await.batches {
            bed.store.record(outcome_of(&batch)).await.unwrap();
            complain(&bed, &batch).await;
        }
    }
    assert_eq!(bed.store.count_open().await.unwrap(), 0);
    for (tenant, environment) in [(a, live), (a, test), (b, live), (b, test)] {
        let counted = sum(&bed, tenant, environment).await;
        assert_eq!(counted, recount(&bed, tenant, environment).await, "{tenant} {environment}");
    }
    let expected = UsageCounts {
        sent: 15,
        delivered: 9,
        deferred: 3,
        bounced: 6,
        expired: 3,
        bounced_late: 0,
        complained: 3,
        unsubscribed: 0,
        suppressed: 4,
        rejected: 2,
        api_requests: 0,
    };
    assert_eq!(sum(&bed, a, live).await, expected);
}

pub(super) async fn what_is_repeated_cancelled_or_not_written_is_not_counted<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut new = new_message(tenant, &["x@one.example", "y@two.example"], "once");
    new.submission_key = Some(SubmissionKey { name: "k".to_owned(), digest: [1; 32] });
    bed.store.enqueue(new.clone()).await.unwrap();
    let mut again = new_message(tenant, &["x@one.example", "y@two.example"], "once");
    again.submission_key = new.submission_key.clone();
    assert_eq!(bed.store.enqueue(again).await.unwrap(), new.message.id);

    let batches = bed.claim(later(0)).await.batches;
    let mut half_done = outcomes(&batches[..1], DeliveryState::Delivered);
    // Twice the same delivery: the report cannot be written, and what comes with it neither.
    let mut report = new_message(tenant, &["postmaster@a.example"], "report");
    report.recipients.push(report.recipients[0].clone());
    half_done.report = Some(report);
    let others = (0..20).map(|_| bed.enqueue(tenant, &["z@one.example"]));
    let (failed, _) = tokio::join!(bed.store.record(half_done), futures_in_turn(others));
    failed.unwrap_err();
    bed.store.cancel(new.message.id, ids(&batches), now()).await.unwrap();
    let expected = UsageCounts { sent: 22, ..UsageCounts::default() };
    assert_eq!(sum(&bed, tenant, Environment::Live).await, expected);
}

async fn futures_in_turn<T>(futures: impl Iterator<Item = impl Future<Output = T>>) {
    for future in futures {
        future.await;
    }
}

pub(super) async fn usage_stands_in_the_hour_and_the_day_of_its_time<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let environment = Environment::Live;
    let by = |at: &str| UsedBy { tenant_id: tenant, key_id: None, environment, at: at.parse().unwrap() };
    let gone = UsedBy { tenant_id: TenantId::generate(now()), ..by("2026-11-22T05:00:00Z") };
    let requests = vec![
        (by("2026-11-21T23:59:59.999Z"), 1),
        (by("2026-11-22T00:00:00Z"), 2),
        (by("2026-11-22T00:30:00Z"), 3),
        (by("2026-11-22T01:00:00Z"), 4),
        (gone, 5),
    ];
    bed.store.count_requests(requests.clone()).await.unwrap();
    bed.store.count_requests(requests).await.unwrap();
    let read = async |interval, from: &str, to: &str| {
        let found = bed.store.usage(tenant, interval, from.parse().unwrap(), to.parse().unwrap()).await;
        let found = found.unwrap().into_iter();
        found.map(|usage| (usage.start.to_string(), usage.counts.api_requests)).collect::<Vec<_>>()
    };
    let expect = |rows: &[(&str, u64)]| {
        rows.iter().map(|(at, n)| (Timestamp::to_string(&at.parse().unwrap()), *n)).collect::<Vec<_>>()
    };
    let (hour, day) = (UsageInterval::Hour, UsageInterval::Day);
    assert_eq!(
        read(day, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z").await,
        expect(&[("2026-11-21T00:00:00Z", 2), ("2026-11-22T00:00:00Z", 18)])
    );
    assert_eq!(
        read(hour, "2026-11-21T23:00:00Z", "2026-11-22T01:00:00Z").await,
        expect(&[("2026-11-21T23:00:00Z", 2), ("2026-11-22T00:00:00Z", 10)])
    );
    assert!(bed.store.usage(gone.tenant_id, day, Timestamp::UNIX_EPOCH, now()).await.unwrap().is_empty());
}

pub(super) async fn hours_go_after_ninety_days_and_days_stay<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let start = UsageInterval::Day.start_of(now());
    let hours = (0..48).map(|hour| {
        let at = start + SignedDuration::from_hours(hour);
        (UsedBy { tenant_id: tenant, key_id: None, environment: Environment::Live, at }, 1)
    });
    bed.store.count_requests(hours.collect()).await.unwrap();
    let prune = async |days: i64| {
        let at = start + SignedDuration::from_hours(24 * days + 23);
        bed.store.prune(KEEP, at, 100).await.unwrap().usage_rows
    };
    assert_eq!(prune(90).await, 0, "the first day is ninety days old and kept");
    assert_eq!(prune(91).await, 24, "a whole day goes");
    assert_eq!(usage(&bed, tenant, UsageInterval::Hour).await.len(), 24);
    assert_eq!(usage(&bed, tenant, UsageInterval::Day).await.len(), 2);
}

pub(super) async fn a_tenant_is_warned_of_a_limit_once_in_a_period_whoever_restarts<H: Harness>() {
    let mut bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let at: Timestamp = "2026-11-22T05:42:27Z".parse().unwrap();
    let warning = |level, environment, period: LimitPeriod, at| LimitWarning {
        tenant_id: tenant,
        level,
        environment,
        period,
        limit: 10,
        used: 8,
        resets_at: period.end_of(at),
        at,
    };
    let (live, day) = (Environment::Live, LimitPeriod::Day);
    // That of its creation.
    let mut appended = 1;
    for (warning, is_new) in [
        (warning(LimitLevel::Approaching, live, day, at), true),
        (warning(LimitLevel::Approaching, live, day, at), false),
        (warning(LimitLevel::Exceeded, live, day, at), true),
        (warning(LimitLevel::Exceeded, Environment::Test, day, at), true),
        (warning(LimitLevel::Exceeded, live, LimitPeriod::Minute, at), true),
        (warning(LimitLevel::Exceeded, live, LimitPeriod::Minute, at + SignedDuration::from_mins(1)), true),
        (warning(LimitLevel::Exceeded, live, day, at + SignedDuration::from_mins(1)), false),
        (warning(LimitLevel::Exceeded, live, day, at + SignedDuration::from_hours(24)), true),
    ] {
        bed.store.warn_of_limit(warning);
        bed.store.checkpoint().await.unwrap();
        bed = bed.restart().await;
        appended += u64::from(is_new);
        let events = bed.store.count_tenant_objects(tenant).await.unwrap().unwrap().events;
        assert_eq!(events, appended, "{warning:?}");
    }
}

async fn sums(bed: &TestBed<impl Harness>, group: UsageGroup, tenant_id: Option<TenantId>) -> Vec<UsageSum> {
    let filter = UsageFilter {
        tenant_id,
        from: Timestamp::UNIX_EPOCH,
        to: later(365 * 24 * 3600),
        environment: Environment::Live,
        only: None,
        group,
        after: None,
        limit: 100,
    };
    let all = bed.store.usage_sums(filter.clone()).await.unwrap();
    assert!(!all.has_more);
    // The same one by one.
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = bed.store.usage_sums(UsageFilter { after, limit: 1, ..filter.clone() }).await.unwrap();
        after =
            page.items.last().map(|sum| UsageCursor { tenant_id: sum.tenant_id, group: sum.group.clone() });
        paged.extend(page.items);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(all.items, paged);
    all.items
}

pub(super) async fn usage_of_all_tenants_is_summed_by_tenant_key_domain_and_day<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let keys = [(); 2].map(|()| KeyId::generate(now()));
    let send = async |tenant, key, domain: &str, environment, to: &[&str]| {
        let mut new = new_message(tenant, to, "body");
        (new.message.key_id, new.message.environment) = (Some(key), environment);
        new.message.sender_domain = Some(name(domain));
        bed.store.enqueue(new).await.unwrap();
    };
    let (live, test) = (Environment::Live, Environment::Test);
    send(a, keys[0], "one.example", live, &["x@x.example", "bounced@x.example"]).await;
    send(a, keys[1], "one.example", live, &["complained@x.example"]).await;
    send(a, keys[1], "two.example", live, &["x@x.example"]).await;
    send(a, keys[1], "two.example", test, &["x@x.example", "y@x.example"]).await;
    send(b, keys[0], "one.example", live, &["x@x.example"]).await;
    let mut refusal = rejection(a, live, RefusalCode::RecipientInvalid);
    refusal.key_id = Some(keys[1]);
    bed.store.reject(refusal);
    let at = now() + SignedDuration::from_hours(24);
    let by = UsedBy { tenant_id: a, key_id: Some(keys[0]), environment: test, at };
    bed.store.count_requests(vec![(by, 7)]).await.unwrap();
    for batch in bed.claim(later(0)).await.batches {
        bed.store.record(outcome_of(&batch)).await.unwrap();
        complain(&bed, &batch).await;
    }

    let counts = |sent, delivered, bounced, complained, rejected, api_requests| UsageCounts {
        sent,
        delivered,
        bounced,
        complained,
        rejected,
        api_requests,
        ..UsageCounts::default()
    };
    let shown = |sums: Vec<UsageSum>| {
        sums.into_iter().map(|sum| (sum.tenant_id, sum.group, sum.counts, sum.test_sent)).collect::<Vec<_>>()
    };
    let text = String::from;
    let of_b = counts(1, 1, 0, 0, 0, 0);
    let mut by_tenant = vec![(a, text(""), counts(4, 3, 1, 1, 1, 7), 2), (b, text(""), of_b, 0)];
    assert_eq!(shown(sums(&bed, UsageGroup::Tenant, None).await), by_tenant);
    by_tenant.pop();
    assert_eq!(shown(sums(&bed, UsageGroup::Tenant, Some(a)).await), by_tenant);
    let by_key = [
        (a, keys[0].to_string(), counts(2, 1, 1, 0, 0, 7), 0),
        (a, keys[1].to_string(), counts(2, 2, 0, 1, 1, 0), 2),
        (b, keys[0].to_string(), of_b, 0),
    ];
    let mut found = shown(sums(&bed, UsageGroup::Key, None).await);
    found.sort_by_key(|(tenant, key, ..)| (*tenant, *key != keys[0].to_string()));
    assert_eq!(found, by_key);
    let by_domain = [
        (a, text(""), counts(0, 0, 0, 0, 1, 7), 0),
        (a, text("one.example"), counts(3, 2, 1, 1, 0, 0), 0),
        (a, text("two.example"), counts(1, 1, 0, 0, 0, 0), 2),
        (b, text("one.example"), of_b, 0),
    ];
    assert_eq!(shown(sums(&bed, UsageGroup::Domain, None).await), by_domain);
    let by_day = shown(sums(&bed, UsageGroup::Day, Some(a)).await);
    let requests: Vec<_> = by_day.iter().map(|(_, _, counts, _)| counts.api_requests).collect();
    assert_eq!(requests, [0, 7], "{by_day:?}");
    let start: i64 = by_day[1].1.parse().unwrap();
    assert_eq!(start, UsageInterval::Day.start_of(at).as_microsecond());
}

pub(super) async fn the_days_of_a_deleted_tenant_are_kept_for_its_last_bill<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (gone, other) = (bed.tenant("gone").await.id, bed.tenant("other").await.id);
    for tenant in [gone, other] {
        bed.enqueue(tenant, &["x@one.example"]).await;
    }
    bed.store.remove_tenant(gone, now()).await.unwrap();
    assert!(usage(&bed, gone, UsageInterval::Hour).await.is_empty());
    let listed = async |group| {
        let of = |sum: UsageSum| {
            let UsageCounts { sent, api_requests, .. } = sum.counts;
            (sum.tenant_id, sum.tenant_slug, sum.is_deleted, sent, api_requests)
        };
        sums(&bed, group, None).await.into_iter().map(of).collect::<Vec<_>>()
    };
    let both = [(gone, "gone".to_owned(), true, 1, 0), (other, "other".to_owned(), false, 1, 0)];
    let groups = [UsageGroup::Tenant, UsageGroup::Key, UsageGroup::Domain, UsageGroup::Day];
    for group in groups {
        assert_eq!(listed(group).await, both, "{group}");
    }
    // Nothing is counted for it any more, and its slug is free.
    let by = UsedBy { tenant_id: gone, key_id: None, environment: Environment::Live, at: now() };
    bed.store.count_requests(vec![(by, 1)]).await.unwrap();
    assert_eq!(listed(UsageGroup::Tenant).await, both);
    let policy = RetentionPolicy { row_days: 1, ..KEEP };
    let prune = async |days: i64| bed.store.prune(policy, later(days * 24 * 3600), 100).await.unwrap();
    prune(89).await;
    assert_eq!(listed(UsageGroup::Tenant).await, both);
    prune(92).await;
    for group in groups {
        assert_eq!(listed(group).await, both[1..], "{group}");
    }
    prune(402).await;
    assert_eq!(listed(UsageGroup::Day).await, both[1..], "the days of a tenant stay with it");
    assert_eq!(listed(UsageGroup::Key).await, []);
}

pub(super) async fn usage_by_key_of_a_day_has_so_many_rows_and_the_rest_goes_under_no_key<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let a = bed.tenant("a").await.id;
    let at = now();
    let keys: Vec<_> = (0..5_003).map(|_| KeyId::generate(now())).collect();
    let count = async |keys: &[KeyId]| {
        let by = |key| UsedBy { tenant_id: a, key_id: Some(key), environment: Environment::Live, at };
        bed.store.count_requests(keys.iter().map(|&key| (by(key), 1)).collect()).await.unwrap();
    };
    count(&keys[..5_000]).await;
    count(&keys[5_000..]).await;
    // A key with a row keeps it.
    count(&keys[..1]).await;
    let filter = UsageFilter {
        tenant_id: Some(a),
        from: Timestamp::UNIX_EPOCH,
        to: later(48 * 3600),
        environment: Environment::Live,
        only: None,
        group: UsageGroup::Key,
        after: None,
        limit: 10_000,
    };
    let found = bed.store.usage_sums(filter).await.unwrap().items;
    let of = |group: &str| {
        let sum = found.iter().find(|sum| sum.group == group);
        sum.map(|sum| sum.counts.api_requests)
    };
    assert_eq!(found.len(), 5_001);
    assert_eq!((of(""), of(&keys[0].to_string()), of(&keys[5_001].to_string())), (Some(3), Some(2), None));
}
