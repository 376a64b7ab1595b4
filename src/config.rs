//! The configuration: one TOML file, read once into typed values. It configures the process; the API manages data.
//!
//! Every option has a default and a unit in its name or its value, so an empty file is a valid one. Unknown keys are
//! refused. Secrets stand in files of their own, named here by path. A leaf: imports nothing of this crate but `mail`.

mod routing;
mod shaping;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::Deserialize;

use crate::mail::{Address, DomainName, TlsMinimum};
pub use routing::{Endpoint, EndpointError, PlatformSmartHost, Pool, Route, Source};

pub use shaping::SiteRule;

/// Everything that the file can say.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The name in greetings, `Received` and Message-IDs: the machine's own, fully qualified.
    pub hostname: DomainName,
    /// Where the spool, the keys of the store and large bodies are.
    pub data_dir: PathBuf,
    /// The file with the key that seals secrets; `master.key` in the data directory if absent.
    pub master_key_file: Option<PathBuf>,
    /// How long a stop waits for what is running.
    #[serde(with = "duration")]
    pub shutdown_deadline: Duration,
    /// What is logged, and how.
    pub log: Log,
    /// Submission over SMTP.
    pub smtp: Smtp,
    /// The server's certificate.
    pub tls: Tls,
    /// The control API.
    pub api: Api,
    /// Sending domains and their proof.
    pub domains: Domains,
    /// Delivery.
    pub relay: Relay,
    /// Events for web servers.
    pub webhooks: Webhooks,
    /// Reports on TLS to the domains that mail goes to.
    pub tls_report: TlsReport,
    /// How long things are kept.
    pub retention: Retention,
    /// The store.
    pub store: Store,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A filter of `tracing`: a level, or directives like `info,pillarbox::relay=debug`.
    pub level: String,
    /// For people or for programs.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line.
    Text,
    /// One JSON object.
    Json,
}

/// Submission over SMTP.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Smtp {
    /// Listeners with STARTTLS (RFC 6409).
    pub submission: Vec<SocketAddr>,
    /// Listeners with TLS from the first octet (RFC 8314).
    pub submissions: Vec<SocketAddr>,
    /// The largest message, header included.
    pub message_size_max: ByteSize,
    /// Recipients of one message. A session is closed when more than twice as many were named in vain without a message
    /// being accepted.
    pub recipients_max: usize,
    /// Open connections in all; more are answered 421.
    pub connections_max: usize,
    /// Open connections from one address.
    pub connections_per_address_max: usize,
    /// Open connections that are logged in for one tenant.
    pub connections_per_tenant_max: usize,
    /// Octets of messages being received at one time in all; more are answered 451.
    pub receiving_bytes_max: ByteSize,
    /// Errors after which a session is closed.
    pub errors_max: u32,
    /// Commands without a message, after which a session is closed; RCPT and DATA are counted apart.
    pub commands_without_message_max: u32,
    /// Octets in a second, on average, that a message must come with; 0 for any.
    pub data_rate_min: ByteSize,
    /// How long a message may come more slowly.
    #[serde(with = "duration")]
    pub data_rate_grace: Duration,
    /// Failed logins within the window; the next one bans the address, or the key's id.
    pub login_failures_max: u32,
    /// How long a failed login counts.
    #[serde(with = "duration")]
    pub login_failures_window: Duration,
    /// How long a ban lasts.
    #[serde(with = "duration")]
    pub login_ban: Duration,
    /// Networks of proxies: each connection from there must begin with a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// How long a client may be silent.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// How long a session may last in all.
    #[serde(with = "duration")]
    pub session_timeout: Duration,
    /// What becomes of a lone CR or LF in a message.
    pub bare_newline: BareNewline,
    /// Whether `MAIL FROM:<>` is taken from a tenant.
    pub null_sender: bool,
    /// Whether `Received` names the client's address.
    pub received_client_address: bool,
}

/// What becomes of a lone CR or LF in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BareNewline {
    /// LF becomes CRLF, CR becomes a space.
    Normalize,
    /// The message is refused.
    Reject,
}

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
    /// Octets of the bodies of all requests at one time; more are answered 503.
    pub receiving_bytes_max: ByteSize,
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
    pub kept_answers_max: ByteSize,
    /// Requests that a tenant without a limit of its own may make in a minute; 0 is any number.
    pub requests_per_minute: u32,
    /// Requests that one key of a tenant may make in a minute; 0 is any number.
    pub key_requests_per_minute: u32,
}

