//! Measures what a message costs on PostgreSQL: starts a server, accepts messages of 10 KB with bodies that cannot be
//! compressed, and records each as delivered. Prints one line of JSON for each figure.
//!   cargo run --release --example cluster_bench -- [COUNT] [webhook] [lanes=LANES] [SETTING=VALUE of PostgreSQL]...
//! Targets, for accepting and recording together: at most 20 KB of write-ahead log for each message and 0.30 s of processor
//! time of all processes of the server for each 1,000; 95 % of the updates of `delivery` without a change of an index; one
//! round trip and at most 12 statements for each transaction.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../src/store/contract/postgres_server.rs"]
#[allow(dead_code)]
mod postgres_server;
mod round_trips;
mod server;

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pillarbox::mail::{Address, BodyType, Content, DomainName, ReversePath, SignedDuration, Timestamp};
use pillarbox::model::{AttemptId, DeliveryId, DeliveryState, Environment, KeyId, KeySecret};
use pillarbox::model::{MessageId, MessageKind, TenantId};
use pillarbox::store::{
    Access, Attempt, AttemptRecord, Bounds, Directory, Journal, Message, NewKey, NewMessage, NewTenant,
    NewWebhook, Outbox, PostgresOptions, RecordBatch, Spool, Store, WebhookSecret,
};
use rand::Rng;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use zeroize::Zeroizing;

use self::round_trips::RoundTrips;
use self::server::MeasuredServer;

const TENANTS: usize = 20;
const CALLERS: usize = 64;
const BODY_OCTETS: usize = 10 * 1024;
const TRANSCRIPT: &str = "220 mx.example.net ESMTP\nEHLO out.example.org\n250-mx.example.net\n250-PIPELINING\n250-SIZE 52428800\n250-STARTTLS\n250 ENHANCEDSTATUSCODES\nSTARTTLS\n220 2.0.0 Ready\nEHLO out.example.org\n250 mx.example.net\nMAIL FROM:<bounce@example.com> SIZE=10240\n250 2.1.0 Ok\nRCPT TO:<user@example.net>\n250 2.1.5 Ok\nDATA\n354 Go ahead\n.\n250 2.0.0 Ok: queued as 4XyZabc";

/// A tenant and its key.
#[derive(Clone, Copy)]
struct Sender(TenantId, KeyId);

async fn make_sender(store: &Store, number: usize) -> Sender {
    let now = Timestamp::now();
    let new = NewTenant::named(&format!("Tenant {number}"), &format!("tenant-{number}"));
    let tenant = store.create_tenant(new, now).await.unwrap().id;
    let key = NewKey {
        tenant_id: Some(tenant),
        name: "bench".into(),
        environment: Environment::Live,
        scopes: vec![],
        allowed_domain_ids: vec![],
        allowed_cidrs: vec![],
        expires_at: None,
        stored_secret: KeySecret::generate(Environment::Live).stored_secret(),
    };
    Sender(tenant, store.create_key(key, now).await.unwrap().id)
}

fn message(Sender(tenant_id, key_id): Sender, number: usize) -> NewMessage {
    let now = Timestamp::now();
    let mut body = vec![0; BODY_OCTETS];
    rand::rng().fill_bytes(&mut body);
    let content = Content { prefix: Bytes::from_static(b"Received: by bench\r\n"), submitted: body.into() };
    let domain = DomainName::parse(&format!("tenant-{}.example", number % TENANTS)).unwrap();
    let message = Message {
        id: MessageId::generate(now),
        tenant_id,
        key_id: Some(key_id),
        kind: MessageKind::Message,
        environment: Environment::Live,
        reverse_path: ReversePath::Mailbox(Address::parse("sender@example.com").unwrap()),
        body: BodyType::EightBitMime,
        smtputf8: false,
        parameters: Default::default(),
        annotations: Default::default(),
        size: content.len() as u64,
        subject: Some(format!("Your order {number} is on its way")),
        header_from: Some("sender@example.com".into()),
        header_message_id: Some(format!("{number}.0123456789abcdef@example.com")),
        dkim_domain: Some(domain.clone()),
        sender_domain: Some(domain),
        list: None,
        created_at: now,
        expires_at: now + SignedDuration::from_hours(96),
    };
    let address = Address::parse(&format!("user{number}@d{}.example.net", number % 100)).unwrap();
    let recipients = vec![(DeliveryId::generate(now), address.into())];
    NewMessage { message, recipients, suppressed: vec![], content, submission_key: None }
}

