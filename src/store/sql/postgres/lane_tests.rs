//! Lanes of several processes, and commits without an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config};

use crate::mail::{Content, SignedDuration, Timestamp};
use crate::model::{MessageId, TenantId, UsageInterval, WebhookId};
use crate::store::contract::postgres::{PostgresHarness, options};
use crate::store::contract::postgres_server::Server;
use crate::store::contract::{Harness, KEEP, TestBed, new_message, new_tenant, new_webhook, now};
use crate::store::sql::tests::BOUNDS;
use crate::store::{
    Directory, Journal, Ledger, Outbox, PostgresOptions, Queue, RetentionPolicy, Spool, Store, SubmissionKey,
    UsageCounts, WebhookAttempt, WebhookOutcome, WebhookVerdict, WebhooksInFlight,
};

const DEADLINE: Duration = Duration::from_secs(20);

async fn harness() -> Option<PostgresHarness> {
    if PostgresHarness::is_available() { Some(PostgresHarness::new().await) } else { None }
}

async fn enqueue(store: &Store, tenant: TenantId) -> MessageId {
    let mut new = new_message(tenant, &["x@example.net"], "body");
    // Usage by a new key would cost a query.
    new.message.key_id = None;
    store.enqueue(new).await.unwrap()
}

/// Records that an endpoint failed once and then accepted what waits for it.
async fn deliver_to_webhook(store: &Store, id: WebhookId) {
    let mut at = now();
    for verdict in [WebhookVerdict::Retry(now()), WebhookVerdict::Delivered] {
        let served = store.claim_webhook(id, WebhooksInFlight::default(), 1, at).await.unwrap().unwrap();
        assert_eq!(served.webhook.failing_since.is_some(), verdict == WebhookVerdict::Delivered);
        let delivery = served.work.deliveries.first().unwrap();
        let attempt =
            WebhookAttempt { at, duration_ms: 5, status: Some(500), response: String::new(), error: None };
        let failing_since_max = at - SignedDuration::from_hours(120);
        let (delivery_id, webhook_id) = (delivery.id, id);
        store
            .record_webhook(WebhookOutcome { delivery_id, webhook_id, attempt, verdict, failing_since_max })
            .await
            .unwrap();
        at += SignedDuration::from_secs(1);
    }
    assert_eq!(store.webhook(None, id).await.unwrap().unwrap().failing_since, None);
    assert_eq!(store.webhook_backlog().await.unwrap(), 0);
}

