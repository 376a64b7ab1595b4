//! xtext (RFC 3461 §4): printable ASCII with hexadecimal escapes.

use std::fmt;
use std::str::FromStr;

/// The text is not xtext, too long, or encodes characters that are not printable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not valid xtext, or too long")]
pub struct XtextError;

/// The value of MAIL's `ENVID` as sent (RFC 3461 §4.4).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EnvelopeId(String);

/// The value of RCPT's `ORCPT` as sent (RFC 3461 §4.2): address type, semicolon, xtext.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OriginalRecipient(String);

/// Decodes xtext. RFC 3461 §4: hexadecimal digits are upper case.
pub fn decode_xtext(text: &str) -> Result<Vec<u8>, XtextError> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        match octet {
            b'+' => {
                let (high, low) = (rest.next().and_then(hex), rest.next().and_then(hex));
                let (Some(high), Some(low)) = (high, low) else { return Err(XtextError) };
                octets.push(high << 4 | low);
            }
            b'=' => return Err(XtextError),
            b'!'..=b'~' => octets.push(octet),
            _ => return Err(XtextError),
        }
    }
    Ok(octets)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Decodes xtext to printable ASCII only: line ends could inject fields into a DSN.
fn decode_printable(text: &str) -> Result<String, XtextError> {
    let octets = decode_xtext(text)?;
    let printable = octets.iter().all(|octet| (b' '..=b'~').contains(octet));
    String::from_utf8(octets).ok().filter(|_| printable).ok_or(XtextError)
}

impl EnvelopeId {
    /// RFC 3461 §4.4: maximum length.
    pub const OCTETS_MAX: usize = 100;

    /// The decoded value: printable ASCII.
    pub fn decoded(&self) -> String {
        decode_printable(&self.0).unwrap_or_default()
    }
}

impl FromStr for EnvelopeId {
    type Err = XtextError;

    fn from_str(text: &str) -> Result<Self, XtextError> {
        let fits = (1..=Self::OCTETS_MAX).contains(&text.len());
        decode_printable(text).ok().filter(|_| fits).map(|_| Self(text.to_owned())).ok_or(XtextError)
    }
}

impl OriginalRecipient {
    /// RFC 3461 §4.2: maximum length.
    pub const OCTETS_MAX: usize = 500;

    /// Address type and decoded address, as in a DSN: printable ASCII.
    pub fn decoded(&self) -> String {
        let (kind, address) = self.0.split_once(';').unwrap_or((&self.0, ""));
        format!("{kind};{}", decode_printable(address).unwrap_or_default())
    }
}

impl FromStr for OriginalRecipient {
    type Err = XtextError;

    fn from_str(text: &str) -> Result<Self, XtextError> {
        let (kind, address) = text.split_once(';').ok_or(XtextError)?;
        // RFC 3461 §4.2: the address type is an atom.
        let is_atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        // RFC 6533 §3: the address type `utf-8` has an ASCII form, which is stored.
        let text = match kind.eq_ignore_ascii_case("utf-8") {
            true => format!("{kind};{}", escape_beyond_ascii(address)),
            false => text.to_owned(),
        };
        let printable = decode_printable(&text[kind.len() + 1..])?;
        let fits = text.len() <= Self::OCTETS_MAX;
        if is_atom && fits && !printable.is_empty() { Ok(Self(text)) } else { Err(XtextError) }
    }
}

fn escape_beyond_ascii(text: &str) -> String {
    let escape = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\x{{{:X}}}", u32::from(c)) };
    text.chars().map(escape).collect()
}

macro_rules! display_wire_form {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
display_wire_form!(EnvelopeId, OriginalRecipient);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn xtext_is_decoded_and_other_text_is_refused() {
        assert_eq!(decode_xtext("a+2Bb+3D"), Ok(b"a+b=".to_vec()));
        assert_eq!(decode_xtext(""), Ok(Vec::new()));
        for bad in ["+", "+2", "+2b", "+GG", "a=b", "a b", "é", "a\u{7f}"] {
            assert_eq!(decode_xtext(bad), Err(XtextError), "{bad}");
        }
    }

    #[test]
    fn an_envelope_id_is_printable_and_not_too_long() {
        let id: EnvelopeId = "QQ+20314159+2B".parse().unwrap();
        assert_eq!((id.to_string().as_str(), id.decoded().as_str()), ("QQ+20314159+2B", "QQ 314159+"));
        assert!("x".repeat(100).parse::<EnvelopeId>().is_ok());
        for bad in [String::new(), "x".repeat(101), "a+0D+0AAction:".into(), "+C3+A9".into()] {
            assert_eq!(bad.parse::<EnvelopeId>(), Err(XtextError), "{bad}");
        }
    }

    #[test]
    fn an_original_recipient_has_a_type_and_is_stored_as_sent() {
        for (wire, decoded) in [
            ("rfc822;Bob+2Bx@b.example", "rfc822;Bob+x@b.example"),
            ("X-Local;a+20b", "X-Local;a b"),
            ("utf-8;\\x{E9}@b.example", "utf-8;\\x{E9}@b.example"),
        ] {
            let original: OriginalRecipient = wire.parse().unwrap();
            assert_eq!((original.to_string().as_str(), original.decoded().as_str()), (wire, decoded));
        }
        let unicode: OriginalRecipient = "utf-8;é@b.example".parse().unwrap();
        assert_eq!(unicode.to_string(), "utf-8;\\x{E9}@b.example");
        for bad in ["", "rfc822", ";a@b", "rfc822;", "rf c;a", "rfc822;é@b", "rfc822;a+0D+0A", "r(f);a"] {
            assert_eq!(bad.parse::<OriginalRecipient>(), Err(XtextError), "{bad}");
        }
        assert!(format!("rfc822;{}", "x".repeat(493)).parse::<OriginalRecipient>().is_ok());
        assert!(format!("rfc822;{}", "x".repeat(494)).parse::<OriginalRecipient>().is_err());
    }

    proptest! {
        #[test]
        fn accepted_values_decode_to_printable_text_and_parse_again(text in "[ -~é]{0,12};?[ -~é\\r]{0,20}") {
            if let Ok(original) = text.parse::<OriginalRecipient>() {
                prop_assert!(original.decoded().bytes().all(|b| (b' '..=b'~').contains(&b)));
                prop_assert_eq!(original.to_string().parse(), Ok(original));
            }
        }
    }
}
