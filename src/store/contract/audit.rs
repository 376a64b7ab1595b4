//! The audit log: entries stored with their change, completed afterwards, bounded and kept.

use super::*;
use crate::model::{AuditActor, AuditId, RequestId};

fn entry(tenant_id: Option<TenantId>, operation: &str) -> AuditEntry {
    let at = now();
    AuditEntry {
        id: AuditId::generate(at),
        tenant_id,
        actor: AuditActor::Key,
        key_id: Some(KeyId::generate(at)),
        actor_name: Some("ops".into()),
        by_platform: false,
        client_address: Some(IpAddr::from([192, 0, 2, 1])),
        request_id: Some(RequestId::generate(at)),
        operation: operation.into(),
        object: Some("tenant".into()),
        object_id: Some("tnt_1".into()),
        before: Some(serde_json::json!({"name": "old"})),
        after: None,
        error: None,
        created_at: at,
    }
}

async fn listed(bed: &TestBed<impl Harness>, filter: AuditFilter) -> Vec<AuditEntry> {
    bed.store.list_audit(filter, page(100)).await.unwrap().items
}

fn names(entries: &[AuditEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.operation.as_str()).collect()
}

pub(super) async fn an_entry_is_stored_with_its_change_and_completed_afterwards<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let trail = Arc::new(AuditTrail::new(entry(None, "create_tenant")));
    let tenant = bed.store.auditing(trail.clone()).create_tenant(new_tenant("a"), now()).await.unwrap().id;
    assert!(trail.is_written());
    let stored = listed(&bed, AuditFilter::default()).await;
    assert_eq!((stored.len(), &stored[0].after), (1, &None));

    let completed = AuditEntry {
        tenant_id: Some(tenant),
        object_id: Some(tenant.to_string()),
        before: None,
        error: Some("internal".into()),
        after: Some(serde_json::json!({"name": "new"})),
        ..trail.entry().clone()
    };
    bed.store.complete_audit(completed.clone()).await.unwrap();
    let stored = listed(&bed, AuditFilter::default()).await;
    let expected = AuditEntry { before: trail.entry().before.clone(), ..completed };
    assert_eq!(format!("{stored:?}"), format!("{:?}", [&expected]), "what the completion lacks stays");
    let bare =
        AuditEntry { object: None, object_id: None, after: None, error: None, ..trail.entry().clone() };
    bed.store.complete_audit(bare).await.unwrap();
    let stored = listed(&bed, AuditFilter::default()).await;
    assert_eq!(format!("{stored:?}"), format!("{:?}", [&expected]), "and so does what it no longer has");
}

pub(super) async fn a_crash_after_the_change_leaves_its_entry<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let trail = Arc::new(AuditTrail::new(entry(Some(tenant), "suppress")));
    let audited = bed.store.auditing(trail.clone());
    audited.suppress(new_suppression(Some(tenant), "x@one.example"), now()).await.unwrap();
    drop(audited);
    let bed = bed.restart().await;
    let stored = listed(&bed, AuditFilter { tenant_id: Some(tenant), ..AuditFilter::default() }).await;
    assert_eq!(format!("{stored:?}"), format!("{:?}", [trail.entry()]));
}

pub(super) async fn what_changes_nothing_or_is_refused_leaves_no_entry<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    bed.tenant("a").await;
    let trail = Arc::new(AuditTrail::new(entry(None, "change")));
    let audited = bed.store.auditing(trail.clone());
    assert!(audited.create_tenant(new_tenant("a"), now()).await.is_err(), "the slug is taken");
    assert!(!audited.revoke_key(KeyId::generate(now()), now()).await.unwrap());
    assert!(!trail.is_written());
    assert!(listed(&bed, AuditFilter::default()).await.is_empty());
}

