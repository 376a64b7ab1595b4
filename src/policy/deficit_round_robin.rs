//! Deficit round robin that computes rounds instead of iterating over them.
//!
//! In each round every key may use a tenth of its weight in deliveries. A batch is always taken whole and may overdraw
//! the account of its key; the key is then skipped for as many rounds as the batch cost. So a batch of a hundred
//! recipients does not wait longer than a batch of one, and rounds without work cost nothing.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use crate::model::Weight;

/// Parts of a round, so that every weight makes a difference.
const PARTS: u64 = 1000;
/// Accounts of absent keys that are kept before balanced ones are removed.
const ACCOUNTS_SPARE: usize = 64;

/// The keys, served in rounds.
#[derive(Debug)]
pub struct DeficitRoundRobin<K> {
    /// The current position, in parts of rounds.
    now: u64,
    /// Waiting keys, by their position and then by arrival.
    waiting: BTreeMap<(u64, u64), K>,
    positions: HashMap<K, (u64, u64)>,
    /// The position up to which each key has been served, if later than `now`.
    served_until: HashMap<K, u64>,
    arrivals: u64,
}

impl<K> Default for DeficitRoundRobin<K> {
    fn default() -> Self {
        let (waiting, positions, served_until) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        Self { now: 0, waiting, positions, served_until, arrivals: 0 }
    }
}

impl<K: Clone + Eq + Hash> DeficitRoundRobin<K> {
    /// Adds a key, if absent: in the current round, or later if its account is overdrawn.
    pub fn join(&mut self, key: K) {
        if !self.positions.contains_key(&key) {
            let at = self.served_until.get(&key).map_or(self.now, |&until| until.max(self.now));
            self.position(key, at);
        }
    }

    fn position(&mut self, key: K, at: u64) {
        self.arrivals += 1;
        self.waiting.insert((at, self.arrivals), key.clone());
        self.positions.insert(key, (at, self.arrivals));
    }

    /// Removes a key; an overdrawn account is kept.
    pub fn leave(&mut self, key: &K) {
        if let Some(position) = self.positions.remove(key) {
            self.waiting.remove(&position);
        }
    }

    /// Charges deliveries to a key: its next turn comes later.
    pub fn charge(&mut self, key: &K, cost: u32, weight: Weight) {
        let position = self.positions.get(key).map(|position| position.0);
        let begin = position
            .unwrap_or_else(|| self.served_until.get(key).map_or(self.now, |&until| until.max(self.now)));
        // The current round is that of the first waiting key, even if another one is served.
        let first = self.waiting.first_key_value().map_or(begin, |((at, _), _)| *at);
        self.now = self.now.max(begin.min(first));
        let until = begin + u64::from(cost.max(1)) * PARTS / u64::from(u32::from(weight));
        self.served_until.insert(key.clone(), until);
        if position.is_some() {
            self.leave(key);
            self.position(key.clone(), until);
        }
        if self.served_until.len() > 2 * self.positions.len() + ACCOUNTS_SPARE {
            let now = self.now;
            self.served_until.retain(|_, until| *until > now);
        }
    }

    /// The next key.
    pub fn first(&self) -> Option<&K> {
        self.waiting.values().next()
    }

    /// Waiting keys in the order in which they are served.
    pub fn in_order(&self) -> impl Iterator<Item = &K> {
        self.waiting.values()
    }

    /// Number of waiting keys.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The keys served in this many turns, each with its cost.
    fn serve(
        rounds: &mut DeficitRoundRobin<usize>,
        weights: &[u32],
        costs: &[u32],
        turns: usize,
    ) -> Vec<u64> {
        let mut served = vec![0; weights.len()];
        for _ in 0..turns {
            let key = *rounds.first().unwrap();
            rounds.charge(&key, costs[key], weights[key].try_into().unwrap());
            served[key] += u64::from(costs[key]);
        }
        served
    }

    #[test]
    fn a_batch_of_a_hundred_costs_a_hundred_rounds() {
        let mut rounds = DeficitRoundRobin::default();
        (0..2).for_each(|key| rounds.join(key));
        assert_eq!(serve(&mut rounds, &[10, 10], &[100, 1], 202), [200, 200]);
    }

    #[test]
    fn a_returning_key_stays_overdrawn_and_gains_no_credit() {
        let mut rounds = DeficitRoundRobin::default();
        (0..2).for_each(|key| rounds.join(key));
        rounds.leave(&1);
        serve(&mut rounds, &[10, 10], &[1, 1], 50);
        rounds.join(1);
        assert_eq!(serve(&mut rounds, &[10, 10], &[1, 1], 20), [10, 10]);
        rounds.charge(&1, 30, Weight::default());
        rounds.leave(&1);
        rounds.join(1);
        assert_eq!(serve(&mut rounds, &[10, 10], &[1, 1], 20), [20, 0]);
    }

    #[test]
    fn accounts_of_absent_keys_are_removed() {
        let mut rounds = DeficitRoundRobin::default();
        for key in 0..10_000 {
            rounds.join(key);
            rounds.charge(&key, 1, Weight::default());
            rounds.leave(&key);
            rounds.charge(&10_000, 2, Weight::default());
        }
        assert!(rounds.served_until.len() < 200, "{}", rounds.served_until.len());
    }

    proptest! {
        /// In deliveries per unit of weight, keys differ by at most two batches.
        #[test]
        fn every_key_gets_the_share_of_its_weight(
            members in prop::collection::vec((1u32..=100, 1u32..=100), 2..6),
            turns in 1usize..2000,
        ) {
            let (weights, costs): (Vec<u32>, Vec<u32>) = members.into_iter().unzip();
            let mut rounds = DeficitRoundRobin::default();
            (0..weights.len()).for_each(|key| rounds.join(key));
            let served = serve(&mut rounds, &weights, &costs, turns);
            let per_weight = |key: usize| served[key] as f64 / f64::from(weights[key]);
            let batch = |key: usize| f64::from(costs[key]) / f64::from(weights[key]);
            for (a, b) in (0..weights.len()).flat_map(|a| (0..weights.len()).map(move |b| (a, b))) {
                // Rounds are divided into whole parts: each batch may lose a thousandth.
                let slack = batch(a) + batch(b) + turns as f64 / 1000.0;
                prop_assert!((per_weight(a) - per_weight(b)).abs() <= slack, "{served:?} {weights:?} {costs:?}");
            }
        }
    }
}
