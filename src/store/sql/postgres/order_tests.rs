//! The order of events when several processes write at once.

use std::time::Duration;

use tokio_postgres::Client;

use crate::model::{EventId, EventKind, MessageId};
use crate::store::contract::postgres::PostgresHarness;
use crate::store::contract::{Harness, address, new_message, new_suppression, new_tenant, now};
use crate::store::{
    Directory, EventFilter, Journal, JournalCursor, JournalEntry, MessageFilter, PageRequest, Spool, Store,
};

/// The name of a session of this program.
const OURS: &str = "pillarbox";

/// Two processes that serve one database.
struct Cluster {
    harness: PostgresHarness,
    stores: [Store; 2],
}

impl Cluster {
    /// `None` where PostgreSQL is not installed.
    async fn new() -> Option<Self> {
        if !PostgresHarness::is_available() {
            return None;
        }
        Some(Self::open(PostgresHarness::new().await).await)
    }

    async fn open(harness: PostgresHarness) -> Self {
        let stores = [harness.open(0).await, Store::open(harness.options_of_node("other")).await.unwrap()];
        Self { harness, stores }
    }

    async fn reopen(self) -> Self {
        for store in self.stores {
            store.close().await;
        }
        Self::open(self.harness).await
    }

    /// Appends an event by a process.
    async fn append(&self, number: usize) {
        let new = new_suppression(None, &format!("x{}@one.example", now().as_microsecond()));
        self.stores[number].suppress(new, now()).await.unwrap();
    }

    async fn ends(&self) -> [JournalCursor; 2] {
        let [one, other] = &self.stores;
        [one.end_of_journal().await.unwrap(), other.end_of_journal().await.unwrap()]
    }

    /// The events after a position, which both processes read alike.
    async fn events_after(&self, position: JournalCursor) -> Vec<EventId> {
        self.ends().await;
        let mut read = Vec::new();
        for store in &self.stores {
            let entries = store.events_after(position, 10_000).await.unwrap().items;
            let filtered = store.filtered_events_after(EventFilter::default(), position).await.unwrap();
            assert!(entries.is_sorted_by(|one, next| one.cursor < next.cursor));
            assert_eq!(ids(&filtered.0), ids(&entries));
            read.push(ids(&entries));
        }
        assert_eq!(read[0], read[1]);
        read.remove(0)
    }
}

fn ids(entries: &[JournalEntry]) -> Vec<EventId> {
    entries.iter().map(|entry| entry.event.id).collect()
}

/// Begins a transaction with an event, as another connection of this program does.
async fn begin_with_event(session: &Client, message: Option<MessageId>) -> EventId {
    let id = EventId::generate(now());
    let kind = message.map_or(EventKind::TenantCreated, |_| EventKind::MessageAccepted);
    let message = message.map_or("NULL".to_owned(), |id| format!("'{id}'"));
    let sql = format!(
        "BEGIN; INSERT INTO event (id, kind, message_id, data, created_us) VALUES ('{id}', '{kind}', {message}, '{{}}', 0)"
    );
    session.batch_execute(&sql).await.unwrap();
    id
}

#[tokio::test]
async fn a_transaction_in_progress_is_not_overtaken() {
    let Some(cluster) = Cluster::new().await else { return };
    let begin = cluster.ends().await[0];
    let session = cluster.harness.session(OURS).await;
    cluster.append(0).await;
    let first = cluster.events_after(begin).await;
    let held = begin_with_event(&session, None).await;
    for number in [1, 0, 1] {
        cluster.append(number).await;
    }
    assert_eq!(cluster.events_after(begin).await, first, "what is behind the transaction waits for it");
    session.batch_execute("COMMIT").await.unwrap();
    let all = cluster.events_after(begin).await;
    assert_eq!((all.len(), all[1]), (5, held));
    for (place, id) in all.iter().enumerate() {
        for store in &cluster.stores {
            let cursor = store.cursor_of(*id).await.unwrap();
            assert_eq!(cluster.events_after(cursor).await, all[place + 1..], "after {id}");
        }
    }
}

