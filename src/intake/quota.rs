//! How many refusals of one tenant are noted: enough to see what is wrong, too few to fill the disk or to keep
//! the store busy for everybody else. A client that has lost its way repeats the same ones all the time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::mail::{TenantId, Timestamp};

/// Refusals of one tenant that are noted in one minute.
const NOTES_PER_MINUTE_MAX: u32 = 60;

/// Counts notes by tenant, from minute to minute.
#[derive(Default)]
pub struct Quota(Mutex<Minute>);

#[derive(Default)]
struct Minute {
    number: i64,
    /// Only tenants with a note in this minute.
    notes: HashMap<TenantId, u32>,
}

impl Quota {
    /// Whether another note may be made for a tenant, which is then counted.
    pub fn take(&self, tenant: TenantId, now: Timestamp) -> bool {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = now.as_second() / 60;
        if minute.number != number {
            *minute = Minute { number, notes: HashMap::new() };
        }
        let notes = minute.notes.entry(tenant).or_default();
        *notes = notes.saturating_add(1);
        *notes <= NOTES_PER_MINUTE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_so_many_notes_in_a_minute_and_takes_none_from_others() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (busy, other) = (TenantId::generate(at(0)), TenantId::generate(at(0)));
        let quota = Quota::default();
        let noted = (0..1000).filter(|_| quota.take(busy, at(59))).count();
        assert_eq!(noted, NOTES_PER_MINUTE_MAX as usize);
        assert!(quota.take(other, at(59)) && !quota.take(busy, at(59)));
        assert!(quota.take(busy, at(60)));
    }
}
