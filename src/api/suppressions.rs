//! Suppressions: addresses that receive no mail.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mail::{Address, Timestamp};
use crate::model::{
    Environment, ListName, MessageId, ReportId, Scope, SuppressedMail, SuppressionId, SuppressionReason,
    TenantId,
};
use crate::store::{Directory, NewSuppression, Suppression, SuppressionFilter};

use super::schema::Schemas;
use super::{
    Access, ApiError, ApiResponse, Deleted, FieldError, List, ListedOwner, Operation, RequestContext,
    Resource, Result,
};

const EVIDENCE_CHARS_MAX: usize = 1024;
const BATCH_MAX: usize = 1000;

/// The operations of suppressions.
pub fn resource() -> Resource {
    let access = Access::Scope(Scope::SuppressionsManage);
    Resource::new("Suppressions", "Addresses that the server does not send to, for each environment.", access)
        .separates_environments()
        .id::<SuppressionId>("The suppression.")
        .operations([
            Operation::get("/v1/suppressions", "list_suppressions", list)
                .summary("List suppressions")
                .owner_filter()
                .environment_filter()
                .query::<Address>("address", "Only the object with this address.")
                .query::<SuppressionReason>("reason", "Only suppressions with this reason.")
                .query_as("list", "Only suppressions of mail of this list; `*` for those of every list.", list_schema)
                .pages::<SuppressionId, SuppressionView>("Suppressions."),
            Operation::post("/v1/suppressions", "suppress", create)
                .describe(
                    "Suppress an address",
                    "If the address is suppressed already for the same mail, the request replaces its reason.",
                )
                .takes::<Create>(r#"{"address": "someone@example.org", "evidence": "asked by telephone"}"#)
                .creates::<SuppressionView>("The suppression."),
            Operation::post("/v1/suppressions/batch", "suppress_many", create_batch)
                .describe("Suppress up to 1000 addresses", "If any item is invalid, the server accepts none.")
                .takes::<Batch>(r#"{"suppressions": [{"address": "ann@example.org", "reason": "complaint"}, {"address": "bob@example.org"}]}"#)
                .creates::<List<SuppressionView>>("The suppressions, in the order of the request.")
                .response_octets(2, 512 * 1024),
            Operation::get("/v1/suppressions/{id}", "get_suppression", get)
                .summary("Get a suppression")
                .returns::<SuppressionView>("The suppression."),
            Operation::delete("/v1/suppressions/{id}", "lift_suppression", lift)
                .describe("Delete a suppression", "Mail to the address is accepted again.")
                .returns::<Deleted>("Deleted."),
        ])
}

/// An address to suppress.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SuppressionCreate")]
pub struct Create {
    /// The address.
    address: Address,
    /// Tenant. With a platform key, `null` or absent means all tenants.
    tenant_id: Option<TenantId>,
    /// `live` or `test`: the mail that it stops. Default: that of the key.
    environment: Option<Environment>,
    /// Stops only mail of this list; `*` for mail of every list. `null` or absent means all mail.
    #[schemars(schema_with = "optional_list_schema")]
    list: Option<String>,
    /// The reason. Default: `manual`.
    reason: Option<SuppressionReason>,
    /// Evidence, at most 1024 characters.
    evidence: Option<String>,
    /// Expiry, after which it is deleted; `null` for none.
    expires_at: Option<Timestamp>,
}

/// Several addresses to suppress.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SuppressionBatch")]
pub struct Batch {
    /// From 1 to 1000.
    suppressions: Vec<Create>,
}

/// A suppressed address.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Suppression")]
pub struct SuppressionView {
    /// Its id.
    id: SuppressionId,
    /// Always `suppression`.
    #[schemars(extend("const" = "suppression"))]
    object: &'static str,
    /// Tenant; `null` means all tenants.
    tenant_id: Option<TenantId>,
    /// `live` or `test`: the mail that it stops.
    environment: Environment,
    /// The address.
    address: String,
    /// The list whose mail it stops; `*` for mail of every list, `null` for all mail.
    list: Option<String>,
    /// The reason.
    reason: SuppressionReason,
    /// Evidence, at most 1024 characters.
    evidence: Option<String>,
    /// The report that caused it; it may be removed already.
    report_id: Option<ReportId>,
    /// The message that caused it; it may be removed already.
    message_id: Option<MessageId>,
    /// Start time.
    created_at: Timestamp,
    /// Expiry; `null` for none.
    expires_at: Option<Timestamp>,
    /// Whether it lasts 48 hours only, because the receiving site reports many addresses as gone that took mail a short time
    /// ago.
    provisional: bool,
}

impl From<Suppression> for SuppressionView {
    fn from(suppression: Suppression) -> Self {
        Self {
            id: suppression.id,
            object: "suppression",
            tenant_id: suppression.tenant_id,
            environment: suppression.environment,
            address: suppression.address,
            list: Some(suppression.mail.to_string()).filter(|list| !list.is_empty()),
            reason: suppression.reason,
            evidence: suppression.evidence,
            report_id: suppression.report_id,
            message_id: suppression.message_id,
            created_at: suppression.created_at,
            expires_at: suppression.expires_at,
            provisional: suppression.provisional,
        }
    }
}

/// `*`, or the name of a list.
fn read_list(text: &str) -> std::result::Result<SuppressedMail, String> {
    match text.parse() {
        Ok(SuppressedMail::All) => Err("give the name of a list, or `*`".to_owned()),
        Ok(mail) => Ok(mail),
        Err(error) => Err(format!("{error}; `*` is every list")),
    }
}

/// The name of a list, or `*`.
fn list_pattern() -> String {
    format!(r"^(\*|{})$", ListName::PATTERN)
}

fn list_schema(_: &mut Schemas) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "pattern": list_pattern(), "examples": ["news"] })
}

