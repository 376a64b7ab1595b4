//! From which time on each tenant may have deliveries that can be claimed, in a database with several nodes. PostgreSQL keeps the
//! index entries of claimed and ended deliveries while another session holds an old snapshot, and a look for what is due would
//! step over all of them each time.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::model::TenantId;

/// Maximum of tenants. Beyond it, all are forgotten.
const TENANTS_MAX: usize = 100_000;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::store) struct DueFloors(Mutex<Floors>);

#[derive(Debug, Default)]
struct Floors {
    tenants: HashMap<TenantId, Floor>,
    looks: u64,
}

#[derive(Debug)]
struct Floor {
    /// No delivery that can be claimed is due before, except those of which other nodes will tell.
    at_us: i64,
    /// The last look that began.
    look: u64,
    /// The earliest time that was noted since that look began.
    noted_us: i64,
}

/// A look for what is due, which begins at a time.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct DueLook {
    /// The time in microseconds.
    pub(in crate::store) from_us: i64,
    number: u64,
}

impl DueFloors {
    /// Begins a look.
    pub(in crate::store) fn begin(&self, tenant: TenantId) -> DueLook {
        let mut floors = self.0.lock();
        if floors.tenants.len() >= TENANTS_MAX && !floors.tenants.contains_key(&tenant) {
            floors.tenants.clear();
        }
        floors.looks += 1;
        let number = floors.looks;
        let unknown = || Floor { at_us: i64::MIN, look: number, noted_us: i64::MAX };
        let floor = floors.tenants.entry(tenant).or_insert_with(unknown);
        (floor.look, floor.noted_us) = (number, i64::MAX);
        DueLook { from_us: floor.at_us, number }
    }

    /// A look found nothing before this time. Without effect if another one has begun since.
    pub(in crate::store) fn raise(&self, tenant: TenantId, look: DueLook, to_us: i64) {
        if let Some(floor) = self.0.lock().tenants.get_mut(&tenant)
            && floor.look == look.number
        {
            floor.at_us = to_us.min(floor.noted_us);
        }
    }

    /// The tenant may have deliveries that are due from this time on.
    pub(in crate::store) fn note(&self, tenant: TenantId, at_us: i64) {
        if let Some(floor) = self.0.lock().tenants.get_mut(&tenant) {
            floor.at_us = floor.at_us.min(at_us);
            floor.noted_us = floor.noted_us.min(at_us);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    fn tenant(number: i64) -> TenantId {
        TenantId::generate(Timestamp::from_second(number).unwrap())
    }

    #[test]
    fn a_look_begins_where_the_last_one_found_something() {
        let (floors, tenant, other) = (DueFloors::default(), tenant(1), tenant(2));
        let look = floors.begin(tenant);
        assert_eq!(look.from_us, i64::MIN);
        floors.raise(tenant, look, 50);
        assert_eq!(floors.begin(tenant).from_us, 50);
        assert_eq!(floors.begin(other).from_us, i64::MIN);
        floors.note(tenant, 20);
        floors.note(tenant, 30);
        assert_eq!(floors.begin(tenant).from_us, 20);
    }

    #[test]
    fn what_is_noted_during_a_look_is_found_by_the_next_one() {
        let (floors, tenant) = (DueFloors::default(), tenant(1));
        let look = floors.begin(tenant);
        floors.note(tenant, 20);
        floors.note(tenant, 70);
        floors.raise(tenant, look, 50);
        assert_eq!(floors.begin(tenant).from_us, 20);
        // An earlier look does not know what was noted before the later one.
        let earlier = floors.begin(tenant);
        floors.note(tenant, 10);
        let later = floors.begin(tenant);
        floors.raise(tenant, earlier, 90);
        floors.raise(tenant, later, 10);
        assert_eq!(floors.begin(tenant).from_us, 10);
    }
}
