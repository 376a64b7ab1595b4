//! Options of what others are told: events for web servers, reports on TLS.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use url::Url;

use super::duration;
use super::error::{Fault, at_least_one, longer_than_nothing};
use crate::mail::Address;

/// Events for web servers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhooks {
    /// Networks that events may go to although they are private, loopback or link-local.
    pub allowed_private_networks: Vec<IpNet>,
    /// Hosts, as URLs name them, that may be told without TLS.
    pub plain_http_hosts: Vec<String>,
    /// PEM with certificate authorities for endpoints, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How long an endpoint may take for its whole answer.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Requests at one time in all; to one tenant's webhooks three quarters of them, an eighth beside other tenants'.
    pub requests_max: usize,
    /// Requests at one time to one webhook.
    pub requests_per_webhook_max: usize,
}

/// Reports on TLS to the domains that mail goes to (RFC 8460).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsReport {
    /// Whether sessions are counted and reports sent.
    pub enabled: bool,
    /// Who reports; the server's host name if absent.
    pub organization: Option<String>,
    /// Whom to ask about a report: an address.
    pub contact: Option<String>,
    /// Over how long a time after midnight UTC reports are spread.
    #[serde(with = "duration")]
    pub delay_max: Duration,
    /// How reports are mailed; without it they go over HTTPS only.
    pub mail: Option<TlsReportMail>,
}

/// In whose name reports are mailed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsReportMail {
    /// The slug of a tenant.
    pub tenant: String,
    /// The file with the secret of one of its keys, which may `smtp:send`.
    pub key_file: PathBuf,
    /// The author's address, under a verified domain of the tenant.
    pub from: Address,
}

impl Webhooks {
    /// Whether events may go to a URL without TLS. A URL has its host in lower case, as the list has its own.
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
                "must be hosts as in URLs: in lower case, without a port, IPv6 addresses in brackets",
            ));
        }
        at_least_one(&[
            ("webhooks.requests_max", self.requests_max as u64),
            ("webhooks.requests_per_webhook_max", self.requests_per_webhook_max as u64),
        ])
        .or_else(|| longer_than_nothing(&[("webhooks.timeout", self.timeout)]))
    }
}

/// Whether it is in the normal form in which it is compared with the host of a URL.
fn is_host_of_url(text: &str) -> bool {
    url::Host::parse(text).is_ok_and(|host| host.to_string() == text)
}

impl TlsReport {
    /// So long can a report wait and then still be tried for a day, before what it tells is forgotten.
    pub const DELAY_MAX: Duration = Duration::from_secs(6 * 24 * 60 * 60);

    pub(super) fn find_fault(&self) -> Option<Fault> {
        let is_late = self.delay_max > Self::DELAY_MAX;
        is_late.then(|| {
            Fault::new("tls_report.delay_max", "must be at most 144h, because the counts are kept for a week")
        })
    }
}
