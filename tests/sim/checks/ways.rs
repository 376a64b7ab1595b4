//! Mail takes the way that its tenant and its recipients' domains require, at the time that its sender wants.

use pillarbox::mail::Timestamp;

use crate::fake_mx::Transaction;
use crate::sites::{self, Role};
use crate::world::World;

/// A transaction whose message belongs to a tenant.
pub struct Way<'a> {
    pub role: Role,
    pub transaction: &'a Transaction,
    pub taken_at: Timestamp,
    /// The number of the tenant.
    pub tenant: usize,
    pub message_id: &'a str,
}

pub fn check(world: &World, way: &Way<'_>) {
    let Way { role, transaction, taken_at, tenant, message_id } = way;
    let Transaction { tls, user, recipients, .. } = transaction;
    let (is_policy_known, send_at) = {
        let ledger = world.ledger.lock().unwrap();
        let mail = ledger.acknowledged.get(*message_id);
        (ledger.policy_until.is_some_and(|until| *taken_at < until), mail.and_then(|mail| mail.send_at))
    };
    if let Some(send_at) = send_at.filter(|send_at| taken_at < send_at) {
        world.violate(format!("{message_id} was delivered at {taken_at}, before {send_at}"));
    }
    for recipient in recipients {
        let must_be_proved = sites::is_signed(recipient) || sites::is_strict(recipient) && is_policy_known;
        if must_be_proved && (!tls || *role == Role::Impostor) {
            world.violate(format!("{message_id} to {recipient} went to {role:?} at {taken_at}, TLS: {tls}"));
        }
        let is_routed = *role == Role::SmartHost;
        if is_routed != sites::is_routed(*tenant, recipient) {
            world.violate(format!("{message_id} of tenant {tenant} to {recipient} went to {role:?}"));
        }
        if is_routed && !(*tls && sites::is_smart_host_user(user.as_deref())) {
            world.violate(format!("{message_id} went to the smart host as {user:?}, TLS: {tls}"));
        }
    }
}