/// Sending domains and their proof.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Domains {
    /// Between two looks at a domain's records.
    #[serde(with = "duration")]
    pub check_interval: Duration,
    /// How long the records of a verified domain may be wrong before it stops sending.
    #[serde(with = "duration")]
    pub failing_after: Duration,
    /// What the `include:` of a tenant's SPF record should name; the server's host name if absent.
    pub spf_include: Option<DomainName>,
}

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
    pub connection_idle: Duration,
    /// How long delivery is tried, unless the tenant or the message has its own time.
    #[serde(with = "duration")]
    pub expiry: Duration,
    /// The longest time that a tenant or a message may have.
    #[serde(with = "duration")]
    pub expiry_max: Duration,
    /// Octets of accepted messages kept in memory for immediate delivery.
    pub handover_bytes_max: ByteSize,
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
    /// Requests at one time in all.
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

/// How long things are kept after the last delivery of a message is finished.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Bodies.
    pub body_days: u32,
    /// What was said in each attempt.
    pub transcript_days: u32,
    /// What is known of a message; a tenant's own value goes first.
    pub message_days: u32,
    /// What webhooks were told or could not be told, after the event.
    pub webhook_days: u32,
}

/// The store.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Connections that read.
    pub readers: u32,
    /// A body above this goes to a file of its own.
    pub inline_body_max: ByteSize,
    /// Nothing is accepted while the file system of the data directory has less room than this.
    pub free_disk_min: ByteSize,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: own_hostname(),
            data_dir: PathBuf::from("/var/lib/pillarbox"),
            master_key_file: None,
            shutdown_deadline: Duration::from_secs(30),
            log: Log::default(),
            smtp: Smtp::default(),
            tls: Tls::default(),
            api: Api::default(),
            domains: Domains::default(),
            relay: Relay::default(),
            webhooks: Webhooks::default(),
            tls_report: TlsReport::default(),
            retention: Retention::default(),
            store: Store::default(),
        }
    }
}

/// The machine's name, or `localhost` where it has none that mail can use.
fn own_hostname() -> DomainName {
    let system = rustix::system::uname();
    DomainName::parse(&system.nodename().to_string_lossy())
        .or_else(|_| DomainName::parse("localhost"))
        .unwrap_or_else(|_| unreachable!("localhost is a domain name"))
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

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            submission: vec![everywhere(587)],
            submissions: vec![everywhere(465)],
            message_size_max: ByteSize::mib(25),
            recipients_max: 1000,
            connections_max: 12_000,
            connections_per_address_max: 1000,
            connections_per_tenant_max: 1000,
            receiving_bytes_max: ByteSize::mib(512),
            errors_max: 10,
            commands_without_message_max: 100,
            data_rate_min: ByteSize::kib(1),
            data_rate_grace: Duration::from_secs(30),
            login_failures_max: 20,
            login_failures_window: Duration::from_secs(10 * 60),
            login_ban: Duration::from_secs(15 * 60),
            proxy_protocol_from: Vec::new(),
            idle_timeout: Duration::from_secs(300),
            session_timeout: Duration::from_secs(60 * 60),
            bare_newline: BareNewline::Normalize,
            null_sender: true,
            received_client_address: false,
        }
    }
}

/// The form in which browsers send an origin (RFC 6454 §6.1).
fn is_origin(text: &str) -> bool {
    let authority =
        text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let is_of_authority = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]_".contains(&b);
    !authority.is_empty() && authority.bytes().all(is_of_authority)
}

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), port)
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8587)],
            metrics_listen: Vec::new(),
            tls: false,
            body_max: ByteSize::mib(1),
            send_body_max: ByteSize::mib(40),
            receiving_bytes_max: ByteSize::mib(256),
            request_timeout: Duration::from_secs(30),
            connections_max: 1000,
            connections_per_address_max: 250,
            idle_timeout: Duration::from_secs(75),
            cors_origins: Vec::new(),
            kept_answers_max: ByteSize::mib(256),
            requests_per_minute: 12_000,
            key_requests_per_minute: 6000,
        }
    }
}

