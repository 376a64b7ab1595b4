//! A worker has a slot and delivers batch after batch over one connection, as long as its destination queue has work.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::Instrument;

use super::RelayContext;
use super::attempt::{Attempt, AttemptResult};
use super::connection::Connection;
use super::delivery_error::DeliveryError;
use super::dsn::message::DsnMessage;
use super::dsn::recipient::DsnRecipient;
use super::peer::Peer;
use super::recipient_result::RecipientResult;
use super::result_record::{CompletedAttempt, UnattemptedBatch};
use super::sandbox::{self, SandboxScenario};
use super::smart_host_backoff::SmartHostBackoff;
use super::smart_host_login::LoginResult;
use crate::clock::Instant;
use crate::dkim::filter_signatures;
use crate::mail::{Content, ReversePath, Timestamp};
use crate::model::{BounceClass, DeliveryReports};
use crate::queue::{Claim, NextHop, QueueKey, Slot};
use crate::rng::Rng;
use crate::smtp::client::Phase;
use crate::store::{
    AttemptRecord, Batch, Delivery, Directory, Message, NewMessage, RecordBatch, Spool, StoreError,
};

/// Delivers the claim, then whatever there is to deliver.
pub async fn run(
    core: Arc<RelayContext>,
    recordings: mpsc::Sender<RecordBatch>,
    mut slot: Slot,
    mut claim: Claim,
) {
    let worker = Worker { core: core.clone(), recordings };
    let mut connection = find_idle(&core, &slot.queue_key, &claim.batch);
    loop {
        let span = delivery_span(&claim.batch);
        connection = worker.deliver(&slot.queue_key, claim, connection).instrument(span).await;
        if core.tasks.stop.is_cancelled() {
            break;
        }
        claim = match core.queue.next_claim_for(&mut slot) {
            Some(next) => {
                connection = fit(&core, &slot.queue_key, &next.batch, connection);
                next
            }
            None => {
                // Before the slot is returned, so that the next worker of the destination queue finds the connection.
                if let Some(connection) = connection.take() {
                    core.outbound.pool.put(&slot.queue_key, slot.holder, connection);
                }
                drop(slot);
                // This worker takes one claim; others may have got slots.
                core.queue.wake();
                let Some((next_slot, next)) = core.queue.next_claim() else { return };
                slot = next_slot;
                connection = find_idle(&core, &slot.queue_key, &next.batch);
                next
            }
        };
    }
    if let Some(connection) = connection {
        connection.quit().await;
    }
}

/// What every line about the attempt of a batch says. A warning needs it too, whatever the level of the log.
fn delivery_span(batch: &Batch) -> tracing::Span {
    tracing::warn_span!(
        "delivery",
        msg = %batch.message.id,
        tenant_id = %batch.message.tenant_id,
        destination = %batch.destination,
        deliveries = batch.deliveries.len(),
        attempt = batch.deliveries.first().map_or(1, |delivery| delivery.attempts.saturating_add(1)),
    )
}

/// The current connection, if the batch may use it, else an idle one. A worker without a current connection opens one: idle
/// connections are for workers that start.
fn fit(
    core: &RelayContext,
    queue_key: &QueueKey,
    batch: &Batch,
    connection: Option<Connection>,
) -> Option<Connection> {
    let connection = connection?;
    if fits(core, queue_key, batch, &connection) {
        return Some(connection);
    }
    core.tasks.spawn(connection.quit());
    find_idle(core, queue_key, batch)
}

fn find_idle(core: &RelayContext, queue_key: &QueueKey, batch: &Batch) -> Option<Connection> {
    let tenant = &batch.message.tenant_id;
    let left_to_others = core.queue.left_to_others(queue_key, tenant);
    core.outbound
        .pool
        .take(queue_key, tenant, left_to_others, |connection| fits(core, queue_key, batch, connection))
}

/// A host of one domain of a site need not take mail for another one.
fn fits(core: &RelayContext, queue_key: &QueueKey, batch: &Batch, connection: &Connection) -> bool {
    match &queue_key.next_hop {
        NextHop::Mx(..) => core.queue.sites().is_mail_host(&connection.peer.host, &batch.destination),
        NextHop::Sandbox(_) | NextHop::Hosts(_) | NextHop::TenantSmartHost(..) => true,
    }
}

