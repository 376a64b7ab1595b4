//! What is left of a removed tenant.

use super::*;
use crate::model::UsageGroup;
use crate::store::{BundlePart, BundleRequest, Bundles, ImportOptions, UsageFilter};

/// Tables with this column, and how many of their rows have this value in it.
fn rows_with(connection: &rusqlite::Connection, column: &str, value: &str) -> Vec<(String, u32)> {
    let sql = "SELECT m.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c
               WHERE m.type = 'table' AND c.name = ?1 ORDER BY m.name";
    let mut tables = connection.prepare(sql).unwrap();
    let tables = tables.query_map([column], |row| row.get::<_, String>(0)).unwrap();
    let count = |table: String| {
        let sql = format!("SELECT count(*) FROM {table} WHERE {column} = ?1");
        let rows = connection.query_row(&sql, [value], |row| row.get(0)).unwrap();
        (table, rows)
    };
    tables.map(|table| count(table.unwrap())).collect()
}

#[tokio::test]
async fn a_removed_tenant_leaves_no_row_in_any_table() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let domain = new_domain(Some(tenant), "a.example", Verification::Manual);
    let domain = bed.store.create_domain(domain, now()).await.unwrap().id.to_string();
    let key = new_key(Some(tenant), &KeySecret::generate(Environment::Live));
    let key = bed.store.create_key(key, now()).await.unwrap().id;
    let response = IdempotentResponse { digest: [0; 32], status: 200, body: b"{}".to_vec().into() };
    bed.store.store_idempotent_response(key, "n", response, now()).await.unwrap();
    for owner in [Some(tenant), None] {
        bed.store.create_webhook(new_webhook(owner), now()).await.unwrap();
    }
    bed.store.suppress(new_suppression(Some(tenant), "no@one.example"), now()).await.unwrap();
    bed.store.create_template(new_template(tenant, "hello"), now()).await.unwrap();
    let large = new_message(tenant, &["x@one.example"], &"large ".repeat(2000));
    bed.store.enqueue(large.clone()).await.unwrap();
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    bed.store.index_messages().await.unwrap();
    let id = tenant.to_string();
    let message = large.message.id.to_string();
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    let notes = "INSERT INTO submission_key VALUES (?1, 'live', 'n', x'00', ?2, 0)";
    database.execute(notes, [&id, &message]).unwrap();
    database.execute("INSERT INTO pause VALUES (?1, '', NULL, 0, 0)", [&id]).unwrap();
    database.execute("INSERT INTO ended_pause VALUES (?1, '', 0, 1)", [&id]).unwrap();
    let refusal =
        "INSERT INTO rejection VALUES ('req_1', ?1, NULL, 'mail', 'internal_error', '', NULL, 0, 'live')";
    database.execute(refusal, [&id]).unwrap();
    let warning = "INSERT INTO limit_warning VALUES (?1, 'live', 'day', 'send_limit.exceeded', 0)";
    database.execute(warning, [&id]).unwrap();
    database.execute("INSERT INTO brake VALUES (?1, 0)", [&id]).unwrap();
    let inbox =
        "INSERT INTO inbox VALUES ('inb_1', ?1, 'i@one.example', 'i@one.example', NULL, NULL, 0, NULL, 0)";
    database.execute(inbox, [&id]).unwrap();
    database.execute("INSERT INTO trial_usage VALUES (?1, 0, 0, 0)", [&id]).unwrap();
    let sign_in = "INSERT INTO sign_in VALUES (x'01', x'02', ?1, NULL, NULL, 0, 0, 9, 9, NULL, NULL)";
    database.execute(sign_in, [&id]).unwrap();
    let report = "INSERT INTO report (id, tenant_id, message_id, kind, rule, effect, reporter, digest, times, created_us, last_us)
                  VALUES ('rpt_1', ?1, ?2, 'other', 'other', 'none', '{}', x'00', 1, 0, 0)";
    database.execute(report, [&id, &message]).unwrap();
    database.execute("INSERT INTO report_count VALUES ('dlv_1', ?1, 0, 1, 1)", [&message]).unwrap();
    database.execute("UPDATE suppression SET message_id = ?1", [&message]).unwrap();
    let change = "INSERT INTO audit (id, tenant_id, number, actor, by_platform, operation, created_us)
                  VALUES ('aud_1', ?1, 1, 'key', 0, 'update_tenant', 0)";
    database.execute(change, [&id]).unwrap();
    let erasure = "INSERT INTO erasure (id, tenant_id, digest, keeps_suppression, created_us, applied_us)
                   VALUES ('ers_1', ?1, x'00', 1, 0, 0)";
    database.execute(erasure, [&id]).unwrap();
    let seen = || {
        let of_tenant = rows_with(&database, "tenant_id", &id);
        let of_message = rows_with(&database, "message_id", &message);
        let of_key = rows_with(&database, "key_id", &key.to_string());
        let of_key = of_key.into_iter().filter(|(table, _)| table == "idempotent_response").collect();
        [of_tenant, of_message, of_key, rows_with(&database, "domain_id", &domain)].concat()
    };
    // What the index keeps of a message has no column that tells whose it is; the first ten blocks are its own.
    let searched = || {
        ["message_search", "search_place", "message_search_data WHERE id > 10"].map(|rows| {
            let sql = format!("SELECT count(*) FROM {rows}");
            database.query_row(&sql, [], |row| row.get::<_, u32>(0)).unwrap()
        })
    };
    assert!(searched().iter().all(|count| *count > 0));
    for (table, rows) in seen() {
        assert!(rows > 0, "this test has to put a row of the tenant into {table}");
    }
    bed.store.remove_tenant(tenant, now()).await.unwrap().unwrap();
    // The audit log, erasures for a restore, the event of the deletion, its copy for the webhook of the platform, and the days for the last bill.
    let left: Vec<_> = seen().into_iter().filter(|(_, rows)| *rows > 0).collect();
    let stays = ["audit", "erasure", "event", "usage", "usage_part", "webhook_delivery"];
    assert_eq!(left, stays.map(|table| (table.to_owned(), 1)));
    let of_tenant = EventFilter { tenant_id: Some(tenant), ..EventFilter::default() };
    let stays = bed.store.list_events(of_tenant, PageRequest::default()).await.unwrap().items;
    let stays: Vec<_> = stays.iter().map(|event| event.kind).collect();
    assert_eq!(stays, [EventKind::TenantDeleted]);
    let policy = RetentionPolicy { body_days: 1, transcript_days: 1, row_days: 1, webhook_days: 1, ..KEEP };
    bed.store.prune(policy, later(92 * 24 * 3600), 100).await.unwrap();
    // The audit log is kept longer. The webhook of the platform is enabled, so what waits for it stays.
    let left: Vec<_> = seen().into_iter().filter(|(_, rows)| *rows > 0).collect();
    assert_eq!(left, ["audit", "erasure", "webhook_delivery"].map(|table| (table.to_owned(), 1)));
    assert_eq!(searched(), [0; 3]);
    assert_eq!(files_below(&bed.path().join("bodies")), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn the_usage_of_a_removed_tenant_that_is_imported_again_is_listed_once() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    bed.enqueue(tenant, &["x@one.example"]).await;
    let part = BundlePart::Tenant;
    let request = BundleRequest { tenant_id: tenant, part, after: None, has_secrets: false };
    let objects = bed.store.bundle_page(request).await.unwrap().items;
    bed.store.remove_tenant(tenant, now()).await.unwrap().unwrap();
    let listed = async || {
        let filter = UsageFilter {
            tenant_id: None,
            from: Timestamp::UNIX_EPOCH,
            to: later(365 * 24 * 3600),
            environment: Environment::Live,
            only: None,
            group: UsageGroup::Tenant,
            after: None,
            limit: 100,
        };
        let sums = bed.store.usage_sums(filter).await.unwrap().items.into_iter();
        sums.map(|sum| (sum.tenant_id, sum.is_deleted, sum.counts.sent)).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [(tenant, true, 1)]);
    let dry_run = ImportOptions { dry_run: true, ..ImportOptions::default() };
    bed.store.import_bundle(objects.clone(), dry_run, now()).await.unwrap();
    assert_eq!(listed().await, [(tenant, true, 1)]);
    bed.store.import_bundle(objects, ImportOptions::default(), now()).await.unwrap();
    assert_eq!(listed().await, [(tenant, false, 1)]);
}

