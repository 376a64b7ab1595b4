//! `POST /v1/emails`: composes messages and submits them, with the same checks as over SMTP.

use std::sync::Arc;

use futures_util::future::try_join_all;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::batch::{self, Composed, locate};
use super::draft::EmailRequest;
use crate::api::{ApiError, ApiResponse, List, RequestContext, Result};
use crate::clock::Instant;
use crate::mail::{Address, BodyType, Envelope, MailParameters, ReversePath, Timestamp};
use crate::model::{DeliveryState, LimitPeriod, MessageId, Refusal, RefusalCode, Scope, Stage, TenantId};
use crate::policy::fixed_window::seconds_until;
use crate::store::{Store, SubmissionKey};
use crate::submission::{
    AdmittedRecipients, CheckedSubmission, PreparedSubmission, Submission, SubmissionExtras, Submitter, Trace,
};

const BATCH_MAX: usize = 100;

/// Several messages, each with its own recipients.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "EmailBatch")]
pub struct BatchRequest {
    /// The tenant that sends. Default with a platform key: the tenant `default`.
    tenant_id: Option<TenantId>,
    /// From 1 to 100.
    emails: Vec<EmailRequest>,
}

/// An accepted message. The server has stored it on disk.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EmailAccepted")]
pub struct Accepted {
    /// Its id.
    id: MessageId,
    /// Always `email`.
    #[schemars(extend("const" = "email"))]
    object: &'static str,
    /// Always `queued`.
    status: DeliveryState,
    /// Scheduled time of delivery; `null` for immediate delivery.
    send_at: Option<Timestamp>,
    /// Suppressed recipients. The server does not send to them.
    suppressed: Vec<Address>,
}

/// The messages of a request.
struct Wanted {
    /// The tenant that a platform key sends for.
    tenant_id: Option<TenantId>,
    emails: Vec<EmailRequest>,
    is_batch: bool,
    /// SHA-256 of the request body.
    digest: [u8; 32],
}

/// A request in progress.
struct Sending<'a> {
    call: &'a RequestContext,
    submitter: Arc<Submitter>,
    digest: [u8; 32],
    /// Recipients of all its messages.
    recipients: usize,
    received_at: Instant,
}

/// A message that passed all checks.
struct Ready {
    checked: CheckedSubmission,
    /// The message that was stored before under the same Idempotency-Key.
    earlier: Option<MessageId>,
    /// Recipients that count towards the send limit.
    counted: usize,
    send_at: Option<Timestamp>,
    suppressed: Vec<Address>,
}

/// The response to a message before it is stored.
struct Outline {
    earlier: Option<MessageId>,
    send_at: Option<Timestamp>,
    suppressed: Vec<Address>,
}

impl Outline {
    /// The responses to messages. `stored` are the ids of those that were not stored before.
    fn fill(outlines: &[Self], stored: &[MessageId]) -> Vec<Accepted> {
        let mut stored = stored.iter().copied();
        let accept = |outline: &Self| {
            let Self { earlier, send_at, suppressed } = outline;
            let id = earlier.or_else(|| stored.next())?;
            let (send_at, suppressed) = (*send_at, suppressed.clone());
            Some(Accepted { id, object: "email", status: DeliveryState::Queued, send_at, suppressed })
        };
        outlines.iter().filter_map(accept).collect()
    }
}

pub async fn send(mut call: RequestContext) -> Result<ApiResponse> {
    let (email, digest): (EmailRequest, _) = batch::read(&mut call).await?;
    let respond = |sent: Vec<Accepted>| {
        let only =
            sent.first().ok_or_else(|| ApiError::internal("sending one message returned no result"))?;
        ApiResponse::accepted(only)
    };
    let wanted = Wanted { tenant_id: email.tenant_id, emails: vec![email], is_batch: false, digest };
    send_all(&mut call, wanted, respond).await
}

