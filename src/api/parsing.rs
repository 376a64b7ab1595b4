//! What reads the octets of a request before a handler does anything with them: bodies, query strings and header fields. Tests
//! feed it any octets.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::emails::send::BatchRequest;
use super::{Result, domains, json, keys, suppressions, templates, tenants, webhooks};

pub use super::emails::draft::{Draft, EmailRequest, Terms};
pub use super::emails::mailbox::{Mailbox, Mailboxes};
pub use super::emails::parts::view as view_parts;
pub use super::error::FieldError;
pub use super::etag::ETag;
pub use super::json::parse_all as parse_body;
pub use super::layers::idempotency::read_name as read_idempotency_key;
pub use super::page::{PARAMETERS as LIST_PARAMETERS, Query};

/// How handlers parse the bodies of requests that create or change something.
pub const BODY_CHECKS: &[fn(&Bytes) -> Result<()>] = &[
    check::<EmailRequest>,
    check::<BatchRequest>,
    check::<tenants::views::Create>,
    check::<tenants::views::Update>,
    check::<domains::Create>,
    check::<domains::Update>,
    check::<keys::Create>,
    check::<keys::Update>,
    check::<suppressions::Create>,
    check::<suppressions::Batch>,
    check::<templates::CreateTemplate>,
    check::<templates::UpdateTemplate>,
    check::<webhooks::Create>,
    check::<webhooks::Update>,
];

fn check<T: DeserializeOwned + JsonSchema>(body: &Bytes) -> Result<()> {
    json::parse_all::<T>(body).map(drop)
}
