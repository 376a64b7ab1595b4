//! The response headers, each described once.

use hyper::Method;
use serde_json::{Map, Value, json};

use crate::api::layers::auth::Access;
use crate::api::operation::{Operation, Route};

const REQUEST_ID: &str = "X-Request-Id";
const RETRY_AFTER: &str = "Retry-After";
const ETAG: &str = "ETag";
const REPLAYED: &str = "Idempotent-Replayed";
const REQUESTS: [&str; 3] = ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"];
const SENDING: [&str; 3] = ["X-SendLimit-Limit", "X-SendLimit-Remaining", "X-SendLimit-Reset"];

/// The headers as components of the document.
pub fn components() -> Value {
    let text = |text: &str| json!({ "description": text, "schema": { "type": "string" } });
    let number = |text: &str| json!({ "description": text, "schema": { "type": "integer", "minimum": 0 } });
    json!({
        REQUEST_ID: text("The id of the request, as in the server log."),
        RETRY_AFTER: number("Seconds to wait before a retry."),
        ETAG: text("The ETag of the object, for `If-Match` and `If-None-Match`."),
        REPLAYED: text("`true` if this is the stored response to an earlier request with the same `Idempotency-Key`."),
        REQUESTS[0]: number("Requests per minute of the limit with the fewest requests remaining; absent without a limit."),
        REQUESTS[1]: number("Requests remaining in the current period."),
        REQUESTS[2]: number("Seconds until the period ends and the limit resets."),
        SENDING[0]: number("Recipients per minute or per day of the limit with the fewest recipients remaining; absent without a limit."),
        SENDING[1]: number("Recipients remaining in the current period."),
        SENDING[2]: number("Seconds until the period ends and the limit resets."),
    })
}

/// The headers of a successful response.
pub fn of_success(route: &Route, operation: &Operation) -> Value {
    let mut names = vec![REQUEST_ID];
    if operation.access() != Access::Public {
        names.extend(REQUESTS);
    }
    if operation.is_sending {
        names.extend(SENDING);
    }
    if operation.is_repeatable() {
        names.push(REPLAYED);
    }
    if route.object().is_some() && operation.method != Method::DELETE {
        names.push(ETAG);
    }
    refer(&names)
}

/// The headers of an error response.
pub fn of_error() -> Value {
    refer(&[&[REQUEST_ID, RETRY_AFTER][..], &REQUESTS, &SENDING].concat())
}

fn refer(names: &[&str]) -> Value {
    let reference =
        |name: &&str| ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }));
    Value::Object(names.iter().map(reference).collect::<Map<_, _>>())
}