/// The words that occur in a file, or in the search index, which shortens words that begin alike.
pub(super) fn words_left(bed: &Bed, words: &[&'static str]) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for path in files_below(bed.path()) {
        let octets = std::fs::read(&path).unwrap();
        let left = words.iter().filter(|word| contains(&octets, word.as_bytes()));
        found.extend(left.map(|word| (path.file_name().unwrap().to_string_lossy().into_owned(), *word)));
    }
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    let terms = "CREATE VIRTUAL TABLE temp.terms USING fts5vocab (main, message_search, row)";
    database.execute_batch(terms).unwrap();
    let mut terms = database.prepare("SELECT 1 FROM temp.terms WHERE term = ?1").unwrap();
    let left = words.iter().filter(|word| terms.exists([word]).unwrap());
    found.extend(left.map(|word| ("the index".to_owned(), *word)));
    found
}

#[tokio::test]
async fn no_text_of_a_removed_tenant_stays_in_any_file() {
    let bed = Bed::new().await;
    let (tenant, other) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let words = ["zebrasubject", "quaggabody", "okapirecipient", "tapirtag", "ibexevidence", "gnutemplate"];
    bed.store.create_webhook(new_webhook(None), now()).await.unwrap();
    let filler = "filler ".repeat(100);
    for number in 0..200 {
        let owner = if number % 2 == 0 { tenant } else { other };
        let large = if number % 50 == 0 { "large ".repeat(2000) } else { String::new() };
        let (recipient, body) = match owner == tenant {
            true => ("okapirecipient@one.example", format!("quaggabody {filler}{large}")),
            false => ("x@one.example", filler.clone()),
        };
        let mut new = new_message(owner, &[recipient], &body);
        if owner == tenant {
            new.message.subject = Some(format!("zebrasubject {number}"));
            new.message.annotations.tags.push("tapirtag".into());
        }
        bed.store.enqueue(new).await.unwrap();
        if number % 20 == 0 {
            bed.store.index_messages().await.unwrap();
        }
    }
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    while bed.store.index_messages().await.unwrap() {}
    let mut suppression = new_suppression(Some(tenant), "no@one.example");
    suppression.evidence = Some("ibexevidence".into());
    bed.store.suppress(suppression, now()).await.unwrap();
    let mut template = new_template(tenant, "hello");
    template.text = Some(format!("gnutemplate {}", "filler ".repeat(3000)));
    bed.store.create_template(template, now()).await.unwrap();
    bed.store.checkpoint().await.unwrap();
    let left: std::collections::BTreeSet<_> =
        words_left(&bed, &words).into_iter().map(|(_, word)| word).collect();
    assert_eq!(left, words.into_iter().collect());
    bed.store.remove_tenant(tenant, now()).await.unwrap().unwrap();
    // What maintenance does every minute.
    bed.store.checkpoint().await.unwrap();
    assert_eq!(words_left(&bed, &words), []);
    let filter = MessageFilter { to: Some(address("x@one.example")), ..Default::default() };
    let found = bed.store.list_messages(filter, PageRequest::default()).await.unwrap();
    assert!(!found.items.is_empty());
}