pub(super) async fn of_a_tenant_with_all_its_entries_the_oldest_makes_room<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    bed.store.complete_audit(entry(Some(b), "of another")).await.unwrap();
    let numbers = 0..AUDIT_ENTRIES_MAX + 2;
    let first = entry(Some(a), "first");
    bed.store.complete_audit(first.clone()).await.unwrap();
    for number in numbers.clone() {
        // An entry of the platform becomes one of the tenant when it is completed.
        let made = entry(None, &number.to_string());
        bed.store.complete_audit(made.clone()).await.unwrap();
        // The next number of the platform is another one than that of the tenant.
        bed.store.complete_audit(entry(None, &number.to_string())).await.unwrap();
        bed.store.complete_audit(AuditEntry { tenant_id: Some(a), ..made }).await.unwrap();
        if number == 5 {
            // It keeps its place, also if its completion does not know the tenant.
            for tenant_id in [Some(a), None] {
                bed.store.complete_audit(AuditEntry { tenant_id, ..first.clone() }).await.unwrap();
            }
        }
    }
    let of_a = listed(&bed, AuditFilter { tenant_id: Some(a), ..AuditFilter::default() }).await;
    let kept: Vec<_> = numbers.clone().rev().take(of_a.len()).map(|number| number.to_string()).collect();
    assert_eq!(names(&of_a), kept);
    assert_eq!(of_a.len(), usize::try_from(AUDIT_ENTRIES_MAX).unwrap());
    let of_b = listed(&bed, AuditFilter { tenant_id: Some(b), ..AuditFilter::default() }).await;
    assert_eq!(names(&of_b), ["of another"]);
    let of_platform = listed(&bed, AuditFilter { of_platform: true, ..AuditFilter::default() }).await;
    assert_eq!(of_platform.len(), numbers.count());
}

pub(super) async fn entries_are_found_by_owner_key_operation_and_object<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let mine = entry(Some(tenant), "update_key");
    let theirs = AuditEntry { by_platform: true, ..entry(Some(tenant), "update_domain") };
    let theirs = AuditEntry { object: Some("domain".into()), object_id: Some("dom_1".into()), ..theirs };
    let of_platform = entry(None, "create_tenant");
    for entry in [&mine, &theirs, &of_platform] {
        bed.store.complete_audit(entry.clone()).await.unwrap();
    }
    let any = AuditFilter::default;
    let own = || AuditFilter { tenant_id: Some(tenant), of_own_keys: true, ..any() };
    for (filter, expected) in [
        (any(), &["create_tenant", "update_domain", "update_key"][..]),
        (own(), &["update_domain", "update_key"]),
        (AuditFilter { of_platform: true, ..any() }, &["create_tenant"]),
        (AuditFilter { key_id: theirs.key_id, ..any() }, &["update_domain"]),
        (AuditFilter { key_id: theirs.key_id, ..own() }, &[]),
        (AuditFilter { key_id: mine.key_id, ..own() }, &["update_key"]),
        (AuditFilter { operation: Some("create_tenant".into()), ..any() }, &["create_tenant"]),
        (AuditFilter { object: Some("domain".into()), ..any() }, &["update_domain"]),
        (AuditFilter { object_id: Some("dom_1".into()), ..any() }, &["update_domain"]),
        (AuditFilter { object_id: Some("dom_2".into()), ..any() }, &[]),
    ] {
        assert_eq!(names(&listed(&bed, filter.clone()).await), expected, "{filter:?}");
    }
    let get = async |scope, id| bed.store.audit_entry(scope, id).await.unwrap().is_some();
    assert!(get(None, of_platform.id).await && get(Some(tenant), theirs.id).await);
    assert!(!get(Some(tenant), of_platform.id).await && !get(Some(TenantId::generate(now())), mine.id).await);
}

pub(super) async fn entries_end_after_their_retention<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let policy = RetentionPolicy { audit_days: 10, ..KEEP };
    let changed = entry(Some(tenant), "update_tenant");
    bed.store.complete_audit(changed.clone()).await.unwrap();
    bed.store.complete_audit(entry(None, "create_tenant")).await.unwrap();
    bed.store.remove_tenant(tenant, now()).await.unwrap();
    let prune = async |days: i64| bed.store.prune(policy, later(days * 24 * 3600), 100).await.unwrap();
    assert_eq!(prune(9).await.audit_entries, 0);
    assert_eq!(listed(&bed, AuditFilter::default()).await.len(), 2, "also of a tenant that is gone");
    assert_eq!(prune(11).await.audit_entries, 2);
    assert!(listed(&bed, AuditFilter::default()).await.is_empty());
}

