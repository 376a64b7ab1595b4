//! Two nodes on one database show the same sequence of events.

use std::sync::Arc;
use std::time::Duration;

use rand::random_range;
use tokio::task::JoinSet;

use super::tail::{Reader, Tail};
use crate::mail::Timestamp;
use crate::model::EventId;
use crate::store::contract::postgres::PostgresHarness;
use crate::store::contract::{Harness, new_suppression, now};
use crate::store::{Directory, EventFilter, Journal, JournalCursor, Store};

const CONNECTIONS: usize = 8;
const TRANSACTIONS: usize = 120;
/// In each transaction of a connection.
const EVENTS: usize = 11;
/// Of each store itself.
const SUPPRESSIONS: usize = 100;

/// Commits transactions that take up to 40 ms, beside others.
async fn write(session: tokio_postgres::Client) {
    for _ in 0..TRANSACTIONS {
        session.batch_execute("BEGIN").await.unwrap();
        for _ in 0..EVENTS {
            let id = EventId::generate(Timestamp::now());
            let sql = format!(
                "INSERT INTO event (id, kind, data, created_us) VALUES ('{id}', 'tenant.created', '{{}}', 0)"
            );
            session.batch_execute(&sql).await.unwrap();
            if random_range(0..EVENTS) == 0 {
                tokio::time::sleep(Duration::from_millis(random_range(0..20))).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(random_range(0..20))).await;
        session.batch_execute("COMMIT").await.unwrap();
    }
}

async fn suppress(store: Arc<Store>) {
    for _ in 0..SUPPRESSIONS {
        let new = new_suppression(None, &format!("x{}@one.example", now().as_microsecond()));
        store.suppress(new, now()).await.unwrap();
    }
}

/// Follows the journal like a client that loses its connection now and then, until it has seen so many events.
async fn follow(store: Arc<Store>, begin: JournalCursor, count: usize) -> Vec<EventId> {
    let tail = Tail::new(store.clone());
    let reader = Reader { store: (*store).clone(), filter: EventFilter::default() };
    let mut watched = store.watch_events();
    let (mut position, mut seen) = (begin, Vec::new());
    while seen.len() < count {
        let last = *watched.borrow_and_update();
        if position >= last {
            watched.changed().await.unwrap();
            continue;
        }
        let found = tail.after(&reader, position, last).await.unwrap();
        let received = if random_range(0..4) == 0 { found.entries.len() / 2 } else { found.entries.len() };
        let received = &found.entries[..received];
        seen.extend(received.iter().map(|entry| entry.event.id));
        position = match received.last() {
            _ if received.len() == found.entries.len() => found.position,
            None => position,
            Some(entry) if random_range(0..2) == 0 => entry.cursor.to_string().parse().unwrap(),
            Some(entry) => store.cursor_of(entry.event.id).await.unwrap(),
        };
    }
    seen
}

#[tokio::test]
async fn tails_of_two_nodes_show_one_sequence_without_gaps_while_many_connections_write() {
    if !PostgresHarness::is_available() {
        return;
    }
    let harness = PostgresHarness::new().await;
    let stores =
        [harness.open(0).await, Store::open(harness.options_of_node("other")).await.unwrap()].map(Arc::new);
    let begin = stores[0].end_of_journal().await.unwrap();
    let count = CONNECTIONS * TRANSACTIONS * EVENTS + stores.len() * SUPPRESSIONS;
    let tails = stores.each_ref().map(|store| tokio::spawn(follow(store.clone(), begin, count)));
    let mut writers = JoinSet::new();
    for number in 0..CONNECTIONS {
        writers.spawn(write(harness.session(&format!("pillarbox {number}")).await));
    }
    stores.iter().for_each(|store| drop(writers.spawn(suppress(store.clone()))));
    writers.join_all().await;
    let sql = "SELECT id FROM event ORDER BY transaction_id, number";
    let rows = harness.session("test").await.query(sql, &[]).await.unwrap();
    let stored: Vec<EventId> = rows.iter().map(|row| row.get::<_, &str>(0).parse().unwrap()).collect();
    assert_eq!(stored.len(), count);
    for tail in tails {
        let seen = tokio::time::timeout(Duration::from_secs(60), tail).await.expect("no event is missing");
        assert!(seen.unwrap() == stored, "a tail has another sequence");
    }
}
