//! Counts round trips: how often a session waits for answers before it sends more.
//!
//! A socket before that of the server holds each answer back for a moment. What a session sends while answers are held back
//! belongs to one round trip, because it did not wait for them; without the delay, a quick server would answer the beginning of
//! a burst before its end is sent.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pillarbox::store::{RecordBatch, Spool, Store};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::mail::{BODY_OCTETS, Sender, all_delivered, messages};

/// The name of the socket in its directory, as PostgreSQL spells it.
const SOCKET: &str = ".s.PGSQL.5432";
/// Longer than it takes to send the statements of a transaction.
const DELAY: Duration = Duration::from_millis(50);
/// Messages of a transaction.
const BATCH: usize = 25;
const TRANSACTIONS: u64 = 10;

#[derive(Clone, Default)]
pub struct RoundTrips(Arc<AtomicU64>);

impl RoundTrips {
    /// Takes sessions in `dir` and forwards them to the server in `to`.
    pub fn listen(dir: &Path, to: &Path) -> Self {
        let count = Self::default();
        let (listener, counted) = (UnixListener::bind(dir.join(SOCKET)).unwrap(), count.clone());
        let to = to.join(SOCKET);
        tokio::spawn(async move {
            while let Ok((session, _)) = listener.accept().await {
                let server = UnixStream::connect(&to).await.unwrap();
                tokio::spawn(counted.clone().forward(session, server));
            }
        });
        count
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    async fn forward(self, session: UnixStream, server: UnixStream) {
        let (from_session, to_session) = session.into_split();
        let (from_server, to_server) = server.into_split();
        // Only lanes are counted: they name themselves when they begin.
        let (is_lane, has_heard) = (AtomicBool::new(false), AtomicBool::new(true));
        let asks = copy(from_session, to_server, Duration::ZERO, |octets| {
            if octets.windows(LANE.len()).any(|part| part == LANE) {
                is_lane.store(true, Ordering::Relaxed);
            }
            if has_heard.swap(false, Ordering::Relaxed) && is_lane.load(Ordering::Relaxed) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        });
        let answers = copy(from_server, to_session, DELAY, |_| has_heard.store(true, Ordering::Relaxed));
        tokio::join!(asks, answers);
    }
}

/// In the name of the session of a lane.
const LANE: &[u8] = b"pillarbox lane";

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
    note: impl Fn(&[u8]),
) {
    let mut octets = vec![0; 256 * 1024];
    while let Ok(count @ 1..) = from.read(&mut octets).await {
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        note(&octets[..count]);
        if to.write_all(&octets[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Prints the round trips of transactions that accept and that record, one after the other.
pub async fn measure(store: &Store, trips: &RoundTrips, senders: &[Sender]) {
    let mut counted = [0; 2];
    // Statements are prepared by the first ones.
    for number in 0..=TRANSACTIONS {
        let batch = messages(senders, BATCH, BODY_OCTETS);
        let begin = trips.count();
        store.enqueue_all(batch.clone()).await.unwrap();
        let accepted = trips.count();
        let records = all_delivered(&batch);
        store.record(RecordBatch { records, report: None }).await.unwrap();
        if number > 0 {
            counted[0] += accepted - begin;
            counted[1] += trips.count() - accepted;
        }
    }
    for (phase, count) in ["accept", "record"].into_iter().zip(counted) {
        println!(
            "{}",
            json!({ "phase": phase, "round_trips_per_transaction": count as f64 / TRANSACTIONS as f64 })
        );
    }
}
