//! Webhooks and their deliveries.

pub(super) mod backlog;
pub(super) mod deliveries;
pub(super) mod results;
pub(super) mod webhooks;

use std::sync::Arc;

pub(super) use self::deliveries::remove;

use super::Store;
use super::job::{ResultsOfJob, RowsOfJob};
use super::sql_types::us;
use super::unit_of_work::Tx;
use super::writer::HotJob;
use crate::mail::Timestamp;
use crate::model::{TenantId, WebhookDeliveryId, WebhookDeliveryState, WebhookId, WebhookStatus};
use crate::store::database::Engine;
use crate::store::{
    Duty, NewWebhook, Outbox, Page, PageRequest, Result, ServedWebhook, Webhook, WebhookDelivery,
    WebhookFilter, WebhookOutcome, WebhookPatch, WebhookSecret, WebhookVerdict, WebhooksInFlight,
    is_in_scope,
};

/// Maximum of rows that one job deletes, so that others can commit in between.
const STEP_ROWS_MAX: usize = 2000;
/// What a result sends to the database, about.
const RESULT_OCTETS: usize = 1024;

impl Outbox for Store {
    async fn webhook_backlog(&self) -> Result<u64> {
        self.read_slow(deliveries::count_open).await
    }

    async fn create_webhook(&self, new: NewWebhook, now: Timestamp) -> Result<Webhook> {
        self.write(move |tx| webhooks::create(tx, &new, now)).await
    }

    async fn webhook(&self, scope: Option<TenantId>, id: WebhookId) -> Result<Option<Webhook>> {
        let found = self.read(move |connection| webhooks::find(connection, id)).await?;
        Ok(found.filter(|webhook| is_in_scope(scope, webhook.tenant_id)))
    }

    async fn list_webhooks(&self, filter: WebhookFilter, page: PageRequest) -> Result<Page<Webhook>> {
        self.read_slow(move |connection| webhooks::list(connection, &filter, &page)).await
    }

    async fn update_webhook(
        &self,
        id: WebhookId,
        patch: WebhookPatch,
        now: Timestamp,
    ) -> Result<Option<Webhook>> {
        self.write(move |tx| webhooks::update(tx, id, &patch, now)).await
    }

    async fn rotate_webhook_secret(
        &self,
        id: WebhookId,
        secret: WebhookSecret,
        previous_until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Webhook>> {
        self.write(move |tx| webhooks::rotate(tx, id, &secret, previous_until, now)).await
    }

    async fn delete_webhook(&self, id: WebhookId) -> Result<bool> {
        if !self.write(move |tx| webhooks::begin_removal(tx, id)).await? {
            return Ok(false);
        }
        while !self.write(move |tx| webhooks::continue_removal(tx, id, STEP_ROWS_MAX)).await? {}
        Ok(true)
    }

    async fn test_webhook(&self, id: WebhookId, now: Timestamp) -> Result<Option<WebhookDelivery>> {
        self.write(move |tx| match webhooks::find(tx, id)? {
            Some(webhook) => deliveries::insert_test(tx, &webhook, now),
            None => Ok(None),
        })
        .await
    }

    async fn list_webhook_deliveries(
        &self,
        webhook: WebhookId,
        state: Option<WebhookDeliveryState>,
        page: PageRequest,
    ) -> Result<Page<WebhookDelivery>> {
        self.read_slow(move |connection| deliveries::list(connection, webhook, state, &page)).await
    }

    async fn webhook_delivery(&self, id: WebhookDeliveryId) -> Result<Option<WebhookDelivery>> {
        self.read(move |connection| deliveries::find(connection, id)).await
    }

    async fn replay_webhook_delivery(
        &self,
        id: WebhookDeliveryId,
        now: Timestamp,
    ) -> Result<Option<WebhookDelivery>> {
        self.write(move |tx| deliveries::replay(tx, id, now)).await
    }

    fn take_due_webhooks(&self, now: Timestamp) -> (Vec<WebhookId>, Option<Timestamp>) {
        let (mut due, next_us) = self.webhooks_due.take_due(us(now));
        // Their nodes look for them.
        due.retain(|id| self.has_duty(Duty::Webhook(*id)));
        (due, next_us.and_then(|at_us| Timestamp::from_microsecond(at_us).ok()))
    }

    async fn wait_for_webhook_work(&self) {
        self.webhooks_due.wait().await;
    }

    async fn find_webhook_work(&self) -> Result<()> {
        if self.engine == Engine::Postgres {
            let due = self.of_server().read_slow(|connection| Ok(deliveries::first_due(connection)?)).await?;
            let of_this_node = due.into_iter().filter(|(id, _)| self.has_duty(Duty::Webhook(*id)));
            self.webhooks_due.note_all(of_this_node);
        }
        Ok(())
    }

    async fn claim_webhook(
        &self,
        id: WebhookId,
        in_flight: WebhooksInFlight,
        limit: usize,
        now: Timestamp,
    ) -> Result<Option<ServedWebhook>> {
        if !self.has_duty(Duty::Webhook(id)) {
            return Ok(None);
        }
        let sealer = Arc::clone(&self.sealer);
        self.read(move |connection| {
            let found = webhooks::find(connection, id)?;
            let Some(webhook) = found.filter(|webhook| webhook.status == WebhookStatus::Enabled) else {
                return Ok(None);
            };
            let secrets = webhooks::secrets(connection, &sealer, id, now)?;
            let work = deliveries::claim(connection, id, &in_flight, limit, now)?;
            Ok(Some(ServedWebhook { webhook, secrets, work }))
        })
        .await
    }

    fn schedule_webhook(&self, id: WebhookId, at: Timestamp) {
        self.webhooks_due.note_all([(id, us(at))]);
    }

    async fn record_webhook(&self, outcome: WebhookOutcome) -> Result<()> {
        let run = |outcome: &WebhookOutcome, tx: &Tx<'_>| results::record(tx, outcome);
        let results =
            ResultsOfJob { webhook_deliveries: vec![outcome.delivery_id], ..ResultsOfJob::default() };
        let asked = outcome.clone();
        let runs_alone = outcome.verdict != WebhookVerdict::Delivered
            && self.read(move |connection| results::may_disable(connection, &asked)).await?;
        if runs_alone {
            return self.writer.run_holding(results, outcome, run, |_, ()| ()).await;
        }
        let rows = RowsOfJob { results, ..RowsOfJob::default() };
        self.writer.run_hot(HotJob { octets: RESULT_OCTETS, rows }, outcome, run, |_, ()| ()).await
    }
}
