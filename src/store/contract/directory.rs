//! Tenants, domains, keys and suppressions; and that nobody sees what is another's.

use super::*;
use crate::model::{
    DkimPolicy, DomainId, DomainStatus, Environment, EventKind, SuppressionReason, TenantStatus, TlsMode,
};

fn smart_host(password: Option<&str>) -> NewSmartHost {
    NewSmartHost {
        smart_host: SmartHost {
            host: "smart.example".to_owned(),
            port: 587,
            user: Some("user".to_owned()),
            tls: TlsMode::Starttls,
            destinations: vec![".example.net".parse().unwrap()],
            dkim: DkimPolicy::Rsa,
            password_revision: 0,
        },
        password: password.map(|text| Zeroizing::new(text.to_owned())),
    }
}

fn check(status: DomainStatus) -> DomainCheck {
    DomainCheck {
        checked_at: now(),
        status,
        failing_since: None,
        records: vec![RecordCheck {
            name: "_pillarbox.example.com".to_owned(),
            status: RecordStatus::Ok,
            found: vec!["token".to_owned()],
        }],
        dkim_seen: Vec::new(),
        dkim_unseen: Vec::new(),
        return_path: None,
        return_path_of: Default::default(),
    }
}

pub(super) async fn a_tenant_is_read_back_as_it_was_written_and_changed<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let mut new = new_tenant("acme");
    new.external_ref = Some("crm-7".to_owned());
    new.metadata.insert("plan".to_owned(), serde_json::json!({ "tier": 3 }));
    new.settings.from_name = Some("Acme".to_owned());
    new.rate_limit.emails_per_day = Some(100);
    new.smart_host = Some(smart_host(Some("hunter2")));
    new.retention_days = Some(9);
    let made = bed.store.create_tenant(new, now()).await.unwrap();
    let read = bed.store.tenant(made.id).await.unwrap().unwrap();
    assert_eq!(format!("{read:?}"), format!("{made:?}"));
    assert_eq!(bed.store.tenant_by_slug("acme").await.unwrap().unwrap().id, made.id);
    assert!(bed.store.tenant_by_slug("ACME").await.unwrap().is_none());

    let patch = TenantPatch {
        slug: Some("acme-2".to_owned()),
        external_ref: Some(None),
        smart_host: Some(Some(smart_host(None))),
        retention_days: Some(None),
        ..TenantPatch::default()
    };
    let changed = bed.store.update_tenant(made.id, patch, now()).await.unwrap().unwrap();
    assert_eq!(
        (changed.slug.as_str(), &changed.external_ref, changed.retention_days),
        ("acme-2", &None, None)
    );
    assert_eq!((&changed.name, &changed.metadata), (&made.name, &made.metadata));
    assert!(changed.updated_at > made.updated_at);
    let read = bed.store.tenant(made.id).await.unwrap().unwrap();
    assert_eq!(format!("{read:?}"), format!("{changed:?}"));
    assert!(
        bed.store
            .update_tenant(TenantId::generate(now()), TenantPatch::default(), now())
            .await
            .unwrap()
            .is_none()
    );
}

pub(super) async fn a_smart_host_password_is_kept_replaced_and_cleared<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let id = bed.tenant("a").await.id;
    let password = async || bed.store.smart_host_password(id).await.unwrap().map(|text| text.to_string());
    let change = async |smart_host: Option<NewSmartHost>| {
        let patch = TenantPatch { smart_host: Some(smart_host), ..TenantPatch::default() };
        bed.store.update_tenant(id, patch, now()).await.unwrap().unwrap()
    };
    assert_eq!(password().await, None);
    let revision = |changed: Tenant| changed.smart_host.unwrap().password_revision;
    let one = revision(change(Some(smart_host(Some("one")))).await);
    assert_eq!(password().await.as_deref(), Some("one"));
    assert_eq!(revision(change(Some(smart_host(None))).await), one);
    assert_eq!(password().await.as_deref(), Some("one"));
    let two = revision(change(Some(smart_host(Some("two")))).await);
    assert_eq!(password().await.as_deref(), Some("two"));
    assert!(change(None).await.smart_host.is_none());
    assert_eq!(password().await, None);
    // What was opened before it was removed is another smart host's.
    let three = revision(change(Some(smart_host(Some("three")))).await);
    assert!(one != two && three != one && three != two, "{one} {two} {three}");
}

