//! Telling events: takes what is due out of the outbox and posts it, signed, until the endpoint takes it.
//!
//! Each webhook that has something due has a `service`: a task of its own with a few requests at a time, one while it
//! fails; so an endpoint that is dead takes no time of the others. Tenants take turns at the requests that there may be
//! in all. Imports `mail`, `store`, `https`, `turns` and the configuration.

mod post;
mod schedule;
mod service;
mod signature;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::http_client::Client;
use crate::limits::tenant_semaphore::TenantSemaphore;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::WebhookId;
use crate::store::{Outbox, Store};
use service::EndpointWorker;

pub use schedule::RETRIES;

/// What running requests have after a stop. One that is cut is made again after the next start.
const STOP_TIME: Duration = Duration::from_secs(3);
/// The longest pause between two looks at what is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// After the store could not be read or written.
const STORE_PAUSE: SignedDuration = SignedDuration::from_secs(5);

/// How events are told.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// From the configuration.
    pub config: config::Webhooks,
    /// Between a failed try and the next; [`RETRIES`].
    pub retries: &'static [Duration],
}

/// Tells events.
pub struct WebhookDispatcher {
    store: Arc<Store>,
    client: Client,
    settings: WebhookSettings,
    /// One for each request.
    requests: TenantSemaphore,
}

impl WebhookDispatcher {
    /// Tells what is in the outbox of `store`.
    pub fn new(store: Arc<Store>, client: Client, settings: WebhookSettings) -> Self {
        let max = u32::try_from(settings.config.requests_max).unwrap_or(u32::MAX);
        // More than its dead endpoints can hold, so that a tenant's own events come through too.
        let requests =
            TenantSemaphore::new(max, (max - max / 4).max(1)).with_fewer_in_company((max / 8).max(1));
        Self { store, client, settings, requests }
    }

    /// Works until `stop`, and a moment longer for what is being told.
    pub async fn run(self, stop: CancellationToken) {
        let teller = Arc::new(self);
        let mut tasks = JoinSet::new();
        // Who is served, and how to say that there is more for it.
        let mut served: HashMap<WebhookId, watch::Sender<()>> = HashMap::new();
        while !stop.is_cancelled() {
            let now = Timestamp::now();
            let (due, next) = teller.store.take_due_webhooks(now);
            for id in due {
                match served.entry(id) {
                    Entry::Occupied(entry) => drop(entry.get().send(())),
                    Entry::Vacant(entry) => {
                        let (sender, news) = watch::channel(());
                        entry.insert(sender);
                        let service = EndpointWorker::new(teller.clone(), id, stop.clone());
                        tasks.spawn(service.run(news));
                    }
                }
            }
            let pause = next.map_or(LOOK_INTERVAL, |at| at.duration_since(now).unsigned_abs());
            tokio::select! {
                () = stop.cancelled() => {}
                () = teller.store.wait_for_webhook_work() => {}
                () = tokio::time::sleep(pause.min(LOOK_INTERVAL)) => {}
                Some(ended) = tasks.join_next() => match ended {
                    Ok((id, news)) => {
                        // What came between its last look and its end.
                        if news.has_changed().unwrap_or(false) {
                            teller.store.note_webhook_due(id, now);
                        }
                        served.remove(&id);
                    }
                    Err(error) => {
                        tracing::error!(%error, "the telling of a webhook failed");
                        // Nobody else drops what hears the news.
                        for (id, _) in served.extract_if(|_, sender| sender.is_closed()) {
                            teller.store.note_webhook_due(id, now + STORE_PAUSE);
                        }
                    }
                },
            }
        }
        let drain = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIME, drain).await.is_err() {
            tracing::debug!("requests to webhooks were cut; they are made again");
        }
    }
}
