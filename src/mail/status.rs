//! Enhanced status codes (RFC 3463). The detail has up to three digits: large providers use 5.7.5xx.

use std::fmt;
use std::str::FromStr;

/// An enhanced status code: `class.subject.detail`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedStatus {
    /// 2, 4 or 5.
    pub class: u8,
    /// The subject, 0–999.
    pub subject: u16,
    /// The detail, 0–999.
    pub detail: u16,
}

impl EnhancedStatus {
    /// A status from its numbers.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl fmt::Debug for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enhanced status code")]
pub struct StatusError;

impl FromStr for EnhancedStatus {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        let mut parts = text.split('.').map(|part| {
            let digits = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse::<u16>().ok()).flatten().ok_or(StatusError)
        });
        let mut next = || parts.next().ok_or(StatusError)?;
        let (class, subject, detail) = (next()?, next()?, next()?);
        match class {
            2 | 4 | 5 if parts.next().is_none() => Ok(Self::new(class as u8, subject, detail)),
            _ => Err(StatusError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_may_have_three_digits_and_other_text_is_refused() {
        assert_eq!("5.7.509".parse(), Ok(EnhancedStatus::new(5, 7, 509)));
        for bad in ["", "5.7", "5.7.1.1", "3.1.1", "5.7.1000", "5..1", "+5.1.1", "5.1.x"] {
            assert!(bad.parse::<EnhancedStatus>().is_err(), "{bad}");
        }
    }
}
