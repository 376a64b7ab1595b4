//! What must hold whenever the process does not run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pillarbox::mail::Timestamp;
use rusqlite::{Connection, OpenFlags};
use tokio::time::Instant;

use crate::fake_mx::Transaction;
use crate::life::End;
use crate::world::{TENANTS, World, mark, tenant_domain};

const DATABASE: &str = "pillarbox.db";
/// An attempt that has begun may end with the message taken.
const ATTEMPT_SECONDS: i64 = 15 * 60;
/// How long something that is due may wait.
const WAIT_MAX: Duration = Duration::from_secs(3 * 3600);

/// Looks at what the other servers have taken since the last look. Within the runtime of the life that sent it.
pub fn look_at_transactions(world: &World, is_crash: bool) {
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
    world.note(format!("{} ends", if is_crash { "a life that crashed" } else { "a life" }));
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
            let attempts = attempts_of(world, &id);
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

/// The attempts of a message as they are stored.
fn attempts_of(world: &World, id: &str) -> String {
    let read = || {
        let connection = Connection::open(world.config.data_dir.join(DATABASE))?;
        let sql = "SELECT started_us, duration_ms, host, address, outcome, text, transcript FROM attempt
                   WHERE message_id = ?1 ORDER BY id";
        let mut statement = connection.prepare(sql)?;
        let attempts = statement.query_map([id], |row| {
            let started = Timestamp::from_microsecond(row.get(0)?).unwrap_or(Timestamp::MIN);
            let (ms, host, address): (i64, String, Option<String>) = (row.get(1)?, row.get(2)?, row.get(3)?);
            let (outcome, text, transcript): (String, String, String) =
                (row.get(4)?, row.get(5)?, row.get(6)?);
            Ok(format!("\n{started} +{ms} ms {host} {address:?} {outcome}: {text}\n{transcript}"))
        })?;
        attempts.collect::<rusqlite::Result<String>>()
    };
    read().unwrap_or_else(|error| error.to_string())
}

/// The id in our `Received`.
fn id_of(content: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(content);
    let start = text.find(" id msg_")? + " id ".len();
    Some(text[start..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
}

struct Delivery {
    id: String,
    message_id: String,
    recipient: String,
    state: String,
    is_open: bool,
}

struct Event {
    id: String,
    kind: String,
    tenant: String,
    message_id: String,
    delivery_id: String,
    data: String,
}

struct Stored {
    deliveries: Vec<Delivery>,
    events: Vec<Event>,
    /// Of each tenant: delivered, bounced, deferred, expired.
    usage: BTreeMap<String, [i64; 4]>,
    /// Events that a webhook still waits for.
    unposted: BTreeSet<String>,
}

impl Stored {
    fn read(world: &World) -> rusqlite::Result<Self> {
        let file = world.config.data_dir.join(DATABASE);
        let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        if check != "ok" {
            world.violate(format!("the database is damaged: {check}"));
        }
        let sql = "SELECT d.id, message_id, recipient, state, next_attempt_us IS NOT NULL
                   FROM delivery AS d JOIN message AS m ON m.id = d.message_id WHERE reverse_path <> ''";
        let deliveries = connection
            .prepare(sql)?
            .query_map([], |row| {
                Ok(Delivery {
                    id: row.get(0)?,
                    message_id: row.get(1)?,
                    recipient: row.get(2)?,
                    state: row.get(3)?,
                    is_open: row.get(4)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        let sql = "SELECT id, kind, coalesce(tenant_id, ''), coalesce(message_id, ''), coalesce(delivery_id, ''), data
                   FROM event ORDER BY id";
        let events = connection
            .prepare(sql)?
            .query_map([], |row| {
                Ok(Event {
                    id: row.get(0)?,
                    kind: row.get(1)?,
                    tenant: row.get(2)?,
                    message_id: row.get(3)?,
                    delivery_id: row.get(4)?,
                    data: row.get(5)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        let sql = "SELECT tenant_id, sum(delivered), sum(bounced), sum(deferred), sum(expired) FROM usage
                   WHERE span = 'day' GROUP BY tenant_id";
        let usage = connection
            .prepare(sql)?
            .query_map([], |row| Ok((row.get(0)?, [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?])))?
            .collect::<rusqlite::Result<_>>()?;
        let sql = "SELECT event_id FROM webhook_delivery WHERE state = 'pending'";
        let unposted =
            connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(Self { deliveries, events, usage, unposted })
    }
}

/// Requires what holds between the store, the other servers and what clients were told.
pub fn check_store(world: &World, end: End, is_last: bool) {
    let stored = match Stored::read(world) {
        Ok(stored) => stored,
        // A crash may come before the first start has created the tables.
        Err(_) if world.ledger.lock().unwrap().acknowledged.is_empty() => return,
        Err(error) => return world.violate(format!("the database cannot be read: {error}")),
    };
    let was_stopped = matches!(end, End::Stop(_));
    check_messages(world, &stored, was_stopped, is_last);
    check_states(world, &stored);
    check_usage(world, &stored);
    check_webhooks(world, &stored);
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

fn check_messages(world: &World, stored: &Stored, was_stopped: bool, is_last: bool) {
    let key = |delivery: &Delivery| (delivery.message_id.clone(), delivery.recipient.clone());
    let known: BTreeMap<_, _> = stored.deliveries.iter().map(|delivery| (key(delivery), delivery)).collect();
    let mut wrong = Vec::new();
    let mut ledger = world.ledger.lock().unwrap();
    let life = *world.life.lock().unwrap();
    for (taken, (is_certain, in_life)) in &ledger.taken {
        match known.get(taken) {
            None => wrong.push(format!("{taken:?} was delivered and is not stored")),
            Some(delivery)
                if was_stopped && *is_certain && *in_life == life && delivery.state != "delivered" =>
            {
                wrong.push(format!("{taken:?} was delivered before the stop and is {}", delivery.state));
            }
            Some(_) => {}
        }
    }
    for (id, (_, recipients)) in &ledger.acknowledged {
        for recipient in recipients {
            let is_known = known.contains_key(&(id.clone(), recipient.clone()));
            let is_left_out = |event: &&Event| {
                event.message_id == *id
                    && event.kind == "message.suppressed"
                    && event.data.contains(recipient.as_str())
            };
            if !is_known && stored.events.iter().find(is_left_out).is_none() {
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
        if is_last && delivery.is_open {
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

/// What is due is attempted. Pauses and the back-offs of sites are shorter than this, and a process that has just begun may
/// still have it to do.
pub fn check_waits(world: &World, life_began: Timestamp) {
    let due = world.now().checked_sub(WAIT_MAX).unwrap_or(Timestamp::MIN);
    let Ok(connection) = Connection::open(world.config.data_dir.join(DATABASE)) else { return };
    if due < life_began {
        return;
    }
    let sql = "SELECT id FROM delivery WHERE next_attempt_us < ?1";
    let waiting = connection.prepare(sql).and_then(|mut statement| {
        let ids = statement.query_map([due.as_microsecond()], |row| row.get(0))?;
        ids.collect::<rusqlite::Result<Vec<String>>>()
    });
    match waiting {
        Ok(waiting) => {
            waiting.iter().for_each(|id| world.violate(format!("{id} is due since {due} at least")))
        }
        Err(error) => world.violate(format!("the database cannot be read: {error}")),
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
        if delivery.is_open != ["queued", "deferred"].contains(&delivery.state.as_str()) {
            world.violate(format!("{} is {} and open: {}", delivery.id, delivery.state, delivery.is_open));
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
