//! What is SQLite's own: the files, the lock, the master key, the disk.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::mail::{ReversePath, Timestamp};
use crate::model::{
    DeliveryState, DkimKeyState, Environment, EventKind, KeySecret, MessageKind, RefusalCode, ReportId,
    ReportKind, RequestId, Stage, TenantId, TenantStatus, Verification,
};
use crate::store::contract::{
    Harness, SUPPRESSIONS_MAX, TestBed, address, ids, later, new_dkim_key, new_domain, new_key, new_message,
    new_report, new_suppression, new_template, new_tenant, new_webhook, now, outcomes, returned,
};
use crate::store::{
    Conflict, Consequence, Directory, EventFilter, IdempotentResponse, Journal, Ledger, MessageFilter,
    NewEvent, NewMessage, NewSmartHost, Outbox, PageRequest, Rejection, Reports, RetentionPolicy, Spool,
    Store, SubmissionKey,
};

/// A data directory of its own.
pub(crate) struct SqliteHarness {
    dir: TempDir,
}

impl Harness for SqliteHarness {
    async fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, hot_queue_bytes_max: u64) -> Store {
        Store::open(SqliteOptions { hot_queue_bytes_max, ..options(self.dir.path()) }).await.unwrap()
    }
}

pub(super) type Bed = TestBed<SqliteHarness>;

impl Bed {
    pub(super) fn with(change: impl FnOnce(&mut SqliteOptions)) -> Self {
        let harness = SqliteHarness { dir: tempfile::tempdir().unwrap() };
        let mut options = options(harness.dir.path());
        change(&mut options);
        Self::of(harness, open(options).unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.harness.dir.path()
    }

    pub(super) fn engine(&self) -> &SqliteStore {
        let Store::Sqlite(engine) = &*self.store;
        engine
    }
}

/// What [`Store::open`] does on a thread for blocking work.
pub(super) fn open(options: SqliteOptions) -> std::result::Result<Store, OpenError> {
    super::open::open(options).map(Store::Sqlite)
}

pub(super) fn options(dir: &Path) -> SqliteOptions {
    SqliteOptions { inline_body_bytes_max: 4096, bounds: BOUNDS, ..SqliteOptions::at(dir) }
}

/// Small enough to be reached.
const BOUNDS: Bounds = Bounds {
    slice_time: Duration::ZERO,
    slice_rows_min: 3,
    page_events_examined_max: 50,
    page_messages_examined_max: 20,
    few_candidates_max: 5,
    retention_rows_examined_max: 20,
    body_directories_examined_max: 8,
    webhook_pending_max: 20,
    webhook_octets_max: 40 * 1024,
    suppressions_max: SUPPRESSIONS_MAX,
    unattributed_reports_max: 3,
};

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}

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
async fn no_secret_stands_in_any_file_in_clear() {
    let bed = Bed::new().await;
    let mut new = new_tenant("a");
    let smart_host =
        serde_json::from_str(r#"{"host":"h.example","port":25,"user":null,"tls":"implicit"}"#).unwrap();
    let password = Some(Zeroizing::new("smart-host-password".to_owned()));
    new.smart_host = Some(NewSmartHost { smart_host, password });
    let tenant = bed.store.create_tenant(new, now()).await.unwrap().id;
    let domain = new_domain(Some(tenant), "example.com", Verification::Manual);
    let domain = bed.store.create_domain(domain, now()).await.unwrap().id;
    bed.store.add_dkim_key(domain, new_dkim_key("s2", DkimKeyState::Active), now()).await.unwrap();
    let secret = KeySecret::generate(Environment::Live);
    bed.store.create_key(new_key(Some(tenant), &secret), now()).await.unwrap();
    let seen = || -> Vec<u8> {
        files_below(bed.path()).iter().flat_map(|path| std::fs::read(path).unwrap()).collect()
    };
    for checkpoint in [false, true] {
        if checkpoint {
            bed.store.checkpoint().await.unwrap();
        }
        let octets = seen();
        assert!(contains(&octets, b"example.com"), "the search works");
        for part in ["smart-host-password", "private half", &secret.expose()[8..]] {
            assert!(!contains(&octets, part.as_bytes()), "{part}");
        }
    }
}

#[tokio::test]
async fn everything_in_the_data_directory_is_the_owners_alone() {
    let parent = tempfile::tempdir().unwrap();
    let data_dir = parent.path().join("deep/data");
    let store = open(SqliteOptions { inline_body_bytes_max: 0, ..options(&data_dir) }).unwrap();
    let tenant = store.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    store.enqueue(new_message(tenant, &["x@one.example"], "body")).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data_dir), 0o700);
    let files = files_below(&data_dir);
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{file:?}");
    }
}

