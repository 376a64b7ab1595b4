//! The SMTP envelope of a message: reverse path, recipients and parameters.

use std::fmt;
use std::str::FromStr;

use super::{Address, AddressError, EnvelopeId, OriginalRecipient, Timestamp};

/// The reverse path: the address that DSNs are sent to (RFC 5321 §4.1.1.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: no DSN is sent (RFC 5321 §4.5.5).
    Null,
    /// An address.
    Mailbox(Address),
}

/// The `BODY` parameter of MAIL (RFC 6152).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyType {
    /// `BODY=7BIT`, or absent.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
}

/// The `RET` parameter of MAIL: how much of the message a failure DSN returns (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReturnContent {
    /// The whole message.
    Full,
    /// The header only.
    Headers,
}

/// The `NOTIFY` parameter of RCPT: which DSNs the sender wants (RFC 3461 §4.1). All false means `NEVER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Notify {
    /// On delivery.
    pub success: bool,
    /// On failure.
    pub failure: bool,
    /// On delay.
    pub delay: bool,
}

/// The parameters of MAIL that are stored with the message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailParameters {
    /// `RET`.
    pub return_content: Option<ReturnContent>,
    /// `ENVID`.
    pub envelope_id: Option<EnvelopeId>,
    /// `REQUIRETLS` (RFC 8689): verified TLS to servers that support it, or no delivery.
    pub require_tls: bool,
    /// `HOLDFOR` and `HOLDUNTIL` (RFC 4865): the time of release.
    pub release_at: Option<Timestamp>,
    /// The seconds of `HOLDFOR`, from which `release_at` was computed. Not stored.
    pub hold_for_s: Option<u32>,
    /// The deadline of delivery, if the submitter chose one. It limits the message's lifetime and is not stored
    /// separately.
    pub deliver_by: Option<Timestamp>,
}

/// The parameters of RCPT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RcptParameters {
    /// `NOTIFY`.
    pub notify: Option<Notify>,
    /// `ORCPT`.
    pub original_recipient: Option<OriginalRecipient>,
}

/// A recipient of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The address.
    pub address: Address,
    /// The parameters of RCPT.
    pub parameters: RcptParameters,
}

/// The envelope of an admitted message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The reverse path.
    pub reverse_path: ReversePath,
    /// At least one recipient, in the order of RCPT, without duplicates.
    pub recipients: Vec<Recipient>,
    /// The declared body type.
    pub body: BodyType,
    /// Whether MAIL had SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// The other parameters of MAIL.
    pub parameters: MailParameters,
}

/// The text is not a valid value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid value of this parameter")]
pub struct ParameterError;

impl From<Address> for Recipient {
    fn from(address: Address) -> Self {
        Self { address, parameters: RcptParameters::default() }
    }
}

impl RcptParameters {
    /// The value of `NOTIFY`. RFC 3461 §4.1 leaves the default to the server: here it is `FAILURE,DELAY`.
    pub fn notify_or_default(&self) -> Notify {
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

    /// RFC 3461 §4.1: `NEVER` excludes other values.
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
    /// The address, unless the path is null.
    pub fn mailbox(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Mailbox(address) => Some(address),
        }
    }

    /// Parses the Display form; empty is the null path.
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
    fn notify_is_parsed_and_written() {
        for (text, written) in
            [("never", "NEVER"), ("failure,SUCCESS", "SUCCESS,FAILURE"), ("Delay", "DELAY")]
        {
            assert_eq!(text.parse::<Notify>().unwrap().to_string(), written);
        }
        for bad in ["", "NEVER,DELAY", "SUCCESS,SUCCESS", "SUCCESS,", "SOMETIMES", "SUCCESS FAILURE"] {
            assert_eq!(bad.parse::<Notify>(), Err(ParameterError), "{bad}");
        }
        assert_eq!(RcptParameters::default().notify_or_default().to_string(), "FAILURE,DELAY");
    }

    #[test]
    fn return_content_is_parsed_and_written() {
        assert_eq!("full".parse(), Ok(ReturnContent::Full));
        assert_eq!(ReturnContent::Headers.as_str().parse(), Ok(ReturnContent::Headers));
        assert_eq!("HEADERS".parse::<ReturnContent>(), Err(ParameterError));
    }
}
