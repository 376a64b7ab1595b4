//! Copies between SQLite and PostgreSQL, of a store that has a row in every table.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use super::tables::NOT_COPIED;
use super::*;
use crate::model::{DeliveryState, Environment, KeySecret, Verification};
use crate::store::contract::postgres::PostgresHarness;
use crate::store::contract::{
    Harness, TestBed, later, new_domain, new_key, new_message, new_suppression, new_template, new_tenant,
    new_webhook, now, outcomes,
};
use crate::store::database::{self, PostgresConnection, PostgresServer, SessionRole};
use crate::store::sql::sqlite::open::DATABASE_FILE;
use crate::store::sql::tests::{SqliteHarness, options};
use crate::store::{
    Directory, IdempotentResponse, Journal, MessageFilter, Outbox, PageRequest, PostgresOptions, Spool, Store,
};

/// Rows of tables that the traits do not fill here. `$t`, `$m`, `$d`, `$w` and `$k` are the ids of the tenant, a message, a
/// delivery, a webhook and a key.
const ROWS: &[&str] = &[
    "INSERT INTO submission_key VALUES ('$t', 'live', 'n', x'00ff', '$m', 0)",
    "INSERT INTO pause VALUES ('$t', '', NULL, 0, 9)",
    "INSERT INTO ended_pause VALUES ('$t', 'b.example', 0, 1)",
    "INSERT INTO rejection VALUES ('req_1', '$t', NULL, 'mail', 'internal_error', 'a' || char(0) || 'ü', NULL, 0, 'live')",
    "INSERT INTO limit_warning VALUES ('$t', 'live', 'day', 'send_limit.exceeded', 0)",
    "INSERT INTO brake VALUES ('$t', 0)",
    "INSERT INTO inbox VALUES ('inb_1', '$t', 'i@one.example', 'i@one.example', NULL, NULL, 0, NULL, 0)",
    "INSERT INTO trial_usage VALUES ('$t', 0, 0, 0)",
    "INSERT INTO sign_in VALUES (x'01', x'02', '$t', '[]', '/ui/', 0, 0, 9, 9, 'dark', 'Saved.')",
    "INSERT INTO report (id, tenant_id, message_id, kind, rule, effect, reporter, digest, times, created_us, last_us)
        VALUES ('rpt_1', '$t', '$m', 'other', 'other', 'none', '{}', x'00', 1, 0, 0)",
    "INSERT INTO report (id, kind, rule, effect, reporter, digest, times, created_us, last_us)
        VALUES ('rpt_2', 'other', 'other', 'none', '{}', x'01', 1, 0, 0)",
    "INSERT INTO report_raw VALUES ('rpt_1', x'00')",
    "INSERT INTO report_count VALUES ('$d', '$m', 0, 1, 1)",
    "INSERT INTO audit (id, tenant_id, number, actor, by_platform, operation, created_us)
        VALUES ('aud_1', '$t', 1, 'key', 0, 'update_tenant', 0), ('aud_2', NULL, 1, 'key', 1, 'update_tenant', -5)",
    "INSERT INTO erasure (id, tenant_id, digest, keeps_suppression, created_us, applied_us)
        VALUES ('ers_1', '$t', x'00', 1, 0, 0)",
    "INSERT INTO acme_account VALUES ('https://ca.example/', 'https://ca.example/1', x'00', 0)",
    "INSERT INTO deleted_tenant VALUES ('tnt_0', 'gone', 'gone', NULL)",
    "INSERT INTO default_tenant_ensured VALUES (7)",
    "INSERT INTO key_secret VALUES (x'ff', '$k', NULL, 9)",
    "INSERT INTO webhook_secret (id, webhook_id, secret, expires_us) VALUES (41, '$w', x'00', 9)",
    "INSERT INTO suspicious_site VALUES ('mx.example', 9)",
    "INSERT INTO sts_policy VALUES ('b.example', '1', 'version: STSv1', 0, 9)",
    "INSERT INTO tls_result VALUES ('2026-01-01', 'b.example', 'sts', '', '', 3)",
    "INSERT INTO transcript_removal VALUES (1, 'att_0')",
    "INSERT INTO restoration VALUES (1, 0, 0, 1)",
    "INSERT INTO usage_part (tenant_id, start_us, environment, key_id, domain, sent, delivered, bounced, complained,
        suppressed, rejected, api_requests) VALUES ('tnt_0', 0, 'live', '', '', 1, 1, 0, 0, 0, 0, 0)",
];