#[tokio::test]
async fn a_data_directory_is_served_by_one_process_and_managed_beside_it() {
    let bed = Bed::new().await;
    let second = open(options(bed.path()));
    assert!(matches!(second, Err(OpenError::InUse(path)) if path == bed.path()));
    let manager = open(SqliteOptions { access: Access::Manage, ..options(bed.path()) }).unwrap();
    let tenant = manager.create_tenant(new_tenant("a"), now()).await.unwrap();
    assert_eq!(bed.store.tenant(tenant.id).await.unwrap().unwrap().slug, "a");
    assert!(manager.enqueue(new_message(tenant.id, &["x@one.example"], "body")).await.is_err());
    manager.close().await;
    bed.store.close().await;
    assert!(matches!(bed.store.tenant(tenant.id).await, Err(StoreError::Closed)));
    assert!(matches!(bed.store.probe().await, Err(StoreError::Closed)));
    let next = open(options(bed.path())).unwrap();
    assert!(next.tenant(tenant.id).await.unwrap().is_some());
}

#[test]
fn the_server_removes_what_a_crash_left_unfinished_in_the_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let unfinished = dir.path().join(".new-0123456789abcdef-tls.key");
    let file = File::create(&unfinished).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    let access = Access::Initialize;
    drop(open(SqliteOptions { access, ..options(dir.path()) }).unwrap());
    assert!(unfinished.exists(), "a server may be running");
    drop(open(options(dir.path())).unwrap());
    assert!(!unfinished.exists());
}

#[test]
fn only_the_server_and_the_first_key_make_a_data_directory_and_not_without_the_key_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("a/b");
    let at = |access, master_key_file| {
        open(SqliteOptions { access, master_key_file, ..options(&absent) }).map(drop)
    };
    let error = at(Access::Manage, None).unwrap_err();
    assert!(matches!(&error, OpenError::Absent(path) if *path == absent), "{error}");
    let named = dir.path().join("named.key");
    for access in [Access::Serve, Access::Initialize] {
        let error = at(access, Some(named.clone())).unwrap_err().to_string();
        assert!(error.contains("named.key") && error.contains("make it with"), "{error}");
    }
    assert!(!dir.path().join("a").exists());
    at(Access::Initialize, None).unwrap();
    at(Access::Manage, None).unwrap();
    // The master key is elsewhere, or lost: a new one would be the end of the secrets.
    let kept = dir.path().join("kept.key");
    std::fs::rename(absent.join("master.key"), &kept).unwrap();
    for access in [Access::Serve, Access::Manage, Access::Initialize] {
        for key in [None, Some(named.clone())] {
            let error = at(access, key).unwrap_err().to_string();
            assert!(error.contains("restore it") && !error.contains("make it"), "{error}");
        }
    }
    let error = check_master_key(Some(&named), &absent).unwrap_err().to_string();
    assert!(error.contains("restore it") && !error.contains("make it"), "{error}");
    std::fs::rename(&kept, absent.join("master.key")).unwrap();
    at(Access::Serve, None).unwrap();
}

#[tokio::test]
async fn the_schema_of_a_running_server_is_not_changed_under_it() {
    let bed = Bed::new().await;
    let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
    let version = || database.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0)).unwrap();
    let older = version() - 1;
    database.pragma_update(None, "user_version", older).unwrap();
    let manage = |dir: &Path| open(SqliteOptions { access: Access::Manage, ..options(dir) });
    let error = manage(bed.path()).err().unwrap();
    assert!(matches!(&error, OpenError::OlderServer(path) if path == bed.path()), "{error}");
    assert!(error.to_string().contains("restart the server with this version first"));
    assert_eq!(version(), older);
    // Where nobody serves, the first key command makes the database, and does not go on to hold the lock.
    let fresh = tempfile::tempdir().unwrap();
    let manager = open(SqliteOptions { access: Access::Initialize, ..options(fresh.path()) }).unwrap();
    let server = open(options(fresh.path())).unwrap();
    manager.close().await;
    server.close().await;
}

#[tokio::test]
async fn closing_writes_what_waits_and_empties_the_log() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let store = Arc::clone(&bed.store);
        tasks.spawn(async move { store.enqueue(new_message(tenant, &["x@one.example"], "body")).await });
    }
    tokio::task::yield_now().await;
    bed.store.close().await;
    let written = tasks.join_all().await.iter().filter(|answer| answer.is_ok()).count();
    let log = bed.path().join("pillarbox.db-wal");
    assert_eq!(std::fs::metadata(log).map_or(0, |log| log.len()), 0);
    let bed = bed.restart().await;
    assert_eq!(bed.store.count_open().await.unwrap(), written as u64);
}

#[tokio::test]
async fn another_master_key_is_told_when_the_store_is_opened() {
    let bed = Bed::new().await;
    bed.store.close().await;
    let key_file = bed.path().join("master.key");
    let key = std::fs::read_to_string(&key_file).unwrap();
    assert_eq!((key.len(), key.ends_with('\n')), (65, true));
    let open_with = |text: Option<&str>| {
        match text {
            Some(text) => std::fs::write(&key_file, text).unwrap(),
            None => std::fs::remove_file(&key_file).unwrap(),
        }
        open(options(bed.path()))
    };
    let message = |opened: std::result::Result<Store, OpenError>| match opened {
        Err(OpenError::MasterKey { path, message }) => {
            assert_eq!(path, key_file);
            message
        }
        other => panic!("{:?}", other.err()),
    };
    assert!(message(open_with(Some(&"0".repeat(64)))).contains("not the key"));
    assert!(message(open_with(Some("short"))).contains("64 hexadecimal digits"));
    assert!(message(open_with(None)).contains("restore it"));
    assert!(!key_file.exists(), "a lost key is not replaced in silence");
    std::fs::write(&key_file, &key).unwrap();
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&key_file, readable).unwrap();
    assert!(message(open(options(bed.path()))).contains("644"));
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(open(options(bed.path())).is_ok());
}

