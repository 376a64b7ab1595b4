//! How long a message takes on an idle system, and the parts that nothing can save: a round trip and a flush.

use std::time::Instant;

use pillarbox::store::{Spool, Store};
use serde_json::json;
use tokio_postgres::Client;

use super::mail::{BODY_OCTETS, Sender, messages};

const MESSAGES: usize = 300;

/// Prints medians in milliseconds.
pub async fn measure(store: &Store, client: &Client, senders: &[Sender]) {
    client.batch_execute("CREATE TABLE flushed (n BIGINT)").await.unwrap();
    let (ask, flush) = ("SELECT 1", "INSERT INTO flushed VALUES (1)");
    let (ask, flush) = (client.prepare(ask).await.unwrap(), client.prepare(flush).await.unwrap());
    let (mut accepts, mut trips, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
    for new in messages(senders, MESSAGES, BODY_OCTETS) {
        let begun = Instant::now();
        store.enqueue(new).await.unwrap();
        accepts.push(begun.elapsed());
        let begun = Instant::now();
        client.execute(&ask, &[]).await.unwrap();
        trips.push(begun.elapsed());
        let begun = Instant::now();
        client.execute(&flush, &[]).await.unwrap();
        flushes.push(begun.elapsed());
    }
    let [accept, trip, flush] = [accepts, trips, flushes].map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1000.0
    });
    let figures = json!({
        "phase": "one at a time",
        "accept_ms": accept,
        "round_trip_and_flush_ms": flush,
        "round_trip_ms": trip,
        "above_ms": accept - flush,
    });
    println!("{figures}");
}
