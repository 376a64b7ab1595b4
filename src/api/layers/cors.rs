//! Cross-origin resource sharing for the configured origins (<https://fetch.spec.whatwg.org/#http-cors-protocol>). Scripts
//! send the key in a header. The API has no cookies, so it never allows credentials.

use std::sync::{Arc, LazyLock};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::Method;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap,
    HeaderValue, ORIGIN, VARY,
};

use crate::api::openapi::headers;
use crate::api::{Api, ApiResponse};

const METHODS: &str = "GET, HEAD, POST, PATCH, PUT, DELETE";
const REQUEST_HEADERS: &str =
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID";
/// Scripts may read the described headers.
static RESPONSE_HEADERS: LazyLock<Option<HeaderValue>> =
    LazyLock::new(|| HeaderValue::try_from(headers::names().collect::<Vec<_>>().join(", ")).ok());
/// How long a browser may cache a preflight response: the maximum of most browsers.
const MAX_AGE_S: &str = "7200";

/// Responds to preflight requests of allowed origins, and adds the CORS headers to all other responses for them.
pub async fn layer(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let Some(origin) = allowed_origin(request.headers(), &api.settings.cors_origins) else {
        return next.run(request).await;
    };
    let mut response = if is_preflight(&request) { preflight_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.extend(RESPONSE_HEADERS.clone().map(|names| (ACCESS_CONTROL_EXPOSE_HEADERS, names)));
    headers.append(VARY, HeaderValue::from_static("Origin"));
    response
}

/// The origin of the request, if the configuration allows it.
fn allowed_origin(headers: &HeaderMap, origins: &[String]) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

/// Whether this is a preflight request.
fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight_response() -> Response {
    let mut response = ApiResponse::empty().into_response();
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_S));
    response
}
