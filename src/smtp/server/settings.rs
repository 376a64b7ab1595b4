//! The settings of SMTP sessions.

use crate::mail::DomainName;
use crate::smtp::data::DataLimits;

/// The settings that all sessions of a server share.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// The host name in the greeting.
    pub hostname: DomainName,
    /// Limits of message content.
    pub data: DataLimits,
    /// Maximum number of recipients of one message. The session is closed after more than twice as many rejected or
    /// repeated recipients without an accepted message.
    pub recipients_max: usize,
    /// Maximum number of errors; the next one closes the session.
    pub errors_max: u32,
    /// Maximum number of commands without an accepted message; the next one closes the session. RCPT, DATA and chunks
    /// with content are not counted here: rejected RCPTs and DATAs count towards the limit that `recipients_max` sets.
    pub commands_without_message_max: u32,
    /// Whether to offer STARTTLS.
    pub starttls: bool,
}
