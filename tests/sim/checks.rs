//! What must hold whenever the process does not run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pillarbox::mail::Timestamp;
use tokio::time::Instant;

use crate::fake_mx::Transaction;
use crate::stored::{Delivery, Event, Stored, attempts_of};
use crate::world::{TENANTS, World, mark, tenant_domain};

/// An attempt that has begun may end with the message taken.
const ATTEMPT_SECONDS: i64 = 15 * 60;
/// How long something that is due may wait. Pauses and the back-offs of sites are shorter.
const WAIT_MAX: Duration = Duration::from_secs(3 * 3600);

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
    look_at_transactions(world);
    let stored = match Stored::read(&world.config.data_dir) {
        Ok(stored) => stored,
        // A crash may come before the first start has created the tables.
        Err(_) if world.ledger.lock().unwrap().acknowledged.is_empty() => return,
        Err(error) => return world.violate(format!("the database cannot be read: {error}")),
    };
    if stored.integrity != "ok" {
        world.violate(format!("the database is damaged: {}", stored.integrity));
    }
    check_messages(world, &stored, &ended);
    check_waits(world, &stored, &ended);
    check_states(world, &stored);
    check_usage(world, &stored);
    check_webhooks(world, &stored);
}

/// Looks at what the other servers have taken since the last look.
fn look_at_transactions(world: &World) {
    let life = *world.life.lock().unwrap();
    let mut new = Vec::new();
    for host in world.network.hosts() {
        let all = host.transactions();
        let seen = world.ledger.lock().unwrap().seen.insert(host.address, all.len()).unwrap_or(0);
        let broken = world.network.broken_connections(host.address);
        new.extend(all.into_iter().skip(seen).map(|transaction| {
            let is_certain = transaction.fault.is_none() && !broken.contains(&transaction.connection);
            (transaction, is_certain)
        }));
    }
    new.sort_by_key(|(transaction, _)| transaction.taken_at);
    for (transaction, is_certain) in new {
        look_at(world, &transaction, is_certain, life);
    }
}

fn look_at(world: &World, transaction: &Transaction, is_certain: bool, life: usize) {
    // Reports to senders.
    if transaction.reverse_path.is_empty() {
        return;
    }
    let Some(id) = id_of(&transaction.content) else {
        return world
            .violate(format!("a message without an id: {}", String::from_utf8_lossy(&transaction.content)));
    };
    let age = Instant::now().duration_since(transaction.taken_at);
    let taken_at = world.now().checked_sub(age).unwrap_or(Timestamp::MIN);
    let fault = &transaction.fault;
    let to = transaction.recipients.join(" ");
    world.note(format!("{id} was taken at {taken_at} for {to}, fault {fault:?}, certain: {is_certain}"));
    for recipient in &transaction.recipients {
        let key = (id.clone(), recipient.clone());
        let mut ledger = world.ledger.lock().unwrap();
        let is_recorded = ledger.recorded.contains(&key);
        let before = ledger.taken.insert(key, (is_certain, life));
        let suppressed = ledger.suppressed.clone();
        ledger.duplicates += usize::from(before.is_some());
        drop(ledger);
        if is_recorded {
            world.violate(format!("{id} to {recipient} was delivered again after it was recorded"));
        } else if before.is_some_and(|(was_certain, in_life)| was_certain && in_life == life) {
            let attempts = attempts_of(&world.config.data_dir, &id);
            world.violate(format!("{id} to {recipient} was delivered twice in life {life}: {attempts}"));
        }
        let reverse_path = &transaction.reverse_path;
        let is_late = |since: Timestamp| taken_at.duration_since(since).as_secs() > ATTEMPT_SECONDS;
        for one in suppressed.iter().filter(|one| one.address == *recipient && is_late(one.since)) {
            if reverse_path.ends_with(&tenant_domain(one.tenant)) {
                world.violate(format!(
                    "{id} to {recipient} was delivered at {taken_at}, suppressed at {}",
                    one.since
                ));
            }
        }
    }
}