/// A message in memory.
struct Loaded {
    content: Content,
    /// The reserved memory, if it was read from the store.
    _memory: Option<crate::limits::tenant_semaphore::TenantPermit>,
}

struct Worker {
    core: Arc<RelayContext>,
    recordings: mpsc::Sender<RecordBatch>,
}

impl Worker {
    /// Delivers one batch. Answers a connection that takes more.
    async fn deliver(
        &self,
        queue_key: &QueueKey,
        mut claim: Claim,
        connection: Option<Connection>,
    ) -> Option<Connection> {
        // While it waited, its tenant may have been suspended or got another smart host. Dropping the claim releases it.
        if !self.is_in_place(&claim).await || is_paused(&self.core, &claim) {
            return connection;
        }
        if has_expired(&claim.batch, self.core.clock.now()) {
            self.expire(claim).await;
            return connection;
        }
        if let Some(backoff) =
            self.core.logins.backoff_of(&queue_key.next_hop, &claim.batch, self.core.clock.now()).await
        {
            self.back_off(claim, &backoff).await;
            return connection;
        }
        if matches!(queue_key.next_hop, NextHop::Sandbox(_)) {
            self.play(claim).await;
            return None;
        }
        let Loaded { content, _memory } = match self.load(&mut claim.batch).await {
            Ok(Some(loaded)) => loaded,
            // Dropping the claim is all there is to do.
            Ok(None) => return connection,
            Err(error) => {
                self.postpone(claim, &error).await;
                return connection;
            }
        };
        let content = filter_signatures(&content, self.core.router.dkim_policy(&queue_key.next_hop));
        let (started_at, started) = (self.core.clock.now(), self.core.clock.instant());
        let tried = Attempt::new(&self.core, queue_key, &claim.batch, &content).run(connection).await;
        match self.note_login(&queue_key.next_hop, &claim.batch, &tried.login).await {
            // It says nothing of how the host does.
            Some(backoff) => self.back_off(claim, &backoff).await,
            None => {
                self.conclude(claim, Some(&content), &tried, started_at, started).await;
                if let Some(feedback) = tried.site_feedback() {
                    self.core.queue.apply_feedback(queue_key, &feedback, started);
                }
            }
        }
        let messages_max = self.core.queue.messages_per_connection_max(queue_key);
        let used_up = |connection: &Connection| connection.messages >= messages_max;
        match tried.connection {
            Some(connection) if used_up(&connection) => {
                self.core.tasks.spawn(connection.quit());
                None
            }
            other => other,
        }
    }

    async fn is_in_place(&self, claim: &Claim) -> bool {
        self.core.queue.is_in_place(claim, self.core.router.route_batch(&claim.batch)).await
    }

    /// Records the result of a login; returns the back-off of the account, if any.
    async fn note_login(
        &self,
        next_hop: &NextHop,
        batch: &Batch,
        login: &LoginResult,
    ) -> Option<SmartHostBackoff> {
        let now = self.core.clock.now();
        match login {
            LoginResult::NotAttempted => None,
            LoginResult::Accepted => {
                self.core.logins.accepted(next_hop, batch, now).await;
                None
            }
            LoginResult::Refused(words) => self.core.logins.refused(next_hop, batch, words, now).await,
        }
    }

    /// The content of a batch, read from the store if necessary. `None` if it was deleted or the relay stops.
    async fn load(&self, batch: &mut Batch) -> Result<Option<Loaded>, StoreError> {
        if let Some(content) = batch.content.take() {
            return Ok(Some(Loaded { content, _memory: None }));
        }
        let Message { id, tenant_id, size, .. } = *batch.message;
        let memory = tokio::select! {
            biased;
            () = self.core.tasks.stop.cancelled() => return Ok(None),
            // The semaphore is never closed.
            memory = self.core.loaded.acquire_weighted(Some(tenant_id), size / 1024 + 1) => memory.ok(),
        };
        let content = self.core.store.content(id).await?;
        Ok(content.map(|content| Loaded { content, _memory: memory }))
    }

