//! Measures a deep queue: fills a spool, then measures start-up, memory, claims, acceptance and the overview.
//!   cargo run --release --example queue_bench -- DIR [COUNT] [PILLARBOX]
//! DIR must be new; a million needs about 3 GB. Half of the deliveries are due now, half in a day. Prints one line of
//! JSON for each figure. Targets for 1,000,000: start-up under 5 s, under 300 MB resident, a claim that costs the same at
//! every depth, acceptance at 80 % or more of that with an empty queue.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pillarbox::clock::Clock;
use pillarbox::mail::{Address, BodyType, Content, Host, ReversePath, SignedDuration, Timestamp};
use pillarbox::model::{DeliveryId, Environment, KeySecret, MessageId, MessageKind, QueueFilter, TenantId};
use pillarbox::queue::{ClaimLimits, QueueManager};
use pillarbox::rng::Rng;
use pillarbox::store::{
    Directory, Message, NewKey, NewMessage, NewTenant, QueueRequest, Spool, SqliteOptions, Store,
};
use serde_json::json;

const TENANTS: usize = 20;
const DESTINATIONS: usize = 500;
const SUBMITTERS: usize = 256;
const BODY_OCTETS: usize = 1024;

async fn open(dir: &Path) -> Arc<Store> {
    let options = SqliteOptions { read_connections: 4, hot_queue_bytes_max: 0, ..SqliteOptions::at(dir) };
    Arc::new(Store::open(options).await.unwrap())
}

async fn furnish(store: &Store) -> (Vec<TenantId>, String) {
    let now = Timestamp::now();
    let mut tenants = Vec::new();
    for number in 0..TENANTS {
        let new = NewTenant::named(&format!("Tenant {number}"), &format!("tenant-{number}"));
        tenants.push(store.create_tenant(new, now).await.unwrap().id);
    }
    let secret = KeySecret::generate(Environment::Live);
    let key = NewKey {
        tenant_id: None,
        name: "bench".into(),
        environment: Environment::Live,
        scopes: vec![],
        allowed_domain_ids: vec![],
        allowed_cidrs: vec![],
        expires_at: None,
        stored_secret: secret.stored_secret(),
    };
    store.create_key(key, now).await.unwrap();
    (tenants, secret.expose().to_owned())
}

fn message(tenant_id: TenantId, number: usize, is_later: bool) -> NewMessage {
    let now = Timestamp::now();
    let content = Content {
        prefix: Bytes::from_static(b"Received: by bench\r\n"),
        submitted: Bytes::from(format!("Subject: {number}\r\n\r\n{}\r\n", "x".repeat(BODY_OCTETS))),
    };
    let mut message = Message {
        id: MessageId::generate(now),
        tenant_id,
        key_id: None,
        kind: MessageKind::Message,
        environment: Environment::Live,
        reverse_path: ReversePath::Mailbox(Address::parse("sender@example.com").unwrap()),
        body: BodyType::SevenBit,
        smtputf8: false,
        parameters: Default::default(),
        annotations: Default::default(),
        size: content.len() as u64,
        subject: Some(number.to_string()),
        header_from: Some("sender@example.com".into()),
        header_message_id: Some(format!("{number}@example.com")),
        dkim_domain: None,
        sender_domain: None,
        list: None,
        created_at: now,
        expires_at: now + SignedDuration::from_hours(96),
    };
    message.parameters.release_at = is_later.then(|| now + SignedDuration::from_hours(24));
    let recipient = format!("user{number}@d{}.example", number % DESTINATIONS);
    let recipients = vec![(DeliveryId::generate(now), Address::parse(&recipient).unwrap().into())];
    NewMessage { message, recipients, suppressed: vec![], content, submission_key: None }
}

/// Accepts `count` messages, many at a time. Returns the rate per second.
async fn accept(store: &Arc<Store>, tenants: &[TenantId], count: usize, is_later: fn(usize) -> bool) -> f64 {
    let started = Instant::now();
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|first| {
            let (store, tenants) = (store.clone(), tenants.to_vec());
            tokio::spawn(async move {
                for number in (first..count).step_by(SUBMITTERS) {
                    let tenant = tenants[number / 7 % tenants.len()];
                    store.enqueue(message(tenant, number, is_later(number))).await.unwrap();
                }
            })
        })
        .collect();
    for submitter in submitters {
        submitter.await.unwrap();
    }
    count as f64 / started.elapsed().as_secs_f64()
}

/// Claims and releases 100 deliveries at a time. Returns the median and the maximum in microseconds.
async fn claim(queue: &QueueManager, rounds: usize) -> (u128, u128) {
    let limits = ClaimLimits { deliveries_max: 100, per_tenant_max: 1024, admits: Arc::new(|_: &Host| true) };
    let mut took = Vec::new();
    for _ in 0..rounds {
        let started = Instant::now();
        let claimed = queue.claim_due(Timestamp::now(), &limits).await.unwrap();
        took.push(started.elapsed().as_micros());
        let deliveries = claimed.batches.iter().flat_map(|batch| &batch.deliveries);
        let ids: Vec<_> = deliveries.map(|delivery| delivery.id).collect();
        assert_eq!(ids.len(), 100);
        queue.release(ids);
    }
    took.sort_unstable();
    (took[rounds / 2], took[rounds - 1])
}

