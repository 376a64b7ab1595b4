//! A cache of store queries. An entry is valid until the directory changes or its lifetime ends.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    version: u64,
    since: Instant,
}

impl<K: Eq + Hash, V: Clone> VersionedCache<K, V> {
    /// A cache of at most `entries_max` values.
    pub fn new(clock: Clock, lifetime: Duration, entries_max: usize) -> Self {
        Self { clock, entries: Mutex::new(HashMap::new()), lifetime, entries_max }
    }

    /// The cached value if it is valid for this version of the directory, else the result of `load`. The caller reads
    /// the version before it calls, so a concurrent change invalidates the new entry.
    pub async fn get<E>(
        &self,
        key: K,
        version: u64,
        load: impl Future<Output = Result<V, E>>,
    ) -> Result<V, E> {
        if let Some(value) = self.find(&key, version) {
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
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &K, version: u64) -> Option<V> {
        let entries = self.lock();
        let entry = entries.get(key)?;
        let is_valid = entry.version == version && self.clock.elapsed_since(entry.since) < self.lifetime;
        is_valid.then(|| entry.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_is_cached_until_the_directory_changes() {
        let recent = VersionedCache::new(Clock::system(), Duration::from_secs(3600), 2);
        let ask = |version, value| recent.get("key", version, async move { Ok::<_, ()>(value) });
        assert_eq!(ask(1, "old").await, Ok("old"));
        assert_eq!(ask(1, "new").await, Ok("old"));
        assert_eq!(ask(2, "new").await, Ok("new"));
    }

    #[tokio::test]
    async fn a_zero_lifetime_caches_nothing_and_errors_are_not_cached() {
        let recent = VersionedCache::new(Clock::system(), Duration::ZERO, 2);
        assert_eq!(recent.get(1, 1, async { Err::<u8, _>("down") }).await, Err("down"));
        assert_eq!(recent.get(1, 1, async { Ok::<_, &str>(1) }).await, Ok(1));
        assert_eq!(recent.get(1, 1, async { Ok::<_, &str>(2) }).await, Ok(2));
    }

    #[tokio::test]
    async fn a_value_that_is_no_longer_valid_is_known_until_it_is_removed() {
        let recent = VersionedCache::new(Clock::system(), Duration::from_secs(3600), 2);
        assert!(!recent.contains(&"key"));
        assert_eq!(recent.get("key", 1, async { Ok::<_, ()>(1) }).await, Ok(1));
        assert_eq!(recent.get("key", 2, async { Err::<u8, _>("gone") }).await, Err("gone"));
        assert!(recent.contains(&"key"));
        recent.remove(&"key");
        assert!(!recent.contains(&"key"));
    }

    #[tokio::test]
    async fn the_cache_is_bounded() {
        let recent = VersionedCache::new(Clock::system(), Duration::from_secs(3600), 2);
        for key in 0..10 {
            let _ = recent.get(key, 1, async move { Ok::<_, ()>(key) }).await;
            assert!(recent.entries.lock().unwrap().len() <= 2);
        }
    }
}
