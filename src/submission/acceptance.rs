//! Stores a message whose envelope was admitted: checks the header, counts recipients against the send limit, then
//! adds header fields, signs, and writes in one transaction.

use std::sync::Arc;

use tracing::Instrument;

use super::directory_cache::KeyAndTenant;
use super::feedback_fields::feedback_subject;
use super::header_rewrite::{self, ReceivedField};
use super::list_message::{self, LinkSender, ListRecipient, OVERSIGNED_FIELDS};
use super::send_limit::{ConfirmedQuota, QuotaRequest, QuotaReservation};
use super::submission_key::submission_key;
use super::{Submission, SubmissionService, SubmissionSettings, Submitter, storage_refusal};
use crate::blocking;
use crate::clock::Instant;
use crate::dkim::{SignError, Signer};
use crate::mail::{Content, DomainName, MailParameters, Timestamp};
use crate::model::{
    DeliveryId, Environment, ListName, MessageId, MessageKind, Refusal, RefusalCode, Scope, TenantId,
};
use crate::policy::admission::{SendingDomain, refuse_from_count};
use crate::store::{Message, NewMessage, Spool, Store, StoreError, SubmissionKey, Tenant};

/// A message being stored has weight 1, plus 1 for each this many octets.
const STORING_OCTETS_PER_WEIGHT: u64 = 32 * 1024;

/// Messages up to this size are signed by the thread that received them, without a hand-over to another one and back. Larger
/// ones would delay the other connections of that thread.
const SIGNED_AT_ONCE_OCTETS_MAX: usize = 64 * 1024;
/// While tenants compete, the messages of one that stores more than this at once are signed on other threads, so that those
/// of the others need not wait for the threads of the connections.
const SIGNED_AT_ONCE_OF_TENANT_MAX: usize = 4;

/// A message that passed all checks. Only the send limit, the signature or the store can still refuse it.
#[derive(Debug)]
pub struct CheckedSubmission {
    pub(super) submission: Submission,
    /// Key and tenant at the time of the check.
    pub(super) current: KeyAndTenant,
    /// The submission key, if the client identified the submission.
    pub(super) submission_key: Option<SubmissionKey>,
    pub(super) header: header_rewrite::CheckedHeader,
    /// The domain that signs.
    pub(super) domain: SendingDomain,
    pub(super) kind: MessageKind,
    /// Whether it counts against the limit of trial mail.
    pub(super) is_trial: bool,
    /// The list that it belongs to.
    pub(super) list: Option<ListName>,
}

/// A message that is counted against the send limit and signed, but not stored.
pub struct PreparedSubmission<'a> {
    submitter: Arc<Submitter>,
    new: NewMessage,
    reservation: QuotaReservation<'a>,
    received_at: Instant,
    span: tracing::Span,
}

/// What is needed after a message was stored.
struct PendingSubmission {
    submitter: Arc<Submitter>,
    id: MessageId,
    environment: Environment,
    recipients: usize,
    size: u64,
    quota: ConfirmedQuota,
    received_at: Instant,
    span: tracing::Span,
}

impl PreparedSubmission<'_> {
    /// From now on the quota stays counted unless it is released.
    fn confirm(self) -> (NewMessage, PendingSubmission) {
        let Self { submitter, new, reservation, received_at, span } = self;
        let pending = PendingSubmission {
            id: new.message.id,
            environment: new.message.environment,
            recipients: new.recipients.len(),
            size: new.message.size,
            quota: reservation.confirm(),
            submitter,
            received_at,
            span,
        };
        (new, pending)
    }
}

/// The values of a message that are decided when it is stored.
pub(super) struct MessageTerms {
    pub(super) id: MessageId,
    pub(super) expires_at: Timestamp,
    pub(super) now: Timestamp,
}

/// A message before it is signed.
struct Unsigned {
    /// The `Received` field, which no signature covers.
    received: String,
    /// The message.
    content: Content,
    /// Fields that nobody may add later.
    oversigned: &'static [&'static str],
}