pub(super) async fn a_slug_is_used_once<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await, bed.tenant("b").await);
    let again = bed.store.create_tenant(new_tenant("a"), now()).await;
    assert!(matches!(again, Err(StoreError::Conflict(Conflict::Slug))));
    let to = |slug: &str| TenantPatch { slug: Some(slug.to_owned()), ..TenantPatch::default() };
    let taken = bed.store.update_tenant(b.id, to("a"), now()).await;
    assert!(matches!(taken, Err(StoreError::Conflict(Conflict::Slug))));
    assert!(bed.store.update_tenant(a.id, to("a"), now()).await.unwrap().is_some());
}

pub(super) async fn the_default_tenant_is_made_once_unless_its_slug_is_in_use<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let default = async || bed.store.tenant_by_slug(DEFAULT_TENANT).await.unwrap();
    assert!(default().await.is_none());
    bed.store.ensure_default_tenant(now()).await.unwrap();
    let made = default().await.unwrap();
    bed.store.ensure_default_tenant(now()).await.unwrap();
    assert_eq!(default().await.unwrap().id, made.id);
    let renamed = TenantPatch { slug: Some("main".to_owned()), ..TenantPatch::default() };
    bed.store.update_tenant(made.id, renamed, now()).await.unwrap();
    bed.store.ensure_default_tenant(now()).await.unwrap();
    assert!(default().await.is_none());

    let bed = TestBed::<H>::new().await;
    let own = bed.tenant(DEFAULT_TENANT).await;
    bed.store.ensure_default_tenant(now()).await.unwrap();
    let found = bed.store.list_tenants(TenantFilter::default(), page(3)).await.unwrap().items;
    assert_eq!(found.iter().map(|tenant| tenant.id).collect::<Vec<_>>(), [own.id]);
}

pub(super) async fn lists_go_from_new_to_old_and_page_both_ways<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let mut made = Vec::new();
    for number in 0..7 {
        made.push(bed.tenant(&format!("t{number}")).await);
    }
    let slugs =
        |found: &Page<Tenant>| found.items.iter().map(|tenant| tenant.slug.clone()).collect::<Vec<_>>();
    let first = bed.store.list_tenants(TenantFilter::default(), page(3)).await.unwrap();
    assert_eq!((slugs(&first), first.has_more), (vec!["t6".into(), "t5".into(), "t4".into()], true));
    let after = PageRequest { after: Some(first.items[2].id.to_string()), ..page(3) };
    let second = bed.store.list_tenants(TenantFilter::default(), after).await.unwrap();
    assert_eq!((slugs(&second), second.has_more), (vec!["t3".into(), "t2".into(), "t1".into()], true));
    let after = PageRequest { after: Some(second.items[2].id.to_string()), ..page(3) };
    let last = bed.store.list_tenants(TenantFilter::default(), after).await.unwrap();
    assert_eq!((slugs(&last), last.has_more), (vec!["t0".to_owned()], false));
    let before = PageRequest { before: Some(last.items[0].id.to_string()), ..page(3) };
    let back = bed.store.list_tenants(TenantFilter::default(), before).await.unwrap();
    assert_eq!((slugs(&back), back.has_more), (slugs(&second), true));
    let range = PageRequest {
        created_after: Some(made[2].created_at),
        created_before: Some(made[4].created_at),
        ..page(100)
    };
    let between = bed.store.list_tenants(TenantFilter::default(), range).await.unwrap();
    assert_eq!((slugs(&between), between.has_more), (vec!["t3".into(), "t2".into()], false));
}