#[tokio::test]
async fn a_webhook_that_accepted_mail_fills_is_disabled() {
    let Some(harness) = harness().await else { return };
    let store = harness.open(0).await;
    let tenant = store.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    let webhook = store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    for _ in 0..=BOUNDS.webhook_pending_max {
        enqueue(&store, tenant).await;
    }
    let client = harness.connect().await;
    wait_for(&client, "SELECT count(*) FROM webhook WHERE disabled_reason = 'backlog_full'").await;
    assert_eq!(store.webhook_backlog().await.unwrap(), BOUNDS.webhook_pending_max);
    assert_eq!(store.counts().repeated_commits, 0);
    assert_eq!(count(&client, "SELECT count(*) FROM event WHERE kind = 'webhook.disabled'").await, 1);
    assert!(store.claim_webhook(webhook, WebhooksInFlight::default(), 1, now()).await.unwrap().is_none());
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Waits until a query counts something.
async fn wait_for(client: &Client, sql: &str) {
    let end = Instant::now() + DEADLINE;
    while count(client, sql).await == 0 {
        assert!(Instant::now() < end, "{sql}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_key_that_processes_submit_at_once_belongs_to_one_message() {
    let Some(harness) = harness().await else { return };
    let stores = [harness.open(0).await, Store::open(harness.options_of_node("other")).await.unwrap()];
    let tenant = stores[0].create_tenant(new_tenant("a"), now()).await.unwrap().id;
    const KEYS: usize = 40;
    let mut submissions = tokio::task::JoinSet::new();
    for number in 0..KEYS * 4 {
        let store = stores[number % 2].clone();
        let mut new = new_message(tenant, &["x@example.net"], "body");
        // In another order in each process.
        let key = if number % 2 == 0 { number / 2 % KEYS } else { KEYS - 1 - number / 2 % KEYS };
        new.submission_key = Some(SubmissionKey { name: format!("key-{key}"), digest: [7; 32] });
        submissions.spawn(async move { (key, store.enqueue(new).await.unwrap()) });
    }
    let mut ids = std::collections::HashMap::new();
    while let Some(submitted) = submissions.join_next().await {
        let (key, id) = submitted.unwrap();
        assert_eq!(*ids.entry(key).or_insert(id), id, "key {key}");
    }
    assert_eq!(stores[1].count_open().await.unwrap(), KEYS as u64);
}

#[tokio::test]
async fn requests_with_several_keys_in_common_wait_for_each_other_in_one_direction() {
    let Some(harness) = harness().await else { return };
    let stores = [harness.open(0).await, Store::open(harness.options_of_node("other")).await.unwrap()];
    let tenant = stores[0].create_tenant(new_tenant("a"), now()).await.unwrap().id;
    const KEYS: usize = 12;
    let mut requests = tokio::task::JoinSet::new();
    for number in 0..80 {
        let store = stores[number % 2].clone();
        let mut keys = [number % KEYS, (number * 7 + 5) % KEYS, (number * 5 + 1) % KEYS];
        if number % 3 == 0 {
            keys.reverse();
        }
        let news = keys.map(|key| {
            let mut new = new_message(tenant, &["x@example.net"], "body");
            new.submission_key = Some(SubmissionKey { name: format!("key-{key:02}"), digest: [7; 32] });
            new
        });
        requests.spawn(async move { (keys, store.enqueue_all(news.into()).await.unwrap()) });
    }
    let mut ids = std::collections::HashMap::new();
    while let Some(request) = requests.join_next().await {
        let (keys, stored) = request.unwrap();
        for (key, id) in keys.into_iter().zip(stored) {
            assert_eq!(*ids.entry(key).or_insert(id), id, "key {key}");
        }
    }
    assert_eq!(stores[1].count_open().await.unwrap(), ids.len() as u64);
    assert_eq!(stores.map(|store| store.counts().repeated_commits), [0, 0]);
}

#[tokio::test]
async fn accepted_mail_is_committed_beside_hot_jobs_of_others_and_other_changes_wait_for_them() {
    let Some(harness) = harness().await else { return };
    let store = harness.open(0).await;
    let tenant = store.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    let webhook = store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    let other = harness.connect().await;
    let key = 0x7069_6c6c_6172_i64;
    other.execute("SELECT pg_advisory_lock_shared($1)", &[&key]).await.unwrap();
    enqueue(&store, tenant).await;
    deliver_to_webhook(&store, webhook).await;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.create_tenant(new_tenant("b"), now()).await.unwrap() }
    });
    wait_for(&other, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").await;
    assert!(!waiting.is_finished());
    other.execute("SELECT pg_advisory_unlock_shared($1)", &[&key]).await.unwrap();
    waiting.await.unwrap();
}

#[tokio::test]
async fn usage_of_past_days_is_folded_into_one_row_and_stays_the_same() {
    let Some(harness) = harness().await else { return };
    let store = harness.open(0).await;
    let tenant = store.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    enqueue(&store, tenant).await;
    let client = harness.connect().await;
    for slot in 1..4_i64 {
        for table in ["usage_by_slot", "usage_part_by_slot"] {
            let columns = count(
                &client,
                &format!("SELECT count(*) FROM information_schema.columns WHERE table_name = '{table}'"),
            )
            .await;
            assert!(columns > 10);
            client.batch_execute(&format!(
                "CREATE TEMPORARY TABLE copied AS SELECT * FROM {table} WHERE slot = (SELECT min(slot) FROM {table});
                 UPDATE copied SET slot = {};
                 INSERT INTO {table} SELECT * FROM copied ON CONFLICT DO NOTHING; DROP TABLE copied", slot + 10
            )).await.unwrap();
        }
    }
    let usage = || async {
        let at = now();
        let (from, to) = (at - SignedDuration::from_hours(48), at + SignedDuration::from_hours(48));
        let of_days = store.usage(tenant, UsageInterval::Day, from, to).await.unwrap();
        of_days.into_iter().map(|usage| usage.counts).collect::<Vec<_>>()
    };
    let before = usage().await;
    assert_eq!(before, [UsageCounts { sent: 4, ..UsageCounts::default() }]);
    store.prune(KEEP, now() + SignedDuration::from_hours(48), 100).await.unwrap();
    assert_eq!(usage().await, before);
    for table in ["usage_by_slot", "usage_part_by_slot"] {
        assert_eq!(count(&client, &format!("SELECT count(*) FROM {table} WHERE slot <> 0")).await, 0);
    }
}

/// Where a proxy cuts the next session that sends something.
#[derive(Clone, Copy)]
enum Cut {
    /// Nothing of what it sends reaches the server.
    Request,
    /// The server commits, and its answers get lost.
    Answer,
}

/// Forwards sessions to the server.
struct Proxy {
    dir: tempfile::TempDir,
    cut: Arc<Mutex<Option<Cut>>>,
}

impl Proxy {
    fn start(to: &Config) -> Self {
        let [Host::Unix(directory)] = to.get_hosts() else { panic!("{to:?} has one socket") };
        let to = directory.join(".s.PGSQL.5432");
        let dir = tempfile::Builder::new().prefix("px").tempdir().unwrap();
        let cut = Arc::<Mutex<Option<Cut>>>::default();
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let armed = Arc::clone(&cut);
        tokio::spawn(async move {
            while let Ok((session, _)) = listener.accept().await {
                let server = UnixStream::connect(&to).await.unwrap();
                tokio::spawn(forward(session, server, Arc::clone(&armed)));
            }
        });
        Self { dir, cut }
    }

    fn options(&self, harness: &PostgresHarness) -> PostgresOptions {
        let options = harness.options();
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.dir.path()).user(options.config.get_user().unwrap());
        config.dbname(options.config.get_dbname().unwrap());
        PostgresOptions { config, lanes: 1, ..options }
    }
}