#[test]
fn a_master_key_file_that_was_named_is_never_made() {
    let dir = tempfile::tempdir().unwrap();
    let named = dir.path().join("elsewhere.key");
    let opened = open(SqliteOptions { master_key_file: Some(named.clone()), ..options(dir.path()) });
    assert!(matches!(opened, Err(OpenError::MasterKey { path, .. }) if path == named));
    assert!(!named.exists());
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused_untouched() {
    let bed = Bed::new().await;
    bed.store.close().await;
    let database = bed.path().join("pillarbox.db");
    let connection = Connection::open(&database).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let opened = open(options(bed.path()));
    assert!(matches!(opened, Err(OpenError::Newer { found: 99, known }) if known < 99));
}

/// Takes back what the migrations after 21 added. A new migration adds its inverse.
const WITHOUT_LATER_MIGRATIONS: &str = concat!(
    "DROP TABLE audit;
    DROP INDEX usage_by_start;
    ALTER TABLE usage DROP COLUMN deferred;
    ALTER TABLE usage DROP COLUMN expired;
    ALTER TABLE attempt DROP COLUMN source;
    DROP TRIGGER unattributed_report_added;
    DROP TRIGGER unattributed_report_removed;
    DROP TABLE unattributed_report_count;
    DROP INDEX domain_by_return_host;
    ALTER TABLE webhook ADD COLUMN previous_until_us BIGINT;
    DROP TABLE suspicious_site;
    DROP INDEX suppression_at_site;
    ALTER TABLE suppression DROP COLUMN provisional;
    ALTER TABLE suppression DROP COLUMN site;
    ALTER TABLE suppression DROP COLUMN refused_us;
    DROP TABLE ended_pause;
    ALTER TABLE pause ADD COLUMN is_lifted INTEGER NOT NULL DEFAULT 0;
    DROP INDEX test_message_by_tenant;
    DROP INDEX test_message_by_id;
    DROP TRIGGER webhook_added;
    DROP TRIGGER webhook_delivery_added;
    DROP TRIGGER webhook_delivery_finished;
    DROP TRIGGER webhook_delivery_replayed;
    DROP TRIGGER webhook_delivery_removed;
    DROP TABLE webhook_backlog;
    ALTER TABLE webhook_delivery DROP COLUMN octets;
    DROP TABLE webhook_secret;
    ALTER TABLE webhook ADD COLUMN previous_secret BLOB;
    DROP INDEX suppression_by_expiry;
    DROP INDEX tenant_with_brakes;
    DROP INDEX sts_policy_by_expiry;
    DROP INDEX tenant_by_external_ref;
    ALTER TABLE key DROP COLUMN restricted_to_domains;
    DROP INDEX domain_by_name;
    ALTER TABLE domain ADD COLUMN reversed_name TEXT NOT NULL DEFAULT '';
    CREATE INDEX domain_by_name ON domain (reversed_name, status);
    DROP TABLE inbox;
    DROP TABLE trial_usage;
    DROP INDEX key_notice_due;
    ALTER TABLE key DROP COLUMN next_notice_us;
    ALTER TABLE key DROP COLUMN rotated_us;
    DROP TABLE key_secret;
    ALTER TABLE event DROP COLUMN environment;
    ALTER TABLE webhook_delivery DROP COLUMN environment;
    ALTER TABLE webhook DROP COLUMN environments;
    DROP TABLE report_raw;
    DROP TABLE report_count;
    DROP TABLE report;
    DROP TABLE token_generation;
    ALTER TABLE message DROP COLUMN list;
    ALTER TABLE delivery DROP COLUMN complained_us;
    ALTER TABLE domain DROP COLUMN return_path_mode;
    ALTER TABLE domain DROP COLUMN return_path_host;
    ALTER TABLE domain DROP COLUMN return_path_status;
    ALTER TABLE usage DROP COLUMN bounced_late;
    ALTER TABLE usage DROP COLUMN unsubscribed;
    DROP TRIGGER suppression_added;
    DROP TRIGGER suppression_removed;
    DROP TABLE suppression_count;
    DROP INDEX suppression_of_tenant;
    DROP INDEX suppression_of_platform;
    ALTER TABLE suppression DROP COLUMN list;
    ALTER TABLE suppression DROP COLUMN report_id;
    ALTER TABLE suppression DROP COLUMN message_id;
    ALTER TABLE suppression DROP COLUMN environment;",
    include_str!("migrations/0019_suppression_count.sql"),
    "
    DROP TABLE default_tenant_ensured;
    DROP INDEX report_by_tenant;
    DROP INDEX report_by_id;
    ALTER TABLE message DROP COLUMN kind;
    DROP INDEX event_of_deleted_tenant;
    ALTER TABLE webhook_delivery DROP COLUMN external_ref;
    ALTER TABLE webhook_delivery DROP COLUMN tags;
    ALTER TABLE webhook_delivery DROP COLUMN metadata;
    DROP TABLE brake;
    DROP TABLE deleted_tenant;
    DROP TABLE usage_part;
    ALTER TABLE message DROP COLUMN sender_domain;"
);

#[tokio::test]
async fn the_search_of_an_older_database_is_filled_anew() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let (first, second) =
        (bed.enqueue(tenant, &["x@one.example"]).await, bed.enqueue(tenant, &["y@one.example"]).await);
    bed.store.index_messages().await.unwrap();
    bed.store.close().await;
    let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute_batch(WITHOUT_LATER_MIGRATIONS).unwrap();
    // As version 15 left it: it had indexes instead of words for recipients and Message-IDs.
    let older = "
        CREATE INDEX message_by_header_id ON message (header_message_id) WHERE header_message_id IS NOT NULL;
        CREATE INDEX delivery_to ON delivery (recipient, message_id);
        DELETE FROM message_search;
        INSERT INTO message_search (rowid, facets, subject) SELECT place, 'xother', 'hello' FROM search_place;
        ALTER TABLE body DROP COLUMN octets;
        ALTER TABLE body DROP COLUMN crc32;
        DROP TABLE released_body;
        DROP TABLE write_test;
        ALTER TABLE delivery RENAME COLUMN bounce_class TO last_class;
        ALTER TABLE attempt RENAME COLUMN bounce_class TO class;
        ALTER TABLE pause RENAME TO hold;
        ALTER TABLE idempotent_response RENAME TO kept_answer;
        DROP INDEX idempotent_response_by_age;
        CREATE INDEX kept_answer_by_age ON kept_answer (created_us);
        DROP TRIGGER suppression_added;
        DROP TRIGGER suppression_removed;
        DROP TABLE suppression_count;
        ALTER TABLE search_progress RENAME COLUMN cursor TO up_to;
        UPDATE tenant SET settings = replace(settings, 'message_lifetime_hours', 'expiry_hours');
        PRAGMA user_version = 15;";
    database.execute_batch(older).unwrap();
    let bed = bed.restart().await;
    assert!(bed.store.tenant(tenant).await.unwrap().is_some(), "its settings have the present names");
    let found = async |filter| {
        let page = bed.store.list_messages(filter, PageRequest { limit: 10, ..PageRequest::default() }).await;
        page.unwrap().items.iter().map(|found| found.message.id).collect::<Vec<_>>()
    };
    let all = MessageFilter::default;
    let to = Some(second.recipients[0].1.address.clone());
    assert_eq!(found(MessageFilter { to, ..all() }).await, [second.message.id]);
    let header_message_id = first.message.header_message_id.clone();
    assert_eq!(found(MessageFilter { header_message_id, ..all() }).await, [first.message.id]);
    let words = "SELECT count(*) FROM message_search ('xother')";
    assert_eq!(database.query_row(words, [], |row| row.get::<_, u32>(0)).unwrap(), 0);
    let indexes = "SELECT count(*) FROM sqlite_schema WHERE name IN ('message_by_header_id', 'delivery_to')";
    assert_eq!(database.query_row(indexes, [], |row| row.get::<_, u32>(0)).unwrap(), 0);
}

