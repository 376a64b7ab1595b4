//! Recipients whose data a tenant has erased.

use pillarbox::mail::Timestamp;

use crate::gates::Gates;
use crate::http::{self, Call};
use crate::world::{Tenant, World};

/// How the addresses begin that can be erased: each has one message, so nothing is stored about it again.
pub const ONCE: &str = "once";

/// What the tenant knows of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    /// There was no answer.
    Requested,
    /// It is not complete.
    Accepted,
    Applied(Timestamp),
}

pub fn is_erasable(address: &str) -> bool {
    address.starts_with(ONCE)
}

/// Erases a recipient of an acknowledged message, or repeats that.
pub async fn erase(world: &World, gates: &Gates, tenant: &Tenant) {
    let Some(address) = choose(world, tenant) else { return };
    world.ledger.lock().unwrap().erasures.entry(address.clone()).or_insert(Erasure::Requested);
    let target = format!("/v1/recipients/{}", address.replace('@', "%40"));
    let told = http::ask(world, gates, Call::delete(&target).with_key(&tenant.secret)).await;
    world.note(format!("tenant {}: erase {address}: {:?}", tenant.number, told.as_ref().map(|told| told.0)));
    if let Some((200, erasure)) = told {
        let is_applied = !erasure["applied_at"].is_null();
        let erasure = if is_applied { Erasure::Applied(world.now()) } else { Erasure::Accepted };
        world.ledger.lock().unwrap().erasures.insert(address, erasure);
    }
}

fn choose(world: &World, tenant: &Tenant) -> Option<String> {
    let ledger = world.ledger.lock().unwrap();
    let own = ledger.acknowledged.values().filter(|mail| mail.tenant_id == tenant.id);
    let recipients = own.flat_map(|mail| &mail.recipients).filter(|recipient| is_erasable(recipient));
    let left: Vec<&String> = recipients
        .filter(|recipient| !matches!(ledger.erasures.get(*recipient), Some(Erasure::Applied(_))))
        .collect();
    (!left.is_empty()).then(|| (*world.chance.choose(&left)).clone())
}
