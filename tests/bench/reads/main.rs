//! Measures what the slow questions of one tenant cost the others.
//!   cargo run --release --example reads_bench -- DIR [PILLARBOX] [COUNT]
//! DIR must be new; it gets a store with COUNT messages (100,000). Four calm tenants list their messages ten times a second
//! each, first alone, then beside a tenant that asks a slow question on sixteen connections. Target: beside any question,
//! the p99 of the calm tenants is at most twice the one alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pillarbox::mail::{Address, BodyType, Content, MailParameters, ReversePath, SignedDuration, Timestamp};
use pillarbox::model::{DeliveryId, Environment, KeySecret, MessageId, MessageKind, Scope, TenantId};
use pillarbox::store::{
    Annotations, Directory, Journal, Message, NewKey, NewMessage, NewTenant, Spool, SqliteOptions, Store,
};
use rustix::process::setpriority_process;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const CALM_TENANTS: usize = 4;
const CALM_PER_S: u64 = 10;
const BUSY_CONNECTIONS: usize = 16;
const BUSY_NICE: i32 = 10;
const SUBMITTERS: usize = 256;
const ROUND: Duration = Duration::from_secs(15);
const WORDS: &str = "about after again among before being below between could every";

/// Questions of the busy tenant.
fn questions() -> [(&'static str, String); 4] {
    let words = WORDS.replace(' ', "%20");
    [
        ("words that are all common but never meet", format!("/v1/emails?subject={words}")),
        ("a common beginning of a word", "/v1/emails?subject=be".into()),
        ("events of a rare kind", "/v1/events?type=message.complained&limit=100".into()),
        ("long pages", "/v1/emails?limit=100".into()),
    ]
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn message(tenants: &[TenantId], number: usize) -> NewMessage {
    let now = Timestamp::now();
    let content =
        Content { prefix: Bytes::new(), submitted: Bytes::from_static(b"From: a@example.com\r\n\r\nx\r\n") };
    // Each message has all common words but one.
    let words = WORDS.split(' ').count();
    let subject: Vec<_> = WORDS
        .split(' ')
        .enumerate()
        .filter(|(at, _)| at % words != number % words)
        .map(|(_, word)| word)
        .collect();
    let message = Message {
        id: MessageId::generate(now),
        tenant_id: tenants[number % tenants.len()],
        kind: MessageKind::Message,
        key_id: None,
        environment: Environment::Live,
        reverse_path: ReversePath::Mailbox(address("noreply@example.com")),
        body: BodyType::SevenBit,
        smtputf8: false,
        // Nothing is delivered meanwhile.
        parameters: MailParameters {
            release_at: Some(now + SignedDuration::from_hours(48)),
            ..MailParameters::default()
        },
        annotations: Annotations::default(),
        size: content.len() as u64,
        subject: Some(subject.join(" ")),
        header_from: Some("noreply@example.com".into()),
        header_message_id: Some(format!("{number}@example.com")),
        dkim_domain: None,
        sender_domain: None,
        list: None,
        created_at: now,
        expires_at: now + SignedDuration::from_hours(96),
    };
    let recipients = vec![(DeliveryId::generate(now), address(&format!("user{number}@d.example")).into())];
    NewMessage { message, recipients, suppressed: vec![], content, submission_key: None }
}

async fn make_tenant(store: &Store, number: usize) -> (TenantId, String) {
    let new = NewTenant::named(&format!("Tenant {number}"), &format!("tenant-{number}"));
    let tenant = store.create_tenant(new, Timestamp::now()).await.unwrap().id;
    let secret = KeySecret::generate(Environment::Live);
    let new = NewKey {
        tenant_id: Some(tenant),
        name: "bench".into(),
        environment: Environment::Live,
        scopes: Scope::ALL.to_vec(),
        allowed_domain_ids: vec![],
        allowed_cidrs: vec![],
        expires_at: None,
        stored_secret: secret.stored_secret(),
    };
    store.create_key(new, Timestamp::now()).await.unwrap();
    (tenant, secret.expose().to_owned())
}

/// Fills the store. Returns the keys of the tenants.
async fn fill(data_dir: &Path, count: usize) -> Vec<String> {
    let options = SqliteOptions { hot_queue_bytes_max: 0, ..SqliteOptions::at(data_dir) };
    let store = Arc::new(Store::open(options).await.unwrap());
    let (mut tenants, mut keys) = (Vec::new(), Vec::new());
    for number in 0..=CALM_TENANTS {
        let (tenant, key) = make_tenant(&store, number).await;
        tenants.push(tenant);
        keys.push(key);
    }
    let tenants = Arc::new(tenants);
    let mut submitters = JoinSet::new();
    for first in 0..SUBMITTERS {
        let (store, tenants) = (store.clone(), tenants.clone());
        submitters.spawn(async move {
            for number in (first..count).step_by(SUBMITTERS) {
                store.enqueue(message(&tenants, number)).await.unwrap();
            }
        });
    }
    submitters.join_all().await;
    while store.index_messages().await.unwrap() {}
    store.close().await;
    keys
}

struct Server {
    child: Child,
    api: SocketAddr,
}

impl Server {
    async fn start(program: &Path, dir: &Path, data_dir: &Path) -> Self {
        let api = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!(
            "hostname = \"relay.test\"\ndata_dir = {data_dir:?}\n[log]\nlevel = \"error\"\n[smtp]\nsubmission = []\n\
             submissions = []\n[api]\nlisten = [\"{api}\"]\nrequests_per_minute = 0\n\
             key_requests_per_minute = 0\n"
        );
        let config = dir.join("pillarbox.toml");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        let child = command.args(["serve", "--config"]).arg(&config).stdout(Stdio::null()).spawn().unwrap();
        let server = Self { child, api };
        while TcpStream::connect(api).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request and reads the response. Returns its status.
async fn get(stream: &mut TcpStream, path: &str, key: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    loop {
        assert!(stream.read_buf(&mut response).await.unwrap() > 0, "the API closed a connection");
        let Some(end) = response.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&response[..end]).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if response.len() >= end + 4 + length.parse::<usize>().unwrap() {
            return head[9..12].parse().unwrap();
        }
    }
}

/// Lists messages for each calm tenant. Returns p50 and p99 in milliseconds, and the number of failures.
async fn measure(server: &Server, keys: &[String]) -> (f64, f64, usize) {
    let mut tenants = JoinSet::new();
    for key in keys {
        let (api, key) = (server.api, key.clone());
        tenants.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / CALM_PER_S as u32);
            let mut requests = JoinSet::new();
            let started = Instant::now();
            while started.elapsed() < ROUND {
                ticks.tick().await;
                let key = key.clone();
                requests.spawn(async move {
                    let mut stream = TcpStream::connect(api).await.unwrap();
                    let started = Instant::now();
                    let status = get(&mut stream, "/v1/emails?limit=20", &key).await;
                    (started.elapsed().as_secs_f64() * 1000.0, status)
                });
            }
            requests.join_all().await
        });
    }
    let all: Vec<_> = tenants.join_all().await.into_iter().flatten().collect();
    let failed = all.iter().filter(|(_, status)| *status != 200).count();
    let mut took_ms: Vec<_> = all.into_iter().map(|(ms, _)| ms).collect();
    took_ms.sort_by(f64::total_cmp);
    (took_ms[took_ms.len() / 2], took_ms[took_ms.len() * 99 / 100], failed)
}

