//! Decodes message content. For DATA, it finds the end and removes transparency dots (RFC 5321 §4.5.2). For BDAT, it
//! joins the chunks (RFC 3030); dots have no meaning there, and all other rules apply.
//!
//! Only `CRLF.CRLF` ends DATA, or `.CRLF` directly after the command (RFC 5321 §4.1.1.4). Any other end would allow
//! SMTP smuggling. Refused content is read to its end, so that its octets are never parsed as commands.

use std::mem;

use memchr::memchr3;

/// The treatment of a bare carriage return or line feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareNewline {
    /// LF becomes CRLF, CR becomes a space.
    Normalize,
    /// The message is refused.
    Reject,
}

/// Limits of message content.
#[derive(Debug, Clone, Copy)]
pub struct DataLimits {
    /// Octets of the message, without transparency dots (RFC 1870 §5).
    pub message_octets_max: u64,
    /// Octets of a line without its end.
    pub line_octets_max: usize,
    /// The treatment of a bare CR or LF.
    pub bare_newline: BareNewline,
    /// Octets that are kept; the rest of the message is checked and discarded. `None`: all.
    pub keep_octets_max: Option<u64>,
}

/// Why the content is refused. Of several reasons, the first in this order is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentError {
    /// Larger than the limit.
    TooLarge,
    /// A NUL octet (RFC 5321 §4.5.2 does not allow it in text).
    Nul,
    /// A bare CR or LF, with [`BareNewline::Reject`].
    BareNewline,
    /// A line longer than the limit.
    LineTooLong,
}

/// The result of decoding one piece of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataProgress {
    /// The whole piece was content.
    Partial,
    /// The end of the content was found; commands follow.
    Complete {
        /// Octets of the piece that belong to DATA, with the final dot.
        consumed: usize,
    },
}

/// How the end of the content is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// DATA: a line with a single dot; leading dots are doubled.
    Dots,
    /// BDAT: chunk lengths. Dots have no meaning, and the caller calls [`Decoder::end`].
    Chunks,
}

/// Builds the message from pieces of content.
#[derive(Debug)]
pub struct Decoder {
    limits: DataLimits,
    framing: Framing,
    message: Vec<u8>,
    octets: u64,
    line_octets: usize,
    position: Position,
    seen: Seen,
}

/// The position in the current line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// After a CRLF on the wire, or at the start.
    LineStart,
    /// After a dot at the line start.
    Dot,
    /// After a dot and CR at the line start.
    DotCr,
    Inside,
    /// After a CR.
    Cr,
}

/// Everything found so far, so that the result does not depend on how the input was split.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    nul: bool,
    bare_newline: bool,
    long_line: bool,
}

impl Framing {
    fn line_start(self) -> Position {
        match self {
            Self::Dots => Position::LineStart,
            Self::Chunks => Position::Inside,
        }
    }
}

impl Decoder {
    /// A decoder with a buffer of `octets_expected`.
    pub fn new(limits: DataLimits, framing: Framing, octets_expected: usize) -> Self {
        Self {
            limits,
            framing,
            message: Vec::with_capacity(octets_expected),
            octets: 0,
            line_octets: 0,
            position: framing.line_start(),
            seen: Seen::default(),
        }
    }

    /// Ends the content after the last chunk. A chunk may lack the final CRLF, which DATA always has.
    pub fn end(&mut self) {
        if mem::replace(&mut self.position, Position::Inside) == Position::Cr {
            self.store_bare_cr();
        }
        if self.line_octets > 0 {
            self.store(b"\r\n");
        }
    }

    /// Memory that the message uses.
    pub fn memory_octets(&self) -> usize {
        self.message.capacity()
    }

    /// Whether only the beginning of the message was kept.
    pub fn is_truncated(&self) -> bool {
        self.octets > self.message.len() as u64
    }

    /// Frees the message; from now on only the end of the content is searched for.
    pub fn discard(&mut self) {
        self.message = Vec::new();
        self.limits.message_octets_max = 0;
    }

    /// The message, or the beginning of it that is kept, after the end was found.
    pub fn finish(self) -> Result<Vec<u8>, ContentError> {
        match self.error() {
            None => Ok(self.message),
            Some(error) => Err(error),
        }
    }