#[tokio::test]
async fn a_transaction_that_is_rolled_back_holds_nobody_up() {
    let Some(cluster) = Cluster::new().await else { return };
    let begin = cluster.ends().await[0];
    let session = cluster.harness.session(OURS).await;
    begin_with_event(&session, None).await;
    cluster.append(0).await;
    assert_eq!(cluster.events_after(begin).await, []);
    session.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(cluster.events_after(begin).await.len(), 1);
}

#[tokio::test]
async fn a_writing_transaction_of_somebody_else_holds_nobody_up() {
    let Some(cluster) = Cluster::new().await else { return };
    let begin = cluster.ends().await[0];
    let session = cluster.harness.session("psql").await;
    session.batch_execute("BEGIN; CREATE TABLE theirs (x INTEGER)").await.unwrap();
    let mut watched = cluster.stores[1].watch_events();
    cluster.append(0).await;
    // Nobody looks but the task of the other process.
    tokio::time::timeout(Duration::from_secs(10), watched.changed()).await.expect("it is heard of").unwrap();
    assert_eq!(cluster.events_after(begin).await.len(), 1);
    session.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn the_search_index_misses_no_message_of_a_transaction_in_progress() {
    let Some(cluster) = Cluster::new().await else { return };
    let [one, other] = &cluster.stores;
    let tenant = one.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    let late = new_message(tenant, &["x@one.example"], "body");
    one.enqueue(late.clone()).await.unwrap();
    cluster.harness.execute("DELETE FROM event").await;
    let session = cluster.harness.session(OURS).await;
    begin_with_event(&session, Some(late.message.id)).await;
    let soon = new_message(tenant, &["x@one.example"], "body");
    other.enqueue(soon.clone()).await.unwrap();
    for store in [one, other] {
        assert!(!store.index_messages().await.unwrap());
    }
    session.batch_execute("COMMIT").await.unwrap();
    for store in [other, one] {
        let filter = MessageFilter { to: Some(address("x@one.example")), ..MessageFilter::default() };
        let page = PageRequest { limit: 100, ..PageRequest::default() };
        let found = store.list_messages(filter, page).await.unwrap().items;
        let found: Vec<_> = found.iter().map(|summary| summary.message.id).collect();
        assert_eq!(found, [soon.message.id, late.message.id]);
    }
}

#[tokio::test]
async fn a_client_that_knows_only_the_id_of_a_deleted_event_misses_nothing() {
    let Some(cluster) = Cluster::new().await else { return };
    let begin = cluster.ends().await[0];
    for number in [0, 1, 0] {
        cluster.append(number).await;
    }
    let all = cluster.events_after(begin).await;
    cluster.harness.execute(&format!("DELETE FROM event WHERE id = '{}'", all[0])).await;
    let cursor = cluster.stores[0].cursor_of(all[0]).await.unwrap();
    assert!(cluster.events_after(cursor).await.ends_with(&all[1..]));
    // A cursor of SQLite.
    let cursor = all[1].to_string().replace("evt_", "cur_").parse().unwrap();
    assert_eq!(cluster.events_after(cursor).await, all[2..]);
}

#[tokio::test]
async fn the_order_goes_on_in_a_restored_database_whose_transactions_have_lower_ids() {
    let Some(mut cluster) = Cluster::new().await else { return };
    let begin = cluster.ends().await[0];
    cluster.append(0).await;
    cluster.harness.execute("UPDATE event SET transaction_id = transaction_id + 1000000").await;
    for round in 2..4 {
        cluster = cluster.reopen().await;
        let before = cluster.events_after(begin).await;
        cluster.append(0).await;
        let all = cluster.events_after(begin).await;
        assert!(all.len() == round && all.starts_with(&before), "{before:?} {all:?}");
    }
}
