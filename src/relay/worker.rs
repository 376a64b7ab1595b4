//! A worker has a slot and delivers batch after batch over one connection, as long as its destination queue has work.

mod suppressed;

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::Instrument;

use super::RelayContext;
use super::attempt::{Attempt, AttemptResult};
use super::connection::Connection;
use super::delivery_error::DeliveryError;
use super::outcomes::Outcomes;
use super::peer::Peer;
use super::recipient_result::{RecipientResult, UNROUTABLE};
use super::result_record::{CompletedAttempt, RetryConditions, UnattemptedBatch};
use super::smart_host_backoff::SmartHostBackoff;
use super::smart_host_login::LoginResult;
use super::unreached::site_results;
use crate::clock::Instant;
use crate::dkim::filter_signatures;
use crate::dsn::message::DsnMessage;
use crate::dsn::recipient::DsnRecipient;
use crate::limits::tenant_semaphore::TenantPermit;
use crate::mail::{Content, ReversePath, Timestamp};
use crate::model::{BounceClass, DeliveryReports, DeliveryState, Environment, MessageKind};
use crate::policy::retry_schedule::UNROUTABLE_FOR_MAX;
use crate::queue::{Claim, FailureKey, NextHop, QueueKey, Site, Slot, queue_name};
use crate::rng::Rng;
use crate::smtp::client::Phase;
use crate::store::{
    self, AttemptRecord, Batch, Delivery, Directory, Journal, Message, NewMessage, RecordBatch, Spool,
    StoreError,
};

/// How many earlier attempts of a delivery are read to find the first one that the DNS prevented. A delivery has no more
/// unless its sender asks for each.
const EARLIER_ATTEMPTS_MAX: usize = 100;

/// Delivers the claim, then other claims, until no work is available.
pub async fn run(
    context: Arc<RelayContext>,
    recordings: mpsc::Sender<RecordBatch>,
    mut slot: Slot,
    mut claim: Claim,
) {
    let site = queue_name(&slot.queue_key);
    let mut worker = Worker { context: context.clone(), recordings, site };
    let mut connection = find_idle(&context, &slot.queue_key, &claim.batch);
    loop {
        let span = delivery_span(&claim.batch);
        connection = worker.deliver(&slot.queue_key, claim, connection).instrument(span).await;
        if context.tasks.stop.is_cancelled() {
            break;
        }
        claim = match context.queue.next_claim_for(&mut slot) {
            Some(next) => {
                connection = keep_or_replace(&context, &slot.queue_key, &next.batch, connection);
                next
            }
            None => {
                // Kept before the slot is returned, so that the next worker of the destination queue finds the
                // connection.
                if let Some(connection) = connection.take() {
                    context.outbound.pool.put(&slot.queue_key, slot.holder, connection);
                }
                drop(slot);
                // This worker takes one claim; the scheduler starts workers for the others.
                context.queue.wake();
                let Some((next_slot, next)) = context.queue.next_claim() else { return };
                slot = next_slot;
                worker.site = queue_name(&slot.queue_key);
                connection = find_idle(&context, &slot.queue_key, &next.batch);
                next
            }
        };
    }
    if let Some(connection) = connection {
        connection.quit().await;
    }
}

/// The span of every log line about the attempt of a batch. Its level is `warn`, so that warnings have it at every log
/// level.
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

/// The current connection if it may carry the batch, else an idle one. `None` without a current connection: idle
/// connections are reserved for workers that start.
fn keep_or_replace(
    context: &RelayContext,
    queue_key: &QueueKey,
    batch: &Batch,
    connection: Option<Connection>,
) -> Option<Connection> {
    let connection = connection?;
    if may_carry(context, queue_key, batch, &connection) {
        return Some(connection);
    }
    context.tasks.spawn(connection.quit());
    find_idle(context, queue_key, batch)
}

fn find_idle(context: &RelayContext, queue_key: &QueueKey, batch: &Batch) -> Option<Connection> {
    let tenant = &batch.message.tenant_id;
    let left_to_others = context.queue.left_to_others(queue_key, tenant);
    context.outbound.pool.take(queue_key, tenant, left_to_others, |connection| {
        may_carry(context, queue_key, batch, connection)
    })
}

/// Whether the connection may carry the batch: a host of one domain of a site need not accept mail for the other
/// domains.
fn may_carry(context: &RelayContext, queue_key: &QueueKey, batch: &Batch, connection: &Connection) -> bool {
    match &queue_key.next_hop {
        NextHop::Mx(..) => context.queue.sites().is_mail_host(&connection.peer.host, &batch.destination),
        NextHop::Sandbox(_) | NextHop::Hosts(_) | NextHop::TenantSmartHost(..) => true,
    }
}

/// A message in memory.
struct Loaded {
    content: Content,
    /// The reserved memory, if it was read from the store.
    _memory: Option<TenantPermit>,
}