pub(super) async fn removing_a_tenant_counts_first_and_leaves_the_others<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (gone, other) = (bed.tenant("gone").await, bed.tenant("other").await);
    for tenant in [&gone, &other] {
        bed.store
            .create_domain(
                new_domain(Some(tenant.id), &format!("{}.example", tenant.slug), Verification::Manual),
                now(),
            )
            .await
            .unwrap();
        bed.store
            .create_key(new_key(Some(tenant.id), &KeySecret::generate(Environment::Live)), now())
            .await
            .unwrap();
        bed.store.suppress(new_suppression(Some(tenant.id), "no@one.example"), now()).await.unwrap();
        bed.enqueue(tenant.id, &["x@one.example", "y@two.example"]).await;
    }
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Deferred)).await.unwrap();
    // Accepted, twice deferred, the suppression, the key, the domain and its verification, the tenant.
    let expected = TenantCounts {
        domains: 1,
        keys: 1,
        suppressions: 1,
        templates: 0,
        webhooks: 0,
        messages: 1,
        deliveries: 2,
        events: 8,
    };
    assert_eq!(bed.store.count_tenant_objects(gone.id).await.unwrap(), Some(expected));
    assert!(bed.store.tenant(gone.id).await.unwrap().is_some());
    assert_eq!(bed.store.remove_tenant(gone.id, now()).await.unwrap(), Some(expected));
    assert_eq!(bed.store.remove_tenant(gone.id, now()).await.unwrap(), None);
    assert!(bed.store.tenant(gone.id).await.unwrap().is_none());
    assert_eq!(bed.store.count_tenant_objects(other.id).await.unwrap(), Some(expected));
    assert_eq!(bed.store.count_open().await.unwrap(), 2);
}

pub(super) async fn a_pending_claim_blocks_nobody_and_the_first_to_prove_it_wins<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b, c) = (bed.tenant("a").await.id, bed.tenant("b").await.id, bed.tenant("c").await.id);
    let create = async |tenant, domain| {
        bed.store.create_domain(new_domain(Some(tenant), domain, Verification::Dns), now()).await
    };
    let first = create(a, "example.com").await.unwrap();
    let second = create(b, "example.com").await.unwrap();
    let below = create(c, "mail.example.com").await.unwrap();
    let parent = create(c, "com").await.unwrap();
    assert!(matches!(create(a, "example.com").await, Err(StoreError::Conflict(Conflict::DomainExists))));

    let won = bed.store.record_domain_check(second.id, check(DomainStatus::Verified)).await.unwrap().unwrap();
    assert_eq!(won.status, DomainStatus::Verified);
    assert_eq!(won.verified_at, won.last_check.as_ref().map(|check| check.checked_at));
    let status = async |id| bed.store.domain(None, id).await.unwrap().unwrap().status;
    assert_eq!(status(first.id).await, DomainStatus::Taken);
    let taken = EventFilter { kind: Some(EventKind::DomainTaken), ..EventFilter::default() };
    let taken = bed.store.list_events(taken, page(10)).await.unwrap().items;
    let [event] = &taken[..] else { panic!("{taken:?}") };
    assert_eq!((event.tenant_id, &event.data["domain_id"]), (Some(a), &serde_json::json!(first.id)));
    assert_eq!(event.data["reason"], "another tenant has verified the same domain");
    assert!(event.data["hint"].is_string());
    // Only the same name excludes other tenants.
    for id in [below.id, parent.id] {
        assert_eq!(status(id).await, DomainStatus::Pending);
        let proved = bed.store.record_domain_check(id, check(DomainStatus::Verified)).await.unwrap().unwrap();
        assert_eq!(proved.status, DomainStatus::Verified);
    }

    let late = bed.store.record_domain_check(first.id, check(DomainStatus::Verified)).await.unwrap().unwrap();
    assert_eq!((late.status, late.verified_at), (DomainStatus::Taken, None));
    let refused = create(bed.tenant("d").await.id, "example.com").await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::DomainTaken))));
    let patch = DomainPatch { verification: Some(Verification::Manual), ..Default::default() };
    let refused = bed.store.update_domain(first.id, patch, now()).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::DomainTaken))));
    // Once it is free again, it can be proved again: the records fail, it is deleted, or its tenant is.
    bed.store.record_domain_check(second.id, check(DomainStatus::Failing)).await.unwrap();
    assert_eq!(status(first.id).await, DomainStatus::Pending);
    bed.store.record_domain_check(second.id, check(DomainStatus::Verified)).await.unwrap();
    assert_eq!(status(first.id).await, DomainStatus::Taken);
    assert!(bed.store.delete_domain(second.id, now()).await.unwrap());
    assert!(!bed.store.delete_domain(second.id, now()).await.unwrap());
    assert_eq!(status(first.id).await, DomainStatus::Pending);
    let freed =
        bed.store.record_domain_check(first.id, check(DomainStatus::Verified)).await.unwrap().unwrap();
    assert_eq!(freed.status, DomainStatus::Verified);
    let again = create(b, "mail.example.com").await;
    assert!(matches!(again, Err(StoreError::Conflict(Conflict::DomainTaken))));
    assert!(bed.store.delete_domain(below.id, now()).await.unwrap());
    let [early, late] =
        [create(a, "mail.example.com").await.unwrap(), create(b, "mail.example.com").await.unwrap()];
    bed.store.record_domain_check(early.id, check(DomainStatus::Verified)).await.unwrap();
    assert_eq!(status(late.id).await, DomainStatus::Taken);
    bed.store.remove_tenant(a, now()).await.unwrap();
    assert_eq!(status(late.id).await, DomainStatus::Pending);
}

