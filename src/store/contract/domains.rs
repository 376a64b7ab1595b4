//! Domains and their DKIM keys.

use super::*;
use crate::model::DomainStatus;

fn check(status: DomainStatus) -> DomainCheck {
    DomainCheck {
        checked_at: now(),
        status,
        failing_since: None,
        records: vec![RecordCheck {
            name: "_pillarbox.example.com".to_owned(),
            status: RecordStatus::Ok,
            found: vec!["token".to_owned()],
            is_published: false,
        }],
        dkim_seen: Vec::new(),
        dkim_unseen: Vec::new(),
        return_path: None,
        return_path_of: Default::default(),
    }
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
    // The next round begins when this one is due.
    let oldest = bed.store.oldest_domain_check().await.unwrap().unwrap();
    let just_after = oldest.checked_add(SignedDuration::from_millis(1)).unwrap();
    assert_eq!(bed.store.tenants_to_check(oldest).await.unwrap(), []);
    assert!(!bed.store.tenants_to_check(just_after).await.unwrap().is_empty());
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
