//! TLSA records (RFC 6698 §2.1): which certificates the servers of a domain use.

use std::fmt;

/// A TLSA record. Display shows it as in a zone file without the data, such as `3 1 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tlsa {
    /// Certificate usage: 2 is DANE-TA, 3 is DANE-EE.
    pub usage: u8,
    /// Selector: 0 the certificate, 1 its public key.
    pub selector: u8,
    /// Matching type: 0 exact, 1 SHA-256, 2 SHA-512.
    pub matching: u8,
    /// The certificate association data.
    pub data: Vec<u8>,
}

impl Tlsa {
    /// DANE-TA: matches the issuer of the server's certificate.
    pub const TRUST_ANCHOR: u8 = 2;
    /// DANE-EE: matches the server's certificate itself.
    pub const END_ENTITY: u8 = 3;

    /// Whether SMTP can use the record. RFC 7672 §3.1.3: usages 0 and 1 do not apply to SMTP.
    pub fn is_usable(&self) -> bool {
        let octets = self.data.len();
        let is_whole = match self.matching {
            0 => octets > 0,
            1 => octets == 32,
            2 => octets == 64,
            _ => false,
        };
        matches!(self.usage, Self::TRUST_ANCHOR | Self::END_ENTITY) && self.selector <= 1 && is_whole
    }
}

impl fmt::Display for Tlsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.usage, self.selector, self.matching)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dane_records_of_a_known_form_are_usable() {
        for (usage, selector, matching, octets, usable) in [
            (3, 1, 1, 32, true),
            (3, 0, 2, 64, true),
            (2, 0, 0, 500, true),
            (2, 1, 1, 32, true),
            (0, 1, 1, 32, false),
            (1, 1, 1, 32, false),
            (255, 1, 1, 32, false),
            (3, 2, 1, 32, false),
            (3, 1, 3, 32, false),
            (3, 1, 1, 31, false),
            (3, 1, 2, 32, false),
            (3, 0, 0, 0, false),
        ] {
            let record = Tlsa { usage, selector, matching, data: vec![0; octets] };
            assert_eq!(record.is_usable(), usable, "{record} with {octets} octets");
        }
    }
}