#[tokio::test]
async fn the_reports_of_an_older_database_are_marked() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let report = new_report(tenant, "x@one.example");
    let mut bounce_of_a_client = new_message(tenant, &["x@one.example"], "null reverse path");
    bounce_of_a_client.message.reverse_path = ReversePath::Null;
    let mut without_key = new_message(tenant, &["x@one.example"], "no key");
    without_key.message.key_id = None;
    for new in [&report, &bounce_of_a_client, &without_key] {
        bed.store.enqueue(new.clone()).await.unwrap();
    }
    bed.store.close().await;
    let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute_batch(WITHOUT_LATER_MIGRATIONS).unwrap();
    database.pragma_update(None, "user_version", 21).unwrap();
    let bed = bed.restart().await;
    let found = async |kind| {
        let filter = MessageFilter { kind, ..MessageFilter::default() };
        let page = PageRequest { limit: 10, ..PageRequest::default() };
        let page = bed.store.list_messages(filter, page).await.unwrap();
        page.items.iter().map(|found| found.message.id).collect::<Vec<_>>()
    };
    assert_eq!(found(MessageKind::Report).await, [report.message.id]);
    assert_eq!(found(MessageKind::Message).await, [without_key.message.id, bounce_of_a_client.message.id]);
}

#[tokio::test]
async fn the_suppressions_of_an_older_database_are_counted() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let suppression = |number: usize| new_suppression(Some(tenant), &format!("u{number}@one.example"));
    let most = SUPPRESSIONS_MAX;
    bed.store.suppress_all((1..most).map(suppression).collect(), now()).await.unwrap();
    bed.store.close().await;
    let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute_batch(WITHOUT_LATER_MIGRATIONS).unwrap();
    let older = "
        DROP TRIGGER suppression_added;
        DROP TRIGGER suppression_removed;
        DROP TABLE suppression_count;
        PRAGMA user_version = 18;";
    database.execute_batch(older).unwrap();
    let bed = bed.restart().await;
    bed.store.suppress(suppression(most), now()).await.unwrap();
    assert!(bed.store.suppress(suppression(most + 1), now()).await.is_err());
}

