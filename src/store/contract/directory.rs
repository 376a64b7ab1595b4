//! Objects of all kinds: that nobody sees what is another's, and how many there may be.

use super::*;

pub(super) async fn a_foreign_object_is_as_absent_as_one_that_never_was<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let domain =
        bed.store.create_domain(new_domain(Some(a), "example.com", Verification::Dns), now()).await.unwrap();
    let key =
        bed.store.create_key(new_key(Some(a), &KeySecret::generate(Environment::Live)), now()).await.unwrap();
    let suppression = bed.store.suppress(new_suppression(Some(a), "x@one.example"), now()).await.unwrap();
    let platform = bed.store.suppress(new_suppression(None, "y@one.example"), now()).await.unwrap();
    let new = bed.enqueue(a, &["x@one.example"]).await;
    for (scope, sees) in [(None, true), (Some(a), true), (Some(b), false)] {
        assert_eq!(bed.store.domain(scope, domain.id).await.unwrap().is_some(), sees);
        assert_eq!(bed.store.key(scope, key.id).await.unwrap().is_some(), sees);
        assert_eq!(bed.store.suppression(scope, suppression.id).await.unwrap().is_some(), sees);
        assert_eq!(bed.store.message(scope, new.message.id).await.unwrap().is_some(), sees);
    }
    assert!(bed.store.suppression(Some(a), platform.id).await.unwrap().is_none());
    let filter = |tenant_id| DomainFilter { tenant_id, ..Default::default() };
    assert!(bed.store.list_domains(filter(Some(b)), page(10)).await.unwrap().items.is_empty());
    assert_eq!(bed.store.list_domains(filter(None), page(10)).await.unwrap().items.len(), 1);
    let filter = |tenant_id| KeyFilter { tenant_id, ..Default::default() };
    assert!(bed.store.list_keys(filter(Some(b)), page(10)).await.unwrap().items.is_empty());
    let filter = |tenant_id| SuppressionFilter { tenant_id, ..Default::default() };
    assert!(bed.store.list_suppressions(filter(Some(b)), page(10)).await.unwrap().items.is_empty());
    assert_eq!(bed.store.list_suppressions(filter(Some(a)), page(10)).await.unwrap().items.len(), 1);
    let filter = |tenant_id| MessageFilter { tenant_id, ..Default::default() };
    assert!(bed.store.list_messages(filter(Some(b)), page(10)).await.unwrap().items.is_empty());
}

pub(super) async fn a_tenant_has_so_many_objects_and_no_more<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (full, other) = (bed.tenant("full").await.id, bed.tenant("other").await.id);
    let is_full = |error: StoreError, what| match error {
        StoreError::Conflict(Conflict::LimitReached(limited)) => limited == what,
        _ => false,
    };

    let domain = async |tenant, number| {
        let mut new = new_domain(tenant, &format!("d{number}.example"), Verification::Dns);
        new.dkim_keys.clear();
        bed.store.create_domain(new, now()).await
    };
    for number in 0..Limited::Domains.rows_max() {
        domain(Some(full), number).await.unwrap();
    }
    assert!(is_full(domain(Some(full), 9999).await.unwrap_err(), Limited::Domains));
    domain(Some(other), 9999).await.unwrap();

    let suppressions = |tenant, numbers: std::ops::Range<usize>| {
        let news = numbers.map(|number| new_suppression(tenant, &format!("u{number}@one.example")));
        bed.store.suppress_all(news.collect(), now())
    };
    let (most, live) = (SUPPRESSIONS_MAX, Limited::Suppressions(Environment::Live));
    suppressions(Some(full), 0..most - 1).await.unwrap();
    assert!(is_full(suppressions(Some(full), most..most + 2).await.unwrap_err(), live));
    let suppress = async |tenant, text| bed.store.suppress(new_suppression(tenant, text), now()).await;
    suppress(Some(full), "last@one.example").await.unwrap();
    assert!(is_full(suppress(Some(full), "more@one.example").await.unwrap_err(), live));
    suppress(Some(other), "more@one.example").await.unwrap();
    suppressions(None, 0..most + 1).await.unwrap();
    let in_test =
        |text: &str| NewSuppression { environment: Environment::Test, ..new_suppression(Some(full), text) };
    bed.store.suppress(in_test("last@one.example"), now()).await.unwrap();
    let lifted = bed.store.suppression_of(full, Environment::Live, "last@one.example", now()).await;
    let lifted = lifted.unwrap().unwrap();
    assert!(bed.store.lift_suppression(Some(full), lifted.id, now()).await.unwrap());
    suppress(Some(full), "more@one.example").await.unwrap();
    assert!(is_full(suppress(Some(full), "last@one.example").await.unwrap_err(), live));
    // What was lifted counted for its own environment only.
    let news = (0..most - 1).map(|number| in_test(&format!("u{number}@one.example")));
    bed.store.suppress_all(news.collect(), now()).await.unwrap();
    let refused = bed.store.suppress(in_test("more@one.example"), now()).await.unwrap_err();
    assert!(is_full(refused, Limited::Suppressions(Environment::Test)));
    bed.store.remove_tenant(full, now()).await.unwrap().unwrap();
}

