//! The extensions in a server's EHLO reply (RFC 5321 §4.1.1.1).

use crate::smtp::Reply;

/// The extensions that we use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// SIZE (RFC 1870); `Some(0)` means no declared limit.
    pub size_octets_max: Option<u64>,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// REQUIRETLS (RFC 8689).
    pub require_tls: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// AUTH SCRAM-SHA-256-PLUS (RFC 4954, RFC 7677).
    pub auth_scram_plus: bool,
    /// AUTH SCRAM-SHA-256 (RFC 4954, RFC 7677).
    pub auth_scram: bool,
    /// AUTH PLAIN (RFC 4954, RFC 4616).
    pub auth_plain: bool,
    /// AUTH LOGIN (RFC 4954).
    pub auth_login: bool,
}

impl Capabilities {
    /// Parses an EHLO reply. The first line is the server's name and no extension.
    pub fn read(reply: &Reply) -> Self {
        let mut read = Self::default();
        for line in reply.lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "PIPELINING" => read.pipelining = true,
                "SIZE" => {
                    read.size_octets_max = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0));
                }
                "8BITMIME" => read.eight_bit_mime = true,
                "SMTPUTF8" => read.smtputf8 = true,
                "REQUIRETLS" => read.require_tls = true,
                "DSN" => read.dsn = true,
                "STARTTLS" => read.starttls = true,
                "AUTH" => words.for_each(|word| read.note_mechanism(word)),
                // `AUTH=` is older than RFC 2554; some servers still send it.
                _ => {
                    if let Some(first) = keyword.strip_prefix("AUTH=") {
                        read.note_mechanism(first);
                        words.for_each(|word| read.note_mechanism(word));
                    }
                }
            }
        }
        read
    }

    fn note_mechanism(&mut self, name: &str) {
        self.auth_scram_plus |= name.eq_ignore_ascii_case("SCRAM-SHA-256-PLUS");
        self.auth_scram |= name.eq_ignore_ascii_case("SCRAM-SHA-256");
        self.auth_plain |= name.eq_ignore_ascii_case("PLAIN");
        self.auth_login |= name.eq_ignore_ascii_case("LOGIN");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Capabilities {
        let lines = lines.iter().map(|line| line.to_string()).collect();
        Capabilities::read(&Reply { code: 250, enhanced: None, lines })
    }

    #[test]
    fn keywords_are_read_in_any_case_and_not_from_the_first_line() {
        let all = read(&[
            "PIPELINING",
            "size 1000",
            "8BitMime",
            "STARTTLS",
            "SMTPUTF8",
            "dsn",
            "AUTH GSSAPI login plain Scram-SHA-256",
        ]);
        assert!(!all.pipelining && all.eight_bit_mime && all.starttls && all.smtputf8 && all.dsn);
        assert!(all.auth_plain && all.auth_login && all.auth_scram && !all.auth_scram_plus);
        assert_eq!(all.size_octets_max, Some(1000));
        assert!(read(&["mx", "PIPELINING"]).pipelining);
    }

    #[test]
    fn nonstandard_forms_are_tolerated() {
        assert_eq!(read(&["mx", "SIZE"]).size_octets_max, Some(0));
        assert_eq!(read(&["mx", "SIZE lots"]).size_octets_max, Some(0));
        assert!(read(&["mx", "AUTH=LOGIN PLAIN"]).auth_plain);
        assert_eq!(read(&["mx", "", "AUTH", "X-PIPELINING"]), Capabilities::default());
    }
}
