//! Suppressed addresses.

use super::*;
use crate::model::SuppressionReason;

pub(super) async fn a_tenants_own_suppression_goes_before_the_platforms_and_an_expired_one_stops_nothing<
    H: Harness,
>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let platform = bed.store.suppress(new_suppression(None, "Bob@Example.com"), now()).await.unwrap();
    assert_eq!(platform.address, "bob@example.com");
    let stops = async |tenant, at| -> Option<SuppressionId> {
        let found = bed.store.suppression_of(tenant, Environment::Live, "bob@example.com", at).await;
        let found = found.unwrap().map(|found| found.id);
        let several = ["ann", "bob", "cleo", "bob"].map(|name| format!("{name}@example.com")).to_vec();
        let several = bed.store.suppressions_of(tenant, Environment::Live, several, at).await.unwrap();
        let several: Vec<_> = several.into_iter().map(|found| found.map(|found| found.id)).collect();
        assert_eq!(several, [None, found, None, found]);
        found
    };
    assert_eq!(stops(a, now()).await, Some(platform.id));
    let mut new = new_suppression(Some(a), "bob@example.com");
    new.expires_at = Some(later(1000));
    let own = bed.store.suppress(new.clone(), now()).await.unwrap();
    assert_eq!(stops(a, now()).await, Some(own.id));
    assert_eq!(stops(b, now()).await, Some(platform.id));
    assert_eq!(stops(a, later(1001)).await, Some(platform.id));
    // The same address again is the same suppression with other words.
    new.reason = SuppressionReason::Complaint;
    new.evidence = None;
    let again = bed.store.suppress(new, now()).await.unwrap();
    assert_eq!((again.id, again.reason, &again.evidence), (own.id, SuppressionReason::Complaint, &None));
    let read = bed.store.suppression(None, own.id).await.unwrap().unwrap();
    assert_eq!(format!("{read:?}"), format!("{again:?}"));
    let filter = SuppressionFilter { address: Some("bob@example.com".to_owned()), ..Default::default() };
    assert_eq!(bed.store.list_suppressions(filter, page(10)).await.unwrap().items.len(), 2);
    assert!(!bed.store.lift_suppression(Some(b), own.id, now()).await.unwrap());
    assert!(!bed.store.lift_suppression(Some(a), platform.id, now()).await.unwrap());
    assert!(bed.store.lift_suppression(Some(a), own.id, now()).await.unwrap());
    assert!(bed.store.lift_suppression(None, platform.id, now()).await.unwrap());
    assert_eq!(stops(a, now()).await, None);
}

pub(super) async fn a_suppression_stops_mail_of_its_environment_only<H: Harness>() {
    use Environment::{Live, Test};
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let stops = async |environment, text: &str| {
        let found = bed.store.suppression_of(tenant, environment, text, now()).await;
        found.unwrap().map(|found| (found.id, found.environment))
    };
    for (owner, text) in [(Some(tenant), "own@one.example"), (None, "all@one.example")] {
        let in_test = NewSuppression { environment: Test, ..new_suppression(owner, text) };
        let in_test = bed.store.suppress(in_test, now()).await.unwrap();
        assert_eq!(stops(Live, text).await, None);
        assert_eq!(stops(Test, text).await, Some((in_test.id, Test)));
        let live = bed.store.suppress(new_suppression(owner, text), now()).await.unwrap();
        assert_eq!(stops(Live, text).await, Some((live.id, Live)));
        assert_eq!(stops(Test, text).await, Some((in_test.id, Test)));
    }
    for environment in [Live, Test] {
        let filter = SuppressionFilter { environment: Some(environment), ..Default::default() };
        let listed = bed.store.list_suppressions(filter, page(10)).await.unwrap().items;
        assert_eq!(listed.iter().map(|one| one.environment).collect::<Vec<_>>(), [environment; 2]);
    }
}

