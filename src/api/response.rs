//! What goes back to the client: bodies and the headers that every answer has.

use std::convert::Infallible;
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

use crate::model::RequestId;

use super::error::{ApiError, Result};
use super::etag::COMPRESSED;

/// The body of a response, which may go on for as long as the client listens.
pub type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// Octets of an answer that are given to the connection at once: only when the client takes them does the next piece go.
const PIECE_OCTETS: usize = 64 * 1024;
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
/// Of the one page there is: it has a style of its own and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// An answer before its headers.
pub struct ApiResponse {
    status: StatusCode,
    content_type: &'static str,
    content: Content,
    /// It was given before (`Idempotency-Key`).
    is_repeated: bool,
    /// Of the object, without quotes.
    tag: Option<String>,
    is_compressed: bool,
}

enum Content {
    None,
    Whole(Bytes),
    Endless(ResponseBody),
}

/// The answer to a removal.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Deleted")]
pub struct Deleted {
    /// What is gone.
    id: String,
    /// The kind of object it was.
    object: &'static str,
    /// Always true.
    deleted: bool,
}

impl ApiResponse {
    /// 200 with an object.
    pub fn ok(body: &impl Serialize) -> Result<Self> {
        Self::json(StatusCode::OK, body)
    }

    /// 201 with the object that was made.
    pub fn created(body: &impl Serialize) -> Result<Self> {
        Self::json(StatusCode::CREATED, body)
    }

    /// 200 for an object that is gone now.
    pub fn deleted(object: &'static str, id: impl ToString) -> Result<Self> {
        Self::ok(&Deleted { id: id.to_string(), object, deleted: true })
    }

    /// 200 with the bytes of a message.
    pub fn message(bytes: Vec<u8>) -> Self {
        Self::whole(StatusCode::OK, "message/rfc822", bytes)
    }

    /// 200 with JSON that is at hand.
    pub fn document(text: Bytes) -> Self {
        Self::whole(StatusCode::OK, JSON, text)
    }

    /// 200 with a page for people.
    pub fn page(html: Bytes) -> Self {
        Self::whole(StatusCode::OK, HTML, html)
    }

    /// 200 with server-sent events, each as it happens.
    pub fn events(body: ResponseBody) -> Self {
        Self {
            content: Content::Endless(body),
            ..Self::whole(StatusCode::OK, "text/event-stream", Vec::new())
        }
    }

    /// An earlier answer, again.
    pub fn repeated(status: u16, body: Vec<u8>) -> Result<Self> {
        let status = StatusCode::from_u16(status).map_err(ApiError::internal)?;
        Ok(Self { is_repeated: true, ..Self::whole(status, JSON, body) })
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its content, unless that has no end.
    pub fn body(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Whole(body) => Some(body),
            Content::None | Content::Endless(_) => None,
        }
    }

    fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let content = Content::Whole(body.into());
        Self { status, content_type, content, is_repeated: false, tag: None, is_compressed: false }
    }

    /// 304: the object is what the client has.
    pub fn not_modified(tag: String) -> Self {
        Self { content: Content::None, ..Self::whole(StatusCode::NOT_MODIFIED, JSON, Vec::new()) }.tagged(tag)
    }

    /// 204.
    pub fn empty() -> Self {
        Self { content: Content::None, ..Self::whole(StatusCode::NO_CONTENT, JSON, Vec::new()) }
    }

    /// The same with the tag of the object in it.
    pub fn tagged(self, tag: String) -> Self {
        Self { tag: Some(tag), ..self }
    }

    /// The same in gzip.
    pub fn compressed(self, body: Bytes) -> Self {
        Self { content: Content::Whole(body), is_compressed: true, ..self }
    }

    /// 202 with what will be done.
    pub fn accepted(body: &impl Serialize) -> Result<Self> {
        Self::json(StatusCode::ACCEPTED, body)
    }

    fn json(status: StatusCode, body: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(body).map_err(ApiError::internal)?;
        Ok(Self::whole(status, JSON, body))
    }

    /// A refusal as an answer.
    pub fn error(error: &ApiError, request_id: RequestId) -> Self {
        Self::whole(error.status(), JSON, error.body(request_id))
    }
}

/// A body that is known, handed out in pieces so that it shows whether the client takes it.
struct Pieces(Bytes);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
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

/// Makes the response to a request. One to HEAD has all headers and no content (RFC 9110 §9.3.2).
pub fn respond(result: Result<ApiResponse>, request_id: RequestId, is_head: bool) -> Response<ResponseBody> {
    let (answer, allow, retry_after_s) = match result {
        Ok(answer) => (answer, None, None),
        Err(error) => (ApiResponse::error(&error, request_id), error.allow, error.retry_after_s),
    };
    let ApiResponse { status, content_type, content, is_repeated, tag, is_compressed } = answer;
    let has_content = !matches!(content, Content::None);
    let (length, body) = match content {
        Content::None => (None, Empty::new().boxed_unsync()),
        Content::Whole(body) => (Some(body.len()), Pieces(body).boxed_unsync()),
        Content::Endless(body) => (None, body),
    };
    let body = if is_head { Empty::new().boxed_unsync() } else { body };
    let mut response = Response::new(body);
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
