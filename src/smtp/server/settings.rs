//! The settings that a server gives to its sessions.

use crate::mail::DomainName;
use crate::smtp::data::DataLimits;

/// The settings of a server that its sessions need.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// The host name in the greeting.
    pub hostname: DomainName,
    /// Limits of message content.
    pub data: DataLimits,
    /// Maximum of recipients of one message. The session is closed when more than twice as many RCPTs were rejected
    /// without an accepted message.
    pub recipients_max: usize,
    /// Errors before the session is closed.
    pub errors_max: u32,
    /// Commands without an accepted message before the session is closed. RCPT and DATA count only when rejected,
    /// under `recipients_max`.
    pub commands_without_message_max: u32,
    /// Whether to offer STARTTLS.
    pub starttls: bool,
}
