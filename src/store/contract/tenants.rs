//! Tenants.

use super::*;
use crate::model::{DkimPolicy, TlsMode};

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

pub(super) async fn a_change_of_status_has_its_event_and_a_patch_without_one_none<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let id = bed.tenant("a").await.id;
    use TenantStatus::{Active, Archived, Suspended};
    for status in [Suspended, Suspended, Active, Archived, Archived] {
        let patch = TenantPatch { status: Some(status), ..TenantPatch::default() };
        assert_eq!(bed.store.update_tenant(id, patch, now()).await.unwrap().unwrap().status, status);
    }
    let counts = bed.store.count_tenant_objects(id).await.unwrap().unwrap();
    assert_eq!(counts.events, 4, "created, suspended, activated, archived");
}
