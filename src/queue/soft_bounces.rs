//! Suppresses addresses that no delivery reaches, for tenants that want it. Earlier deliveries are looked up only when one
//! fails, so that success costs nothing.

use super::manager::QueueManager;
use crate::mail::{Address, Timestamp};
use crate::model::{BounceClass, DeliveryState, MessageKind, SuppressionReason};
use crate::policy::soft_bounces::{DeliveryEnd, EXAMINED_MAX, FailureRun, SUPPRESSED_FOR, end_of, too_many};
use crate::store::{Directory, Message, NewSuppression, RecipientHistory, Reports, Result};
use crate::telemetry::FLOOD;

/// A delivery that ends now.
#[derive(Debug, Clone, Copy)]
pub struct EndingDelivery<'a> {
    /// Its message.
    pub message: &'a Message,
    /// Its recipient.
    pub recipient: &'a Address,
    /// The state in which it ends.
    pub state: DeliveryState,
    /// The class of its failure.
    pub class: Option<BounceClass>,
    /// Its attempts.
    pub attempts: u32,
    /// What the server said.
    pub reply: &'a str,
    /// The time.
    pub at: Timestamp,
}

impl QueueManager {
    /// The suppression of an address that was not reached as often and as long as its tenant wants.
    pub async fn soft_bounce_suppression(&self, ending: EndingDelivery<'_>) -> Option<NewSuppression> {
        let EndingDelivery { message, state, class, attempts, .. } = ending;
        let is_failure = end_of(state, class, attempts) == DeliveryEnd::Unreached;
        if message.kind != MessageKind::Message || !is_failure {
            return None;
        }
        self.find_run(&ending).await.unwrap_or_else(|error| {
            tracing::warn!(target: FLOOD, %error, "cannot look up earlier deliveries to an address");
            None
        })
    }

    async fn find_run(&self, ending: &EndingDelivery<'_>) -> Result<Option<NewSuppression>> {
        let message = ending.message;
        let tenant = self.store().tenant(message.tenant_id).await?;
        let Some(limit) = tenant.and_then(|tenant| tenant.settings.soft_bounces) else { return Ok(None) };
        let history = RecipientHistory {
            tenant_id: message.tenant_id,
            environment: message.environment,
            recipient: ending.recipient.clone(),
            before: None,
            limit: EXAMINED_MAX,
        };
        let earlier = self.store().finished_deliveries_to(history).await?;
        let mut ends = vec![(DeliveryEnd::Unreached, ending.at)];
        // A failure that is reported late is of a delivery that succeeded until now.
        let others = earlier.iter().filter(|end| end.message_id != message.id);
        ends.extend(others.map(|end| (end_of(end.state, end.bounce_class, end.attempts), end.ended_at)));
        ends.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
        Ok(too_many(limit, ends, ending.at).map(|run| suppression(ending, run)))
    }
}

fn suppression(ending: &EndingDelivery<'_>, run: FailureRun) -> NewSuppression {
    let EndingDelivery { message, recipient, reply, at, .. } = *ending;
    let FailureRun { messages, since } = run;
    NewSuppression {
        evidence: Some(format!(
            "{messages} deliveries failed since {since} without a success; the last: {reply}"
        )),
        message_id: Some(message.id),
        expires_at: Some(at.checked_add(SUPPRESSED_FOR).unwrap_or(Timestamp::MAX)),
        ..NewSuppression::of_all_mail(
            Some(message.tenant_id),
            message.environment,
            recipient.clone(),
            SuppressionReason::Bounce,
        )
    }
}