fn resident_mb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Starts the program on the filled spool. It delivers to a host that accepts connections and sends nothing, so that due
/// deliveries stay due.
struct Server {
    child: Child,
    api: String,
    _silent: TcpListener,
}

impl Server {
    fn start(program: &Path, data_dir: &Path) -> (Self, f64) {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (silent, api) = (free(), free().local_addr().unwrap());
        let smtp = free().local_addr().unwrap();
        let config = data_dir.join("bench.toml");
        let text = format!(
            "hostname = \"relay.test\"\ndata_dir = {data_dir:?}\n[log]\nlevel = \"warn\"\n\
             [smtp]\nsubmission = [\"{smtp}\"]\nsubmissions = []\n[api]\nlisten = [\"{api}\"]\n\
             [relay]\nallowed_private_networks = [\"127.0.0.0/8\"]\n\
             [relay.smart_host]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\n",
            silent.local_addr().unwrap().port()
        );
        std::fs::File::create(&config).unwrap().write_all(text.as_bytes()).unwrap();
        let started = Instant::now();
        let mut command = Command::new(program);
        let child = command.args(["serve", "--config"]).arg(&config).stdout(Stdio::null()).spawn().unwrap();
        let server = Self { child, api: format!("http://{api}"), _silent: silent };
        while server.ask("/readyz", "").is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        (server, started.elapsed().as_secs_f64())
    }

    fn ask(&self, path: &str, key: &str) -> Option<f64> {
        let started = Instant::now();
        let mut command = Command::new("curl");
        command.args(["--silent", "--fail", "--output", "/dev/null", "--header"]);
        let asked =
            command.arg(format!("Authorization: Bearer {key}")).arg(format!("{}{path}", self.api)).status();
        asked.unwrap().success().then(|| started.elapsed().as_secs_f64())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn measure_store(dir: &Path, count: usize) -> String {
    let store = open(&dir.join("full")).await;
    let queue = QueueManager::new(store.clone(), &Default::default(), Clock::system(), Rng::system());
    let (tenants, secret) = furnish(&store).await;
    let mut depth = 0;
    for wanted in [1_000, 100_000, count] {
        if wanted <= depth {
            continue;
        }
        let rate = accept(&store, &tenants, wanted - depth, |number| number % 2 == 1).await;
        depth = wanted;
        let (median, worst) = claim(&queue, 500).await;
        println!(
            "{}",
            json!({"depth": depth, "filled_per_s": rate as u64, "claim_100_us": median, "worst_us": worst})
        );
    }
    let request = QueueRequest { part: QueueFilter::default(), limit: 20, after: None };
    let started = Instant::now();
    let overview = queue.overview(request.clone(), Timestamp::now()).await.unwrap();
    let fresh_ms = started.elapsed().as_millis();
    let started = Instant::now();
    queue.overview(request, Timestamp::now()).await.unwrap();
    let kept_ms = started.elapsed().as_millis();
    println!(
        "{}",
        json!({"overview_fresh_ms": fresh_ms, "overview_kept_ms": kept_ms, "open": overview.totals.open})
    );

    let empty = open(&dir.join("empty")).await;
    let (few, _) = furnish(&empty).await;
    let mut ratios = Vec::new();
    for round in 0..7 {
        let in_empty = accept(&empty, &few, 10_000, |_| true).await;
        let in_full = accept(&store, &tenants, 10_000, |_| true).await;
        ratios.push(in_full / in_empty);
        println!("{}", json!({"round": round, "empty_per_s": in_empty as u64, "full_per_s": in_full as u64}));
    }
    ratios.sort_by(f64::total_cmp);
    println!("{}", json!({"acceptance_full_to_empty_median": ratios[ratios.len() / 2]}));
    store.close().await;
    empty.close().await;
    secret
}

fn measure_program(dir: &Path, program: &Path, secret: &str) {
    for round in 0..3 {
        let (server, startup_s) = Server::start(program, &dir.join("full"));
        let at_once_mb = resident_mb(server.child.id());
        let queue_s: Vec<_> = (0..3).filter_map(|_| server.ask("/v1/queue", secret)).collect();
        std::thread::sleep(Duration::from_secs(10));
        let later_mb = resident_mb(server.child.id());
        println!(
            "{}",
            json!({"round": round, "startup_s": startup_s, "resident_mb": at_once_mb,
                   "resident_mb_after_10_s": later_mb, "get_queue_s": queue_s})
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = PathBuf::from(arguments.first().expect("the directory to fill"));
    let count = arguments.get(1).map_or(1_000_000, |count| count.parse().expect("a number"));
    let program = arguments.get(2).map_or_else(|| PathBuf::from("target/release/pillarbox"), PathBuf::from);
    std::fs::create_dir(&dir).expect("a directory that does not exist yet");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let secret = runtime.block_on(measure_store(&dir, count));
    drop(runtime);
    measure_program(&dir, &program, &secret);
}
