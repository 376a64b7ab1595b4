//! What follows from a failure that is reported late, beyond its report: whether its site has a bad day, and whether the
//! address was not reached for too long.

use std::sync::Arc;

use super::decision::{Decision, reply_text};
use super::{AdmittedToken, ReturnsService};
use crate::dns::MailHosts;
use crate::feedback::Feedback;
use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryState, Environment};
use crate::queue::{EndingDelivery, Site, SiteResults};
use crate::store::{Consequence, Delivery};

impl ReturnsService {
    /// Completes the suppression of a failure. Returns what the site said, if it said that a live address is gone.
    pub(super) async fn complete_failure(
        &self,
        token: &AdmittedToken,
        feedback: &Feedback,
        decision: &mut Decision,
        now: Timestamp,
    ) -> Option<(Arc<Site>, SiteResults)> {
        let Decision { consequence: Consequence::Failure { suppress }, group, .. } = decision else {
            return None;
        };
        let message = &token.target.message;
        let recipient = token.target.recipient()?;
        let Some(suppression) = suppress else {
            *suppress = match feedback.content.failure(group.as_ref()) {
                Some(failed) if recipient.state == DeliveryState::Delivered => {
                    let ending = EndingDelivery {
                        message,
                        recipient: &recipient.recipient,
                        state: DeliveryState::Bounced,
                        class: Some(failed.class),
                        attempts: recipient.attempts,
                        reply: &reply_text(&failed.reply),
                        at: now,
                    };
                    self.queue.soft_bounce_suppression(ending).await
                }
                _ => None,
            };
            return None;
        };
        if message.environment != Environment::Live {
            return None;
        }
        let site = self.site_of(recipient).await;
        suppression.site = Some(site.key());
        let results = SiteResults {
            tenant_id: message.tenant_id,
            count: 1,
            gone: vec![recipient.recipient.clone()],
            before: Some(message.id),
        };
        Some((site, results))
    }

    /// The site of a delivery. A failure may come when it is no longer known.
    async fn site_of(&self, delivery: &Delivery) -> Arc<Site> {
        let destination = delivery.recipient.host();
        match (self.queue.sites().find(destination), destination) {
            (Some(site), _) => site,
            (None, Host::Literal(_)) => self.queue.sites().provisional(destination),
            (None, Host::Domain(domain)) => match self.resolver.mail_hosts(domain).await {
                Ok(MailHosts::Hosts(hosts)) => self.queue.sites().learn(domain, Some(hosts)),
                Ok(MailHosts::NullMx) | Err(_) => self.queue.sites().provisional(destination),
            },
        }
    }
}
