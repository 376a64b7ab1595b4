//! A memory budget shared between tenants: a holder gets no more than it leaves free. So one tenant alone holds at
//! most half, and the next finds memory however long others hold theirs. Imports `model`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::TenantId;

/// The budget.
#[derive(Debug)]
pub struct MemoryBudget {
    octets_max: u64,
    reserved: Mutex<Reserved>,
}

#[derive(Debug, Default)]
struct Reserved {
    octets: u64,
    /// Reserved octets by holder; the platform (`None`) is one of them.
    by_holder: HashMap<Option<TenantId>, u64>,
}

/// The memory reserved for one message or request; released on drop.
#[derive(Debug)]
pub struct MemoryReservation {
    budget: Arc<MemoryBudget>,
    holder: Option<TenantId>,
    octets: u64,
}

impl MemoryBudget {
    /// A budget without reservations.
    pub fn new(octets_max: u64) -> Arc<Self> {
        Arc::new(Self { octets_max, reserved: Mutex::default() })
    }

    /// An empty reservation.
    pub fn reserve(self: &Arc<Self>, holder: Option<TenantId>) -> MemoryReservation {
        MemoryReservation { budget: self.clone(), holder, octets: 0 }
    }

    fn reserved(&self) -> MutexGuard<'_, Reserved> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryReservation {
    /// Reserves at least this many octets. Returns false and changes nothing if the budget does not allow it.
    #[must_use]
    pub fn grow_to(&mut self, octets: u64) -> bool {
        let Some(more) = octets.checked_sub(self.octets).filter(|&more| more > 0) else { return true };
        let mut reserved = self.budget.reserved();
        let Some(left) = (self.budget.octets_max - reserved.octets).checked_sub(more) else { return false };
        let held = reserved.by_holder.get(&self.holder).copied().unwrap_or(0);
        // A holder's only message may use the whole budget, which may be no larger than one message.
        let is_only_one = held == self.octets;
        if !is_only_one && held + more > left {
            return false;
        }
        reserved.octets += more;
        reserved.by_holder.insert(self.holder, held + more);
        self.octets = octets;
        true
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        let mut reserved = self.budget.reserved();
        reserved.octets -= self.octets;
        if let Some(held) = reserved.by_holder.get_mut(&self.holder) {
            *held -= self.octets;
            if *held == 0 {
                reserved.by_holder.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::Timestamp;

    fn tenant(number: i64) -> Option<TenantId> {
        Some(TenantId::generate(Timestamp::from_second(number).unwrap()))
    }

    #[test]
    fn memory_is_reserved_once_and_released() {
        let budget = MemoryBudget::new(100);
        let (mut first, mut second) = (budget.reserve(tenant(1)), budget.reserve(tenant(2)));
        assert!(first.grow_to(60) && first.grow_to(50) && first.grow_to(60));
        assert!(second.grow_to(40) && !second.grow_to(41) && !first.grow_to(u64::MAX));
        drop(first);
        assert!(second.grow_to(100));
        drop(second);
        let reserved = budget.reserved();
        assert_eq!((reserved.octets, reserved.by_holder.len()), (0, 0));
    }

    #[test]
    fn a_holder_of_the_maximum_leaves_memory_for_the_next() {
        let budget = MemoryBudget::new(1024);
        let mut held = Vec::new();
        let mut shares = Vec::new();
        for number in 0..5 {
            let (holder, before) = (tenant(number), held.len());
            loop {
                let mut reservation = budget.reserve(holder);
                if !reservation.grow_to(1) {
                    break;
                }
                held.push(reservation);
            }
            shares.push(held.len() - before);
        }
        assert_eq!(shares, [512, 256, 128, 64, 32]);
    }

    #[test]
    fn a_single_message_may_use_the_whole_budget() {
        let budget = MemoryBudget::new(100);
        let holder = tenant(1);
        let (mut first, mut second) = (budget.reserve(holder), budget.reserve(holder));
        assert!(first.grow_to(90) && first.grow_to(100) && !second.grow_to(1));
    }

    proptest! {
        #[test]
        fn reserved_memory_equals_granted_memory(
            steps in prop::collection::vec((0usize..6, 0u64..80, any::<bool>()), 0..200),
        ) {
            let budget = MemoryBudget::new(100);
            let holders: Vec<Option<TenantId>> = (0..3).map(tenant).collect();
            let mut held: Vec<MemoryReservation> = (0..6).map(|n| budget.reserve(holders[n % 3])).collect();
            for (place, octets, is_released) in steps {
                if is_released {
                    held[place] = budget.reserve(holders[place % 3]);
                } else {
                    let before = held[place].octets;
                    let expected = if held[place].grow_to(octets) { before.max(octets) } else { before };
                    prop_assert_eq!(held[place].octets, expected);
                }
                let sum: u64 = held.iter().map(|reservation| reservation.octets).sum();
                prop_assert!(sum <= 100);
                prop_assert_eq!(budget.reserved().octets, sum);
                prop_assert_eq!(budget.reserved().by_holder.values().sum::<u64>(), sum);
            }
            held.clear();
            prop_assert!(budget.reserved().by_holder.is_empty());
        }
    }
}
