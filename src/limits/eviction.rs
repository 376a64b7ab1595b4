//! Evicts entries of bounded maps.

use std::collections::HashMap;
use std::hash::Hash;

/// Removes the oldest entries, until one more does not exceed the limit.
pub fn drop_oldest<K: Copy + Eq + Hash, V, A: Ord>(
    entries: &mut HashMap<K, V>,
    max: usize,
    age: impl Fn(&V) -> A,
) {
    let excess = (entries.len() + 1).saturating_sub(max);
    if excess == 0 {
        return;
    }
    let mut ages: Vec<_> = entries.iter().map(|(key, entry)| (age(entry), *key)).collect();
    ages.sort_by(|(age, _), (other, _)| age.cmp(other));
    for (_, key) in ages.iter().take(excess) {
        entries.remove(key);
    }
}
