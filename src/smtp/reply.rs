//! An SMTP reply (RFC 5321 §4.2), sent or received.

use crate::mail::EnhancedStatus;

/// RFC 5321 §4.5.3.1.5: the longest reply line, with code and CRLF.
const LINE_OCTETS_MAX: usize = 512;

/// A reply code with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The code: 200–599.
    pub code: u16,
    /// The enhanced status code (RFC 2034), if any.
    pub enhanced: Option<EnhancedStatus>,
    /// The lines of text, without codes and line ends: at least one, printable ASCII.
    pub lines: Vec<String>,
}

impl Reply {
    /// A reply written by this server. Characters other than printable ASCII become `?`; longer text is folded into
    /// several lines at spaces.
    pub fn new(code: u16, enhanced: Option<EnhancedStatus>, text: &str) -> Self {
        let prefix = 4 + enhanced.map_or(0, |status| status.to_string().len() + 1);
        Self { code, enhanced, lines: fold(&printable(text), LINE_OCTETS_MAX - 2 - prefix) }
    }

    /// Whether the command succeeded or may continue (RFC 5321 §4.2.1: 2yz and 3yz).
    pub fn is_positive(&self) -> bool {
        (200..400).contains(&self.code)
    }

    /// Appends the reply in wire form.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let last = self.lines.len().saturating_sub(1);
        for (i, line) in self.lines.iter().enumerate() {
            let separator = if i == last { ' ' } else { '-' };
            out.extend_from_slice(format!("{}{separator}", self.code).as_bytes());
            if let Some(status) = self.enhanced {
                out.extend_from_slice(format!("{status} ").as_bytes());
            }
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// RFC 5321 §4.2 requires ASCII; control characters could manipulate a terminal that shows the text.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Folds ASCII text into lines of at most `octets_max`, at spaces where possible.
fn fold(text: &str, octets_max: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    while rest.len() > octets_max {
        let at = rest[..=octets_max].rfind(' ').filter(|&at| at > 0).unwrap_or(octets_max);
        lines.push(rest[..at].to_owned());
        rest = rest[at..].trim_start();
    }
    lines.push(rest.to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_line_has_the_code_and_only_the_last_has_a_space_after_it() {
        let status = Some(EnhancedStatus::new(2, 0, 0));
        let reply = Reply { code: 214, enhanced: status, lines: vec!["one".into(), "two".into()] };
        assert_eq!(wire(&reply), "214-2.0.0 one\r\n214 2.0.0 two\r\n");
        assert_eq!(wire(&Reply::new(354, None, "go")), "354 go\r\n");
    }

    #[test]
    fn only_printable_ascii_is_sent() {
        assert_eq!(wire(&Reply::new(550, None, "a\r\n250 b\x1b\u{e9}\0")), "550 a??250 b???\r\n");
    }

    proptest! {
        #[test]
        fn a_long_text_is_folded_without_losing_a_word(words in prop::collection::vec("[a-z]{1,80}", 1..60)) {
            let text = words.join(" ");
            let reply = Reply::new(550, Some(EnhancedStatus::new(5, 7, 999)), &text);
            prop_assert!(wire(&reply).lines().all(|line| line.len() + 2 <= 512));
            prop_assert_eq!(reply.lines.join(" "), text);
        }

        #[test]
        fn no_text_makes_a_line_too_long(text in "\\PC{0,2000}") {
            let written = wire(&Reply::new(550, Some(EnhancedStatus::new(5, 7, 1)), &text));
            prop_assert!(written.is_ascii() && written.split_inclusive("\r\n").all(|line| line.len() <= 512));
        }
    }
}
