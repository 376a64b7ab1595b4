//! Each tenant gets its own events, all of them.

use crate::stored::Stored;
use crate::world::{self, TENANTS, World};

pub fn check(world: &World, stored: &Stored) {
    let hooks = world.network.hooks();
    let tenants = world.tenants.lock().unwrap().clone();
    for tenant in &tenants {
        let hook = &hooks[tenant.number];
        for event in stored.events.iter().filter(|event| event.tenant == tenant.id) {
            let is_of_message = event.kind.starts_with("message.");
            if is_of_message && !hook.has(&event.id) && !stored.unposted.contains(&event.id) {
                world.violate(format!(
                    "the webhook of tenant {} misses {} {}",
                    tenant.number, event.kind, event.id
                ));
            }
        }
    }
    for (number, hook) in hooks.iter().enumerate() {
        for body in hook.take_bodies() {
            let is_of = |other: &usize| {
                body.contains(&world::marks(*other)) || body.contains(&world::tenant_domain(*other))
            };
            if let Some(other) = (0..TENANTS).filter(|other| *other != number).find(is_of) {
                world.violate(format!(
                    "the webhook of tenant {number} has an event of tenant {other}: {body}"
                ));
            }
        }
    }
}
