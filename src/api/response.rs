//! Responses: bodies, and the headers that every response has.

use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    HeaderValue, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

use crate::limits::memory_budget::MemoryReservation;
use crate::model::RequestId;

use super::body::no_room;
use super::compression;
use super::error::{ApiError, Result};
use super::etag::COMPRESSED;

/// The body of a response, possibly an endless stream. An error aborts it, so that the client detects an incomplete body.
pub type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;

/// Octets of a body frame. The next frame is produced when the client has taken the previous one.
pub const PIECE_OCTETS: usize = 64 * 1024;
/// Responses up to this size need no reservation. With one for each stream of each connection, at the default of 1,000
/// connections with 32 streams, that is 64 MiB.
pub const UNRESERVED_OCTETS_MAX: usize = 2 * 1024;
const JSON: &str = "application/json";
const MESSAGE: &str = "message/rfc822";
const HTML: &str = "text/html; charset=utf-8";
/// For the only HTML page: it has inline style and loads nothing.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A response before its headers are written.
pub struct ApiResponse {
    status: StatusCode,
    content_type: &'static str,
    content: Content,
    /// A stored response (`Idempotency-Key`).
    is_repeated: bool,
    /// ETag of the object, without quotes.
    tag: Option<String>,
    is_compressed: bool,
    /// The methods that the path has, for 405 (RFC 9110 §15.5.6).
    allow: Option<Box<str>>,
    /// `Retry-After` in seconds.
    retry_after_s: Option<NonZeroU32>,
}

enum Content {
    None,
    /// Built for this request, without a reservation yet.
    Made(Vec<u8>),
    /// Short, shared by all requests, or with a reservation of its own.
    Ready(Bytes),
    Fixed(&'static Fixed),
    Stream {
        body: ResponseBody,
        /// `None` for an endless stream.
        octets: Option<u64>,
    },
}

/// Static content, built once, plain and compressed.
#[derive(Debug)]
pub struct Fixed {
    content_type: &'static str,
    plain: Bytes,
    compressed: Bytes,
}

impl Fixed {
    /// JSON.
    pub fn document(text: String) -> Result<Self> {
        Self::new(JSON, text)
    }

    /// A page for people.
    pub fn page(html: String) -> Result<Self> {
        Self::new(HTML, html)
    }

    fn new(content_type: &'static str, text: String) -> Result<Self> {
        let compressed = compression::gzip(text.as_bytes()).map_err(ApiError::internal)?.into();
        Ok(Self { content_type, plain: text.into(), compressed })
    }
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

    /// 200 with the bytes of a message as they are read.
    pub fn message_stream(body: ResponseBody, octets: u64) -> Self {
        Self::new(StatusCode::OK, MESSAGE, Content::Stream { body, octets: Some(octets) })
    }

    /// 200 with static content.
    pub fn fixed(fixed: &'static Fixed) -> Self {
        Self::new(StatusCode::OK, fixed.content_type, Content::Fixed(fixed))
    }

    /// 200 with server-sent events, each as it happens.
    pub fn events(body: ResponseBody) -> Self {
        Self::new(StatusCode::OK, "text/event-stream", Content::Stream { body, octets: None })
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
            Content::Fixed(fixed) => Some(&fixed.plain),
            Content::None | Content::Stream { .. } => None,
        }
    }

    /// Content that can be compressed: in memory, reserved and plain.
    pub fn plain_body(&self) -> Option<Bytes> {
        match &self.content {
            Content::Ready(octets) if !self.is_compressed => Some(octets.clone()),
            _ => None,
        }
    }

    fn new(status: StatusCode, content_type: &'static str, content: Content) -> Self {
        Self {
            status,
            content_type,
            content,
            is_repeated: false,
            tag: None,
            is_compressed: false,
            allow: None,
            retry_after_s: None,
        }
    }

    /// 304: the client has the current object.
    pub fn not_modified(tag: String) -> Self {
        Self::new(StatusCode::NOT_MODIFIED, JSON, Content::None).tagged(tag)
    }

    /// 204.
    pub fn empty() -> Self {
        Self::new(StatusCode::NO_CONTENT, JSON, Content::None)
    }

    /// Reserves the content in `room` until the connection has sent it or is closed.
    pub fn reserve(self, mut room: MemoryReservation) -> Result<Self> {
        let Content::Made(mut octets) = self.content else { return Ok(self) };
        if octets.len() <= UNRESERVED_OCTETS_MAX {
            return Ok(Self { content: Content::Ready(octets.into()), ..self });
        }
        octets.shrink_to_fit();
        let length = octets.len() as u64;
        if !room.grow_to(length) {
            return Err(no_room());
        }
        room.shrink_to(length);
        Ok(Self { content: Content::Ready(room.hold(octets)), ..self })
    }

    /// Sets the ETag of the object.
    pub fn tagged(self, tag: String) -> Self {
        Self { tag: Some(tag), ..self }
    }

    /// The same in gzip, if that form exists already.
    pub fn compressed_if_fixed(self) -> Self {
        match self.content {
            Content::Fixed(fixed) => self.compressed(fixed.compressed.clone()),
            _ => self,
        }
    }

    /// The same in gzip.
    pub fn compressed(self, body: Bytes) -> Self {
        Self { content: Content::Ready(body), is_compressed: true, ..self }
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

/// A body in memory, sent in frames, so that `idle_timeout` sees whether the client takes them.
struct Pieces(Bytes);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, io::Error>>> {
        let octets = self.0.len().min(PIECE_OCTETS);
        Poll::Ready((octets > 0).then(|| Ok(Frame::data(self.0.split_to(octets)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

fn quote(tag: &str, is_compressed: bool) -> String {
    format!("\"{tag}{}\"", if is_compressed { COMPRESSED } else { "" })
}

impl Content {
    /// How long it is, if that is known, and what the connection reads it from.
    fn into_body(self) -> (Option<u64>, ResponseBody) {
        let pieces = |octets: Bytes| (Some(octets.len() as u64), Pieces(octets).boxed_unsync());
        match self {
            Self::None => (None, nothing()),
            Self::Made(octets) => pieces(octets.into()),
            Self::Ready(octets) => pieces(octets),
            Self::Fixed(fixed) => pieces(fixed.plain.clone()),
            Self::Stream { body, octets } => (octets, body),
        }
    }
}

fn nothing() -> ResponseBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Builds the HTTP response. A response to HEAD has all headers and no content (RFC 9110 §9.3.2).
pub fn respond(answer: ApiResponse, request_id: RequestId, is_head: bool) -> Response<ResponseBody> {
    let ApiResponse { status, content_type, content, is_repeated, tag, is_compressed, allow, retry_after_s } =
        answer;
    let has_content = !matches!(content, Content::None);
    let (length, body) = content.into_body();
    let mut response = Response::new(if is_head { nothing() } else { body });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if has_content {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    // Answers hold what only this key may see, and secrets.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if content_type == HTML {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    }
    let text = |text: &str| HeaderValue::from_str(text).ok();
    if let Some(id) = text(&request_id.to_string()) {
        headers.insert("x-request-id", id);
    }
    if let Some(allow) = allow.and_then(|methods| text(&methods)) {
        headers.insert(ALLOW, allow);
    }
    if let Some(tag) = tag.and_then(|tag| text(&quote(&tag, is_compressed))) {
        headers.insert(ETAG, tag);
    }
    if is_compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    if let Some(seconds) = retry_after_s {
        headers.insert(RETRY_AFTER, seconds.get().into());
    }
    if is_repeated {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    match status {
        // RFC 9110 §11.6.1: a 401 has to say how to authenticate.
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