pub(super) async fn the_platform_can_vouch_for_a_domain_and_checks_do_not_undo_that<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let pending =
        bed.store.create_domain(new_domain(Some(b), "example.com", Verification::Dns), now()).await.unwrap();
    let vouched = bed
        .store
        .create_domain(new_domain(Some(a), "example.com", Verification::Manual), now())
        .await
        .unwrap();
    assert_eq!(vouched.status, DomainStatus::Verified);
    assert_eq!(bed.store.domain(None, pending.id).await.unwrap().unwrap().status, DomainStatus::Taken);
    let checked =
        bed.store.record_domain_check(vouched.id, check(DomainStatus::Failing)).await.unwrap().unwrap();
    assert_eq!(checked.status, DomainStatus::Verified);
    assert!(checked.last_check.is_some());
}

pub(super) async fn a_check_that_finds_nothing_new_leaves_the_version_of_the_directory<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let a = bed.tenant("a").await.id;
    let domain = new_domain(Some(a), "example.com", Verification::Dns);
    let id = bed.store.create_domain(domain, now()).await.unwrap().id;
    let key = bed.store.dkim_keys(id).await.unwrap()[0].id;
    let raises = async |check| {
        let before = bed.store.directory_version();
        let checked_at = bed.store.record_domain_check(id, check).await.unwrap().unwrap().last_check;
        assert!(checked_at.is_some());
        bed.store.directory_version() != before
    };
    let with_key = |status| DomainCheck { dkim_seen: vec![key], ..check(status) };
    assert!(!raises(check(DomainStatus::Pending)).await);
    assert!(raises(check(DomainStatus::Verified)).await, "the status");
    assert!(!raises(check(DomainStatus::Verified)).await);
    assert!(raises(with_key(DomainStatus::Verified)).await, "the state of a key");
    assert!(!raises(with_key(DomainStatus::Verified)).await);
    let without_key = DomainCheck { dkim_unseen: vec![key], ..check(DomainStatus::Verified) };
    assert!(raises(without_key).await, "the state of a key");
    assert!(raises(check(DomainStatus::Failing)).await, "the status");
}

