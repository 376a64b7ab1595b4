//! What is left of an erased recipient.

use super::removal::words_left;
use super::*;
use crate::model::{ErasureId, QueueFilter};
use crate::store::{Conflict, Erasures, Metadata, NewErasure, Queue, ReleaseMode, StoreError};

const BOB: &str = "bob+x@b.example";
/// In ORCPT and in URLs.
const ENCODED: [&str; 2] = ["bob+2bx@b.example", "bob%2bx%40b.example"];

/// Every row that may name a recipient gets one that names Bob.
const ROWS: &[&str] = &[
    "UPDATE attempt SET text = '550 <Bob+X@B.Example>: unknown',
                        transcript = 'RCPT TO:<bob+x@b.example> ORCPT=rfc822;bob+2Bx@b.example'",
    "UPDATE message SET header_from = 'Bob <bob+x@b.example>', envelope_id = 'bob+2Bx@b.example'",
    "UPDATE delivery SET last_reply = '550 bob+x@b.example', original_recipient = 'rfc822;bob+2Bx@b.example'",
    "INSERT INTO report (id, tenant_id, message_id, kind, rule, effect, recipient, reply, reporter, digest, times, created_us, last_us)
     SELECT 'rpt_1', id, NULL, 'other', 'other', 'none', 'bob+x@b.example', '550 bob+x@b.example',
            '{\"from\":\"bob+x@b.example\"}', x'00', 1, 0, 0 FROM tenant WHERE slug = 'a'",
    "INSERT INTO report_raw VALUES ('rpt_1', CAST('To: bob+x@b.example' AS BLOB))",
    "INSERT INTO rejection SELECT 'req_1', id, NULL, 'rcpt', 'recipient_suppressed', 'bob+x@b.example is suppressed', NULL, 0, 'live'
     FROM tenant WHERE slug = 'a'",
    "INSERT INTO audit (id, tenant_id, number, actor, by_platform, operation, object_id, before, after, created_us)
     SELECT 'aud_1', id, 1, 'key', 0, 'suppress', '/v1/recipients/bob%2Bx%40b.example', '{\"a\":[\"bob+x@b.example\"]}',
            '{\"a\":\"bob+x@b.example\"}', 0 FROM tenant WHERE slug = 'a'",
    "INSERT INTO inbox SELECT 'inb_1', id, 'Bob+x@b.example', 'bob+x@b.example', NULL, NULL, 0, NULL, 0 FROM tenant WHERE slug = 'a'",
    "UPDATE suppression SET evidence = 'bob+x@b.example asked'",
    "UPDATE webhook_delivery SET tags = '[\"bob+x@b.example\"]', metadata = '{\"user\":\"bob+x@b.example\"}', last_attempt = '{\"text\":\"bob+x@b.example\"}'",
];

/// The places of the database with a text, in whatever case: `table.column`.
fn places_with(connection: &rusqlite::Connection, texts: &[&str]) -> Vec<String> {
    let sql = "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c
               WHERE m.type = 'table' ORDER BY m.name, c.cid";
    let mut columns = connection.prepare(sql).unwrap();
    let columns = columns.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let has = |(table, column): &(String, String)| {
        let sql = format!(
            "SELECT 1 FROM \"{table}\" WHERE instr(lower(CAST(\"{column}\" AS TEXT)), ?1) > 0 LIMIT 1"
        );
        texts.iter().any(|text| connection.prepare(&sql).unwrap().exists([text]).unwrap())
    };
    let columns = columns.map(std::result::Result::unwrap).filter(has);
    columns.map(|(table, column)| format!("{table}.{column}")).collect()
}

