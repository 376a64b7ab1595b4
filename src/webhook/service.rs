//! The telling of one webhook: what is due is posted, a few at a time, until nothing is.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::Teller;
use super::post::{Meaning, Post, meaning_of};
use super::schedule::next_attempt_at;
use crate::mail::{MessageId, SignedDuration, Timestamp, WebhookDeliveryId, WebhookId};
use crate::store::{
    Outbox, ServedWebhook, WebhookDelivery, WebhookFlights, WebhookOutcome, WebhookSecret, WebhookVerdict,
};

/// How long an endpoint may fail before it is disabled.
const FAILING_MAX: SignedDuration = SignedDuration::from_hours(5 * 24);
/// After the store could not be read or written.
const STORE_PAUSE: SignedDuration = SignedDuration::from_secs(5);

/// Serves one webhook.
pub struct Service {
    teller: Arc<Teller>,
    id: WebhookId,
    stop: CancellationToken,
    flights: JoinSet<Flight>,
    busy: WebhookFlights,
    /// The last try failed: then one at a time shows whether the endpoint is back.
    is_failing: Option<bool>,
    /// When to serve it again, as far as is known.
    next_due_at: Option<Timestamp>,
}

/// A request that came to its end.
struct Flight {
    delivery: WebhookDeliveryId,
    message: Option<MessageId>,
    end: FlightEnd,
}

enum FlightEnd {
    Taken,
    NotTaken,
    /// The outcome could not be written, so that it will be told again.
    NotWritten,
}

impl Service {
    pub fn new(teller: Arc<Teller>, id: WebhookId, stop: CancellationToken) -> Self {
        Self {
            teller,
            id,
            stop,
            flights: JoinSet::new(),
            busy: WebhookFlights::default(),
            is_failing: None,
            next_due_at: None,
        }
    }

    /// Works until nothing is due. `news` says that there may be more; answered with what was not heard of it.
    pub async fn run(mut self, mut news: watch::Receiver<()>) -> (WebhookId, watch::Receiver<()>) {
        loop {
            news.borrow_and_update();
            if !self.stop.is_cancelled() {
                self.begin_more().await;
            }
            if self.flights.is_empty() {
                break;
            }
            tokio::select! {
                Some(ended) = self.flights.join_next() => self.end_one(ended),
                Ok(()) = news.changed() => {}
            }
        }
        if let Some(at) = self.next_due_at {
            self.teller.store.note_webhook_due(self.id, at);
        }
        (self.id, news)
    }

    async fn begin_more(&mut self) {
        let width = match self.is_failing {
            Some(true) => 1,
            _ => self.teller.settings.config.requests_per_webhook_max,
        };
        let room = width.saturating_sub(self.flights.len());
        if room == 0 {
            return;
        }
        let now = Timestamp::now();
        match self.teller.store.claim_webhook(self.id, self.busy.clone(), room, now).await {
            Ok(Some(served)) => self.begin(served),
            // What is left waits until somebody enables it again.
            Ok(None) => self.next_due_at = None,
            Err(error) => {
                tracing::warn!(webhook = %self.id, %error, "cannot read what is to be told");
                self.next_due_at = Some(now + STORE_PAUSE);
            }
        }
    }

    fn begin(&mut self, served: ServedWebhook) {
        let ServedWebhook { webhook, secrets, work } = served;
        let was_unknown = self.is_failing.is_none();
        let is_failing = *self.is_failing.get_or_insert(webhook.failing_since.is_some());
        self.next_due_at = work.next_due_at;
        // The first look did not know yet.
        let width = if is_failing && was_unknown { 1 } else { work.deliveries.len() };
        let (url, secrets): (Arc<str>, Arc<[WebhookSecret]>) = (webhook.url.into(), secrets.into());
        for delivery in work.deliveries.into_iter().take(width) {
            self.busy.deliveries.push(delivery.id);
            self.busy.messages.extend(delivery.event.message_id);
            self.flights.spawn(fly(self.teller.clone(), url.clone(), secrets.clone(), delivery));
        }
    }

    fn end_one(&mut self, ended: Result<Flight, JoinError>) {
        let Flight { delivery, message, end } = match ended {
            Ok(flight) => flight,
            Err(error) => return tracing::error!(webhook = %self.id, %error, "a request to a webhook failed"),
        };
        self.busy.messages.retain(|id| Some(*id) != message);
        match end {
            // It stays marked, or it would be told at once and over and over.
            FlightEnd::NotWritten => self.next_due_at = Some(Timestamp::now() + STORE_PAUSE),
            FlightEnd::Taken | FlightEnd::NotTaken => {
                self.busy.deliveries.retain(|id| *id != delivery);
                self.is_failing = Some(matches!(end, FlightEnd::NotTaken));
            }
        }
    }
}

/// One try, written down.
async fn fly(
    teller: Arc<Teller>,
    url: Arc<str>,
    secrets: Arc<[WebhookSecret]>,
    delivery: WebhookDelivery,
) -> Flight {
    let (id, message) = (delivery.id, delivery.event.message_id);
    let post = Post { id, url: &url, secrets: &secrets, event: &delivery.event };
    let config = &teller.settings.config;
    let attempt = {
        // Never closed; without a permit it would only be one request more.
        let _permit = teller.requests.acquire().await;
        post.send(&teller.client, &config.plain_http_hosts, config.timeout).await
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
    let webhook_id = delivery.webhook_id;
    tracing::debug!(webhook = %webhook_id, delivery = %id, status = attempt.status, error = attempt.error, "told");
    let failing_since_max = attempt.at - FAILING_MAX;
    let outcome = WebhookOutcome { delivery_id: id, webhook_id, attempt, verdict, failing_since_max };
    let end = match (teller.store.record_webhook(outcome).await, meaning) {
        (Ok(()), Meaning::Taken) => FlightEnd::Taken,
        (Ok(()), _) => FlightEnd::NotTaken,
        (Err(error), _) => {
            tracing::warn!(webhook = %webhook_id, %error, "cannot write what came of a request");
            FlightEnd::NotWritten
        }
    };
    Flight { delivery: id, message, end }
}
