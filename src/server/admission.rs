//! How many connections are open, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts connections against their limits.
#[derive(Debug)]
pub struct Admission {
    total_max: usize,
    per_address_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    /// Never zero, so it is no larger than `total`.
    by_network: HashMap<IpAddr, usize>,
}

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// That of all connections.
    Server,
    /// That of the client's address.
    Address,
}

/// The right to one connection, given back when dropped.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    network: IpAddr,
}

impl Admission {
    pub fn new(total_max: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self { total_max, per_address_max, open: Mutex::default() })
    }

    /// Takes a place for a client at `address`.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let network = network_of(address);
        let mut open = self.lock();
        if open.total >= self.total_max {
            return Err(Full::Server);
        }
        if open.by_network.get(&network).is_some_and(|&count| count >= self.per_address_max) {
            return Err(Full::Address);
        }
        *open.by_network.entry(network).or_default() += 1;
        open.total += 1;
        Ok(Place { admission: self.clone(), network })
    }

    /// The counts are whole at every await and panic point, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.admission.lock();
        open.total = open.total.saturating_sub(1);
        if let Some(count) = open.by_network.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.by_network.remove(&self.network);
            }
        }
    }
}

/// Who has one IPv6 address has its whole /64 (RFC 4291 §2.5.4).
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_limits_hold_and_places_come_back() {
        let admission = Admission::new(3, 2);
        let first = admission.admit(address("192.0.2.1")).unwrap();
        let second = admission.admit(address("::ffff:192.0.2.1")).unwrap();
        assert_eq!(admission.admit(address("192.0.2.1")).unwrap_err(), Full::Address);
        let third = admission.admit(address("192.0.2.2")).unwrap();
        assert_eq!(admission.admit(address("192.0.2.3")).unwrap_err(), Full::Server);
        drop(second);
        let fourth = admission.admit(address("192.0.2.1")).unwrap();
        drop((first, third, fourth));
        let open = admission.lock();
        assert_eq!((open.total, open.by_network.len()), (0, 0));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let admission = Admission::new(10, 1);
        let _first = admission.admit(address("2001:db8::1")).unwrap();
        assert_eq!(admission.admit(address("2001:db8::2:1")).unwrap_err(), Full::Address);
        assert!(admission.admit(address("2001:db8:0:1::1")).is_ok());
    }
}