enum Loading {
    Done(Loaded),
    /// The relay stops.
    Stopped,
}

pub(super) struct Worker {
    pub(super) context: Arc<RelayContext>,
    recordings: mpsc::Sender<RecordBatch>,
    /// The site of its slot, or the host of a smart host.
    site: String,
}

/// When and where an attempt began.
struct AttemptStart<'a> {
    at: Timestamp,
    instant: Instant,
    /// The site whose replies are the results; `None` if a smart host gives them.
    site: Option<&'a Arc<Site>>,
}

impl Worker {
    /// Delivers one batch. Returns a connection that can carry another one.
    async fn deliver(
        &self,
        queue_key: &QueueKey,
        claim: Claim,
        connection: Option<Connection>,
    ) -> Option<Connection> {
        let ended = self.context.tasks.attempts_ended();
        // While the claim waited, its tenant may have been suspended or have changed its smart host. Dropping the claim
        // releases it.
        if !self.has_current_route(&claim).await || is_paused(&self.context, &claim) {
            return connection;
        }
        if has_expired(&claim.batch, self.context.clock.now()) && !self.context.catch_up.is_active() {
            self.expire(claim).await;
            return connection;
        }
        let Some(mut claim) = self.end_suppressed(claim).await else { return connection };
        if let Some(backoff) =
            self.context.logins.backoff_of(&queue_key.next_hop, &claim.batch, self.context.clock.now()).await
        {
            self.back_off(claim, &backoff).await;
            return connection;
        }
        if matches!(queue_key.next_hop, NextHop::Sandbox(_)) {
            self.deliver_in_sandbox(claim).await;
            return None;
        }
        let Loaded { content, _memory } = match self.load(&mut claim.batch).await {
            Ok(Loading::Done(loaded)) => loaded,
            // Dropping the claim releases it.
            Ok(Loading::Stopped) => return connection,
            Err(error) => {
                self.defer_unreadable(claim, &error).await;
                return connection;
            }
        };
        let content = filter_signatures(&content, self.context.router.dkim_policy(&queue_key.next_hop));
        let start = AttemptStart {
            at: self.context.clock.now(),
            instant: self.context.clock.instant(),
            site: queue_key.site(),
        };
        let return_host = match self.context.router.uses_return_path(&queue_key.next_hop) {
            true => self.context.return_paths.choose(&claim.batch.message).await,
            false => None,
        };
        let attempt =
            Attempt::new(&self.context, queue_key, &claim.batch, &content).returning_to(return_host);
        let attempted = tokio::select! {
            biased;
            () = ended.cancelled() => return None,
            attempted = attempt.run(connection) => attempted,
        };
        match self.backoff_after(&queue_key.next_hop, &claim.batch, &attempted.login).await {
            // A refused login is no feedback about the site.
            Some(backoff) => self.back_off(claim, &backoff).await,
            None => {
                let results = site_results(&claim.batch, &attempted.results);
                self.record_results(claim, Some(&content), &attempted, &start).await;
                if let Some(feedback) = attempted.site_feedback() {
                    self.context.queue.apply_feedback(queue_key, &feedback, start.instant);
                }
                if let Some(site) = start.site {
                    self.context.queue.note_results(site, results).await;
                }
                if attempted.login == LoginResult::Accepted {
                    self.end_backoff(&queue_key.next_hop);
                }
            }
        }
        let messages_max = self.context.queue.messages_per_connection_max(queue_key);
        let used_up = |connection: &Connection| connection.messages >= messages_max;
        match attempted.connection {
            Some(connection) if used_up(&connection) => {
                self.context.tasks.spawn(connection.quit());
                None
            }
            other => other,
        }
    }

    async fn has_current_route(&self, claim: &Claim) -> bool {
        self.context.queue.is_in_place(claim, self.context.router.route_batch(&claim.batch)).await
    }

    /// The back-off that a refused login starts or extends.
    async fn backoff_after(
        &self,
        next_hop: &NextHop,
        batch: &Batch,
        login: &LoginResult,
    ) -> Option<SmartHostBackoff> {
        let LoginResult::Refused(reply) = login else { return None };
        self.context.logins.refused(next_hop, batch, reply, self.context.clock.now()).await
    }

    /// Ends the back-off of an account whose login was accepted. In a task, because a flush of much mail takes long.
    fn end_backoff(&self, next_hop: &NextHop) {
        if let Some(ended) = self.context.logins.accepted(next_hop) {
            let context = Arc::clone(&self.context);
            self.context.tasks.spawn(async move {
                context.logins.end_backoff(&ended, "login_accepted", context.clock.now()).await;
            });
        }
    }

