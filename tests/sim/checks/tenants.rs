//! Deleted tenants have left nothing. The domains of the others are checked regularly, and work in the end.

use std::time::Duration;

use pillarbox::mail::Timestamp;

use super::Ended;
use crate::stored::{Domain, Stored};
use crate::world::World;

/// How late the regular check of a domain may be. Look-ups that fail are repeated.
const CHECK_DELAY_MAX: Duration = Duration::from_secs(3600);

pub fn check(world: &World, stored: &Stored, ended: &Ended) {
    let deleted: Vec<String> = {
        let ledger = world.ledger.lock().unwrap();
        let confirmed = ledger.deleted.iter().filter(|(_, since)| since.is_some());
        confirmed.map(|(id, _)| id.clone()).collect()
    };
    for (table, tenant) in &stored.owners {
        if deleted.contains(tenant) {
            world.violate(format!("{tenant} is deleted, and has rows in {table}"));
        }
    }
    for Domain { name, status, .. } in &stored.domains {
        if ended.is_last && status != "verified" {
            world.violate(format!("{name} is {status}, and its records are there"));
        }
    }
    check_domains_are_checked(world, stored, ended);
}

/// The records of each domain are looked up once in an interval, unless the process has just begun.
fn check_domains_are_checked(world: &World, stored: &Stored, ended: &Ended) {
    let interval = world.config.domains.check_interval + CHECK_DELAY_MAX;
    let since = world.now().checked_sub(interval).unwrap_or(Timestamp::MIN);
    if since < ended.began {
        return;
    }
    for Domain { name, checked_us, .. } in &stored.domains {
        if checked_us.is_some_and(|us| us < since.as_microsecond()) {
            world.violate(format!("the records of {name} were not checked since {since} at least"));
        }
    }
}
