//! What goes back to the client: bodies and the headers that every answer has.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::mail::RequestId;

use super::error::{ApiError, Result};

/// An answer before its headers.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
    /// It was given before (`Idempotency-Key`).
    is_repeated: bool,
}

/// The answer to a removal.
#[derive(Debug, Serialize)]
pub struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

impl Answer {
    /// 200 with an object.
    pub fn ok(body: &impl Serialize) -> Result<Self> {
        Self::json(StatusCode::OK, body)
    }

    /// 201 with the object that was made.
    pub fn created(body: &impl Serialize) -> Result<Self> {
        Self::json(StatusCode::CREATED, body)
    }

    /// 202 with what was accepted.
    pub fn accepted(body: &impl Serialize) -> Result<Self> {
        Self::json(StatusCode::ACCEPTED, body)
    }

    /// An earlier answer, again.
    pub fn repeated(status: u16, body: Vec<u8>) -> Result<Self> {
        let status = StatusCode::from_u16(status).map_err(ApiError::internal)?;
        Ok(Self { status, content_type: "application/json", body: body.into(), is_repeated: true })
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its content.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// 200 for an object that is gone now.
    pub fn deleted(object: &'static str, id: impl ToString) -> Result<Self> {
        Self::ok(&Deleted { id: id.to_string(), object, deleted: true })
    }

    /// 200 with the bytes of a message.
    pub fn message(bytes: Vec<u8>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "message/rfc822",
            body: bytes.into(),
            is_repeated: false,
        }
    }

    fn json(status: StatusCode, body: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(body).map_err(ApiError::internal)?;
        Ok(Self { status, content_type: "application/json", body: body.into(), is_repeated: false })
    }

    /// A refusal as an answer.
    pub fn error(error: &ApiError, request_id: RequestId) -> Self {
        let body = error.body(request_id).into();
        Self { status: error.status(), content_type: "application/json", body, is_repeated: false }
    }
}

/// Makes the response to a request. One to HEAD has all headers and no content (RFC 9110 §9.3.2).
pub fn respond(result: &Result<Answer>, request_id: RequestId, is_head: bool) -> Response<Full<Bytes>> {
    let failure;
    let answer = match result {
        Ok(answer) => answer,
        Err(error) => {
            failure = Answer::error(error, request_id);
            &failure
        }
    };
    let body = if is_head { Bytes::new() } else { answer.body.clone() };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CONTENT_LENGTH, answer.body.len().into());
    // Answers hold what only this key may see, and secrets.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    let text = |text: &str| HeaderValue::from_str(text).ok();
    if let Some(id) = text(&request_id.to_string()) {
        headers.insert("x-request-id", id);
    }
    if let Some(allow) = result.as_ref().err().and_then(|error| text(error.allow.as_deref()?)) {
        headers.insert(ALLOW, allow);
    }
    if answer.is_repeated {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    match answer.status {
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
