//! Octets of memory for messages that are being received, over all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The room there is in all.
#[derive(Debug)]
pub struct Room {
    octets_max: u64,
    octets_taken: AtomicU64,
}

/// What one connection holds of it, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    room: Arc<Room>,
    octets: u64,
}

impl Room {
    pub fn new(octets_max: u64) -> Arc<Self> {
        Arc::new(Self { octets_max, octets_taken: AtomicU64::new(0) })
    }

    /// A reservation of nothing.
    pub fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation { room: self.clone(), octets: 0 }
    }
}

impl Reservation {
    /// Holds at least so many octets, or answers that there is no room; then it holds what it did.
    pub fn grow_to(&mut self, octets: u64) -> bool {
        let Some(more) = octets.checked_sub(self.octets).filter(|&more| more > 0) else { return true };
        let take = |taken: u64| taken.checked_add(more).filter(|&sum| sum <= self.room.octets_max);
        let found = self.room.octets_taken.fetch_update(Relaxed, Relaxed, take).is_ok();
        if found {
            self.octets = octets;
        }
        found
    }

    /// Gives everything back.
    pub fn release(&mut self) {
        if self.octets > 0 {
            self.room.octets_taken.fetch_sub(self.octets, Relaxed);
            self.octets = 0;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_once_and_comes_back() {
        let room = Room::new(100);
        let (mut first, mut second) = (room.reserve(), room.reserve());
        assert!(first.grow_to(60) && first.grow_to(50) && first.grow_to(60));
        assert!(second.grow_to(40) && !second.grow_to(41) && !first.grow_to(u64::MAX));
        first.release();
        assert!(second.grow_to(100));
        drop(second);
        assert_eq!(room.octets_taken.load(Relaxed), 0);
    }
}
