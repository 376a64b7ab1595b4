//! What the results of attempts say about recipients: whether a site has a bad day, and which addresses no delivery reaches.

use super::recipient_result::RecipientResult;
use super::worker::Worker;
use crate::policy::reply_verdict::Verdict;
use crate::queue::{EndingDelivery, SiteResults};
use crate::store::{AttemptRecord, Batch, Delivery};

/// The final results of a batch for its site.
pub(super) fn site_results(batch: &Batch, results: &[Option<RecipientResult>]) -> SiteResults {
    let is_final =
        |(_, result): &(&Delivery, &RecipientResult)| !matches!(result.verdict, Verdict::Deferred { .. });
    let results = || {
        batch
            .deliveries
            .iter()
            .zip(results)
            .filter_map(|(delivery, result)| Some((delivery, result.as_ref()?)))
    };
    let gone = results().filter(|(_, result)| {
        // A refusal of this server, such as for a null MX, comes from no host.
        result.peer.address.is_some() && matches!(result.verdict, Verdict::Bounced { suppress: true, .. })
    });
    SiteResults {
        tenant_id: batch.message.tenant_id,
        count: results().filter(is_final).count() as u64,
        gone: gone.map(|(delivery, _)| delivery.recipient.clone()).collect(),
        before: None,
    }
}

impl Worker {
    /// Suppresses recipients that were not reached as often and as long as their tenant wants.
    pub(super) async fn suppress_unreached(&self, batch: &Batch, records: &mut [AttemptRecord]) {
        let failed = |record: &&mut AttemptRecord| !record.state.is_open() && record.bounce_class.is_some();
        for record in records.iter_mut().filter(failed).filter(|record| record.suppress.is_none()) {
            let delivery = batch.deliveries.iter().find(|delivery| delivery.id == record.delivery_id);
            let Some(delivery) = delivery else { continue };
            let ending = EndingDelivery {
                message: &batch.message,
                recipient: &delivery.recipient,
                state: record.state,
                class: record.bounce_class,
                attempts: delivery.attempts + u32::from(record.attempt.is_some()),
                reply: &record.reply,
                at: record.at,
            };
            record.suppress = self.context.queue.soft_bounce_suppression(ending).await;
        }
    }
}
