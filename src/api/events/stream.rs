//! Server-sent events: the journal as it grows, for as long as the key may read it. Nothing is read from the journal
//! before the client has taken what was read last, so a slow client costs no memory; one that takes nothing is cut with
//! its connection, and goes on where it was with `Last-Event-ID`.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, interval};
use tokio_util::sync::CancellationToken;

use super::tail::{Following, Tail};
use crate::api::auth::{self, Access};
use crate::api::response::{PIECE_OCTETS, ResponseBody};
use crate::limits::tenant_semaphore::TenantPermit;
use crate::mail::Timestamp;
use crate::model::SecretDigest;
use crate::store::{Directory, EventFilter, Journal, JournalCursor, JournalEntry, Store};

/// A comment after so long a silence keeps proxies from closing the connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Between two looks at whether a key or a tenant has changed in this process, which costs nothing.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks at the key itself, which may expire or be revoked by another process.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// So much is gathered before the journal is read again.
const PACE: Duration = Duration::from_millis(100);
/// How long a client is to wait before it connects again.
const RETRY_MS: u64 = 2000;

/// By what a stream may go on.
pub struct Credential {
    pub digest: SecretDigest,
    pub access: Access,
    pub client: IpAddr,
}

/// What a stream begins with.
pub struct Start {
    pub store: Arc<Store>,
    pub tail: Arc<Tail>,
    /// Holds the tenant that the caller is confined to.
    pub filter: EventFilter,
    /// Where the client was; `None` for now.
    pub after: Option<JournalCursor>,
    pub credential: Credential,
    pub turn: TenantPermit,
    pub stop: CancellationToken,
}

struct Follower {
    store: Arc<Store>,
    tail: Arc<Tail>,
    filter: EventFilter,
    position: JournalCursor,
    last: watch::Receiver<JournalCursor>,
    credential: Credential,
    checked_at: Instant,
    checked_version: u64,
    spoke_at: Instant,
    looks: Interval,
    stop: CancellationToken,
    has_ended: bool,
    _turn: TenantPermit,
}

/// Begins a stream.
pub fn open(start: Start) -> ResponseBody {
    let last = start.store.watch_events();
    let position = start.after.unwrap_or(*last.borrow());
    let follower = Follower {
        // Before the key was looked up for this request it may have changed: so the first look is at it.
        checked_version: start.store.directory_version().wrapping_sub(1),
        store: start.store,
        tail: start.tail,
        filter: start.filter,
        position,
        last,
        credential: start.credential,
        checked_at: Instant::now(),
        spoke_at: Instant::now(),
        looks: interval(LOOK_INTERVAL),
        stop: start.stop,
        has_ended: false,
        _turn: start.turn,
    };
    let greeting = format!("retry: {RETRY_MS}\n: from here on every event as it happens\n\n");
    let state = (Some(greeting), follower);
    let chunks = stream::unfold(state, |(greeting, mut follower)| async move {
        let text = match greeting {
            Some(greeting) => greeting,
            None => follower.next_text().await?,
        };
        Some((Ok(Frame::data(Bytes::from(text))), (None, follower)))
    });
    StreamBody::new(chunks).boxed_unsync()
}

impl Follower {
    /// What to send next; `None` at the end.
    async fn next_text(&mut self) -> Option<String> {
        if self.has_ended {
            return None;
        }
        match self.follow().await {
            Ok(text) => {
                self.spoke_at = Instant::now();
                Some(text)
            }
            Err(farewell) => {
                self.has_ended = true;
                Some(format!(": {farewell}\n\n"))
            }
        }
    }

    /// Waits for something to send; the error says why there is no more.
    async fn follow(&mut self) -> Result<String, &'static str> {
        loop {
            if self.stop.is_cancelled() {
                return Err("the server is stopping; connect again");
            }
            self.check_key().await?;
            let last = *self.last.borrow_and_update();
            if self.position < last {
                let found = self.tail.after(self.position, last).await;
                let found = found.map_err(|_| "the journal cannot be read now; connect again")?;
                let (text, position) = tell(&found, &self.filter, self.position);
                self.position = position;
                if !text.is_empty() {
                    return Ok(text);
                }
                self.pause(PACE).await;
            } else if self.spoke_at.elapsed() >= HEARTBEAT {
                return Ok(":\n\n".into());
            } else {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    Ok(()) = self.last.changed() => {}
                    _ = self.looks.tick() => {}
                }
            }
        }
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(time) => {}
        }
    }

    /// Nothing is sent that the key may not read any more, but for what was committed in the very moment that ended it:
    /// a tenant may hear of its own suspension.
    async fn check_key(&mut self) -> Result<(), &'static str> {
        let version = self.store.directory_version();
        if version == self.checked_version && self.checked_at.elapsed() < CHECK_INTERVAL {
            return Ok(());
        }
        (self.checked_version, self.checked_at) = (version, Instant::now());
        let Credential { digest, access, client } = self.credential;
        let found = self.store.key_by_digest(digest).await;
        let found = found.map_err(|_| "the key cannot be checked now; connect again")?;
        match auth::admit(found, access, client, Timestamp::now()) {
            Ok(_) => Ok(()),
            Err(_) => Err("this key may not read events any more"),
        }
    }
}

/// As much of what was found as goes out at once, and where to go on.
fn tell(found: &Following, filter: &EventFilter, mut position: JournalCursor) -> (String, JournalCursor) {
    let mut text = String::new();
    for entry in &found.entries {
        if text.len() >= PIECE_OCTETS {
            return (text, position);
        }
        position = entry.cursor;
        if filter.takes(&entry.event) {
            text += &frame(entry);
        }
    }
    (text, found.position)
}

/// One event. JSON has no line ends, so it is one line.
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
    use crate::model::{EventId, EventKind};
    use crate::store::Event;

    #[test]
    fn what_a_client_is_far_behind_goes_out_in_pieces_and_none_is_left_out() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let cursor =
            |number: u128| format!("cur_{}", ulid::Ulid::from(number)).parse::<JournalCursor>().unwrap();
        let event = |second| Event {
            id: EventId::generate(at(second)),
            kind: EventKind::MessageDeferred,
            tenant_id: None,
            message_id: None,
            delivery_id: None,
            data: serde_json::json!({"reply": "x".repeat(1000)}),
            created_at: at(second),
        };
        let entry = |second: i64| JournalEntry { cursor: cursor(second as u128), event: event(second) };
        let entries: Vec<_> = (1..200).map(|second| Arc::new(entry(second))).collect();
        let end = cursor(500);
        let (mut position, mut told) = (cursor(0), String::new());
        for _ in 0..4 {
            let left = entries.iter().filter(|entry| entry.cursor > position).cloned().collect();
            let found = Following { entries: left, position: end };
            let (text, reached) = tell(&found, &EventFilter::default(), position);
            assert!(text.len() < PIECE_OCTETS + 2000, "{}", text.len());
            (position, told) = (reached, told + &text);
        }
        assert_eq!(position, end);
        assert_eq!(told, entries.iter().map(|entry| frame(entry)).collect::<String>());
    }
}
