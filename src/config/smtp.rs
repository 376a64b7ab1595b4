//! The table `[smtp]`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::Deserialize;

use super::duration;
use super::error::{InvalidOption, require_at_least_one, require_positive_durations};

/// Upper bound of `recipients_max`: a recipient is a row in the transaction that stores its message.
const RECIPIENTS_MAX: usize = 10_000;
/// Upper bound of `session_timeout`. The relay checks recipients again that were suppressed up to an hour before the acceptance
/// of their message: see `store::memory::suppression_times`.
const SESSION_TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);

/// `[smtp]`: submission over SMTP.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Smtp {
    /// Listeners with STARTTLS (RFC 6409).
    pub submission: Vec<SocketAddr>,
    /// Listeners with TLS from the first octet (RFC 8314).
    pub submissions: Vec<SocketAddr>,
    /// The largest message, header included.
    pub message_size_max: ByteSize,
    /// Maximum of recipients of one message. A session is closed when more than twice as many were rejected without
    /// an accepted message.
    pub recipients_max: usize,
    /// Maximum of open connections. Beyond it, and beyond three quarters of it without a login, a new connection takes the
    /// slot of the oldest one without a login; without such a one it gets 421.
    pub connections_max: usize,
    /// Maximum of open connections from one address.
    pub connections_per_address_max: usize,
    /// Maximum of authenticated connections of one tenant.
    pub connections_per_tenant_max: usize,
    /// Memory for messages being received; beyond it clients get 451.
    pub inbound_buffer_max: ByteSize,
    /// Errors before a session is closed.
    pub errors_max: u32,
    /// Commands without an accepted message before a session is closed; RCPT and DATA are counted apart.
    pub commands_without_message_max: u32,
    /// Minimum average rate of message data, in octets per second; 0 for none.
    pub data_rate_min: ByteSize,
    /// How long a message may stay below the minimum rate.
    #[serde(with = "duration")]
    pub data_rate_grace: Duration,
    /// Failed logins within the window before the key id, or an address with several user names, is banned.
    pub login_failures_max: u32,
    /// How long a failed login counts.
    #[serde(with = "duration")]
    pub login_failures_window: Duration,
    /// The duration of a ban.
    #[serde(with = "duration")]
    pub login_ban: Duration,
    /// Networks whose addresses are never banned.
    pub login_ban_exempt: Vec<IpNet>,
    /// Whether SCRAM-SHA-256-PLUS is offered over TLS 1.3.
    pub scram_plus: bool,
    /// Networks of proxies: a connection from there must begin with a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// How long a client may take from the connection to the login.
    #[serde(with = "duration")]
    pub login_timeout: Duration,
    /// How long a client may send nothing.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// The longest duration of a session; at most 1 h.
    #[serde(with = "duration")]
    pub session_timeout: Duration,
    /// The treatment of a bare CR or LF in a message.
    pub bare_newline: BareNewline,
    /// The treatment of a message with several fields of which RFC 5322 §3.6 allows one.
    pub duplicate_headers: DuplicateHeaders,
    /// Whether tenants may send with `MAIL FROM:<>`.
    pub allow_null_sender: bool,
    /// Whether `Received` contains the client's address.
    pub received_includes_client_address: bool,
}

/// The treatment of a bare CR or LF in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BareNewline {
    /// LF becomes CRLF, CR becomes a space.
    Normalize,
    /// The message is refused.
    Reject,
}

/// The treatment of a message with several fields of which RFC 5322 §3.6 allows one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DuplicateHeaders {
    /// The message is refused.
    Reject,
    /// The message is relayed as it is.
    Allow,
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            submission: vec![all_interfaces(587)],
            submissions: vec![all_interfaces(465)],
            message_size_max: ByteSize::mib(25),
            recipients_max: 1000,
            connections_max: 12_000,
            connections_per_address_max: 1000,
            connections_per_tenant_max: 1000,
            inbound_buffer_max: ByteSize::mib(512),
            errors_max: 10,
            commands_without_message_max: 100,
            data_rate_min: ByteSize::kib(1),
            data_rate_grace: Duration::from_secs(30),
            login_failures_max: 20,
            login_failures_window: Duration::from_secs(10 * 60),
            login_ban: Duration::from_secs(15 * 60),
            login_ban_exempt: Vec::new(),
            scram_plus: false,
            proxy_protocol_from: Vec::new(),
            login_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            session_timeout: Duration::from_secs(60 * 60),
            bare_newline: BareNewline::Normalize,
            duplicate_headers: DuplicateHeaders::Reject,
            allow_null_sender: true,
            received_includes_client_address: false,
        }
    }
}

fn all_interfaces(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

impl Smtp {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        require_at_least_one(&[
            ("smtp.recipients_max", self.recipients_max as u64),
            ("smtp.connections_max", self.connections_max as u64),
            ("smtp.connections_per_address_max", self.connections_per_address_max as u64),
            ("smtp.connections_per_tenant_max", self.connections_per_tenant_max as u64),
            ("smtp.login_failures_max", self.login_failures_max.into()),
            ("smtp.errors_max", self.errors_max.into()),
            ("smtp.message_size_max", self.message_size_max.0),
        ])
        .or_else(|| {
            require_positive_durations(&[
                ("smtp.login_timeout", self.login_timeout),
                ("smtp.idle_timeout", self.idle_timeout),
                ("smtp.session_timeout", self.session_timeout),
            ])
        })
        .or_else(|| {
            // A client sends EHLO, STARTTLS, EHLO, AUTH and MAIL before any message.
            if self.commands_without_message_max < 10 {
                return Some(InvalidOption::new("smtp.commands_without_message_max", "must be at least 10"));
            }
            if self.session_timeout > SESSION_TIMEOUT_MAX {
                let message =
                    "must be at most 1h: the recipients of a message are checked before its transfer";
                return Some(InvalidOption::new("smtp.session_timeout", message));
            }
            if self.recipients_max > RECIPIENTS_MAX {
                return Some(InvalidOption::new("smtp.recipients_max", "must be at most 10000"));
            }
            // SQLite stores at most 10^9 octets in one value.
            if self.message_size_max > ByteSize::mib(512) {
                return Some(InvalidOption::new("smtp.message_size_max", "must be at most 512 MiB"));
            }
            if self.inbound_buffer_max < self.message_size_max {
                return Some(InvalidOption::new(
                    "smtp.inbound_buffer_max",
                    "must be at least smtp.message_size_max",
                ));
            }
            None
        })
    }
}