impl Default for Domains {
    fn default() -> Self {
        Self { check_interval: Duration::from_secs(60 * 60), failing_after: 3 * DAY, spf_include: None }
    }
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
            connection_idle: Duration::from_secs(30),
            expiry: 5 * DAY,
            expiry_max: 10 * DAY,
            handover_bytes_max: ByteSize::mib(64),
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

impl Default for Retention {
    fn default() -> Self {
        Self { body_days: 3, transcript_days: 7, message_days: 30, webhook_days: 7 }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { readers: 4, inline_body_max: ByteSize::kib(256), free_disk_min: ByteSize::mib(256) }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}; name another one with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML, or a key is unknown or of the wrong type; the text names line and key.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and reason.
        message: String,
    },
    /// A value is well formed and makes no sense.
    #[error("{path}: {key}: {message}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The dotted key.
        key: &'static str,
        /// What to write instead.
        message: String,
    },
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads and checks a text that stands in `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        match config.find_fault() {
            None => Ok(config),
            Some((key, message)) => {
                Err(ConfigError::Value { path: path.to_owned(), key, message: message.to_owned() })
            }
        }
    }

    /// The first value that makes no sense, by its key, and what to do.
    fn find_fault(&self) -> Option<(&'static str, &'static str)> {
        let zero = [
            ("smtp.recipients_max", self.smtp.recipients_max == 0),
            ("smtp.connections_max", self.smtp.connections_max == 0),
            ("smtp.connections_per_address_max", self.smtp.connections_per_address_max == 0),
            ("smtp.connections_per_tenant_max", self.smtp.connections_per_tenant_max == 0),
            ("smtp.login_failures_max", self.smtp.login_failures_max == 0),
            ("smtp.errors_max", self.smtp.errors_max == 0),
            ("smtp.message_size_max", self.smtp.message_size_max.0 == 0),
            ("api.connections_max", self.api.connections_max == 0),
            ("api.connections_per_address_max", self.api.connections_per_address_max == 0),
            ("api.idle_timeout", self.api.idle_timeout.is_zero()),
            ("relay.connections_max", self.relay.connections_max == 0),
            ("relay.connections_per_destination_max", self.relay.connections_per_destination_max == 0),
            ("relay.messages_per_connection_max", self.relay.messages_per_connection_max == 0),
            ("webhooks.requests_max", self.webhooks.requests_max == 0),
            ("webhooks.requests_per_webhook_max", self.webhooks.requests_per_webhook_max == 0),
            ("store.readers", self.store.readers == 0),
        ];
        if !self.api.cors_origins.iter().all(|origin| is_origin(origin)) {
            return Some((
                "api.cors_origins",
                "must be origins as browsers send them, like https://console.example.com",
            ));
        }
        if self.relay.expiry.is_zero() {
            return Some(("relay.expiry", "must be longer: nothing could be delivered in no time"));
        }
        if self.webhooks.timeout.is_zero() {
            return Some(("webhooks.timeout", "must be longer: nothing could be told in no time"));
        }
        // A try that failed is repeated for more than three days.
        if self.retention.webhook_days < 4 {
            return Some(("retention.webhook_days", "must be at least 4: so long is an event told again"));
        }
        if self.relay.expiry_max < self.relay.expiry {
            return Some(("relay.expiry_max", "must be at least relay.expiry"));
        }
        if let Some((key, _)) = zero.iter().find(|(_, is_zero)| *is_zero) {
            return Some((key, "must be at least 1"));
        }
        // EHLO, STARTTLS, EHLO, AUTH and MAIL come before any message.
        if self.smtp.commands_without_message_max < 10 {
            return Some(("smtp.commands_without_message_max", "must be at least 10"));
        }
        // SQLite holds at most a billion octets in one value; files would take more, memory would not.
        if self.smtp.message_size_max > ByteSize::mib(512) {
            return Some(("smtp.message_size_max", "must be at most 512 MiB"));
        }
        if self.smtp.receiving_bytes_max < self.smtp.message_size_max {
            return Some(("smtp.receiving_bytes_max", "must be at least smtp.message_size_max"));
        }
        if self.tls.certificate.is_some() != self.tls.private_key.is_some() {
            return Some(("tls", "certificate and private_key go together: set both or neither"));
        }
        let known = Relay::default().site_rules();
        if self.relay.shaping.iter().any(|rule| rule.has_fault(&known)) {
            return Some((
                "relay.shaping",
                "each rule needs a name, mx or domains (or the name of a built-in rule), and limits of at least 1",
            ));
        }
        routing::find_fault(&self.relay)
    }
}

mod duration {
    //! Durations as people write them: `30s`, `5m`, `1h 30m`.

    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer};

    /// No clock overflows when so much is added to now.
    const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(d)?;
        let fault = || D::Error::custom(format!("`{text}` is not a duration; write it like 30s, 5m or 72h"));
        let signed: jiff::SignedDuration = text.parse().map_err(|_| fault())?;
        let duration = Duration::try_from(signed).map_err(|_| fault())?;
        if duration > DURATION_MAX {
            return Err(D::Error::custom(format!("`{text}` is too long; at most 87600h, ten years")));
        }
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../config/pillarbox.toml");

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("test.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_sample_shows_the_defaults() {
        assert_eq!(parse(SAMPLE).unwrap(), Config::default());
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn what_the_sample_leaves_out_is_right_as_well() {
        let is_option = |line: &str| {
            let line = line.trim_start_matches("# ");
            line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
        };
        let all: String = SAMPLE
            .lines()
            .map(|line| if is_option(line) { line.trim_start_matches("# ") } else { "" })
            .fold(String::new(), |text, line| text + line + "\n");
        let config = parse(&all).unwrap();
        assert!(config.master_key_file.is_some() && config.tls.certificate.is_some());
        assert!(config.relay.smart_host.is_some() && config.relay.source_address.is_some());
        assert!(config.webhooks.ca_file.is_some());
        assert!(config.tls_report.organization.is_some() && config.tls_report.mail.is_some());
        assert!(config.domains.spf_include.is_some() && config.relay.ca_file.is_some());
        assert!(config.relay.trust_anchor_file.is_some() && !config.relay.tls_minimum.is_empty());
    }

    #[test]
    fn a_fault_is_told_with_file_line_and_key() {
        for (text, parts) in [
            ("[smtp]\nlisten = 1\n", ["test.toml", "line 2", "unknown field `listen`"]),
            ("[smtp]\nidle_timeout = \"soon\"\n", ["test.toml", "idle_timeout", "write it like 30s"]),
            ("[relay]\nexpiry = \"99999999h\"\n", ["test.toml", "expiry", "at most 87600h"]),
            ("[relay]\nexpiry = \"0s\"\n", ["test.toml", "relay.expiry", "must be longer"]),
            ("[relay]\nexpiry = \"300h\"\n", ["test.toml", "relay.expiry_max", "at least relay.expiry"]),
            ("[smtp]\nrecipients_max = 0\n", ["test.toml", "smtp.recipients_max", "at least 1"]),
            ("[tls]\ncertificate = \"a\"\n", ["test.toml", "tls", "set both or neither"]),
            ("[[relay.shaping]]\nname = \"x\"\n", ["test.toml", "relay.shaping", "mx or domains"]),
            (
                "[[relay.shaping]]\nname = \"google\"\nconnections_max = 0\n",
                ["test.toml", "relay.shaping", "at least 1"],
            ),
            ("[api]\ncors_origins = [\"*\"]\n", ["test.toml", "api.cors_origins", "as browsers send them"]),
            (
                "[api]\ncors_origins = [\"https://a.example/\"]\n",
                ["test.toml", "api.cors_origins", "as browsers send them"],
            ),
            ("hostname = \"a b\"\n", ["test.toml", "hostname", "letters, digits"]),
            ("[smtp]\nmessage_size_max = \"600 MiB\"\n", ["test.toml", "smtp.message_size_max", "512 MiB"]),
            (
                "[smtp]\nreceiving_bytes_max = \"1 MiB\"\n",
                ["test.toml", "smtp.receiving_bytes_max", "at least"],
            ),
            (
                "[relay.smart_host]\nhost = \"a\"\nuser = \"b\"\n",
                ["test.toml", "relay.smart_host", "both or neither"],
            ),
        ] {
            let error = parse(text).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{part} is not in: {error}");
            }
        }
    }
}
