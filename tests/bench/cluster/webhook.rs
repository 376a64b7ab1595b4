//! The endpoint of the benchmark: claims the events of messages and records that it accepted them, as a worker does.

use std::collections::HashSet;

use pillarbox::mail::{SignedDuration, Timestamp};
use pillarbox::model::{Environment, WebhookId};
use pillarbox::store::{
    NewWebhook, Outbox, Store, WebhookAttempt, WebhookDelivery, WebhookOutcome, WebhookSecret,
    WebhookVerdict, WebhooksInFlight,
};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// As many requests as a worker has at once by default.
const REQUESTS: usize = 8;

pub async fn create(store: &Store) -> WebhookId {
    let secret = WebhookSecret(Zeroizing::new(vec![7; 32]));
    let (url, environments) = ("https://hooks.example/".to_owned(), vec![Environment::Live]);
    let new = NewWebhook { tenant_id: None, url, kinds: vec![], environments, secret };
    store.create_webhook(new, Timestamp::now()).await.unwrap().id
}

/// Delivers all events that are due.
pub async fn deliver(store: &Store, id: WebhookId) {
    let mut requests = JoinSet::new();
    let mut in_flight = HashSet::new();
    loop {
        let claimed = WebhooksInFlight {
            deliveries: in_flight.iter().copied().collect(),
            ..WebhooksInFlight::default()
        };
        let now = Timestamp::now();
        let served = store.claim_webhook(id, claimed, REQUESTS - in_flight.len(), now).await.unwrap();
        for delivery in served.map(|served| served.work.deliveries).unwrap_or_default() {
            in_flight.insert(delivery.id);
            let (store, outcome, id) = (store.clone(), accepted(&delivery), delivery.id);
            requests.spawn(async move {
                store.record_webhook(outcome).await.unwrap();
                id
            });
        }
        match requests.join_next().await {
            Some(done) => drop(in_flight.remove(&done.unwrap())),
            None => return,
        }
    }
}

fn accepted(delivery: &WebhookDelivery) -> WebhookOutcome {
    let at = Timestamp::now();
    WebhookOutcome {
        delivery_id: delivery.id,
        webhook_id: delivery.webhook_id,
        attempt: WebhookAttempt {
            at,
            duration_ms: 20,
            status: Some(200),
            response: "ok".into(),
            error: None,
        },
        verdict: WebhookVerdict::Delivered,
        failing_since_max: at - SignedDuration::from_hours(120),
    }
}
