//! A memory budget shared between tenants: a holder gets no more than it leaves free. So one tenant alone holds at
//! most half, and the next finds memory however long others hold theirs. Imports `model`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::TenantId;

/// The budget.
#[derive(Debug)]
pub struct MemoryBudget {
    octets_max: u64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    octets: u64,
    /// Reserved octets by holder; the platform (`None`) is one of them.
    of_each: HashMap<Option<TenantId>, u64>,
}

/// The memory reserved for one message or request; released on drop.
#[derive(Debug)]
pub struct MemoryReservation {
    room: Arc<MemoryBudget>,
    holder: Option<TenantId>,
    octets: u64,
}

impl MemoryBudget {
    /// A budget without reservations.
    pub fn new(octets_max: u64) -> Arc<Self> {
        Arc::new(Self { octets_max, taken: Mutex::default() })
    }

    /// An empty reservation.
    pub fn reserve(self: &Arc<Self>, holder: Option<TenantId>) -> MemoryReservation {
        MemoryReservation { room: self.clone(), holder, octets: 0 }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryReservation {
    /// Reserves at least this many octets. Returns false and changes nothing if the budget does not allow it.
    #[must_use]
    pub fn grow_to(&mut self, octets: u64) -> bool {
        let Some(more) = octets.checked_sub(self.octets).filter(|&more| more > 0) else { return true };
        let mut taken = self.room.taken();
        let Some(left) = (self.room.octets_max - taken.octets).checked_sub(more) else { return false };
        let own = taken.of_each.get(&self.holder).copied().unwrap_or(0);
        // A holder's only message may use the whole budget, which may be no larger than one message.
        let is_only_one = own == self.octets;
        if !is_only_one && own + more > left {
            return false;
        }
        taken.octets += more;
        taken.of_each.insert(self.holder, own + more);
        self.octets = octets;
        true
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.octets -= self.octets;
        if let Some(own) = taken.of_each.get_mut(&self.holder) {
            *own -= self.octets;
            if *own == 0 {
                taken.of_each.remove(&self.holder);
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
    fn room_is_taken_once_and_comes_back() {
        let room = MemoryBudget::new(100);
        let (mut first, mut second) = (room.reserve(tenant(1)), room.reserve(tenant(2)));
        assert!(first.grow_to(60) && first.grow_to(50) && first.grow_to(60));
        assert!(second.grow_to(40) && !second.grow_to(41) && !first.grow_to(u64::MAX));
        drop(first);
        assert!(second.grow_to(100));
        drop(second);
        let taken = room.taken();
        assert_eq!((taken.octets, taken.of_each.len()), (0, 0));
    }

    #[test]
    fn who_takes_all_it_can_get_leaves_room_for_the_next() {
        let room = MemoryBudget::new(1024);
        let mut held = Vec::new();
        let mut shares = Vec::new();
        for number in 0..5 {
            let (holder, before) = (tenant(number), held.len());
            loop {
                let mut reservation = room.reserve(holder);
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
    fn one_message_may_have_all_the_room_there_is() {
        let room = MemoryBudget::new(100);
        let holder = tenant(1);
        let (mut first, mut second) = (room.reserve(holder), room.reserve(holder));
        assert!(first.grow_to(90) && first.grow_to(100) && !second.grow_to(1));
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_was_granted(
            steps in prop::collection::vec((0usize..6, 0u64..80, any::<bool>()), 0..200),
        ) {
            let room = MemoryBudget::new(100);
            let holders: Vec<Option<TenantId>> = (0..3).map(tenant).collect();
            let mut held: Vec<MemoryReservation> = (0..6).map(|n| room.reserve(holders[n % 3])).collect();
            for (place, octets, is_released) in steps {
                if is_released {
                    held[place] = room.reserve(holders[place % 3]);
                } else {
                    let before = held[place].octets;
                    let expected = if held[place].grow_to(octets) { before.max(octets) } else { before };
                    prop_assert_eq!(held[place].octets, expected);
                }
                let sum: u64 = held.iter().map(|reservation| reservation.octets).sum();
                prop_assert!(sum <= 100);
                prop_assert_eq!(room.taken().octets, sum);
                prop_assert_eq!(room.taken().of_each.values().sum::<u64>(), sum);
            }
            held.clear();
            prop_assert!(room.taken().of_each.is_empty());
        }
    }
}
