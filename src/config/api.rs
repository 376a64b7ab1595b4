//! Options of the control API, and the certificate that it shares with SMTP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::duration;
use super::error::{Fault, at_least_one, longer_than_nothing};

/// The server's certificate. Without one a self-signed certificate for the host name is made in the data directory.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM: the certificate, then its chain.
    pub certificate: Option<PathBuf>,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub private_key: Option<PathBuf>,
}

/// The control API.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Where metrics are told, without a key; nowhere if empty.
    pub metrics_listen: Vec<SocketAddr>,
    /// Whether it speaks TLS, with the server's certificate.
    pub tls: bool,
    /// The largest request body.
    pub body_max: ByteSize,
    /// The largest body of a request that sends mail.
    pub send_body_max: ByteSize,
    /// Octets of the bodies of all requests, and of the answers that clients have yet to take, at one time; more are
    /// answered 503.
    pub inbound_buffer_max: ByteSize,
    /// How long a request may take to arrive.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// Open connections in all.
    pub connections_max: usize,
    /// Open connections from one address of IPv4 or one /64 of IPv6.
    pub connections_per_address_max: usize,
    /// How long a connection may be open without a request that is worked on or an answer that is taken.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// Origins whose scripts may use the API from a browser, like `https://console.example.com`; none if empty.
    pub cors_origins: Vec<String>,
    /// Octets of answers that are kept for repetitions under an Idempotency-Key, of one tenant in a day.
    pub idempotency_storage_max: ByteSize,
    /// Requests that a tenant without a limit of its own may make in a minute; 0 is any number.
    pub requests_per_minute: u32,
    /// Requests that one key of a tenant may make in a minute; 0 is any number.
    pub key_requests_per_minute: u32,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8587)],
            metrics_listen: Vec::new(),
            tls: false,
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
    pub(super) fn find_fault(&self) -> Option<Fault> {
        let is_half = self.certificate.is_some() != self.private_key.is_some();
        is_half.then(|| Fault::new("tls", "set both or neither of certificate and private_key"))
    }
}

impl Api {
    pub(super) fn find_fault(&self) -> Option<Fault> {
        if !self.cors_origins.iter().all(|origin| is_origin(origin)) {
            return Some(Fault::new(
                "api.cors_origins",
                "must be origins as browsers send them, for example https://console.example.com",
            ));
        }
        // A body that does not fit into all that is being received could never be taken.
        if self.inbound_buffer_max < self.body_max.max(self.send_body_max) {
            return Some(Fault::new(
                "api.inbound_buffer_max",
                "must be at least api.body_max and api.send_body_max",
            ));
        }
        at_least_one(&[
            ("api.connections_max", self.connections_max as u64),
            ("api.connections_per_address_max", self.connections_per_address_max as u64),
            ("api.body_max", self.body_max.0),
            ("api.send_body_max", self.send_body_max.0),
        ])
        .or_else(|| {
            longer_than_nothing(&[
                ("api.request_timeout", self.request_timeout),
                ("api.idle_timeout", self.idle_timeout),
            ])
        })
    }
}

/// The form in which browsers send an origin (RFC 6454 §6.1).
fn is_origin(text: &str) -> bool {
    let authority =
        text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let is_of_authority = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]_".contains(&b);
    !authority.is_empty() && authority.bytes().all(is_of_authority)
}
