//! Parses replies (RFC 5321 §4.2) from a stream of octets. Tolerates common deviations of servers.

use crate::mail::EnhancedStatus;
use crate::smtp::Reply;

/// Maximum length of a line. RFC 5321 §4.5.3.1.5 allows 512 octets, but some servers put long URLs and diagnostics into
/// one line.
const LINE_OCTETS_MAX: usize = 4096;
const LINES_MAX: usize = 100;
const REPLY_OCTETS_MAX: usize = 64 * 1024;
/// Octets of text that are kept of a reply; a transaction holds a reply for each recipient. Classification and records read
/// less.
const TEXT_OCTETS_MAX: usize = 4096;

/// Collects octets and returns complete replies.
#[derive(Debug, Default)]
pub struct ReplyReader {
    bytes: Vec<u8>,
    /// The position of the first unread octet.
    start: usize,
    /// Octets after `start` that contain no line end.
    scanned: usize,
    partial: Partial,
}

/// A reply whose last line has not arrived.
#[derive(Debug, Default)]
struct Partial {
    code: Option<u16>,
    lines: Vec<String>,
    /// Lines, with those whose text is not kept.
    line_count: usize,
    octets: usize,
    text_octets: usize,
}

/// Why the octets are not a valid reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line without a valid reply code.
    #[error("the server sent something that is not an SMTP reply")]
    NotAReply,
    /// Lines of one reply have codes of different classes.
    #[error("the lines of one reply have contradictory codes")]
    Contradiction,
    /// A line or the whole reply exceeds the limit.
    #[error("the reply is too long")]
    TooLong,
}

impl ReplyReader {
    /// An empty reader.
    pub fn new() -> Self {
        Self::default()
    }

    /// The buffer to append received octets to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        // Octets are removed here, not after each line: the replies to a pipelined group arrive together.
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        &mut self.bytes
    }

    /// Whether unread octets remain. Before a TLS handshake they are an injection attack (RFC 3207 §6).
    pub fn has_leftover(&self) -> bool {
        self.start < self.bytes.len() || self.partial.code.is_some()
    }

    /// The next complete reply; `None` until more octets arrive. After an error the connection cannot be used.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, ReplyError> {
        loop {
            let unread = &self.bytes[self.start..];
            let Some(end) = memchr::memchr(b'\n', &unread[self.scanned..]).map(|at| at + self.scanned) else {
                self.scanned = unread.len();
                return if unread.len() > LINE_OCTETS_MAX { Err(ReplyError::TooLong) } else { Ok(None) };
            };
            let finished = self.partial.push_line(&unread[..end])?;
            self.start += end + 1;
            self.scanned = 0;
            if finished {
                return Ok(std::mem::take(&mut self.partial).into_reply());
            }
        }
    }
}

impl Partial {
    /// Adds a line without its LF. Returns true for the last line.
    fn push_line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        // Counts all octets, before white space is trimmed, so that the result does not depend on how the octets were
        // split.
        self.octets += line.len() + 1;
        if line.len() > LINE_OCTETS_MAX || self.octets > REPLY_OCTETS_MAX || self.line_count >= LINES_MAX {
            return Err(ReplyError::TooLong);
        }
        let (code, rest) = split_code(line.trim_ascii_end()).ok_or(ReplyError::NotAReply)?;
        if self.code.is_some_and(|first| first / 100 != code / 100) {
            return Err(ReplyError::Contradiction);
        }
        self.code = Some(code);
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err(ReplyError::NotAReply),
        };
        self.line_count += 1;
        self.keep(text);
        Ok(last)
    }

    fn keep(&mut self, text: &[u8]) {
        let space = TEXT_OCTETS_MAX - self.text_octets;
        if space > 0 {
            let text = &text[..text.len().min(space)];
            self.text_octets += text.len();
            self.lines.push(printable(text));
        }
    }

    fn into_reply(self) -> Option<Reply> {
        let code = self.code?;
        let mut lines = self.lines;
        let enhanced = lines.iter().find_map(|line| split_enhanced(line, code)).map(|(status, _)| status);
        if enhanced.is_some() {
            for line in &mut lines {
                if let Some((_, text)) = split_enhanced(line, code) {
                    *line = text.to_owned();
                }
            }
        }
        Some(Reply { code, enhanced, lines })
    }
}