    /// Why the content received so far is refused; `None` while it is acceptable.
    pub fn error(&self) -> Option<ContentError> {
        let reject = self.limits.bare_newline == BareNewline::Reject;
        match self.seen {
            _ if self.octets > self.limits.message_octets_max => Some(ContentError::TooLarge),
            Seen { nul: true, .. } => Some(ContentError::Nul),
            Seen { bare_newline: true, .. } if reject => Some(ContentError::BareNewline),
            Seen { long_line: true, .. } => Some(ContentError::LineTooLong),
            _ => None,
        }
    }

    /// Decodes one piece.
    pub fn decode(&mut self, bytes: &[u8]) -> DataProgress {
        // `run` is the start of the content octets that are not stored yet. Content without special octets is copied
        // once, in pieces as large as they arrived.
        let (mut run, mut i) = (0, 0);
        while let Some(&octet) = bytes.get(i) {
            match (self.position, octet) {
                (Position::LineStart, b'.') => {
                    self.store(&bytes[run..i]);
                    self.position = Position::Dot;
                    i += 1;
                    run = i;
                }
                (Position::LineStart, _) => self.position = Position::Inside,
                (Position::Dot, b'\r') => {
                    self.position = Position::DotCr;
                    i += 1;
                    run = i;
                }
                (Position::Dot, b'\n') => {
                    // A line with a single dot and a bare LF is content.
                    self.store(b".");
                    self.position = Position::Inside;
                }
                // RFC 5321 §4.5.2: a leading dot followed by other characters is removed.
                (Position::Dot, _) => self.position = Position::Inside,
                (Position::DotCr, b'\n') => return DataProgress::Complete { consumed: i + 1 },
                (Position::DotCr | Position::Cr, _) if octet != b'\n' => {
                    self.store_bare_cr();
                    self.position = Position::Inside;
                }
                (Position::Cr | Position::DotCr, _) => {
                    self.store(b"\r\n");
                    self.end_line(self.framing.line_start());
                    i += 1;
                    run = i;
                }
                (Position::Inside, _) => (run, i) = self.decode_inside(bytes, run, i),
            }
        }
        self.store(&bytes[run..]);
        DataProgress::Partial
    }

    /// Advances to the next special octet within a line; returns the new `run` and `i`.
    fn decode_inside(&mut self, bytes: &[u8], run: usize, i: usize) -> (usize, usize) {
        let Some(found) = memchr3(b'\r', b'\n', 0, &bytes[i..]) else {
            self.extend_line(bytes.len() - i);
            return (run, bytes.len());
        };
        self.extend_line(found);
        let at = i + found;
        match (bytes[at], bytes.get(at + 1)) {
            (b'\r', Some(b'\n')) => {
                self.end_line(self.framing.line_start());
                return (run, at + 2);
            }
            (0, _) => {
                self.seen.nul = true;
                self.extend_line(1);
                return (run, at + 1);
            }
            _ => self.store(&bytes[run..at]),
        }
        match (bytes[at], bytes.get(at + 1)) {
            (b'\n', _) => {
                self.seen.bare_newline = true;
                self.store(b"\r\n");
                // On the wire no line starts here, so a dot after the bare LF is content.
                self.end_line(Position::Inside);
            }
            (_, Some(_)) => self.store_bare_cr(),
            (_, None) => self.position = Position::Cr,
        }
        (at + 1, at + 1)
    }

    fn store_bare_cr(&mut self) {
        self.seen.bare_newline = true;
        self.store(b" ");
        self.extend_line(1);
    }

    fn extend_line(&mut self, octets: usize) {
        self.line_octets = self.line_octets.saturating_add(octets);
        self.seen.long_line |= self.line_octets > self.limits.line_octets_max;
    }

    fn end_line(&mut self, position: Position) {
        self.line_octets = 0;
        self.position = position;
    }

    fn store(&mut self, run: &[u8]) {
        self.octets = self.octets.saturating_add(run.len() as u64);
        if self.error().is_none() {
            self.keep(run);
        } else if self.message.capacity() > 0 {
            self.message = Vec::new();
        }
    }

