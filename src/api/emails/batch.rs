//! Composes the messages of a request. CPU-bound work needs a permit of the tenant, and the memory budget counts the
//! composed messages.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::compose::MimeMessage;
use super::draft::{Draft, EmailRequest, RECIPIENT_REQUIRED, Terms, UnsubscribeRequest};
use crate::api::body;
use crate::api::json::{self, Checks};
use crate::api::templates::{self, Renderer, stack};
use crate::api::{ApiError, FieldError, RequestContext, Result};
use crate::limits::memory_budget::MemoryReservation;
use crate::mail::{Address, Timestamp};
use crate::model::{ListName, MessageId, Refusal, RefusalCode, RequestId, Stage, TemplateId};
use crate::store::{Annotations, Directory, Template, Tenant};
use crate::submission::{LinkSender, SubmissionService, Submitter, refuse_several_recipients};

/// A body up to this size is parsed on the async thread: a handover to a blocking thread would take longer.
const READ_AT_ONCE_OCTETS_MAX: usize = 64 * 1024;
/// The template variable with the unsubscribe link.
const URL_VARIABLE: &str = "unsubscribe_url";

/// A composed message with its envelope.
#[derive(Debug)]
pub struct Composed {
    /// The message, without the fields that the submission service adds.
    pub message: Bytes,
    /// Whether an address needs SMTPUTF8.
    pub smtputf8: bool,
    /// The reverse path.
    pub sender: Address,
    /// The recipients, without duplicates.
    pub recipients: Vec<Address>,
    /// Tags and metadata. Recipients do not see them.
    pub annotations: Annotations,
    /// Time before which delivery must not start.
    pub release_at: Option<Timestamp>,
    /// Time after which delivery must not be attempted.
    pub expires_at: Option<Timestamp>,
    /// The list that it belongs to, and the id that its unsubscribe link has.
    pub list: Option<(ListName, MessageId)>,
}

/// Parses the body and releases it, because its messages take as much memory, and the reservation counts them once. Also
/// returns its SHA-256.
pub async fn read<T: DeserializeOwned + JsonSchema + Send + 'static>(
    call: &mut RequestContext,
) -> Result<(T, [u8; 32])> {
    let body = std::mem::take(&mut call.body);
    let is_short = body.len() <= READ_AT_ONCE_OCTETS_MAX;
    let read = move || Ok((json::parse_all(&body)?, Sha256::digest(&body).into()));
    if is_short { read() } else { call.work(read).await }
}

/// Composes the messages of a request. An error is about the first invalid message.
pub async fn compose(
    call: &mut RequestContext,
    submitter: Arc<Submitter>,
    emails: Vec<EmailRequest>,
    is_batch: bool,
) -> Result<Vec<Composed>> {
    let api = call.api.clone();
    let empty = api.memory.reserve(call.scope());
    let reservation = std::mem::replace(&mut call.reservation, empty);
    let mut budget =
        ComposeBudget { reservation, octets: 0, octets_max: api.settings.send_body_max.as_u64() };
    let templates = find_templates(call, &submitter.tenant, &emails, is_batch, &mut budget).await?;
    let (now, request_id) = (call.now, call.request_id);
    let work = move || {
        let terms = Terms {
            defaults: &submitter.tenant.settings,
            limits: &api.sending,
            lifetime_max: api.message_lifetime_max,
            now,
        };
        let links = Links { submission: &api.submission, submitter: &submitter, now, request_id };
        let composer = Composer { terms, links, templates: &templates, is_batch };
        let compose = || composer.compose_all(emails, &mut budget);
        let composed = match templates.is_empty() {
            true => compose()?,
            false => stack::run(compose).map_err(ApiError::internal)??,
        };
        Ok((composed, budget.reservation))
    };
    let (composed, reservation) = call.work(work).await?;
    call.reservation = reservation;
    Ok(composed)
}

/// Reads the templates of the messages, each once.
async fn find_templates(
    call: &RequestContext,
    tenant: &Tenant,
    emails: &[EmailRequest],
    is_batch: bool,
    budget: &mut ComposeBudget,
) -> Result<HashMap<TemplateId, Template>> {
    let mut found = HashMap::new();
    for (place, email) in emails.iter().enumerate() {
        let Some(id) = email.template_id.filter(|id| !found.contains_key(id)) else { continue };
        // A platform key sees the templates of all tenants.
        let template = call.store().template(Some(tenant.id), id).await?;
        let missing = || ApiError::field("template_id", "not_found", "there is no such template");
        let template = template.ok_or_else(missing).and_then(|template| {
            let bodies = [&template.text, &template.html].into_iter().flatten();
            budget.add(bodies.map(String::len).sum()).map(|()| template)
        });
        found.insert(id, template.map_err(|error| locate(error, is_batch.then_some(place)))?);
    }
    Ok(found)
}

/// What the messages of a request have in common.
struct Composer<'a> {
    terms: Terms<'a>,
    links: Links<'a>,
    templates: &'a HashMap<TemplateId, Template>,
    /// Whether errors say which message they are about.
    is_batch: bool,
}