/// The id in our `Received`.
fn id_of(content: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(content);
    let start = text.find(" id msg_")? + " id ".len();
    Some(text[start..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
}

/// Each tenant gets its own events, all of them.
fn check_webhooks(world: &World, stored: &Stored) {
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
        for body in hook.take_bodies() {
            for other in (0..TENANTS).filter(|other| *other != tenant.number) {
                if body.contains(&mark(other)) || body.contains(&tenant_domain(other)) {
                    world.violate(format!(
                        "the webhook of tenant {} has an event of tenant {other}: {body}",
                        tenant.number
                    ));
                }
            }
        }
    }
}

fn check_messages(world: &World, stored: &Stored, ended: &Ended) {
    let key = |delivery: &Delivery| (delivery.message_id.clone(), delivery.recipient.clone());
    let known: BTreeMap<_, _> = stored.deliveries.iter().map(|delivery| (key(delivery), delivery)).collect();
    let mut wrong = Vec::new();
    let mut ledger = world.ledger.lock().unwrap();
    let life = *world.life.lock().unwrap();
    for (taken, (is_certain, in_life)) in &ledger.taken {
        match known.get(taken) {
            None => wrong.push(format!("{taken:?} was delivered and is not stored")),
            Some(delivery)
                if ended.was_stopped && *is_certain && *in_life == life && delivery.state != "delivered" =>
            {
                wrong.push(format!("{taken:?} was delivered before the stop and is {}", delivery.state));
            }
            Some(_) => {}
        }
    }
    for (id, (_, recipients)) in &ledger.acknowledged {
        for recipient in recipients {
            let is_known = known.contains_key(&(id.clone(), recipient.clone()));
            let is_left_out = |event: &Event| {
                event.message_id == *id
                    && event.kind == "message.suppressed"
                    && event.data.contains(recipient.as_str())
            };
            if !is_known && !stored.events.iter().any(is_left_out) {
                wrong.push(format!("{id} to {recipient} was acknowledged and is LOST"));
            }
        }
    }
    for delivery in &stored.deliveries {
        if delivery.state == "delivered" && !ledger.taken.contains_key(&key(delivery)) {
            wrong.push(format!(
                "{} to {} is delivered, and no server has it",
                delivery.message_id, delivery.recipient
            ));
        }
        if ended.is_last && delivery.is_open() {
            wrong.push(format!(
                "{} to {} still waits: {}",
                delivery.message_id, delivery.recipient, delivery.state
            ));
        }
    }
    let delivered = stored.deliveries.iter().filter(|delivery| delivery.state == "delivered").map(key);
    ledger.recorded = delivered.collect::<BTreeSet<_>>();
    drop(ledger);
    wrong.into_iter().for_each(|wrong| world.violate(wrong));
}

/// What is due is attempted, unless the process has just begun.
fn check_waits(world: &World, stored: &Stored, ended: &Ended) {
    let due = world.now().checked_sub(WAIT_MAX).unwrap_or(Timestamp::MIN);
    if due < ended.began {
        return;
    }
    let is_overdue =
        |delivery: &&Delivery| delivery.next_attempt_us.is_some_and(|us| us < due.as_microsecond());
    for delivery in stored.deliveries.iter().filter(is_overdue) {
        world.violate(format!("{} is due since {due} at least", delivery.id));
    }
}

/// The state of a delivery is what its events say.
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
        if by_events != delivery.state {
            world.violate(format!("{} is {}, and its events say {by_events}", delivery.id, delivery.state));
        }
        if delivery.is_open() != ["queued", "deferred"].contains(&delivery.state.as_str()) {
            world.violate(format!("{} is {} and open: {}", delivery.id, delivery.state, delivery.is_open()));
        }
    }
}

/// The usage of a tenant is the sum of its events.
fn check_usage(world: &World, stored: &Stored) {
    let mut counted: BTreeMap<&str, [i64; 4]> = BTreeMap::new();
    for event in &stored.events {
        let counts = counted.entry(&event.tenant).or_default();
        match event.kind.as_str() {
            "message.delivered" => counts[0] += 1,
            // Without a host nobody refused it: its recipient was suppressed while it waited.
            "message.bounced" if !event.data.contains("\"host\":") => {}
            "message.bounced" => counts[1] += 1,
            "message.deferred" => counts[2] += 1,
            // What has expired is counted as bounced, too.
            "message.expired" => (counts[1], counts[3]) = (counts[1] + 1, counts[3] + 1),
            _ => {}
        }
    }
    for (tenant, counts) in counted {
        let usage = stored.usage.get(tenant).copied().unwrap_or_default();
        if usage != counts {
            world.violate(format!("usage of {tenant}: {usage:?}, its events: {counts:?}"));
        }
    }
}
