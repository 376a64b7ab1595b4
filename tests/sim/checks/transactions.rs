//! What the other servers have taken.

use pillarbox::mail::Timestamp;
use tokio::time::Instant;

use super::forbidden;
use super::ways::{self, Way};
use crate::fake_mx::Transaction;
use crate::ledger::Taken;
use crate::sites::{self, Role};
use crate::stored::attempts_of;
use crate::world::{self, World};

/// Looks at what was taken since the last look.
pub fn look_at_new(world: &World) {
    let mut new = Vec::new();
    for host in world.network.hosts() {
        let all = host.transactions();
        let seen = world.ledger.lock().unwrap().seen.insert(host.address, all.len()).unwrap_or(0);
        let broken = world.network.broken_connections(host.address);
        new.extend(all.into_iter().skip(seen).map(|transaction| {
            let role = sites::role_of(host.address);
            let is_certain = transaction.fault.is_none() && !broken.contains(&transaction.connection);
            Looked { transaction, is_certain, role }
        }));
    }
    new.sort_by_key(|looked| looked.transaction.taken_at);
    new.iter().for_each(|looked| look_at(world, looked));
}

/// A new transaction.
struct Looked {
    transaction: Transaction,
    /// Whether the server must have learnt of it.
    is_certain: bool,
    role: Role,
}

/// A message that another server has taken.
pub struct Delivered<'a> {
    pub id: &'a str,
    /// The id of its tenant.
    pub owner: &'a str,
    pub taken_at: Timestamp,
}

fn look_at(world: &World, looked: &Looked) {
    let Looked { transaction, is_certain, role } = looked;
    let (is_certain, role) = (*is_certain, *role);
    let recipients = &transaction.recipients;
    let age = Instant::now().duration_since(transaction.taken_at);
    let taken_at = world.now().checked_sub(age).unwrap_or(Timestamp::MIN);
    // A client whose recipients were all refused, and whose DATA was not, ends the transaction with a dot (RFC 2920 section 3.1).
    // Reports to senders have an empty path.
    if recipients.is_empty() || transaction.reverse_path.is_empty() {
        return;
    }
    let content = String::from_utf8_lossy(&transaction.content);
    let Some(id) = id_of(&content) else {
        return world.violate(format!("a message without an id: {content}"));
    };
    let owner = world.ledger.lock().unwrap().owner_of(&content).map(str::to_owned);
    let Some(owner) = owner else { return world.violate(format!("a message of nobody: {content}")) };
    let Some(tenant) = world::tenant_of(&content) else { return };
    ways::check(world, &Way { role, transaction, taken_at, tenant, message_id: &id });
    let (fault, to) = (&transaction.fault, recipients.join(" "));
    world.note(format!(
        "{id} was taken at {taken_at} for {to} by {role:?}, fault {fault:?}, certain: {is_certain}"
    ));
    forbidden::check(world, &Delivered { id: &id, owner: &owner, taken_at }, recipients);
    for recipient in recipients {
        let taken = Taken { tenant_id: owner.clone(), is_certain, in_life: *world.life.lock().unwrap() };
        look_at_recipient(world, (&id, recipient), taken);
    }
}

fn look_at_recipient(world: &World, (id, recipient): (&str, &str), taken: Taken) {
    let in_life = taken.in_life;
    let key = (id.to_owned(), recipient.to_owned());
    let mut ledger = world.ledger.lock().unwrap();
    let is_recorded = ledger.recorded.contains(&key);
    let before = ledger.taken.insert(key, taken);
    ledger.duplicates += usize::from(before.is_some());
    drop(ledger);
    if is_recorded {
        world.violate(format!("{id} to {recipient} was delivered again after it was recorded"));
    } else if before.is_some_and(|before| before.is_certain && before.in_life == in_life) {
        let attempts = attempts_of(&world.config.data_dir, id);
        world.violate(format!("{id} to {recipient} was delivered twice in life {in_life}: {attempts}"));
    }
}

/// The id in our `Received`.
pub fn id_of(text: &str) -> Option<String> {
    let start = text.find(" id msg_")? + " id ".len();
    Some(text[start..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
}