fn delivered(new: &NewMessage) -> RecordBatch {
    let now = Timestamp::now();
    let (message, delivery_id) = (&new.message, new.recipients[0].0);
    let attempt = Attempt {
        id: AttemptId::generate(now),
        message_id: message.id,
        delivery_id,
        started_at: now,
        duration_ms: 120,
        host: "mx.example.net".into(),
        address: Some("192.0.2.1".parse().unwrap()),
        source: Some("192.0.2.7".parse().unwrap()),
        tls: Some("TLSv1.3 TLS13_AES_256_GCM_SHA384".into()),
        tls_policy: Some("opportunistic".into()),
        code: Some(250),
        enhanced: Some("2.0.0".parse().unwrap()),
        text: "2.0.0 Ok: queued as 4XyZabc".into(),
        transcript: TRANSCRIPT.into(),
        outcome: DeliveryState::Delivered,
        bounce_class: None,
        reason: String::new(),
    };
    let record = AttemptRecord {
        message_id: message.id,
        kind: MessageKind::Message,
        tenant_id: message.tenant_id,
        environment: message.environment,
        delivery_id,
        state: DeliveryState::Delivered,
        bounce_class: None,
        next_attempt_at: None,
        attempt: Some(attempt),
        reply: "250 2.0.0 Ok: queued as 4XyZabc".into(),
        suppress: None,
        delayed: false,
        at: now,
    };
    RecordBatch { records: vec![record], report: None }
}

/// Calls `work` for each item from many tasks.
async fn call_for_each<T, F>(items: Vec<T>, work: impl Fn(T) -> F + Clone + Send + Sync + 'static)
where
    T: Send + 'static,
    F: Future<Output = ()> + Send,
{
    let items = Arc::new(parking_lot::Mutex::new(items));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (items, work) = (Arc::clone(&items), work.clone());
        callers.spawn(async move {
            loop {
                let Some(item) = items.lock().pop() else { return };
                work(item).await;
            }
        });
    }
    callers.join_all().await;
}

/// What a phase is measured by.
struct Meter<'a> {
    server: &'a MeasuredServer,
    client: &'a Client,
    trips: RoundTrips,
}

/// Readings of the meter.
struct Reading {
    at: Instant,
    log_octets: f64,
    processor_s: f64,
    statements: f64,
    commits: f64,
    trips: f64,
}

