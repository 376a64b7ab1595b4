//! Draws from the seed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The draws of a run. Clones share the sequence.
#[derive(Clone)]
pub struct Chance(Arc<Mutex<StdRng>>);

impl Chance {
    pub fn of(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// Below `end`, which is not 0.
    pub fn below(&self, end: usize) -> usize {
        self.0.lock().unwrap().random_range(0..end)
    }

    pub fn number(&self) -> u64 {
        self.0.lock().unwrap().random()
    }

    /// True in `percent` of 100 draws.
    pub fn percent(&self, percent: f64) -> bool {
        self.0.lock().unwrap().random_bool(percent / 100.0)
    }

    pub fn choose<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A time with this mean, as between events that do not know of one another.
    pub fn interval(&self, mean: Duration) -> Duration {
        let draw: f64 = self.0.lock().unwrap().random();
        mean.mul_f64(-(1.0 - draw).ln())
    }
}
