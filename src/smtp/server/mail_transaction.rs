//! One mail transaction (RFC 5321 §3.3): its envelope so far, and the refusals that the session decides itself.

use std::collections::HashSet;

use crate::mail::{Address, AddressError, Envelope, Recipient, ReversePath};
use crate::model::{Refusal, RefusalCode};
use crate::smtp::command::MailArguments;
use crate::smtp::data::{ContentError, DataLimits, Decoder};
use crate::smtp::parameters::MailOptions;

/// Maximum of the buffer that is reserved before any content arrives, whatever SIZE declares.
const OCTETS_EXPECTED_MAX: u64 = 1024 * 1024;
/// The buffer reserved when SIZE is absent.
const OCTETS_EXPECTED: u64 = 16 * 1024;

/// An envelope between MAIL and the end of the data.
#[derive(Debug)]
pub struct MailTransaction {
    pub reverse_path: ReversePath,
    pub recipients: Vec<Recipient>,
    /// Of the recipients, to find one that is given twice.
    addresses: HashSet<Address>,
    pub options: MailOptions,
    /// Content received in chunks (RFC 3030); `None` before the first chunk.
    pub content: Option<Decoder>,
}

impl MailTransaction {
    pub fn new(mail: MailArguments) -> Self {
        Self {
            reverse_path: mail.path,
            recipients: Vec::new(),
            addresses: HashSet::new(),
            options: mail.options,
            content: None,
        }
    }

    /// Adds a recipient.
    pub fn add(&mut self, recipient: Recipient) {
        self.addresses.insert(recipient.address.clone());
        self.recipients.push(recipient);
    }

    /// Whether the address is a recipient already.
    pub fn has(&self, address: &Address) -> bool {
        self.addresses.contains(address)
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

    /// Memory that the chunks received so far use.
    pub fn memory_octets(&self) -> usize {
        self.content.as_ref().map_or(0, Decoder::memory_octets)
    }

    /// The size of the buffer to reserve. A client may declare any SIZE, so it is limited.
    pub fn octets_expected(&self, limits: &DataLimits) -> usize {
        let hint = self.options.octets.map_or(OCTETS_EXPECTED, |octets| octets.min(OCTETS_EXPECTED_MAX));
        let stored_max = limits.keep_octets_max.unwrap_or(u64::MAX).min(limits.message_octets_max);
        usize::try_from(hint.min(stored_max)).unwrap_or(0)
    }
}

/// The address in RCPT is not valid.
pub fn invalid_recipient(error: AddressError) -> Refusal {
    Refusal::new(
        RefusalCode::RecipientInvalid,
        format!("the recipient address is not valid: {error}"),
        "correct the address",
    )
}

/// The message has more recipients than the server supports (RFC 5321 §4.5.3.1.10).
pub fn too_many_recipients(recipients_max: usize) -> Refusal {
    Refusal::new(
        RefusalCode::TooManyRecipients,
        format!("a message can have at most {recipients_max} recipients"),
        "send to the remaining recipients in another message",
    )
}

/// The message is too large: as declared with MAIL (RFC 1870 §6.1) or as received (§6.3).
pub fn too_large(octets_max: u64) -> Refusal {
    Refusal::new(
        RefusalCode::MessageTooLarge,
        format!("the message is larger than {octets_max} octets"),
        "reduce the message, for example by a link in place of an attachment",
    )
}

/// RFC 3030 §3: the message was declared BINARYMIME and cannot be relayed as 8BITMIME.
pub fn refuse_binary() -> Refusal {
    Refusal::new(
        RefusalCode::ConversionRequired,
        "BINARYMIME is accepted only if the content is already CRLF text: this message contains a NUL, a bare CR or LF, or a line that is too long",
        "encode binary parts in base64",
    )
}

/// The refusal of a message that was received completely.
pub fn refuse_content_error(error: ContentError, limits: &DataLimits) -> Refusal {
    match error {
        ContentError::TooLarge => too_large(limits.message_octets_max),
        ContentError::Nul => Refusal::new(
            RefusalCode::NulInContent,
            "the message contains a NUL octet",
            "encode binary parts in base64",
        ),
        ContentError::BareNewline => Refusal::new(
            RefusalCode::BareNewline,
            "the message contains a bare carriage return or line feed",
            "end every line with CRLF",
        ),
        ContentError::LineTooLong => Refusal::new(
            RefusalCode::LineTooLong,
            format!("a line of the message is longer than {} octets", limits.line_octets_max),
            "encode the part in base64 or quoted-printable",
        ),
    }
}
