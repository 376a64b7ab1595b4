//! `POST /v1/emails`: what a client describes becomes a message, and passes the same checks as over SMTP.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::draft::{Draft, EmailRequest};
use crate::api::answer::Answer;
use crate::api::call::Call;
use crate::api::error::{ApiError, FieldError, Result};
use crate::api::page::List;
use crate::api::templates;
use crate::intake::{Extras, Submission, Submitter, Trace};
use crate::mail::{
    Address, BodyType, DeliveryState, Envelope, LimitPeriod, MailParameters, MessageId, Refusal, RefusalCode,
    ReversePath, Scope, Stage, TemplateId, Timestamp,
};
use crate::policy::allowance::seconds_until;
use crate::store::SubmissionKey;

const BATCH_MAX: usize = 100;

/// Several messages, each with its own recipients.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "EmailBatch")]
pub struct BatchRequest {
    /// From 1 to 100.
    emails: Vec<EmailRequest>,
}

/// A message that was accepted: it is on disk.
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
    /// When delivery begins, if not at once.
    send_at: Option<Timestamp>,
    /// Recipients that it is not sent to, because they are suppressed.
    suppressed: Vec<Address>,
}

/// A message that everything but the disk has agreed to.
struct Ready {
    submission: Submission,
    send_at: Option<Timestamp>,
    suppressed: Vec<Address>,
}

/// Where a message stands among those of one request.
#[derive(Clone, Copy, Default)]
struct Place {
    /// `None` if it is the only one.
    in_batch: Option<usize>,
    /// Recipients of the messages before it.
    recipients_before: usize,
}

/// `POST /v1/emails`
pub async fn send(call: Call<'_>) -> Result<Answer> {
    let request: EmailRequest = call.json()?;
    let submitter = submitter(&call).await?;
    let ready = prepare(&call, &submitter, request, Place::default()).await?;
    Answer::accepted(&accept(&call, ready).await?)
}

/// `POST /v1/emails/batch`: nothing is sent if any of them is wrong.
pub async fn send_batch(call: Call<'_>) -> Result<Answer> {
    let BatchRequest { emails } = call.json()?;
    if emails.is_empty() || emails.len() > BATCH_MAX {
        return Err(ApiError::field("emails", "invalid", format!("from 1 to {BATCH_MAX} are taken at once")));
    }
    let submitter = submitter(&call).await?;
    let mut ready = Vec::with_capacity(emails.len());
    let mut place = Place::default();
    for (number, request) in emails.into_iter().enumerate() {
        place.in_batch = Some(number);
        let one = prepare(&call, &submitter, request, place).await?;
        place.recipients_before += one.submission.envelope.recipients.len();
        ready.push(one);
    }
    let mut accepted = Vec::with_capacity(ready.len());
    for one in ready {
        match accept(&call, one).await {
            Ok(one) => accepted.push(one),
            Err(error) => return Err(interrupted(error, accepted.len())),
        }
    }
    Answer::accepted(&List::whole(accepted))
}

/// The store failed in the middle of a batch.
fn interrupted(error: ApiError, sent: usize) -> ApiError {
    let ApiError { refusal, .. } = &error;
    let hint = if sent == 0 {
        refusal.hint.clone()
    } else {
        format!(
            "the first {sent} messages were accepted: repeat the request with the same Idempotency-Key, and only the \
             others are sent; without one, repeat it without those"
        )
    };
    ApiError { refusal: Refusal { hint, ..refusal.clone() }, ..error }
}

async fn submitter(call: &Call<'_>) -> Result<Arc<Submitter>> {
    // A tenant in the path must be the caller's own.
    call.owner(None).await?;
    let Some(tenant) = call.caller.tenant.clone() else {
        return Err(ApiError::new(
            RefusalCode::InsufficientScope,
            "a platform key belongs to no tenant and so has no domain to send from",
            "send with a key of the tenant: POST /v1/keys makes one",
        ));
    };
    Ok(Arc::new(Submitter {
        tenant,
        key: call.caller.key.clone(),
        client_address: call.client,
        scope: Scope::EmailsSend,
    }))
}

/// Checks a message and makes its bytes.
async fn prepare(
    call: &Call<'_>,
    submitter: &Arc<Submitter>,
    mut request: EmailRequest,
    place: Place,
) -> Result<Ready> {
    let result = async {
        if let Some(id) = request.template_id {
            fill(call, &mut request, id).await?;
        }
        let draft = request.resolve(&submitter.tenant.settings, &call.api.sending, call.now);
        admit(call, submitter, draft.map_err(ApiError::invalid)?, place.recipients_before).await
    };
    let mut ready = result.await.map_err(|error| locate(error, place.in_batch))?;
    ready.submission.extras.submission_key = call.idempotency_key.as_ref().map(|name| {
        let place = place.in_batch.map_or_else(String::new, |place| format!(" {place}"));
        let digest = Sha256::new().chain_update(&call.body).chain_update(&place).finalize().into();
        // The space keeps it apart from keys of other clients and from those of messages over SMTP.
        SubmissionKey { name: format!("{} {name}{place}", submitter.key.id), digest }
    });
    Ok(ready)
}

