//! Deleted tenants have left nothing, and the domains of the others work in the end.

use super::Ended;
use crate::stored::Stored;
use crate::world::World;

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
    for (name, status) in stored.domains.iter().filter(|(_, status)| ended.is_last && *status != "verified") {
        world.violate(format!("{name} is {status}, and its records are there"));
    }
}