/// `POST /v1/emails/batch`: the server queues all messages or none.
pub async fn send_batch(mut call: RequestContext) -> Result<ApiResponse> {
    let (BatchRequest { tenant_id, emails }, digest) = batch::read(&mut call).await?;
    if emails.is_empty() || emails.len() > BATCH_MAX {
        return Err(ApiError::field("emails", "invalid", format!("give 1 to {BATCH_MAX} items")));
    }
    if let Some(place) = emails.iter().position(|email| email.tenant_id.is_some()) {
        let path = format!("emails[{place}].tenant_id");
        return Err(ApiError::field(&path, "invalid", "give this beside emails: a batch is of one tenant"));
    }
    let respond = |sent| ApiResponse::accepted(&List::whole(sent));
    send_all(&mut call, Wanted { tenant_id, emails, is_batch: true, digest }, respond).await
}

/// Checks all messages, prepares all, then stores all with the response in one transaction.
async fn send_all(
    call: &mut RequestContext,
    wanted: Wanted,
    respond: fn(Vec<Accepted>) -> Result<ApiResponse>,
) -> Result<ApiResponse> {
    let received_at = call.api.clock.instant();
    let Wanted { tenant_id, emails, is_batch, digest } = wanted;
    let submitter = Arc::new(Submitter {
        tenant: call.owning_tenant(tenant_id, "message").await?,
        key: call.caller.key.clone(),
        secret: None,
        client_address: call.origin.client,
        scope: Scope::EmailsSend,
    });
    let composed = batch::compose(call, Arc::clone(&submitter), emails, is_batch).await?;
    let recipients = composed.iter().map(|one| one.recipients.len()).sum();
    let sending = Sending { call, submitter, digest, recipients, received_at };
    let mut ready: Vec<Ready> = Vec::with_capacity(composed.len());
    let mut counted = 0;
    for (place, one) in composed.into_iter().enumerate() {
        let place = is_batch.then_some(place);
        let one = sending.admit(one, place, counted).await.map_err(|error| locate(error, place))?;
        counted += one.counted;
        ready.push(one);
    }
    let prepared = ready.into_iter().enumerate().map(async |(place, one)| {
        sending.prepare(one).await.map_err(|error| locate(error, is_batch.then_some(place)))
    });
    let (outlines, prepared): (Vec<_>, Vec<_>) = try_join_all(prepared).await?.into_iter().unzip();
    let respond = move |stored: &Vec<MessageId>| respond(Outline::fill(&outlines, stored));
    let store = async |store: Store| sending.store(&store, prepared.into_iter().flatten().collect()).await;
    call.change(respond, store).await
}