impl Meter<'_> {
    async fn read(&self) -> Reading {
        let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8,
                          (SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat%'),
                          (SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements WHERE query LIKE '%pg_advisory_xact_lock_shared%')";
        let row = self.client.query_one(sql, &[]).await.unwrap();
        Reading {
            at: Instant::now(),
            log_octets: row.get(0),
            processor_s: self.server.processor_seconds(),
            statements: row.get(1),
            commits: row.get(2),
            trips: self.trips.count() as f64,
        }
    }

    async fn measure(&self, phase: &str, count: usize, work: impl Future<Output = ()>) {
        let before = self.read().await;
        work.await;
        let after = self.read().await;
        let messages = count as f64;
        let commits = (after.commits - before.commits).max(1.0);
        let round = |number: f64| (number * 1000.0).round() / 1000.0;
        let figures = json!({
            "phase": phase,
            "log_octets_per_message": round((after.log_octets - before.log_octets) / messages),
            "processor_s_per_1000": round((after.processor_s - before.processor_s) / messages * 1000.0),
            "messages_per_transaction": round(messages / commits),
            "statements_per_transaction": round((after.statements - before.statements) / commits),
            "round_trips_per_transaction": round((after.trips - before.trips) / commits),
            "messages_per_s": round(messages / (after.at - before.at).as_secs_f64()),
        });
        println!("{figures}");
    }

    /// Statements by their number, the most frequent first.
    async fn print_statements(&self) {
        let sql = "SELECT calls, rows, round(total_exec_time::numeric, 1)::float8, wal_bytes::float8, left(query, 110)
                   FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat%' ORDER BY calls DESC LIMIT 40";
        for row in self.client.query(sql, &[]).await.unwrap() {
            let (calls, rows, ms, octets, text): (i64, i64, f64, f64, String) =
                (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            eprintln!("{calls:>7} × {rows:>7} rows {ms:>9} ms {octets:>11} octets  {text}");
        }
        self.client.query("SELECT pg_stat_statements_reset()", &[]).await.unwrap();
    }

    async fn print_tables(&self) {
        let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        let deadlocks: i64 = self.client.query_one(sql, &[]).await.unwrap().get(0);
        println!("{}", json!({ "deadlocks": deadlocks }));
        // Partitions count for their tables.
        let sql = r"SELECT regexp_replace(relname, '_(past|future|\d{8}(_kept)?)$', '') AS name,
                          sum(n_tup_upd)::int8, sum(n_tup_hot_upd)::int8, sum(n_dead_tup)::int8
                    FROM pg_stat_user_tables GROUP BY name HAVING sum(n_tup_upd + n_dead_tup) > 0 ORDER BY name";
        for row in self.client.query(sql, &[]).await.unwrap() {
            let (table, updated, hot, dead): (String, i64, i64, i64) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            let hot = (updated > 0).then(|| (hot as f64 / updated as f64 * 1000.0).round() / 10.0);
            println!(
                "{}",
                json!({ "table": table, "updates": updated, "hot_percent": hot, "dead_rows": dead })
            );
        }
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let count = arguments
        .next_if(|argument| argument.parse::<usize>().is_ok())
        .map_or(2_000, |count| count.parse().unwrap());
    let has_webhook = arguments.next_if(|argument| argument == "webhook").is_some();
    let lanes = arguments.next_if(|argument| argument.starts_with("lanes="));
    let lanes = lanes.map_or(2, |lanes| lanes["lanes=".len()..].parse().unwrap());
    let server = MeasuredServer::start(&arguments.collect::<Vec<_>>()).await;
    let client = server.connect().await;
    client.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let trips = RoundTrips::listen(dir.path(), &server.socket_dir());
    let mut config = server.config();
    // Sessions begin at the socket that counts.
    config = {
        let mut counted = tokio_postgres::Config::new();
        counted.host_path(dir.path()).user(config.get_user().unwrap()).dbname(config.get_dbname().unwrap());
        counted
    };
    let store = Arc::new(Store::open(options(config, dir.path(), lanes)).await.unwrap());
    // At least 14 partitions of each table.
    for weeks in 0..12 {
        let at = Timestamp::now() + SignedDuration::from_hours(24 * 7 * weeks);
        store.extend_partitions(at).await.unwrap();
    }
    if has_webhook {
        let secret = WebhookSecret(Zeroizing::new(vec![7; 32]));
        let (url, environments) = ("https://hooks.example/".to_owned(), vec![Environment::Live]);
        let new = NewWebhook { tenant_id: None, url, kinds: vec![], environments, secret };
        store.create_webhook(new, Timestamp::now()).await.unwrap();
    }
    let mut senders = Vec::new();
    for number in 0..TENANTS {
        senders.push(make_sender(&store, number).await);
    }
    // Statements are prepared before anything is measured.
    let warm: Vec<_> = (0..TENANTS * 10).map(|number| message(senders[number % TENANTS], number)).collect();
    accept(&store, warm.clone()).await;
    record(&store, warm).await;
    client.batch_execute("CHECKPOINT").await.unwrap();
    let meter = Meter { server: &server, client: &client, trips };
    client.query("SELECT pg_stat_statements_reset()", &[]).await.unwrap();

    let messages: Vec<_> = (0..count).map(|number| message(senders[number % TENANTS], number)).collect();
    meter.measure("accept", count, accept(&store, messages.clone())).await;
    meter.print_statements().await;
    meter.measure("record", count, record(&store, messages)).await;
    meter.print_statements().await;
    store.close().await;
    drop(store);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    meter.print_tables().await;
}

fn options(config: tokio_postgres::Config, data_dir: &std::path::Path, lanes: u32) -> PostgresOptions {
    PostgresOptions {
        config,
        tls: None,
        is_unsafe_allowed: true,
        data_dir: data_dir.to_owned(),
        master_key_file: None,
        read_connections: 2,
        lanes,
        hot_queue_bytes_max: 1 << 30,
        access: Access::Serve,
        bounds: Bounds::default(),
    }
}

async fn accept(store: &Arc<Store>, messages: Vec<NewMessage>) {
    let store = Arc::clone(store);
    call_for_each(messages, move |new| {
        let store = Arc::clone(&store);
        async move {
            store.enqueue(new).await.unwrap();
        }
    })
    .await;
}

async fn record(store: &Arc<Store>, messages: Vec<NewMessage>) {
    let store = Arc::clone(store);
    call_for_each(messages, move |new| {
        let store = Arc::clone(&store);
        async move { store.record(delivered(&new)).await.unwrap() }
    })
    .await;
}
