//! The worker of one webhook: posts due events, a few at a time, until none is due.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::request::{ResponseClass, WebhookRequest, classify};
use super::retry_schedule::next_attempt_at;
use super::{STORE_RETRY_DELAY, WebhookDispatcher};
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{MessageId, WebhookDeliveryId, WebhookId};
use crate::store::{
    Outbox, ServedWebhook, Webhook, WebhookDelivery, WebhookOutcome, WebhookSecret, WebhookVerdict,
    WebhooksInFlight,
};

/// How long an endpoint may fail before it is disabled.
const FAILING_MAX: SignedDuration = SignedDuration::from_hours(5 * 24);

/// Delivers the events of one webhook.
pub struct EndpointWorker {
    dispatcher: Arc<WebhookDispatcher>,
    id: WebhookId,
    stop: CancellationToken,
    requests: JoinSet<RequestResult>,
    in_flight: HashMap<Id, InFlight>,
    /// Deliveries whose result could not be stored, and the time of their retry.
    unrecorded: HashMap<WebhookDeliveryId, Timestamp>,
    /// Whether the last attempt failed; then one request at a time tests the endpoint. `None` before the first claim.
    is_failing: Option<bool>,
    /// When the next event of the webhook is due, by the last claim.
    next_due_at: Option<Timestamp>,
}

/// The destination of requests.
struct Endpoint {
    webhook: Webhook,
    secrets: Vec<WebhookSecret>,
}

/// A request in progress.
struct InFlight {
    delivery: WebhookDeliveryId,
    message: Option<MessageId>,
}

/// The result of a request.
enum RequestResult {
    Accepted,
    Failed,
    /// The result could not be stored, so the event will be posted again.
    Unrecorded,
}

impl EndpointWorker {
    pub fn new(dispatcher: Arc<WebhookDispatcher>, id: WebhookId, stop: CancellationToken) -> Self {
        Self {
            dispatcher,
            id,
            stop,
            requests: JoinSet::new(),
            in_flight: HashMap::new(),
            unrecorded: HashMap::new(),
            is_failing: None,
            next_due_at: None,
        }
    }

    /// Runs until no event is due. `wakeups` signals that more events may be due; it is returned with signals that were
    /// not seen.
    pub async fn run(mut self, mut wakeups: watch::Receiver<()>) -> (WebhookId, watch::Receiver<()>) {
        loop {
            wakeups.borrow_and_update();
            if !self.stop.is_cancelled() {
                self.claim_more().await;
            }
            if self.requests.is_empty() {
                break;
            }
            tokio::select! {
                Some(ended) = self.requests.join_next_with_id() => self.finish(ended),
                Ok(()) = wakeups.changed() => {}
            }
        }
        let retry_at = self.unrecorded.values().copied().min();
        if let Some(at) = [self.next_due_at, retry_at].into_iter().flatten().min() {
            self.dispatcher.store.schedule_webhook(self.id, at);
        }
        (self.id, wakeups)
    }

    async fn claim_more(&mut self) {
        let width = match self.is_failing {
            Some(true) => 1,
            _ => self.dispatcher.settings.config.requests_per_webhook_max,
        };
        let free = width.saturating_sub(self.requests.len());
        if free == 0 {
            return;
        }
        let now = self.dispatcher.clock.now();
        self.unrecorded.retain(|_, until| *until > now);
        match self.dispatcher.store.claim_webhook(self.id, self.claimed(), free, now).await {
            Ok(Some(served)) => self.start(served),
            // The webhook is disabled or gone; events wait until it is enabled again.
            Ok(None) => self.next_due_at = None,
            Err(error) => {
                tracing::warn!(webhook = %self.id, %error, "cannot read due events");
                self.next_due_at = Some(now + STORE_RETRY_DELAY);
            }
        }
    }

