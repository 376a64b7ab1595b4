//! Bodies of messages in files.

use super::*;
use crate::store::{BundlePart, BundleRequest, Bundles, ImportOptions};

#[tokio::test]
async fn a_batch_writes_few_octets_into_the_database_and_the_rest_to_files() {
    let bed = Bed::with(|options| options.inline_body_bytes_max = 256 * 1024);
    let tenant = bed.tenant("a").await.id;
    let bodies: Vec<_> = (0..30).map(|number| format!("{number} ").repeat(60 * 1024)).collect();
    let news: Vec<_> = bodies.iter().map(|body| new_message(tenant, &["x@one.example"], body)).collect();
    let ids: Vec<_> = news.iter().map(|new| new.message.id).collect();
    let contents: Vec<_> = news.iter().map(|new| new.content.to_vec()).collect();
    assert_eq!(bed.store.enqueue_all(news).await.unwrap(), ids);
    let files: u64 =
        files_below(&bed.path().join("bodies")).iter().map(|path| path.metadata().unwrap().len()).sum();
    let all: u64 = contents.iter().map(|content| content.len() as u64).sum();
    let inline = all - files;
    assert!((1 << 20..=2 << 20).contains(&inline), "{inline} of {all} octets are in the database");
    for (id, content) in ids.iter().zip(contents) {
        assert_eq!(bed.store.content(*id, now()).await.unwrap().unwrap().to_vec(), content);
    }
    assert_eq!(bed.store.enqueue_all(Vec::new()).await.unwrap(), []);
}

#[tokio::test]
async fn a_large_body_lives_in_a_file_that_goes_with_its_message() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let large = new_message(tenant, &["x@one.example"], &"large ".repeat(2000));
    bed.store.enqueue(large.clone()).await.unwrap();
    bed.enqueue(tenant, &["x@one.example"]).await;
    let files = files_below(&bed.path().join("bodies"));
    assert_eq!(files.len(), 1);
    assert!(files[0].ends_with(format!("{}.eml", large.message.id)));
    assert_eq!(std::fs::read(&files[0]).unwrap(), large.content.to_vec());
    let bed = bed.restart().await;
    assert_eq!(bed.store.content(large.message.id, now()).await.unwrap().as_ref(), Some(&large.content));
    let batches = bed.claim(later(0)).await.batches;
    let done = outcomes(&batches, DeliveryState::Delivered);
    bed.store.record(done).await.unwrap();
    let policy = RetentionPolicy { body_days: 0, ..KEEP };
    assert_eq!(bed.store.prune(policy, later(60), 100).await.unwrap().bodies, 2);
    assert!(!files[0].exists());
    assert!(bed.store.content(large.message.id, now()).await.unwrap().is_none());
}

/// Large bodies that no row refers to, as old as if a crash had cut their submissions off hours ago.
fn leave_strays(bed: &Bed, tenant: TenantId, count: usize) -> Vec<PathBuf> {
    for _ in 0..count {
        let stray = new_message(tenant, &["x@one.example"], "body");
        bed.engine().bodies.write(stray.message.id, &stray.content).unwrap().keep();
    }
    let files = files_below(&bed.path().join("bodies"));
    for file in &files {
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(2 * 3600)).unwrap();
    }
    files
}

#[tokio::test]
async fn a_file_without_a_row_is_counted_and_kept_a_few_directories_at_a_time() {
    let bed = Bed::with(|options| options.inline_body_bytes_max = 0);
    let tenant = bed.tenant("a").await.id;
    let known = bed.enqueue(tenant, &["x@one.example"]).await;
    let files = leave_strays(&bed, tenant, 40);
    let mut rounds = 0;
    while bed.store.counts().stray_files == 0 {
        bed.store.prune(KEEP, now(), 100).await.unwrap();
        rounds += 1;
        assert!(rounds < 20, "all directories were examined by now");
    }
    assert!(rounds > 1, "one round examines some of the directories");
    assert_eq!(bed.store.counts().stray_files, 40);
    assert_eq!(files_below(&bed.path().join("bodies")).len(), files.len());
    assert_eq!(bed.store.content(known.message.id, now()).await.unwrap(), Some(known.content));
}

