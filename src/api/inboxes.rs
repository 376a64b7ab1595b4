//! Inboxes: addresses that a tenant may send trial mail to, once their owners confirmed them.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mail::{Address, Timestamp};
use crate::model::{InboxId, Scope, TenantId};
use crate::store::{Inbox, InboxConfirmation, InboxFilter, Inboxes, NewInbox};
use crate::submission::Submitter;

use super::{Access, ApiError, ApiResponse, Deleted, List, Operation, RequestContext, Resource, Result};

/// The digits of Crockford's base32, which have no look-alikes.
const CODE_ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CODE_CHARS: usize = 8;
const CODE_CHARS_MAX: usize = 64;
const SCOPE: Scope = Scope::DomainsManage;

/// The operations of inboxes.
pub fn resource() -> Resource {
    let text = "Addresses for trial mail: a live key may send from the sandbox domain to the confirmed inboxes of its tenant, at most 50 messages a day.";
    Resource::new("Inboxes", text, Access::Scope(SCOPE))
        .id::<InboxId>("The inbox.")
        .operations([
            Operation::get("/v1/inboxes", "list_inboxes", list)
                .summary("List inboxes")
                .tenant_filter()
                .query::<Address>("address", "Only the object with this address.")
                .pages::<InboxId, InboxView>("Inboxes."),
            Operation::post("/v1/inboxes", "add_inbox", add)
                .describe("Add an inbox", "Sends a code to the address. The same address again gets a new code, unless it is confirmed. A tenant has at most 5 inboxes and 10 such mails a day.")
                .takes::<Add>(r#"{"address": "someone@example.org"}"#)
                .creates::<InboxView>("The inbox.")
                .may_run_again(),
            Operation::get("/v1/inboxes/{id}", "get_inbox", get)
                .summary("Get an inbox")
                .returns::<InboxView>("The inbox."),
            Operation::post("/v1/inboxes/{id}/confirm", "confirm_inbox", confirm)
                .describe("Confirm an inbox", "Takes the code that was sent to the address. It is valid for a day, and for five attempts.")
                .takes::<Confirm>(r#"{"code": "7K3M-Q9TX"}"#)
                .returns::<InboxView>("The confirmed inbox.")
                .may_run_again()
                .response_octets(0, 4 * 1024),
            Operation::delete("/v1/inboxes/{id}", "delete_inbox", delete)
                .describe("Delete an inbox", "The server refuses trial mail to it from now on.")
                .returns::<Deleted>("Deleted."),
        ])
}

/// An inbox to add.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "InboxCreate")]
pub struct Add {
    /// The address.
    address: Address,
    /// Owner. Default with a platform key: the tenant `default`.
    tenant_id: Option<TenantId>,
}

/// The confirmation of an inbox.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "InboxConfirm")]
pub struct Confirm {
    /// The code of the confirmation mail, with or without the hyphen.
    code: String,
}

/// An address for trial mail.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Inbox")]
pub struct InboxView {
    /// Its id.
    id: InboxId,
    /// Always `inbox`.
    #[schemars(extend("const" = "inbox"))]
    object: &'static str,
    /// Owner.
    tenant_id: TenantId,
    /// The address.
    address: Address,
    /// `pending` until the code is given, then `confirmed`.
    status: InboxStatus,
    /// Creation time.
    created_at: Timestamp,
    /// Time of the confirmation.
    confirmed_at: Option<Timestamp>,
    /// Expiry of the code of the last confirmation mail.
    code_expires_at: Option<Timestamp>,
}

/// Whether the owner of an inbox confirmed it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InboxStatus {
    /// Not yet.
    Pending,
    /// Trial mail may be sent to it.
    Confirmed,
}

impl From<Inbox> for InboxView {
    fn from(inbox: Inbox) -> Self {
        Self {
            id: inbox.id,
            object: "inbox",
            tenant_id: inbox.tenant_id,
            address: inbox.address,
            status: if inbox.confirmed_at.is_some() { InboxStatus::Confirmed } else { InboxStatus::Pending },
            created_at: inbox.created_at,
            confirmed_at: inbox.confirmed_at,
            code_expires_at: inbox.code_expires_at,
        }
    }
}

async fn add(call: RequestContext) -> Result<ApiResponse> {
    let Add { address, tenant_id } = call.json()?;
    let tenant = call.owning_tenant(tenant_id, "inbox").await?;
    let submitter = Arc::new(Submitter {
        secret: None,
        tenant,
        key: call.caller.key.clone(),
        client_address: call.origin.client,
        scope: SCOPE,
    });
    let submission = &call.api.submission;
    submission.admit_recipient(&submitter, &address, true, None).await?;
    let code = generate_code();
    let new = NewInbox { tenant_id: submitter.tenant.id, address, code: code.clone() };
    let inbox = call.store().add_inbox(new, call.now).await?;
    if inbox.confirmed_at.is_none() {
        let code = format!("{}-{}", &code[..CODE_CHARS / 2], &code[CODE_CHARS / 2..]);
        submission.send_confirmation(submitter, &inbox.address, &code).await?;
    }
    ApiResponse::created(&InboxView::from(inbox))
}

fn generate_code() -> String {
    let digit = |_| char::from(CODE_ALPHABET[usize::from(rand::random::<u8>()) % CODE_ALPHABET.len()]);
    (0..CODE_CHARS).map(digit).collect()
}

/// A code as people type it.
fn read_code(text: &str) -> String {
    let digits = text.chars().take(CODE_CHARS_MAX).filter(|c| !c.is_whitespace() && *c != '-');
    let digit = |c: char| match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    digits.map(digit).collect()
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let tenant_id = call.listed_tenant().await?;
    let request = call.query.page::<InboxId>();
    let folded = call.query.value_with_plus("address", Address::parse).map(|address| address.folded());
    call.query.finish()?;
    let page = call.store().list_inboxes(InboxFilter { tenant_id, folded }, request.clone()).await?;
    ApiResponse::ok(&List::page(page, &request, |inbox| inbox.id.to_string(), InboxView::from))
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    let found = call.store().inbox(call.scope(), call.id("inbox")?).await?;
    ApiResponse::ok(&InboxView::from(found.ok_or_else(|| ApiError::not_found("inbox"))?))
}

async fn confirm(call: RequestContext) -> Result<ApiResponse> {
    let id: InboxId = call.id("inbox")?;
    let missing = || ApiError::not_found("inbox");
    call.store().inbox(call.scope(), id).await?.ok_or_else(missing)?;
    let Confirm { code } = call.json()?;
    let confirmed = call.store().confirm_inbox(call.scope(), id, read_code(&code), call.now).await?;
    match confirmed.ok_or_else(missing)? {
        InboxConfirmation::Confirmed(inbox) => ApiResponse::ok(&InboxView::from(inbox)),
        InboxConfirmation::WrongCode { attempts_left } => {
            let message = format!("this is not the code of the last mail; {attempts_left} attempts are left");
            Err(ApiError::field("code", "invalid", message))
        }
        InboxConfirmation::NoCode => {
            let message =
                "the code expired or was tried too often: send POST /v1/inboxes again for a new one";
            Err(ApiError::field("code", "expired", message))
        }
    }
}

async fn delete(call: RequestContext) -> Result<ApiResponse> {
    let id: InboxId = call.id("inbox")?;
    if !call.store().delete_inbox(call.scope(), id).await? {
        return Err(ApiError::not_found("inbox"));
    }
    ApiResponse::deleted("inbox", id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = generate_code();
        assert_eq!((code.len(), read_code(&code)), (CODE_CHARS, code.clone()));
        let typed = format!(" {}-{} ", &code[..4], &code[4..]).to_lowercase();
        assert_eq!(read_code(&typed), code);
        assert_eq!(read_code("oOiIlL"), "001111");
        assert_eq!(read_code(&"1".repeat(1000)).len(), CODE_CHARS_MAX);
    }
}
