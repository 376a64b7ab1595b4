//! The tables `[api]` and `[tls]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use url::Url;

use super::duration;
use super::error::{InvalidOption, require_at_least_one, require_positive_durations};

/// `[tls]`: the server's certificate. By default the server creates a self-signed certificate for the host name in
/// the data directory.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM: the certificate, followed by its chain.
    pub certificate: Option<PathBuf>,
    /// PEM: the private key as PKCS#8, PKCS#1 or SEC1.
    pub private_key: Option<PathBuf>,
}

/// `[api]`: the control API.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Addresses that serve metrics without authentication; none if empty.
    pub metrics_listen: Vec<SocketAddr>,
    /// Whether the API uses TLS, with the server's certificate.
    pub tls: bool,
    /// The address of the API and of the pages in browsers, behind a reverse proxy. It may have a path.
    pub public_url: Option<Url>,
    /// The largest request body.
    pub body_max: ByteSize,
    /// The largest request body of endpoints that send mail.
    pub send_body_max: ByteSize,
    /// Memory for the bodies of all requests and for responses that clients have not read yet; beyond it the API replies 503.
    pub inbound_buffer_max: ByteSize,
    /// Time for a request to arrive completely.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// Maximum of open connections, as for SMTP; a request with a valid key is the login.
    pub connections_max: usize,
    /// Maximum of open connections from one IPv4 address or one IPv6 /64.
    pub connections_per_address_max: usize,
    /// Time after which a connection without an active request is closed.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// Origins for CORS, such as `https://console.example.com`; none if empty.
    pub cors_origins: Vec<String>,
    /// Responses stored for repeated Idempotency-Keys, in octets per tenant and day.
    pub idempotency_storage_max: ByteSize,
    /// Requests per minute of a tenant without its own limit; 0 for no limit.
    pub requests_per_minute: u32,
    /// Requests per minute of one key of a tenant; 0 for no limit.
    pub key_requests_per_minute: u32,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8587)],
            metrics_listen: Vec::new(),
            tls: false,
            public_url: None,
            body_max: ByteSize::mib(1),
            send_body_max: ByteSize::mib(40),
            inbound_buffer_max: ByteSize::mib(256),
            request_timeout: Duration::from_secs(30),
            connections_max: 1000,
            connections_per_address_max: 250,
            idle_timeout: Duration::from_secs(75),
            cors_origins: Vec::new(),
            idempotency_storage_max: ByteSize::mib(256),
            requests_per_minute: 12_000,
            key_requests_per_minute: 6000,
        }
    }
}

impl Tls {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        let is_half = self.certificate.is_some() != self.private_key.is_some();
        is_half.then(|| {
            InvalidOption::new("tls", "certificate and private_key go together: set both or neither")
        })
    }
}

impl Api {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        if !self.cors_origins.iter().all(|origin| is_origin(origin)) {
            return Some(InvalidOption::new(
                "api.cors_origins",
                "must be origins as browsers send them, like https://console.example.com",
            ));
        }
        if self.public_url.as_ref().is_some_and(|url| !is_web_address(url)) {
            return Some(InvalidOption::new(
                "api.public_url",
                "must be like https://mail.example.com or https://example.com/mail, without a user name and a query",
            ));
        }
        // A larger body could never be received.
        if self.inbound_buffer_max < self.body_max.max(self.send_body_max) {
            return Some(InvalidOption::new(
                "api.inbound_buffer_max",
                "must be at least api.body_max and api.send_body_max",
            ));
        }
        require_at_least_one(&[
            ("api.connections_max", self.connections_max as u64),
            ("api.connections_per_address_max", self.connections_per_address_max as u64),
            ("api.body_max", self.body_max.0),
            ("api.send_body_max", self.send_body_max.0),
        ])
        .or_else(|| {
            require_positive_durations(&[
                ("api.request_timeout", self.request_timeout),
                ("api.idle_timeout", self.idle_timeout),
            ])
        })
    }
}

fn is_web_address(url: &Url) -> bool {
    ["http", "https"].contains(&url.scheme())
        && url.host_str().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

/// The serialization of an origin in browsers (RFC 6454 §6.1).
fn is_origin(text: &str) -> bool {
    let authority =
        text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let is_of_authority = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]_".contains(&b);
    !authority.is_empty() && authority.bytes().all(is_of_authority)
}