#[tokio::test]
async fn the_suppressions_of_an_older_database_are_folded_and_the_longest_of_equal_ones_stays() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut ids = Vec::new();
    for number in 0..4 {
        let mut new = new_suppression(Some(tenant), &format!("u{number}@one.example"));
        new.expires_at = (number == 0).then(|| later(1000));
        ids.push(bed.store.suppress(new, now()).await.unwrap().id);
    }
    bed.store.close().await;
    let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
    let stored = [
        "jos\u{e9}@one.example",
        "jose\u{301}@one.example",
        "stra\u{df}e@one.example",
        "strasse@one.example",
    ];
    for (id, address) in ids.iter().zip(stored) {
        database
            .execute("UPDATE suppression SET address = ?2 WHERE id = ?1", rusqlite::params![id, address])
            .unwrap();
    }
    database.execute_batch(WITHOUT_LATER_MIGRATIONS).unwrap();
    database.pragma_update(None, "user_version", 20).unwrap();
    let bed = bed.restart().await;
    let stops = async |text: &str| {
        let key = crate::mail::fold_address(text);
        bed.store.suppression_of(tenant, Environment::Live, &key, now()).await.unwrap().map(|found| found.id)
    };
    assert_eq!(stops("JOS\u{c9}@one.example").await, Some(ids[1]));
    assert!(stops("STRASSE@one.example").await.is_some());
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    let left = bed.store.list_suppressions(Default::default(), page).await.unwrap().items;
    assert_eq!(left.len(), 2);
    let count = "SELECT suppressions FROM suppression_count";
    assert_eq!(database.query_row(count, [], |row| row.get::<_, u32>(0)).unwrap(), 2);
}

#[tokio::test]
async fn the_events_of_an_older_database_get_their_environments_and_its_webhooks_both() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let webhook = bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    bed.enqueue(tenant, &["x@one.example"]).await;
    let mut new = new_message(tenant, &["y@one.example"], "body");
    new.message.environment = Environment::Test;
    bed.store.enqueue(new).await.unwrap();
    bed.store.suppress(new_suppression(Some(tenant), "z@one.example"), now()).await.unwrap();
    bed.store.reject(Rejection {
        id: RequestId::generate(now()),
        tenant_id: tenant,
        key_id: None,
        environment: Environment::Test,
        stage: Stage::Rcpt,
        code: RefusalCode::RecipientInvalid,
        message: "no".to_owned(),
        client_address: None,
        created_at: now(),
    });
    let (kind, data, at) = (EventKind::DomainVerified, serde_json::json!({}), now());
    bed.store.append(NewEvent { kind, tenant_id: Some(tenant), environment: None, data, at }).await.unwrap();
    let events = async |bed: &Bed| {
        let page = PageRequest { limit: 10, ..PageRequest::default() };
        let listed = bed.store.list_events(EventFilter::default(), page.clone()).await.unwrap().items;
        let sent = bed.store.list_webhook_deliveries(webhook, None, page).await.unwrap().items;
        let all = listed.into_iter().chain(sent.into_iter().map(|delivery| delivery.event));
        all.map(|event| (event.kind, event.environment)).collect::<Vec<_>>()
    };
    let before = events(&bed).await;
    // The creation of the tenant is the first.
    assert_eq!(before.len(), 6 + 3);
    bed.store.close().await;
    let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute_batch(WITHOUT_LATER_MIGRATIONS).unwrap();
    database.pragma_update(None, "user_version", 21).unwrap();
    let bed = bed.restart().await;
    assert_eq!(events(&bed).await, before);
    let webhook = bed.store.webhook(None, webhook).await.unwrap().unwrap();
    assert_eq!(webhook.environments, [Environment::Live, Environment::Test]);
}

/// Makes version 21 of the database with `change`, and opens it with this program.
async fn upgraded(bed: Bed, change: &str) -> Bed {
    bed.store.close().await;
    let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute_batch(WITHOUT_LATER_MIGRATIONS).unwrap();
    database.execute_batch(change).unwrap();
    database.pragma_update(None, "user_version", 21).unwrap();
    bed.restart().await
}

#[tokio::test]
async fn the_keys_of_an_older_database_stay_restricted_and_forget_domains_that_are_gone() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let domain = new_domain(Some(tenant), "example.com", Verification::Manual);
    let domain = bed.store.create_domain(domain, now()).await.unwrap().id;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let key = new_key(Some(tenant), &KeySecret::generate(Environment::Live));
        ids.push(bed.store.create_key(key, now()).await.unwrap().id);
    }
    let gone = crate::model::DomainId::generate(now());
    let change = format!(
        r#"UPDATE key SET allowed_domain_ids = '["{domain}", "{gone}"]' WHERE id = '{}';
           UPDATE key SET allowed_domain_ids = '["{gone}"]' WHERE id = '{}';"#,
        ids[0], ids[1]
    );
    let bed = upgraded(bed, &change).await;
    for (id, restricted, allowed) in
        [(ids[0], true, vec![domain]), (ids[1], true, vec![]), (ids[2], false, vec![])]
    {
        let key = bed.store.key(None, id).await.unwrap().unwrap();
        assert_eq!((key.restricted_to_domains, key.allowed_domain_ids), (restricted, allowed));
    }
}

