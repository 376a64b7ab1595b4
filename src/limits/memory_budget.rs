//! Memory for what is being received and answered, shared between tenants: who holds some gets no more than it leaves
//! free. So one alone holds half of it, and whoever comes next finds room however long the others take. Imports `mail`
//! only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::model::TenantId;

/// The room there is in all.
#[derive(Debug)]
pub struct MemoryBudget {
    octets_max: u64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    octets: u64,
    /// Of those who hold some; the platform counts as one of them.
    of_each: HashMap<Option<TenantId>, u64>,
}

/// What is held for one message, request or answer, given back when dropped.
#[derive(Debug)]
pub struct MemoryReservation {
    room: Arc<MemoryBudget>,
    holder: Option<TenantId>,
    octets: u64,
    /// Of all reservations for the same message or request. Changes under the lock of the room only.
    together: Arc<AtomicU64>,
}

impl MemoryBudget {
    /// Nothing of it is taken.
    pub fn new(octets_max: u64) -> Arc<Self> {
        Arc::new(Self { octets_max, taken: Mutex::default() })
    }

    /// A reservation of nothing.
    pub fn reserve(self: &Arc<Self>, holder: Option<TenantId>) -> MemoryReservation {
        MemoryReservation { room: self.clone(), holder, octets: 0, together: Arc::default() }
    }

    /// Octets that there are in all.
    pub fn octets_max(&self) -> u64 {
        self.octets_max
    }

    /// Octets that are taken.
    pub fn octets_taken(&self) -> u64 {
        self.taken().octets
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryReservation {
    /// Holds at least so many octets, or answers that there is no room; then it holds what it did.
    #[must_use]
    pub fn grow_to(&mut self, octets: u64) -> bool {
        let Some(more) = octets.checked_sub(self.octets).filter(|&more| more > 0) else { return true };
        let mut taken = self.room.taken();
        let Some(left) = (self.room.octets_max - taken.octets).checked_sub(more) else { return false };
        let own = taken.of_each.get(&self.holder).copied().unwrap_or(0);
        // All that there is may be room for one message only: then one it shall be.
        let is_only_one = own == self.together.load(Relaxed);
        if !is_only_one && own + more > left {
            return false;
        }
        taken.octets += more;
        taken.of_each.insert(self.holder, own + more);
        self.together.fetch_add(more, Relaxed);
        self.octets = octets;
        true
    }

    /// A reservation of nothing for the same message or request.
    pub fn beside(&self) -> Self {
        let (room, together) = (self.room.clone(), self.together.clone());
        Self { room, holder: self.holder, octets: 0, together }
    }

    /// Octets that it holds.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Gives back what it holds beyond so many octets.
    pub fn shrink_to(&mut self, octets: u64) {
        let Some(less) = self.octets.checked_sub(octets).filter(|&less| less > 0) else { return };
        self.octets = octets;
        let mut taken = self.room.taken();
        taken.octets -= less;
        self.together.fetch_sub(less, Relaxed);
        if let Some(own) = taken.of_each.get_mut(&self.holder) {
            *own -= less;
            if *own == 0 {
                taken.of_each.remove(&self.holder);
            }
        }
    }

    /// The same octets as `Bytes` that hold the room for as long as any slice of them exists, such as one that a
    /// connection has yet to send.
    pub fn hold(self, octets: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held { octets, _room: self })
    }

    /// The same for a piece of what the room was reserved for: the last piece gives it back.
    pub fn hold_piece(self: &Arc<Self>, octets: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held { octets, _room: self.clone() })
    }
}

/// Octets and the room that they take.
struct Held<R> {
    octets: Vec<u8>,
    _room: R,
}

impl<R> AsRef<[u8]> for Held<R> {
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
        assert!(first.grow_to(90) && first.grow_to(95) && !second.grow_to(1));
        let mut answer = first.beside();
        assert!(answer.grow_to(5) && !answer.grow_to(6), "with what it is answered");
        drop(first);
        assert!(answer.grow_to(100) && !second.grow_to(1));
    }

    #[test]
    fn octets_hold_their_room_until_the_last_slice_of_them_is_gone() {
        let room = MemoryBudget::new(100);
        let mut reservation = room.reserve(tenant(1));
        assert!(reservation.grow_to(70));
        reservation.shrink_to(60);
        let mut whole = reservation.hold(vec![7; 60]);
        let piece = whole.split_to(1);
        drop(whole);
        assert_eq!((&piece[..], room.octets_taken()), (&[7][..], 60));
        drop(piece);
        assert_eq!(room.octets_taken(), 0);
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
