//! What is to be reported on TLS is counted until it is forgotten.

use super::*;

fn result(day: &str, domain: &str, failure: Option<TlsFailure>, sessions: u32) -> TlsResult {
    TlsResult {
        day: day.parse().unwrap(),
        domain: DomainName::parse(domain).unwrap(),
        policy: TlsPolicyType::Sts,
        mx_host: format!("mx.{domain}"),
        failure,
        sessions,
    }
}

pub(super) async fn sessions_of_one_kind_add_up_and_survive_a_restart<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let good = |sessions| result("2026-11-22", "b.test", None, sessions);
    let bad = |sessions| result("2026-11-22", "b.test", Some(TlsFailure::DaneRequired), sessions);
    bed.store.add_tls_results(vec![good(2), bad(1)]).await.unwrap();
    bed.store.add_tls_results(vec![good(3), result("2026-11-23", "b.test", None, 7)]).await.unwrap();
    let bed = bed.restart().await;
    let found = bed.store.tls_results(good(0).day, &good(0).domain).await.unwrap();
    assert_eq!(found, [good(5), bad(1)]);
}

pub(super) async fn days_that_have_ended_are_told_in_order_until_they_are_forgotten<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let days = [
        ("2026-11-21", "b.test"),
        ("2026-11-21", "a.test"),
        ("2026-11-20", "c.test"),
        ("2026-11-22", "a.test"),
    ];
    bed.store.add_tls_results(days.map(|(day, domain)| result(day, domain, None, 1)).into()).await.unwrap();
    let subject =
        |day: &str, domain: &str| (day.parse::<Date>().unwrap(), DomainName::parse(domain).unwrap());
    let due = async |after, limit| {
        bed.store.unreported_tls_days("2026-11-22".parse().unwrap(), after, limit).await.unwrap()
    };
    let (first, second, third) =
        (subject("2026-11-20", "c.test"), subject("2026-11-21", "a.test"), subject("2026-11-21", "b.test"));
    assert_eq!(due(None, 2).await, [first.clone(), second.clone()]);
    assert_eq!(due(Some(second.clone()), 2).await, std::slice::from_ref(&third));
    bed.store.delete_tls_results(second.0, &second.1).await.unwrap();
    assert_eq!(due(None, 9).await, [first, third.clone()]);
    bed.store.delete_tls_results_before(third.0).await.unwrap();
    assert_eq!(due(None, 9).await, [third]);
}