/// A data directory with a row in every table that is copied.
async fn filled() -> TempDir {
    let bed = TestBed::<SqliteHarness>::new().await;
    let tenant = bed.tenant("a").await.id;
    let domain = new_domain(Some(tenant), "a.example", Verification::Manual);
    bed.store.create_domain(domain, now()).await.unwrap();
    let key = new_key(Some(tenant), &KeySecret::generate(Environment::Live));
    let key = bed.store.create_key(key, now()).await.unwrap().id;
    let response = IdempotentResponse { digest: [0; 32], status: 200, body: b"{}".to_vec().into() };
    bed.store.store_idempotent_response(key, "n", response, now()).await.unwrap();
    let webhook = bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    for address in ["no@one.example", "nobody@one.example"] {
        bed.store.suppress(new_suppression(Some(tenant), address), now()).await.unwrap();
    }
    bed.store.create_template(new_template(tenant, "hello"), now()).await.unwrap();
    let message = new_message(tenant, &["x@one.example", "y@two.example"], "small");
    bed.store.enqueue(message.clone()).await.unwrap();
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    // In a file; the second one in pieces on PostgreSQL.
    for words in [2_000, 60_000] {
        bed.store.enqueue(new_message(tenant, &["z@one.example"], &"large ".repeat(words))).await.unwrap();
    }
    bed.store.enqueue(new_message(tenant, &["z@one.example"], &"waits ".repeat(10))).await.unwrap();
    bed.store.index_messages().await.unwrap();
    let delivery = batches[0].deliveries[0].id;
    bed.store.close().await;
    let dir = bed.harness.into_dir();
    let connection = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    for sql in ROWS {
        let ids = [
            ("$t", tenant.to_string()),
            ("$m", message.message.id.to_string()),
            ("$d", delivery.to_string()),
            ("$w", webhook.to_string()),
            ("$k", key.to_string()),
        ];
        let sql = ids.iter().fold((*sql).to_owned(), |sql, (name, id)| sql.replace(name, id));
        assert!(connection.execute(&sql, []).unwrap() > 0, "{sql}");
    }
    dir
}

fn dir_options(dir: &Path) -> StoreOptions {
    options(dir).into()
}

fn copy_options(from: impl Into<StoreOptions>, to: impl Into<StoreOptions>) -> CopyOptions {
    CopyOptions { from: from.into(), to: to.into(), master_keys: Vec::new(), keeps_source: false }
}

/// Copies on a thread that may block.
async fn copy(options: CopyOptions) -> Result<CopiedStore> {
    copy_until(options, usize::MAX).await
}