/// The reply code; RFC 5321 §4.2: the first digit is 2 to 5.
fn split_code(line: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let in_range = matches!(digits[0], b'2'..=b'5') && digits[1..].iter().all(u8::is_ascii_digit);
    in_range.then(|| (digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0')), rest))
}

/// RFC 2034 §4: the enhanced code has the class of the reply code.
fn split_enhanced(line: &str, code: u16) -> Option<(EnhancedStatus, &str)> {
    let (word, text) = line.split_once(' ').unwrap_or((line, ""));
    let status: EnhancedStatus = word.parse().ok()?;
    (u16::from(status.class) == code / 100).then_some((status, text))
}

fn printable(text: &[u8]) -> String {
    let show = |&byte: &u8| match byte {
        b' '..=b'~' => char::from(byte),
        b'\t' => ' ',
        _ => '?',
    };
    text.iter().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All replies from octets given in pieces.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Reply>, Option<ReplyError>) {
        let mut reader = ReplyReader::new();
        let mut replies = Vec::new();
        for piece in pieces {
            reader.buffer().extend_from_slice(piece);
            loop {
                match reader.next_reply() {
                    Ok(Some(reply)) => replies.push(reply),
                    Ok(None) => break,
                    Err(error) => return (replies, Some(error)),
                }
            }
        }
        (replies, None)
    }

    fn one(text: &str) -> Reply {
        let (replies, error) = read([text.as_bytes()]);
        assert_eq!((replies.len(), error), (1, None), "{text:?}");
        replies.into_iter().next().unwrap()
    }

    #[test]
    fn replies_in_all_their_forms_are_read() {
        for (text, code, enhanced, lines) in [
            ("250 ok\r\n", 250, None, vec!["ok"]),
            ("250\r\n", 250, None, vec![""]),
            ("250 \r\n", 250, None, vec![""]),
            ("250-\r\n250\r\n", 250, None, vec!["", ""]),
            ("250 ok\n", 250, None, vec!["ok"]),
            ("250 ok\r\r\n", 250, None, vec!["ok"]),
            ("250-a\r\n250-b\n250 c\r\n", 250, None, vec!["a", "b", "c"]),
            ("550 5.1.1 no\r\n", 550, Some("5.1.1"), vec!["no"]),
            ("550-5.7.509 a\r\n550 5.7.509 b\r\n", 550, Some("5.7.509"), vec!["a", "b"]),
            ("550 5.1.1\r\n", 550, Some("5.1.1"), vec![""]),
            ("450 5.1.1 no\r\n", 450, None, vec!["5.1.1 no"]),
            ("250 2.0.0.1 x\r\n", 250, None, vec!["2.0.0.1 x"]),
            ("354-a\r\n350 b\r\n", 350, None, vec!["a", "b"]),
            ("220 caf\u{e9}\x07\tx\r\n", 220, None, vec!["caf??? x"]),
        ] {
            let reply = one(text);
            assert_eq!(
                (reply.code, reply.enhanced, &reply.lines),
                (code, enhanced.map(|e| e.parse().unwrap()), &lines.iter().map(|l| l.to_string()).collect()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn octets_that_are_no_reply_are_an_error() {
        for text in ["\r\n", "HTTP/1.1 400\r\n", "25\r\n", "150 x\r\n", "650 x\r\n", "250x\r\n", "\x16\x03\n"]
        {
            assert_eq!(read([text.as_bytes()]), (vec![], Some(ReplyError::NotAReply)), "{text:?}");
        }
        let both = read([&b"250-a\r\n550 b\r\n"[..]]);
        assert_eq!(both, (vec![], Some(ReplyError::Contradiction)));
    }

    #[test]
    fn an_endless_reply_is_an_error() {
        let line = vec![b'2'; LINE_OCTETS_MAX + 1];
        assert_eq!(read([&line[..]]).1, Some(ReplyError::TooLong));
        assert_eq!(read([&b"250-x\r\n".repeat(LINES_MAX + 1)[..]]).1, Some(ReplyError::TooLong));
        let wide = [b"250-".as_slice(), &[b'x'; 4000], b"\r\n"].concat().repeat(17);
        assert_eq!(read([&wide[..]]).1, Some(ReplyError::TooLong));
        // Trailing white space counts, whatever the split.
        let blank = [b"250 x".as_slice(), &[b' '; LINE_OCTETS_MAX], b"\r\n"].concat();
        assert_eq!(read([&blank[..]]), read(blank.chunks(1)));
    }

    #[test]
    fn of_a_long_reply_the_beginning_is_kept() {
        let lines = "450-yyyy\r\n".repeat(90);
        let reply = one(&format!("450-4.2.2 full\r\n450-{}\r\n{lines}450 z\r\n", "x".repeat(4000)));
        assert_eq!((reply.code, reply.enhanced), (450, "4.2.2".parse().ok()));
        assert_eq!(reply.lines[0], "full");
        let octets: usize = reply.lines.iter().map(String::len).sum();
        assert!((4000..=4096).contains(&octets), "{octets}");
        assert_eq!(one("250 ok\r\n").lines, ["ok"]);
    }

    #[test]
    fn octets_after_a_reply_are_reported() {
        let mut reader = ReplyReader::new();
        reader.buffer().extend_from_slice(b"220 go\r\n2");
        assert!(reader.next_reply().unwrap().is_some() && reader.has_leftover());
        let mut reader = ReplyReader::new();
        reader.buffer().extend_from_slice(b"220 go\r\n");
        assert!(reader.next_reply().unwrap().is_some() && !reader.has_leftover());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_replies(
            text in "([2-5][0-9]{2}[ -][ -~]{0,12}\r?\n){0,8}",
            cuts in prop::collection::vec(0usize..120, 0..8),
        ) {
            let bytes = text.as_bytes();
            let mut places: Vec<usize> = cuts.iter().map(|&cut| cut.min(bytes.len())).collect();
            places.extend([0, bytes.len()]);
            places.sort_unstable();
            let pieces = places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(read(pieces), read([bytes]));
        }

        #[test]
        fn no_octets_make_the_reader_panic_or_exceed_its_buffer(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..40)) {
            let mut reader = ReplyReader::new();
            for piece in &pieces {
                reader.buffer().extend_from_slice(piece);
                while let Ok(Some(reply)) = reader.next_reply() {
                    prop_assert!((200..600).contains(&reply.code));
                    prop_assert!(reply.lines.iter().all(|l| l.bytes().all(|b| (b' '..=b'~').contains(&b))));
                }
                if reader.next_reply().is_err() {
                    return Ok(());
                }
                prop_assert!(reader.bytes.len() - reader.start <= LINE_OCTETS_MAX);
            }
        }
    }
}
