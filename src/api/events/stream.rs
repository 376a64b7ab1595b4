//! Server-sent events. The stream reads the journal only when the client has taken the previous events, so a slow client
//! uses no memory. A client that takes nothing loses its connection and continues with `Last-Event-ID`.

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

use super::tail::{Following, Tail};
use crate::api::content::PIECE_OCTETS;
use crate::api::layers::auth::{self, Access};
use crate::clock::{Clock, Instant, Interval};
use crate::limits::tenant_semaphore::TenantPermit;
use crate::model::SecretDigest;
use crate::store::{Directory, EventFilter, Journal, JournalCursor, JournalEntry, Store};

/// Interval of keep-alive comments, so that proxies do not close an idle stream.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Interval of the in-memory check for changes of keys and tenants by this process.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of the check of the key in the store: it can expire or be revoked by another process.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// Octets to send before the journal is read again.
const PACE: Duration = Duration::from_millis(100);
/// Reconnection delay for the client.
const RETRY_MS: u64 = 2000;

/// By what a stream may go on.
pub struct Credential {
    pub digest: SecretDigest,
    pub access: Access,
    pub client: IpAddr,
}

/// Input of a stream.
pub struct Start {
    pub clock: Clock,
    pub store: Arc<Store>,
    pub tail: Arc<Tail>,
    /// Filter; contains the tenant of the caller.
    pub filter: EventFilter,
    /// Position of the client; `None` for the present end.
    pub after: Option<JournalCursor>,
    pub credential: Credential,
    pub turn: TenantPermit,
    pub stop: CancellationToken,
}

struct Follower {
    clock: Clock,
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

/// Starts a stream.
pub fn open(start: Start) -> Body {
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
        checked_at: start.clock.instant(),
        spoke_at: start.clock.instant(),
        looks: start.clock.interval(LOOK_INTERVAL),
        clock: start.clock,
        stop: start.stop,
        has_ended: false,
        _turn: start.turn,
    };
    let greeting = format!("retry: {RETRY_MS}\n: events follow as they happen\n\n");
    let state = (Some(greeting), follower);
    let chunks = stream::unfold(state, |(greeting, mut follower)| async move {
        let text = match greeting {
            Some(greeting) => greeting,
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
                self.spoke_at = self.clock.instant();
                Some(text)
            }
            Err(farewell) => {
                self.has_ended = true;
                Some(format!(": {farewell}\n\n"))
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
            if self.position < last {
                let found = self.tail.after(self.position, last).await;
                let found = found.map_err(|_| "the events cannot be read now; connect again")?;
                let (text, position) = tell(&found, &self.filter, self.position);
                self.position = position;
                if !text.is_empty() {
                    return Ok(text);
                }
                self.pause(PACE).await;
            } else if self.clock.elapsed_since(self.spoke_at) >= HEARTBEAT {
                return Ok(":\n\n".into());
            } else {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    Ok(()) = self.last.changed() => {}
                    () = self.looks.tick() => {}
                }
            }
        }
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.clock.sleep(time) => {}
        }
    }

    /// Ends the stream when the key loses access. Events committed in the same moment are still sent: a tenant receives the
    /// event of its own suspension.
    async fn check_key(&mut self) -> Result<(), &'static str> {
        let version = self.store.directory_version();
        if version == self.checked_version && self.clock.elapsed_since(self.checked_at) < CHECK_INTERVAL {
            return Ok(());
        }
        (self.checked_version, self.checked_at) = (version, self.clock.instant());
        let Credential { digest, access, client } = self.credential;
        let found = self.store.key_by_digest(digest).await;
        let found = found.map_err(|_| "the key cannot be checked now; connect again")?;
        match auth::admit(found, access, client, self.clock.now()) {
            Ok(_) => Ok(()),
            Err(_) => Err("this key is no longer allowed to read events"),
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