    fn keep(&mut self, run: &[u8]) {
        let Some(octets_max) = self.limits.keep_octets_max else {
            return self.message.extend_from_slice(run);
        };
        let octets_max = usize::try_from(octets_max).unwrap_or(usize::MAX);
        let octets_left = octets_max.saturating_sub(self.message.len());
        let kept = &run[..run.len().min(octets_left)];
        // The next doubling would exceed the limit.
        if self.message.capacity() - self.message.len() < kept.len()
            && self.message.capacity() > octets_max / 2
        {
            self.message.reserve_exact(octets_left);
        }
        self.message.extend_from_slice(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: DataLimits = DataLimits {
        message_octets_max: 1000,
        line_octets_max: 100,
        bare_newline: BareNewline::Normalize,
        keep_octets_max: None,
    };

    /// The message or its error, and the octets after the end; `None` while the end is missing.
    type Outcome = Option<(Result<Vec<u8>, ContentError>, Vec<u8>)>;

    fn decode(limits: DataLimits, pieces: &[&[u8]]) -> Outcome {
        let mut decoder = Decoder::new(limits, Framing::Dots, 0);
        for (i, piece) in pieces.iter().enumerate() {
            if let DataProgress::Complete { consumed } = decoder.decode(piece) {
                let rest = [&piece[consumed..], &pieces[i + 1..].concat()].concat();
                return Some((decoder.finish(), rest));
            }
        }
        None
    }

    fn message(wire: &[u8]) -> Option<Vec<u8>> {
        decode(LIMITS, &[wire]).map(|(message, _)| message.unwrap())
    }

    /// A plain reference implementation of RFC 5321 §4.5.2: cut at the end, split at CRLF, remove leading dots, then
    /// normalize bare CR and LF.
    fn model(limits: DataLimits, wire: &[u8]) -> Outcome {
        let framed = [b"\r\n", wire].concat();
        let end = framed.windows(5).position(|w| w == b"\r\n.\r\n")?;
        let (content, rest) = (&framed[..end + 2], framed[end + 5..].to_vec());
        let text: String = content.iter().map(|&b| char::from(b)).collect();
        let mut plain = String::new();
        for line in text[2..].split_inclusive("\r\n") {
            let dotted = line.strip_prefix('.').filter(|rest| !rest.starts_with('\n'));
            plain.push_str(dotted.unwrap_or(line));
        }
        let nul = plain.contains('\0');
        let lines = plain.replace("\r\n", "\u{100}");
        let bare = lines.contains(['\r', '\n']);
        let normalized = lines.replace('\n', "\u{100}").replace('\r', " ");
        let long = normalized.split('\u{100}').any(|line| line.chars().count() > limits.line_octets_max);
        let normalized: Vec<u8> = normalized.replace('\u{100}', "\r\n").chars().map(|c| c as u8).collect();
        let verdict = if normalized.len() as u64 > limits.message_octets_max {
            Err(ContentError::TooLarge)
        } else if nul {
            Err(ContentError::Nul)
        } else if bare && limits.bare_newline == BareNewline::Reject {
            Err(ContentError::BareNewline)
        } else if long {
            Err(ContentError::LineTooLong)
        } else {
            Ok(normalized)
        };
        Some((verdict, rest))
    }

    #[test]
    fn dots_and_line_ends_are_decoded_as_in_rfc_5321() {
        for (wire, expected) in [
            (&b".\r\n"[..], &b""[..]),
            (b"\r\n.\r\n", b"\r\n"),
            (b"a\r\n.\r\n", b"a\r\n"),
            (b"..\r\n.\r\n", b".\r\n"),
            (b"..a\r\n...\r\n.\r\n", b".a\r\n..\r\n"),
            (b".a\r\n.\r\n", b"a\r\n"),
            (b"a.\r\n.\r\n", b"a.\r\n"),
            // Bare CR and LF.
            (b"a\nb\r\n.\r\n", b"a\r\nb\r\n"),
            (b"a\rb\r\n.\r\n", b"a b\r\n"),
            (b"a\r\r\n.\r\n", b"a \r\n"),
            (b"a\n\r\n.\r\n", b"a\r\n\r\n"),
            // None of these ends the content, although some server accepts or accepted it as the end.
            (b"a\n.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
            (b"a\n.\r\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
            (b"a\r\n.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
            (b"a\r\n.\r\r\n.\r\n", b"a\r\n \r\n"),
            (b"a\r.\r\n.\r\n", b"a .\r\n"),
            (b"a\r\n.\rb\r\n.\r\n", b"a\r\n b\r\n"),
            (b"a\r\n\n.\r\nb\r\n.\r\n", b"a\r\n\r\n.\r\nb\r\n"),
            (b".\n.\r\n\r\n.\r\n", b".\r\n.\r\n\r\n"),
            (b"a\r\n.\r\r.\r\n.\r\n", b"a\r\n  .\r\n"),
        ] {
            assert_eq!(message(wire).as_deref(), Some(expected), "{:?}", wire.escape_ascii().to_string());
        }
    }

    #[test]
    fn octets_after_the_end_are_not_consumed() {
        let (message, rest) = decode(LIMITS, &[b"a\r\n.\r\nQUIT\r\n.\r\n"]).unwrap();
        assert_eq!((message, &rest[..]), (Ok(b"a\r\n".to_vec()), &b"QUIT\r\n.\r\n"[..]));
    }

    #[test]
    fn a_message_at_the_limit_is_accepted_and_one_octet_more_is_refused() {
        let limits = DataLimits { message_octets_max: 5, ..LIMITS };
        assert_eq!(decode(limits, &[b"abc\r\n.\r\n"]).unwrap().0, Ok(b"abc\r\n".to_vec()));
        assert_eq!(decode(limits, &[b"..bc\r\n.\r\n"]).unwrap().0, Ok(b".bc\r\n".to_vec()));
        assert_eq!(decode(limits, &[b"abcd\r\n.\r\n"]).unwrap().0, Err(ContentError::TooLarge));
    }

    #[test]
    fn a_message_over_the_limit_is_read_to_its_end_and_discarded() {
        let mut decoder = Decoder::new(LIMITS, Framing::Dots, 0);
        for _ in 0..1000 {
            assert_eq!(decoder.decode(b"0123456789\r\n"), DataProgress::Partial);
        }
        assert_eq!(decoder.memory_octets(), 0);
        assert_eq!(decoder.decode(b"QUIT\r\n.\r\nNOOP\r\n"), DataProgress::Complete { consumed: 9 });
        assert_eq!(decoder.finish(), Err(ContentError::TooLarge));
    }

    #[test]
    fn nul_long_lines_and_with_reject_bare_newlines_are_content_errors() {
        let reject = DataLimits { bare_newline: BareNewline::Reject, ..LIMITS };
        assert_eq!(decode(reject, &[b"a\nb\r\n.\r\n"]).unwrap().0, Err(ContentError::BareNewline));
        assert_eq!(decode(reject, &[b"a\rb\r\n.\r\n"]).unwrap().0, Err(ContentError::BareNewline));
        assert_eq!(decode(reject, &[b"a\r\nb\r\n.\r\n"]).unwrap().0, Ok(b"a\r\nb\r\n".to_vec()));
        assert_eq!(decode(LIMITS, &[b"a\0b\r\n.\r\n"]).unwrap().0, Err(ContentError::Nul));
        let long = [&b"x".repeat(101)[..], b"\r\n.\r\n"].concat();
        assert_eq!(decode(LIMITS, &[&long]).unwrap().0, Err(ContentError::LineTooLong));
        let long_after_lf = [b"a\n", &b"x".repeat(100)[..], b"\r\n.\r\n"].concat();
        assert!(decode(LIMITS, &[&long_after_lf]).unwrap().0.is_ok());
    }

    #[test]
    fn a_message_of_the_declared_size_needs_no_more_memory_than_reserved() {
        let line = b"An ordinary line of ordinary text, about as long as most of them are.\r\n";
        let wire = [&line.repeat(10)[..], b".\r\n"].concat();
        let mut decoder = Decoder::new(LIMITS, Framing::Dots, line.len() * 10);
        let reserved = decoder.memory_octets();
        assert!(matches!(decoder.decode(&wire), DataProgress::Complete { .. }));
        assert_eq!(decoder.memory_octets(), reserved);
    }

    fn decode_chunks(limits: DataLimits, chunks: &[&[u8]]) -> Result<Vec<u8>, ContentError> {
        let mut decoder = Decoder::new(limits, Framing::Chunks, 0);
        for chunk in chunks {
            assert_eq!(decoder.decode(chunk), DataProgress::Partial);
        }
        decoder.end();
        decoder.finish()
    }

    #[test]
    fn chunks_have_no_dot_stuffing_and_follow_the_other_rules() {
        let decode = |text: &[u8]| decode_chunks(LIMITS, &[text]);
        for (text, expected) in [
            (&b""[..], &b""[..]),
            (b"a\r\n", b"a\r\n"),
            (b".\r\n..\r\n.a\r\n\r\n.\r\n", b".\r\n..\r\n.a\r\n\r\n.\r\n"),
            (b"a\nb\rc\r\n", b"a\r\nb c\r\n"),
            (b"no end", b"no end\r\n"),
            (b"a\r", b"a \r\n"),
            (b"\n", b"\r\n"),
        ] {
            assert_eq!(decode(text).as_deref(), Ok(expected), "{}", text.escape_ascii());
        }
        assert_eq!(decode(b"a\0"), Err(ContentError::Nul));
        let reject = DataLimits { bare_newline: BareNewline::Reject, ..LIMITS };
        assert_eq!(decode_chunks(reject, &[b"a\r"]), Err(ContentError::BareNewline));
        assert_eq!(decode_chunks(reject, &[b"a\r", b"\nb\r\n"]), Ok(b"a\r\nb\r\n".to_vec()));
    }

    fn wires() -> impl Strategy<Value = Vec<u8>> {
        let token = prop::sample::select(vec![
            &b"a"[..],
            b".",
            b"..",
            b"\r",
            b"\n",
            b"\r\n",
            b"\r\n.\r\n",
            b".\r\n",
            b"\0",
            b"0123456789012345678901234567890123456789",
        ]);
        prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_decoder_agrees_with_the_reference_implementation(
            wire in wires(),
            reject in any::<bool>(),
            message_octets_max in 0u64..80,
        ) {
            let bare_newline = if reject { BareNewline::Reject } else { BareNewline::Normalize };
            let limits = DataLimits { message_octets_max, line_octets_max: 45, bare_newline, ..LIMITS };
            prop_assert_eq!(decode(limits, &[&wire]), model(limits, &wire));
        }

        #[test]
        fn the_beginning_is_kept_and_the_rest_is_checked(wire in wires(), keep in 0usize..80, at in 0usize..200) {
            let whole = decode(LIMITS, &[&wire]);
            let mut decoder =
                Decoder::new(DataLimits { keep_octets_max: Some(keep as u64), ..LIMITS }, Framing::Dots, 0);
            let (front, back) = wire.split_at(at.min(wire.len()));
            let mut is_complete = matches!(decoder.decode(front), DataProgress::Complete { .. });
            is_complete = is_complete || matches!(decoder.decode(back), DataProgress::Complete { .. });
            prop_assert!(decoder.memory_octets() <= keep.max(8));
            prop_assert_eq!(is_complete, whole.is_some());
            if let Some((whole, _)) = whole {
                let is_truncated = decoder.is_truncated();
                let kept = decoder.finish();
                match whole {
                    Ok(whole) => {
                        prop_assert_eq!(kept, Ok(whole[..whole.len().min(keep)].to_vec()));
                        prop_assert_eq!(is_truncated, whole.len() > keep);
                    }
                    Err(error) => prop_assert_eq!(kept, Err(error)),
                }
            }
        }

        #[test]
        fn any_split_into_chunks_gives_the_same_message(wire in wires(), at in 0usize..200) {
            let limits = DataLimits { message_octets_max: 60, line_octets_max: 45, ..LIMITS };
            let (front, back) = wire.split_at(at.min(wire.len()));
            let single: Vec<&[u8]> = wire.chunks(1).collect();
            prop_assert_eq!(decode_chunks(limits, &[front, back]), decode_chunks(limits, &[&wire]));
            prop_assert_eq!(decode_chunks(limits, &single), decode_chunks(limits, &[&wire]));
            if let Ok(message) = decode_chunks(limits, &[&wire]) {
                prop_assert!(message.is_empty() || message.ends_with(b"\r\n"));
            }
        }

        #[test]
        fn any_split_gives_the_same_message(wire in wires(), splits in prop::collection::vec(0usize..200, 0..5)) {
            let limits = DataLimits { message_octets_max: 60, line_octets_max: 45, ..LIMITS };
            let mut at: Vec<usize> = splits.into_iter().map(|s| s.min(wire.len())).collect();
            at.push(wire.len());
            at.sort_unstable();
            let mut from = 0;
            let pieces: Vec<&[u8]> =
                at.iter().map(|&to| { let piece = &wire[from..to]; from = to; piece }).collect();
            let single: Vec<&[u8]> = wire.chunks(1).collect();
            prop_assert_eq!(decode(limits, &pieces), decode(limits, &[&wire]));
            prop_assert_eq!(decode(limits, &single), decode(limits, &[&wire]));
        }
    }
}
