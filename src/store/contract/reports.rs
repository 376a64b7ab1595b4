//! Reports of other servers: what they change, once, and what they never change.

use super::*;
use crate::mail::{TokenKind, TokenScope, TokenSubject};
use crate::model::{
    FeedbackType, ListName, ReportAction, ReportEffect, ReportKind, SuppressedMail, SuppressionReason,
    UnsubscribeVia,
};

const RECIPIENT: &str = "Bob@one.example";

fn list(name: &str) -> ListName {
    name.parse().unwrap()
}

/// A message whose deliveries are delivered.
async fn delivered(bed: &TestBed<impl Harness>, tenant: TenantId, recipients: &[&str]) -> NewMessage {
    let new = bed.enqueue(tenant, recipients).await;
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    new
}

/// A report about the delivery with this number; what it says depends on `digest` only.
fn report(new: &NewMessage, delivery: Option<usize>, digest: u8, consequence: Consequence) -> NewReport {
    let delivery = delivery.map(|number| new.recipients[number].0);
    let returned = returned(ReportKind::Dsn, Some((&new.message, delivery)), digest, consequence);
    let report = Report {
        action: Some(ReportAction::Failed),
        status: Some(EnhancedStatus::new(5, 1, 1)),
        bounce_class: Some(BounceClass::RecipientUnknown),
        recipient: Some("named@elsewhere.example".to_owned()),
        reply: Some("550 5.1.1 nobody".to_owned()),
        ..returned.report
    };
    NewReport { report, ..returned }
}

fn suppression(tenant: TenantId, reason: SuppressionReason) -> NewSuppression {
    NewSuppression::of_all_mail(Some(tenant), Environment::Live, address(RECIPIENT), reason)
}

fn failure(tenant: TenantId) -> Consequence {
    Consequence::Failure { suppress: Some(suppression(tenant, SuppressionReason::Bounce)) }
}

async fn events(bed: &TestBed<impl Harness>, new: &NewMessage) -> Vec<(EventKind, serde_json::Value)> {
    let events = bed.store.message_events(new.message.id, None, 1000).await.unwrap().items;
    events.into_iter().map(|event| (event.kind, event.data)).collect()
}

async fn kinds(bed: &TestBed<impl Harness>, new: &NewMessage) -> Vec<EventKind> {
    events(bed, new).await.into_iter().skip(1).map(|(kind, _)| kind).collect()
}

async fn suppressed(bed: &TestBed<impl Harness>, tenant: TenantId) -> Vec<Suppression> {
    let filter = SuppressionFilter { tenant_id: Some(tenant), ..SuppressionFilter::default() };
    bed.store.list_suppressions(filter, page(100)).await.unwrap().items
}

async fn used(bed: &TestBed<impl Harness>, tenant: TenantId) -> UsageCounts {
    let mut sum = UsageCounts::default();
    let days =
        bed.store.usage(tenant, UsageInterval::Day, Timestamp::UNIX_EPOCH, later(365 * 24 * 3600)).await;
    days.unwrap().iter().for_each(|day| sum += day.counts);
    sum
}

async fn state(bed: &TestBed<impl Harness>, new: &NewMessage) -> DeliveryState {
    bed.store.deliveries(new.message.id).await.unwrap()[0].state
}

