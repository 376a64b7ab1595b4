//! The table `[inbound]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytesize::ByteSize;
use serde::Deserialize;

use super::error::{InvalidOption, require_at_least_one};
use crate::mail::{Address, DomainName, LocalPart};

/// `[inbound]`: reports about mail that was sent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inbound {
    /// Listeners for reports.
    pub listen: Vec<SocketAddr>,
    /// The platform's return host; `bounce.` and the server's host name by default.
    pub host: Option<DomainName>,
    /// The names under which MX records may name this server; its host name by default.
    pub mx_hosts: Vec<DomainName>,
    /// Local parts for registered feedback loops.
    pub feedback: Vec<String>,
    /// DKIM domains of reporters that are believed without a token.
    pub trusted_reporters: Vec<DomainName>,
    /// Maximum of open connections.
    pub connections_max: usize,
    /// Maximum of open connections from one address.
    pub connections_per_address_max: usize,
    /// Memory for reports being received.
    pub buffer_max: ByteSize,
    /// Where mail for people goes; it is only stored by default.
    pub forward: Option<InboundForward>,
}

/// `[inbound.forward]`: mail for postmaster and abuse is forwarded as mail of a tenant.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundForward {
    /// The slug of a tenant.
    pub tenant: String,
    /// The file with the secret of one of the tenant's keys with scope `smtp:send`.
    pub key_file: PathBuf,
    /// The From address, under a verified domain of the tenant.
    pub from: Address,
    /// The recipient.
    pub to: Address,
}

impl Default for Inbound {
    fn default() -> Self {
        let name = |text: &&str| DomainName::parse(text).ok();
        Self {
            listen: Vec::new(),
            host: None,
            mx_hosts: Vec::new(),
            feedback: vec!["fbl".into()],
            trusted_reporters: TRUSTED_REPORTERS.iter().filter_map(name).collect(),
            connections_max: 200,
            connections_per_address_max: 10,
            buffer_max: ByteSize::mib(64),
            forward: None,
        }
    }
}

/// None of them has mailboxes of people, each of whom could complain for another recipient.
const TRUSTED_REPORTERS: &[&str] = &["arf.mail.yahoo.com", "validity.com"];

impl Inbound {
    /// Whether the server receives reports.
    pub fn is_enabled(&self) -> bool {
        !self.listen.is_empty()
    }

    /// The platform's return host.
    pub fn host(&self, hostname: &DomainName) -> DomainName {
        let default =
            || DomainName::parse(&format!("bounce.{hostname}")).unwrap_or_else(|_| hostname.clone());
        self.host.clone().unwrap_or_else(default)
    }

    /// The names under which MX records may name this server.
    pub fn mx_hosts(&self, hostname: &DomainName) -> Vec<DomainName> {
        if self.mx_hosts.is_empty() { vec![hostname.clone()] } else { self.mx_hosts.clone() }
    }

    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        if !self.feedback.iter().all(|name| LocalPart::parse(name).is_ok() && !name.contains('+')) {
            return Some(InvalidOption::new("inbound.feedback", "must be local parts without a plus sign"));
        }
        if self.buffer_max < ByteSize::mib(8) {
            return Some(InvalidOption::new(
                "inbound.buffer_max",
                "must be at least 8 MiB, the size of a kept complaint",
            ));
        }
        require_at_least_one(&[
            ("inbound.connections_max", self.connections_max as u64),
            ("inbound.connections_per_address_max", self.connections_per_address_max as u64),
        ])
    }
}
