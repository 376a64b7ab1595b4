//! One mail transaction (RFC 5321 §3.3): the envelope while it is written, and what the protocol itself refuses in it.

use crate::mail::{AddressError, Envelope, Recipient, ReversePath};
use crate::model::{Refusal, RefusalCode};
use crate::smtp::command::MailArguments;
use crate::smtp::data::{DataLimits, Decoder, Fault};
use crate::smtp::parameters::MailOptions;

/// The room that a message gets before anything of it has come, whatever its MAIL declared.
const OCTETS_EXPECTED_MAX: u64 = 1024 * 1024;
/// The same where MAIL declared nothing.
const OCTETS_EXPECTED: u64 = 16 * 1024;

/// An envelope between MAIL and the end of the data.
#[derive(Debug)]
pub struct Draft {
    pub reverse_path: ReversePath,
    pub recipients: Vec<Recipient>,
    pub options: MailOptions,
    /// What came in chunks (RFC 3030); nothing before the first.
    pub content: Option<Decoder>,
}

impl Draft {
    pub fn new(mail: MailArguments) -> Self {
        Self { reverse_path: mail.path, recipients: Vec::new(), options: mail.options, content: None }
    }

    pub fn into_envelope(self) -> Envelope {
        Envelope {
            reverse_path: self.reverse_path,
            recipients: self.recipients,
            body: self.options.body,
            smtputf8: self.options.smtputf8,
            parameters: self.options.parameters,
        }
    }

    /// Octets of memory that its chunks take.
    pub fn memory_octets(&self) -> usize {
        self.content.as_ref().map_or(0, Decoder::memory_octets)
    }

    /// How much room to make: what MAIL declared is a hint, never a right.
    pub fn octets_expected(&self, limits: &DataLimits) -> usize {
        let hint = self.options.octets.map_or(OCTETS_EXPECTED, |octets| octets.min(OCTETS_EXPECTED_MAX));
        usize::try_from(hint.min(limits.message_octets_max)).unwrap_or(0)
    }
}

/// The mailbox in RCPT is none.
pub fn invalid_recipient(error: AddressError) -> Refusal {
    Refusal::new(
        RefusalCode::RecipientInvalid,
        format!("the recipient is not valid: {error}"),
        "correct the address",
    )
}

/// RFC 5321 §4.5.3.1.10.
pub fn too_many_recipients(recipients_max: usize) -> Refusal {
    Refusal::new(
        RefusalCode::TooManyRecipients,
        format!("a message has at most {recipients_max} recipients"),
        "send to the others in another message",
    )
}

/// RFC 1870 §6.1 at MAIL, §6.3 at the end of the data.
pub fn too_large(octets_max: u64) -> Refusal {
    Refusal::new(
        RefusalCode::MessageTooLarge,
        format!("the message is larger than {octets_max} octets"),
        "send less, or a link in place of an attachment",
    )
}

/// RFC 3030 §3: declared BINARYMIME, and not such that it could be sent on as 8BITMIME.
pub fn not_convertible() -> Refusal {
    Refusal::new(
        RefusalCode::ConversionRequired,
        "the binary message has a NUL, a lone CR or LF or a very long line, which other servers do not take",
        "encode binary parts in base64",
    )
}

/// The message was received to its end and cannot be taken.
pub fn faulty_message(fault: Fault, limits: &DataLimits) -> Refusal {
    match fault {
        Fault::TooLarge => too_large(limits.message_octets_max),
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
    }
}
