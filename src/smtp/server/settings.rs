//! The settings of SMTP sessions.

use crate::mail::DomainName;
use crate::smtp::data::DataLimits;

/// Who the sessions are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Clients that log in and submit mail (RFC 6409).
    Submission,
    /// Other servers that send reports. They do not log in, and nothing that they send is relayed.
    Inbound,
}

/// The settings that all sessions of a server share.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Who the sessions are for.
    pub profile: Profile,
    /// The host name in the greeting.
    pub hostname: DomainName,
    /// Limits of message content.
    pub data: DataLimits,
    /// Maximum number of recipients of one message.
    pub recipients_max: usize,
    /// Maximum number of rejected or repeated recipients without an accepted message; the next one closes the session.
    pub refused_recipients_max: usize,
    /// Maximum number of errors; the next one closes the session.
    pub errors_max: u32,
    /// Maximum number of commands without an accepted message; the next one closes the session. RCPT, DATA and chunks
    /// with content are not counted here: rejected RCPTs and DATAs count towards `refused_recipients_max`.
    pub commands_without_message_max: u32,
    /// Whether to offer STARTTLS.
    pub starttls: bool,
}