/// Yesterday's database beside today's files: they are the only copies of what was accepted since.
#[tokio::test]
async fn files_that_are_newer_than_a_restored_database_are_kept_until_it_knows_them_again() {
    let bed = Bed::with(|options| options.inline_body_bytes_max = 0);
    let tenant = bed.tenant("a").await.id;
    bed.store.checkpoint().await.unwrap();
    let database = bed.path().join("pillarbox.db");
    let older = std::fs::read(&database).unwrap();
    let message = bed.enqueue(tenant, &["x@one.example"]).await;
    bed.store.close().await;
    let newer = std::fs::read(&database).unwrap();
    let restore = |bed: Bed, octets: &[u8]| {
        let Bed { harness, store, .. } = bed;
        drop(store);
        std::fs::write(&database, octets).unwrap();
        let store = open(options(harness.dir.path())).unwrap();
        Bed::of(harness, store)
    };
    let bed = restore(bed, &older);
    assert!(bed.store.content(message.message.id, now()).await.unwrap().is_none());
    for file in files_below(&bed.path().join("bodies")) {
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(2 * 3600)).unwrap();
    }
    bed.store.prune(KEEP, now(), 100).await.unwrap();
    bed.store.close().await;
    let bed = restore(bed, &newer);
    assert_eq!(bed.store.content(message.message.id, now()).await.unwrap(), Some(message.content));
}

#[tokio::test]
async fn the_file_of_a_removed_row_goes_also_after_a_crash_in_between() {
    let bed = Bed::with(|options| options.inline_body_bytes_max = 0);
    let tenant = bed.tenant("a").await.id;
    let message = bed.enqueue(tenant, &["x@one.example"]).await;
    let id = message.message.id;
    bed.engine().write(move |tx| blob_store::release(tx, id)).await.unwrap();
    let bed = bed.restart().await;
    let files = || files_below(&bed.path().join("bodies"));
    assert_eq!(files().len(), 1);
    bed.store.prune(KEEP, now(), 100).await.unwrap();
    assert_eq!(files(), [] as [PathBuf; 0]);
    let left = bed.engine().read(|connection| blob_store::released(connection, None, 10)).await.unwrap();
    assert_eq!(left, []);
}

/// A deleted tenant is imported again while its files are waiting for their deletion, are deleted but still listed, or are strays.
#[tokio::test]
async fn an_imported_content_does_not_go_with_an_earlier_file_of_its_message() {
    let bed = Bed::with(|options| options.inline_body_bytes_max = 0);
    let tenant = bed.tenant("a").await.id;
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.push(bed.enqueue(tenant, &["x@one.example"]).await);
    }
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    let mut objects = Vec::new();
    for part in [BundlePart::Tenant, BundlePart::Messages] {
        let request = BundleRequest { tenant_id: tenant, part, after: None, has_secrets: false };
        objects.extend(bed.store.bundle_page(request).await.unwrap().items);
    }
    let backup = blob_store::hold_bodies(bed.path(), Duration::ZERO).unwrap();
    bed.store.remove_tenant(tenant, now()).await.unwrap().unwrap();
    let deleted = sent[1].message.id.to_string();
    let files = files_below(&bed.path().join("bodies"));
    assert_eq!(files.len(), sent.len());
    let file = files.iter().find(|file| file.ends_with(format!("{deleted}.eml"))).unwrap();
    std::fs::remove_file(file).unwrap();
    let stray = sent[2].message.id;
    bed.engine().write(move |tx| blob_store::delete_released(tx, &[stray])).await.unwrap();
    let report = bed.store.import_bundle(objects, ImportOptions::default(), later(60)).await.unwrap();
    assert_eq!((report.created, report.conflicts), (4, Vec::new()));
    drop(backup);
    bed.store.prune(KEEP, now(), 100).await.unwrap();
    for new in sent {
        assert_eq!(bed.store.content(new.message.id, now()).await.unwrap(), Some(new.content));
    }
}

