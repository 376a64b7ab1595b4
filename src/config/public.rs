//! The table `[public]`.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::Deserialize;
use url::Url;

use super::error::{InvalidOption, require_at_least_one};

/// A link must fit into a line of a header field (RFC 5322 §2.1.1).
const URL_OCTETS_MAX: usize = 255;

/// `[public]`: the pages that recipients open from their mail.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Public {
    /// Listeners for the pages.
    pub listen: Vec<SocketAddr>,
    /// The address of the pages as recipients reach them.
    pub url: Option<Url>,
    /// Whether the listeners use TLS, with the certificate of `[tls]`.
    pub tls: bool,
    /// Maximum of open connections.
    pub connections_max: usize,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for Public {
    fn default() -> Self {
        Self { listen: Vec::new(), url: None, tls: false, connections_max: 200, trusted_proxies: Vec::new() }
    }
}

impl Public {
    /// The beginning of links, without a slash at its end; `None` if there are no pages.
    pub fn base(&self) -> Option<&str> {
        let url = self.url.as_ref().filter(|_| !self.listen.is_empty())?;
        Some(url.as_str().trim_end_matches('/'))
    }

    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        let is_web = |url: &Url| {
            // RFC 8058 §3.1 demands https.
            (url.scheme() == "https" || url.scheme() == "http" && url.host_str() == Some("localhost"))
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
                && url.as_str().len() <= URL_OCTETS_MAX
        };
        match &self.url {
            None if !self.listen.is_empty() => {
                Some(InvalidOption::new("public.url", "must be set, because links in messages need it"))
            }
            Some(url) if !is_web(url) => Some(InvalidOption::new(
                "public.url",
                "must be like https://mail.example.com, without a user name and a query, with at most 255 octets; http is for localhost only",
            )),
            _ => require_at_least_one(&[("public.connections_max", self.connections_max as u64)]),
        }
    }
}
