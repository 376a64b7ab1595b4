//! When keys were used, so that their rows are written seldom.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::mail::{SignedDuration, Timestamp};
use crate::model::KeyId;

const KEYS_MAX: usize = 10_000;
const INTERVAL: SignedDuration = SignedDuration::from_mins(1);

/// The last recorded use of each key.
#[derive(Debug, Default)]
pub(in crate::store) struct KeyUses(Mutex<HashMap<KeyId, Timestamp>>);

impl KeyUses {
    /// Whether this use must be recorded: the last recorded one is a minute old. It counts as recorded then.
    pub(in crate::store) fn note(&self, key: KeyId, now: Timestamp) -> bool {
        let mut recorded = self.0.lock();
        if recorded.get(&key).is_some_and(|at| now.duration_since(*at) < INTERVAL) {
            return false;
        }
        if recorded.len() >= KEYS_MAX {
            recorded.clear();
        }
        recorded.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_recorded_once_a_minute_and_the_map_is_bounded() {
        let uses = KeyUses::default();
        let now = Timestamp::from_second(1_000_000).unwrap();
        let key = KeyId::generate(now);
        assert!(uses.note(key, now));
        assert!(!uses.note(key, now + SignedDuration::from_secs(59)));
        assert!(uses.note(key, now + SignedDuration::from_secs(60)));
        for _ in 0..KEYS_MAX + 10 {
            let key = KeyId::generate(now);
            assert!(uses.note(key, now) && !uses.note(key, now), "also when the map is full");
        }
        assert!(uses.0.lock().len() <= KEYS_MAX);
    }
}