#[tokio::test]
async fn content_that_was_cut_or_altered_is_an_event_and_is_not_handed_out() {
    for inline_body_bytes_max in [0, 1 << 20] {
        let bed = Bed::with(|options| options.inline_body_bytes_max = inline_body_bytes_max);
        let tenant = bed.tenant("a").await.id;
        let message = bed.enqueue(tenant, &["x@one.example"]).await;
        let id = message.message.id;
        let whole = message.content.to_vec();
        let cut = &whole[..whole.len() - 1];
        let altered: Vec<u8> = whole.iter().map(|&octet| if octet == b'b' { b'c' } else { octet }).collect();
        let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
        let put = |octets: &[u8]| match files_below(&bed.path().join("bodies")).first() {
            Some(file) => std::fs::write(file, octets).unwrap(),
            None => {
                let row = rusqlite::params![id, &octets[message.content.prefix.len()..]];
                database.execute("UPDATE body SET submitted = ?2 WHERE message_id = ?1", row).unwrap();
            }
        };
        std::fs::create_dir_all(bed.path().join("bodies")).unwrap();
        let found_at = now();
        for (octets, words) in [(cut, "octets instead of"), (&altered, "checksum")] {
            put(octets);
            let read = bed.store.content(id, found_at).await;
            let Err(StoreError::Damaged { message, fault }) = &read else { panic!("{read:?}") };
            assert!(*message == id && fault.contains(words), "{fault}");
        }
        put(&whole);
        assert_eq!(bed.store.content(id, now()).await.unwrap(), Some(message.content.clone()));
        bed.store.checkpoint().await.unwrap();
        let events = bed.store.message_events(id, None, 100).await.unwrap();
        let events: Vec<_> =
            events.items.iter().filter(|event| event.kind == EventKind::MessageContentDamaged).collect();
        assert_eq!(events.len(), 1, "every attempt finds the damage, and one event reports it");
        assert_eq!((events[0].tenant_id, events[0].created_at), (Some(tenant), found_at));
    }
}

#[tokio::test]
async fn a_body_file_that_is_missing_is_damage_and_not_an_empty_answer() {
    let bed = Bed::with(|options| options.inline_body_bytes_max = 0);
    let tenant = bed.tenant("a").await.id;
    let message = bed.enqueue(tenant, &["x@one.example"]).await;
    std::fs::remove_file(&files_below(&bed.path().join("bodies"))[0]).unwrap();
    let read = bed.store.content(message.message.id, now()).await;
    assert!(matches!(&read, Err(StoreError::Damaged { fault, .. }) if fault.contains("missing")), "{read:?}");
}

/// What an older version wrote has no checksum; it is read as before.
#[tokio::test]
async fn a_body_from_before_there_were_checksums_is_read() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let message = bed.enqueue(tenant, &["x@one.example"]).await;
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute("UPDATE body SET octets = NULL, crc32 = NULL", []).unwrap();
    assert_eq!(bed.store.content(message.message.id, now()).await.unwrap(), Some(message.content));
}

#[tokio::test]
async fn a_submission_that_is_repeated_or_refused_leaves_no_file() {
    let bed = Bed::with(|options| options.inline_body_bytes_max = 0);
    let tenant = bed.tenant("a").await.id;
    let keyed = |digest: u8| {
        let key = SubmissionKey { name: "key".into(), digest: [digest; 32] };
        NewMessage { submission_key: Some(key), ..new_message(tenant, &["x@one.example"], "body") }
    };
    let first = bed.store.enqueue(keyed(1)).await.unwrap();
    let again = bed.store.enqueue(keyed(1)).await.unwrap();
    assert_eq!(again, first);
    assert!(bed.store.enqueue(keyed(2)).await.is_err(), "another message under the key");
    let files = files_below(&bed.path().join("bodies"));
    assert_eq!(files.len(), 1);
    assert!(files[0].ends_with(format!("{first}.eml")));
}
