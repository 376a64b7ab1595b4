//! Who has how many slots. Pure; imports nothing.

use std::collections::HashMap;
use std::hash::Hash;

/// Slots that are taken. `T` names who has them.
#[derive(Debug)]
pub struct Slots<T> {
    taken: usize,
    /// Of each that has any.
    of_each: HashMap<T, usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { taken: 0, of_each: HashMap::new() }
    }
}

impl<T: Eq + Hash> Slots<T> {
    /// One more.
    pub fn take(&mut self, holder: T) {
        self.taken += 1;
        *self.of_each.entry(holder).or_default() += 1;
    }

    /// One less, if the holder has any.
    pub fn give_back(&mut self, holder: &T) {
        let Some(count) = self.of_each.get_mut(holder) else { return };
        self.taken -= 1;
        *count -= 1;
        if *count == 0 {
            self.of_each.remove(holder);
        }
    }

    /// All that are taken.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Those of one.
    pub fn of(&self, holder: &T) -> usize {
        self.of_each.get(holder).copied().unwrap_or(0)
    }
}