pub(super) async fn a_late_failure_bounces_the_delivery_once_with_event_suppression_and_usage<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = delivered(&bed, tenant, &[RECIPIENT]).await;
    let dsn = new_report(tenant, "sender@example.com");
    let late = NewReport { dsn: Some(dsn.clone()), ..report(&new, Some(0), 1, failure(tenant)) };
    let recorded = bed.store.record_report(late).await.unwrap();
    assert_eq!((recorded.effect, recorded.is_new), (ReportEffect::Bounced, true));
    let delivery = bed.store.deliveries(new.message.id).await.unwrap().remove(0);
    assert_eq!(
        (delivery.state, delivery.bounce_class, delivery.last_reply.as_deref()),
        (DeliveryState::Bounced, Some(BounceClass::RecipientUnknown), Some("550 5.1.1 nobody"))
    );
    let expected = [EventKind::MessageDelivered, EventKind::MessageBounced, EventKind::SuppressionCreated];
    assert_eq!(kinds(&bed, &new).await, expected);
    let (_, data) = events(&bed, &new).await.remove(2);
    let expected = serde_json::json!({
        "recipient": RECIPIENT, "enhanced": "5.1.1", "reply": "550 5.1.1 nobody", "bounce_class": "recipient_unknown",
        "attempts": 1, "late": true, "report_id": recorded.id,
    });
    assert_eq!(data, expected);
    let suppressed = suppressed(&bed, tenant).await;
    assert_eq!(
        (suppressed[0].report_id, suppressed[0].message_id),
        (Some(recorded.id), Some(new.message.id))
    );
    let used = used(&bed, tenant).await;
    assert_eq!((used.delivered, used.bounced, used.bounced_late), (1, 0, 1));
    assert!(
        bed.store.message(None, dsn.message.id).await.unwrap().is_some(),
        "the DSN to the sender is queued"
    );
    let found = bed.store.report(Some(tenant), recorded.id).await.unwrap().unwrap();
    assert_eq!((found.effect, found.times, found.has_raw), (ReportEffect::Bounced, 1, true));
}

pub(super) async fn a_report_that_comes_again_is_counted_and_changes_nothing<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = delivered(&bed, tenant, &[RECIPIENT]).await;
    let first = bed.store.record_report(report(&new, Some(0), 1, failure(tenant))).await.unwrap();
    let lifted = suppressed(&bed, tenant).await.remove(0).id;
    assert!(bed.store.lift_suppression(None, lifted, now()).await.unwrap());
    let before = kinds(&bed, &new).await;
    for _ in 0..2 {
        let dsn = new_report(tenant, "sender@example.com");
        let again = NewReport { dsn: Some(dsn.clone()), ..report(&new, Some(0), 1, failure(tenant)) };
        let again = bed.store.record_report(again).await.unwrap();
        assert_eq!((again.id, again.effect, again.is_new), (first.id, ReportEffect::Bounced, false));
        assert!(bed.store.message(None, dsn.message.id).await.unwrap().is_none());
    }
    assert_eq!(kinds(&bed, &new).await, before);
    assert!(suppressed(&bed, tenant).await.is_empty());
    assert_eq!(used(&bed, tenant).await.bounced_late, 1);
    let found = bed.store.report(None, first.id).await.unwrap().unwrap();
    assert!(found.times == 3 && found.last_at > found.created_at, "{found:?}");
    let other = bed.store.record_report(report(&new, Some(0), 2, failure(tenant))).await.unwrap();
    assert_eq!((other.effect, other.is_new), (ReportEffect::Reported, true), "it is bounced already");
    assert_eq!(used(&bed, tenant).await.bounced_late, 1);
}

pub(super) async fn a_failure_that_is_reported_before_and_after_the_success_bounces_the_delivery<
    H: Harness,
>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = bed.enqueue(tenant, &[RECIPIENT]).await;
    let early = bed.store.record_report(report(&new, Some(0), 1, failure(tenant))).await.unwrap();
    assert_eq!(early.effect, ReportEffect::Reported);
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    let late = bed.store.record_report(report(&new, Some(0), 1, failure(tenant))).await.unwrap();
    assert_eq!((late.id, late.effect, late.is_new), (early.id, ReportEffect::Bounced, false));
    assert_eq!(state(&bed, &new).await, DeliveryState::Bounced);
    assert_eq!(bed.store.report(None, early.id).await.unwrap().unwrap().effect, ReportEffect::Bounced);
}

pub(super) async fn a_failure_of_a_delivery_that_is_not_delivered_is_an_event_and_suppresses<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    for ended in [DeliveryState::Deferred, DeliveryState::Bounced, DeliveryState::Expired] {
        let new = bed.enqueue(tenant, &[RECIPIENT]).await;
        let batches = bed.claim(later(0)).await.batches;
        let own = batches.into_iter().filter(|batch| batch.message.id == new.message.id).collect::<Vec<_>>();
        bed.store.record(outcomes(&own, ended)).await.unwrap();
        let recorded = bed.store.record_report(report(&new, Some(0), 1, failure(tenant))).await.unwrap();
        assert_eq!(recorded.effect, ReportEffect::Reported);
        assert_eq!(state(&bed, &new).await, ended);
        let events = events(&bed, &new).await;
        let (_, data) = events.iter().find(|(kind, _)| *kind == EventKind::MessageReported).unwrap();
        assert_eq!((&data["recipient"], &data["effect"]), (&RECIPIENT.into(), &"reported".into()), "{data}");
        let suppressed = suppressed(&bed, tenant).await.remove(0);
        assert_eq!(suppressed.report_id, Some(recorded.id));
        assert!(bed.store.lift_suppression(None, suppressed.id, now()).await.unwrap());
    }
    assert_eq!(used(&bed, tenant).await.bounced_late, 0);
}

