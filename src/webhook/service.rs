//! The worker of one webhook: posts due events, a few at a time, until none is due.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::post::{Meaning, Post, meaning_of};
use super::schedule::next_attempt_at;
use super::{STORE_PAUSE, WebhookDispatcher};
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{MessageId, WebhookDeliveryId, WebhookId};
use crate::store::{
    Outbox, ServedWebhook, Webhook, WebhookDelivery, WebhookFlights, WebhookOutcome, WebhookSecret,
    WebhookVerdict,
};

/// How long an endpoint may fail before it is disabled.
const FAILING_MAX: SignedDuration = SignedDuration::from_hours(5 * 24);

/// Delivers the events of one webhook.
pub struct EndpointWorker {
    teller: Arc<WebhookDispatcher>,
    id: WebhookId,
    stop: CancellationToken,
    requests: JoinSet<RequestEnd>,
    flights: HashMap<Id, Flight>,
    /// Deliveries whose result could not be stored, and until when they are not retried.
    resting: HashMap<WebhookDeliveryId, Timestamp>,
    /// The last attempt failed: one request at a time tests whether the endpoint is back.
    is_failing: Option<bool>,
    /// When the webhook has due events again, as far as the database knows.
    next_due_at: Option<Timestamp>,
}

/// The destination of requests.
struct Endpoint {
    webhook: Webhook,
    secrets: Vec<WebhookSecret>,
}

/// A request in progress.
struct Flight {
    delivery: WebhookDeliveryId,
    message: Option<MessageId>,
}

/// The result of a request.
enum RequestEnd {
    Taken,
    NotTaken,
    /// The result could not be stored, so the event will be posted again.
    NotWritten,
}

impl EndpointWorker {
    pub fn new(teller: Arc<WebhookDispatcher>, id: WebhookId, stop: CancellationToken) -> Self {
        Self {
            teller,
            id,
            stop,
            requests: JoinSet::new(),
            flights: HashMap::new(),
            resting: HashMap::new(),
            is_failing: None,
            next_due_at: None,
        }
    }

    /// Runs until nothing is due. `wakeups` signals that more may be due; it is returned with any signal not seen.
    pub async fn run(mut self, mut news: watch::Receiver<()>) -> (WebhookId, watch::Receiver<()>) {
        loop {
            news.borrow_and_update();
            if !self.stop.is_cancelled() {
                self.begin_more().await;
            }
            if self.requests.is_empty() {
                break;
            }
            tokio::select! {
                Some(ended) = self.requests.join_next_with_id() => self.end_one(ended),
                Ok(()) = news.changed() => {}
            }
        }
        let rested_at = self.resting.values().copied().min();
        if let Some(at) = [self.next_due_at, rested_at].into_iter().flatten().min() {
            self.teller.store.note_webhook_due(self.id, at);
        }
        (self.id, news)
    }

    async fn begin_more(&mut self) {
        let width = match self.is_failing {
            Some(true) => 1,
            _ => self.teller.settings.config.requests_per_webhook_max,
        };
        let room = width.saturating_sub(self.requests.len());
        if room == 0 {
            return;
        }
        let now = Timestamp::now();
        self.resting.retain(|_, until| *until > now);
        match self.teller.store.claim_webhook(self.id, self.busy(), room, now).await {
            Ok(Some(served)) => self.begin(served),
            // The webhook is disabled or gone; events wait until it is enabled again.
            Ok(None) => self.next_due_at = None,
            Err(error) => {
                tracing::warn!(webhook = %self.id, %error, "cannot read due events");
                self.next_due_at = Some(now + STORE_PAUSE);
            }
        }
    }

    /// Deliveries and messages in progress, which must not be claimed again.
    fn busy(&self) -> WebhookFlights {
        let flying = self.flights.values().map(|flight| flight.delivery);
        WebhookFlights {
            deliveries: flying.chain(self.resting.keys().copied()).collect(),
            messages: self.flights.values().filter_map(|flight| flight.message).collect(),
        }
    }

    fn begin(&mut self, served: ServedWebhook) {
        let ServedWebhook { webhook, secrets, work } = served;
        let was_unknown = self.is_failing.is_none();
        let is_failing = *self.is_failing.get_or_insert(webhook.failing_since.is_some());
        self.next_due_at = work.next_due_at;
        // The first claim did not know yet that the endpoint fails.
        let width = if is_failing && was_unknown { 1 } else { work.deliveries.len() };
        let endpoint = Arc::new(Endpoint { webhook, secrets });
        for delivery in work.deliveries.into_iter().take(width) {
            let flight = Flight { delivery: delivery.id, message: delivery.event.message_id };
            let request = fly(self.teller.clone(), endpoint.clone(), delivery);
            self.flights.insert(self.requests.spawn(request).id(), flight);
        }
    }

    fn end_one(&mut self, ended: Result<(Id, RequestEnd), JoinError>) {
        let (task, end) = ended.unwrap_or_else(|error| {
            tracing::error!(webhook = %self.id, %error, "the task of a webhook request failed");
            (error.id(), RequestEnd::NotWritten)
        });
        let Some(flight) = self.flights.remove(&task) else { return };
        match end {
            RequestEnd::Taken => self.is_failing = Some(false),
            RequestEnd::NotTaken => self.is_failing = Some(true),
            RequestEnd::NotWritten => {
                self.resting.insert(flight.delivery, Timestamp::now() + STORE_PAUSE);
            }
        }
    }
}

/// One attempt, with its result recorded.
async fn fly(
    teller: Arc<WebhookDispatcher>,
    endpoint: Arc<Endpoint>,
    delivery: WebhookDelivery,
) -> RequestEnd {
    let id = delivery.id;
    let Endpoint { webhook, secrets } = &*endpoint;
    let post = Post { id, url: &webhook.url, secrets, event: &delivery.event };
    let config = &teller.settings.config;
    let attempt = {
        // The semaphore is never closed.
        let _turn = teller.requests.take(webhook.tenant_id).await;
        post.send(&teller.client, config).await
    };
    let meaning = meaning_of(&attempt);
    let verdict = match meaning {
        Meaning::Taken => WebhookVerdict::Delivered,
        Meaning::Gone => WebhookVerdict::Gone,
        Meaning::NotTaken => {
            let made = delivery.attempts.saturating_add(1);
            next_attempt_at(teller.settings.retries, made, Timestamp::now(), rand::random())
                .map_or(WebhookVerdict::GivenUp, WebhookVerdict::Retry)
        }
    };
    let webhook_id = webhook.id;
    tracing::debug!(webhook = %webhook_id, delivery = %id, status = attempt.status, error = attempt.error, "told");
    let failing_since_max = attempt.at - FAILING_MAX;
    let outcome = WebhookOutcome { delivery_id: id, webhook_id, attempt, verdict, failing_since_max };
    match (teller.store.record_webhook(outcome).await, meaning) {
        (Ok(()), Meaning::Taken) => RequestEnd::Taken,
        (Ok(()), _) => RequestEnd::NotTaken,
        (Err(error), _) => {
            tracing::warn!(webhook = %webhook_id, %error, "cannot record the result of a webhook request");
            RequestEnd::NotWritten
        }
    }
}