pub(super) async fn many_addresses_are_suppressed_together_or_not_at_all<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let listed = async || {
        bed.store.list_suppressions(SuppressionFilter::default(), page(10)).await.unwrap().items.len()
    };
    let unknown = TenantId::generate(now());
    let mut news =
        vec![new_suppression(Some(tenant), "x@one.example"), new_suppression(Some(unknown), "y@one.example")];
    let refused = bed.store.suppress_all(news.clone(), now()).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::NoTenant))), "{refused:?}");
    assert_eq!(listed().await, 0);
    news[1].tenant_id = None;
    let made = bed.store.suppress_all(news, now()).await.unwrap();
    let scopes: Vec<_> = made.iter().map(|suppression| suppression.tenant_id).collect();
    assert_eq!(scopes, [Some(tenant), None]);
    assert_eq!(listed().await, 2);
}

pub(super) async fn an_address_that_is_suppressed_again_counts_once<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let same = vec![new_suppression(Some(tenant), "same@one.example"); SUPPRESSIONS_MAX / 2];
    for _ in 0..3 {
        bed.store.suppress_all(same.clone(), now()).await.unwrap();
    }
}

pub(super) async fn an_expired_suppression_is_deleted_and_counts_no_more<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let (soon, never) = (Some(later(60)), None);
    let new = |text: &str, expires_at| NewSuppression { expires_at, ..new_suppression(Some(tenant), text) };
    let most = SUPPRESSIONS_MAX;
    let expiring = (1..most).map(|number| new(&format!("x{number}@one.example"), soon));
    bed.store.suppress_all(expiring.collect(), now()).await.unwrap();
    // One of them gets no end.
    bed.store.suppress(new("x1@one.example", never), now()).await.unwrap();
    bed.store.suppress(new("stays@one.example", never), now()).await.unwrap();
    assert!(bed.store.suppress(new("more@one.example", never), now()).await.is_err(), "at the limit");
    let prune = async |at| bed.store.prune(KEEP, at, most).await.unwrap().suppressions;
    assert_eq!(prune(later(30)).await, 0);
    assert_eq!(prune(later(90)).await, most as u64 - 2);
    let filter = SuppressionFilter { tenant_id: Some(tenant), ..SuppressionFilter::default() };
    let left = bed.store.list_suppressions(filter, page(10)).await.unwrap().items;
    let left: Vec<_> = left.iter().map(|suppression| suppression.address.as_str()).collect();
    assert_eq!(left, ["stays@one.example", "x1@one.example"]);
    bed.store.suppress(new("more@one.example", never), now()).await.unwrap();
}

pub(super) async fn what_a_person_suppresses_stays_although_its_site_becomes_suspicious<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let bounce = |site: Option<&str>| NewSuppression {
        reason: SuppressionReason::Bounce,
        site: site.map(str::to_owned),
        ..new_suppression(Some(tenant), "x@one.example")
    };
    bed.store.suppress(bounce(Some("site")), now()).await.unwrap();
    let asked = bed.store.suppress(bounce(None), now()).await.unwrap();
    let suspicious = SuspiciousSite {
        site: "site".to_owned(),
        name: "one.example".to_owned(),
        gone: 20,
        results: 20,
        since: now() - SignedDuration::from_hours(1),
        until: later(3600),
        at: now(),
    };
    bed.store.suspect_site(suspicious).await.unwrap();
    let found = bed.store.suppression(None, asked.id).await.unwrap().unwrap();
    assert_eq!((found.provisional, found.expires_at), (false, None));
}

pub(super) async fn a_suppression_concerns_all_mail_that_was_accepted_before_its_commit<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (tenant, other) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let accepted = later(2 * 3600);
    let mut new = new_message(tenant, &["x@one.example"], "body");
    new.message.id = MessageId::generate(accepted);
    new.message.created_at = accepted;
    bed.store.enqueue(new).await.unwrap();
    let may = |tenant| bed.store.may_have_suppressed_since(tenant, accepted);
    assert!(!may(tenant), "nothing was suppressed");
    // The job waited for so long, or the clock went back.
    bed.store.suppress(new_suppression(Some(tenant), "x@one.example"), now()).await.unwrap();
    assert!(may(tenant) && !may(other));
}