#[tokio::test]
async fn the_external_refs_of_an_older_database_stay_and_are_found_by_an_index() {
    let bed = Bed::new().await;
    let ids = [bed.tenant("a").await.id, bed.tenant("b").await.id];
    // Earlier versions accepted a value twice.
    let bed = upgraded(bed, "UPDATE tenant SET external_ref = 'crm-1';").await;
    for id in ids {
        assert_eq!(bed.store.tenant(id).await.unwrap().unwrap().external_ref.as_deref(), Some("crm-1"));
    }
    let third = crate::store::NewTenant { external_ref: Some("crm-1".into()), ..new_tenant("c") };
    let refused = bed.store.create_tenant(third, now()).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::ExternalRef))), "{refused:?}");
    let sql = "SELECT 1 FROM tenant WHERE external_ref = ?1";
    let plan = bed.engine().read(move |connection| Ok(plan_of(connection, sql))).await.unwrap();
    assert!(plan.contains("tenant_by_external_ref"), "{plan}");
}

#[tokio::test]
async fn the_rejections_of_an_older_database_have_the_present_code() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    for code in
        [RefusalCode::RecipientInvalid, RefusalCode::RecipientInvalid, RefusalCode::RecipientSuppressed]
    {
        bed.store.reject(Rejection {
            id: RequestId::generate(now()),
            tenant_id: tenant,
            key_id: None,
            environment: Environment::Live,
            stage: Stage::Mail,
            code,
            message: "no".to_owned(),
            client_address: None,
            created_at: now(),
        });
    }
    let change = "
        UPDATE rejection SET code = 'sender_domain_not_owned' WHERE id = (SELECT min(id) FROM rejection);
        UPDATE rejection SET code = 'from_domain_not_owned' WHERE code = 'recipient_invalid';";
    let bed = upgraded(bed, change).await;
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    let found = bed.store.list_rejections(Default::default(), page).await.unwrap().items;
    let codes: Vec<_> = found.iter().rev().map(|rejection| rejection.code).collect();
    let renamed = RefusalCode::DomainNotAllowedForKey;
    assert_eq!(codes, [renamed, renamed, RefusalCode::RecipientSuppressed]);
}

#[tokio::test]
async fn the_usage_of_an_older_database_stays_and_outlives_its_tenant() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    bed.enqueue(tenant, &["x@one.example", "y@one.example"]).await;
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    let usage = async |bed: &Bed| {
        let days = crate::model::UsageInterval::Day;
        bed.store.usage(tenant, days, Timestamp::UNIX_EPOCH, later(7 * 24 * 3600)).await.unwrap()
    };
    let before = usage(&bed).await;
    assert_eq!((before[0].counts.sent, before[0].counts.delivered), (2, 2));
    // As version 11 made it: its rows went with the tenant.
    let table = include_str!("migrations/0011_usage.sql").split_inclusive(';').next().unwrap();
    let change = format!(
        "ALTER TABLE usage RENAME TO other; {table} INSERT INTO usage SELECT * FROM other; DROP TABLE other;"
    );
    let bed = upgraded(bed, &change).await;
    assert_eq!(usage(&bed).await, before);
    bed.store.remove_tenant(tenant, now()).await.unwrap().unwrap();
    assert_eq!(usage(&bed).await, before);
}

#[tokio::test]
async fn the_keys_of_an_older_database_have_an_event_14_days_before_they_expire() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut ids = Vec::new();
    let end = later(30 * 24 * 3600);
    for expires_at in [Some(end), Some(end), None] {
        let new = new_key(Some(tenant), &KeySecret::generate(Environment::Live));
        let new = crate::store::NewKey { expires_at, ..new };
        ids.push(bed.store.create_key(new, now()).await.unwrap().id);
    }
    assert!(bed.store.revoke_key(ids[1], now()).await.unwrap());
    let bed = upgraded(bed, "").await;
    let mut notices = Vec::new();
    for id in ids {
        let sql = "SELECT next_notice_us FROM key WHERE id = ?1";
        let read = move |connection: &Connection| {
            Ok(connection.query_row(sql, [id], |row| row.get::<_, Option<i64>>(0))?)
        };
        notices.push(bed.engine().read(read).await.unwrap());
    }
    let two_weeks_before = end - crate::mail::SignedDuration::from_hours(14 * 24);
    assert_eq!(notices, [Some(two_weeks_before.as_microsecond()), None, None]);
}

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
        let Store::Sqlite(engine) = &*store;
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
    let policy = RetentionPolicy {
        body_days: 0,
        transcript_days: 9,
        row_days: 9,
        webhook_days: 7,
        report_days: 14,
        audit_days: 400,
    };
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

const KEEP: RetentionPolicy = RetentionPolicy {
    body_days: 9,
    transcript_days: 9,
    row_days: 9,
    webhook_days: 7,
    report_days: 14,
    audit_days: 400,
};

