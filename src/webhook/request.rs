//! One webhook request and the class of its response.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, StatusCode};
use serde::Serialize;
use url::Url;

use crate::clock::Clock;
use crate::config;
use crate::http_client::{Client, Limits, OverflowPolicy, Request, SendError};
use crate::mail::Timestamp;
use crate::model::WebhookDeliveryId;
use crate::store::{Event, EventView, WebhookAttempt, WebhookSecret};

use super::signature::sign;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const AGENT: &str = concat!("pillarbox/", env!("CARGO_PKG_VERSION"));
/// Octets of the response that are stored.
const RESPONSE_OCTETS_MAX: usize = 4096;

/// The body: the event, with `timestamp` as in Standard Webhooks.
#[derive(Serialize)]
struct Payload<'a> {
    #[serde(flatten)]
    event: EventView<'a>,
    timestamp: Timestamp,
}

/// One attempt to deliver an event.
pub struct WebhookRequest<'a> {
    /// The id of the delivery, the same at every attempt.
    pub id: WebhookDeliveryId,
    /// The URL of the endpoint.
    pub url: &'a str,
    /// The secrets, the current one first.
    pub secrets: &'a [WebhookSecret],
    /// The event.
    pub event: &'a Event,
}

impl WebhookRequest<'_> {
    /// Sends the request.
    pub async fn send(&self, client: &Client, config: &config::Webhooks, clock: &Clock) -> WebhookAttempt {
        let (at, started) = (clock.now(), clock.instant());
        let sent = match self.request(config, at) {
            Ok(request) => {
                let timeout = config.timeout;
                let limits = Limits {
                    timeout,
                    body_octets_max: RESPONSE_OCTETS_MAX,
                    overflow: OverflowPolicy::Truncate,
                };
                client.send(request, limits).await.map_err(|error| self.public_error(&error))
            }
            Err(fault) => Err(fault),
        };
        let (status, response, error) = match sent {
            Ok(response) => {
                let text = String::from_utf8_lossy(&response.body).into_owned();
                (Some(response.status.as_u16()), text, None)
            }
            Err(error) => (None, String::new(), Some(error)),
        };
        let duration_ms = u64::try_from(clock.elapsed_since(started).as_millis()).unwrap_or(u64::MAX);
        WebhookAttempt { at, duration_ms, status, response, error }
    }

    /// The error text for the tenant, without the private addresses that the host resolves to.
    fn public_error(&self, error: &SendError) -> String {
        tracing::debug!(delivery = %self.id, %error, "webhook request failed");
        match error {
            SendError::Forbidden(_) => {
                "the host resolves only to private, loopback or other special addresses, to which webhooks are not sent"
                    .into()
            }
            SendError::Connect { source, .. } => format!("cannot connect: {source}"),
            other => other.to_string(),
        }
    }

    fn request(&self, config: &config::Webhooks, at: Timestamp) -> Result<Request, String> {
        let url = Url::parse(self.url).map_err(|error| error.to_string())?;
        // The configuration may have changed since the URL was accepted.
        if url.scheme() == "http" && !config.allows_plain_http(&url) {
            return Err("plain http is not allowed for this host; use https".into());
        }
        let payload = Payload { event: self.event.view(), timestamp: self.event.created_at };
        let body = serde_json::to_vec(&payload).map_err(|error| error.to_string())?;
        let id = self.id.to_string();
        let signature = sign(self.secrets, &id, at, &body);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        for (name, value) in [(ID, id), (TIMESTAMP, at.as_second().to_string()), (SIGNATURE, signature)] {
            headers.insert(name, HeaderValue::try_from(value).map_err(|error| error.to_string())?);
        }
        Ok(Request { method: Method::POST, url, headers, body: Bytes::from(body) })
    }
}

/// The class of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseClass {
    /// 2xx: the endpoint accepted the event.
    Accepted,
    /// Any other status, redirects included, or no response.
    Failed,
    /// 410: the endpoint wants no more events.
    Gone,
}

/// Classifies a response by its status (Standard Webhooks 1.0.0, "Webhook consumers").
pub fn classify(attempt: &WebhookAttempt) -> ResponseClass {
    match attempt.status.and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(status) if status.is_success() => ResponseClass::Accepted,
        Some(StatusCode::GONE) => ResponseClass::Gone,
        _ => ResponseClass::Failed,
    }
}
