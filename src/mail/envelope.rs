//! The envelope of a message: who it is from and to, as SMTP says it, and what was asked for along with that.

use std::fmt;
use std::str::FromStr;

use super::{Address, AddressError, EnvelopeId, OriginalRecipient, Timestamp};

/// The reverse path: where reports go (RFC 5321 §4.1.1.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: nobody wants a report. RFC 5321 §4.5.5.
    Null,
    /// A mailbox.
    Mailbox(Address),
}

/// What MAIL's `BODY` parameter declared (RFC 6152).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyType {
    /// Seven-bit, or undeclared.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
}

/// How much of a message that failed comes back with the report: MAIL's `RET` (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReturnContent {
    /// All of it.
    Full,
    /// The header.
    Headers,
}

/// What a recipient's sender wants to hear of: RCPT's `NOTIFY` (RFC 3461 §4.1). None of the three is `NEVER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Notify {
    /// That it arrived.
    pub success: bool,
    /// That it will not arrive.
    pub failure: bool,
    /// That it takes long.
    pub delay: bool,
}

/// What MAIL asked for beside the path, as far as it outlives the session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailParameters {
    /// `RET`.
    pub return_content: Option<ReturnContent>,
    /// `ENVID`.
    pub envelope_id: Option<EnvelopeId>,
    /// `REQUIRETLS` (RFC 8689): over verified TLS to servers that promise the same, or not at all.
    pub require_tls: bool,
    /// `HOLDFOR` and `HOLDUNTIL` (RFC 4865): not before this time.
    pub release_at: Option<Timestamp>,
    /// The seconds that `HOLDFOR` said, of which `release_at` is made. Not kept.
    pub held_for_s: Option<u32>,
    /// When delivery is to be given up, if the submitter chose it. It ends in the message's own lifetime and is not
    /// kept beside that.
    pub deliver_by: Option<Timestamp>,
}

/// What RCPT asked for beside the path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RcptParameters {
    /// `NOTIFY`.
    pub notify: Option<Notify>,
    /// `ORCPT`.
    pub original_recipient: Option<OriginalRecipient>,
}

/// One recipient of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Where to.
    pub address: Address,
    /// What RCPT asked for.
    pub parameters: RcptParameters,
}

/// Everything that MAIL and RCPT said, once they were admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Where reports go.
    pub reverse_path: ReversePath,
    /// At least one, in the order of the RCPT commands, each once.
    pub recipients: Vec<Recipient>,
    /// What MAIL declared of the body.
    pub body: BodyType,
    /// Whether MAIL asked for SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// What else MAIL asked for.
    pub parameters: MailParameters,
}

/// The text names no member of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a value of this parameter")]
pub struct ParameterError;

impl From<Address> for Recipient {
    fn from(address: Address) -> Self {
        Self { address, parameters: RcptParameters::default() }
    }
}

impl RcptParameters {
    /// RFC 3461 §4.1: who asked for nothing hears of failure and, as we do it, of delay.
    pub fn wants(&self) -> Notify {
        self.notify.unwrap_or(Notify { success: false, failure: true, delay: true })
    }
}

impl ReturnContent {
    /// The value of `RET`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        }
    }
}

impl FromStr for ReturnContent {
    type Err = ParameterError;

    fn from_str(text: &str) -> Result<Self, ParameterError> {
        let is = |value: &Self| text.eq_ignore_ascii_case(value.as_str());
        [Self::Full, Self::Headers].into_iter().find(is).ok_or(ParameterError)
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let wanted: Vec<&str> = words.iter().filter(|(wanted, _)| *wanted).map(|(_, word)| *word).collect();
        f.write_str(if wanted.is_empty() { "NEVER".into() } else { wanted.join(",") }.as_str())
    }
}

impl FromStr for Notify {
    type Err = ParameterError;

    /// RFC 3461 §4.1: `NEVER` stands alone.
    fn from_str(text: &str) -> Result<Self, ParameterError> {
        let mut notify = Self::default();
        if text.eq_ignore_ascii_case("NEVER") {
            return Ok(notify);
        }
        for word in text.split(',') {
            let wanted = match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => &mut notify.success,
                "FAILURE" => &mut notify.failure,
                "DELAY" => &mut notify.delay,
                _ => return Err(ParameterError),
            };
            if std::mem::replace(wanted, true) {
                return Err(ParameterError);
            }
        }
        Ok(notify)
    }
}
impl ReversePath {
    /// The mailbox, if there is one.
    pub fn mailbox(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Mailbox(address) => Some(address),
        }
    }

    /// Reads the text form of [`fmt::Display`]: empty is the null path.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() { Ok(Self::Null) } else { Address::parse(text).map(Self::Mailbox) }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Mailbox(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sender_wants_to_hear_of_survives_its_text_form() {
        for (text, written) in
            [("never", "NEVER"), ("failure,SUCCESS", "SUCCESS,FAILURE"), ("Delay", "DELAY")]
        {
            assert_eq!(text.parse::<Notify>().unwrap().to_string(), written);
        }
        for bad in ["", "NEVER,DELAY", "SUCCESS,SUCCESS", "SUCCESS,", "SOMETIMES", "SUCCESS FAILURE"] {
            assert_eq!(bad.parse::<Notify>(), Err(ParameterError), "{bad}");
        }
        assert_eq!(RcptParameters::default().wants().to_string(), "FAILURE,DELAY");
    }

    #[test]
    fn how_much_comes_back_survives_its_text_form() {
        assert_eq!("full".parse(), Ok(ReturnContent::Full));
        assert_eq!(ReturnContent::Headers.as_str().parse(), Ok(ReturnContent::Headers));
        assert_eq!("HEADERS".parse::<ReturnContent>(), Err(ParameterError));
    }
}