/// The changes of a request to a tenant, with an entry of its own.
fn request_about(bed: &TestBed<impl Harness>, tenant: TenantId) -> Store {
    let about = AuditEntry { object_id: Some(tenant.to_string()), ..entry(Some(tenant), "update_tenant") };
    bed.store.auditing(Arc::new(AuditTrail::new(about)))
}

fn renamed(name: &str) -> TenantPatch {
    TenantPatch { name: Some(name.into()), ..TenantPatch::default() }
}

pub(super) async fn a_change_fails_if_another_request_has_changed_the_object<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (tenant, other) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let version = bed.store.object_version(tenant.to_string()).await.unwrap();
    request_about(&bed, other).update_tenant(other, renamed("other"), now()).await.unwrap();
    let request = request_about(&bed, tenant).unless_changed(version.clone());
    for name in ["first", "second"] {
        request.update_tenant(tenant, renamed(name), now()).await.unwrap();
    }
    let late = request_about(&bed, tenant).unless_changed(version);
    let refused = late.update_tenant(tenant, renamed("late"), now()).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::Changed))), "{refused:?}");
    assert_eq!(bed.store.tenant(tenant).await.unwrap().unwrap().name, "second");
    let version = bed.store.object_version(tenant.to_string()).await.unwrap();
    let request = request_about(&bed, tenant).unless_changed(version);
    request.update_tenant(tenant, renamed("third"), now()).await.unwrap();
}

pub(super) async fn of_two_requests_with_one_idempotency_key_one_changes_something<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let key =
        bed.store.create_key(new_key(None, &KeySecret::generate(Environment::Live)), now()).await.unwrap();
    let request = || {
        let request = Arc::new(IdempotentRequest::new(key.id, "order-17".into(), [1; 32], now()));
        let render = |tenant: &Tenant| Some((201, tenant.slug.clone().into_bytes()));
        (bed.store.recording(ResponseRecorder::new(request.clone(), render)), request)
    };
    let ((first, request_of_first), (second, request_of_second)) = (request(), request());
    first.create_tenant(new_tenant("first"), now()).await.unwrap();
    let repeated = second.create_tenant(new_tenant("second"), now()).await;
    assert!(matches!(repeated, Err(StoreError::Conflict(Conflict::Repeated))), "{repeated:?}");
    assert_eq!(
        (request_of_first.is_response_stored(), request_of_second.is_response_stored()),
        (true, false)
    );
    assert!(bed.store.tenant_by_slug("second").await.unwrap().is_none());
    let stored = bed.store.idempotent_response(key.id, "order-17", now()).await.unwrap().unwrap();
    assert_eq!(&**stored.body, b"first");
}

pub(super) async fn the_octets_of_stored_responses_are_counted_by_tenant_and_day<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut keys = Vec::new();
    for owner in [Some(tenant), None] {
        let secret = KeySecret::generate(Environment::Live);
        keys.push(bed.store.create_key(new_key(owner, &secret), now()).await.unwrap().id);
    }
    let tomorrow = now() + SignedDuration::from_hours(24);
    let octets = async |at| bed.store.response_octets_of_day(tenant, at).await.unwrap();
    assert_eq!(octets(now()).await, 0);
    for (at, name, expected) in
        [(now(), "a", 612), (now(), "a", 612), (now(), "b", 1224), (tomorrow, "c", 612)]
    {
        for key in &keys {
            let body = vec![b'x'; 100].into();
            let response = IdempotentResponse { digest: [1; 32], status: 200, body };
            bed.store.store_idempotent_response(*key, name, response, at).await.unwrap();
        }
        assert_eq!(octets(at).await, expected);
    }
}
