//! Ends deliveries whose recipient was suppressed, or left the list of the message, after the message was accepted.

use std::collections::HashMap;

use super::Worker;
use crate::mail::Address;
use crate::model::{DeliveryId, ListName, MessageKind, RefusalCode, SuppressedMail, SuppressionReason};
use crate::queue::Claim;
use crate::relay::outcomes::Outcomes;
use crate::relay::result_record::UnattemptedBatch;
use crate::store::{Batch, Directory, Message, StoreError, Suppression};

impl Worker {
    /// Ends the deliveries of a claim to suppressed recipients. Returns the rest; `None` if nothing is left to deliver.
    pub(super) async fn end_suppressed(&self, mut claim: Claim) -> Option<Claim> {
        let refusals = match self.find_suppressed(&claim.batch).await {
            Ok(refusals) if refusals.is_empty() => return Some(claim),
            Ok(refusals) => refusals,
            Err(error) => {
                self.defer_unreadable(claim, &error).await;
                return None;
            }
        };
        let ended = claim.split_off(|delivery| refusals.contains_key(&delivery.id));
        let unattempted = UnattemptedBatch { batch: &ended.batch, now: self.context.clock.now() };
        let mut outcomes = Outcomes::default();
        for delivery in &ended.batch.deliveries {
            let Some(refusal) = refusals.get(&delivery.id) else { continue };
            let record = unattempted.record_suppressed(delivery, refusal);
            outcomes.add(&ended.batch.message, delivery, record, false);
        }
        let content = ended.batch.content.clone();
        self.send_to_writer(ended, content.as_ref(), outcomes).await;
        Some(claim).filter(|claim| !claim.batch.deliveries.is_empty())
    }

    /// The refusal of each suppressed recipient. Mail that the server composed has no list and may go to any address.
    async fn find_suppressed(&self, batch: &Batch) -> Result<HashMap<DeliveryId, String>, StoreError> {
        let (store, message) = (&self.context.store, &batch.message);
        let (tenant, environment, now) = (message.tenant_id, message.environment, self.context.clock.now());
        let mut refusals = HashMap::new();
        let is_checked = !store.may_have_suppressed_since(tenant, message.created_at);
        if message.kind != MessageKind::Message || is_checked {
            return Ok(refusals);
        }
        let folded: Vec<String> =
            batch.deliveries.iter().map(|delivery| delivery.recipient.folded()).collect();
        let found = store.suppressions_of(tenant, environment, folded.clone(), now).await?;
        for ((delivery, folded), found) in batch.deliveries.iter().zip(folded).zip(found) {
            let refusal = match (found.filter(|found| !is_bounce_of(message, found)), &message.list) {
                (Some(found), _) => Some(refuse_suppressed(&delivery.recipient, &found)),
                (None, Some(list)) => {
                    let found = store.list_suppression_of(tenant, environment, &folded, list, now).await?;
                    found.map(|found| refuse_unsubscribed(&delivery.recipient, list, &found))
                }
                (None, None) => None,
            };
            refusals.extend(refusal.map(|refusal| (delivery.id, refusal)));
        }
        Ok(refusals)
    }
}

/// Whether another server reported a bounce of this message, which is not delivered yet: a copy of it took another way.
/// Such a report does not change the state of the delivery.
fn is_bounce_of(message: &Message, found: &Suppression) -> bool {
    found.reason == SuppressionReason::Bounce && found.message_id == Some(message.id)
}

fn refuse_suppressed(recipient: &Address, found: &Suppression) -> String {
    let whose = if found.tenant_id.is_none() { " by the platform" } else { "" };
    format!(
        "550 5.7.1 [{}] {recipient} was suppressed{whose} after the message was accepted (reason: {})",
        RefusalCode::RecipientSuppressed,
        found.reason
    )
}

fn refuse_unsubscribed(recipient: &Address, list: &ListName, found: &Suppression) -> String {
    let which = match found.mail {
        SuppressedMail::EveryList => "all lists".to_owned(),
        _ => format!("the list {list}"),
    };
    format!(
        "550 5.7.1 [{}] {recipient} was excluded from {which} after the message was accepted (reason: {})",
        RefusalCode::RecipientUnsubscribed,
        found.reason
    )
}
