//! Limits lines that come in floods: somebody who is refused a thousand times a second must not fill the disk with it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

pub const TARGET: &str = "pillarbox::flood";
const INTERVAL: Duration = Duration::from_secs(60);
/// Maximum of different messages in an interval; further ones are not written.
const MESSAGES_MAX: usize = 100;

/// Lets one event of each message pass in an interval, if it has the target, and counts the others.
#[derive(Clone, Default)]
pub struct FloodLimit(Arc<Mutex<HashMap<String, u64>>>);

impl FloodLimit {
    /// Starts the thread that writes the counts; `None` without it, because nothing would end an interval.
    pub fn start() -> Option<Self> {
        let limit = Self::default();
        let counting = limit.clone();
        let thread = thread::Builder::new().name("log counts".into()).spawn(move || {
            loop {
                thread::sleep(INTERVAL);
                counting.end_interval();
            }
        });
        thread.is_ok().then_some(limit)
    }

    /// Writes the counts of the interval, and begins the next one.
    fn end_interval(&self) {
        let ended = std::mem::take(&mut *self.0.lock());
        for (message, count) in ended.into_iter().filter(|(_, count)| *count > 0) {
            tracing::warn!(count, "more of these in the last minute: {message}");
        }
    }
}

impl<S: Subscriber> Layer<S> for FloodLimit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        if event.metadata().target() != TARGET {
            return true;
        }
        let mut message = Message::default();
        event.record(&mut message);
        let mut counts = self.0.lock();
        if let Some(count) = counts.get_mut(&message.0) {
            *count += 1;
            return false;
        }
        let has_space = counts.len() < MESSAGES_MAX;
        if has_space {
            counts.insert(message.0, 0);
        }
        has_space
    }
}

/// The text of an event, without its other fields.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Keeps the messages that are written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            let mut message = Message::default();
            event.record(&mut message);
            self.0.lock().push(message.0);
        }
    }

    #[test]
    fn a_flood_is_one_line_and_a_count_in_each_interval() {
        let (written, limit) = (Written::default(), FloodLimit::default());
        let subscriber = tracing_subscriber::registry().with(written.clone()).with(limit.clone());
        let take = || std::mem::take(&mut *written.0.lock());
        tracing::subscriber::with_default(subscriber, || {
            for peer in 0..1000 {
                tracing::warn!(target: TARGET, peer, "rejected: {}", "full");
            }
            tracing::warn!(target: TARGET, "rejected: banned");
            for _ in 0..2 {
                tracing::warn!("not of this kind");
            }
            assert_eq!(
                take(),
                ["rejected: full", "rejected: banned", "not of this kind", "not of this kind"]
            );
            limit.end_interval();
            assert_eq!(take(), ["more of these in the last minute: rejected: full"]);
            limit.end_interval();
            tracing::warn!(target: TARGET, "rejected: {}", "full");
            assert_eq!(take(), ["rejected: full"]);
            for number in 0..2 * MESSAGES_MAX {
                tracing::warn!(target: TARGET, "number {number}");
            }
            assert_eq!(take().len(), MESSAGES_MAX - 1);
        });
    }
}