impl Sending<'_> {
    /// Runs the checks of MAIL, RCPT and DATA in this order. `earlier` recipients of the same request precede this message.
    async fn admit(&self, composed: Composed, place: Option<usize>, earlier: usize) -> Result<Ready> {
        let Composed { message, smtputf8, sender, recipients, annotations, release_at, expires_at, list } =
            composed;
        let (list, id) = list.unzip();
        let (submission, submitter) = (&self.call.api.submission, &self.submitter);
        let submission_key = self.submission_key(place);
        let duplicate = match &submission_key {
            Some(key) => {
                let found =
                    submission.find_duplicate(&submitter.tenant, submitter.key.environment, key).await;
                found.map_err(|refusal| self.reject(Stage::Data, refusal))?
            }
            None => None,
        };
        let is_duplicate = duplicate.is_some();
        let reverse_path = ReversePath::Mailbox(sender);
        let admitted = submission.admit_sender(submitter, &reverse_path, is_duplicate).await;
        admitted.map_err(|refusal| self.reject(Stage::Mail, refusal))?;
        let earlier = (!is_duplicate).then_some(earlier);
        let admitted = submission.admit_recipients(submitter, recipients, earlier).await;
        let admitted = admitted.map_err(|refusal| self.reject(Stage::Rcpt, refusal))?;
        let AdmittedRecipients { open: recipients, suppressed } = admitted;
        self.check_size(&message)?;
        let counted = if is_duplicate { 0 } else { recipients.len() };
        let envelope = Envelope {
            reverse_path,
            recipients,
            body: if message.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime },
            smtputf8,
            parameters: MailParameters { release_at, deliver_by: expires_at, ..MailParameters::default() },
        };
        let checked = submission.check(Submission {
            submitter: submitter.clone(),
            envelope,
            message,
            trace: Trace { helo: "api".into(), protocol: "HTTP", tls: None },
            extras: SubmissionExtras {
                annotations,
                suppressed: suppressed.clone(),
                submission_key,
                list,
                id,
            },
            received_at: self.received_at,
        });
        let checked = checked.await.map_err(|refusal| self.reject(Stage::Data, refusal))?;
        Ok(Ready { checked, earlier: duplicate, counted, send_at: release_at, suppressed })
    }

    fn check_size(&self, message: &[u8]) -> Result<()> {
        let octets_max = self.call.api.sending.message_octets_max;
        if message.len() as u64 <= octets_max {
            return Ok(());
        }
        let refusal = Refusal::new(
            RefusalCode::MessageTooLarge,
            format!("the message has {} octets; the limit is {octets_max}", message.len()),
            "reduce the message; base64 makes attachments a third larger",
        );
        Err(self.reject(Stage::Data, refusal))
    }

    /// Identifies repetitions of a message, if the request has an Idempotency-Key. The index precedes the client's text, so
    /// that the text cannot imitate another index.
    fn submission_key(&self, place: Option<usize>) -> Option<SubmissionKey> {
        let name = self.call.idempotent.as_ref()?.name();
        let place = place.map_or_else(|| "-".to_owned(), |place| place.to_string());
        let digest = Sha256::new().chain_update(self.digest).chain_update(&place).finalize().into();
        Some(SubmissionKey { name: format!("http {} {place} {name}", self.submitter.key.id), digest })
    }

    /// Counts and signs a message, unless it was stored before.
    async fn prepare(&self, ready: Ready) -> Result<(Outline, Option<PreparedSubmission<'_>>)> {
        let Ready { checked, earlier, send_at, suppressed, .. } = ready;
        let prepared = match earlier {
            Some(_) => None,
            None => {
                let prepared = self.call.api.submission.prepare(checked).await;
                Some(prepared.map_err(|refusal| self.reject(Stage::Data, refusal))?)
            }
        };
        Ok((Outline { earlier, send_at, suppressed }, prepared))
    }

    async fn store(&self, store: &Store, prepared: Vec<PreparedSubmission<'_>>) -> Result<Vec<MessageId>> {
        let stored = self.call.api.submission.store_all(store, prepared).await;
        stored.map_err(|refusal| self.reject(Stage::Data, refusal))
    }

    /// Records a refusal for `/v1/rejections` under the id of the request, unless it is a server error.
    fn reject(&self, stage: Stage, refusal: Refusal) -> ApiError {
        let mut error = ApiError::from(refusal);
        let (call, tenant) = (self.call, &self.submitter.tenant);
        let limits = tenant.rate_limit.at(self.submitter.key.environment, call.now);
        let over = match error.refusal.code {
            RefusalCode::SendLimitExceeded => Some((LimitPeriod::Minute, limits.emails_per_minute)),
            RefusalCode::HourlySendLimitExceeded => Some((LimitPeriod::Hour, limits.emails_per_hour)),
            RefusalCode::DailySendLimitExceeded => Some((LimitPeriod::Day, limits.emails_per_day)),
            _ => None,
        };
        // A request with more recipients than the whole limit cannot succeed later.
        let may_fit = |limit: Option<u32>| limit.is_none_or(|limit| self.recipients <= limit as usize);
        let over = over.filter(|(_, limit)| may_fit(*limit));
        error.retry_after_s = over.map(|(period, _)| seconds_until(period.end_of(call.now), call.now));
        if error.status().is_client_error() {
            call.api.submission.record_rejection(call.request_id, &self.submitter, stage, &error.refusal);
        }
        error
    }
}
