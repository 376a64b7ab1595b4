//! Whether the cost of a message depends on the number of lanes: the same transactions, at the same rate in all, by 1 to 16 nodes
//! with one lane each. If it does not, and no lane waits for a lock, nodes can be added until the processors of the server or its
//! log are the limit.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pillarbox::store::{RecordBatch, Spool, Store};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::mail::{BODY_OCTETS, Sender, all_delivered, make_senders, messages};
use super::server::MeasuredServer;
use super::{copy_of_key, options};

const LANES: [usize; 5] = [1, 2, 4, 8, 16];
/// Messages of a transaction.
const BATCH: usize = 25;
/// All lanes together.
const MESSAGES_PER_S: usize = 300;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// Samples of the sessions of lanes, by what each waits for.
#[derive(Default)]
struct Samples {
    all: u64,
    waits: HashMap<String, u64>,
}

impl Samples {
    /// Takes samples for a time. Only lanes that do something count.
    async fn take(client: &Client, time: Duration) -> Self {
        let sql = "SELECT coalesce(wait_event_type || ':' || wait_event, '') FROM pg_stat_activity
                   WHERE application_name LIKE 'pillarbox lane%' AND state = 'active'";
        let statement = client.prepare(sql).await.unwrap();
        let (mut samples, end) = (Self::default(), Instant::now() + time);
        let mut ticks = interval(SAMPLE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while Instant::now() < end {
            ticks.tick().await;
            for row in client.query(&statement, &[]).await.unwrap() {
                samples.all += 1;
                *samples.waits.entry(row.get(0)).or_default() += 1;
            }
        }
        samples
    }

    fn percent(&self, is_meant: impl Fn(&str) -> bool) -> f64 {
        let count: u64 = self.waits.iter().filter(|(wait, _)| is_meant(wait)).map(|(_, count)| count).sum();
        (count as f64 / self.all.max(1) as f64 * 10_000.0).round() / 100.0
    }
}

/// Runs the server on one processor and this process, at the lowest priority, on the other.
pub fn pin(server: &MeasuredServer) {
    let own = std::process::id().to_string();
    for arguments in [
        vec!["taskset", "-acp", "0", &own],
        vec!["renice", "-n", "19", &own],
        vec!["taskset", "-acp", "1", &server.pid()],
    ] {
        let ran = Command::new(arguments[0]).args(&arguments[1..]).output();
        if !ran.is_ok_and(|output| output.status.success()) {
            eprintln!("not pinned: {arguments:?}");
        }
    }
}

/// Measures each number of lanes for so long.
pub async fn measure(server: &MeasuredServer, client: &Client, time: Duration) {
    pin(server);
    let dir = tempfile::tempdir().unwrap();
    let mut stores: Vec<Arc<Store>> = Vec::new();
    let mut senders = Vec::new();
    for lanes in LANES {
        while stores.len() < lanes {
            let at = dir.path().join(stores.len().to_string());
            let store = Store::open(options(server.config(), &at, copy_of_key(dir.path()), 1)).await.unwrap();
            if senders.is_empty() {
                senders = make_senders(&store).await;
            }
            // Prepares its statements, and makes its rows of usage.
            replay(&store, &senders, 4, Duration::ZERO).await;
            stores.push(Arc::new(store));
        }
        measure_lanes(server, client, &stores, &senders, time).await;
    }
    for store in stores {
        store.close().await;
    }
}

async fn measure_lanes(
    server: &MeasuredServer,
    client: &Client,
    stores: &[Arc<Store>],
    senders: &[Sender],
    time: Duration,
) {
    client.batch_execute("CHECKPOINT").await.unwrap();
    let before = Costs::read(server, client).await;
    Samples::take(client, time).await;
    let idle = Costs::read(server, client).await.since(&before);

    let before = Costs::read(server, client).await;
    let pause = Duration::from_secs_f64((BATCH * stores.len()) as f64 / MESSAGES_PER_S as f64);
    let batches = (time.as_secs_f64() / pause.as_secs_f64()).round() as usize;
    let callers: Vec<_> = stores
        .iter()
        .enumerate()
        .map(|(number, store)| {
            let (store, senders) = (Arc::clone(store), senders.to_vec());
            let first = pause.mul_f64(number as f64 / stores.len() as f64);
            tokio::spawn(async move {
                tokio::time::sleep(first).await;
                replay(&store, &senders, batches, pause).await;
            })
        })
        .collect();
    let samples = Samples::take(client, time).await;
    for caller in callers {
        caller.await.unwrap();
    }
    let costs = Costs::read(server, client).await.since(&before);
    let messages = (batches * BATCH * stores.len()) as f64;
    let round = |number: f64| (number * 1000.0).round() / 1000.0;
    println!(
        "{}",
        json!({
            "lanes": stores.len(),
            "messages": messages,
            "log_octets_per_message": round((costs.log_octets - idle.log_octets) / messages),
            "processor_s_per_1000": round((costs.processor_s - idle.processor_s) / messages * 1000.0),
            "idle_processor_s": round(idle.processor_s),
            "samples": samples.all,
            "percent_lock": samples.percent(|wait| wait.starts_with("Lock:")),
            "percent_lock_manager_or_wal_insert":
                samples.percent(|wait| wait == "LWLock:LockManager" || wait == "LWLock:WALInsert"),
            "deadlocks": costs.deadlocks,
        })
    );
    let mut waits: Vec<_> = samples.waits.into_iter().collect();
    waits.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    eprintln!("{waits:?}");
}

/// Accepts transactions of messages and records them as delivered, at this interval.
async fn replay(store: &Store, senders: &[Sender], batches: usize, pause: Duration) {
    let mut ticks = (pause > Duration::ZERO).then(|| interval(pause));
    for _ in 0..batches {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let batch = messages(senders, BATCH, BODY_OCTETS);
        store.enqueue_all(batch.clone()).await.unwrap();
        let records = all_delivered(&batch);
        store.record(RecordBatch { records, report: None }).await.unwrap();
    }
}

struct Costs {
    log_octets: f64,
    processor_s: f64,
    deadlocks: i64,
}

impl Costs {
    async fn read(server: &MeasuredServer, client: &Client) -> Self {
        let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8,
                          (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database())";
        let row = client.query_one(sql, &[]).await.unwrap();
        Self { log_octets: row.get(0), processor_s: server.processor_seconds(), deadlocks: row.get(1) }
    }

    fn since(self, before: &Self) -> Self {
        Self {
            log_octets: self.log_octets - before.log_octets,
            processor_s: self.processor_s - before.processor_s,
            deadlocks: self.deadlocks - before.deadlocks,
        }
    }
}
