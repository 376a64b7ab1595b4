//! Deficit round robin with its rounds counted instead of walked.
//!
//! In each round everyone in line may have a tenth of its weight in deliveries. Who takes a batch takes it whole and is overdrawn: it comes up again as many rounds later as the batch was worth. So a batch of a hundred
//! recipients waits no longer for its turn than one of one, and a round without work costs nothing.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use crate::model::Weight;

/// Parts of a round, so that every weight makes a difference.
const PARTS: u64 = 1000;
/// Accounts of those who left that are kept before the settled ones are forgotten.
const ACCOUNTS_SPARE: usize = 64;

/// Those who take turns.
#[derive(Debug)]
pub struct DeficitRoundRobin<K> {
    /// How far the rounds have come, in parts.
    now: u64,
    /// Who is in line, by the part of a round that is theirs, then as they came.
    line: BTreeMap<(u64, u64), K>,
    places: HashMap<K, (u64, u64)>,
    /// Up to where each has had its due, where that is past `now`.
    served_until: HashMap<K, u64>,
    arrivals: u64,
}

impl<K> Default for DeficitRoundRobin<K> {
    fn default() -> Self {
        let (line, places, served_until) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        Self { now: 0, line, places, served_until, arrivals: 0 }
    }
}

impl<K: Clone + Eq + Hash> DeficitRoundRobin<K> {
    /// Gets into line, if it is not there: in the running round, or as many rounds later as it is overdrawn.
    pub fn join(&mut self, key: K) {
        if !self.places.contains_key(&key) {
            let at = self.served_until.get(&key).map_or(self.now, |&until| until.max(self.now));
            self.place(key, at);
        }
    }

    fn place(&mut self, key: K, at: u64) {
        self.arrivals += 1;
        self.line.insert((at, self.arrivals), key.clone());
        self.places.insert(key, (at, self.arrivals));
    }

    /// Gets out of line; what it is overdrawn stays on its account.
    pub fn leave(&mut self, key: &K) {
        if let Some(place) = self.places.remove(key) {
            self.line.remove(&place);
        }
    }

    /// Has taken so many deliveries: its next turn is later.
    pub fn charge(&mut self, key: &K, cost: u32, weight: Weight) {
        let place = self.places.get(key).map(|place| place.0);
        let begin = place
            .unwrap_or_else(|| self.served_until.get(key).map_or(self.now, |&until| until.max(self.now)));
        // The running round is that of the first in line, even if another one is served.
        let first = self.line.first_key_value().map_or(begin, |((at, _), _)| *at);
        self.now = self.now.max(begin.min(first));
        let until = begin + u64::from(cost.max(1)) * PARTS / u64::from(u32::from(weight));
        self.served_until.insert(key.clone(), until);
        if place.is_some() {
            self.leave(key);
            self.place(key.clone(), until);
        }
        if self.served_until.len() > 2 * self.places.len() + ACCOUNTS_SPARE {
            let now = self.now;
            self.served_until.retain(|_, until| *until > now);
        }
    }

    /// Whose turn it is.
    pub fn first(&self) -> Option<&K> {
        self.line.values().next()
    }

    /// Those in line, the next one first.
    pub fn in_order(&self) -> impl Iterator<Item = &K> {
        self.line.values()
    }

    /// How many are in line.
    pub fn len(&self) -> usize {
        self.line.len()
    }

    /// Whether nobody is in line.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Who is served in so many turns, each taking what `costs` says.
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
    fn a_batch_of_a_hundred_is_paid_for_by_a_hundred_rounds() {
        let mut rounds = DeficitRoundRobin::default();
        (0..2).for_each(|key| rounds.join(key));
        assert_eq!(serve(&mut rounds, &[10, 10], &[100, 1], 202), [200, 200]);
    }

    #[test]
    fn who_comes_back_is_owed_nothing_and_owes_what_it_overdrew() {
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
    fn accounts_of_those_who_are_gone_are_forgotten() {
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
        /// In deliveries for each unit of weight nobody is further from another than two batches.
        #[test]
        fn everybody_has_what_its_weight_says(
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
                // Parts of a round are whole numbers: a thousandth for each batch is lost.
                let slack = batch(a) + batch(b) + turns as f64 / 1000.0;
                prop_assert!((per_weight(a) - per_weight(b)).abs() <= slack, "{served:?} {weights:?} {costs:?}");
            }
        }
    }
}