#[tokio::test]
async fn a_tenant_with_much_goes_in_steps_and_is_suspended_while_it_goes() {
    let bed = Bed::new().await;
    let (tenant, other) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let recipients: Vec<_> = (0..700).map(|number| format!("u{number}@one.example")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    for _ in 0..5 {
        bed.enqueue(tenant, &recipients).await;
    }
    bed.enqueue(other, &["x@one.example"]).await;
    let before = bed.store.count_tenant_objects(tenant).await.unwrap().unwrap();
    assert!(bed.engine().begin_removal(tenant, now()).await.unwrap());
    let step = bed.engine().continue_removal(tenant).await.unwrap();
    assert!(!step.is_last && (1..5).contains(&step.counts.messages), "{:?}", step.counts);
    // As after a crash in between.
    let bed = bed.restart().await;
    let left = bed.store.tenant(tenant).await.unwrap().unwrap();
    assert_eq!(left.status, TenantStatus::Suspended);
    let claimed = bed.claim(later(0)).await.batches;
    assert!(claimed.iter().all(|batch| batch.message.tenant_id == other) && claimed.len() == 1);
    let mut counts = bed.store.remove_tenant(tenant, now()).await.unwrap().unwrap();
    counts += step.counts;
    assert_eq!(counts, before);
    assert_eq!(bed.store.remove_tenant(tenant, now()).await.unwrap(), None);
}
