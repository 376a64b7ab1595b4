//! What was erased is stored nowhere.

use super::Ended;
use crate::erasures::Erasure;
use crate::stored;
use crate::world::World;

pub fn check(world: &World, ended: &Ended) {
    let erasures = world.ledger.lock().unwrap().erasures.clone();
    for (address, erasure) in erasures {
        let is_complete = match erasure {
            Erasure::Applied(_) => true,
            Erasure::Accepted => ended.is_last,
            Erasure::Requested => false,
        };
        if !is_complete {
            continue;
        }
        match stored::tables_with(&world.config.data_dir, &address) {
            Ok(tables) if tables.is_empty() => {}
            Ok(tables) => world.violate(format!("{address} is erased, and still in {}", tables.join(", "))),
            Err(error) => world.violate(format!("the database cannot be searched for {address}: {error}")),
        }
    }
}
