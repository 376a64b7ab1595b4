//! What must hold whenever the process does not run.

mod erasures;
mod forbidden;
mod messages;
mod reports;
mod tenants;
mod transactions;
mod ways;
mod webhooks;

use std::collections::BTreeMap;
use std::time::Duration;

use pillarbox::mail::Timestamp;

pub use self::transactions::id_of;

use crate::stored::Stored;
use crate::world::World;

/// How long something that is due may wait. Pauses and the back-offs of sites are shorter.
const WAIT_MAX: Duration = Duration::from_secs(3 * 3600);
/// An attempt that has begun may end with the message taken.
const ATTEMPT_SECONDS: i64 = 15 * 60;

/// A life that has ended.
pub struct Ended {
    pub began: Timestamp,
    /// False after a crash.
    pub was_stopped: bool,
    /// Whether everything worked in it, so that no mail may wait any more.
    pub is_last: bool,
}

/// Requires what holds between the store, the other servers and what clients were told. Within the runtime of that life.
pub fn check(world: &World, ended: Ended) {
    transactions::look_at_new(world);
    let stored = match Stored::read(&world.config.data_dir) {
        Ok(stored) => stored,
        // A crash may come before the first start has created the tables.
        Err(_) if world.ledger.lock().unwrap().acknowledged.is_empty() => return,
        Err(error) => return world.violate(format!("the database cannot be read: {error}")),
    };
    if stored.integrity != "ok" {
        world.violate(format!("the database is damaged: {}", stored.integrity));
    }
    messages::check(world, &stored, &ended);
    check_waits(world, &stored, &ended);
    check_states(world, &stored);
    check_usage(world, &stored);
    reports::check(world, &stored);
    tenants::check(world, &stored, &ended);
    webhooks::check(world, &stored);
    erasures::check(world, &ended);
    world.ledger.lock().unwrap().policy_until = stored.policy_until;
}

/// What is due is attempted, unless the process has just begun.
fn check_waits(world: &World, stored: &Stored, ended: &Ended) {
    let due = world.now().checked_sub(WAIT_MAX).unwrap_or(Timestamp::MIN);
    if due < ended.began {
        return;
    }
    for delivery in &stored.deliveries {
        if delivery.next_attempt_us.is_some_and(|us| us < due.as_microsecond()) {
            world.violate(format!("{} is due since {due} at least", delivery.id));
        }
    }
}

/// The state of a delivery is what its events say. Reports to senders have no events.
fn check_states(world: &World, stored: &Stored) {
    let mut said: BTreeMap<&str, &str> = BTreeMap::new();
    for event in &stored.events {
        let state = match event.kind.as_str() {
            "message.deferred" => "deferred",
            "message.delivered" => "delivered",
            "message.bounced" | "message.suppressed" => "bounced",
            "message.expired" => "expired",
            "message.cancelled" => "cancelled",
            _ => continue,
        };
        said.insert(&event.delivery_id, state);
    }
    for delivery in &stored.deliveries {
        let by_events = said.get(delivery.id.as_str()).copied().unwrap_or("queued");
        if !delivery.is_report && by_events != delivery.state {
            world.violate(format!("{} is {}, and its events say {by_events}", delivery.id, delivery.state));
        }
        if delivery.is_open() != ["queued", "deferred"].contains(&delivery.state.as_str()) {
            world.violate(format!("{} is {} and open: {}", delivery.id, delivery.state, delivery.is_open()));
        }
    }
}

/// The usage of a tenant is the sum of its events.
fn check_usage(world: &World, stored: &Stored) {
    let mut counted: BTreeMap<&str, [i64; 5]> = BTreeMap::new();
    for event in &stored.events {
        let counts = counted.entry(&event.tenant).or_default();
        match event.kind.as_str() {
            "message.delivered" => counts[0] += 1,
            "message.bounced" if event.data.contains("\"late\":true") => counts[4] += 1,
            // Without a host nobody refused it: its recipient was suppressed while it waited.
            "message.bounced" if !event.data.contains("\"host\":") => {}
            "message.bounced" => counts[1] += 1,
            "message.deferred" => counts[2] += 1,
            // What has expired is counted as bounced, too.
            "message.expired" => (counts[1], counts[3]) = (counts[1] + 1, counts[3] + 1),
            _ => {}
        }
    }
    let ledger = world.ledger.lock().unwrap();
    counted.retain(|tenant, _| !ledger.is_deleted(tenant));
    drop(ledger);
    for (tenant, counts) in counted {
        let usage = stored.usage.get(tenant).copied().unwrap_or_default();
        if usage != counts {
            world.violate(format!("usage of {tenant}: {usage:?}, its events: {counts:?}"));
        }
    }
}