    /// Deliveries and messages in progress, which must not be claimed again.
    fn claimed(&self) -> WebhooksInFlight {
        let deliveries = self.in_flight.values().map(|request| request.delivery);
        WebhooksInFlight {
            deliveries: deliveries.chain(self.unrecorded.keys().copied()).collect(),
            messages: self.in_flight.values().filter_map(|request| request.message).collect(),
        }
    }

    fn start(&mut self, served: ServedWebhook) {
        let ServedWebhook { webhook, secrets, work } = served;
        let was_unknown = self.is_failing.is_none();
        let is_failing = *self.is_failing.get_or_insert(webhook.failing_since.is_some());
        self.next_due_at = work.next_due_at;
        // The first claim was made before the failure of the endpoint was known.
        let width = if is_failing && was_unknown { 1 } else { work.deliveries.len() };
        let endpoint = Arc::new(Endpoint { webhook, secrets });
        for delivery in work.deliveries.into_iter().take(width) {
            let in_flight = InFlight { delivery: delivery.id, message: delivery.event.message_id };
            let request = post_once(self.dispatcher.clone(), endpoint.clone(), delivery);
            self.in_flight.insert(self.requests.spawn(request).id(), in_flight);
        }
    }

    fn finish(&mut self, ended: Result<(Id, RequestResult), JoinError>) {
        let (task, end) = ended.unwrap_or_else(|error| {
            tracing::error!(webhook = %self.id, %error, "the task of a webhook request failed");
            (error.id(), RequestResult::Unrecorded)
        });
        let Some(request) = self.in_flight.remove(&task) else { return };
        match end {
            RequestResult::Accepted => self.is_failing = Some(false),
            RequestResult::Failed => self.is_failing = Some(true),
            RequestResult::Unrecorded => {
                let until = self.dispatcher.clock.now() + STORE_RETRY_DELAY;
                self.unrecorded.insert(request.delivery, until);
            }
        }
    }
}

/// Makes one attempt and records the result.
async fn post_once(
    dispatcher: Arc<WebhookDispatcher>,
    endpoint: Arc<Endpoint>,
    delivery: WebhookDelivery,
) -> RequestResult {
    let id = delivery.id;
    let Endpoint { webhook, secrets } = &*endpoint;
    let request = WebhookRequest { id, url: &webhook.url, secrets, event: &delivery.event };
    let config = &dispatcher.settings.config;
    let attempt = {
        // The semaphore is never closed.
        let _permit = dispatcher.requests.acquire(webhook.tenant_id).await;
        request.send(&dispatcher.client, config, &dispatcher.clock).await
    };
    let class = classify(&attempt);
    let verdict = match class {
        ResponseClass::Accepted => WebhookVerdict::Delivered,
        ResponseClass::Gone => WebhookVerdict::Gone,
        ResponseClass::Failed => {
            let attempts = delivery.attempts.saturating_add(1);
            let WebhookDispatcher { clock, rng, settings, .. } = &*dispatcher;
            next_attempt_at(settings.retries, attempts, clock.now(), rng.random())
                .map_or(WebhookVerdict::GivenUp, WebhookVerdict::Retry)
        }
    };
    let webhook_id = webhook.id;
    let (status, error) = (attempt.status, attempt.error.as_deref());
    match class {
        ResponseClass::Accepted => {
            tracing::debug!(webhook = %webhook_id, delivery = %id, status, "webhook delivered");
        }
        ResponseClass::Failed | ResponseClass::Gone => {
            tracing::debug!(webhook = %webhook_id, delivery = %id, status, error, "webhook failed");
        }
    }
    let failing_since_max = attempt.at - FAILING_MAX;
    let outcome = WebhookOutcome { delivery_id: id, webhook_id, attempt, verdict, failing_since_max };
    match (dispatcher.store.record_webhook(outcome).await, class) {
        (Ok(()), ResponseClass::Accepted) => RequestResult::Accepted,
        (Ok(()), _) => RequestResult::Failed,
        (Err(error), _) => {
            tracing::warn!(webhook = %webhook_id, %error, "cannot record the result of a webhook request");
            RequestResult::Unrecorded
        }
    }
}