pub(super) async fn a_report_without_proof_of_its_recipient_changes_no_state<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = delivered(&bed, tenant, &[RECIPIENT, "two@one.example"]).await;
    for (digest, delivery, effect) in [
        (1, Some(0), ReportEffect::Indirect),
        (2, None, ReportEffect::Shared),
        (2, None, ReportEffect::Shared),
    ] {
        let new = report(&new, delivery, digest, Consequence::Event(effect));
        assert_eq!(bed.store.record_report(new).await.unwrap().effect, effect);
    }
    let reported: Vec<_> = events(&bed, &new)
        .await
        .into_iter()
        .filter(|(kind, _)| *kind == EventKind::MessageReported)
        .collect();
    let told = reported.iter().map(|(_, data)| (data["effect"].as_str(), data["recipient"].as_str()));
    let expected = [(Some("indirect"), Some(RECIPIENT)), (Some("shared"), Some("named@elsewhere.example"))];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert_eq!(state(&bed, &new).await, DeliveryState::Delivered);
    assert!(suppressed(&bed, tenant).await.is_empty());
    let nothing = report(&new, Some(0), 3, Consequence::None);
    let quiet = bed.store.record_report(nothing).await.unwrap();
    assert_eq!(quiet.effect, ReportEffect::None);
    bed.store.record_report(report(&new, Some(1), 4, Consequence::None)).await.unwrap();
    // Reports with an event and those of other deliveries count for no limit.
    let of_delivery = new.recipients[0].0;
    let found = bed.store.reports_without_event(new.message.id, Some(of_delivery), 1).await.unwrap();
    assert_eq!((found.items.len(), found.items[0].id, found.has_more), (1, quiet.id, false));
    let found = bed.store.reports_without_event(new.message.id, None, 1).await.unwrap();
    assert_eq!((found.items.len(), found.has_more), (1, true));
}

pub(super) async fn a_recipient_complains_once<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = delivered(&bed, tenant, &[RECIPIENT]).await;
    let suppress = NewSuppression {
        mail: SuppressedMail::EveryList,
        ..suppression(tenant, SuppressionReason::Complaint)
    };
    for digest in [1, 2] {
        let consequence = Consequence::Complaint { suppress: suppress.clone(), list: Some(list("news")) };
        let mut complaint = report(&new, Some(0), digest, consequence);
        complaint.report.feedback_type = Some(FeedbackType::Abuse);
        assert_eq!(bed.store.record_report(complaint).await.unwrap().effect, ReportEffect::Complained);
    }
    let events = events(&bed, &new).await;
    let told: Vec<_> = events.iter().filter(|(kind, _)| *kind == EventKind::MessageComplained).collect();
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0].1["feedback_type"], &told[0].1["list"]), (&"abuse".into(), &"news".into()));
    assert_eq!(used(&bed, tenant).await.complained, 1);
    let found = suppressed(&bed, tenant).await;
    assert_eq!((found.len(), &found[0].mail), (1, &SuppressedMail::EveryList));
    assert_eq!(state(&bed, &new).await, DeliveryState::Delivered);
}

