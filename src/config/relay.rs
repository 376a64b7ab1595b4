//! Options of delivery.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::Deserialize;

use super::error::{Fault, at_least_one, longer_than_nothing};
use super::{DAY, PlatformSmartHost, Pool, Route, SiteRule, Source, duration, routing, shaping};
use crate::mail::DomainName;
use crate::model::TlsMinimum;

/// Delivery.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Where everything goes instead of to the MX, unless the tenant has a smart host of its own.
    pub smart_host: Option<PlatformSmartHost>,
    /// Ways to destinations, which go before the platform's smart host.
    pub routes: Vec<Route>,
    /// What connections may come from.
    pub sources: Vec<Source>,
    /// Sources that belong together.
    pub pools: Vec<Pool>,
    /// The pool of whoever has none of its own; without it, `source_address` and `ehlo_name` are the only source.
    pub source_pool: Option<String>,
    /// The name servers; the system's if empty.
    pub name_servers: Vec<SocketAddr>,
    /// The port of an MX.
    pub port: u16,
    /// The name in EHLO, unless the source or the route has its own; the server's host name if absent.
    pub ehlo_name: Option<DomainName>,
    /// The address that connections come from: the short form of a pool with one source.
    pub source_address: Option<IpAddr>,
    /// Networks that mail may go to although they are private, loopback or link-local.
    pub allowed_private_networks: Vec<IpNet>,
    /// PEM with certificate authorities, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether DNSSEC is used, and with it DANE.
    pub dnssec: Dnssec,
    /// The root's keys, as DNSKEY records; those that the program knows if absent.
    pub trust_anchor_file: Option<PathBuf>,
    /// Policies that destinations publish over HTTPS (RFC 8461).
    pub mta_sts: MtaSts,
    /// Destinations that must have more TLS than they ask for themselves.
    pub tls_minimum: Vec<DestinationTls>,
    /// Connections in all.
    pub connections_max: usize,
    /// Connections to one destination.
    pub connections_per_destination_max: usize,
    /// Messages over one connection.
    pub messages_per_connection_max: u32,
    /// How long an unused connection stays open.
    #[serde(with = "duration")]
    pub idle_connection_timeout: Duration,
    /// How long delivery is tried, unless the tenant or the message has its own time.
    #[serde(with = "duration")]
    pub expiry: Duration,
    /// The longest time that a tenant or a message may have.
    #[serde(with = "duration")]
    pub message_lifetime_max: Duration,
    /// Octets of accepted messages kept in memory for immediate delivery, with 1 KiB for each of their recipients.
    pub hot_queue_bytes_max: ByteSize,
    /// How long to wait for each step of a delivery.
    pub timeouts: Timeouts,
    /// What some sites take; these go before what is built in.
    pub shaping: Vec<SiteRule>,
}

/// How long to wait for each step of a delivery (RFC 5321 §4.5.3.2).
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

/// Whether DNSSEC is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dnssec {
    /// Signatures are checked here, if the name servers pass them on.
    Validate,
    /// Nobody asks.
    Off,
}

/// MTA-STS policies of destinations.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MtaSts {
    /// Whether anybody asks for them.
    pub enabled: bool,
    /// The port of the servers that have them.
    pub port: u16,
    /// How long a policy may take to arrive.
    #[serde(with = "duration")]
    pub fetch_timeout: Duration,
}

/// The least TLS for the mail of a domain and of those under it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationTls {
    /// The domain of the recipients.
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
            expiry: 5 * DAY,
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
    pub(super) fn find_fault(&self) -> Option<Fault> {
        if self.message_lifetime_max < self.expiry {
            return Some(Fault::new("relay.message_lifetime_max", "must be at least relay.expiry"));
        }
        at_least_one(&[
            ("relay.connections_max", self.connections_max as u64),
            ("relay.connections_per_destination_max", self.connections_per_destination_max as u64),
            ("relay.messages_per_connection_max", self.messages_per_connection_max.into()),
            ("relay.port", self.port.into()),
            ("relay.mta_sts.port", self.mta_sts.port.into()),
        ])
        .or_else(|| {
            let Timeouts { connect, greeting, command, starttls, data, block, final_dot, quit } =
                self.timeouts;
            longer_than_nothing(&[
                ("relay.expiry", self.expiry),
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
        .or_else(|| shaping::find_fault(self))
        .or_else(|| routing::find_fault(self))
    }
}
