//! The table `[relay]`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::Deserialize;

use super::error::{InvalidOption, require_at_least_one, require_positive_durations};
use super::{DAY, PlatformSmartHost, Pool, Route, SiteRule, Source, duration, routing, shaping};
use crate::mail::DomainName;
use crate::model::TlsMinimum;

/// `[relay]`: delivery.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// The host that receives all mail instead of the MX. A tenant's own smart host has priority.
    pub smart_host: Option<PlatformSmartHost>,
    /// Routes for destinations; they have priority over `smart_host`.
    pub routes: Vec<Route>,
    /// Source addresses of outgoing connections.
    pub sources: Vec<Source>,
    /// Pools of sources.
    pub pools: Vec<Pool>,
    /// The pool used when neither tenant nor route has one. By default `source_address` and `ehlo_name` are the only
    /// source.
    pub source_pool: Option<String>,
    /// DNS servers; the system's if empty.
    pub name_servers: Vec<SocketAddr>,
    /// The port of MX hosts.
    pub port: u16,
    /// The EHLO name, unless the source or the route has its own; the server's host name by default.
    pub ehlo_name: Option<DomainName>,
    /// The source address: the short form of a pool with one source.
    pub source_address: Option<IpAddr>,
    /// Private, loopback or link-local networks that mail may be delivered to.
    pub allowed_private_networks: Vec<IpNet>,
    /// PEM file of certificate authorities trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether to use DNSSEC, and with it DANE.
    pub dnssec: Dnssec,
    /// DNSKEY records of the root zone; built-in ones by default.
    pub trust_anchor_file: Option<PathBuf>,
    /// MTA-STS (RFC 8461).
    pub mta_sts: MtaSts,
    /// Minimum TLS security for destinations.
    pub tls_minimum: Vec<DestinationTls>,
    /// Maximum of connections.
    pub connections_max: usize,
    /// Maximum of connections to one destination.
    pub connections_per_destination_max: usize,
    /// Maximum of messages over one connection.
    pub messages_per_connection_max: u32,
    /// Time after which an unused connection is closed.
    #[serde(with = "duration")]
    pub idle_connection_timeout: Duration,
    /// How long delivery is tried, unless the tenant or the message has its own lifetime.
    #[serde(with = "duration")]
    pub message_lifetime: Duration,
    /// Upper bound for the lifetime of a tenant or a message.
    #[serde(with = "duration")]
    pub message_lifetime_max: Duration,
    /// Memory for accepted messages that wait for their first delivery, counted with 1 KiB for each recipient.
    pub hot_queue_bytes_max: ByteSize,
    /// Timeouts of a delivery.
    pub timeouts: Timeouts,
    /// Limits for sites; they have priority over the built-in ones.
    pub shaping: Vec<SiteRule>,
}

/// `[relay.timeouts]`: timeouts of each step of a delivery (RFC 5321 §4.5.3.2).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Timeouts {
    #[serde(with = "duration")]
    pub connect: Duration,
    #[serde(with = "duration")]
    pub greeting: Duration,
    #[serde(with = "duration")]
    pub command: Duration,
    #[serde(with = "duration")]
    pub starttls: Duration,
    #[serde(with = "duration")]
    pub data: Duration,
    #[serde(with = "duration")]
    pub block: Duration,
    #[serde(with = "duration")]
    pub final_dot: Duration,
    #[serde(with = "duration")]
    pub quit: Duration,
}

/// Use of DNSSEC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dnssec {
    /// The resolver validates signatures, if the name servers pass them on.
    Validate,
    /// No DNSSEC.
    Off,
}

/// `[relay.mta_sts]`: MTA-STS policies of destinations.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MtaSts {
    /// Whether to fetch and apply policies.
    pub enabled: bool,
    /// The HTTPS port of policy hosts.
    pub port: u16,
    /// Timeout of a policy fetch.
    #[serde(with = "duration")]
    pub fetch_timeout: Duration,
}

/// Minimum TLS security for mail to a domain and its subdomains.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationTls {
    /// The recipient domain.
    pub domain: DomainName,
    /// `encrypted`, `verified` or `dane`.
    pub minimum: TlsMinimum,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            smart_host: None,
            routes: Vec::new(),
            sources: Vec::new(),
            pools: Vec::new(),
            source_pool: None,
            name_servers: Vec::new(),
            port: 25,
            ehlo_name: None,
            source_address: None,
            allowed_private_networks: Vec::new(),
            ca_file: None,
            dnssec: Dnssec::Validate,
            trust_anchor_file: None,
            mta_sts: MtaSts::default(),
            tls_minimum: Vec::new(),
            connections_max: 500,
            connections_per_destination_max: 20,
            messages_per_connection_max: 100,
            idle_connection_timeout: Duration::from_secs(30),
            message_lifetime: 5 * DAY,
            message_lifetime_max: 10 * DAY,
            hot_queue_bytes_max: ByteSize::mib(64),
            timeouts: Timeouts::default(),
            shaping: Vec::new(),
        }
    }
}

impl Default for MtaSts {
    fn default() -> Self {
        Self { enabled: true, port: 443, fetch_timeout: Duration::from_secs(30) }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            greeting: Duration::from_secs(300),
            command: Duration::from_secs(300),
            starttls: Duration::from_secs(60),
            data: Duration::from_secs(120),
            block: Duration::from_secs(180),
            final_dot: Duration::from_secs(600),
            quit: Duration::from_secs(5),
        }
    }
}

impl Relay {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        if self.message_lifetime_max < self.message_lifetime {
            return Some(InvalidOption::new(
                "relay.message_lifetime_max",
                "must be at least relay.message_lifetime",
            ));
        }
        require_at_least_one(&[
            ("relay.connections_max", self.connections_max as u64),
            ("relay.connections_per_destination_max", self.connections_per_destination_max as u64),
            ("relay.messages_per_connection_max", self.messages_per_connection_max.into()),
            ("relay.port", self.port.into()),
            ("relay.mta_sts.port", self.mta_sts.port.into()),
        ])
        .or_else(|| {
            let Timeouts { connect, greeting, command, starttls, data, block, final_dot, quit } =
                self.timeouts;
            require_positive_durations(&[
                ("relay.message_lifetime", self.message_lifetime),
                ("relay.mta_sts.fetch_timeout", self.mta_sts.fetch_timeout),
                ("relay.timeouts.connect", connect),
                ("relay.timeouts.greeting", greeting),
                ("relay.timeouts.command", command),
                ("relay.timeouts.starttls", starttls),
                ("relay.timeouts.data", data),
                ("relay.timeouts.block", block),
                ("relay.timeouts.final_dot", final_dot),
                ("relay.timeouts.quit", quit),
            ])
        })
        .or_else(|| shaping::find_invalid(self))
        .or_else(|| routing::find_invalid(self))
    }
}