pub(super) async fn a_recipient_leaves_a_list_once_also_when_the_message_is_gone<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = delivered(&bed, tenant, &[RECIPIENT]).await;
    let wish = |name: &str, message_id| Unsubscription {
        tenant_id: tenant,
        environment: Environment::Live,
        address: address(RECIPIENT),
        mail: SuppressedMail::List(list(name)),
        via: UnsubscribeVia::Link,
        message_id: Some(message_id),
        at: now(),
    };
    assert!(bed.store.unsubscribe(wish("news", new.message.id)).await.unwrap());
    assert!(!bed.store.unsubscribe(wish("news", new.message.id)).await.unwrap());
    let by_mail = report(&new, Some(0), 1, Consequence::Unsubscribe(wish("offers", new.message.id)));
    let recorded = bed.store.record_report(by_mail).await.unwrap();
    assert_eq!((recorded.effect, recorded.is_new), (ReportEffect::Unsubscribed, true));
    let of_message = events(&bed, &new).await;
    let told = of_message.iter().filter(|(kind, _)| *kind == EventKind::MessageUnsubscribed);
    let told: Vec<_> = told.map(|(_, data)| (data["list"].as_str(), data["report_id"].is_string())).collect();
    assert_eq!(told, [(Some("news"), false), (Some("offers"), true)]);
    let gone = MessageId::generate(now());
    assert!(bed.store.unsubscribe(wish("third", gone)).await.unwrap());
    let filter = EventFilter {
        tenant_id: Some(tenant),
        kind: Some(EventKind::MessageUnsubscribed),
        ..EventFilter::default()
    };
    let of_tenant = bed.store.list_events(filter, page(10)).await.unwrap().items;
    assert_eq!(of_tenant[0].message_id, None, "an event goes with its message");
    assert_eq!(used(&bed, tenant).await.unsubscribed, 3);
    let nobody = Unsubscription { tenant_id: TenantId::generate(now()), ..wish("news", gone) };
    assert!(!bed.store.unsubscribe(nobody).await.unwrap(), "links outlive their tenant");
}

/// Mails that unsubscribe are often equal.
pub(super) async fn a_recipient_who_unsubscribes_again_by_mail_leaves_a_list_that_he_joined_again<
    H: Harness,
>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = delivered(&bed, tenant, &[RECIPIENT]).await;
    let by_mail = async || {
        let wish = Unsubscription {
            tenant_id: tenant,
            environment: Environment::Live,
            address: address(RECIPIENT),
            mail: SuppressedMail::List(list("news")),
            via: UnsubscribeVia::Mail,
            message_id: Some(new.message.id),
            at: now(),
        };
        bed.store.record_report(report(&new, Some(0), 1, Consequence::Unsubscribe(wish))).await.unwrap()
    };
    let first = by_mail().await;
    let suppression = suppressed(&bed, tenant).await.remove(0);
    assert!(bed.store.lift_suppression(None, suppression.id, now()).await.unwrap());
    for _ in 0..2 {
        let again = by_mail().await;
        assert_eq!((again.id, again.effect, again.is_new), (first.id, ReportEffect::Unsubscribed, false));
        let suppressed = suppressed(&bed, tenant).await;
        assert_eq!((suppressed.len(), suppressed[0].report_id), (1, Some(first.id)));
    }
    assert_eq!(used(&bed, tenant).await.unsubscribed, 2);
    let events = events(&bed, &new).await;
    let left = events.iter().filter(|(kind, _)| *kind == EventKind::MessageUnsubscribed);
    assert!(left.map(|(_, data)| &data["report_id"]).eq([&first.id.to_string(), &first.id.to_string()]));
}

pub(super) async fn a_day_has_16_reports_of_a_delivery_and_all_days_64<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = delivered(&bed, tenant, &[RECIPIENT, "two@one.example"]).await;
    let subject = TokenSubject { scope: TokenScope::Delivery, id: new.recipients[0].0.into() };
    let day = |number: i64| now() + SignedDuration::from_hours(24 * number);
    let record = async |number, at| {
        let report = NewReport { at, ..report(&new, Some(number), 1, Consequence::None) };
        bed.store.record_report(report).await
    };
    for number in 0..4 {
        for _ in 0..16 {
            record(0, day(number)).await.unwrap();
        }
        let refused = record(0, day(number)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict(Conflict::TooManyReports)), "{refused}");
        let target = bed.store.report_target(subject, day(number)).await.unwrap().unwrap();
        assert_eq!((target.reports_of_day, target.reports_total), (16, 16 * (number as u64 + 1)));
        let tomorrow = bed.store.report_target(subject, day(number + 1)).await.unwrap().unwrap();
        assert_eq!(tomorrow.reports_of_day, 0);
    }
    let refused = record(0, day(4)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict(Conflict::TooManyReports)), "{refused}");
    record(1, day(4)).await.unwrap();
}

