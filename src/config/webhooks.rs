//! The table `[webhooks]`.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use url::Url;

use super::duration;
use super::error::{InvalidOption, require_at_least_one, require_positive_durations};

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

impl Webhooks {
    /// Whether webhooks may use plain HTTP to this URL. A URL has its host in lower case, as the list has.
    pub fn allows_plain_http(&self, url: &Url) -> bool {
        url.host_str().is_some_and(|host| self.plain_http_hosts.iter().any(|listed| listed == host))
    }
}

impl Webhooks {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        if !self.plain_http_hosts.iter().all(|host| is_host_of_url(host)) {
            return Some(InvalidOption::new(
                "webhooks.plain_http_hosts",
                "must be hosts as in URLs: lower case, without a port, an IPv6 address in brackets",
            ));
        }
        require_at_least_one(&[
            ("webhooks.requests_max", self.requests_max as u64),
            ("webhooks.requests_per_webhook_max", self.requests_per_webhook_max as u64),
        ])
        .or_else(|| require_positive_durations(&[("webhooks.timeout", self.timeout)]))
    }
}

/// Whether the text is in the normal form that is compared with the host of a URL.
fn is_host_of_url(text: &str) -> bool {
    url::Host::parse(text).is_ok_and(|host| host.to_string() == text)
}
