//! Four nodes that append events at the same time, beside transactions that end late, and two readers on two nodes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pillarbox::mail::Timestamp;
use pillarbox::model::EventId;
use pillarbox::store::{Journal, JournalCursor, Spool, Store};
use rand::Rng;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use super::mail::{Sender, make_senders, messages};
use super::server::MeasuredServer;
use super::{copy_of_key, options};

const NODES: usize = 4;
const LANES: u32 = 2;
/// Tasks of each node that append.
const SENDERS: usize = 16;
const BODY_OCTETS: usize = 100;
/// Sessions that hold transactions with an event open.
const STALLS: usize = 4;
const STALL_MS_MAX: u64 = 500;
/// Events in one page of a reader.
const PAGE: usize = 500;
/// A reader begins again at the id of its last event after so many pages.
const PAGES_PER_CONNECTION: usize = 7;

/// Appends so many events, and requires that both readers see all of them in one order.
pub async fn check(server: &MeasuredServer, count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = Vec::new();
    for number in 0..NODES {
        stores.push(open(server, dir.path(), number).await);
    }
    let senders = make_senders(&stores[0]).await;
    let begin = stores[0].end_of_journal().await.unwrap();
    let (left, stalled) = (Arc::new(AtomicUsize::new(count)), Arc::new(AtomicUsize::new(0)));
    let begun = Instant::now();
    let mut appending = JoinSet::new();
    for store in &stores {
        for _ in 0..SENDERS {
            appending.spawn(append(Arc::clone(store), senders.clone(), Arc::clone(&left)));
        }
    }
    let mut stalling = JoinSet::new();
    for _ in 0..STALLS {
        let session = session(server).await;
        stalling.spawn(stall(session, Arc::clone(&left), Arc::clone(&stalled)));
    }
    let ended = Arc::new(AtomicUsize::new(0));
    let readers = [1, 3].map(|node| {
        let (store, ended) = (Arc::clone(&stores[node]), Arc::clone(&ended));
        tokio::spawn(async move { read(&store, begin, &ended).await })
    });
    appending.join_all().await;
    stalling.join_all().await;
    let total = count + stalled.load(Ordering::Acquire);
    ended.store(total, Ordering::Release);
    let mut read = Vec::new();
    for reader in readers {
        read.push(reader.await.unwrap());
    }
    let is_same = read[0] == read[1];
    let mut distinct = read[0].clone();
    distinct.sort();
    distinct.dedup();
    println!(
        "{}",
        json!({"phase": "order", "nodes": NODES, "lanes": NODES as u32 * LANES, "events": total, "stalled": total - count,
               "read": read.iter().map(Vec::len).collect::<Vec<_>>(), "distinct": distinct.len(), "same_order": is_same,
               "seconds": begun.elapsed().as_secs()})
    );
    assert!(is_same && distinct.len() == total && read[0].len() == total);
    for store in stores {
        store.close().await;
    }
}

async fn open(server: &MeasuredServer, dir: &Path, number: usize) -> Arc<Store> {
    let options = options(server.config(), &dir.join(number.to_string()), copy_of_key(dir), LANES);
    Arc::new(Store::open(options).await.unwrap())
}

async fn session(server: &MeasuredServer) -> tokio_postgres::Client {
    // Its transactions count for the order, like those of lanes.
    let mut config = server.config();
    config.application_name("pillarbox stall");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn append(store: Arc<Store>, senders: Vec<Sender>, left: Arc<AtomicUsize>) {
    let take = |left: usize| left.checked_sub(1);
    while left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok() {
        store.enqueue_all(messages(&senders, 1, BODY_OCTETS)).await.unwrap();
    }
}

/// Appends events in transactions that end late; every third one is rolled back.
async fn stall(session: tokio_postgres::Client, left: Arc<AtomicUsize>, stalled: Arc<AtomicUsize>) {
    for number in 0.. {
        if left.load(Ordering::Acquire) == 0 {
            return;
        }
        let id = EventId::generate(Timestamp::now());
        let begin = format!(
            "BEGIN; INSERT INTO event (id, kind, data, created_us) VALUES ('{id}', 'tenant.created', '{{}}', 0)"
        );
        session.batch_execute(&begin).await.unwrap();
        let milliseconds = rand::rng().next_u64() % STALL_MS_MAX;
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        if number % 3 == 0 {
            session.batch_execute("ROLLBACK").await.unwrap();
        } else {
            session.batch_execute("COMMIT").await.unwrap();
            stalled.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Reads until there are as many events as were appended, once that is known.
async fn read(store: &Store, begin: JournalCursor, total: &AtomicUsize) -> Vec<EventId> {
    let (mut position, mut events) = (begin, Vec::new());
    for pages in 1.. {
        let page = store.events_after(position, PAGE).await.unwrap().items;
        let Some(last) = page.last() else {
            let total = total.load(Ordering::Acquire);
            if total > 0 && events.len() >= total {
                break;
            }
            store.end_of_journal().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        position = match pages % PAGES_PER_CONNECTION {
            0 => store.cursor_of(last.event.id).await.unwrap(),
            _ => last.cursor,
        };
        events.extend(page.iter().map(|entry| entry.event.id));
    }
    events
}
