//! Measures what the store takes alone, on SQLite: no TLS, no signatures, no network.
//!   cargo run --release --example spool_bench -- DIR [COUNT] [SENDERS] [OCTETS]
//! DIR must be new: on a disk, or on a file system in memory, which shows the cost without the disk. Bodies have
//! 10 KB unless OCTETS says otherwise. Accepts COUNT messages from SENDERS senders at a time, then records COUNT results, and prints one line of JSON for each:
//! rate, and processor time of the store's thread and of the whole process for each message.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../cluster/mail.rs"]
mod mail;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use pillarbox::store::{AttemptRecord, NewMessage, RecordBatch, Spool, SqliteOptions, Store};
use serde_json::json;

const COUNT: usize = 50_000;
const SENDERS: usize = 256;
/// Results in one call, as the relay writes them under load.
const RECORDS_IN_BATCH: usize = 16;
/// Messages that are made at a time, so that the bench needs little memory.
const CHUNK: usize = 10_000;

/// Processor time in microseconds.
struct ProcessorTime {
    store: f64,
    process: f64,
}

impl ProcessorTime {
    fn read() -> Self {
        let of_thread = |task: PathBuf| {
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            name.starts_with("store-lane").then(|| ran_us(&task))
        };
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let store = tasks.filter_map(|task| of_thread(task.path())).sum();
        Self { store, process: process_us() }
    }
}

/// The time that a thread ran: the first number, in nanoseconds.
fn ran_us(task: &std::path::Path) -> f64 {
    let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|ran| ran.parse::<f64>().ok()).unwrap_or_default() / 1000.0
}

fn process_us() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.map(|task| ran_us(&task.path())).sum()
}

#[derive(Default)]
struct Total {
    seconds: f64,
    store_us: f64,
    process_us: f64,
    count: usize,
}

impl Total {
    async fn measure(&mut self, count: usize, work: impl Future<Output = ()>) {
        let (begun, before) = (Instant::now(), ProcessorTime::read());
        work.await;
        let after = ProcessorTime::read();
        self.seconds += begun.elapsed().as_secs_f64();
        self.store_us += after.store - before.store;
        self.process_us += after.process - before.process;
        self.count += count;
    }

    fn print(&self, phase: &str) {
        let count = self.count as f64;
        let figures = json!({
            "phase": phase,
            "per_s": (count / self.seconds) as u64,
            "store_us": (self.store_us / count * 10.0).round() / 10.0,
            "process_us": (self.process_us / count * 10.0).round() / 10.0,
        });
        println!("{figures}");
    }
}

/// Divides work among senders that wait for each piece.
async fn share<T: Send + 'static, F: Future<Output = ()> + Send>(
    pieces: Vec<T>,
    senders: usize,
    send: impl Fn(T) -> F + Clone + Send + 'static,
) {
    let mut of_sender: Vec<Vec<T>> = (0..senders).map(|_| Vec::new()).collect();
    for (number, piece) in pieces.into_iter().enumerate() {
        of_sender[number % senders].push(piece);
    }
    let tasks = of_sender.into_iter().map(|pieces| {
        let send = send.clone();
        tokio::spawn(async move {
            for piece in pieces {
                send(piece).await;
            }
        })
    });
    for ended in join_all(tasks).await {
        ended.unwrap();
    }
}

async fn measure(dir: PathBuf, count: usize, senders: usize, body_octets: usize) {
    let options = SqliteOptions { read_connections: 4, hot_queue_bytes_max: 0, ..SqliteOptions::at(&dir) };
    let store = Arc::new(Store::open(options).await.unwrap());
    let tenants = mail::make_senders(&store).await;
    let (mut accepting, mut recording) = (Total::default(), Total::default());
    let mut left = count;
    while left > 0 {
        let news = mail::messages(&tenants, left.min(CHUNK), body_octets);
        left -= news.len();
        let records = mail::all_delivered(&news);
        let enqueue = {
            let store = store.clone();
            move |new: NewMessage| {
                let store = store.clone();
                async move {
                    store.enqueue(new).await.unwrap();
                }
            }
        };
        accepting.measure(news.len(), share(news, senders, enqueue)).await;
        let record = {
            let store = store.clone();
            move |records: Vec<AttemptRecord>| {
                let store = store.clone();
                async move { store.record(RecordBatch { records, report: None }).await.unwrap() }
            }
        };
        let batches: Vec<_> = records.chunks(RECORDS_IN_BATCH).map(<[_]>::to_vec).collect();
        recording.measure(records.len(), share(batches, senders / RECORDS_IN_BATCH + 1, record)).await;
    }
    accepting.print("accept");
    recording.print("record");
    store.close().await;
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = PathBuf::from(arguments.first().expect("the directory to fill"));
    let number = |place: usize, default| arguments.get(place).map_or(default, |text| text.parse().unwrap());
    fs::create_dir(&dir).expect("a directory that does not exist yet");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (count, senders, body_octets) = (number(1, COUNT), number(2, SENDERS), number(3, mail::BODY_OCTETS));
    runtime.block_on(measure(dir, count, senders, body_octets));
}