pub(super) async fn domains_are_checked_again_the_longest_unchecked_first<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let a = bed.tenant("a").await.id;
    let create = async |domain, verification| {
        bed.store.create_domain(new_domain(Some(a), domain, verification), now()).await.unwrap().id
    };
    let (old, young) =
        (create("old.example", Verification::Dns).await, create("young.example", Verification::Dns).await);
    let manual = create("manual.example", Verification::Manual).await;
    bed.store.record_domain_check(young, check(DomainStatus::Pending)).await.unwrap();
    bed.store.record_domain_check(old, check(DomainStatus::Failing)).await.unwrap();
    let between = now();
    bed.store.record_domain_check(young, check(DomainStatus::Verified)).await.unwrap();
    let never = create("never.example", Verification::Dns).await;
    let found = async |before, limit| -> Vec<_> {
        bed.store.domains_to_check(a, before, limit).await.unwrap().iter().map(|domain| domain.id).collect()
    };
    assert_eq!(found(between, 10).await, [manual, never, old]);
    assert_eq!(found(now(), 10).await, [manual, never, old, young]);
    assert_eq!(found(now(), 1).await, [manual]);
    let b = bed.tenant("b").await.id;
    let other = new_domain(Some(b), "manual.b.example", Verification::Manual);
    let other = bed.store.create_domain(other, now()).await.unwrap().id;
    assert_eq!(bed.store.tenants_to_check(now()).await.unwrap(), [a, b]);
    bed.store.record_domain_check(other, check(DomainStatus::Verified)).await.unwrap();
    bed.store.record_domain_check(manual, check(DomainStatus::Verified)).await.unwrap();
    bed.store.record_domain_check(never, check(DomainStatus::Pending)).await.unwrap();
    bed.store.record_domain_check(old, check(DomainStatus::Pending)).await.unwrap();
    assert_eq!(bed.store.tenants_to_check(between).await.unwrap(), []);
    assert_eq!(found(between, 10).await, []);
}

pub(super) async fn the_domains_that_cover_a_sender_are_found_on_whole_labels_the_closest_first<
    H: Harness,
>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    for (tenant, domain) in [(a, "example.com"), (a, "mail.example.com"), (b, "deep.mail.example.com")] {
        bed.store.create_domain(new_domain(Some(tenant), domain, Verification::Dns), now()).await.unwrap();
    }
    let sandbox = new_domain(None, "sandbox.example.com", Verification::Manual);
    let made = bed.store.ensure_sandbox_domain(sandbox.clone(), now()).await.unwrap();
    assert_eq!((made.tenant_id, made.status), (None, DomainStatus::Verified));
    assert_eq!(bed.store.ensure_sandbox_domain(sandbox, now()).await.unwrap().id, made.id);
    let covering = async |tenant, sender| -> Vec<_> {
        let found = bed.store.domains_covering(tenant, &name(sender)).await.unwrap();
        found.iter().map(|domain| domain.name.to_string()).collect()
    };
    assert_eq!(covering(a, "deep.mail.example.com").await, ["mail.example.com", "example.com"]);
    assert_eq!(covering(a, "notexample.com").await, [""; 0]);
    assert_eq!(covering(b, "example.com").await, [""; 0]);
    assert_eq!(covering(b, "x.sandbox.example.com").await, ["sandbox.example.com"]);
    assert_eq!(covering(a, "sandbox.example.com").await, ["sandbox.example.com", "example.com"]);
    // A tenant may prove the server's own name, but not the sandbox.
    let above = bed.store.create_domain(new_domain(Some(a), "com", Verification::Manual), now()).await;
    assert!(above.is_ok());
    let sandbox = new_domain(Some(b), "sandbox.example.com", Verification::Dns);
    let refused = bed.store.create_domain(sandbox, now()).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::DomainTaken))));
    // What another tenant has verified counts too.
    let foreign = new_domain(Some(b), "news.example.com", Verification::Manual);
    bed.store.create_domain(foreign, now()).await.unwrap();
    assert_eq!(covering(a, "x.news.example.com").await, ["news.example.com", "example.com", "com"]);
}