async fn fill(call: &Call<'_>, request: &mut EmailRequest, id: TemplateId) -> Result<()> {
    if request.text.is_some() || request.html.is_some() {
        return Err(ApiError::field("template_id", "invalid", "give a template or bodies, not both"));
    }
    let template = templates::find(call, id).await.map_err(|error| match error.refusal.code {
        RefusalCode::NotFound => ApiError::field("template_id", "not_found", "there is no such template"),
        _ => error,
    })?;
    let rendered = templates::fill(&template, std::mem::take(&mut request.template_data))?;
    request.fill(rendered);
    Ok(())
}

/// Says which message of a batch an error is about.
fn locate(mut error: ApiError, place: Option<usize>) -> ApiError {
    let Some(place) = place else { return error };
    let path = format!("emails[{place}]");
    if error.fields.is_empty() && error.cause.is_none() {
        let Refusal { code, message, .. } = &error.refusal;
        error.fields.push(FieldError::new(path.clone(), code.as_str(), message.clone()));
    } else {
        error.fields.iter_mut().for_each(|field| field.path = format!("{path}.{}", field.path));
    }
    error.refusal.message = format!("{path}: {}", error.refusal.message);
    error
}

/// The checks of MAIL and RCPT, in their order, and the message in bytes.
async fn admit(
    call: &Call<'_>,
    submitter: &Arc<Submitter>,
    draft: Draft,
    recipients_before: usize,
) -> Result<Ready> {
    let Draft { letter, sender, recipients, annotations, release_at } = draft;
    let intake = &call.api.intake;
    let reverse_path = ReversePath::Mailbox(sender);
    let admitted = intake.admit_sender(submitter, &reverse_path).await;
    admitted.map_err(|refusal| note(call, submitter, Stage::Mail, refusal))?;
    let mailboxes = letter.from.iter().chain(&letter.to).chain(&letter.cc).chain(&letter.reply_to);
    let smtputf8 = mailboxes.map(|mailbox| &mailbox.address).chain(&recipients).any(Address::needs_smtputf8);
    let mut suppressed = Vec::new();
    let mut last_refusal = None;
    let mut open = Vec::with_capacity(recipients.len());
    for recipient in recipients {
        let earlier = recipients_before + open.len();
        match intake.admit_recipient(submitter, &recipient, true, earlier).await {
            Ok(()) => open.push(recipient.into()),
            Err(refusal) if refusal.code == RefusalCode::RecipientSuppressed => {
                suppressed.push(recipient);
                last_refusal = Some(refusal);
            }
            Err(refusal) => return Err(note(call, submitter, Stage::Rcpt, refusal)),
        }
    }
    if let Some(refusal) = last_refusal.filter(|_| open.is_empty()) {
        return Err(note(call, submitter, Stage::Rcpt, refusal));
    }
    // Encoding attachments takes a while.
    let composing = tokio::task::spawn_blocking(|| letter.compose());
    let message = composing.await.map_err(ApiError::internal)?;
    let octets_max = call.api.sending.message_octets_max;
    if message.len() as u64 > octets_max {
        let refusal = Refusal::new(
            RefusalCode::MessageTooLarge,
            format!("the message has {} octets, at most {octets_max} are taken", message.len()),
            "send less; attachments grow by a third on their way",
        );
        return Err(note(call, submitter, Stage::Data, refusal));
    }
    let envelope = Envelope {
        reverse_path,
        recipients: open,
        body: if message.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime },
        smtputf8,
        parameters: MailParameters { release_at, ..MailParameters::default() },
    };
    let submission = Submission {
        submitter: submitter.clone(),
        envelope,
        message: message.into(),
        trace: Trace { helo: "api".into(), protocol: "HTTP", tls: None },
        extras: Extras { annotations, suppressed: suppressed.clone(), submission_key: None },
    };
    Ok(Ready { submission, send_at: release_at, suppressed })
}

async fn accept(call: &Call<'_>, ready: Ready) -> Result<Accepted> {
    let Ready { submission, send_at, suppressed } = ready;
    let submitter = submission.submitter.clone();
    match call.api.intake.accept(submission).await {
        Ok(id) => Ok(Accepted { id, object: "email", status: DeliveryState::Queued, send_at, suppressed }),
        Err(refusal) => Err(note(call, &submitter, Stage::Data, refusal)),
    }
}

/// Notes a refusal where the tenant finds it, under the id of the request, unless the fault is ours.
fn note(call: &Call<'_>, submitter: &Submitter, stage: Stage, refusal: Refusal) -> ApiError {
    let mut error = ApiError::from(refusal);
    let ended_by = match error.refusal.code {
        RefusalCode::SendLimitExceeded => Some(LimitPeriod::Minute),
        RefusalCode::DailySendLimitExceeded => Some(LimitPeriod::Day),
        _ => None,
    };
    error.retry_after_s = ended_by.map(|period| seconds_until(period.end_of(call.now), call.now));
    if error.status().is_client_error() {
        call.api.intake.note_rejection(call.request_id, submitter, stage, &error.refusal);
    }
    error
}
