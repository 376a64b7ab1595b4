//! The HTTP client of the ACME library. It also reads in the answers of the authority what the library leaves out.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Uri};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use ipnet::IpNet;
use jiff::fmt::rfc2822;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::persist::CHALLENGE_TYPE;
use crate::clock::Clock;
use crate::config;
use crate::dns::Resolver;
use crate::http_client::{Client, Limits, OverflowPolicy, Request, Response, SendError};
use crate::mail::Timestamp;
use crate::tls::TlsError;

const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(30),
    body_octets_max: 1024 * 1024,
    overflow: OverflowPolicy::Refuse,
};
const AGENT: HeaderValue = HeaderValue::from_static(concat!("pillarbox/", env!("CARGO_PKG_VERSION")));
/// Names of the authority that are read, and challenges that are kept.
const ISSUERS_MAX: usize = 20;
const OFFERS_MAX: usize = 200;
/// The longest `Retry-After` that the library gets, and the one in an answer that has none.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(6 * 60 * 60);

/// A client for one directory. Clones share what they have read.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client,
    clock: Clock,
    seen: Arc<Mutex<Seen>>,
}

/// What the library does not read.
#[derive(Default)]
struct Seen {
    /// The names of the authority in records of domains (RFC 8555 §7.1.1).
    identities: Vec<String>,
    /// The challenges of dns-persist-01 by their URLs.
    offers: HashMap<String, PersistChallenge>,
    /// After which time the last refused request may be repeated.
    retry_after: Option<Duration>,
}

/// A challenge of dns-persist-01.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PersistChallenge {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    /// The names of the authority in the record.
    #[serde(default, rename = "issuer-domain-names")]
    pub issuers: Vec<String>,
    /// The account in the record. Some authorities leave it out.
    #[serde(rename = "accounturi")]
    pub account_url: Option<String>,
}

/// An answer that is not one of ACME, or none.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error("cannot reach {url}: {source}")]
    Unreachable { url: Url, source: SendError },
    #[error("{url} answered {status}{detail}")]
    Failed { url: Url, status: u16, detail: String },
    #[error("{0:?} is not an https URL")]
    NotHttps(String),
}

impl Transport {
    /// The operator names the directory, so it may be on a private network.
    ///
    /// # Errors
    /// `acme.ca_file` cannot be used.
    pub fn new(settings: &config::Acme, resolver: &Resolver, clock: Clock) -> Result<Self, TlsError> {
        let everywhere = [IpNet::from(ipnet::Ipv4Net::default()), ipnet::Ipv6Net::default().into()];
        let client = Client::new(resolver.clone(), settings.ca_file.as_deref(), &everywhere)?;
        Ok(Self { client, clock, seen: Arc::default() })
    }

    /// Forgets what belongs to earlier orders.
    pub fn begin_order(&self) {
        let mut seen = self.seen.lock();
        seen.offers.clear();
        seen.retry_after = None;
    }

    /// The names of the authority, as its directory has them.
    pub fn identities(&self) -> Vec<String> {
        self.seen.lock().identities.clone()
    }

    /// The challenge of dns-persist-01 with this URL.
    pub fn persist_challenge(&self, url: &str) -> Option<PersistChallenge> {
        self.seen.lock().offers.get(url).cloned()
    }

    /// How long the authority asks to wait after its last refusal.
    pub fn retry_after(&self) -> Option<Duration> {
        self.seen.lock().retry_after
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: hyper::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let transport = self.clone();
        Box::pin(async move {
            let response = transport.exchange(request).await.map_err(|error| Error::Other(error.into()))?;
            let mut whole = hyper::Response::new(Full::new(response.body));
            *whole.status_mut() = response.status;
            *whole.headers_mut() = response.headers;
            Ok(BytesResponse::from(whole))
        })
    }
}

impl Transport {
    async fn exchange(
        &self,
        request: hyper::Request<BodyWrapper<Bytes>>,
    ) -> Result<Response, TransportError> {
        let (mut head, body) = request.into_parts();
        let text = head.uri.to_string();
        // RFC 8555 §6.1.
        let url = Url::parse(&text).ok().filter(|url| url.scheme() == "https");
        let url = url.ok_or(TransportError::NotHttps(text))?;
        head.headers.insert(USER_AGENT, AGENT);
        let Ok(body) = body.collect().await;
        let is_get = head.method != Method::POST;
        let request =
            Request { method: head.method, url: url.clone(), headers: head.headers, body: body.to_bytes() };
        let mut response = self
            .client
            .send(request, LIMITS)
            .await
            .map_err(|source| TransportError::Unreachable { url: url.clone(), source })?;
        let content = serde_json::from_slice::<Value>(&response.body).ok();
        let is_refusal = response.status.is_client_error() || response.status.is_server_error();
        let asked = asked_pause(&response.headers, self.clock.now());
        self.seen.lock().note(asked, content.as_ref(), is_refusal);
        // A refused request of a POST has a problem document, which the library reads.
        if is_refusal && (is_get || !content.as_ref().is_some_and(Value::is_object)) {
            let detail = content.as_ref().and_then(|content| content["detail"].as_str());
            let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
            return Err(TransportError::Failed { url, status: response.status.as_u16(), detail });
        }
        // The library panics on such a URL in the directory.
        let nonces = content.as_ref().and_then(|content| content["newNonce"].as_str());
        if let Some(bad) = nonces.filter(|url| url.parse::<Uri>().is_err()) {
            return Err(TransportError::NotHttps(bad.to_owned()));
        }
        // The library adds it to the time, where it may overflow, and ignores a renewal window without it.
        let pause = asked.unwrap_or(RETRY_AFTER_DEFAULT).min(RETRY_AFTER_MAX);
        response.headers.insert(RETRY_AFTER, pause.as_secs().into());
        Ok(response)
    }
}

/// How long an answer asks to wait: seconds, or a date (RFC 9110 §10.2.3).
fn asked_pause(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = Timestamp::from_second(rfc2822::parse(text).ok()?.timestamp().as_second()).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

impl Seen {
    fn note(&mut self, asked: Option<Duration>, content: Option<&Value>, is_refusal: bool) {
        if is_refusal {
            self.retry_after = asked;
        }
        let Some(content) = content else { return };
        if let Some(identities) = content.pointer("/meta/caaIdentities").and_then(Value::as_array) {
            let texts = identities.iter().filter_map(Value::as_str).take(ISSUERS_MAX);
            self.identities = texts.map(str::to_owned).collect();
        }
        for challenge in content["challenges"].as_array().into_iter().flatten() {
            let Ok(challenge) = PersistChallenge::deserialize(challenge) else { continue };
            if challenge.kind == CHALLENGE_TYPE && self.offers.len() < OFFERS_MAX {
                self.offers.insert(challenge.url.clone(), challenge);
            }
        }
    }
}