    async fn conclude(
        &self,
        claim: Claim,
        content: Option<&Content>,
        tried: &AttemptResult,
        started_at: Timestamp,
        started: Instant,
    ) {
        let account = CompletedAttempt {
            batch: &claim.batch,
            started_at,
            now: self.core.clock.now(),
            duration_ms: u64::try_from(self.core.clock.elapsed_since(started).as_millis())
                .unwrap_or(u64::MAX),
            transcript: &tried.transcript,
        };
        let mut outcomes = Outcomes::default();
        for (delivery, ending) in claim.batch.deliveries.iter().zip(&tried.results) {
            let record = account.record(delivery, ending, jitter(&self.core.rng));
            outcomes.add(&claim.batch.message, delivery, record, ending.peer.offers_dsn);
        }
        self.write(claim, content, outcomes).await;
    }

    /// The spool cannot be read: another time.
    async fn postpone(&self, claim: Claim, error: &StoreError) {
        tracing::warn!(%error, "cannot read a message from the spool");
        let peer = Arc::new(Peer::default());
        let what = match error {
            StoreError::Damaged { .. } => {
                "the stored content of the message is damaged; it waits to be restored"
            }
            _ => "the spool cannot be read",
        };
        let trouble = DeliveryError::new(Phase::Connect, what).with_class(BounceClass::Temporary);
        let endings = vec![RecipientResult::from_error(&trouble, &peer); claim.batch.deliveries.len()];
        let tried = AttemptResult {
            results: endings,
            transcript: "".into(),
            login: LoginResult::NotAttempted,
            connection: None,
            sessions: 0,
        };
        let clock = &self.core.clock;
        self.conclude(claim, None, &tried, clock.now(), clock.instant()).await;
    }

    /// The account is refused: the mail waits as it is until the end of its lifetime. A pause may have been longer.
    async fn back_off(&self, claim: Claim, backoff: &SmartHostBackoff) {
        let now = self.core.clock.now();
        if now >= claim.batch.message.expires_at {
            return self.expire(claim).await;
        }
        let untried = UnattemptedBatch { batch: &claim.batch, now };
        let reason = backoff.explain();
        let records = claim.batch.deliveries.iter();
        let records =
            records.map(|delivery| untried.record_backoff(delivery, &reason, backoff.until)).collect();
        self.write(claim, None, Outcomes { records, dsn_recipients: Vec::new() }).await;
    }

    async fn expire(&self, claim: Claim) {
        let untried = UnattemptedBatch { batch: &claim.batch, now: self.core.clock.now() };
        let mut outcomes = Outcomes::default();
        for delivery in &claim.batch.deliveries {
            outcomes.add(&claim.batch.message, delivery, untried.record_expired(delivery), false);
        }
        self.write(claim, None, outcomes).await;
    }

    /// The test environment.
    async fn play(&self, mut claim: Claim) {
        let slow_claim =
            claim.split_off(|delivery| SandboxScenario::of(&delivery.recipient) == SandboxScenario::Slow);
        let started_at = self.core.clock.now();
        self.play_now(claim, started_at).await;
        if slow_claim.batch.deliveries.is_empty() {
            return;
        }
        tokio::select! {
            () = self.core.clock.sleep(sandbox::SLOW_DELAY) => self.play_now(slow_claim, started_at).await,
            // Dropping the claim gives it back.
            () = self.core.tasks.stop.cancelled() => {}
        }
    }

    async fn play_now(&self, claim: Claim, started_at: Timestamp) {
        if claim.batch.deliveries.is_empty() {
            return;
        }
        let now = self.core.clock.now();
        let mut outcomes = Outcomes::default();
        for delivery in &claim.batch.deliveries {
            let scenario = SandboxScenario::of(&delivery.recipient);
            let transcript =
                sandbox::dialogue(&claim.batch, delivery, &scenario.outcome(delivery.attempts)).into();
            let duration_ms = u64::try_from(now.duration_since(started_at).as_millis()).unwrap_or(0);
            let account = CompletedAttempt {
                batch: &claim.batch,
                started_at,
                now,
                duration_ms,
                transcript: &transcript,
            };
            let mut record =
                account.record(delivery, &sandbox::result_of(scenario, delivery), jitter(&self.core.rng));
            scenario.adjust(&mut record, delivery, now);
            outcomes.add(&claim.batch.message, delivery, record, false);
        }
        let content = claim.batch.content.clone();
        self.write(claim, content.as_ref(), outcomes).await;
    }

