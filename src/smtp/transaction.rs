//! One mail transaction (RFC 5321 §3.3): the envelope while it is written, and what the protocol itself refuses in it.

use super::command::MailArguments;
use super::data::{DataLimits, Fault};
use super::session::{Refused, Settings};
use crate::mail::{
    Address, AddressError, BodyType, EnhancedStatus, Envelope, Refusal, RefusalCode, ReversePath, Stage,
};

/// The room that a message gets before anything of it has come, whatever its MAIL declared.
const OCTETS_EXPECTED_MAX: u64 = 1024 * 1024;
/// The same where MAIL declared nothing.
const OCTETS_EXPECTED: u64 = 16 * 1024;

/// An envelope between MAIL and the end of the data.
#[derive(Debug)]
pub struct Draft {
    pub reverse_path: ReversePath,
    pub recipients: Vec<Address>,
    pub body: BodyType,
    pub smtputf8: bool,
    pub octets_declared: Option<u64>,
}

impl Draft {
    pub fn new(mail: MailArguments) -> Self {
        Self {
            reverse_path: mail.path,
            recipients: Vec::new(),
            body: mail.body,
            smtputf8: mail.smtputf8,
            octets_declared: mail.octets,
        }
    }

    pub fn into_envelope(self) -> Envelope {
        Envelope {
            reverse_path: self.reverse_path,
            recipients: self.recipients,
            body: self.body,
            smtputf8: self.smtputf8,
        }
    }

    /// How much room to make: what MAIL declared is a hint, never a right.
    pub fn octets_expected(&self, limits: &DataLimits) -> usize {
        let hint = self.octets_declared.map_or(OCTETS_EXPECTED, |octets| octets.min(OCTETS_EXPECTED_MAX));
        usize::try_from(hint.min(limits.message_octets_max)).unwrap_or(0)
    }

    /// Why this recipient cannot be added, as far as the protocol knows.
    pub fn find_fault(&self, recipient: &Address, settings: &Settings) -> Option<Refused> {
        if self.recipients.len() >= settings.recipients_max {
            return Some(too_many_recipients(settings.recipients_max));
        }
        // RFC 6531 §3.5.
        if recipient.needs_smtputf8() && !self.smtputf8 {
            let message = "the recipient address is not ASCII and MAIL had no SMTPUTF8 parameter";
            return Some(recipient_refused(
                553,
                (6, 7),
                message,
                "send with a client that supports SMTPUTF8",
            ));
        }
        // RFC 5321 §2.3.5; our own name may be short, for the postmaster's sake.
        let short = |name: &crate::mail::DomainName| !name.is_fully_qualified() && *name != settings.hostname;
        if recipient.domain().is_some_and(short) {
            let message = format!("the domain of {recipient} is not fully qualified");
            return Some(recipient_refused(550, (1, 2), message, "write the whole domain name"));
        }
        None
    }
}

/// The mailbox in RCPT is none.
pub fn invalid_recipient(error: AddressError) -> Refused {
    recipient_refused(553, (1, 3), format!("the recipient is not valid: {error}"), "correct the address")
}

/// RFC 1870 §6.1 at MAIL, §6.3 at the end of the data.
pub fn too_large(stage: Stage, octets_max: u64) -> Refused {
    refused(
        stage,
        552,
        (3, 4),
        Refusal::new(
            RefusalCode::MessageTooLarge,
            format!("the message is larger than {octets_max} octets"),
            "send less, or a link in place of an attachment",
        ),
    )
}

/// The message was received to its end and cannot be taken.
pub fn faulty_message(fault: Fault, limits: &DataLimits) -> Refused {
    let refusal = match fault {
        Fault::TooLarge => return too_large(Stage::Data, limits.message_octets_max),
        Fault::Nul => Refusal::new(
            RefusalCode::NulInContent,
            "the message contains a NUL octet",
            "encode binary parts in base64",
        ),
        Fault::BareNewline => Refusal::new(
            RefusalCode::BareNewline,
            "the message contains a carriage return or line feed that stands alone",
            "end every line with CRLF",
        ),
        Fault::LineTooLong => Refusal::new(
            RefusalCode::LineTooLong,
            format!("a line of the message has more than {} octets", limits.line_octets_max),
            "encode the part in base64 or quoted-printable",
        ),
    };
    refused(Stage::Data, 554, (6, 0), refusal)
}

/// RFC 5321 §4.5.3.1.10: 452, so that the client sends the rest in another transaction.
fn too_many_recipients(recipients_max: usize) -> Refused {
    let refusal = Refusal::new(
        RefusalCode::TooManyRecipients,
        format!("a message has at most {recipients_max} recipients"),
        "send to the others in another message",
    );
    refused(Stage::Rcpt, 452, (5, 3), refusal)
}

fn recipient_refused(code: u16, detail: (u16, u16), message: impl Into<String>, hint: &str) -> Refused {
    refused(Stage::Rcpt, code, detail, Refusal::new(RefusalCode::RecipientInvalid, message, hint))
}

fn refused(stage: Stage, code: u16, (subject, detail): (u16, u16), refusal: Refusal) -> Refused {
    // RFC 2034 §4: both codes have the same first digit.
    let enhanced = EnhancedStatus::new(if code < 500 { 4 } else { 5 }, subject, detail);
    Refused { stage, code, enhanced, refusal }
}
