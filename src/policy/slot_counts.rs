//! Counts slots by holder. Pure; imports nothing.

use std::collections::HashMap;
use std::hash::Hash;

/// Slots in use. `T` names the holder.
#[derive(Debug)]
pub struct SlotCounts<T> {
    taken: usize,
    /// Slots per holder, for holders with any.
    of_each: HashMap<T, usize>,
}

impl<T> Default for SlotCounts<T> {
    fn default() -> Self {
        Self { taken: 0, of_each: HashMap::new() }
    }
}

impl<T: Eq + Hash> SlotCounts<T> {
    /// Adds one.
    pub fn take(&mut self, holder: T) {
        self.taken += 1;
        *self.of_each.entry(holder).or_default() += 1;
    }

    /// Removes one, if the holder has any.
    pub fn release(&mut self, holder: &T) {
        let Some(count) = self.of_each.get_mut(holder) else { return };
        self.taken -= 1;
        *count -= 1;
        if *count == 0 {
            self.of_each.remove(holder);
        }
    }

    /// All slots in use.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Slots of one holder.
    pub fn of(&self, holder: &T) -> usize {
        self.of_each.get(holder).copied().unwrap_or(0)
    }
}
