//! Reads command lines. Only CRLF ends a line (RFC 5321 §2.3.8).

use memchr::{memchr, memmem};

/// Maximum length of a command line with CRLF. AUTH responses need this length (RFC 4954 §4); the lower limits of other
/// commands are checked after the verb is known.
pub const LINE_OCTETS_MAX: usize = 12_288;

/// The first octet of a TLS handshake record (RFC 8446 §5.1); no command begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// Why there is no line. The rest of the faulty line, up to its CRLF, is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineError {
    /// No CRLF within [`LINE_OCTETS_MAX`].
    TooLong,
    /// LF without CR. It is reported immediately, because a client that ends lines with LF never sends CRLF. The text
    /// before and after it is no command: this would allow command smuggling.
    BareLineFeed,
    /// The client starts a TLS handshake on a plain-text port.
    TlsHello,
}

/// A line without its CRLF, or an error.
pub type LineResult<'a> = Result<&'a [u8], LineError>;

/// Finds lines in a receive buffer.
#[derive(Debug, Default)]
pub struct LineReader {
    /// Octets at the start of the buffer without a line feed.
    scanned: usize,
    discarding: bool,
}

impl LineReader {
    /// Finds a line at the start of the buffer. Returns the number of octets consumed, and the line; `None` if more
    /// input is needed.
    pub fn next<'a>(&mut self, buffer: &'a [u8]) -> (usize, Option<LineResult<'a>>) {
        let start = match self.discard(buffer) {
            Some(start) => start,
            None => return (buffer.len() - usize::from(buffer.ends_with(b"\r")), None),
        };
        let rest = &buffer[start..];
        if rest.first() == Some(&TLS_HANDSHAKE) {
            return (start + self.fail(1), Some(Err(LineError::TlsHello)));
        }
        let window = &rest[..rest.len().min(LINE_OCTETS_MAX)];
        let Some(found) = memchr(b'\n', &window[self.scanned..]) else {
            if window.len() < LINE_OCTETS_MAX {
                self.scanned = window.len();
                return (start, None);
            }
            // A final CR stays in the buffer: it may be the first half of the CRLF.
            let consumed = self.fail(window.len() - usize::from(window.ends_with(b"\r")));
            return (start + consumed, Some(Err(LineError::TooLong)));
        };
        let end = self.scanned + found;
        self.scanned = 0;
        match window[..end].strip_suffix(b"\r") {
            Some(line) => (start + end + 1, Some(Ok(line))),
            None => (start + self.fail(end + 1), Some(Err(LineError::BareLineFeed))),
        }
    }

    /// Resets the state after the caller has emptied the buffer.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    fn fail(&mut self, consumed: usize) -> usize {
        self.scanned = 0;
        self.discarding = true;
        consumed
    }

    /// Skips the rest of a faulty line. Returns the start of the next line; `None` if the faulty line has not ended.
    fn discard(&mut self, buffer: &[u8]) -> Option<usize> {
        if !self.discarding {
            return Some(0);
        }
        let end = memmem::find(buffer, b"\r\n")?;
        self.discarding = false;
        Some(end + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Lines = Vec<Result<Vec<u8>, LineError>>;

    fn read(pieces: &[&[u8]]) -> Lines {
        let (mut reader, mut buffer, mut found) = (LineReader::default(), Vec::new(), Lines::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                let (consumed, line) = reader.next(&buffer);
                let line = line.map(|line| line.map(<[u8]>::to_vec));
                buffer.drain(..consumed);
                match line {
                    Some(line) => found.push(line),
                    None => break,
                }
            }
            assert!(buffer.len() <= LINE_OCTETS_MAX);
        }
        found
    }

    #[test]
    fn only_crlf_ends_a_line() {
        assert_eq!(read(&[b"a\r\n\r\nb c\r\nrest"]), [Ok(b"a".to_vec()), Ok(vec![]), Ok(b"b c".to_vec())]);
        assert_eq!(read(&[b"a\rb\r\n"]), [Ok(b"a\rb".to_vec())]);
    }

    #[test]
    fn what_follows_a_bare_line_feed_is_not_a_command() {
        assert_eq!(
            read(&[b"RCPT TO:<a@b>\nRCPT TO:<evil@c>\r\nNOOP\r\n"]),
            [Err(LineError::BareLineFeed), Ok(b"NOOP".to_vec())]
        );
    }

    #[test]
    fn the_tail_of_a_line_that_is_too_long_is_not_a_command() {
        let long = [&b"x".repeat(LINE_OCTETS_MAX)[..], b"QUIT\r\nNOOP\r\n"].concat();
        assert_eq!(read(&[&long]), [Err(LineError::TooLong), Ok(b"NOOP".to_vec())]);
        let just_fits = [&b"x".repeat(LINE_OCTETS_MAX - 2)[..], b"\r\n"].concat();
        assert_eq!(read(&[&just_fits]), [Ok(b"x".repeat(LINE_OCTETS_MAX - 2))]);
        let split_crlf = [&b"x".repeat(LINE_OCTETS_MAX - 1)[..], b"\r\nNOOP\r\n"].concat();
        assert_eq!(read(&[&split_crlf]), [Err(LineError::TooLong), Ok(b"NOOP".to_vec())]);
    }

    #[test]
    fn a_tls_hello_is_detected_by_its_first_octet() {
        assert_eq!(read(&[b"\x16\x03\x01"]), [Err(LineError::TlsHello)]);
    }

    proptest! {
        #[test]
        fn any_split_finds_the_same_lines(
            bytes in prop::collection::vec(prop::sample::select(b"ab\r\n\x16".to_vec()), 0..60),
            splits in prop::collection::vec(0usize..60, 0..6),
            long in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if long {
                let at = bytes.len() / 2;
                bytes.splice(at..at, vec![b'x'; LINE_OCTETS_MAX - 3]);
            }
            let mut at: Vec<usize> = splits.into_iter().map(|s| s.min(bytes.len())).collect();
            at.push(bytes.len());
            at.sort_unstable();
            let mut from = 0;
            let pieces: Vec<&[u8]> =
                at.iter().map(|&to| { let piece = &bytes[from..to]; from = to; piece }).collect();
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(read(&pieces), read(&[&bytes]));
            prop_assert_eq!(read(&single), read(&[&bytes]));
        }
    }
}
