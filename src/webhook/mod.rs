//! Webhooks: takes due events from the outbox and posts them, signed, until the endpoint accepts them.
//!
//! Each webhook with due events has its own `EndpointWorker` task with a few concurrent requests, or one while the
//! endpoint fails. So an unresponsive endpoint does not delay others. Tenants share the total number of requests
//! fairly. Imports `mail`, `model`, `store`, `http_client`, `limits` and the configuration.

mod endpoint_worker;
mod request;
mod retry_schedule;
mod signature;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config;
use crate::http_client::Client;
use crate::limits::tenant_semaphore::TenantSemaphore;
use crate::mail::SignedDuration;
use crate::model::WebhookId;
use crate::rng::Rng;
use crate::store::{Outbox, Store};
use endpoint_worker::EndpointWorker;

pub use retry_schedule::RETRIES;

/// Time that a stop waits for running requests. An interrupted request is repeated after the next start.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time between two polls for due events.
const POLL_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Interval of looks for events of other nodes.
const OTHER_NODES_INTERVAL: Duration = Duration::from_secs(1);
/// Delay after an error of the store.
const STORE_RETRY_DELAY: SignedDuration = SignedDuration::from_secs(5);

/// Settings of webhook delivery.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// The table `[webhooks]`.
    pub config: config::Webhooks,
    /// Delays between attempts; [`RETRIES`].
    pub retries: &'static [Duration],
}

/// The services that the dispatcher uses.
#[derive(Clone)]
pub struct WebhookDependencies {
    /// The outbox.
    pub store: Arc<Store>,
    /// Sends the requests.
    pub client: Client,
    /// The clock that decides which events are due.
    pub clock: Clock,
    /// The randomness of jitter.
    pub rng: Rng,
}

/// Posts the events of the outbox.
pub struct WebhookDispatcher {
    store: Arc<Store>,
    client: Client,
    clock: Clock,
    rng: Rng,
    settings: WebhookSettings,
    /// One permit for each request.
    requests: TenantSemaphore,
}

impl WebhookDispatcher {
    /// A dispatcher with these services.
    pub fn new(services: WebhookDependencies, settings: WebhookSettings) -> Self {
        let WebhookDependencies { store, client, clock, rng } = services;
        let max = u32::try_from(settings.config.requests_max).unwrap_or(u32::MAX);
        // The share of a tenant exceeds the requests of its unresponsive endpoints, so that its other webhooks make
        // progress.
        let requests = TenantSemaphore::new(max, (max - max / 4).max(1)).with_contended_max((max / 8).max(1));
        Self { store, client, clock, rng, settings, requests }
    }

    /// Runs until `stop`, and up to `SHUTDOWN_TIMEOUT` longer for running requests.
    pub async fn run(self, stop: CancellationToken) {
        let dispatcher = Arc::new(self);
        let mut tasks = JoinSet::new();
        // The channels that wake the running workers.
        let mut workers: HashMap<WebhookId, watch::Sender<()>> = HashMap::new();
        let looks_for_others = dispatcher.store.has_other_writers();
        let mut looks = dispatcher.clock.interval(OTHER_NODES_INTERVAL);
        while !stop.is_cancelled() {
            let now = dispatcher.clock.now();
            let (due, next) = dispatcher.store.take_due_webhooks(now);
            for id in due {
                match workers.entry(id) {
                    Entry::Occupied(entry) => drop(entry.get().send(())),
                    Entry::Vacant(entry) => {
                        let (sender, wakeups) = watch::channel(());
                        entry.insert(sender);
                        let worker = EndpointWorker::new(dispatcher.clone(), id, stop.clone());
                        tasks.spawn(worker.run(wakeups));
                    }
                }
            }
            let delay = next.map_or(POLL_INTERVAL, |at| at.duration_since(now).unsigned_abs());
            tokio::select! {
                () = stop.cancelled() => {}
                () = dispatcher.store.wait_for_webhook_work() => {}
                () = dispatcher.clock.sleep(delay.min(POLL_INTERVAL)) => {}
                () = looks.tick(), if looks_for_others => if let Err(error) = dispatcher.store.find_webhook_work().await {
                    tracing::warn!(%error, "cannot look for webhook events of other nodes; retrying");
                },
                Some(ended) = tasks.join_next() => match ended {
                    Ok((id, wakeups)) => {
                        // An event became due after the last poll of the worker.
                        if wakeups.has_changed().unwrap_or(false) {
                            dispatcher.store.schedule_webhook(id, now);
                        }
                        workers.remove(&id);
                    }
                    Err(error) => {
                        tracing::error!(%error, "the task of a webhook failed");
                        // A worker that panicked has dropped its receiver.
                        for (id, _) in workers.extract_if(|_, sender| sender.is_closed()) {
                            dispatcher.store.schedule_webhook(id, now + STORE_RETRY_DELAY);
                        }
                    }
                },
            }
        }
        let drain = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, drain).await.is_err() {
            tracing::debug!("webhook requests were interrupted and will be repeated");
        }
    }
}
