//! The headers of every answer of the pages.

use axum::body::Body;
use axum::response::Response;
use hyper::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    LOCATION, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, StatusCode};

use super::Ui;

/// What a page may load and do. The frame with a message is a page of its own with [`FOREIGN_POLICY`].
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
/// HTML of a message: no script, no form, no picture from elsewhere, no navigation, and no rights of this origin.
const FOREIGN_POLICY: HeaderValue = HeaderValue::from_static(
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; frame-ancestors 'self'",
);
/// An attachment, should a browser show it after all.
const FILE_POLICY: HeaderValue =
    HeaderValue::from_static("sandbox; default-src 'none'; form-action 'none'; frame-ancestors 'none'");

/// HTML of a page.
pub fn page(ui: &Ui, status: StatusCode, html: String) -> Response {
    let mut response = with_type(ui, "text/html; charset=utf-8", PAGE_POLICY, Body::from(html));
    *response.status_mut() = status;
    response
}

/// HTML of a message.
pub fn foreign(ui: &Ui, html: String) -> Response {
    with_type(ui, "text/html; charset=utf-8", FOREIGN_POLICY, Body::from(html))
}

/// A file to download; never shown by the browser.
pub fn file(ui: &Ui, media_type: &'static str, name: &str, octets: Vec<u8>) -> Response {
    let mut response = with_type(ui, media_type, FILE_POLICY, Body::from(octets));
    disposition(&mut response, name);
    response
}

/// A response of the API: its body and media type, with our headers.
pub fn passed(ui: &Ui, response: Response) -> Response {
    let (head, body) = response.into_parts();
    let is_stream = head
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    let media_type = if is_stream { "text/event-stream" } else { "application/octet-stream" };
    let mut passed = with_type(ui, media_type, FILE_POLICY, body);
    *passed.status_mut() = head.status;
    if !is_stream {
        disposition(&mut passed, name_of(&head.headers).unwrap_or("message.eml"));
    }
    passed
}

/// The name of a file as the API gives it.
fn name_of(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(CONTENT_DISPOSITION)?.to_str().ok()?;
    text.split_once("filename=\"")?.1.split('"').next()
}

/// The style of a tenant.
pub fn style(ui: &Ui, css: String) -> Response {
    with_type(ui, "text/css; charset=utf-8", FILE_POLICY, Body::from(css))
}

/// Another page.
pub fn redirect(to: &str) -> Response {
    let mut response = bare(StatusCode::SEE_OTHER);
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// A status without content.
pub fn bare(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, PAGE_POLICY);
    response
}

fn with_type(ui: &Ui, media_type: &'static str, policy: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    );
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    if ui.is_secure() {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

/// The name of a file is a text of somebody else: only letters, digits, dot, hyphen and underscore of it are used.
fn disposition(response: &mut Response, name: &str) {
    let kept: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(c)).take(80).collect();
    let name = if kept.trim_matches('.').is_empty() { "file" } else { kept.trim_start_matches('.') };
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
}