async fn filled() -> (Bed, TenantId, rusqlite::Connection) {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap();
    let mut shared = new_message(tenant, &[BOB, "carl@b.example"], "shared");
    shared.message.subject = Some("for bob+x@b.example and you".into());
    shared.message.annotations.metadata = Metadata::from_json(Some(r#"{"user":"bob+x@b.example"}"#.into()));
    shared.message.annotations.tags = vec![BOB.into()];
    bed.store.enqueue(shared).await.unwrap();
    let mut own = new_message(tenant, &["Bob+X@b.example"], "dear bob+x@b.example");
    own.message.annotations.tags = vec![format!("for {BOB}")];
    bed.store.enqueue(own).await.unwrap();
    let mut to_another = new_message(tenant, &["dora@b.example"], "hello");
    to_another.message.subject = Some("about bob+x@b.example".into());
    bed.store.enqueue(to_another).await.unwrap();
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    bed.store.suppress(new_suppression(Some(tenant), BOB), now()).await.unwrap();
    bed.store.index_messages().await.unwrap();
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    for sql in ROWS {
        assert!(database.execute(sql, []).unwrap() > 0, "{sql}");
    }
    (bed, tenant, database)
}

fn erasure_of(tenant_id: Option<TenantId>, keeps_suppression: bool) -> NewErasure {
    NewErasure { id: ErasureId::generate(now()), tenant_id, folded: BOB.into(), keeps_suppression }
}

#[tokio::test]
async fn an_erased_recipient_is_in_no_column_of_any_table() {
    let (bed, tenant, database) = filled().await;
    let texts = [&[BOB][..], &ENCODED].concat();
    let expected = [
        "attempt.text",
        "attempt.transcript",
        "audit.object_id",
        "audit.before",
        "audit.after",
        "body.submitted",
        "delivery.recipient",
        "delivery.last_reply",
        "delivery.original_recipient",
        "event.data",
        "inbox.address",
        "inbox.folded",
        "message.subject",
        "message.header_from",
        "message.envelope_id",
        "message.tags",
        "message.metadata",
        "rejection.message",
        "report.recipient",
        "report.reply",
        "report.reporter",
        "report_raw.octets",
        "suppression.address",
        "suppression.evidence",
        "webhook_delivery.data",
        "webhook_delivery.last_attempt",
        "webhook_delivery.tags",
        "webhook_delivery.metadata",
    ];
    assert_eq!(places_with(&database, &texts), expected);

    let new = erasure_of(Some(tenant), false);
    let would = bed.store.count_erasure(new.clone()).await.unwrap();
    bed.store.note_erasure(new.clone(), now()).await.unwrap();
    assert!(bed.store.deliveries_to_cancel().await.unwrap().is_empty());
    let at = later(1);
    assert_eq!(bed.store.apply_erasures(at).await.unwrap(), 1);
    assert_eq!(places_with(&database, &texts), [] as [String; 0]);
    let done = bed.store.erasure(new.id).await.unwrap().unwrap();
    assert_eq!(done.applied_at, Some(at));
    assert_eq!((done.counts.deliveries, done.counts.messages, done.counts.shared_messages), (2, 1, 1));
    assert_eq!((done.counts.reports, done.counts.rejections, done.counts.suppressions), (1, 1, 1));
    assert_eq!(done.counts, would);
    // Carl's delivery and the shared message stay.
    assert_eq!(places_with(&database, &["carl@b.example"]).first().unwrap(), "delivery.recipient");
    let filter = MessageFilter { to: Some(address("carl@b.example")), ..MessageFilter::default() };
    let found = bed.store.list_messages(filter, PageRequest::default()).await.unwrap();
    assert_eq!(found.items.len(), 1);
    for (words, count) in [("about erased", 1), ("about bob", 0)] {
        let filter = MessageFilter { subject: Some(words.parse().unwrap()), ..MessageFilter::default() };
        let found = bed.store.list_messages(filter, PageRequest::default()).await.unwrap();
        assert_eq!(found.items.len(), count, "{words}");
    }
    // A second pass has nothing to do.
    assert_eq!(bed.store.apply_erasures(later(2)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_dry_run_counts_what_the_erasure_changes() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    bed.enqueue(tenant, &[BOB]).await;
    let mut notification = new_message(tenant, &[BOB], "bob+x@b.example was not reached");
    notification.message.kind = MessageKind::Report;
    bed.store.enqueue(notification).await.unwrap();
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    let sql = "UPDATE attempt SET text = 'accepted', transcript = 'RCPT TO:<bob+x@b.example>'";
    assert_eq!(database.execute(sql, []).unwrap(), 2);
    let new = erasure_of(Some(tenant), true);
    let would = bed.store.count_erasure(new.clone()).await.unwrap();
    assert_eq!((would.deliveries, would.messages, would.attempts, would.other), (2, 2, 2, 0), "{would:?}");
    bed.store.note_erasure(new.clone(), now()).await.unwrap();
    assert_eq!(bed.store.apply_erasures(later(1)).await.unwrap(), 1);
    assert_eq!(bed.store.erasure(new.id).await.unwrap().unwrap().counts, would);
}

#[tokio::test]
async fn the_counts_of_a_pass_that_failed_are_kept() {
    let (bed, tenant, database) = filled().await;
    let new = erasure_of(Some(tenant), false);
    let would = bed.store.count_erasure(new.clone()).await.unwrap();
    bed.store.note_erasure(new.clone(), now()).await.unwrap();
    let failing = "CREATE TRIGGER failing BEFORE UPDATE ON rejection BEGIN SELECT RAISE(ABORT, 'no'); END";
    database.execute_batch(failing).unwrap();
    assert!(bed.store.apply_erasures(later(1)).await.is_err());
    let begun = bed.store.erasure(new.id).await.unwrap().unwrap();
    assert_eq!((begun.applied_at, begun.counts.deliveries, begun.counts.rejections), (None, 2, 0));
    database.execute_batch("DROP TRIGGER failing").unwrap();
    assert_eq!(bed.store.apply_erasures(later(2)).await.unwrap(), 1);
    assert_eq!(bed.store.erasure(new.id).await.unwrap().unwrap().counts, would);
}

#[tokio::test]
async fn an_erasure_without_a_hit_leaves_the_search_index_as_it_is() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    for _ in 0..3 {
        bed.enqueue(tenant, &["carl@b.example"]).await;
        bed.store.index_messages().await.unwrap();
    }
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    let index = || -> String {
        let sql = "SELECT group_concat(id || ' ' || hex(block)) FROM message_search_data";
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let before = index();
    bed.store.note_erasure(erasure_of(None, false), now()).await.unwrap();
    assert_eq!(bed.store.apply_erasures(later(1)).await.unwrap(), 1);
    assert_eq!(index(), before);
}

#[tokio::test]
async fn a_complete_erasure_is_kept_for_two_years() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    bed.enqueue(tenant, &[BOB]).await;
    let open = erasure_of(Some(tenant), true);
    let complete = NewErasure { folded: "carl@b.example".into(), ..erasure_of(Some(tenant), true) };
    for new in [&open, &complete] {
        bed.store.note_erasure(new.clone(), now()).await.unwrap();
    }
    assert_eq!(bed.store.apply_erasures(later(3600)).await.unwrap(), 1);
    let prune = async |days: i64| bed.store.prune(KEEP, later(days * 24 * 3600), 100).await.unwrap();
    assert_eq!(prune(730).await.erasures, 0, "it was complete an hour after the request");
    assert_eq!(prune(731).await.erasures, 1);
    let left = bed.store.list_erasures(PageRequest::default()).await.unwrap().items;
    assert_eq!(left.iter().map(|erasure| erasure.id).collect::<Vec<_>>(), [open.id]);
}

#[tokio::test]
async fn words_of_an_erased_message_are_in_no_file_and_not_in_the_search_index() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut new = new_message(tenant, &[BOB], "quaggabody");
    new.message.subject = Some("zebrasubject".into());
    bed.store.enqueue(new).await.unwrap();
    // With few others, SQLite would rewrite the index by itself.
    for _ in 0..60 {
        bed.enqueue(tenant, &["carl@b.example"]).await;
    }
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    while bed.store.index_messages().await.unwrap() {}
    bed.store.checkpoint().await.unwrap();
    let words = ["quaggabody", "zebrasubject"];
    let before = words_left(&bed, &words);
    assert!(before.contains(&("the index".to_owned(), "zebrasubject")), "{before:?}");
    bed.store.note_erasure(erasure_of(Some(tenant), true), now()).await.unwrap();
    assert_eq!(bed.store.apply_erasures(later(1)).await.unwrap(), 1);
    bed.store.checkpoint().await.unwrap();
    assert_eq!(words_left(&bed, &words), []);
}

#[tokio::test]
async fn an_erasure_in_another_tenant_changes_nothing() {
    let (bed, _, database) = filled().await;
    let other = bed.tenant("b").await.id;
    let before = places_with(&database, &[BOB]);
    bed.store.note_erasure(erasure_of(Some(other), false), now()).await.unwrap();
    bed.store.apply_erasures(now()).await.unwrap();
    assert_eq!(places_with(&database, &[BOB]), before);
}

#[tokio::test]
async fn an_erasure_with_an_open_delivery_stays_incomplete_and_holds_a_release() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let open = bed.enqueue(tenant, &[BOB]).await.message.id;
    bed.store.suppress(new_suppression(Some(tenant), BOB), now()).await.unwrap();
    let new = erasure_of(None, true);
    bed.store.note_erasure(new.clone(), now()).await.unwrap();
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute("UPDATE suppression SET evidence = 'bob+x@b.example asked'", []).unwrap();
    let to_cancel = bed.store.deliveries_to_cancel().await.unwrap();
    assert_eq!(to_cancel.iter().map(|(message, ids)| (*message, ids.len())).collect::<Vec<_>>(), [(open, 1)]);
    assert_eq!(bed.store.apply_erasures(later(1)).await.unwrap(), 0);
    let release = || bed.store.release_restored(QueueFilter::default(), ReleaseMode::Send, later(1));
    let pending = release().await;
    assert!(matches!(pending, Err(StoreError::Conflict(Conflict::ErasurePending))), "{pending:?}");
    let (message, ids) = to_cancel.into_iter().next().unwrap();
    bed.store.cancel(message, ids, later(2)).await.unwrap();
    assert_eq!(bed.store.apply_erasures(later(3)).await.unwrap(), 1);
    assert_eq!(release().await.unwrap(), 0);
    let done = bed.store.erasure(new.id).await.unwrap().unwrap();
    assert_eq!((done.counts.deliveries, done.counts.cancelled, done.counts.suppressions), (1, 1, 0));
    assert_eq!(places_with(&database, &[BOB]), ["suppression.address"]);
}

#[tokio::test]
async fn an_erasure_holds_only_releases_of_its_tenant_and_does_not_wait_for_later_mail() {
    let bed = Bed::new().await;
    let (tenant, other) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let open = bed.enqueue(tenant, &[BOB]).await;
    bed.store.note_erasure(erasure_of(Some(tenant), true), now()).await.unwrap();
    let later_mail = bed.enqueue(tenant, &[BOB]).await;
    assert_eq!(bed.store.apply_erasures(later(1)).await.unwrap(), 0);
    let release = |part| bed.store.release_restored(part, ReleaseMode::Send, later(1));
    for part in [QueueFilter::default(), QueueFilter::tenant(tenant)] {
        let pending = release(part).await;
        assert!(matches!(pending, Err(StoreError::Conflict(Conflict::ErasurePending))), "{pending:?}");
    }
    assert_eq!(release(QueueFilter::tenant(other)).await.unwrap(), 0);
    let ids = open.recipients.iter().map(|(id, _)| *id).collect();
    bed.store.cancel(open.message.id, ids, later(2)).await.unwrap();
    assert_eq!(bed.store.apply_erasures(later(3)).await.unwrap(), 1);
    let left = bed.store.deliveries(later_mail.message.id).await.unwrap();
    assert_eq!(left[0].recipient, address(BOB), "it is open, and came after the request");
}