pub(super) async fn a_dkim_key_signs_once_its_record_is_seen_and_the_one_before_it_retires<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let a = bed.tenant("a").await.id;
    let domain = bed
        .store
        .create_domain(new_domain(Some(a), "example.com", Verification::Dns), now())
        .await
        .unwrap()
        .id;
    let states = async || -> Vec<_> {
        let keys = bed.store.dkim_keys(domain).await.unwrap();
        keys.into_iter().map(|key| (key.selector, key.state)).collect()
    };
    let mark = async |seen: &[DkimKeyId], unseen: &[DkimKeyId]| {
        let check = DomainCheck {
            dkim_seen: seen.to_vec(),
            dkim_unseen: unseen.to_vec(),
            ..check(DomainStatus::Verified)
        };
        bed.store.record_domain_check(domain, check).await.unwrap();
    };
    use DkimKeyState::{Active, Pending, Retiring};
    let first = bed.store.dkim_keys(domain).await.unwrap()[0].id;
    mark(&[first], &[]).await;
    assert_eq!(states().await, [("s1".into(), Active)]);
    let second =
        bed.store.add_dkim_key(domain, new_dkim_key("s2", Pending), now()).await.unwrap().unwrap().id;
    assert_eq!(states().await, [("s1".into(), Active), ("s2".into(), Pending)]);
    mark(&[first, second], &[]).await;
    assert_eq!(states().await, [("s1".into(), Retiring), ("s2".into(), Active)]);
    mark(&[], &[second]).await;
    assert_eq!(states().await, [("s1".into(), Retiring), ("s2".into(), Pending)]);
    bed.store.add_dkim_key(domain, new_dkim_key("s3", Active), now()).await.unwrap();
    // Seen again, but a newer one signs already.
    mark(&[second], &[]).await;
    assert_eq!(states().await, [("s1".into(), Retiring), ("s2".into(), Retiring), ("s3".into(), Active)]);
    // That of the newest is lost and that of one before it is there.
    let third = bed.store.dkim_keys(domain).await.unwrap()[2].id;
    mark(&[first, second], &[third]).await;
    assert_eq!(states().await, [("s1".into(), Retiring), ("s2".into(), Active), ("s3".into(), Pending)]);
    mark(&[first, second, third], &[]).await;
    assert_eq!(states().await, [("s1".into(), Retiring), ("s2".into(), Retiring), ("s3".into(), Active)]);
    let again = bed.store.add_dkim_key(domain, new_dkim_key("s1", Pending), now()).await;
    assert!(matches!(again, Err(StoreError::Conflict(Conflict::Selector))));
    let private = bed.store.dkim_private_key(second).await.unwrap().unwrap();
    assert_eq!(&private[..], b"private half");
    assert!(bed.store.dkim_private_key(DkimKeyId::generate(now())).await.unwrap().is_none());
}

pub(super) async fn a_replaced_dkim_key_goes_when_nothing_that_it_signed_waits_any_more<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let new = new_domain(Some(a), "example.com", Verification::Dns);
    let domain = bed.store.create_domain(new, now()).await.unwrap().id;
    bed.store.add_dkim_key(domain, new_dkim_key("s2", DkimKeyState::Active), now()).await.unwrap();
    let remove = async |before| bed.store.delete_retired_dkim_keys(before).await.unwrap();
    assert_eq!(remove(later(9000)).await, 0, "one that waits for its record is not replaced");

    bed.enqueue(a, &["x@remote.example"]).await;
    let switched = now();
    bed.store.add_dkim_key(domain, new_dkim_key("s3", DkimKeyState::Active), switched).await.unwrap();
    assert_eq!(bed.store.dkim_keys(domain).await.unwrap()[1].retiring_since, Some(switched));
    assert_eq!(remove(later(9000)).await, 0, "a message waits that it signed");
    let claimed = bed.claim(later(0)).await.batches;
    assert_eq!(remove(later(9000)).await, 0, "and while it is under way");
    bed.store.record(outcomes(&claimed, DeliveryState::Delivered)).await.unwrap();

    let accepted_at = async |at| {
        let mut message = new_message(a, &["x@remote.example"], "body");
        message.recipients[0].0 = DeliveryId::generate(at);
        bed.store.enqueue(message).await.unwrap();
    };
    accepted_at(switched + SignedDuration::from_mins(4)).await;
    assert_eq!(remove(later(9000)).await, 0, "its signature may have been under way");
    let claimed = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&claimed, DeliveryState::Delivered)).await.unwrap();

    bed.enqueue(b, &["x@remote.example"]).await;
    accepted_at(switched + SignedDuration::from_mins(6)).await;
    assert_eq!(remove(switched).await, 0, "its time is not over");
    assert_eq!(remove(later(9000)).await, 1, "what is younger or another's is not in the way");
    let left: Vec<_> = bed.store.dkim_keys(domain).await.unwrap();
    assert_eq!(left.iter().map(|key| key.selector.as_str()).collect::<Vec<_>>(), ["s1", "s3"]);
    assert_eq!(remove(later(9000)).await, 0);
}

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