/// A refusal after a change makes the transaction of all other callers run twice.
pub(super) async fn what_is_refused_has_changed_nothing_before<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let owned = new_domain(Some(b), "b.example", Verification::Manual);
    bed.store.create_domain(owned.clone(), now()).await.unwrap();
    let new_inbox = |number: u32| NewInbox {
        tenant_id: a,
        address: address(&format!("x{number}@one.example")),
        code: "code".to_owned(),
    };
    for _ in 0..CONFIRMATION_MAILS_PER_DAY_MAX {
        bed.store.add_inbox(new_inbox(0), now()).await.unwrap();
    }
    let keyed = |digest: u8| {
        let new = new_message(a, &["x@one.example"], "body");
        NewMessage { submission_key: Some(SubmissionKey { name: "k".into(), digest: [digest; 32] }), ..new }
    };
    bed.store.enqueue(keyed(1)).await.unwrap();
    let batch = vec![new_message(a, &["x@one.example"], "body"), keyed(2)];
    let tenant_with_domain = bed.store.create_tenant_with_domain(new_tenant("c"), Some(owned), now());
    let refused = [
        bed.store.add_inbox(new_inbox(1), now()).await.map(drop),
        bed.store.enqueue_all(batch).await.map(drop),
        tenant_with_domain.await.map(drop),
    ];
    assert!(refused.iter().all(|result| matches!(result, Err(StoreError::Conflict(_)))), "{refused:?}");
    assert_eq!(bed.store.counts().repeated_commits, 0);
}

/// Caches depend on the versions, so a tenant whose changes advanced those of others would switch their caches off.
pub(super) async fn a_change_advances_the_versions_that_it_concerns_and_no_others<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let secret = || KeySecret::generate(Environment::Live);
    let key = bed.store.create_key(new_key(Some(a), &secret()), now()).await.unwrap().id;
    let domain = new_domain(Some(a), "a.example", Verification::Dns);
    let domain = bed.store.create_domain(domain, now()).await.unwrap().id;
    let of_platform = NewKey { allowed_domain_ids: vec![domain], ..new_key(None, &secret()) };
    bed.store.create_key(of_platform, now()).await.unwrap();
    let versions = || {
        let store = &bed.store;
        let of_name = |text: &str| store.version_of_name(&name(text));
        let of_owners = [Some(a), Some(b), None].map(|owner| store.version_of_owner(owner));
        (of_owners, of_name("x.a.example"), of_name("b.example"))
    };
    let mut before = versions();
    // Which of these have advanced: tenant a, tenant b, the platform; a name below the domain, another name.
    let mut advanced = move || {
        let (of_owners, below, other) = versions();
        let owners = [0, 1, 2].map(|at| of_owners[at] > before.0[at]);
        let advanced = (owners, below > before.1, other > before.2);
        before = (of_owners, below, other);
        advanced
    };
    let nothing = ([false; 3], false, false);
    let of_a = ([true, false, false], false, false);

    let renamed = KeyPatch { name: Some("other".into()), ..KeyPatch::default() };
    for (patch, expected) in [(KeyPatch::default(), nothing), (renamed.clone(), of_a), (renamed, nothing)] {
        bed.store.update_key(key, patch, now()).await.unwrap().unwrap();
        assert_eq!(advanced(), expected);
    }
    let rotation = SecretRotation { secret: secret().stored_secret(), previous_until: later(60) };
    bed.store.rotate_key(key, rotation, now()).await.unwrap().unwrap();
    assert_eq!(advanced(), of_a);
    for expected in [of_a, nothing] {
        assert!(bed.store.revoke_key(key, now()).await.unwrap());
        assert_eq!(advanced(), expected);
    }
    let renamed = TenantPatch { name: Some("other".into()), ..TenantPatch::default() };
    for (patch, expected) in [(TenantPatch::default(), nothing), (renamed.clone(), of_a), (renamed, nothing)]
    {
        bed.store.update_tenant(a, patch, now()).await.unwrap().unwrap();
        assert_eq!(advanced(), expected);
    }
    let verified = DomainPatch { verification: Some(Verification::Manual), ..DomainPatch::default() };
    let of_a_and_name = ([true, false, false], true, false);
    for (patch, expected) in
        [(DomainPatch::default(), nothing), (verified.clone(), of_a_and_name), (verified, nothing)]
    {
        bed.store.update_domain(domain, patch, now()).await.unwrap().unwrap();
        assert_eq!(advanced(), expected);
    }
    bed.store.add_dkim_key(domain, new_dkim_key("s2", DkimKeyState::Active), now()).await.unwrap();
    assert_eq!(advanced(), of_a);
    assert!(bed.store.delete_domain(domain, now()).await.unwrap());
    assert_eq!(advanced(), ([true, false, true], true, false), "the platform's key is restricted to it");
    assert!(bed.store.remove_tenant(a, now()).await.unwrap().is_some());
    assert_eq!(advanced(), ([true; 3], true, true), "its names are free");
}

pub(super) async fn the_events_of_many_keys_that_expire_at_once_are_appended_in_several_commits<
    H: Harness,
>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let expires_at = Some(now() + SignedDuration::from_hours(24 * 20));
    for _ in 0..201 {
        let new = new_key(Some(tenant), &KeySecret::generate(Environment::Live));
        bed.store.create_key(NewKey { expires_at, ..new }, now()).await.unwrap();
    }
    let before = bed.store.counts().commits;
    let at = now() + SignedDuration::from_hours(24 * 7);
    assert_eq!(bed.store.append_key_expiries(at).await.unwrap(), 201);
    assert_eq!(bed.store.counts().commits - before, 3);
    assert_eq!(bed.store.append_key_expiries(at).await.unwrap(), 0);
}