/// Ends with the session.
async fn forward(mut session: UnixStream, mut server: UnixStream, armed: Arc<Mutex<Option<Cut>>>) {
    let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
    let mut is_deaf = false;
    loop {
        tokio::select! {
            read = session.read(&mut asked) => {
                let Ok(count @ 1..) = read else { return };
                match armed.lock().take() {
                    Some(Cut::Request) => return,
                    Some(Cut::Answer) => is_deaf = true,
                    None => {}
                }
                if server.write_all(&asked[..count]).await.is_err() { return }
            }
            read = server.read(&mut answered) => {
                let Ok(count @ 1..) = read else { return };
                if !is_deaf {
                    if session.write_all(&answered[..count]).await.is_err() { return }
                } else if answered[..count].windows(7).any(|octets| octets == b"COMMIT\0") {
                    return;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_and_one_that_did_not_arrive_is_repeated() {
    let Some(harness) = harness().await else { return };
    let proxy = Proxy::start(&harness.options().config);
    let store = Store::open(proxy.options(&harness)).await.unwrap();
    let bed = TestBed::of(harness, store);
    let tenant = bed.tenant("a").await.id;
    let client = bed.harness.connect().await;
    for (cut, repetitions) in [(Cut::Answer, 0), (Cut::Request, 1)] {
        // The statements of the session are prepared.
        enqueue(&bed.store, tenant).await;
        let messages = count(&client, "SELECT count(*) FROM message").await;
        let repeated = bed.store.counts().repeated_commits;
        *proxy.cut.lock() = Some(cut);
        let id = enqueue(&bed.store, tenant).await;
        assert!(proxy.cut.lock().is_none(), "a session was cut");
        assert!(bed.store.content(id, Timestamp::now()).await.unwrap().is_some());
        assert_eq!(count(&client, "SELECT count(*) FROM message").await, messages + 1);
        assert_eq!(bed.store.counts().repeated_commits - repeated, repetitions);
    }
}

#[tokio::test]
async fn mail_is_accepted_only_once_the_standby_has_it_also_after_a_cancelled_wait() {
    let Some(server) = Server::start_with(&["-c", "fsync=off", "-c", "listen_addresses="], |_| ()) else {
        return;
    };
    server.create("one").await;
    let dir = tempfile::tempdir().unwrap();
    let options = PostgresOptions { lanes: 1, ..options(server.config("one"), dir.path()) };
    let store = Store::open(options).await.unwrap();
    let tenant = store.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    let (client, connection) = server.config("one").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (gone)'").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let is_set =
        "SELECT count(*) FROM pg_settings WHERE name = 'synchronous_standby_names' AND setting <> ''";
    wait_for(&client, is_set).await;
    let accepted = tokio::spawn({
        let store = store.clone();
        async move { enqueue(&store, tenant).await }
    });
    let waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_for(&client, &format!("SELECT count(*) {waiting}")).await;
    let cancelled = count(&client, "SELECT count(*) FROM message").await;
    assert_eq!(cancelled, 0);
    client.batch_execute(&format!("SELECT pg_cancel_backend(pid) {waiting}")).await.unwrap();
    // The message is there, but not yet on the standby.
    wait_for(&client, "SELECT count(*) FROM message").await;
    wait_for(&client, &format!("SELECT count(*) {waiting}")).await;
    assert!(!accepted.is_finished());
    client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    accepted.await.unwrap();
    assert_eq!(count(&client, "SELECT count(*) FROM message").await, 1);
}

#[tokio::test]
async fn a_large_body_is_stored_in_pieces_which_go_with_it_and_orphans_go_later() {
    let Some(harness) = harness().await else { return };
    let store = harness.open(0).await;
    let tenant = store.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    let client = harness.connect().await;
    let pieces = "SELECT count(*) FROM body_piece";
    // The prefix is longer than a piece too.
    for (prefix, submitted, expected) in
        [(10, 256 * 1024 - 10, 0), (10, 3 * 256 * 1024, 4), (300 * 1024, 256 * 1024, 3)]
    {
        let mut new = new_message(tenant, &["x@example.net"], "");
        let octets = |count: usize| (0..count).map(|at| (at % 251) as u8).collect::<Vec<_>>();
        new.content = Content { prefix: octets(prefix).into(), submitted: octets(submitted).into() };
        let id = store.enqueue(new.clone()).await.unwrap();
        assert_eq!(count(&client, pieces).await, expected);
        assert_eq!(store.content(id, now()).await.unwrap().unwrap(), new.content);
        let stored = store.stored_content(id, now()).await.unwrap().unwrap();
        assert_eq!(stored.octets(), new.content.len() as u64);
        store
            .cancel(
                id,
                store.open_deliveries(id).await.unwrap().deliveries.into_iter().map(|one| one.id).collect(),
                now(),
            )
            .await
            .unwrap();
        let policy = RetentionPolicy { body_days: 1, ..KEEP };
        store.prune(policy, now() + SignedDuration::from_hours(48), 100).await.unwrap();
        assert!(store.content(id, now()).await.unwrap().is_none());
        assert_eq!(count(&client, pieces).await, 0);
    }
    let orphan = MessageId::generate(now());
    client.execute("INSERT INTO body_piece VALUES ($1, 0, '')", &[&orphan.to_string()]).await.unwrap();
    store.prune(KEEP, now() + SignedDuration::from_mins(50), 100).await.unwrap();
    assert_eq!(count(&client, pieces).await, 1, "its message may be committed soon");
    store.prune(KEEP, now() + SignedDuration::from_mins(70), 100).await.unwrap();
    assert_eq!(count(&client, pieces).await, 0);
}

#[tokio::test]
async fn lanes_of_two_processes_count_usage_and_webhooks_in_rows_of_their_own() {
    let Some(harness) = harness().await else { return };
    let (one, other_dir) = (harness.open(0).await, tempfile::tempdir().unwrap());
    std::fs::copy(harness.dir.path().join("master.key"), other_dir.path().join("master.key")).unwrap();
    let other = PostgresOptions { data_dir: other_dir.path().to_owned(), ..harness.options() };
    let other = Store::open(other).await.unwrap();
    let tenant = one.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    one.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap();
    enqueue(&one, tenant).await;
    enqueue(&other, tenant).await;
    let client = harness.connect().await;
    assert_eq!(
        count(&client, "SELECT count(DISTINCT slot) FROM webhook_backlog_by_slot WHERE slot <> 0").await,
        2
    );
    assert_eq!(count(&client, "SELECT count(*) FROM usage_part_by_slot").await, 2);
    assert_eq!(one.webhook_backlog().await.unwrap(), 2);
}

#[tokio::test]
async fn a_message_whose_content_the_server_has_lost_is_not_accepted() {
    let Some(harness) = harness().await else { return };
    let store = harness.open(0).await;
    let tenant = store.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    let large = new_message(tenant, &["x@example.net"], &"x".repeat(300 * 1024));
    store.enqueue(large).await.unwrap();
    let lose = "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                CREATE TRIGGER lose BEFORE INSERT ON body_piece FOR EACH ROW EXECUTE FUNCTION lose()";
    harness.execute(lose).await;
    let other = new_message(tenant, &["y@example.net"], &"y".repeat(300 * 1024));
    assert!(store.enqueue(other).await.is_err());
}
