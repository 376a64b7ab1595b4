//! Responses of handlers, and the headers that every response has.

use std::num::NonZeroU32;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    HeaderValue, LINK, RETRY_AFTER, WWW_AUTHENTICATE,
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::limits::memory_budget::MemoryReservation;
use crate::model::RequestId;

use super::body::memory_exhausted;
use super::content::{Compressible, HTML, JSON, StaticContent, pieces};
use super::error::{ApiError, Result};
use super::etag::ETag;

/// Responses up to this size need no reservation. At the default of 1,000 connections with 32 streams each, they take at
/// most 64 MiB.
pub const UNRESERVED_OCTETS_MAX: usize = 2 * 1024;
const MESSAGE: &str = "message/rfc822";
/// For files, which a browser saves and never shows.
const FILE: &str = "application/octet-stream";
/// Lines of JSON.
const LINES: &str = "application/x-ndjson";
const CSV: &str = "text/csv; charset=utf-8; header=present";
/// For HTML pages: they load their style sheet, whose signs are pictures within it, and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// For files of the senders of messages, should a browser show one nevertheless.
const FILE_POLICY: &str = "sandbox; default-src 'none'; frame-ancestors 'none'";

/// A response before its headers are written.
pub struct ApiResponse {
    status: StatusCode,
    content_type: &'static str,
    content: Content,
    /// A stored response (`Idempotency-Key`).
    is_repeated: bool,
    /// ETag of the object.
    tag: Option<ETag>,
    /// The methods that the path has, for 405 (RFC 9110 §15.5.6).
    allow: Option<Box<str>>,
    /// `Retry-After` in seconds.
    retry_after_s: Option<NonZeroU32>,
    /// The target of a `Link` to the next page (RFC 8288).
    next: Option<Box<str>>,
}

enum Content {
    None,
    /// Built for this request, without a reservation yet.
    Made(Vec<u8>),
    /// Either short, or with a reservation.
    Ready(Bytes),
    Static(&'static StaticContent),
    Stream {
        body: Body,
        /// `None` for an endless stream.
        octets: Option<u64>,
    },
}

/// Response to a DELETE.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Deleted")]
pub struct Deleted {
    /// Id of the deleted object.
    id: String,
    /// Type of the deleted object.
    object: &'static str,
    /// Always true.
    deleted: bool,
}

impl ApiResponse {
    /// 200 with an object.
    pub fn ok(body: &impl Serialize) -> Result<Self> {
        Self::json(StatusCode::OK, body)
    }

    /// 201 with the created object.
    pub fn created(body: &impl Serialize) -> Result<Self> {
        Self::json(StatusCode::CREATED, body)
    }

    /// 200 for a deleted object.
    pub fn deleted(object: &'static str, id: impl ToString) -> Result<Self> {
        Self::ok(&Deleted { id: id.to_string(), object, deleted: true })
    }

    /// 200 with the bytes of a message.
    pub fn message(bytes: Vec<u8>) -> Self {
        Self::new(StatusCode::OK, MESSAGE, Content::Made(bytes))
    }

    /// 200 with the bytes of a message, streamed.
    pub fn message_stream(body: Body, octets: u64) -> Self {
        Self::new(StatusCode::OK, MESSAGE, Content::Stream { body, octets: Some(octets) })
    }

    /// 200 with a file.
    pub fn file(octets: Vec<u8>) -> Self {
        Self::new(StatusCode::OK, FILE, Content::Made(octets))
    }

    /// 200 with CSV, and the target of the link to the next page.
    pub fn csv(octets: Vec<u8>, next: Option<String>) -> Self {
        let next = next.map(String::into_boxed_str);
        Self { next, ..Self::new(StatusCode::OK, CSV, Content::Made(octets)) }
    }

    /// 200 with static content.
    pub fn fixed(content: &'static StaticContent) -> Self {
        Self::new(StatusCode::OK, content.content_type, Content::Static(content))
    }

    /// 200 with a stream of server-sent events.
    pub fn events(body: Body) -> Self {
        Self::new(StatusCode::OK, "text/event-stream", Content::Stream { body, octets: None })
    }

    /// 200 with lines of JSON, streamed.
    pub fn lines(body: Body) -> Self {
        Self::new(StatusCode::OK, LINES, Content::Stream { body, octets: None })
    }