    /// Adds the report to the records and hands both to the recorder.
    async fn write(&self, claim: Claim, content: Option<&Content>, outcomes: Outcomes) {
        let Outcomes { records, dsn_recipients } = outcomes;
        let report = match dsn_recipients.as_slice() {
            [] => None,
            dsn_recipients if self.reports_by_mail(&claim.batch.message).await => {
                self.report(&claim.batch.message, content, dsn_recipients).await
            }
            _ => None,
        };
        // A recorder that is gone leaves the claim to be dropped, and the mail to be delivered again.
        if self.recordings.send(RecordBatch { records, report }).await.is_ok() {
            claim.settle();
        }
    }

    /// Whether the sender gets reports by mail.
    async fn reports_by_mail(&self, message: &Message) -> bool {
        if message.reverse_path == ReversePath::Null {
            return false;
        }
        match self.core.store.tenant(message.tenant_id).await {
            Ok(tenant) => tenant.is_some_and(|t| t.settings.delivery_reports == DeliveryReports::Mail),
            // If the setting is unknown, report: an unreported failure is worse than an unwanted report.
            Err(_) => true,
        }
    }

    async fn report(
        &self,
        message: &Message,
        content: Option<&Content>,
        dsn_recipients: &[DsnRecipient],
    ) -> Option<NewMessage> {
        let read = match content {
            None => self.core.store.content(message.id).await.ok().flatten(),
            Some(_) => None,
        };
        let report = DsnMessage {
            hostname: &self.core.settings.hostname,
            message,
            content: content.or(read.as_ref()),
            recipients: dsn_recipients,
            now: self.core.clock.now(),
            lifetime: self.core.settings.expiry,
        };
        report.compose()
    }
}

/// The records of a batch and the recipients of its report.
#[derive(Default)]
struct Outcomes {
    records: Vec<AttemptRecord>,
    dsn_recipients: Vec<DsnRecipient>,
}

impl Outcomes {
    /// `passed_on`: the server that took it gives the reports.
    fn add(&mut self, message: &Message, delivery: &Delivery, record: AttemptRecord, passed_on: bool) {
        log(delivery, &record);
        self.dsn_recipients.extend(DsnRecipient::for_record(message, delivery, &record, passed_on));
        self.records.push(record);
    }
}

/// Whether the message lifetime has ended. A delivery that is due after it was paused or suspended until then and gets one
/// attempt.
fn has_expired(batch: &Batch, now: Timestamp) -> bool {
    let end = batch.message.expires_at;
    // A back-off ends at the end of the lifetime at the latest.
    let is_due_in_time = |delivery: &Delivery| delivery.next_attempt_at.is_none_or(|due| due <= end);
    now >= end && batch.deliveries.iter().all(is_due_in_time)
}

/// Whether it was paused while it waited here.
fn is_paused(core: &RelayContext, claim: &Claim) -> bool {
    core.queue.is_paused(claim.batch.message.tenant_id, &claim.batch.destination, core.clock.now())
}

/// From -1 to 1.
fn jitter(rng: &Rng) -> f64 {
    rng.random::<f64>() * 2.0 - 1.0
}

fn log(delivery: &Delivery, record: &AttemptRecord) {
    let attempt = record.attempt.as_ref();
    tracing::info!(
        delivery = %record.delivery_id,
        recipient = %delivery.recipient,
        host = attempt.map_or("", |attempt| attempt.host.as_str()),
        outcome = %record.state,
        bounce_class = record.bounce_class.map(tracing::field::display),
        code = attempt.and_then(|attempt| attempt.code),
        status = attempt.and_then(|attempt| attempt.enhanced).map(tracing::field::display),
        duration_ms = attempt.map_or(0, |attempt| attempt.duration_ms),
        reply = %record.reply,
        "attempt"
    );
}
