//! The response headers, each described once.

use hyper::Method;
use serde_json::{Map, Value, json};

use crate::api::layers::auth::Access;
use crate::api::operation::{Operation, Route};

const REQUEST_ID: &str = "X-Request-Id";
const RETRY_AFTER: &str = "Retry-After";
const ETAG: &str = "ETag";
const REPLAYED: &str = "Idempotent-Replayed";
const LINK: &str = "Link";
const REQUESTS: [&str; 3] = ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"];
const SENDING: [&str; 3] = ["X-SendLimit-Limit", "X-SendLimit-Remaining", "X-SendLimit-Reset"];

/// The names of all headers that clients read.
pub fn names() -> impl Iterator<Item = &'static str> {
    let single = [REQUEST_ID, RETRY_AFTER, ETAG, REPLAYED, LINK];
    single.into_iter().chain(REQUESTS).chain(SENDING)
}

/// The headers as components of the document.
pub fn components() -> Value {
    let text = |text: &str| json!({ "description": text, "schema": { "type": "string" } });
    let number = |text: &str| json!({ "description": text, "schema": { "type": "integer", "minimum": 0 } });
    json!({
        REQUEST_ID: text("The id of the request, as in the server log."),
        RETRY_AFTER: number("Seconds to wait before a retry."),
        ETAG: text("The ETag of the object, for `If-Match` and `If-None-Match`."),
        REPLAYED: text("`true` if this is the stored response to an earlier request with the same `Idempotency-Key`."),
        LINK: text("With `rel=next`, the target of the rest of a CSV response, if there is any (RFC 8288)."),
        REQUESTS[0]: number("Requests per minute of the limit with the fewest requests remaining; absent without a limit."),
        REQUESTS[1]: number("Requests remaining in the current period."),
        REQUESTS[2]: number("Seconds until the period ends and the limit resets."),
        SENDING[0]: number("Recipients per minute or per day of the limit with the fewest recipients remaining; absent without a limit."),
        SENDING[1]: number("Recipients remaining in the current period."),
        SENDING[2]: number("Seconds until the period ends and the limit resets."),
    })
}

/// The media type of lists that continue with `Link`.
const CSV: &str = "text/csv";

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
    if operation.responses.iter().any(|(media_type, _)| *media_type == CSV) {
        names.push(LINK);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_is_described() {
        let described = components();
        let mut described: Vec<_> = described.as_object().unwrap().keys().map(String::as_str).collect();
        let mut all: Vec<_> = names().collect();
        described.sort_unstable();
        all.sort_unstable();
        assert_eq!(all, described);
    }
}
