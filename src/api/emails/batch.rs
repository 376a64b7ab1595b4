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
use super::draft::{Draft, EmailRequest, Terms};
use crate::api::body;
use crate::api::json::{self, Checks};
use crate::api::templates::{self, Renderer, stack};
use crate::api::{ApiError, FieldError, RequestContext, Result};
use crate::limits::memory_budget::MemoryReservation;
use crate::mail::{Address, Timestamp};
use crate::model::{Refusal, RefusalCode, TemplateId};
use crate::store::{Annotations, Directory, Template, Tenant};

/// A body up to this size is parsed on the async thread: a handover to a blocking thread would take longer.
const READ_AT_ONCE_OCTETS_MAX: usize = 64 * 1024;

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
    tenant: Arc<Tenant>,
    emails: Vec<EmailRequest>,
    is_batch: bool,
) -> Result<Vec<Composed>> {
    let api = call.api.clone();
    let empty = api.memory.reserve(call.scope());
    let reservation = std::mem::replace(&mut call.reservation, empty);
    let mut budget =
        ComposeBudget { reservation, octets: 0, octets_max: api.settings.send_body_max.as_u64() };
    let templates = find_templates(call, &tenant, &emails, is_batch, &mut budget).await?;
    let now = call.now;
    let work = move || {
        let terms = Terms {
            defaults: &tenant.settings,
            limits: &api.sending,
            lifetime_max: api.message_lifetime_max,
            now,
        };
        let compose = || compose_all(emails, &templates, &terms, &mut budget);
        let composed = match templates.is_empty() {
            true => compose(),
            false => stack::run(compose).map_err(ApiError::internal)?,
        };
        let composed = composed.map_err(|(place, error)| locate(error, is_batch.then_some(place)))?;
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

fn compose_all(
    emails: Vec<EmailRequest>,
    templates: &HashMap<TemplateId, Template>,
    terms: &Terms<'_>,
    budget: &mut ComposeBudget,
) -> std::result::Result<Vec<Composed>, (usize, ApiError)> {
    let engine = LazyCell::default();
    let mut renderer = Renderer::new(&engine);
    let mut composed = Vec::with_capacity(emails.len());
    for (place, email) in emails.into_iter().enumerate() {
        let template = email.template_id.and_then(|id| templates.get(&id));
        let one = compose_one(email, template, &mut renderer, terms);
        let one = one.and_then(|one| budget.add(one.message.len()).map(|()| one));
        composed.push(one.map_err(|error| (place, error))?);
    }
    Ok(composed)
}

fn compose_one<'e>(
    mut email: EmailRequest,
    template: Option<&'e Template>,
    renderer: &mut Renderer<'e>,
    terms: &Terms<'_>,
) -> Result<Composed> {
    if let Some(template) = template {
        let has_body = email.text.is_some() || email.html.is_some();
        let mut checks = Checks::default();
        checks.require(!has_body, "template_id", "invalid", "give either template_id, or text and html");
        templates::check_data(&email.template_data, "template_data", &mut checks);
        checks.finish()?;
        let data = std::mem::take(&mut email.template_data);
        email.fill(renderer.render(template, data)?);
    }
    let draft = email.resolve(terms).map_err(ApiError::invalid)?;
    let Draft { mime, sender, recipients, annotations, release_at, expires_at } = draft;
    let MimeMessage { from, to, cc, reply_to, .. } = &mime;
    let named = from.iter().chain(to).chain(cc).chain(reply_to).map(|mailbox| &mailbox.address);
    let smtputf8 = named.chain(&recipients).any(Address::needs_smtputf8);
    let message = mime.compose().into();
    Ok(Composed { message, smtputf8, sender, recipients, annotations, release_at, expires_at })
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
