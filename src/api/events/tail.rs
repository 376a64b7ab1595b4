//! A cache of the newest events, shared by all streams. A stream that falls behind the cache reads the database, so slow
//! streams delay nobody.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::model::EventId;
use crate::store::{Event, Journal, Result, Store};

/// Events in the cache.
const KEPT_MAX: usize = 2048;
/// Events per read.
const READ_MAX: usize = 512;

/// What was committed last.
pub struct Tail {
    store: Arc<Store>,
    recent: Mutex<Recent>,
}

/// Every event after `from` up to `until`.
struct Recent {
    from: EventId,
    until: EventId,
    events: VecDeque<Arc<Event>>,
}

/// What follows a place in the journal.
pub struct Following {
    /// Oldest first.
    pub events: Vec<Arc<Event>>,
    /// Where to go on.
    pub position: EventId,
}

impl Tail {
    /// Follows the journal of a store from now on.
    pub fn new(store: Arc<Store>) -> Self {
        let now = *store.watch_events().borrow();
        Self { store, recent: Mutex::new(Recent { from: now, until: now, events: VecDeque::new() }) }
    }

    /// Some of what follows `position`; `last` is the last event that was committed.
    pub async fn after(&self, position: EventId, last: EventId) -> Result<Following> {
        {
            // One reads, the others wait for what it finds.
            let mut recent = self.recent.lock().await;
            if recent.until < last {
                recent.extend(&self.store, last).await?;
            }
            if position >= recent.from {
                return Ok(recent.after(position));
            }
        }
        let events = self.store.events_after(position, READ_MAX).await?.items;
        let position = events.last().map_or(last, |event| event.id);
        Ok(Following { events: events.into_iter().map(Arc::new).collect(), position })
    }
}

impl Recent {
    async fn extend(&mut self, store: &Store, last: EventId) -> Result<()> {
        let read = store.events_after(self.until, READ_MAX).await?;
        if read.has_more {
            // Far behind, such as when nobody has followed for a while: those who follow catch up by themselves.
            *self = Self { from: last, until: last, events: VecDeque::new() };
            return Ok(());
        }
        let read = read.items;
        self.until = read.last().map_or(last, |event| event.id.max(last));
        self.events.extend(read.into_iter().map(Arc::new));
        while self.events.len() > KEPT_MAX {
            if let Some(event) = self.events.pop_front() {
                self.from = event.id;
            }
        }
        Ok(())
    }

    fn after(&self, position: EventId) -> Following {
        let start = self.events.partition_point(|event| event.id <= position);
        let events: Vec<_> = self.events.range(start..).take(READ_MAX).cloned().collect();
        let reached = match events.last() {
            Some(event) if events.len() == READ_MAX => event.id,
            _ => self.until,
        };
        Following { events, position: reached.max(position) }
    }
}