/// Asks a question on many connections until `stop`.
fn ask(busy: &Handle, server: &Server, path: &str, key: &str, stop: &CancellationToken) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..BUSY_CONNECTIONS {
        let (api, path, key, stop, count) =
            (server.api, path.to_owned(), key.to_owned(), stop.clone(), count.clone());
        busy.spawn(async move {
            let mut stream = TcpStream::connect(api).await.unwrap();
            while !stop.is_cancelled() {
                let status = get(&mut stream, &path, &key).await;
                // `overloaded`: the question took too long.
                assert!(matches!(status, 200 | 503), "{path}: {status}");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    count
}

async fn run(dir: PathBuf, program: PathBuf, count: usize, busy_clients: Handle) {
    let data_dir = dir.join("data");
    let keys = fill(&data_dir, count).await;
    let server = Server::start(&program, &dir, &data_dir).await;
    let (busy, calm) = keys.split_first().unwrap();
    measure(&server, calm).await;
    for (what, path) in questions() {
        let (quiet_p50, quiet_p99, _) = measure(&server, calm).await;
        let stop = CancellationToken::new();
        let asked = ask(&busy_clients, &server, &path, busy, &stop);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (p50, p99, failed) = measure(&server, calm).await;
        stop.cancel();
        println!(
            "{}",
            json!({"beside": what, "quiet_p50_ms": quiet_p50, "quiet_p99_ms": quiet_p99, "p50_ms": p50, "p99_ms": p99,
                   "p99_ratio": p99 / quiet_p99, "failed": failed, "answered_to_busy": asked.load(Ordering::Relaxed)})
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = PathBuf::from(arguments.first().expect("the directory to fill"));
    let program = arguments.get(1).map_or_else(|| PathBuf::from("target/release/pillarbox"), PathBuf::from);
    let count = arguments.get(2).map_or(100_000, |count| count.parse().expect("a number"));
    std::fs::create_dir(&dir).expect("a directory that does not exist yet");
    let dir = dir.canonicalize().unwrap();
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    // The clients of the busy tenant have a lower priority, because in reality they run on other machines.
    let lower_priority = || setpriority_process(None, BUSY_NICE).unwrap();
    let busy = Builder::new_multi_thread().enable_all().on_thread_start(lower_priority).build().unwrap();
    runtime.block_on(run(dir, program, count, busy.handle().clone()));
}