#[tokio::test]
async fn a_file_without_a_row_is_counted_and_kept_a_few_shelves_at_a_time() {
    let bed = Bed::with(|options| options.inline_body_bytes_max = 0);
    let tenant = bed.tenant("a").await.id;
    let known = bed.enqueue(tenant, &["x@one.example"]).await;
    let files = leave_strays(&bed, tenant, 40);
    let mut rounds = 0;
    while bed.store.counts().stray_files == 0 {
        bed.store.prune(KEEP, now(), 100).await.unwrap();
        rounds += 1;
        assert!(rounds < 20, "all shelves have been looked at by now");
    }
    assert!(rounds > 1, "one round looks at some of the shelves");
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

#[tokio::test]
async fn a_data_directory_that_lost_its_database_is_refused_and_left_as_it_is() {
    let bed = Bed::with(|options| options.inline_body_bytes_max = 0);
    let tenant = bed.tenant("a").await.id;
    bed.enqueue(tenant, &["x@one.example"]).await;
    bed.store.close().await;
    let Bed { harness: SqliteHarness { dir }, store, .. } = bed;
    drop(store);
    let [database, key, bodies] = ["pillarbox.db", "master.key", "bodies"].map(|name| dir.path().join(name));
    let before = std::fs::read(&database).unwrap();
    let open = |access| open(SqliteOptions { access, ..options(dir.path()) });
    let refused = |access| match open(access).err() {
        Some(error @ OpenError::DatabaseMissing { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    std::fs::remove_file(&database).unwrap();
    for access in [Access::Serve, Access::Manage, Access::Initialize] {
        let said = refused(access);
        for part in [
            "pillarbox.db is missing",
            "master.key",
            "bodies",
            "restore the database",
            "start with an empty one",
        ] {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
        assert!(!database.exists());
    }
    std::fs::write(&database, "").unwrap();
    refused(Access::Serve);
    assert_eq!(std::fs::metadata(&database).unwrap().len(), 0);
    // Each of these files alone prevents a new database, and the bodies stay.
    let hidden = dir.path().join("hidden");
    std::fs::rename(&bodies, &hidden).unwrap();
    assert!(!refused(Access::Serve).contains("bodies"));
    std::fs::rename(&hidden, &bodies).unwrap();
    std::fs::rename(&key, &hidden).unwrap();
    assert!(!refused(Access::Serve).contains("master.key"));
    std::fs::rename(&hidden, &key).unwrap();
    assert_eq!(files_below(&bodies).len(), 1);
    std::fs::write(&database, before).unwrap();
    assert!(open(Access::Serve).unwrap().tenant(tenant).await.unwrap().is_some());
}

#[test]
fn what_others_leave_in_a_new_data_directory_does_not_keep_it_from_being_used() {
    let dir = tempfile::tempdir().unwrap();
    for directory in ["lost+found", "bodies/zz"] {
        std::fs::create_dir_all(dir.path().join(directory)).unwrap();
    }
    for file in ["lock", "self-signed.crt", "self-signed.key", "pillarbox.db"] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    // A key that the operator named and made, as the manual says.
    let key = dir.path().join("master.key");
    std::fs::write(&key, format!("{}\n", "7".repeat(64))).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    open(SqliteOptions { master_key_file: Some(key), ..options(dir.path()) }).unwrap();
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
        let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
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
    let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
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

/// How SQLite goes about a query.
pub(super) fn plan_of(connection: &Connection, sql: &str) -> String {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let mut steps = statement.raw_query();
    let mut plan = String::new();
    while let Some(step) = steps.next().unwrap() {
        plan += &step.get::<_, String>(3).unwrap();
        plan += "; ";
    }
    plan
}

/// The plans that the cost of a claim and of looking somebody up rests on.
#[tokio::test]
async fn the_hot_queries_use_their_indexes() {
    let bed = Bed::new().await;
    for (sql, index) in [
        (spool::due_rows::DUE_ROWS, "COVERING INDEX delivery_due"),
        (spool::due_rows::FIRST_AFTER, "delivery_due"),
        (spool::COUNT_OPEN, "delivery_due"),
        (events::OF_MESSAGE, "event_of_message"),
        (retention::OF_DELETED_TENANTS, "event_of_deleted_tenant"),
        (brakes::WITH_BRAKES, "tenant_with_brakes"),
        (retention::EXPIRED_SUPPRESSIONS, "suppression_by_expiry"),
        (directory::keys::DUE_NOTICES, "key_notice_due"),
        (directory::suppressions::OF_TENANT, "suppression_of_tenant"),
        (directory::suppressions::OF_PLATFORM, "suppression_of_"),
        (directory::row_limits::MORE_SUPPRESSIONS, "SEARCH suppression_count USING PRIMARY KEY"),
        (reports::WITH_RETURN_HOST, "domain_by_return_host"),
        (reports::record::OLDEST_UNATTRIBUTED, "SEARCH report USING COVERING INDEX report_row_"),
        (outbox::deliveries::LAST_WAITING, "webhook_delivery_in_order"),
        (outbox::deliveries::PUT_OFF, "webhook_delivery_in_order"),
        (journal::recipient_history::FINISHED_TO, "delivery_of_message"),
        (suspicious_sites::SINCE, "suppression_at_site"),
    ] {
        let plan = bed.engine().read(move |connection| Ok(plan_of(connection, sql))).await.unwrap();
        assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}

/// Tables with this column, and how many of their rows have this value in it.
fn rows_with(connection: &Connection, column: &str, value: &str) -> Vec<(String, u32)> {
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
    let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
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
    let report = "INSERT INTO report (id, tenant_id, message_id, kind, rule, effect, reporter, digest, times, created_us, last_us)
                  VALUES ('rpt_1', ?1, ?2, 'other', 'other', 'none', '{}', x'00', 1, 0, 0)";
    database.execute(report, [&id, &message]).unwrap();
    database.execute("INSERT INTO report_count VALUES ('dlv_1', ?1, 0, 1, 1)", [&message]).unwrap();
    database.execute("UPDATE suppression SET message_id = ?1", [&message]).unwrap();
    let change = "INSERT INTO audit (id, tenant_id, number, actor, by_platform, operation, created_us)
                  VALUES ('aud_1', ?1, 1, 'key', 0, 'update_tenant', 0)";
    database.execute(change, [&id]).unwrap();
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
    // The audit log, the event of the deletion, its copy for the webhook of the platform, and the days for the last bill.
    let left: Vec<_> = seen().into_iter().filter(|(_, rows)| *rows > 0).collect();
    let stays = ["audit", "event", "usage", "usage_part", "webhook_delivery"];
    assert_eq!(left, stays.map(|table| (table.to_owned(), 1)));
    let of_tenant = EventFilter { tenant_id: Some(tenant), ..EventFilter::default() };
    let stays = bed.store.list_events(of_tenant, PageRequest::default()).await.unwrap().items;
    let stays: Vec<_> = stays.iter().map(|event| event.kind).collect();
    assert_eq!(stays, [EventKind::TenantDeleted]);
    let policy = RetentionPolicy {
        body_days: 1,
        transcript_days: 1,
        row_days: 1,
        webhook_days: 1,
        report_days: 14,
        audit_days: 400,
    };
    bed.store.prune(policy, later(92 * 24 * 3600), 100).await.unwrap();
    // The webhook of the platform is enabled, so what waits for it stays.
    let left: Vec<_> = seen().into_iter().filter(|(_, rows)| *rows > 0).collect();
    assert_eq!(left, [("webhook_delivery".to_owned(), 1)]);
    assert_eq!(searched(), [0; 3]);
    assert_eq!(files_below(&bed.path().join("bodies")), [] as [PathBuf; 0]);
}

/// The words that occur in a file, or in the search index, which shortens words that begin alike.
fn words_left(bed: &Bed, words: &[&'static str]) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for path in files_below(bed.path()) {
        let octets = std::fs::read(&path).unwrap();
        let left = words.iter().filter(|word| contains(&octets, word.as_bytes()));
        found.extend(left.map(|word| (path.file_name().unwrap().to_string_lossy().into_owned(), *word)));
    }
    let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
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
    assert!(bed.engine().begin_removal(tenant).await.unwrap());
    let step = bed.engine().go_on_with_removal(tenant).await.unwrap();
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

async fn reports_left(bed: &Bed) -> Vec<ReportId> {
    let page = PageRequest { limit: 100, ..PageRequest::default() };
    let left = bed.store.list_reports(Default::default(), page).await.unwrap().items;
    left.iter().rev().map(|report| report.id).collect()
}

#[tokio::test]
async fn reports_that_belong_to_no_message_are_limited_and_the_oldest_goes() {
    let bed = Bed::new().await;
    let mut ids = Vec::new();
    for digest in 0..5 {
        ids.push(
            bed.store
                .record_report(returned(ReportKind::Other, None, digest, Consequence::None))
                .await
                .unwrap()
                .id,
        );
    }
    assert_eq!(reports_left(&bed).await, ids[2..]);
    assert!(bed.store.report_raw(None, ids[0]).await.unwrap().is_none());
}

#[tokio::test]
async fn reports_of_an_older_database_that_belong_to_no_message_are_counted() {
    let bed = Bed::new().await;
    let mut ids = Vec::new();
    for digest in 0..3 {
        ids.push(
            bed.store
                .record_report(returned(ReportKind::Other, None, digest, Consequence::None))
                .await
                .unwrap()
                .id,
        );
    }
    bed.store.close().await;
    let database = Connection::open(bed.path().join("pillarbox.db")).unwrap();
    let older = "
        DROP TRIGGER unattributed_report_added;
        DROP TRIGGER unattributed_report_removed;
        DROP TABLE unattributed_report_count;
        DROP INDEX domain_by_return_host;
        ALTER TABLE webhook ADD COLUMN previous_until_us BIGINT;
        ALTER TABLE ended_pause DROP COLUMN round;
        PRAGMA user_version = 43;";
    database.execute_batch(older).unwrap();
    let bed = bed.restart().await;
    ids.push(
        bed.store.record_report(returned(ReportKind::Other, None, 3, Consequence::None)).await.unwrap().id,
    );
    assert_eq!(reports_left(&bed).await, ids[1..]);
}
