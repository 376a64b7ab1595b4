//! A cache of the newest events, shared by all streams. A stream that falls behind the cache reads the database for itself
//! and only its own events, so it does not delay other streams and other tenants.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::store::{EventFilter, Journal, JournalCursor, JournalEntry, Result, Store};

/// Events in the cache.
const CACHED_MAX: usize = 2048;
/// Events per read.
const READ_MAX: usize = 512;

/// The cache.
pub struct Tail {
    store: Arc<Store>,
    recent: Mutex<Recent>,
}

/// How a stream reads what is no longer in the cache: as its client, so that it waits for the permits of its tenant.
pub struct Reader {
    /// The store, for this client.
    pub store: Store,
    /// The events of the stream.
    pub filter: EventFilter,
}

/// All events after `from` up to `until`.
struct Recent {
    from: JournalCursor,
    until: JournalCursor,
    entries: VecDeque<Arc<JournalEntry>>,
}

/// Events after a position in the journal.
pub struct EventsAfter {
    /// Oldest first.
    pub entries: Vec<Arc<JournalEntry>>,
    /// The position after them.
    pub position: JournalCursor,
}

impl Tail {
    /// An empty cache at the end of the journal.
    pub fn new(store: Arc<Store>) -> Self {
        let now = *store.watch_events().borrow();
        Self { store, recent: Mutex::new(Recent { from: now, until: now, entries: VecDeque::new() }) }
    }

    /// The next events after `position`, if they are in the cache, and else those of `reader`. `last` is the end of the
    /// journal.
    pub async fn after(
        &self,
        reader: &Reader,
        position: JournalCursor,
        last: JournalCursor,
    ) -> Result<EventsAfter> {
        {
            // One stream extends the cache; the others wait for it.
            let mut recent = self.recent.lock().await;
            if recent.until < last {
                recent.extend(&self.store, last).await?;
            }
            if position >= recent.from {
                return Ok(recent.after(position));
            }
        }
        let (entries, next) = reader.store.filtered_events_after(reader.filter.clone(), position).await?;
        let end = entries.last().map_or(last, |entry| entry.cursor.max(last));
        let entries = entries.into_iter().map(Arc::new).collect();
        Ok(EventsAfter { entries, position: next.unwrap_or(end) })
    }
}

impl Recent {
    async fn extend(&mut self, store: &Store, last: JournalCursor) -> Result<()> {
        let read = store.events_after(self.until, READ_MAX).await?;
        if read.has_more {
            // The cache is too far behind, such as after a time without streams. The streams read the database.
            *self = Self { from: last, until: last, entries: VecDeque::new() };
            return Ok(());
        }
        let read = read.items;
        self.until = read.last().map_or(last, |entry| entry.cursor.max(last));
        self.entries.extend(read.into_iter().map(Arc::new));
        while self.entries.len() > CACHED_MAX {
            if let Some(entry) = self.entries.pop_front() {
                self.from = entry.cursor;
            }
        }
        Ok(())
    }

    fn after(&self, position: JournalCursor) -> EventsAfter {
        let start = self.entries.partition_point(|entry| entry.cursor <= position);
        let entries: Vec<_> = self.entries.range(start..).take(READ_MAX).cloned().collect();
        let reached = match entries.last() {
            Some(entry) if entries.len() == READ_MAX => entry.cursor,
            _ => self.until,
        };
        EventsAfter { entries, position: reached.max(position) }
    }
}
