//! Server-sent events. The stream reads the journal only once the connection has accepted the previous events, so a slow
//! client uses no memory. The idle timeout closes the connection of a client that receives nothing; the client then
//! continues with `Last-Event-ID`.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::tail::{EventsAfter, Reader, Tail};
use crate::api::content::PIECE_OCTETS;
use crate::api::in_process::SignedIn;
use crate::api::layers::auth::{self, Access, Asked};
use crate::clock::{Clock, Instant, Interval};
use crate::limits::tenant_semaphore::TenantPermit;
use crate::model::TenantId;
use crate::store::{Directory, EventFilter, Journal, JournalCursor, JournalEntry};

/// Interval of heartbeats, so that proxies do not close an idle stream.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Interval of the in-memory check for changes of keys and tenants by this process.
const VERSION_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of the check of the key in the store: it can expire or be revoked by another process.
const KEY_CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// Pause before the next read of the journal if the filter admitted no event of this one.
const READ_PAUSE: Duration = Duration::from_millis(100);
/// Reconnection delay for the client, in milliseconds.
const RETRY_MS: u64 = 2000;

/// The credential of a stream. The stream ends when it becomes invalid.
pub struct Credential {
    pub signed_in: SignedIn,
    /// The owner of the key.
    pub owner: Option<TenantId>,
    pub access: Access,
    pub client: IpAddr,
}

/// Input of a stream.
pub struct Start {
    pub clock: Clock,
    /// Store and filter; the filter contains the tenant of the caller.
    pub reader: Reader,
    pub tail: Arc<Tail>,
    /// Position of the client; `None` for the end of the journal.
    pub after: Option<JournalCursor>,
    /// The end of the journal.
    pub end: JournalCursor,
    pub credential: Credential,
    pub permit: TenantPermit,
    pub stop: CancellationToken,
}

struct Follower {
    clock: Clock,
    reader: Reader,
    tail: Arc<Tail>,
    position: JournalCursor,
    /// The position after the last event that the client has.
    sent: JournalCursor,
    last: watch::Receiver<JournalCursor>,
    credential: Credential,
    checked_at: Instant,
    /// The version of the directory at the last check; `None` before the first one.
    checked_version: Option<u64>,
    last_sent_at: Instant,
    version_checks: Interval,
    stop: CancellationToken,
    has_ended: bool,
    _permit: TenantPermit,
}

/// Starts a stream.
pub fn open(start: Start) -> Body {
    let position = start.after.unwrap_or(start.end);
    let follower = Follower {
        // The key may have changed since authentication, so the first step checks it.
        checked_version: None,
        tail: start.tail,
        position,
        sent: start.after.unwrap_or(position.rounded_down()),
        last: start.reader.store.watch_events(),
        reader: start.reader,
        credential: start.credential,
        checked_at: start.clock.instant(),
        last_sent_at: start.clock.instant(),
        version_checks: start.clock.interval(VERSION_CHECK_INTERVAL),
        clock: start.clock,
        stop: start.stop,
        has_ended: false,
        _permit: start.permit,
    };
    let preamble = format!("retry: {RETRY_MS}\n: events follow as they happen\n{}", follower.heartbeat());
    let state = (Some(preamble), follower);
    let chunks = stream::unfold(state, |(preamble, mut follower)| async move {
        let text = match preamble {
            Some(preamble) => preamble,
            None => follower.next_text().await?,
        };
        Some((Ok::<_, Infallible>(Bytes::from(text)), (None, follower)))
    });
    Body::from_stream(chunks)
}

impl Follower {
    /// The next data to send; `None` at the end.
    async fn next_text(&mut self) -> Option<String> {
        if self.has_ended {
            return None;
        }
        match self.follow().await {
            Ok(text) => {
                self.last_sent_at = self.clock.instant();
                Some(text)
            }
            Err(reason) => {
                self.has_ended = true;
                Some(format!(": {reason}\n\n"))
            }
        }
    }

