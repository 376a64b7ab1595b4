//! Evicts entries of bounded maps, fairly between their owners.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;

/// Removes the oldest of the matching entries, until one more does not exceed the limit.
pub fn drop_oldest<K: Copy + Eq + Hash, V, A: Ord>(
    entries: &mut HashMap<K, V>,
    max: usize,
    age: impl Fn(&V) -> A,
    matches: impl Fn(&V) -> bool,
) {
    let mut ages: Vec<_> =
        entries.iter().filter(|(_, entry)| matches(entry)).map(|(key, entry)| (age(entry), *key)).collect();
    let excess = (ages.len() + 1).saturating_sub(max);
    ages.sort_by(|(age, _), (other, _)| age.cmp(other));
    for (_, key) in ages.iter().take(excess) {
        entries.remove(key);
    }
}

/// Removes the oldest entry of the owner with most entries, until one more does not exceed the limit. So one owner does not
/// push out the entries of the others.
pub fn drop_oldest_of_largest_owner<K: Copy + Eq + Hash, V, A: Ord, O: Eq + Hash>(
    entries: &mut HashMap<K, V>,
    max: usize,
    age: impl Fn(&V) -> A,
    owner: impl Fn(&V) -> O,
) {
    while entries.len() >= max {
        let mut counts: HashMap<O, usize> = HashMap::new();
        entries.values().for_each(|entry| *counts.entry(owner(entry)).or_default() += 1);
        let rank = |entry: &V| (Reverse(counts.get(&owner(entry)).copied()), age(entry));
        let Some(key) = entries.iter().min_by_key(|(_, entry)| rank(entry)).map(|(key, _)| *key) else {
            return;
        };
        entries.remove(&key);
    }
}
