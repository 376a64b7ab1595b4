//! What reports of other servers cause: suppressions of the right tenant, and nothing else.

use crate::ledger::{FailureReport, Ledger};
use crate::stored::{Stored, Suppression};
use crate::world::World;

pub fn check(world: &World, stored: &Stored) {
    let ledger = world.ledger.lock().unwrap();
    let mut wrong: Vec<String> =
        stored.suppressions.iter().filter_map(|suppression| unfounded(&ledger, suppression)).collect();
    for (report, _) in ledger.reported.iter().filter(|(_, is_taken)| **is_taken) {
        let FailureReport { tenant_id, address } = report;
        let is_there =
            stored.suppressions.iter().any(|one| one.tenant_id == *tenant_id && one.address == *address);
        if !is_there && !ledger.is_deleted(tenant_id) {
            wrong.push(format!("the report that {address} of {tenant_id} failed was taken, without effect"));
        }
    }
    drop(ledger);
    wrong.into_iter().for_each(|wrong| world.violate(wrong));
}

/// Why there should be no such suppression.
fn unfounded(ledger: &Ledger, suppression: &Suppression) -> Option<String> {
    let Suppression { tenant_id, address, reason, has_report } = suppression;
    let report = FailureReport { tenant_id: tenant_id.clone(), address: address.clone() };
    let is_founded = match reason.as_str() {
        "bounce" if *has_report => ledger.reported.contains_key(&report),
        // The hosts refuse this name for good.
        "bounce" => address.starts_with("nobody@"),
        "manual" => true,
        // No complaint was signed.
        _ => false,
    };
    (!is_founded).then(|| format!("{tenant_id} has a suppression of {address} ({reason}) without a cause"))
}
