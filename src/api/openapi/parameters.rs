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
        (_, "limit") => ("Objects per page.", limit),
        (E::ShowQueue, "after") => ("`next_cursor` of the previous page.", Schemas::request::<String>),
        (_, "after") => ("Only objects after this one in the list, which are older.", description.cursor),
        (_, "before") => ("Only objects before this one in the list, which are newer.", description.cursor),
        (_, "created_after") => ("Only objects created after this time.", Schemas::request::<Timestamp>),
        (_, "created_before") => ("Only objects created before this time.", Schemas::request::<Timestamp>),
        (_, "tenant_id") => ("Only objects of this tenant.", Schemas::request::<TenantId>),
        (_, "dry_run") => ("Count what would be deleted, without deleting it.", Schemas::request::<bool>),
        (E::ListTemplates, "name") => ("Only objects with this name.", Schemas::request::<String>),
        (_, "name") => ("Only objects with this name.", Schemas::request::<DomainName>),
        (_, "verification") => {
            ("Only domains with this verification method.", Schemas::request::<Verification>)
        }
        (_, "slug") => ("Only the tenant with this slug.", Schemas::request::<String>),
        (_, "external_ref") => ("Only objects with this external reference.", Schemas::request::<String>),
        (_, "url") => ("Only webhooks with exactly this URL.", Schemas::request::<String>),
        (E::ListTenants, "status") => ("Only objects with this status.", Schemas::request::<TenantStatus>),
        (_, "environment") => ("Only objects of this environment.", Schemas::request::<Environment>),
        (E::ListDomains, "status") => ("Only objects with this status.", Schemas::request::<DomainStatus>),
        (E::ListEmails, "status") => {
            ("Only messages with a delivery of this status.", Schemas::request::<DeliveryState>)
        }
        (E::ListWebhooks, "status") => ("Only objects with this status.", Schemas::request::<WebhookStatus>),
        (E::ListWebhookDeliveries, "status") => {
            ("Only objects with this status.", Schemas::request::<WebhookDeliveryState>)
        }
        (_, "address") => ("Only the object with this address.", Schemas::request::<Address>),
        (_, "reason") => ("Only suppressions with this reason.", Schemas::request::<SuppressionReason>),
        (E::ListEmails, "to") => ("Only messages to this recipient.", Schemas::request::<Address>),
        (E::ListEmails, "from") => (
            "Only messages with this reverse path; `<>` is the null reverse path.",
            Schemas::request::<String>,
        ),
        (E::ListEmails, "subject") => (
            "Only messages whose subject contains all these words. The last may be a prefix of at least two letters.",
            Schemas::request::<String>,
        ),
        (E::ListEmails, "tag") => ("Only messages with this tag.", Schemas::request::<String>),
        (E::ListEmails, "message_id") => ("Only messages with this Message-ID.", Schemas::request::<String>),
        (_, "message_id") => ("Only objects about this message.", Schemas::request::<MessageId>),
        (_, "delivery_id") => ("Only objects about this delivery.", Schemas::request::<DeliveryId>),
        (_, "period") => ("The month, such as `2026-01`. Default: the current month.", month),
        (E::GetUsageSeries, "from") => {
            ("Start: a date or a time. Default: 30 days before the end.", Schemas::request::<String>)
        }
        (E::GetUsageSeries, "to") => ("End: a date or a time. Default: now.", Schemas::request::<String>),
        (_, "interval") => ("Length of each interval. Default: `day`.", Schemas::request::<UsageInterval>),
        (_, "type") => ("Only events of this type.", Schemas::request::<EventKind>),
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
        let text = "Identifies the request. A repetition with the same key is not executed again and gets the stored response.";
        headers.push(("Idempotency-Key", text, idempotency_key));
    }
    if operation.endpoint == Endpoint::ListEvents {
        let text = "With `Accept: text/event-stream`: continue after this position, the value of an `id:` line, or after the event with this id.";
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