fn optional_list_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": ["string", "null"], "pattern": list_pattern(), "examples": ["news"] })
}

/// Validates a suppression. `prefix` is its path in the body.
fn find_faults(body: &Create, prefix: &str, now: Timestamp) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if body.evidence.as_ref().is_some_and(|text| text.chars().count() > EVIDENCE_CHARS_MAX) {
        let message = format!("limit exceeded: {EVIDENCE_CHARS_MAX} characters");
        faults.push(FieldError::new(format!("{prefix}evidence"), "too_long", message));
    }
    if let Some(list) = &body.list
        && let Err(fault) = read_list(list)
    {
        faults.push(FieldError::new(format!("{prefix}list"), "invalid", fault));
    }
    if body.expires_at.is_some_and(|at| at <= now) {
        faults.push(FieldError::new(format!("{prefix}expires_at"), "invalid", "this must be in the future"));
    }
    faults
}

fn prepare(call: &RequestContext, body: Create, owner: Option<TenantId>) -> Result<NewSuppression> {
    let environment = call.environment_of_new(body.environment)?;
    let reason = body.reason.unwrap_or(SuppressionReason::Manual);
    let list = body.list.as_deref().map(read_list).transpose();
    let mail = list.map_err(|fault| ApiError::field("list", "invalid", fault))?;
    Ok(NewSuppression {
        mail: mail.unwrap_or_default(),
        evidence: body.evidence,
        expires_at: body.expires_at,
        ..NewSuppression::of_all_mail(owner, environment, body.address, reason)
    })
}

async fn create(call: RequestContext) -> Result<ApiResponse> {
    let body: Create = call.json()?;
    let faults = find_faults(&body, "", call.now);
    if !faults.is_empty() {
        return Err(ApiError::invalid(faults));
    }
    let owner = call.owner(body.tenant_id).await?;
    let new = prepare(&call, body, owner)?;
    let respond = |written: &Vec<Suppression>| {
        let created = written.first().ok_or_else(|| ApiError::internal("the suppression was not created"))?;
        ApiResponse::created(&SuppressionView::from(created.clone()))
    };
    call.change(respond, async |store| Ok(store.suppress_all(vec![new], call.now).await?)).await
}

/// `POST /v1/suppressions/batch`: all items or none.
async fn create_batch(call: RequestContext) -> Result<ApiResponse> {
    let Batch { suppressions } = call.json()?;
    if suppressions.is_empty() || suppressions.len() > BATCH_MAX {
        let message = format!("give 1 to {BATCH_MAX} items");
        return Err(ApiError::field("suppressions", "invalid", message));
    }
    let prefix_of = |index| format!("suppressions[{index}].");
    let entries = suppressions.iter().enumerate();
    let mut faults: Vec<_> =
        entries.flat_map(|(index, body)| find_faults(body, &prefix_of(index), call.now)).collect();
    if !faults.is_empty() {
        // Limits the size of the response.
        faults.truncate(100);
        return Err(ApiError::invalid(faults));
    }
    // The items of a batch have few owners.
    let mut owners = HashMap::new();
    for named in suppressions.iter().map(|body| body.tenant_id) {
        if let Entry::Vacant(unknown) = owners.entry(named) {
            unknown.insert(call.owner(named).await?);
        }
    }
    let owner_of = |body: &Create| owners.get(&body.tenant_id).copied().flatten();
    let prepared = suppressions.into_iter().map(|body| {
        let owner = owner_of(&body);
        prepare(&call, body, owner)
    });
    let prepared = prepared.collect::<Result<Vec<_>>>()?;
    let respond = |written: &Vec<Suppression>| {
        ApiResponse::created(&List::whole(written.iter().cloned().map(SuppressionView::from).collect()))
    };
    call.change(respond, async |store| Ok(store.suppress_all(prepared, call.now).await?)).await
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let ListedOwner { tenant_id, of_platform } = call.listed_owner().await?;
    let request = call.query.page::<SuppressionId>();
    let address = call.query.value_with_plus("address", Address::parse).map(|address| address.folded());
    let environment = call.listed_environment();
    let mail = call.query.value_by("list", read_list);
    let filter = SuppressionFilter {
        tenant_id,
        of_platform,
        environment,
        address,
        reason: call.query.value("reason"),
        mail,
    };
    call.query.finish()?;
    let page = call.store().list_suppressions(filter, request.clone()).await?;
    ApiResponse::ok(&List::page(page, &request, |s| s.id.to_string(), SuppressionView::from))
}

async fn find(call: &RequestContext) -> Result<Suppression> {
    let found = call.store().suppression(call.scope(), call.id("suppression")?).await?;
    let found = found.filter(|suppression| call.caller.sees(suppression.environment));
    found.ok_or_else(|| ApiError::not_found("suppression"))
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    ApiResponse::ok(&SuppressionView::from(find(&call).await?))
}

async fn lift(call: RequestContext) -> Result<ApiResponse> {
    let id = find(&call).await?.id;
    if !call.store().lift_suppression(call.scope(), id, call.now).await? {
        return Err(ApiError::not_found("suppression"));
    }
    ApiResponse::deleted("suppression", id)
}
