//! Measures what a message costs on PostgreSQL: starts a server, accepts messages of 10 KB with bodies that cannot be
//! compressed, and records each as delivered. Prints one line of JSON for each figure.
//!   cargo run --release --example cluster_bench -- [COUNT] [webhook] [lanes=LANES] [SETTING=VALUE of PostgreSQL]...
//! Targets, for accepting and recording together: at most 20 KB of write-ahead log for each message and 0.30 s of processor
//! time of all processes of the server for each 1,000; 95 % of the updates of `delivery` without a change of an index; at most
//! 12 statements for each transaction. With `webhook`, an endpoint gets all events, which is a phase of its own.
//!   cluster_bench round-trips [SETTING=VALUE]...
//! Target: one round trip for a transaction that accepts; one more for a transaction that records, which locks its deliveries.
//!   cluster_bench one-at-a-time [SETTING=VALUE]...
//! Target: a message takes at most 1.5 ms more than a round trip and a flush.
//!   cluster_bench linearity [SECONDS] [SETTING=VALUE]...
//! 300 messages per second by 1, 2, 4, 8 and 16 nodes with one lane each. Targets: log and processor time of a message differ by
//! at most 5 %; at most 0.5 % of the samples of lanes wait for a lock, and 1 % for the lock manager or the insertion into the
//! log; no deadlocks. The figures are of use only if nothing else runs on the machine.
//!   cluster_bench claims [COUNT] [SETTING=VALUE]...
//! Four nodes on one backlog. Targets for 1,000,000: 90 % of the chosen deliveries are claimed; a page and a claim take less than
//! 5 ms together.
//!   cluster_bench order [COUNT] [SETTING=VALUE]...
//! Four nodes with eight lanes append events beside transactions that end late. Fails unless readers on two nodes see the same
//! sequence with all events.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod claims;
mod linearity;
mod mail;
mod meter;
mod one_at_a_time;
mod order;
#[path = "../../../src/store/contract/postgres_server.rs"]
mod postgres_server;
mod round_trips;
mod server;
mod webhook;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pillarbox::mail::{SignedDuration, Timestamp};
use pillarbox::store::{Access, Bounds, Journal, NewMessage, PostgresOptions, RecordBatch, Spool, Store};
use tokio::task::JoinSet;

use self::mail::{BODY_OCTETS, delivered, make_senders, messages};
use self::meter::Meter;
use self::round_trips::RoundTrips;
use self::server::MeasuredServer;

const CALLERS: usize = 64;
/// Messages before anything is measured, so that statements are prepared.
const WARM: usize = 200;

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

/// The arguments that remain are settings of the server.
struct Arguments(std::iter::Peekable<std::iter::Skip<std::env::Args>>);

impl Arguments {
    fn take(&mut self, word: &str) -> bool {
        self.0.next_if(|argument| argument == word).is_some()
    }

    fn take_number(&mut self) -> Option<usize> {
        self.0.next_if(|argument| argument.parse::<usize>().is_ok())?.parse().ok()
    }

    fn take_lanes(&mut self) -> Option<u32> {
        let argument = self.0.next_if(|argument| argument.starts_with("lanes="))?;
        Some(argument["lanes=".len()..].parse().unwrap())
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = Arguments(std::env::args().skip(1).peekable());
    let modes = ["round-trips", "one-at-a-time", "linearity", "claims", "order"];
    let mode = modes.into_iter().find(|mode| arguments.take(mode));
    let number = arguments.take_number();
    let has_webhook = arguments.take("webhook");
    let lanes = arguments.take_lanes().unwrap_or(2);
    let server = MeasuredServer::start(&arguments.0.collect::<Vec<_>>()).await;
    let client = server.connect().await;
    match mode {
        Some("linearity") => {
            let time = Duration::from_secs(number.unwrap_or(20) as u64);
            return linearity::measure(&server, &client, time).await;
        }
        Some("order") => return order::check(&server, number.unwrap_or(100_000)).await,
        Some("claims") => return claims::measure(&server, &client, number.unwrap_or(1_000_000)).await,
        _ => {}
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut config, mut trips) = (server.config(), None);
    if mode == Some("round-trips") {
        trips = Some(RoundTrips::listen(dir.path(), &server.socket_dir()));
        config = server.config_at(dir.path());
    }
    let store = Arc::new(Store::open(options(config, dir.path(), None, lanes)).await.unwrap());
    // At least 14 partitions of each table.
    for weeks in 0..12 {
        let at = Timestamp::now() + SignedDuration::from_hours(24 * 7 * weeks);
        store.extend_partitions(at).await.unwrap();
    }
    let senders = make_senders(&store).await;
    if let Some(trips) = trips {
        round_trips::measure(&store, &trips, &senders).await;
        return store.close().await;
    }
    let warm = messages(&senders, WARM, BODY_OCTETS);
    accept(&store, warm.clone()).await;
    record(&store, warm).await;
    client.batch_execute("CHECKPOINT").await.unwrap();
    if mode.is_some() {
        one_at_a_time::measure(&store, &client, &senders).await;
    } else {
        let meter = Meter { server: &server, client: &client };
        measure(&store, meter, messages(&senders, number.unwrap_or(2_000), BODY_OCTETS), has_webhook).await;
    }
    store.close().await;
}

async fn measure(store: &Arc<Store>, meter: Meter<'_>, messages: Vec<NewMessage>, has_webhook: bool) {
    let webhook = if has_webhook { Some(webhook::create(store).await) } else { None };
    meter.begin().await;
    let count = messages.len();
    meter.measure("accept", count, accept(store, messages.clone())).await;
    meter.print_statements().await;
    meter.measure("record", count, record(store, messages)).await;
    meter.print_statements().await;
    if let Some(id) = webhook {
        meter.measure("webhook", count, webhook::deliver(store, id)).await;
        meter.print_statements().await;
    }
    // The counts of a session are published when it has been idle for a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    meter.print_tables().await;
}

/// The file with the key of the first node; the others need it.
fn copy_of_key(dir: &Path) -> Option<PathBuf> {
    let key = dir.join("0/master.key");
    key.exists().then_some(key)
}

fn options(
    config: tokio_postgres::Config,
    data_dir: &Path,
    master_key_file: Option<PathBuf>,
    lanes: u32,
) -> PostgresOptions {
    PostgresOptions {
        config,
        tls: None,
        is_unsafe_allowed: true,
        data_dir: data_dir.to_owned(),
        master_key_file,
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
        async move {
            let records = vec![delivered(&new.message, new.recipients[0].0)];
            store.record(RecordBatch { records, report: None }).await.unwrap();
        }
    })
    .await;
}
