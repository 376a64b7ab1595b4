//! The random number generator as a value. Jitter and choices come from an [`Rng`], so that a seed repeats them.
//! Secrets and ids always come from the generator of the system.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// A source of randomness.
#[derive(Debug, Clone)]
pub struct Rng {
    /// `None`: the generator of the thread, which the system seeds.
    seeded: Option<Arc<Mutex<StdRng>>>,
}

impl Rng {
    /// The generator of the system, which is unpredictable.
    pub const fn system() -> Self {
        Self { seeded: None }
    }

    /// A generator with the same sequence for the same seed. Clones share the sequence.
    pub fn seeded(seed: u64) -> Self {
        Self { seeded: Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))) }
    }

    /// A random value: a number, a bool, or a fraction from 0 to 1.
    pub fn random<T>(&self) -> T
    where
        StandardUniform: Distribution<T>,
    {
        self.with(|rng| rng.random())
    }

    /// A random item, by weight; `None` if no item has a weight.
    pub fn choose_weighted<'a, T>(&self, from: &'a [T], weight: impl Fn(&T) -> u32) -> Option<&'a T> {
        self.with(|mut rng| from.choose_weighted(&mut rng, weight).ok())
    }

    fn with<T>(&self, draw: impl FnOnce(&mut dyn rand::Rng) -> T) -> T {
        match &self.seeded {
            None => draw(&mut rand::rng()),
            // A panic does not make a generator unusable.
            Some(seeded) => draw(&mut *seeded.lock()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_sequence_of_a_seed() {
        let draw = |seed| {
            let rng = Rng::seeded(seed);
            let clone = rng.clone();
            [rng.random::<u64>(), clone.random(), rng.random()]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let [first, second, third] = draw(1);
        assert!(first != second && second != third);
    }
}