    /// The content of a batch, read from the store if necessary.
    async fn load(&self, batch: &mut Batch) -> Result<Loading, StoreError> {
        if let Some(content) = batch.content.take() {
            return Ok(Loading::Done(Loaded { content, _memory: None }));
        }
        let memory = tokio::select! {
            biased;
            () = self.context.tasks.stop.cancelled() => return Ok(Loading::Stopped),
            memory = self.memory_for(&batch.message) => memory,
        };
        // An open delivery without a stored content is damage, unless the message was deleted meanwhile; then the record of
        // the attempt finds no row.
        let now = self.context.clock.now();
        let content = self.context.store.content(batch.message.id, now).await?;
        let missing = || StoreError::Damaged { message: batch.message.id, fault: "it is missing".into() };
        let content = content.ok_or_else(missing)?;
        Ok(Loading::Done(Loaded { content, _memory: memory }))
    }

    /// The permit to read the content of a message.
    async fn memory_for(&self, message: &Message) -> Option<TenantPermit> {
        let kib = message.size / 1024 + 1;
        // The semaphore is never closed.
        self.context.loaded.acquire_weighted(Some(message.tenant_id), kib).await.ok()
    }

    async fn record_results(
        &self,
        mut claim: Claim,
        content: Option<&Content>,
        attempted: &AttemptResult,
        start: &AttemptStart<'_>,
    ) {
        let results = claim.batch.deliveries.iter().zip(&attempted.results);
        let unattempted: Vec<_> =
            results.filter(|(_, result)| result.is_none()).map(|(delivery, _)| delivery.id).collect();
        // Dropping the claim of the others releases them.
        drop(claim.split_off(|delivery| unattempted.contains(&delivery.id)));
        let completed = CompletedAttempt {
            batch: &claim.batch,
            started_at: start.at,
            now: self.context.clock.now(),
            duration_ms: u64::try_from(self.context.clock.elapsed_since(start.instant).as_millis())
                .unwrap_or(u64::MAX),
            transcript: &attempted.transcript,
        };
        let mut outcomes = Outcomes::default();
        for (delivery, result) in claim.batch.deliveries.iter().zip(attempted.results.iter().flatten()) {
            let give_up_at = self.give_up_at(delivery, result, start.at).await;
            let retry = RetryConditions { jitter: jitter(&self.context.rng), give_up_at };
            let mut record = completed.record(delivery, result, retry);
            if let Some(suppression) = &mut record.suppress {
                suppression.site = start.site.map(|site| site.key());
            }
            outcomes.add(&claim.batch.message, delivery, record, result.peer.offers_dsn);
        }
        self.send_to_writer(claim, content, outcomes).await;
    }

    /// When a delivery is given up before its lifetime ends: some time after the first of the attempts for which the DNS
    /// named no host. `None` if it named one in this attempt.
    async fn give_up_at(
        &self,
        delivery: &Delivery,
        result: &RecipientResult,
        started_at: Timestamp,
    ) -> Option<Timestamp> {
        if !result.is_unroutable() {
            return None;
        }
        let (message, id) = (delivery.message_id, delivery.id);
        let earlier = match delivery.attempts {
            0 => Vec::new(),
            // Without the earlier attempts, this one counts as the first.
            _ => match self.context.store.attempts(message, Some(id), EARLIER_ATTEMPTS_MAX).await {
                Ok(page) => page.items,
                Err(_) => Vec::new(),
            },
        };
        let unroutable =
            |attempt: &&store::Attempt| attempt.code.is_none() && attempt.enhanced == Some(UNROUTABLE);
        let first = earlier.iter().rev().take_while(unroutable).last();
        let since = first.map_or(started_at, |attempt| attempt.started_at);
        Some(since.checked_add(UNROUTABLE_FOR_MAX).unwrap_or(Timestamp::MAX))
    }

    /// Defers a batch whose content cannot be read.
    async fn defer_unreadable(&self, claim: Claim, error: &StoreError) {
        tracing::warn!(%error, "cannot read a message from the spool");
        let peer = Arc::new(Peer::default());
        let text = match error {
            StoreError::Damaged { .. } => {
                "the stored content of the message is damaged; an operator must restore it"
            }
            _ => "the spool cannot be read",
        };
        let error = DeliveryError::new(Phase::Connect, text).with_class(BounceClass::Temporary);
        let results = vec![Some(RecipientResult::from_error(&error, &peer)); claim.batch.deliveries.len()];
        let attempted = AttemptResult {
            results,
            transcript: "".into(),
            login: LoginResult::NotAttempted,
            connection: None,
            sessions: 0,
        };
        let clock = &self.context.clock;
        let start = AttemptStart { at: clock.now(), instant: clock.instant(), site: None };
        self.record_results(claim, None, &attempted, &start).await;
    }

