//! Keys.

use super::*;
use crate::model::DomainId;

pub(super) async fn a_key_is_found_by_its_secret_and_can_be_revoked_once<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let a = bed.tenant("a").await.id;
    let secret = KeySecret::generate(Environment::Live);
    let key = bed.store.create_key(new_key(Some(a), &secret), now()).await.unwrap();
    let platform_secret = KeySecret::generate(Environment::Live);
    bed.store.create_key(new_key(None, &platform_secret), now()).await.unwrap();
    let (found, tenant) = bed.store.key_by_digest(secret.digest()).await.unwrap().unwrap();
    assert_eq!(format!("{found:?}"), format!("{key:?}"));
    assert_eq!(tenant.unwrap().id, a);
    let (_, tenant) = bed.store.key_by_digest(platform_secret.digest()).await.unwrap().unwrap();
    assert!(tenant.is_none());
    let unknown = KeySecret::generate(Environment::Live).digest();
    assert!(bed.store.key_by_digest(unknown).await.unwrap().is_none());

    let used_at = now();
    bed.store.touch_key(key.id, used_at);
    // Within the same minute.
    bed.store.touch_key(key.id, later(50));
    let patch = KeyPatch {
        scopes: Some(vec![Scope::UsageRead]),
        expires_at: Some(Some(later(9))),
        ..KeyPatch::default()
    };
    let changed = bed.store.update_key(key.id, patch, now()).await.unwrap().unwrap();
    assert_eq!((changed.last_used_at, changed.scopes.as_slice()), (Some(used_at), &[Scope::UsageRead][..]));
    let revoked_at = now();
    assert!(bed.store.revoke_key(key.id, revoked_at).await.unwrap());
    assert!(bed.store.revoke_key(key.id, later(5)).await.unwrap());
    assert_eq!(bed.store.key(None, key.id).await.unwrap().unwrap().revoked_at, Some(revoked_at));
    assert!(!bed.store.revoke_key(KeyId::generate(now()), now()).await.unwrap());
    let nobody = new_key(Some(TenantId::generate(now())), &KeySecret::generate(Environment::Live));
    assert!(matches!(
        bed.store.create_key(nobody, now()).await,
        Err(StoreError::Conflict(Conflict::NoTenant))
    ));
}

pub(super) async fn a_key_has_an_event_14_and_3_days_before_its_expiry_each_once<H: Harness>() {
    let mut bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let day = |days: i64| later(days * 24 * 3600);
    let create = async |bed: &TestBed<H>, expires_at| {
        let key = new_key(Some(tenant), &KeySecret::generate(Environment::Live));
        bed.store.create_key(NewKey { expires_at, ..key }, now()).await.unwrap().id
    };
    let long = create(&bed, Some(day(20))).await;
    let short = create(&bed, Some(day(10))).await;
    let moved = create(&bed, Some(day(20))).await;
    let revoked = create(&bed, Some(day(20))).await;
    create(&bed, None).await;
    let patch = KeyPatch { expires_at: Some(Some(day(40))), ..KeyPatch::default() };
    bed.store.update_key(moved, patch, now()).await.unwrap();
    bed.store.revoke_key(revoked, now()).await.unwrap();
    let mut expected: Vec<(KeyId, i64)> = Vec::new();
    for (at, news) in [
        (5, vec![]),
        (6, vec![long]),
        (7, vec![short]),
        (8, vec![]),
        (17, vec![long]),
        (18, vec![]),
        (21, vec![]),
        // Both were due while the server was down.
        (39, vec![moved]),
        (41, vec![]),
    ] {
        let found = bed.store.append_key_expiries(day(at) + SignedDuration::from_secs(60)).await.unwrap();
        assert_eq!(found, news.len() as u64, "day {at}");
        expected.extend(news.into_iter().map(|id| (id, at)));
        bed = bed.restart().await;
        assert_eq!(bed.store.append_key_expiries(day(at) + SignedDuration::from_secs(61)).await.unwrap(), 0);
    }
    let filter = EventFilter { kind: Some(EventKind::KeyExpiring), ..EventFilter::default() };
    let events = bed.store.list_events(filter, page(100)).await.unwrap().items;
    let of = |event: &Event| event.data["key_id"].as_str().unwrap().parse::<KeyId>().unwrap();
    let found: Vec<_> = events.iter().rev().map(of).collect();
    assert_eq!(found, expected.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
}

pub(super) async fn of_a_tenant_with_all_its_keys_the_oldest_revoked_one_makes_room<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let create = async || {
        let new = new_key(Some(tenant), &KeySecret::generate(Environment::Live));
        bed.store.create_key(new, now()).await
    };
    let mut made = Vec::new();
    for _ in 0..Limited::Keys.rows_max() {
        made.push(create().await.unwrap().id);
    }
    let refused = create().await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict(Conflict::LimitReached(Limited::Keys))), "{refused}");
    for id in [made[7], made[5]] {
        assert!(bed.store.revoke_key(id, now()).await.unwrap());
    }
    create().await.unwrap();
    assert!(bed.store.key(None, made[5]).await.unwrap().is_none());
    assert!(bed.store.key(None, made[7]).await.unwrap().is_some());
    create().await.unwrap();
    assert!(create().await.is_err());
}

pub(super) async fn a_deleted_domain_leaves_its_keys_which_stay_restricted<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let a = bed.tenant("a").await.id;
    let mut domains = Vec::new();
    for domain in ["one.example", "two.example"] {
        let new = new_domain(Some(a), domain, Verification::Manual);
        domains.push(bed.store.create_domain(new, now()).await.unwrap().id);
    }
    let create = async |ids: &[DomainId]| {
        let new = new_key(Some(a), &KeySecret::generate(Environment::Live));
        let new = NewKey { allowed_domain_ids: ids.to_vec(), ..new };
        bed.store.create_key(new, now()).await.unwrap().id
    };
    let (free, bound) = (create(&[]).await, create(&domains).await);
    let of = async |id| {
        let key = bed.store.key(None, id).await.unwrap().unwrap();
        (key.restricted_to_domains, key.allowed_domain_ids)
    };
    assert_eq!((of(free).await, of(bound).await), ((false, vec![]), (true, domains.clone())));
    let version = bed.store.directory_version();
    assert!(bed.store.delete_domain(domains[0], now()).await.unwrap());
    assert_ne!(bed.store.directory_version(), version);
    assert_eq!(of(bound).await, (true, vec![domains[1]]));
    assert!(bed.store.delete_domain(domains[1], now()).await.unwrap());
    assert_eq!((of(free).await, of(bound).await), ((false, vec![]), (true, vec![])));
    let patch = KeyPatch { allowed_domain_ids: Some(vec![]), ..KeyPatch::default() };
    bed.store.update_key(bound, patch, now()).await.unwrap();
    assert_eq!(of(bound).await, (false, vec![]), "somebody said that it is free");
}