    /// Waits for data to send. An error is the reason why the stream ends.
    async fn follow(&mut self) -> Result<String, &'static str> {
        loop {
            if self.stop.is_cancelled() {
                return Err("the server is stopping; connect again");
            }
            self.check_key().await?;
            let last = *self.last.borrow_and_update();
            let is_behind = self.position < last;
            if is_behind {
                let found = self.tail.after(&self.reader, self.position, last).await;
                let found = found.map_err(|_| "the events cannot be read now; connect again")?;
                let piece = next_piece(&found, &self.reader.filter, self.position);
                self.position = piece.position;
                if !piece.text.is_empty() {
                    self.sent = piece.sent;
                    return Ok(piece.text);
                }
            }
            if self.clock.elapsed_since(self.last_sent_at) >= KEEP_ALIVE_INTERVAL {
                return Ok(self.heartbeat());
            }
            if is_behind {
                self.pause(READ_PAUSE).await;
            } else {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    Ok(()) = self.last.changed() => {}
                    () = self.version_checks.tick() => {}
                }
            }
        }
    }

    /// Tells the client its position, also if the filter takes no event. An event without data is not dispatched, but its id
    /// is the next `Last-Event-ID` (HTML Living Standard §9.2.6).
    fn heartbeat(&self) -> String {
        // The event before the position can be one of another tenant.
        format!("id: {}\n\n", self.position.rounded_down().max(self.sent))
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.clock.sleep(time) => {}
        }
    }

    /// Fails if the key has lost access. A tenant still receives the event of its own suspension: the stream sends it if it
    /// was committed before the check.
    async fn check_key(&mut self) -> Result<(), &'static str> {
        let Credential { ref signed_in, owner, access, client } = self.credential;
        let is_unchanged = |checked| self.reader.store.version_of_owner(owner) <= checked;
        if self.checked_version.is_some_and(is_unchanged)
            && self.clock.elapsed_since(self.checked_at) < KEY_CHECK_INTERVAL
        {
            return Ok(());
        }
        self.checked_version = Some(self.reader.store.directory_version());
        self.checked_at = self.clock.instant();
        let found = auth::read_caller(&self.reader.store, signed_in, self.clock.now()).await;
        let asked = Asked { access, reads: true };
        match found.and_then(|found| auth::admit(found, asked, client, self.clock.now())) {
            Ok(_) => Ok(()),
            Err(error) if error.cause.is_some() => Err("the key cannot be checked now; connect again"),
            Err(_) => Err("this key is no longer allowed to read events"),
        }
    }
}

/// A piece of the stream.
struct Piece {
    text: String,
    /// The position after it.
    position: JournalCursor,
    /// The position after its last event.
    sent: JournalCursor,
}

fn next_piece(found: &EventsAfter, filter: &EventFilter, begin: JournalCursor) -> Piece {
    let mut piece = Piece { text: String::new(), position: begin, sent: begin };
    for entry in &found.entries {
        if piece.text.len() >= PIECE_OCTETS {
            return piece;
        }
        piece.position = entry.cursor;
        if filter.takes(&entry.event) {
            piece.text += &frame(entry);
            piece.sent = entry.cursor;
        }
    }
    Piece { position: found.position, ..piece }
}

/// One event. Compact JSON has no line breaks, so `data` is one line.
fn frame(entry: &JournalEntry) -> String {
    let JournalEntry { cursor, event } = entry;
    let mut text = format!("id: {cursor}\nevent: {}\ndata: ", event.kind);
    match serde_json::to_string(event) {
        Ok(json) => text += &json,
        Err(error) => drop(write!(text, "{{\"error\":\"{error}\"}}")),
    }
    text + "\n\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;
    use crate::model::{EventId, EventKind};
    use crate::store::Event;

    #[test]
    fn a_client_that_is_far_behind_gets_all_events_in_pieces() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let cursor =
            |number: u128| format!("cur_{}", ulid::Ulid::from(number)).parse::<JournalCursor>().unwrap();
        let event = |second| Event {
            id: EventId::generate(at(second)),
            kind: EventKind::MessageDeferred,
            tenant_id: None,
            environment: None,
            message_id: None,
            delivery_id: None,
            external_ref: None,
            annotations: Default::default(),
            data: serde_json::json!({"reply": "x".repeat(1000)}),
            created_at: at(second),
        };
        let entry = |second: i64| JournalEntry { cursor: cursor(second as u128), event: event(second) };
        let entries: Vec<_> = (1..200).map(|second| Arc::new(entry(second))).collect();
        let end = cursor(500);
        let (mut position, mut sent) = (cursor(0), String::new());
        for _ in 0..5 {
            let left = entries.iter().filter(|entry| entry.cursor > position).cloned().collect();
            let found = EventsAfter { entries: left, position: end };
            let piece = next_piece(&found, &EventFilter::default(), position);
            assert!(piece.text.len() < PIECE_OCTETS + 2000, "{}", piece.text.len());
            (position, sent) = (piece.position, sent + &piece.text);
        }
        assert_eq!(position, end);
        assert_eq!(sent, entries.iter().map(|entry| frame(entry)).collect::<String>());
    }
}