pub(super) async fn a_report_goes_with_its_message_and_its_text_before<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = delivered(&bed, tenant, &[RECIPIENT]).await;
    let id = bed.store.record_report(report(&new, Some(0), 1, failure(tenant))).await.unwrap().id;
    let mut stray = report(&new, None, 1, Consequence::None);
    let of_nobody = &mut stray.report;
    (of_nobody.tenant_id, of_nobody.environment, of_nobody.message_id) = (None, None, None);
    let stray = bed.store.record_report(stray).await.unwrap().id;
    let policy = RetentionPolicy { row_days: 30, report_days: 14, ..KEEP };
    let prune = async |days: i64| bed.store.prune(policy, later(days * 24 * 3600), 100).await.unwrap();
    assert_eq!(prune(13).await.reports, 0);
    assert_eq!(bed.store.report_raw(None, id).await.unwrap().unwrap(), b"Subject: failed\r\n");
    assert_eq!(prune(15).await.reports, 3, "two texts and the report of nobody");
    assert!(bed.store.report(None, stray).await.unwrap().is_none());
    assert!(!bed.store.report(None, id).await.unwrap().unwrap().has_raw);
    assert!(bed.store.report_raw(None, id).await.unwrap().is_none());
    assert_eq!(prune(31).await.messages, 1);
    assert!(bed.store.report(None, id).await.unwrap().is_none());
    let refused = bed.store.record_report(report(&new, Some(0), 2, failure(tenant))).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict(Conflict::NoMessage)), "{refused}");
    assert_eq!(suppressed(&bed, tenant).await.len(), 1, "the suppression outlives both");
}

pub(super) async fn reports_are_listed_by_owner_environment_message_kind_and_effect<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (one, other) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let (own, foreign) =
        (delivered(&bed, one, &[RECIPIENT]).await, delivered(&bed, other, &[RECIPIENT]).await);
    let record = async |new: NewReport| bed.store.record_report(new).await.unwrap().id;
    let bounced = record(report(&own, Some(0), 1, failure(one))).await;
    let mut quiet = report(&own, Some(0), 2, Consequence::None);
    quiet.report.kind = ReportKind::AutoReply;
    let quiet = record(quiet).await;
    let of_other = record(report(&foreign, Some(0), 1, failure(other))).await;
    let mut stray = report(&own, None, 1, Consequence::None);
    let of_nobody = &mut stray.report;
    (of_nobody.tenant_id, of_nobody.environment, of_nobody.message_id) = (None, None, None);
    let stray = record(stray).await;
    let all = ReportFilter::default();
    for (filter, expected) in [
        (all.clone(), vec![stray, of_other, quiet, bounced]),
        (ReportFilter { tenant_id: Some(one), ..all.clone() }, vec![quiet, bounced]),
        (ReportFilter { unattributed: true, ..all.clone() }, vec![stray]),
        (ReportFilter { environment: Some(Environment::Test), ..all.clone() }, vec![]),
        (ReportFilter { message_id: Some(foreign.message.id), ..all.clone() }, vec![of_other]),
        (ReportFilter { kind: Some(ReportKind::AutoReply), ..all.clone() }, vec![quiet]),
        (ReportFilter { effect: Some(ReportEffect::Bounced), ..all.clone() }, vec![of_other, bounced]),
    ] {
        let found = bed.store.list_reports(filter.clone(), page(100)).await.unwrap().items;
        let found: Vec<_> = found.iter().map(|report| report.id).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
    for (scope, id, is_there) in [
        (Some(one), bounced, true),
        (Some(other), bounced, false),
        (Some(one), stray, false),
        (None, stray, true),
    ] {
        assert_eq!(bed.store.report(scope, id).await.unwrap().is_some(), is_there);
        assert_eq!(bed.store.report_raw(scope, id).await.unwrap().is_some(), is_there);
    }
}

pub(super) async fn an_automatic_suppression_shortens_none_and_one_of_a_list_stops_that_list_only<
    H: Harness,
