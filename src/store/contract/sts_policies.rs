//! What destinations ask for is remembered until it expires.

use super::*;

fn record(domain: &str, id: &str, age_s: i64, lifetime_s: i64) -> StsRecord {
    let fetched_at = now() - SignedDuration::from_secs(age_s);
    StsRecord {
        domain: DomainName::parse(domain).unwrap(),
        policy_id: id.to_owned(),
        policy: format!("version: STSv1\nid: {id}\n"),
        fetched_at,
        expires_at: fetched_at + SignedDuration::from_secs(lifetime_s),
    }
}

pub(super) async fn a_policy_survives_a_restart_and_ends_when_it_expires<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (old, new) = (record("b.test", "1", 100, 1000), record("b.test", "2", 50, 60));
    bed.store.store_sts_policy(old.clone()).await.unwrap();
    assert_eq!(bed.store.sts_policy(&old.domain, now()).await.unwrap(), Some(old));
    bed.store.store_sts_policy(new.clone()).await.unwrap();
    let bed = bed.restart().await;
    assert_eq!(bed.store.sts_policy(&new.domain, new.fetched_at).await.unwrap(), Some(new.clone()));
    assert_eq!(bed.store.sts_policy(&new.domain, new.expires_at).await.unwrap(), None);
    let other = DomainName::parse("a.b.test").unwrap();
    assert_eq!(bed.store.sts_policy(&other, new.fetched_at).await.unwrap(), None);
}

pub(super) async fn the_policies_that_were_fetched_longest_ago_come_first<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    for (domain, age_s) in [("a.test", 10), ("b.test", 300), ("c.test", 200), ("gone.test", 1000)] {
        bed.store.store_sts_policy(record(domain, "1", age_s, 900)).await.unwrap();
    }
    for (domain, age_s) in [("soon.test", 60), ("later.test", 40)] {
        bed.store.store_sts_policy(record(domain, "1", age_s, 100)).await.unwrap();
    }
    let before = now() - SignedDuration::from_secs(100);
    let found = bed.store.stale_sts_policies(before, now(), 10).await.unwrap();
    let domains: Vec<&str> = found.iter().map(|record| record.domain.as_str()).collect();
    assert_eq!(domains, ["b.test", "c.test", "soon.test"]);
    assert_eq!(bed.store.stale_sts_policies(before, now(), 1).await.unwrap().len(), 1);
}
