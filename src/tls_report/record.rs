//! The TLSRPT record of a domain (RFC 8460 §3).
//!
//! mail-auth does not parse it here: it truncates a URL at the first `=`.

use std::fmt;

use url::Url;

use crate::mail::Address;

/// A receiver of reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// By mail.
    Mail(Address),
    /// Over HTTPS.
    Https(Url),
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mail(address) => write!(f, "mailto:{address}"),
            Self::Https(url) => url.fmt(f),
        }
    }
}

/// The receivers in the TXT records at `_smtp._tls`; invalid ones are skipped. RFC 8460 §3: several records count as
/// none.
pub fn read<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Receiver> {
    let mut records = texts.filter(|text| fields(text).next() == Some(("v", "TLSRPTv1")));
    let (Some(record), None) = (records.next(), records.next()) else { return Vec::new() };
    let uris = fields(record).filter(|(name, _)| *name == "rua").flat_map(|(_, value)| value.split(','));
    uris.filter_map(|uri| receiver(uri.trim())).collect()
}

/// RFC 8460 §3: `;` and `,` within a URI are percent-encoded.
fn fields(record: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = record.split(';').filter_map(|field| field.split_once('='));
    pairs.map(|(name, value)| (name.trim(), value.trim()))
}

fn receiver(uri: &str) -> Option<Receiver> {
    let url = Url::parse(uri).ok()?;
    match url.scheme() {
        "https" => Some(Receiver::Https(url)),
        "mailto" => {
            let octets: Vec<u8> = percent_encoding::percent_decode_str(url.path()).collect();
            Some(Receiver::Mail(Address::parse(std::str::from_utf8(&octets).ok()?).ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_lists_the_receivers_and_two_count_as_none() {
        let good = "v=TLSRPTv1; rua=mailto:tls@b.test,https://b.test/v1?x=1&y=%2C";
        for (texts, expected) in [
            (vec![good], vec!["mailto:tls@b.test", "https://b.test/v1?x=1&y=%2C"]),
            (vec!["v=spf1 -all", "v=TLSRPTv1;rua=mailto:tls@b.test;"], vec!["mailto:tls@b.test"]),
            (vec!["v = TLSRPTv1 ; rua = mailto:tls%2Bb@b.test , x:y;z=1"], vec!["mailto:tls+b@b.test"]),
            (vec![good, "v=TLSRPTv1; rua=mailto:other@b.test"], vec![]),
            (vec!["v=TLSRPTv2; rua=mailto:tls@b.test"], vec![]),
            (vec!["rua=mailto:tls@b.test; v=TLSRPTv1"], vec![]),
            (vec!["v=TLSRPTv1; rua=http://b.test/,mailto:nobody,https:"], vec![]),
            (vec!["v=TLSRPTv1"], vec![]),
            (vec![], vec![]),
        ] {
            let found: Vec<String> = read(texts.iter().copied()).iter().map(Receiver::to_string).collect();
            assert_eq!(found, expected, "{texts:?}");
        }
    }
}
