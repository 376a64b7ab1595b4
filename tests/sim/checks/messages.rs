//! What was acknowledged is delivered, queued or reported, and its sender learns of a failure.

use std::collections::{BTreeMap, BTreeSet};

use super::Ended;
use crate::ledger::{Acknowledged, Ledger, Taken};
use crate::stored::{Delivery, Event, Stored};
use crate::world::World;

type Deliveries<'a> = BTreeMap<(String, String), &'a Delivery>;

pub fn check(world: &World, stored: &Stored, ended: &Ended) {
    let life = *world.life.lock().unwrap();
    let of_messages = || stored.deliveries.iter().filter(|delivery| !delivery.is_report);
    let known: Deliveries<'_> = of_messages().map(|delivery| (delivery.key(), delivery)).collect();
    let mut ledger = world.ledger.lock().unwrap();
    let mut wrong = Vec::new();
    wrong.extend(taken_without_result(&ledger, &known, ended, life));
    wrong.extend(lost(&ledger, &known, &stored.events));
    for delivery in of_messages() {
        let Delivery { message_id, recipient, state, .. } = delivery;
        let is_taken = delivery.is_erased() || ledger.taken.contains_key(&delivery.key());
        if delivery.was_delivered(&stored.events) && !is_taken {
            wrong.push(format!("{message_id} to {recipient} is {state}, and no server has it"));
        }
    }
    for delivery in stored.deliveries.iter().filter(|delivery| ended.is_last && delivery.is_open()) {
        let Delivery { message_id, recipient, state, .. } = delivery;
        wrong.push(format!("{message_id} to {recipient} still waits: {state}"));
    }
    wrong.extend(unreported(&ledger, stored));
    let delivered = of_messages().filter(|delivery| delivery.state == "delivered").map(Delivery::key);
    ledger.recorded = delivered.collect::<BTreeSet<_>>();
    drop(ledger);
    wrong.into_iter().for_each(|wrong| world.violate(wrong));
}

/// What other servers have must be stored, and recorded if the server has stopped in order.
fn taken_without_result(ledger: &Ledger, known: &Deliveries<'_>, ended: &Ended, life: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    for (taken, Taken { tenant_id, is_certain, in_life }) in &ledger.taken {
        match known.get(taken) {
            None if ledger.is_deleted(tenant_id) || ledger.erasures.contains_key(&taken.1) => {}
            None => wrong.push(format!("{taken:?} was delivered and is not stored")),
            Some(delivery) => {
                let has_result = !delivery.is_open() && delivery.state != "cancelled";
                if ended.was_stopped && *is_certain && *in_life == life && !has_result {
                    wrong.push(format!("{taken:?} was delivered before the stop and is {}", delivery.state));
                }
            }
        }
    }
    wrong
}

fn lost(ledger: &Ledger, known: &Deliveries<'_>, events: &[Event]) -> Vec<String> {
    let mut lost = Vec::new();
    let kept = ledger.acknowledged.iter().filter(|(_, mail)| !ledger.is_deleted(&mail.tenant_id));
    for (id, Acknowledged { recipients, .. }) in kept {
        for recipient in recipients {
            let is_left_out = |event: &Event| {
                event.message_id == *id
                    && event.kind == "message.suppressed"
                    && event.data.contains(recipient.as_str())
            };
            let is_known = known.contains_key(&(id.clone(), recipient.clone()))
                || ledger.erasures.contains_key(recipient);
            if !is_known && !events.iter().any(is_left_out) {
                lost.push(format!("{id} to {recipient} was acknowledged and is LOST"));
            }
        }
    }
    lost
}

/// Each failure has a report to its sender.
fn unreported(ledger: &Ledger, stored: &Stored) -> Vec<String> {
    // A report to a sender that names an erased recipient has lost its content.
    let erased: BTreeSet<&String> =
        stored.deliveries.iter().filter(|one| one.is_erased()).map(|one| &one.message_id).collect();
    let failed = stored
        .deliveries
        .iter()
        .filter(|delivery| !delivery.is_report && ["bounced", "expired"].contains(&delivery.state.as_str()));
    let unreported = failed.filter(|delivery| {
        let report = (delivery.subject.clone(), delivery.recipient.clone());
        let is_gone = ledger.is_deleted(&delivery.tenant_id) || erased.contains(&delivery.message_id);
        !is_gone && !stored.reported.contains(&report)
    });
    unreported
        .map(|delivery| {
            let Delivery { message_id, recipient, state, .. } = delivery;
            format!("{message_id} to {recipient} is {state}, and its sender gets no report")
        })
        .collect()
}
