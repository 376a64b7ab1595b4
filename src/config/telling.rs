//! The tables `[webhooks]` and `[tls_report]`.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use url::Url;

use super::duration;
use super::error::{Fault, at_least_one, longer_than_nothing};
use crate::mail::Address;

/// `[webhooks]`: delivery of events over HTTP.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhooks {
    /// Private, loopback or link-local networks that webhooks may be delivered to.
    pub allowed_private_networks: Vec<IpNet>,
    /// Hosts, as in URLs, that may be reached without TLS.
    pub plain_http_hosts: Vec<String>,
    /// PEM file of certificate authorities trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// Timeout of the whole response of an endpoint.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Maximum of simultaneous requests. One tenant gets at most three quarters of them, and an eighth while other
    /// tenants have requests waiting.
    pub requests_max: usize,
    /// Maximum of simultaneous requests to one webhook.
    pub requests_per_webhook_max: usize,
}

/// `[tls_report]`: SMTP TLS reports to recipient domains (RFC 8460).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsReport {
    /// Whether to collect results and send reports.
    pub enabled: bool,
    /// The reporting organization; the server's host name by default.
    pub organization: Option<String>,
    /// The contact address in reports.
    pub contact: Option<String>,
    /// Reports are spread over this time after midnight UTC.
    #[serde(with = "duration")]
    pub delay_max: Duration,
    /// How reports are mailed; without it they are sent over HTTPS only.
    pub mail: Option<TlsReportMail>,
}

/// `[tls_report.mail]`: the sender of mailed reports.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsReportMail {
    /// The slug of a tenant.
    pub tenant: String,
    /// The file with the secret of one of the tenant's keys with scope `smtp:send`.
    pub key_file: PathBuf,
    /// The From address, under a verified domain of the tenant.
    pub from: Address,
}

impl Webhooks {
    /// Whether webhooks may use plain HTTP to this URL. A URL has its host in lower case, as the list has.
    pub fn may_be_plain(&self, url: &Url) -> bool {
        url.host_str().is_some_and(|host| self.plain_http_hosts.iter().any(|listed| listed == host))
    }
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            allowed_private_networks: Vec::new(),
            plain_http_hosts: Vec::new(),
            ca_file: None,
            timeout: Duration::from_secs(15),
            requests_max: 256,
            requests_per_webhook_max: 8,
        }
    }
}

impl Default for TlsReport {
    fn default() -> Self {
        Self {
            enabled: false,
            organization: None,
            contact: None,
            delay_max: Duration::from_secs(4 * 60 * 60),
            mail: None,
        }
    }
}

impl Webhooks {
    pub(super) fn find_fault(&self) -> Option<Fault> {
        if !self.plain_http_hosts.iter().all(|host| is_host_of_url(host)) {
            return Some(Fault::new(
                "webhooks.plain_http_hosts",
                "must be hosts as in URLs: lower case, without a port, an IPv6 address in brackets",
            ));
        }
        at_least_one(&[
            ("webhooks.requests_max", self.requests_max as u64),
            ("webhooks.requests_per_webhook_max", self.requests_per_webhook_max as u64),
        ])
        .or_else(|| longer_than_nothing(&[("webhooks.timeout", self.timeout)]))
    }
}

/// Whether the text is in the normal form that is compared with the host of a URL.
fn is_host_of_url(text: &str) -> bool {
    url::Host::parse(text).is_ok_and(|host| host.to_string() == text)
}

impl TlsReport {
    /// A report can wait this long and still be retried for a day before its results are deleted.
    pub const DELAY_MAX: Duration = Duration::from_secs(6 * 24 * 60 * 60);

    pub(super) fn find_fault(&self) -> Option<Fault> {
        let is_late = self.delay_max > Self::DELAY_MAX;
        is_late
            .then(|| Fault::new("tls_report.delay_max", "must be at most 144h: results are kept for a week"))
    }
}