impl SubmissionService {
    /// Checks the header, and whether the submitter may send for every author and sender in it.
    pub async fn check(&self, mut submission: Submission) -> Result<CheckedSubmission, Refusal> {
        let mut header = header_rewrite::check(&submission.message)?;
        if !self.settings.allow_duplicate_headers {
            header.refuse_duplicates()?;
        }
        let current = self.refresh(&submission.submitter).await?;
        let mut domains = self.admit_from(&submission.submitter, &current, &header.from).await?;
        domains.extend(self.admit_from(&submission.submitter, &current, &header.senders).await?);
        let is_trial = self.is_trial(&submission, &domains).await?;
        // The domain of the first author signs, for DMARC alignment.
        let domain = domains.into_iter().next().ok_or_else(|| refuse_from_count(0))?;
        let settings = &current.1.settings;
        if submission.submitter.scope == Scope::SmtpSend && settings.apply_to_smtp {
            header.apply_defaults(&submission.message, settings, submission.envelope.smtputf8);
        }
        let list = header.list.take().or_else(|| submission.extras.list.take());
        if let Some(list) = &list {
            self.admit_list(&submission, &header, &domain, list).await?;
        }
        let submission_key = submission_key(&submission, &header);
        if is_trial {
            self.admit_trial(&current.1, &mut submission.envelope.recipients).await?;
        }
        let kind = MessageKind::Message;
        Ok(CheckedSubmission { submission, current, submission_key, header, domain, kind, is_trial, list })
    }

    /// Checks and stores. After `Ok` the message is on disk, possibly from an earlier submission.
    pub async fn accept(&self, submission: Submission) -> Result<MessageId, Refusal> {
        let checked = self.check(submission).await?;
        let (key, tenant) = &checked.current;
        if let Some(name) = &checked.submission_key
            && let Some(earlier) = self.find_duplicate(tenant, key.environment, name).await?
        {
            return Ok(earlier);
        }
        self.enqueue(checked).await
    }

    /// Counts, adds header fields, signs and stores. After `Ok` the message is on disk, possibly from an earlier
    /// submission, which the storing transaction finds.
    pub async fn enqueue(&self, checked: CheckedSubmission) -> Result<MessageId, Refusal> {
        let prepared = self.prepare(checked).await?;
        let stored = self.store_all(&self.store, vec![prepared]).await?;
        stored.first().copied().ok_or_else(|| storage_refusal(StoreError::Closed))
    }