    /// A stored response.
    pub fn repeated(status: u16, body: Vec<u8>) -> Result<Self> {
        let status = StatusCode::from_u16(status).map_err(ApiError::internal)?;
        Ok(Self { is_repeated: true, ..Self::new(status, JSON, Content::Made(body)) })
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The content, if all of it is in memory.
    pub fn body(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Made(octets) => Some(octets),
            Content::Ready(octets) => Some(octets),
            Content::Static(content) => Some(&content.plain),
            Content::None | Content::Stream { .. } => None,
        }
    }

    fn new(status: StatusCode, content_type: &'static str, content: Content) -> Self {
        Self {
            status,
            content_type,
            content,
            is_repeated: false,
            tag: None,
            allow: None,
            retry_after_s: None,
            next: None,
        }
    }

    /// 304: the client has the current object.
    pub fn not_modified(tag: ETag) -> Self {
        Self::new(StatusCode::NOT_MODIFIED, JSON, Content::None).tagged(tag)
    }

    /// 204.
    pub fn empty() -> Self {
        Self::new(StatusCode::NO_CONTENT, JSON, Content::None)
    }

    /// Reserves memory for the content until the connection has sent it or is closed.
    pub fn reserve(self, mut reservation: MemoryReservation) -> Result<Self> {
        let Content::Made(mut octets) = self.content else { return Ok(self) };
        if octets.len() <= UNRESERVED_OCTETS_MAX {
            return Ok(Self { content: Content::Ready(octets.into()), ..self });
        }
        octets.shrink_to_fit();
        let length = octets.len() as u64;
        if !reservation.grow_to(length) {
            return Err(memory_exhausted());
        }
        reservation.shrink_to(length);
        Ok(Self { content: Content::Ready(reservation.hold(octets)), ..self })
    }

    /// Sets the ETag of the object.
    pub fn tagged(self, tag: ETag) -> Self {
        Self { tag: Some(tag), ..self }
    }

    /// 202 with the accepted object.
    pub fn accepted(body: &impl Serialize) -> Result<Self> {
        Self::json(StatusCode::ACCEPTED, body)
    }

    fn json(status: StatusCode, body: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(body).map_err(ApiError::internal)?;
        Ok(Self::new(status, JSON, Content::Made(body)))
    }

    /// The response to an error.
    pub fn error(error: &ApiError, request_id: RequestId) -> Self {
        Self {
            allow: error.allow.clone(),
            retry_after_s: error.retry_after_s,
            ..Self::new(error.status(), JSON, Content::Made(error.body(request_id)))
        }
    }
}

impl Content {
    fn compressible(&self) -> Option<Compressible> {
        match self {
            Self::Ready(octets) => Some(Compressible::Plain(octets.clone())),
            Self::Static(content) => Some(Compressible::Static(content)),
            Self::None | Self::Made(_) | Self::Stream { .. } => None,
        }
    }

    /// The length in octets, if known, and the body.
    fn into_body(self) -> (Option<u64>, Body) {
        let whole = |octets: Bytes| (Some(octets.len() as u64), pieces(octets));
        match self {
            Self::None => (None, Body::empty()),
            Self::Made(octets) => whole(octets.into()),
            Self::Ready(octets) => whole(octets),
            Self::Static(content) => whole(content.plain.clone()),
            Self::Stream { body, octets } => (octets, body),
        }
    }
}

impl IntoResponse for ApiResponse {
    fn into_response(self) -> Response {
        let Self { status, content_type, content, is_repeated, tag, allow, retry_after_s, next } = self;
        let has_content = !matches!(content, Content::None);
        let compressible = content.compressible();
        let (length, body) = content.into_body();
        let mut response = Response::new(body);
        *response.status_mut() = status;
        if let Some(compressible) = compressible {
            response.extensions_mut().insert(compressible);
        }
        let headers = response.headers_mut();
        if has_content {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        // Responses contain secrets, and data that only the owner of the key may see.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        if content_type == HTML {
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
        }
        if content_type == FILE {
            headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(FILE_POLICY));
        }
        if let Some(allow) = allow.and_then(|methods| HeaderValue::from_str(&methods).ok()) {
            headers.insert(ALLOW, allow);
        }
        if let Some(tag) = tag.and_then(|tag| tag.to_header()) {
            headers.insert(ETAG, tag);
        }
        let link = next.map(|target| format!("<{target}>; rel=\"next\""));
        if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
            headers.insert(LINK, link);
        }
        if let Some(seconds) = retry_after_s {
            headers.insert(RETRY_AFTER, seconds.get().into());
        }
        if is_repeated {
            headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
        }
        match status {
            // RFC 9110 §11.6.1: a 401 must name an authentication scheme.
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pillarbox\""));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }
}
