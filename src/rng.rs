//! Randomness, as a value: jitter and choices come from an [`Rng`], so that a seed repeats them. Secrets and ids do not:
//! they come from the generator of the system wherever they are made.

use std::sync::{Arc, Mutex, PoisonError};

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// A source of randomness.
#[derive(Debug, Clone)]
pub struct Rng {
    /// `None` is the generator of the thread, which the system seeds.
    seeded: Option<Arc<Mutex<StdRng>>>,
}

impl Rng {
    /// Unpredictable.
    pub const fn system() -> Self {
        Self { seeded: None }
    }

    /// The same sequence for the same seed, shared by all clones.
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

    /// One of these, by weight; `None` if there is none with a weight.
    pub fn choose_weighted<'a, T>(&self, from: &'a [T], weight: impl Fn(&T) -> u32) -> Option<&'a T> {
        self.with(|mut rng| from.choose_weighted(&mut rng, weight).ok())
    }

    fn with<T>(&self, draw: impl FnOnce(&mut dyn rand::Rng) -> T) -> T {
        match &self.seeded {
            None => draw(&mut rand::rng()),
            // No panic leaves a generator unusable.
            Some(seeded) => draw(&mut *seeded.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_what_clones_draw_together() {
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