/// Copies until so many pages are reported.
async fn copy_until(options: CopyOptions, pages: usize) -> Result<CopiedStore> {
    let run = move || {
        let mut reported = 0;
        copy_store(&options, &mut |_| {
            reported += 1;
            if reported < pages { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// The database of a data directory, and of another one under the name `other`.
fn attached(dir: &Path, other: &Path) -> Connection {
    let connection = Connection::open(dir.join(DATABASE_FILE)).unwrap();
    let other = other.join(DATABASE_FILE);
    connection.execute("ATTACH ?1 AS other", [other.to_str().unwrap()]).unwrap();
    connection
}

fn copied_tables(connection: &Connection) -> Vec<String> {
    let sql =
        "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    let mut statement = connection.prepare(sql).unwrap();
    let names = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    names.map(std::result::Result::unwrap).filter(|name| !NOT_COPIED.contains(&name.as_str())).collect()
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Fails unless the condition is true in the database.
async fn require(postgres: &PostgresHarness, condition: &str) {
    postgres.execute(&format!("SELECT 1 / CASE WHEN {condition} THEN 1 ELSE 0 END")).await;
}

/// The engines take keys and secrets as they are, so the copy needs the same master key.
fn copy_master_key(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(from.join("master.key"), to.join("master.key")).unwrap();
}

#[tokio::test]
async fn a_store_is_the_same_after_a_copy_to_postgresql_and_back() {
    if !PostgresHarness::is_available() {
        return;
    }
    let (source, postgres, back) =
        (filled().await, PostgresHarness::new().await, tempfile::tempdir().unwrap());
    let copied = copy(copy_options(dir_options(source.path()), postgres.options())).await.unwrap();
    assert!(copied.master_key.is_some() && copied.missing_bodies.is_empty());
    assert!(copied.tables.iter().all(|(_, rows)| *rows > 0), "fill each table: {:?}", copied.tables);

    require(
        &postgres,
        "(SELECT array_agg(id ORDER BY transaction_id, number) = array_agg(id ORDER BY id) FROM event)",
    )
    .await;

    // A server goes on with it.
    copy_master_key(source.path(), postgres.dir.path());
    let store = postgres.open(0).await;
    require(&postgres, "(SELECT count(*) FROM body_piece) = 2").await;
    store.index_messages().await.unwrap();
    require(&postgres, "(SELECT count(*) FROM message_search) = (SELECT count(*) FROM message)").await;
    assert_eq!(store.count_open().await.unwrap(), 3);
    let page = PageRequest { limit: 100, ..PageRequest::default() };
    let messages = store.list_messages(MessageFilter::default(), page.clone()).await.unwrap();
    for message in &messages.items {
        let content =
            store.content(message.message.id, now()).await.unwrap().expect("the message has a body");
        assert!(!content.is_empty());
    }
    let tenant = store.tenant_by_slug("a").await.unwrap().unwrap();
    store.create_webhook(new_webhook(Some(tenant.id)), now()).await.unwrap();
    store.close().await;
    drop(store);
    let moved = Store::open(options(source.path())).await.err().unwrap();
    assert!(matches!(moved, OpenError::Moved { .. }), "{moved}");

    let mut back_options = copy_options(postgres.options(), dir_options(back.path()));
    back_options.keeps_source = true;
    copy_master_key(source.path(), back.path());
    copy(back_options).await.unwrap();
    postgres.open(0).await.close().await;
    let both = attached(source.path(), back.path());
    for table in copied_tables(&both) {
        // What the server on PostgreSQL has added, and a text with NUL, which PostgreSQL does not store.
        if ["webhook", "event", "usage", "usage_part", "rejection"].contains(&table.as_str()) {
            continue;
        }
        for (one, other) in [("main", "other"), ("other", "main")] {
            let sql = format!(
                "SELECT count(*) FROM (SELECT * FROM {one}.{table} EXCEPT SELECT * FROM {other}.{table})"
            );
            assert_eq!(number(&both, &sql), 0, "{table}");
        }
    }
    for sum in [
        "sum(suppressions) FROM $suppression_count",
        "sum(deliveries) + sum(octets) FROM $webhook_backlog",
        "sum(reports) FROM $unattributed_report_count",
    ] {
        let of = |place: &str| number(&both, &format!("SELECT {}", sum.replace('$', place)));
        assert_eq!(of("main."), of("other."), "{sum}");
    }
    let store = Store::open(options(back.path())).await.unwrap();
    assert_eq!(store.count_open().await.unwrap(), 3);
    let again = store.list_messages(MessageFilter::default(), page).await.unwrap();
    assert_eq!(again.items.len(), messages.items.len());
    for message in &again.items {
        assert!(store.content(message.message.id, now()).await.unwrap().is_some());
    }
    store.close().await;
}

#[tokio::test]
async fn an_interrupted_copy_cannot_be_opened_and_goes_on() {
    if !PostgresHarness::is_available() {
        return;
    }
    let (source, postgres) = (filled().await, PostgresHarness::new().await);
    let options_of_copy = || copy_options(dir_options(source.path()), postgres.options());
    for pages in [1, 5, 20] {
        let ended = copy_until(options_of_copy(), pages).await;
        assert!(matches!(ended, Err(StoreCopyError::Interrupted)), "{ended:?}");
        let refused = Store::open(postgres.options()).await.err().unwrap();
        assert!(matches!(refused, OpenError::Incomplete { .. }), "{refused}");
    }
    let other = filled().await;
    let ended = copy(copy_options(dir_options(other.path()), postgres.options())).await;
    assert!(matches!(ended, Err(StoreCopyError::OtherCopy { .. })), "{ended:?}");
    copy(options_of_copy()).await.unwrap();
    copy_master_key(source.path(), postgres.dir.path());
    postgres.open(0).await.close().await;
    let ended = copy(copy_options(dir_options(other.path()), postgres.options())).await;
    assert!(matches!(ended, Err(StoreCopyError::NotEmpty(_))), "{ended:?}");
}

#[tokio::test]
async fn a_row_that_differs_is_found() {
    if !PostgresHarness::is_available() {
        return;
    }
    let (source, postgres) = (filled().await, PostgresHarness::new().await);
    let options = copy_options(dir_options(source.path()), postgres.options());
    // All tables are copied, and none is compared yet.
    let run = {
        let options = options.clone();
        move || {
            copy_store(&options, &mut |progress| match progress.step {
                CopyStep::Copy => ControlFlow::Continue(()),
                CopyStep::Compare => ControlFlow::Break(()),
            })
        }
    };
    let ended = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(matches!(ended, Err(StoreCopyError::Interrupted)), "{ended:?}");
    postgres.execute("UPDATE body SET submitted = overlay(submitted PLACING 'x'::bytea FROM 2)").await;
    postgres.execute("UPDATE audit SET operation = 'update_tenanu' WHERE id = 'aud_1'").await;
    let ended = copy(options).await;
    let Err(StoreCopyError::Differs(tables)) = &ended else { panic!("{ended:?}") };
    assert_eq!(tables, &["audit", "body"]);
    // The source stays usable.
    Store::open(crate::store::sql::tests::options(source.path())).await.unwrap().close().await;
}

#[tokio::test]
async fn a_lost_body_stays_lost() {
    let (source, target) = (filled().await, tempfile::tempdir().unwrap());
    std::fs::remove_dir_all(source.path().join("bodies")).unwrap();
    let copied = copy(copy_options(dir_options(source.path()), dir_options(target.path()))).await.unwrap();
    assert_eq!(copied.missing_bodies.len(), 2);
    copy_master_key(source.path(), target.path());
    let store = Store::open(options(target.path())).await.unwrap();
    let id = copied.missing_bodies[0].parse().unwrap();
    let refused = store.content(id, now()).await.err().unwrap();
    assert!(matches!(refused, crate::store::StoreError::Damaged { .. }), "{refused}");
    store.close().await;
}

#[tokio::test]
async fn a_store_that_is_used_or_has_another_key_is_not_copied() {
    let (source, target) = (filled().await, tempfile::tempdir().unwrap());
    let options_of_copy = || copy_options(dir_options(source.path()), dir_options(target.path()));
    let store = Store::open(options(source.path())).await.unwrap();
    let refused = copy(options_of_copy()).await.err().unwrap();
    assert!(matches!(refused, StoreCopyError::Open(OpenError::InUse(_))), "{refused}");
    store.close().await;
    let file = target.path().join("other.key");
    std::fs::write(&file, format!("{}\n", "a".repeat(64))).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let with_key = CopyOptions { master_keys: vec![file], ..options_of_copy() };
    let refused = copy(with_key).await.err().unwrap();
    assert!(matches!(refused, StoreCopyError::OtherKey { .. }), "{refused}");
    let refused =
        copy(copy_options(dir_options(source.path()), dir_options(source.path()))).await.err().unwrap();
    assert!(
        matches!(refused, StoreCopyError::Open(OpenError::InUse(_)) | StoreCopyError::NotEmpty(_)),
        "{refused}"
    );
    let absent =
        copy(copy_options(dir_options(&target.path().join("absent")), dir_options(target.path()))).await;
    assert!(matches!(absent, Err(StoreCopyError::Open(OpenError::Absent(_)))), "{absent:?}");
}

#[tokio::test]
async fn a_database_in_use_is_not_copied() {
    if !PostgresHarness::is_available() {
        return;
    }
    let (postgres, target) = (PostgresHarness::new().await, tempfile::tempdir().unwrap());
    let empty = copy(copy_options(postgres.options(), dir_options(target.path()))).await.err().unwrap();
    assert!(empty.to_string().contains("no tables of Pillarbox"), "{empty}");
    let serving = postgres.open(0).await;
    let target = tempfile::tempdir().unwrap();
    let options_of_copy = || copy_options(postgres.options(), dir_options(target.path()));
    let refused = copy(options_of_copy()).await.err().unwrap();
    assert!(matches!(refused, StoreCopyError::InUse { .. }), "{refused}");
    serving.close().await;
    drop(serving);
    copy(options_of_copy()).await.unwrap();
}

#[tokio::test]
async fn a_body_that_postgresql_has_in_pieces_is_copied() {
    if !PostgresHarness::is_available() {
        return;
    }
    let (postgres, dir) = (PostgresHarness::new().await, tempfile::tempdir().unwrap());
    let store = postgres.open(0).await;
    let tenant = store.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    let new = new_message(tenant, &["x@one.example"], &"large ".repeat(100_000));
    let id = store.enqueue(new.clone()).await.unwrap();
    store.close().await;
    drop(store);
    require(&postgres, "(SELECT count(*) FROM body_piece) > 1").await;
    copy(copy_options(postgres.options(), dir_options(dir.path()))).await.unwrap();
    copy_master_key(postgres.dir.path(), dir.path());
    let store = Store::open(options(dir.path())).await.unwrap();
    assert_eq!(store.content(id, now()).await.unwrap(), Some(new.content));
}

#[tokio::test]
async fn a_server_that_starts_during_a_copy_does_not_open_the_moved_store() {
    if !PostgresHarness::is_available() {
        return;
    }
    let (postgres, target) = (PostgresHarness::new().await, tempfile::tempdir().unwrap());
    postgres.open(0).await.close().await;
    let options = copy_options(postgres.options(), dir_options(target.path()));
    let (server, serving) = (postgres.options(), tokio::runtime::Handle::current());
    let run = move || {
        let mut opening = None;
        let copied = copy_store(&options, &mut |_| {
            if opening.is_none() {
                opening = Some(serving.spawn(Store::open(server.clone())));
                wait_for_waiting_writer(&server);
            }
            ControlFlow::Continue(())
        });
        copied.map(|_| opening.unwrap())
    };
    let opening = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let refused = opening.await.unwrap().err().unwrap();
    assert!(matches!(refused, OpenError::Moved { .. }), "{refused}");
}

/// Blocks until a session waits for a writing one.
fn wait_for_waiting_writer(options: &PostgresOptions) {
    let server = Arc::new(PostgresServer::new(options.config.clone(), None));
    let connection = PostgresConnection::open(server, SessionRole::Reader).unwrap();
    let connection = database::Connection::Postgres(connection);
    let waiting = "SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted";
    let end = Instant::now() + Duration::from_secs(20);
    while !connection.prepare_cached(waiting).unwrap().exists([]).unwrap() {
        assert!(Instant::now() < end, "nobody waits");
        std::thread::sleep(Duration::from_millis(10));
    }
}