impl<'a> Composer<'a> {
    fn compose_all(&self, emails: Vec<EmailRequest>, budget: &mut ComposeBudget) -> Result<Vec<Composed>> {
        let engine = LazyCell::default();
        let mut renderer = Renderer::new(&engine);
        let mut composed = Vec::with_capacity(emails.len());
        for (place, email) in emails.into_iter().enumerate() {
            let template = email.template_id.and_then(|id| self.templates.get(&id));
            let one = self.compose_one(email, template, &mut renderer);
            let one = one.and_then(|one| budget.add(one.message.len()).map(|()| one));
            composed.push(one.map_err(|error| locate(error, self.is_batch.then_some(place)))?);
        }
        Ok(composed)
    }

    fn compose_one<'e>(
        &self,
        mut email: EmailRequest,
        template: Option<&'e Template>,
        renderer: &mut Renderer<'e>,
    ) -> Result<Composed> {
        let named = self.links.of(&mut email)?;
        if let Some(template) = template {
            let has_body = email.text.is_some() || email.html.is_some();
            let mut checks = Checks::default();
            checks.require(!has_body, "template_id", "invalid", "give either template_id, or text and html");
            templates::check_data(&email.template_data, "template_data", &mut checks);
            checks.finish()?;
            let mut data = std::mem::take(&mut email.template_data);
            if let Some(named) = &named {
                named.add_url(&mut data)?;
            }
            email.fill(renderer.render(template, data)?);
        }
        let draft = email.resolve(&self.terms).map_err(ApiError::invalid)?;
        let Draft { mime, sender, recipients, annotations, release_at, expires_at } = draft;
        let MimeMessage { from, to, cc, reply_to, .. } = &mime;
        let mailboxes = from.iter().chain(to).chain(cc).chain(reply_to).map(|mailbox| &mailbox.address);
        let smtputf8 = mailboxes.chain(&recipients).any(Address::needs_smtputf8);
        let message = mime.compose().into();
        let list = named.map(|named| (named.list, named.id));
        Ok(Composed { message, smtputf8, sender, recipients, annotations, release_at, expires_at, list })
    }
}

/// Makes the unsubscribe links of the messages of a request.
struct Links<'a> {
    submission: &'a SubmissionService,
    submitter: &'a Submitter,
    now: Timestamp,
    request_id: RequestId,
}

/// The list that a message belongs to. A template may show the link, which contains the id of the message, so the id is made
/// before the message.
struct NamedList {
    list: ListName,
    id: MessageId,
    url: String,
}

impl Links<'_> {
    /// The list that the message names, with the link for its only recipient.
    fn of(&self, email: &mut EmailRequest) -> Result<Option<NamedList>> {
        let Some(UnsubscribeRequest { list }) = email.unsubscribe.take() else { return Ok(None) };
        let recipients = email.recipients();
        let recipient = match &recipients[..] {
            [] => return Err(ApiError::field("to", "required", RECIPIENT_REQUIRED)),
            [recipient] => recipient,
            several => return Err(self.reject(refuse_several_recipients(several.len()))),
        };
        let id = MessageId::generate(self.now);
        let url = self.submission.unsubscribe_url(LinkSender::new(self.submitter, id), &list, recipient);
        Ok(Some(NamedList { list, id, url: url.map_err(|refusal| self.reject(refusal))? }))
    }

    /// Records a refusal, as the later checks record theirs.
    fn reject(&self, refusal: Refusal) -> ApiError {
        let error = ApiError::from(refusal);
        if error.status().is_client_error() {
            self.submission.record_rejection(self.request_id, self.submitter, Stage::Data, &error.refusal);
        }
        error
    }
}

impl NamedList {
    /// Gives the link to the template.
    fn add_url(&self, data: &mut templates::Data) -> Result<()> {
        match data.insert(URL_VARIABLE.to_owned(), self.url.clone().into()) {
            None => Ok(()),
            Some(_) => Err(ApiError::field(
                format!("template_data.{URL_VARIABLE}"),
                "reserved",
                "the server sets this variable in a message with `unsubscribe`",
            )),
        }
    }
}

/// Adds the index of the message in the batch to an error.
pub fn locate(mut error: ApiError, place: Option<usize>) -> ApiError {
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

/// Limits the octets of the composed messages of a request, and reserves memory for them.
struct ComposeBudget {
    reservation: MemoryReservation,
    octets: u64,
    octets_max: u64,
}

impl ComposeBudget {
    fn add(&mut self, octets: usize) -> Result<()> {
        self.octets += octets as u64;
        if self.octets > self.octets_max {
            return Err(ApiError::new(
                RefusalCode::PayloadTooLarge,
                format!("the messages of this request exceed {} bytes in total", self.octets_max),
                "send fewer messages in one request; the operator sets the limit with api.send_body_max",
            ));
        }
        if self.reservation.grow_to(self.octets) { Ok(()) } else { Err(body::memory_exhausted()) }
    }
}
