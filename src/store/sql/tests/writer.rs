//! Jobs of the writer that fail, and full disks.

use super::*;

#[tokio::test]
async fn a_nearly_full_disk_refuses_mail_before_anything_is_written() {
    let bed = Bed::with(|options| {
        options.free_disk_bytes_min = u64::MAX;
        options.inline_body_bytes_max = 0;
    });
    let tenant = bed.tenant("a").await.id;
    let refused = bed.store.enqueue(new_message(tenant, &["x@one.example"], "body")).await;
    assert!(matches!(refused, Err(StoreError::DiskFull)));
    assert_eq!(bed.store.count_open().await.unwrap(), 0);
    assert!(!bed.path().join("bodies").exists());
}

/// SQLite's own limit of pages stands in for a full disk: it answers the same SQLITE_FULL.
#[tokio::test]
async fn a_disk_that_was_full_works_again_once_there_is_room() {
    let bed = Bed::with(|options| options.inline_body_bytes_max = 1 << 20);
    let tenant = bed.tenant("a").await.id;
    let limit = async |pages: i64| {
        let set = move |tx: &Tx<'_>| {
            let pages: i64 =
                tx.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get(0))?;
            Ok(pages)
        };
        bed.engine().write(set).await.unwrap()
    };
    bed.store.enqueue(new_message(tenant, &["x@one.example"], "small")).await.unwrap();
    limit(1).await; // SQLite raises it to what is in use.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = Arc::clone(&bed.store);
        let new = new_message(tenant, &["x@one.example"], &"large ".repeat(10_000));
        tasks.spawn(async move { store.enqueue(new).await });
    }
    for answer in tasks.join_all().await {
        assert!(matches!(answer, Err(StoreError::DiskFull)), "{answer:?}");
    }
    assert_eq!(bed.store.count_open().await.unwrap(), 1);
    limit(1_000_000).await;
    bed.store.enqueue(new_message(tenant, &["x@one.example"], &"large ".repeat(10_000))).await.unwrap();
    assert_eq!(ids(&bed.claim(later(0)).await.batches).len(), 2);
}

#[tokio::test]
async fn a_job_that_panics_costs_that_job_and_not_the_writer() {
    let bed = Bed::new().await;
    let panicked: Result<()> = bed.engine().write(|_| panic!("on purpose")).await;
    assert!(matches!(panicked, Err(StoreError::Failed(words)) if words.contains("on purpose")));
    let after: Result<()> = bed.engine().write_then(|_| Ok(()), |()| panic!("after the commit")).await;
    assert!(matches!(after, Err(StoreError::Failed(words)) if words.contains("after the commit")));
    bed.store.probe().await.unwrap();
}

#[tokio::test]
async fn a_job_that_fails_half_done_is_undone_alone() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    // The writer is held until all jobs wait, so that one transaction has them all.
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = parking_lot::Mutex::new(blocked);
    let store = Arc::clone(&bed.store);
    // Done again, it does not wait again: the other end is gone then.
    let holder = tokio::spawn(async move {
        let engine = &*store;
        engine.write(move |_| Ok(blocked.lock().recv().is_err())).await
    });
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..9 {
        let store = Arc::clone(&bed.store);
        tasks.spawn(async move {
            if number != 4 {
                return store.enqueue(new_message(tenant, &["x@one.example"], "body")).await.is_ok();
            }
            let mut half = new_domain(Some(tenant), "example.com", Verification::Dns);
            half.dkim_keys = vec![new_dkim_key("same", DkimKeyState::Pending); 2];
            matches!(store.create_domain(half, now()).await, Err(StoreError::Conflict(Conflict::Selector)))
        });
    }
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    drop(release);
    assert!(holder.await.unwrap().unwrap());
    assert!(tasks.join_all().await.into_iter().all(|as_expected| as_expected));
    assert_eq!(bed.store.count_tenant_objects(tenant).await.unwrap().unwrap().domains, 0);
    assert_eq!(ids(&bed.claim(later(0)).await.batches).len(), 8);
}
