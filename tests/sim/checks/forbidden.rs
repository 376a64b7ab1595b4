//! No mail of a deleted tenant is delivered, and none to an erased or suppressed recipient.

use pillarbox::mail::Timestamp;

use super::ATTEMPT_SECONDS;
use super::transactions::Delivered;
use crate::erasures::Erasure;
use crate::world::World;

/// Looks at a message that was delivered to these recipients.
pub fn check(world: &World, delivered: &Delivered<'_>, recipients: &[String]) {
    let (deleted, erasures, suppressed) = {
        let ledger = world.ledger.lock().unwrap();
        let deleted = ledger.deleted.get(delivered.owner).copied().flatten();
        (deleted, ledger.erasures.clone(), ledger.suppressed.clone())
    };
    let Delivered { id, owner, taken_at } = *delivered;
    if let Some(since) = deleted.filter(|since| is_late(taken_at, *since)) {
        world.violate(format!("{id} was delivered at {taken_at}, its tenant deleted at {since}"));
    }
    for recipient in recipients {
        if let Some(Erasure::Applied(since)) = erasures.get(recipient)
            && taken_at > *since
        {
            world.violate(format!("{id} to {recipient} was delivered at {taken_at}, erased at {since}"));
        }
        for one in suppressed.iter().filter(|one| one.address == *recipient && one.tenant_id == owner) {
            // The message that another server reports as bounced may be delivered to it once more.
            if is_late(taken_at, one.since) && one.reported.as_deref() != Some(id) {
                let since = one.since;
                world.violate(format!(
                    "{id} to {recipient} was delivered at {taken_at}, suppressed at {since}"
                ));
            }
        }
    }
}

/// Whether no attempt that had begun before `since` explains it.
fn is_late(taken_at: Timestamp, since: Timestamp) -> bool {
    taken_at.duration_since(since).as_secs() > ATTEMPT_SECONDS
}
