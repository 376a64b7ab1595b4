//! A memory budget for received data and responses, shared between tenants. A tenant may reserve at most as much as it
//! leaves free, so one tenant alone gets at most half and another tenant always finds memory. Imports `model`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

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

/// The memory reserved for one message, request or response; released on drop.
#[derive(Debug)]
pub struct MemoryReservation {
    budget: Arc<MemoryBudget>,
    holder: Option<TenantId>,
    octets: u64,
    /// Octets of all reservations for the same message or request. Changes only while the budget is locked.
    together: Arc<AtomicU64>,
}

impl MemoryBudget {
    /// A budget without reservations.
    pub fn new(octets_max: u64) -> Arc<Self> {
        Arc::new(Self { octets_max, reserved: Mutex::default() })
    }

    /// An empty reservation.
    pub fn reserve(self: &Arc<Self>, holder: Option<TenantId>) -> MemoryReservation {
        MemoryReservation { budget: self.clone(), holder, octets: 0, together: Arc::default() }
    }

    /// The size of the budget.
    pub fn octets_max(&self) -> u64 {
        self.octets_max
    }

    /// Octets that are reserved now.
    pub fn octets_reserved(&self) -> u64 {
        self.reserved().octets
    }

    fn reserved(&self) -> MutexGuard<'_, Reserved> {
        self.reserved.lock()
    }
}

impl MemoryReservation {
    /// Reserves at least this many octets. Returns false and changes nothing if the budget does not allow it.
    #[must_use]
    pub fn grow_to(&mut self, octets: u64) -> bool {
        let Some(more) = octets.checked_sub(self.octets).filter(|&more| more > 0) else { return true };
        let mut reserved = self.budget.reserved();
        let Some(left) = (self.budget.octets_max - reserved.octets).checked_sub(more) else { return false };
        let of_holder = reserved.by_holder.get(&self.holder).copied().unwrap_or(0);
        // The only message of a holder may use the whole budget: a budget may be as small as one message.
        let is_only_one = of_holder == self.together.load(Relaxed);
        if !is_only_one && of_holder + more > left {
            return false;
        }
        reserved.octets += more;
        reserved.by_holder.insert(self.holder, of_holder + more);
        self.together.fetch_add(more, Relaxed);
        self.octets = octets;
        true
    }

    /// An empty reservation for the same message or request.
    pub fn beside(&self) -> Self {
        let (budget, together) = (self.budget.clone(), self.together.clone());
        Self { budget, holder: self.holder, octets: 0, together }
    }

    /// Octets that are reserved.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Releases the reserved octets beyond this number.
    pub fn shrink_to(&mut self, octets: u64) {
        let Some(less) = self.octets.checked_sub(octets).filter(|&less| less > 0) else { return };
        self.octets = octets;
        let mut reserved = self.budget.reserved();
        reserved.octets -= less;
        self.together.fetch_sub(less, Relaxed);
        if let Some(of_holder) = reserved.by_holder.get_mut(&self.holder) {
            *of_holder -= less;
            if *of_holder == 0 {
                reserved.by_holder.remove(&self.holder);
            }
        }
    }

    /// Converts the octets into `Bytes`. Their memory stays reserved as long as any slice of them exists, such as a
    /// slice that a connection has not sent yet.
    pub fn hold(self, octets: Vec<u8>) -> Bytes {
        Bytes::from_owner(ReservedBytes { octets, _reservation: self })
    }

    /// Converts one piece of the reserved data into `Bytes`. Dropping the last piece releases the reservation.
    pub fn hold_piece(self: &Arc<Self>, octets: Vec<u8>) -> Bytes {
        Bytes::from_owner(ReservedBytes { octets, _reservation: self.clone() })
    }
}

/// Octets and the reservation for them.
struct ReservedBytes<R> {
    octets: Vec<u8>,
    _reservation: R,
}

impl<R> AsRef<[u8]> for ReservedBytes<R> {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.shrink_to(0);
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
        let mut reservations = Vec::new();
        let mut shares = Vec::new();
        for number in 0..5 {
            let (holder, before) = (tenant(number), reservations.len());
            loop {
                let mut reservation = budget.reserve(holder);
                if !reservation.grow_to(1) {
                    break;
                }
                reservations.push(reservation);
            }
            shares.push(reservations.len() - before);
        }
        assert_eq!(shares, [512, 256, 128, 64, 32]);
    }

    #[test]
    fn a_single_message_may_use_the_whole_budget() {
        let budget = MemoryBudget::new(100);
        let holder = tenant(1);
        let (mut first, mut second) = (budget.reserve(holder), budget.reserve(holder));
        assert!(first.grow_to(90) && first.grow_to(95) && !second.grow_to(1));
        let mut response = first.beside();
        assert!(response.grow_to(5) && !response.grow_to(6), "a request and its response count as one");
        drop(first);
        assert!(response.grow_to(100) && !second.grow_to(1));
    }

    #[test]
    fn octets_stay_reserved_until_their_last_slice_is_dropped() {
        let budget = MemoryBudget::new(100);
        let mut reservation = budget.reserve(tenant(1));
        assert!(reservation.grow_to(70));
        reservation.shrink_to(60);
        let mut whole = reservation.hold(vec![7; 60]);
        let piece = whole.split_to(1);
        drop(whole);
        assert_eq!((&piece[..], budget.octets_reserved()), (&[7][..], 60));
        drop(piece);
        assert_eq!(budget.octets_reserved(), 0);
    }

    proptest! {
        #[test]
        fn reserved_memory_equals_granted_memory(
            steps in prop::collection::vec((0usize..6, 0u64..80, any::<bool>()), 0..200),
        ) {
            let budget = MemoryBudget::new(100);
            let holders: Vec<Option<TenantId>> = (0..3).map(tenant).collect();
            let mut reservations: Vec<MemoryReservation> = (0..6).map(|n| budget.reserve(holders[n % 3])).collect();
            for (place, octets, is_released) in steps {
                if is_released {
                    reservations[place] = budget.reserve(holders[place % 3]);
                } else {
                    let before = reservations[place].octets;
                    let expected = if reservations[place].grow_to(octets) { before.max(octets) } else { before };
                    prop_assert_eq!(reservations[place].octets, expected);
                }
                let sum: u64 = reservations.iter().map(|reservation| reservation.octets).sum();
                prop_assert!(sum <= 100);
                prop_assert_eq!(budget.reserved().octets, sum);
                prop_assert_eq!(budget.reserved().by_holder.values().sum::<u64>(), sum);
            }
            reservations.clear();
            prop_assert!(budget.reserved().by_holder.is_empty());
        }
    }
}
