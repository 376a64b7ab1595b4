//! The message to send as commands (RFC 5321 §4.1.1), by the capabilities of the server, and the result for each recipient.

use std::fmt::Write;

use super::{Capabilities, Phase};
use crate::mail::{Address, EnhancedStatus, MailParameters, RcptParameters, ReversePath};
use crate::smtp::Reply;

/// The message to send.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The path of MAIL.
    pub reverse_path: &'a ReversePath,
    /// The parameters of MAIL.
    pub parameters: &'a MailParameters,
    /// The recipients, at least one.
    pub recipients: &'a [Target<'a>],
    /// The size of the message.
    pub size_octets: u64,
    /// Whether the content has octets above 127 or was declared 8BITMIME.
    pub eight_bit: bool,
    /// Whether a header, also of a MIME part, has octets above 127 (RFC 6531 §3.2).
    pub utf8_header: bool,
    /// Whether the connection has an open transaction, which RSET must end first.
    pub reset: bool,
}

/// One recipient.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The path of RCPT.
    pub address: &'a Address,
    /// The parameters of RCPT.
    pub parameters: &'a RcptParameters,
}

/// The result for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The command that the reply answers.
    pub phase: Phase,
    /// The server's reply, or our own if the server lacks an extension that the message needs.
    pub reply: Reply,
}

impl Request<'_> {
    /// The MAIL command.
    pub(super) fn mail_line(&self, capabilities: &Capabilities) -> String {
        let mut line = format!("MAIL FROM:<{}>", self.reverse_path);
        // Writing to a String cannot fail.
        if capabilities.size_octets_max.is_some() {
            let _ = write!(line, " SIZE={}", self.size_octets);
        }
        if self.eight_bit && capabilities.eight_bit_mime {
            line.push_str(" BODY=8BITMIME");
        }
        if capabilities.smtputf8 && self.needs_smtputf8() {
            line.push_str(" SMTPUTF8");
        }
        // RFC 8689 §4.2.1: the next server must require TLS too.
        if capabilities.require_tls && self.parameters.require_tls {
            line.push_str(" REQUIRETLS");
        }
        // RFC 3461 §5.2.1: passed on unchanged, never added.
        if capabilities.dsn {
            if let Some(wanted) = self.parameters.return_content {
                let _ = write!(line, " RET={}", wanted.as_str());
            }
            if let Some(id) = &self.parameters.envelope_id {
                let _ = write!(line, " ENVID={id}");
            }
        }
        line.push_str("\r\n");
        line
    }

    fn needs_smtputf8(&self) -> bool {
        self.utf8_header
            || self.reverse_path.mailbox().is_some_and(Address::needs_smtputf8)
            || self.recipients.iter().any(|recipient| recipient.address.needs_smtputf8())
    }

    /// The result of a recipient that the server's capabilities already exclude.
    pub(super) fn missing_capability(
        &self,
        capabilities: &Capabilities,
        recipient: &Address,
    ) -> Option<Outcome> {
        // RFC 1870 §6.1: the client need not send a message above the declared limit.
        if let Some(octets_max @ 1..) = capabilities.size_octets_max
            && self.size_octets > octets_max
        {
            let text = format!(
                "the message has {} octets, the server accepts at most {octets_max}",
                self.size_octets
            );
            return Some(refuse(Phase::Mail, 552, EnhancedStatus::new(5, 3, 4), text));
        }
        let for_all = self.utf8_header || self.reverse_path.mailbox().is_some_and(Address::needs_smtputf8);
        if !capabilities.smtputf8 && (for_all || recipient.needs_smtputf8()) {
            // RFC 6531 §3.2: such a message must not be sent; §3.5 gives the code.
            let text = "the server does not offer SMTPUTF8, which this message needs".into();
            return Some(refuse(Phase::Mail, 550, EnhancedStatus::new(5, 6, 7), text));
        }
        None
    }
}

impl Target<'_> {
    /// The RCPT command.
    pub(super) fn rcpt_line(&self, capabilities: &Capabilities) -> String {
        let mut line = format!("RCPT TO:<{}>", self.address);
        if capabilities.dsn {
            if let Some(notify) = self.parameters.notify {
                let _ = write!(line, " NOTIFY={notify}");
            }
            if let Some(original) = &self.parameters.original_recipient {
                let _ = write!(line, " ORCPT={original}");
            }
        }
        line.push_str("\r\n");
        line
    }
}

fn refuse(phase: Phase, code: u16, enhanced: EnhancedStatus, text: String) -> Outcome {
    Outcome { phase, reply: Reply { code, enhanced: Some(enhanced), lines: vec![text] } }
}
