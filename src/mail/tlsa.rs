//! TLSA records (RFC 6698 §2.1): what a domain says about the certificates of its servers.

use std::fmt;

/// One record. Its text form is that of a zone file without the data, like `3 1 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tlsa {
    /// Certificate usage: 2 is DANE-TA, 3 is DANE-EE.
    pub usage: u8,
    /// 0 the certificate, 1 its public key.
    pub selector: u8,
    /// 0 as it is, 1 SHA-256, 2 SHA-512.
    pub matching: u8,
    /// What is to be matched.
    pub data: Vec<u8>,
}

impl Tlsa {
    /// The issuer of the server's certificate is named.
    pub const TRUST_ANCHOR: u8 = 2;
    /// The server's certificate itself is named.
    pub const END_ENTITY: u8 = 3;

    /// Whether a mail server can be held to it. RFC 7672 §3.1.3: usages 0 and 1 are of no use to SMTP.
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
    fn only_records_that_smtp_knows_are_usable() {
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