    /// Defers a batch until the back-off of its account ends, without counting an attempt. A batch whose lifetime ended
    /// expires; it may have waited for a longer pause.
    async fn back_off(&self, claim: Claim, backoff: &SmartHostBackoff) {
        let now = self.context.clock.now();
        if now >= claim.batch.message.expires_at {
            return self.expire(claim).await;
        }
        let unattempted = UnattemptedBatch { batch: &claim.batch, now };
        let reason = backoff.explain();
        let records = claim.batch.deliveries.iter();
        let records =
            records.map(|delivery| unattempted.record_backoff(delivery, &reason, backoff.until)).collect();
        self.send_to_writer(claim, None, Outcomes { records, dsn_recipients: Vec::new() }).await;
    }

    async fn expire(&self, claim: Claim) {
        let unattempted = UnattemptedBatch { batch: &claim.batch, now: self.context.clock.now() };
        let mut outcomes = Outcomes::default();
        for delivery in &claim.batch.deliveries {
            outcomes.add(&claim.batch.message, delivery, unattempted.record_expired(delivery), false);
        }
        self.send_to_writer(claim, None, outcomes).await;
    }

    /// Composes the DSN, if one is due, and passes it and the records to the result writer. Returns whether that took them: if it
    /// has ended, the claim is released and the mail is delivered again.
    pub(super) async fn send_to_writer(
        &self,
        claim: Claim,
        content: Option<&Content>,
        outcomes: Outcomes,
    ) -> bool {
        let Outcomes { mut records, dsn_recipients } = outcomes;
        self.suppress_unreached(&claim.batch, &mut records).await;
        self.note_failures(&records);
        let dsn = match dsn_recipients.as_slice() {
            [] => None,
            dsn_recipients if self.sends_dsns(&claim.batch.message).await => {
                self.compose_dsn(&claim.batch.message, content, dsn_recipients).await
            }
            _ => None,
        };
        let was_taken = self.recordings.send(RecordBatch { records, report: dsn }).await.is_ok();
        if was_taken {
            claim.settle();
        }
        was_taken
    }

    /// Counts the deliveries of live mail that did not succeed.
    fn note_failures(&self, records: &[AttemptRecord]) {
        for record in records {
            let is_failure = match record.state {
                DeliveryState::Deferred => record.attempt.is_some(),
                state => matches!(state, DeliveryState::Bounced | DeliveryState::Expired),
            };
            let is_counted = record.kind == MessageKind::Message && record.environment == Environment::Live;
            if is_failure && is_counted {
                let site = self.site.clone();
                let key = FailureKey { site, class: record.bounce_class, outcome: record.state };
                let failures = self.context.queue.failure_reasons();
                failures.note(record.tenant_id, key, &record.reply, record.at);
            }
        }
    }

    /// Whether the sender gets DSNs by mail.
    async fn sends_dsns(&self, message: &Message) -> bool {
        if message.reverse_path == ReversePath::Null {
            return false;
        }
        match self.context.store.tenant(message.tenant_id).await {
            Ok(tenant) => tenant.is_some_and(|t| t.settings.delivery_reports == DeliveryReports::Mail),
            // Without the setting, a DSN is sent: an unreported failure is worse than an unwanted DSN.
            Err(_) => true,
        }
    }

    async fn compose_dsn(
        &self,
        message: &Message,
        content: Option<&Content>,
        dsn_recipients: &[DsnRecipient],
    ) -> Option<NewMessage> {
        let (read, _memory) = match content {
            None => {
                let memory = self.memory_for(message).await;
                let content = self.context.store.content(message.id, self.context.clock.now()).await;
                (content.ok().flatten(), memory)
            }
            Some(_) => (None, None),
        };
        let dsn = DsnMessage {
            hostname: &self.context.settings.hostname,
            message,
            content: content.or(read.as_ref()),
            recipients: dsn_recipients,
            now: self.context.clock.now(),
            lifetime: self.context.settings.expiry,
        };
        dsn.compose()
    }
}

/// Whether the lifetime of the message has ended. A delivery that became due after the end was paused or suspended and
/// gets one attempt.
fn has_expired(batch: &Batch, now: Timestamp) -> bool {
    let end = batch.message.expires_at;
    // A back-off of an account never moves a delivery beyond the end of its lifetime.
    let is_due_in_time = |delivery: &Delivery| delivery.next_attempt_at.is_none_or(|due| due <= end);
    now >= end && batch.deliveries.iter().all(is_due_in_time)
}

/// Whether an operator has paused the mail since it was claimed.
fn is_paused(context: &RelayContext, claim: &Claim) -> bool {
    let message = &claim.batch.message;
    let of = (message.tenant_id, message.environment);
    context.queue.is_paused(of, &claim.batch.destination, context.clock.now())
}

/// A random number from -1 to 1.
pub(super) fn jitter(rng: &Rng) -> f64 {
    rng.random::<f64>() * 2.0 - 1.0
}
