//! Who is signed in to the pages: links that work once, limits for each owner and in all, and how sessions end.

use super::*;
use crate::model::SecretDigest;

const LIMITS: SignInLimits = SignInLimits { of_owner: 3, total: 6 };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A session that begins after so many seconds; `path` makes it a link.
fn sign_in(secret: SecretDigest, tenant_id: Option<TenantId>, begun: i64, path: Option<&str>) -> SignIn {
    SignIn {
        digest: KeySecret::generate(Environment::Live).digest().as_bytes().to_owned(),
        secret,
        tenant_id,
        scopes: None,
        path: path.map(str::to_owned),
        created_at: at(begun),
        seen_at: at(begun),
        ends_at: at(begun + 60),
        expires_at: at(begun + 3600),
        theme: None,
        note: None,
    }
}

fn secret() -> SecretDigest {
    KeySecret::generate(Environment::Live).digest()
}

async fn add(bed: &TestBed<impl Harness>, new: SignIn) -> [u8; 32] {
    bed.store.add_sign_in(new.clone(), LIMITS).await.unwrap();
    new.digest
}

async fn is_there(bed: &TestBed<impl Harness>, digest: [u8; 32]) -> bool {
    bed.store.sign_in(digest, at(10)).await.unwrap().is_some()
}

pub(super) async fn a_session_holds_after_a_restart_with_what_was_changed<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = SignIn { scopes: Some(vec![Scope::EmailsRead]), ..sign_in(secret(), Some(tenant), 0, None) };
    bed.store.add_sign_in(new.clone(), LIMITS).await.unwrap();
    assert_eq!(bed.store.sign_in(new.digest, at(10)).await.unwrap(), Some(new.clone()));
    let changes = [
        SessionChange::Seen { at: at(30), ends_at: at(90) },
        SessionChange::Theme(Some("dark".into())),
        SessionChange::Note(Some("Saved.".into())),
        SessionChange::Seen { at: at(20), ends_at: at(80) },
    ];
    for change in changes {
        bed.store.change_session(new.digest, change).await.unwrap();
    }
    let bed = bed.restart().await;
    let changed = SignIn {
        seen_at: at(30),
        ends_at: at(90),
        theme: Some("dark".into()),
        note: Some("Saved.".into()),
        ..new.clone()
    };
    assert_eq!(bed.store.sign_in(new.digest, at(89)).await.unwrap(), Some(changed.clone()));
    assert_eq!(bed.store.sessions_of(new.secret, at(89)).await.unwrap(), [changed]);
    assert_eq!(bed.store.sign_in(new.digest, at(90)).await.unwrap(), None);
    assert_eq!(bed.store.sessions_of(new.secret, at(90)).await.unwrap(), []);
    bed.store.prune(KEEP, at(90), 100).await.unwrap();
    assert_eq!(bed.store.sign_in(new.digest, at(10)).await.unwrap(), None, "it is deleted");
}

pub(super) async fn of_many_who_take_a_link_one_gets_it<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let link = add(&bed, sign_in(secret(), None, 0, Some("/ui/"))).await;
    let taken = [(); 5].map(|()| bed.store.take_sign_in(link, at(10)));
    let taken = futures_util::future::try_join_all(taken).await.unwrap();
    assert_eq!(taken.iter().flatten().count(), 1);
    assert!(!is_there(&bed, link).await);
    let late = add(&bed, sign_in(secret(), None, 0, Some("/ui/"))).await;
    assert_eq!(bed.store.take_sign_in(late, at(60)).await.unwrap(), None);
}

pub(super) async fn the_sessions_of_an_owner_do_not_end_those_of_others<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (busy, calm) = (bed.tenant("busy").await.id, bed.tenant("calm").await.id);
    let platform = secret();
    let of_link = SignIn { scopes: Some(Vec::new()), ..sign_in(platform, Some(busy), 0, None) };
    // The links of a platform key are counted for each tenant, and apart from its sessions.
    let others = [
        add(&bed, of_link).await,
        add(&bed, sign_in(platform, Some(calm), 0, None)).await,
        add(&bed, sign_in(platform, Some(busy), 0, Some("/ui/"))).await,
    ];
    let mut own = Vec::new();
    for begun in 1..=4 {
        own.push(add(&bed, sign_in(platform, Some(busy), begun, None)).await);
    }
    for other in others {
        assert!(is_there(&bed, other).await);
    }
    let mut there = Vec::new();
    for digest in own {
        there.push(is_there(&bed, digest).await);
    }
    assert_eq!(there, [false, true, true, true], "the oldest ends");
    let listed = bed.store.sessions_of(platform, at(10)).await.unwrap();
    assert!(listed.iter().all(|listed| listed.path.is_none()), "a link is no session: {listed:?}");
}

pub(super) async fn the_sessions_of_all_keys_of_a_tenant_do_not_end_those_of_others<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let busy = bed.tenant("busy").await.id;
    let other = add(&bed, sign_in(secret(), None, 0, None)).await;
    let first = add(&bed, sign_in(secret(), Some(busy), 1, None)).await;
    for begun in 2..=8 {
        add(&bed, sign_in(secret(), Some(busy), begun, None)).await;
    }
    assert!(is_there(&bed, other).await && !is_there(&bed, first).await);
}

pub(super) async fn the_revocation_of_a_key_ends_the_sessions_and_links_of_all_its_secrets<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (earlier, present) = (KeySecret::generate(Environment::Live), KeySecret::generate(Environment::Live));
    let key = bed.store.create_key(new_key(None, &earlier), now()).await.unwrap().id;
    let rotation = SecretRotation { secret: present.stored_secret(), previous_until: at(3600) };
    bed.store.rotate_key(key, rotation, now()).await.unwrap().unwrap();
    let other = add(&bed, sign_in(secret(), None, 0, None)).await;
    let own = [
        add(&bed, sign_in(earlier.digest(), None, 0, None)).await,
        add(&bed, sign_in(present.digest(), None, 0, Some("/ui/"))).await,
    ];
    bed.store.revoke_key(key, now()).await.unwrap();
    for digest in own {
        assert!(!is_there(&bed, digest).await);
    }
    assert!(is_there(&bed, other).await);
    let third = add(&bed, sign_in(present.digest(), None, 0, None)).await;
    bed.store.end_sign_ins_of(present.digest()).await.unwrap();
    assert!(is_there(&bed, other).await && !is_there(&bed, third).await);
}
