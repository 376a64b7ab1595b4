//! A cache of store queries. An entry is valid until what it depends on in the directory changes, or its lifetime ends.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::clock::{Clock, Instant};

/// Cached values by key.
pub struct VersionedCache<K, V> {
    clock: Clock,
    entries: Mutex<HashMap<K, Entry<V>>>,
    lifetime: Duration,
    entries_max: usize,
}

struct Entry<V> {
    value: V,
    /// The version of the directory before the query.
    version: u64,
    since: Instant,
}

impl<K: Eq + Hash, V: Clone> VersionedCache<K, V> {
    /// A cache of at most `entries_max` values.
    pub fn new(clock: Clock, lifetime: Duration, entries_max: usize) -> Self {
        Self { clock, entries: Mutex::new(HashMap::new()), lifetime, entries_max }
    }

    /// The cached value if no change since its query concerns it, else the result of `load`. `last_change` is the version of
    /// the directory after the last change that concerns a value. The caller reads `version`, the current one, before it
    /// calls, so a concurrent change invalidates the new entry.
    pub async fn get<E>(
        &self,
        key: K,
        version: u64,
        last_change: impl Fn(&V) -> u64,
        load: impl Future<Output = Result<V, E>>,
    ) -> Result<V, E> {
        if let Some(value) = self.find(&key, last_change) {
            return Ok(value);
        }
        let value = load.await?;
        let mut entries = self.lock();
        if entries.len() >= self.entries_max {
            entries.clear();
        }
        entries.insert(key, Entry { value: value.clone(), version, since: self.clock.instant() });
        Ok(value)
    }

    /// Whether there is a value of this key, also if it is no longer valid.
    pub fn contains(&self, key: &K) -> bool {
        self.lock().contains_key(key)
    }

    /// Removes the value of a key.
    pub fn remove(&self, key: &K) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry<V>>> {
        self.entries.lock()
    }

    fn find(&self, key: &K, last_change: impl Fn(&V) -> u64) -> Option<V> {
        let entries = self.lock();
        let entry = entries.get(key)?;
        let is_valid = last_change(&entry.value) <= entry.version
            && self.clock.elapsed_since(entry.since) < self.lifetime;
        is_valid.then(|| entry.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_is_cached_until_a_change_concerns_it() {
        let recent = VersionedCache::new(Clock::system(), Duration::from_secs(3600), 2);
        let ask = |version, last_change, value| {
            recent.get("key", version, move |_| last_change, async move { Ok::<_, ()>(value) })
        };
        assert_eq!(ask(1, 1, "old").await, Ok("old"));
        assert_eq!(ask(2, 1, "new").await, Ok("old"), "a change of something else");
        assert_eq!(ask(2, 2, "new").await, Ok("new"));
        assert_eq!(ask(2, 2, "newer").await, Ok("new"));
    }

    #[tokio::test]
    async fn a_zero_lifetime_caches_nothing_and_errors_are_not_cached() {
        let recent = VersionedCache::new(Clock::system(), Duration::ZERO, 2);
        assert_eq!(recent.get(1, 1, |_| 1, async { Err::<u8, _>("down") }).await, Err("down"));
        assert_eq!(recent.get(1, 1, |_| 1, async { Ok::<_, &str>(1) }).await, Ok(1));
        assert_eq!(recent.get(1, 1, |_| 1, async { Ok::<_, &str>(2) }).await, Ok(2));
    }

    #[tokio::test]
    async fn a_value_that_is_no_longer_valid_is_known_until_it_is_removed() {
        let recent = VersionedCache::new(Clock::system(), Duration::from_secs(3600), 2);
        assert!(!recent.contains(&"key"));
        assert_eq!(recent.get("key", 1, |_| 1, async { Ok::<_, ()>(1) }).await, Ok(1));
        assert_eq!(recent.get("key", 2, |_| 2, async { Err::<u8, _>("gone") }).await, Err("gone"));
        assert!(recent.contains(&"key"));
        recent.remove(&"key");
        assert!(!recent.contains(&"key"));
    }

    #[tokio::test]
    async fn the_cache_is_bounded() {
        let recent = VersionedCache::new(Clock::system(), Duration::from_secs(3600), 2);
        for key in 0..10 {
            let _ = recent.get(key, 1, |_| 1, async move { Ok::<_, ()>(key) }).await;
            assert!(recent.entries.lock().len() <= 2);
        }
    }
}