    /// Counts the recipients against the send limit, adds header fields and signs. Dropping the result releases the
    /// quota.
    pub async fn prepare(&self, checked: CheckedSubmission) -> Result<PreparedSubmission<'_>, Refusal> {
        let now = self.clock.now();
        let (submitter, received_at) = (checked.submission.submitter.clone(), checked.submission.received_at);
        let id = checked.submission.extras.id.unwrap_or_else(|| MessageId::generate(now));
        let span = tracing::info_span!(
            "message", msg = %id, tenant = %submitter.tenant.slug, key = %submitter.key.id
        );
        let (new, reservation) = self.prepare_as(id, checked, now).instrument(span.clone()).await?;
        Ok(PreparedSubmission { submitter, new, reservation, received_at, span })
    }

    async fn prepare_as(
        &self,
        id: MessageId,
        checked: CheckedSubmission,
        now: Timestamp,
    ) -> Result<(NewMessage, QuotaReservation<'_>), Refusal> {
        let Submission { submitter, envelope, .. } = &checked.submission;
        let current = self.refresh(submitter).await?;
        let request = QuotaRequest::new(&current.1, submitter.key.environment, now);
        let count = envelope.recipients.len() as u64;
        let reservation = self.limits.take(request, count).await.map_err(storage_refusal)??;
        if checked.is_trial {
            self.count_trial(&current.1, now).await?;
        }
        let expires_at =
            self.expires_at(current.1.settings.message_lifetime_hours, &envelope.parameters, now);
        let terms = MessageTerms { id, expires_at, now };
        Ok((self.build_message(checked, terms).await?, reservation))
    }

    /// The message that was submitted under this submission key within a day, which must not be counted again. Refused
    /// if the envelope differs. Without a send limit nothing is counted, so only the storing transaction looks it up.
    pub async fn find_duplicate(
        &self,
        tenant: &Tenant,
        environment: Environment,
        key: &SubmissionKey,
    ) -> Result<Option<MessageId>, Refusal> {
        let now = self.clock.now();
        if !QuotaRequest::new(tenant, environment, now).is_limited() {
            return Ok(None);
        }
        let earlier = self.store.find_submission(tenant.id, environment, key, now).await;
        let earlier = earlier.map_err(storage_refusal)?;
        Ok(earlier.map(|earlier| log_duplicate(tenant, earlier)))
    }

    /// Builds the message to store.
    pub(super) async fn build_message(
        &self,
        checked: CheckedSubmission,
        terms: MessageTerms,
    ) -> Result<NewMessage, Refusal> {
        let CheckedSubmission { submission, submission_key, header, domain, kind, list, .. } = checked;
        let MessageTerms { id, expires_at, now } = terms;
        let Submission { submitter, envelope, message, trace, extras, received_at: _ } = submission;
        let received = ReceivedField {
            hostname: &self.settings.hostname,
            trace: &trace,
            client_address: self
                .settings
                .received_includes_client_address
                .then_some(submitter.client_address),
            id,
            now,
        };
        let with_id = |to| (DeliveryId::generate(now), to);
        let recipients: Vec<_> = envelope.recipients.into_iter().map(with_id).collect();
        let mut added = header.missing_fields(id, now);
        if let (Some(list), [(delivery, recipient)]) = (&list, &recipients[..]) {
            let recipient = ListRecipient { address: &recipient.address, delivery: *delivery };
            let sender = LinkSender::new(&submitter, id);
            added.push_str(&self.list_fields(sender, list, recipient, &domain)?);
            added.push_str(&list_message::list_id(list, &header, &domain.name));
        }
        if kind == MessageKind::Message {
            added.push_str(&self.feedback_fields(&header, feedback_subject(id, &recipients), &domain));
        }
        let summary = header.summarize(&added, &message);
        let unsigned = Content { prefix: added.into(), submitted: header.rewrite(message) };
        let sender_domain = domain.name.clone();
        let unsigned = Unsigned {
            received: received.field(),
            content: unsigned,
            oversigned: if list.is_some() { OVERSIGNED_FIELDS } else { &[] },
        };
        let (content, dkim_domain) = self.sign(submitter.tenant.id, domain, unsigned).await?;
        Ok(NewMessage {
            message: Message {
                id,
                tenant_id: submitter.tenant.id,
                key_id: Some(submitter.key.id),
                kind,
                environment: submitter.key.environment,
                reverse_path: envelope.reverse_path,
                body: envelope.body,
                smtputf8: envelope.smtputf8,
                parameters: envelope.parameters,
                annotations: extras.annotations,
                size: content.len() as u64,
                subject: summary.subject,
                header_from: summary.from,
                header_message_id: summary.message_id,
                dkim_domain,
                sender_domain: Some(sender_domain),
                list,
                created_at: now,
                expires_at,
            },
            recipients,
            suppressed: extras.suppressed,
            content,
            submission_key,
        })
    }

    /// Stores the messages of one submitter in one transaction of `store`, when its tenant gets the permit. Returns their
    /// ids in the same order; a message that was submitted before has the id of that one. The quota of messages that are
    /// not stored is released, also if the caller is cancelled before the permit.
    pub async fn store_all(
        &self,
        store: &Store,
        batch: Vec<PreparedSubmission<'_>>,
    ) -> Result<Vec<MessageId>, Refusal> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let tenant = first.submitter.tenant.id;
        let weight = batch.iter().map(|one| 1 + one.new.message.size / STORING_OCTETS_PER_WEIGHT).sum();
        let permit = self.storing.acquire_weighted(Some(tenant), weight).await;
        let _permit = permit.map_err(|_| storage_refusal(StoreError::Closed))?;
        let (news, pending): (Vec<_>, Vec<_>) = batch.into_iter().map(PreparedSubmission::confirm).unzip();
        let result = store.enqueue_all(news).await;
        let stored = result.as_deref().unwrap_or_default();
        for (position, pending) in pending.iter().enumerate() {
            self.conclude(pending, stored.get(position).copied());
        }
        result.map_err(storage_refusal)
    }

    /// `stored` is the id that the transaction returned, if it was committed.
    fn conclude(&self, pending: &PendingSubmission, stored: Option<MessageId>) {
        if stored != Some(pending.id) {
            self.limits.release(&pending.quota);
        }
        match stored {
            Some(stored) if stored == pending.id => {
                let PendingSubmission { environment, recipients, size, .. } = pending;
                pending.span.in_scope(|| tracing::info!(%environment, recipients, size, "accepted"));
                self.accept_seconds.observe(self.clock.elapsed_since(pending.received_at));
            }
            Some(earlier) => {
                log_duplicate(&pending.submitter.tenant, earlier);
            }
            None => {}
        }
    }

    /// When delivery expires: the message's own limit, else the tenant's, else the configured one.
    fn expires_at(
        &self,
        lifetime_hours: Option<u32>,
        parameters: &MailParameters,
        now: Timestamp,
    ) -> Timestamp {
        let SubmissionSettings { message_lifetime, message_lifetime_max, .. } = self.settings;
        // RFC 4865 §4.2: the time before release does not count.
        let begins_at = parameters.release_at.unwrap_or(now).max(now);
        let after = |lifetime| begins_at.checked_add(lifetime).unwrap_or(Timestamp::MAX);
        let latest = after(message_lifetime_max);
        if let Some(deliver_by) = parameters.deliver_by {
            return deliver_by.min(latest);
        }
        let lifetime = lifetime_hours
            .map_or(message_lifetime, |hours| std::time::Duration::from_secs(u64::from(hours) * 3600));
        after(lifetime).min(latest)
    }

    /// Adds the header fields of this server in front: signatures, `Received`, then missing fields.
    async fn sign(
        &self,
        tenant: TenantId,
        domain: SendingDomain,
        unsigned: Unsigned,
    ) -> Result<(Content, Option<DomainName>), Refusal> {
        let Unsigned { received, content: unsigned, oversigned } = unsigned;
        let fail = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, domain = %domain.name, "cannot sign");
            signing_refusal(&domain.name)
        };
        let signers = self.directory.signers(tenant, &domain).await.map_err(|error| fail(&error))?;
        let to_sign = unsigned.clone();
        let _permit = self.signing.acquire(Some(tenant)).await.map_err(|error| fail(&error))?;
        let is_quick = to_sign.len() <= SIGNED_AT_ONCE_OCTETS_MAX && signers.iter().all(Signer::is_quick);
        let is_flood = self.signing.is_contended()
            && self.storing.requests_of(Some(tenant)) > SIGNED_AT_ONCE_OF_TENANT_MAX;
        let sign = move || -> Result<Vec<_>, SignError> {
            signers.iter().map(|signer| signer.sign(&to_sign, oversigned)).collect()
        };
        let signatures = match is_quick && !is_flood {
            true => sign(),
            false => blocking::run(sign).await.map_err(|error| fail(&error))?,
        };
        let signatures = signatures.map_err(|error| fail(&error))?;
        let signing_domain = (!signatures.is_empty()).then_some(domain.name);
        let mut prefix = signatures.concat();
        prefix.push_str(&received);
        prefix.push_str(&String::from_utf8_lossy(&unsigned.prefix));
        Ok((Content { prefix: prefix.into(), submitted: unsigned.submitted }, signing_domain))
    }
}

fn log_duplicate(tenant: &Tenant, earlier: MessageId) -> MessageId {
    tracing::info!(msg = %earlier, tenant = %tenant.slug, "duplicate submission");
    earlier
}

pub(super) fn signing_refusal(domain: &DomainName) -> Refusal {
    Refusal::new(
        RefusalCode::Internal,
        format!("the message cannot be signed for {domain}"),
        "try again later; the operator finds the cause in the server log",
    )
}