pub(super) async fn an_address_that_is_suppressed_again_counts_once<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let same = vec![new_suppression(Some(tenant), "same@one.example"); SUPPRESSIONS_MAX / 2];
    for _ in 0..3 {
        bed.store.suppress_all(same.clone(), now()).await.unwrap();
    }
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

pub(super) async fn a_change_of_status_has_its_event_and_a_patch_without_one_none<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let id = bed.tenant("a").await.id;
    for status in [TenantStatus::Suspended, TenantStatus::Suspended, TenantStatus::Active] {
        let patch = TenantPatch { status: Some(status), ..TenantPatch::default() };
        assert_eq!(bed.store.update_tenant(id, patch, now()).await.unwrap().unwrap().status, status);
    }
    let counts = bed.store.count_tenant_objects(id).await.unwrap().unwrap();
    assert_eq!(counts.events, 3, "created, suspended, activated");
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

pub(super) async fn a_domain_has_so_many_dkim_keys_of_which_one_waits_for_its_first_record<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let a = bed.tenant("a").await.id;
    let domain = new_domain(Some(a), "example.com", Verification::Dns);
    let domain = bed.store.create_domain(domain, now()).await.unwrap().id;
    let first = bed.store.dkim_keys(domain).await.unwrap()[0].clone();
    let ensure = async |selector: &str| {
        let new = new_dkim_key(selector, DkimKeyState::Pending);
        bed.store.ensure_pending_dkim_key(domain, new, now()).await
    };
    assert_eq!(ensure("s2").await.unwrap().unwrap().id, first.id);
    let seen = DomainCheck { dkim_seen: vec![first.id], ..check(DomainStatus::Verified) };
    bed.store.record_domain_check(domain, seen).await.unwrap();
    let second = ensure("s2").await.unwrap().unwrap();
    assert_eq!(second.selector, "s2");
    assert_eq!(ensure("s3").await.unwrap().unwrap().id, second.id, "a concurrent rotation");
    let add = async |domain, number: usize| {
        let new = new_dkim_key(&format!("s{number}"), DkimKeyState::Active);
        bed.store.add_dkim_key(domain, new, now()).await
    };
    for number in 3..=DKIM_KEYS_MAX {
        add(domain, number).await.unwrap().unwrap();
    }
    let refused = add(domain, DKIM_KEYS_MAX + 1).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::TooManyDkimKeys))), "{refused:?}");
    assert_eq!(bed.store.dkim_keys(domain).await.unwrap().len(), DKIM_KEYS_MAX);
    assert!(bed.store.delete_domain(domain, now()).await.unwrap());
    assert!(add(domain, 1).await.unwrap().is_none(), "deleted meanwhile");
    assert!(ensure("s1").await.unwrap().is_none());
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
    let policy = RetentionPolicy {
        body_days: 9,
        transcript_days: 9,
        row_days: 9,
        webhook_days: 9,
        report_days: 9,
        audit_days: 400,
    };
    let prune = async |at| bed.store.prune(policy, at, most).await.unwrap().suppressions;
    assert_eq!(prune(later(30)).await, 0);
    assert_eq!(prune(later(90)).await, most as u64 - 2);
    let filter = SuppressionFilter { tenant_id: Some(tenant), ..SuppressionFilter::default() };
    let left = bed.store.list_suppressions(filter, page(10)).await.unwrap().items;
    let left: Vec<_> = left.iter().map(|suppression| suppression.address.as_str()).collect();
    assert_eq!(left, ["stays@one.example", "x1@one.example"]);
    bed.store.suppress(new("more@one.example", never), now()).await.unwrap();
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
