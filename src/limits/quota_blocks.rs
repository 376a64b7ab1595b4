//! Quota that this process has taken from limits which hold for several processes together, and not used yet. What it does not
//! use soon, it gives back. Imports `mail`; the time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::mail::Timestamp;

/// How long quota that was not granted is not asked for again.
const REFUSAL_LIFETIME: Duration = Duration::from_millis(250);

/// The unused quota of each limit, in its current period.
#[derive(Debug)]
pub struct QuotaBlocks<K> {
    blocks: HashMap<K, Block>,
}

#[derive(Debug)]
struct Block {
    /// The end of the period.
    ends_at: Timestamp,
    unused: u64,
    /// The last refusal: when it was, and how much was left.
    refused: Option<(Timestamp, u64)>,
}

/// What must be done before quota is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Nothing: there is enough.
    None,
    /// It must be asked for this much.
    Of(u64),
    /// It was refused a moment ago.
    Refused,
}

impl<K> Default for QuotaBlocks<K> {
    fn default() -> Self {
        Self { blocks: HashMap::new() }
    }
}

impl<K: Eq + Hash> QuotaBlocks<K> {
    /// What is missing of a quantity. With a quantity of 0, whether anything is known of the limit.
    pub fn shortage(&self, key: &K, ends_at: Timestamp, count: u64, now: Timestamp) -> Shortage {
        let Some(block) = self.find(key, ends_at) else { return Shortage::Of(count) };
        let missing = count.saturating_sub(block.unused);
        let is_refused =
            |&(at, left): &(Timestamp, u64)| missing > left && at <= now && now < at + REFUSAL_LIFETIME;
        match missing {
            0 => Shortage::None,
            _ if block.refused.as_ref().is_some_and(is_refused) => Shortage::Refused,
            _ => Shortage::Of(missing),
        }
    }

    /// The unused quota.
    pub fn unused(&self, key: &K, ends_at: Timestamp) -> u64 {
        self.find(key, ends_at).map_or(0, |block| block.unused)
    }

    /// Adds quota that was granted or not used after all.
    pub fn add(&mut self, key: K, ends_at: Timestamp, count: u64) {
        let block = self.block(key, ends_at);
        block.unused = block.unused.saturating_add(count);
    }

    /// Notes that no quota was granted because only so much was left.
    pub fn note_refusal(&mut self, key: K, ends_at: Timestamp, left: u64, now: Timestamp) {
        self.block(key, ends_at).refused = Some((now, left));
    }

    /// Uses quota, of which there must be enough.
    pub fn spend(&mut self, key: K, ends_at: Timestamp, count: u64) {
        let block = self.block(key, ends_at);
        block.unused = block.unused.saturating_sub(count);
    }

    /// Takes all unused quota out, with the ends of its periods.
    pub fn take_unused(&mut self) -> Vec<(K, Timestamp, u64)> {
        let blocks = std::mem::take(&mut self.blocks).into_iter();
        blocks
            .filter(|(_, block)| block.unused > 0)
            .map(|(key, block)| (key, block.ends_at, block.unused))
            .collect()
    }

    /// Forgets periods that have ended.
    pub fn forget_ended(&mut self, now: Timestamp) {
        self.blocks.retain(|_, block| block.ends_at > now);
    }

    fn find(&self, key: &K, ends_at: Timestamp) -> Option<&Block> {
        self.blocks.get(key).filter(|block| block.ends_at == ends_at)
    }

    /// The block of a period, in place of one of another period.
    fn block(&mut self, key: K, ends_at: Timestamp) -> &mut Block {
        let none = || Block { ends_at, unused: 0, refused: None };
        let block = self.blocks.entry(key).or_insert_with(none);
        if block.ends_at != ends_at {
            *block = none();
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn quota_is_asked_for_when_it_is_missing_and_not_again_at_once_after_a_refusal() {
        let (now, end) = (at("2026-11-22T05:42:27Z"), at("2026-11-22T05:43:00Z"));
        let mut blocks = QuotaBlocks::default();
        assert_eq!(blocks.shortage(&"a", end, 3, now), Shortage::Of(3));
        blocks.add("a", end, 5);
        blocks.spend("a", end, 3);
        assert_eq!(blocks.shortage(&"a", end, 2, now), Shortage::None);
        assert_eq!(blocks.shortage(&"a", end, 6, now), Shortage::Of(4));
        blocks.note_refusal("a", end, 3, now);
        assert_eq!(blocks.shortage(&"a", end, 6, now), Shortage::Refused);
        assert_eq!(blocks.shortage(&"a", end, 5, now), Shortage::Of(3), "as much was left");
        assert_eq!(blocks.shortage(&"a", end, 6, now + REFUSAL_LIFETIME), Shortage::Of(4));
    }

    #[test]
    fn what_is_unused_is_taken_out_once_and_belongs_to_its_period() {
        let (end, next) = (at("2026-11-22T05:43:00Z"), at("2026-11-22T05:44:00Z"));
        let mut blocks = QuotaBlocks::default();
        blocks.add("a", end, 5);
        blocks.add("b", end, 5);
        blocks.spend("b", end, 5);
        assert_eq!(blocks.unused(&"a", next), 0);
        assert_eq!(blocks.take_unused(), [("a", end, 5)]);
        assert_eq!(blocks.take_unused(), []);
        blocks.add("a", end, 5);
        blocks.add("a", next, 1);
        assert_eq!((blocks.unused(&"a", end), blocks.unused(&"a", next)), (0, 1));
    }
}
