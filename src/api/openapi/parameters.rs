//! The parameters of an operation: ids in its path, what its query takes, and headers.

use hyper::Method;
use schemars::Schema;
use serde_json::{Value, json};

use super::Schemas;
use super::describe::{Description, SchemaOf};
use crate::api::page;
use crate::api::route::{Endpoint, Operation, Route};
use crate::mail::{Address, DomainName, Timestamp};
use crate::model::{
    DeliveryId, DeliveryState, DomainStatus, Environment, EventKind, MessageId, SuppressionReason, TenantId,
    TenantStatus, UsageInterval, Verification, WebhookDeliveryState, WebhookStatus,
};

/// All of them.
pub fn of(
    route: &Route,
    operation: &Operation,
    description: &Description,
    schemas: &mut Schemas,
) -> Vec<Value> {
    let mut all = Vec::new();
    for (name, text, schema) in [
        ("tenant_id", "The tenant.", Schemas::request::<TenantId> as SchemaOf),
        ("id", description.id_text, description.id),
    ] {
        if route.path.contains(&format!("{{{name}}}")) {
            let schema = schema(schemas);
            let parameter = json!({ "name": name, "in": "path", "required": true, "description": text, "schema": schema });
            all.push(parameter);
        }
    }
    let of_lists = if operation.is_list { page::PARAMETERS } else { &[] };
    for name in operation.parameters.iter().chain(of_lists) {
        // Whose objects they are is in the path already.
        if *name == "tenant_id" && route.path.contains("{tenant_id}") {
            continue;
        }
        if let Some((text, schema)) = of_query(operation.endpoint, name, description) {
            let schema = schema(schemas);
            all.push(json!({ "name": name, "in": "query", "description": text, "schema": schema }));
        }
    }
    for (name, text, schema) in headers(operation) {
        let schema = schema(schemas);
        all.push(json!({ "name": name, "in": "header", "description": text, "schema": schema }));
    }
    all
}

/// The text and the schema of a parameter of a query.
pub fn of_query(
    endpoint: Endpoint,
    name: &str,
    description: &Description,
) -> Option<(&'static str, SchemaOf)> {
    use Endpoint as E;
    let found: (&str, SchemaOf) = match (endpoint, name) {
        (_, "limit") => ("How many are wanted.", limit),
        (E::ShowQueue, "after") => ("The `next_cursor` of the page before.", Schemas::request::<String>),
        (_, "after") => ("Only what stands behind this object: older ones.", description.cursor),
        (_, "before") => ("Only what stands in front of this object: newer ones.", description.cursor),
        (_, "created_after") => ("Only what was made after this time.", Schemas::request::<Timestamp>),
        (_, "created_before") => ("Only what was made before this time.", Schemas::request::<Timestamp>),
        (_, "tenant_id") => ("Only what is this tenant's.", Schemas::request::<TenantId>),
        (_, "dry_run") => ("Only count what would go.", Schemas::request::<bool>),
        (E::ListTemplates, "name") => ("Only those of this name.", Schemas::request::<String>),
        (_, "name") => ("Only those of this name.", Schemas::request::<DomainName>),
        (_, "verification") => ("Only those that are proved so.", Schemas::request::<Verification>),
        (_, "slug") => ("Only the one with this slug.", Schemas::request::<String>),
        (_, "external_ref") => ("Only those with this reference.", Schemas::request::<String>),
        (_, "url") => ("Only those with exactly this URL.", Schemas::request::<String>),
        (E::ListTenants, "status") => ("Only those of this status.", Schemas::request::<TenantStatus>),
        (_, "environment") => ("Only those of this environment.", Schemas::request::<Environment>),
        (E::ListDomains, "status") => ("Only those of this status.", Schemas::request::<DomainStatus>),
        (E::ListEmails, "status") => {
            ("Only those with a recipient of this status.", Schemas::request::<DeliveryState>)
        }
        (E::ListWebhooks, "status") => ("Only those of this status.", Schemas::request::<WebhookStatus>),
        (E::ListWebhookDeliveries, "status") => {
            ("Only those of this status.", Schemas::request::<WebhookDeliveryState>)
        }
        (_, "address") => ("Only the one of this address.", Schemas::request::<Address>),
        (_, "reason") => ("Only those for this reason.", Schemas::request::<SuppressionReason>),
        (E::ListEmails, "to") => ("Only those to this recipient.", Schemas::request::<Address>),
        (E::ListEmails, "from") => {
            ("Only those with this reverse path; `<>` for none.", Schemas::request::<String>)
        }
        (E::ListEmails, "subject") => (
            "Only those whose subject has all these words; the last may be the beginning of one, of two letters or more.",
            Schemas::request::<String>,
        ),
        (E::ListEmails, "tag") => ("Only those with this tag.", Schemas::request::<String>),
        (E::ListEmails, "message_id") => {
            ("Only those with this Message-ID field.", Schemas::request::<String>)
        }
        (_, "message_id") => ("Only what is about this message.", Schemas::request::<MessageId>),
        (_, "delivery_id") => ("Only what is about this recipient.", Schemas::request::<DeliveryId>),
        (_, "period") => ("The month, like `2026-01`; this one if absent.", month),
        (E::GetUsageSeries, "from") => (
            "Where it begins: a date or a time; 30 days before the end if absent.",
            Schemas::request::<String>,
        ),
        (E::GetUsageSeries, "to") => {
            ("Where it ends: a date or a time; now if absent.", Schemas::request::<String>)
        }
        (_, "interval") => ("How long each part is; `day` if absent.", Schemas::request::<UsageInterval>),
        (_, "type") => ("Only those of this type.", Schemas::request::<EventKind>),
        (_, "destination") => {
            ("Only mail for this domain, or for this address literal.", Schemas::request::<String>)
        }
        _ => return None,
    };
    Some(found)
}

fn headers(operation: &Operation) -> Vec<(&'static str, &'static str, SchemaOf)> {
    let mut headers: Vec<(_, _, SchemaOf)> = Vec::new();
    if operation.method == Method::POST && !operation.endpoint.changes_nothing() {
        let text = "Names the request, so that its repetition is not done again but answered as it was.";
        headers.push(("Idempotency-Key", text, idempotency_key));
    }
    if operation.endpoint == Endpoint::ListEvents {
        let text = "With `Accept: text/event-stream`: go on behind this event. What an `id:` line said, or the id of an event.";
        headers.push(("Last-Event-ID", text, last_event_id));
    }
    headers
}

fn limit(_: &mut Schemas) -> Schema {
    schemars::json_schema!({
        "type": "integer",
        "minimum": 1,
        "maximum": page::LIMIT_MAX,
        "default": page::LIMIT_DEFAULT,
    })
}

fn month(_: &mut Schemas) -> Schema {
    schemars::json_schema!({ "type": "string", "pattern": "^[0-9]{4}-(0[1-9]|1[0-2])$" })
}

fn last_event_id(_: &mut Schemas) -> Schema {
    schemars::json_schema!({ "type": "string", "pattern": "^(cur|evt)_[0-7][0-9A-HJKMNP-TV-Z]{25}$" })
}

fn idempotency_key(_: &mut Schemas) -> Schema {
    schemars::json_schema!({ "type": "string", "minLength": 1, "maxLength": 255 })
}