>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let soon = Some(later(90 * 24 * 3600));
    let manual = new_suppression(Some(tenant), RECIPIENT);
    let first = bed.store.suppress(manual.clone(), now()).await.unwrap();
    let bounce = NewSuppression { expires_at: soon, ..suppression(tenant, SuppressionReason::Bounce) };
    let new = delivered(&bed, tenant, &["other@one.example"]).await;
    let failed = Consequence::Failure { suppress: Some(bounce.clone()) };
    bed.store.record_report(report(&new, Some(0), 1, failed)).await.unwrap();
    let kept = suppressed(&bed, tenant).await.remove(0);
    assert_eq!((kept.id, kept.reason, kept.expires_at), (first.id, SuppressionReason::Manual, None));
    for asked in [NewSuppression { expires_at: soon, ..manual.clone() }, bounce] {
        bed.store.suppress(manual.clone(), now()).await.unwrap();
        let found = bed.store.suppress(asked.clone(), now()).await.unwrap();
        assert_eq!((found.reason, found.expires_at), (asked.reason, soon), "a person may");
    }
    let longer = Consequence::Failure { suppress: Some(suppression(tenant, SuppressionReason::Bounce)) };
    bed.store.record_report(report(&new, Some(0), 2, longer)).await.unwrap();
    assert_eq!(suppressed(&bed, tenant).await.remove(0).expires_at, None);

    let of_list = |mail| NewSuppression {
        mail,
        ..NewSuppression::of_all_mail(
            Some(tenant),
            Environment::Live,
            address("eve@one.example"),
            SuppressionReason::Unsubscribe,
        )
    };
    let stops = async |name: &str| {
        let (live, at) = (Environment::Live, now());
        let found = bed.store.list_suppression_of(tenant, live, "eve@one.example", &list(name), at).await;
        found.unwrap().is_some()
    };
    bed.store.suppress(of_list(SuppressedMail::List(list("news"))), now()).await.unwrap();
    assert!(stops("news").await && !stops("offers").await);
    let all = bed.store.suppression_of(tenant, Environment::Live, "eve@one.example", now()).await.unwrap();
    assert!(all.is_none(), "other mail is not stopped");
    bed.store.suppress(of_list(SuppressedMail::EveryList), now()).await.unwrap();
    assert!(stops("offers").await);
    let other = bed.tenant("other").await.id;
    let stops_other = async || {
        let (live, at) = (Environment::Live, now());
        bed.store
            .list_suppression_of(other, live, "eve@one.example", &list("news"), at)
            .await
            .unwrap()
            .is_some()
    };
    assert!(!stops_other().await, "the suppressions of another tenant");
    let of_all = NewSuppression { tenant_id: None, ..of_list(SuppressedMail::List(list("news"))) };
    bed.store.suppress(of_all, now()).await.unwrap();
    assert!(stops_other().await, "that of all tenants");
    let filter = SuppressionFilter {
        tenant_id: Some(tenant),
        mail: Some(SuppressedMail::EveryList),
        ..SuppressionFilter::default()
    };
    assert_eq!(bed.store.list_suppressions(filter, page(10)).await.unwrap().items.len(), 1);
}

pub(super) async fn earlier_generations_of_keys_end_after_sixty_days_or_at_once<H: Harness>() {
    let mut bed = TestBed::<H>::new().await;
    let subject =
        TokenSubject { scope: TokenScope::Delivery, id: DeliveryId::generate(Timestamp::now()).into() };
    let first = bed.store.token_keys().issue(TokenKind::Bounce, subject).unwrap();
    let at = Timestamp::now();
    let second = bed.store.rotate_tokens(false, at).await.unwrap();
    assert_eq!((second.generation, second.refused_at), (2, None));
    let known = bed.store.token_generations().await.unwrap();
    assert_eq!(known[1].refused_at, Some(at + crate::store::TOKEN_OVERLAP));
    bed = bed.restart().await;
    let end = at + crate::store::TOKEN_OVERLAP;
    let before_end = end - SignedDuration::from_secs(1);
    assert!(bed.store.token_keys().verify(&first, before_end).is_ok(), "it is accepted for sixty days");
    assert!(bed.store.token_keys().verify(&first, end).is_err(), "also without a restart");
    bed.store.rotate_tokens(true, Timestamp::now()).await.unwrap();
    assert!(bed.store.token_keys().verify(&first, at).is_err());
    bed = bed.restart().await;
    assert!(bed.store.token_keys().verify(&first, at).is_err());
    assert_eq!(bed.store.token_generations().await.unwrap().len(), 3);
}
