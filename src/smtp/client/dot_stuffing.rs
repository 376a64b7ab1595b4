//! Dot stuffing (RFC 5321 §4.5.2) of a message that arrives in pieces.

/// Converts a message to wire form: doubles dots at line starts, ends lines with CRLF and appends the terminator.
///
/// The spool stores CRLF line ends only. As a second protection against SMTP smuggling, a bare CR is sent as a space
/// and a bare LF as CRLF: some servers accept either as a line end.
#[derive(Debug)]
pub struct DotStuffer {
    at_line_start: bool,
    /// A CR at the end of a piece; the next piece decides whether it is bare.
    after_cr: bool,
}

impl Default for DotStuffer {
    fn default() -> Self {
        Self { at_line_start: true, after_cr: false }
    }
}

impl DotStuffer {
    /// The converter of one message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the wire form of the next piece.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        if piece.is_empty() {
            return;
        }
        if std::mem::take(&mut self.after_cr) {
            if let Some(rest) = piece.strip_prefix(b"\n") {
                out.extend_from_slice(b"\r\n");
                self.at_line_start = true;
                piece = rest;
            } else {
                out.push(b' ');
            }
        }
        if std::mem::take(&mut self.at_line_start) {
            if piece.first() == Some(&b'.') {
                out.push(b'.');
            }
            self.at_line_start = piece.is_empty();
        }
        self.push_lines(piece, out);
    }

    /// Copies as many octets at once as possible: up to the next octet that must be inserted or replaced.
    fn push_lines(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut copied = 0;
        for at in memchr::memchr2_iter(b'\r', b'\n', piece) {
            let next = piece.get(at + 1);
            if piece[at] == b'\r' {
                match next {
                    Some(b'\n') => {}
                    Some(_) => {
                        out.extend_from_slice(&piece[copied..at]);
                        out.push(b' ');
                        copied = at + 1;
                    }
                    None => {
                        self.after_cr = true;
                        out.extend_from_slice(&piece[copied..at]);
                        return;
                    }
                }
                continue;
            }
            if at == 0 || piece[at - 1] != b'\r' {
                out.extend_from_slice(&piece[copied..at]);
                out.extend_from_slice(b"\r\n");
                copied = at + 1;
            }
            match next {
                Some(b'.') => {
                    out.extend_from_slice(&piece[copied..=at]);
                    out.push(b'.');
                    copied = at + 1;
                }
                Some(_) => {}
                None => self.at_line_start = true,
            }
        }
        out.extend_from_slice(&piece[copied..]);
    }

    /// Ends the last line if necessary, and appends the terminator.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.after_cr {
            out.push(b' ');
        }
        if !self.at_line_start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes the wire form; `None` unless the terminator is at the very end and nowhere else.
    fn unstuff(wire: &[u8]) -> Option<Vec<u8>> {
        let mut message = Vec::with_capacity(wire.len());
        let mut rest = wire;
        loop {
            let end = memchr::memmem::find(rest, b"\r\n")? + 2;
            let line = &rest[..end];
            rest = &rest[end..];
            if line == b".\r\n" {
                return rest.is_empty().then_some(message);
            }
            message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
    }

    fn stuff<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut stuffing = DotStuffer::new();
        for piece in pieces {
            stuffing.push(piece, &mut out);
        }
        stuffing.finish(&mut out);
        out
    }

    #[test]
    fn dots_at_line_starts_are_doubled_and_lines_end_with_crlf() {
        for (message, wire) in [
            ("", ".\r\n"),
            (".", "..\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            ("\r\n", "\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r\n..b\r\n.c", "a\r\n...b\r\n..c\r\n.\r\n"),
            // SMTP smuggling: every sequence that some server accepts as the end is changed.
            ("a\n.\nb", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r\n.\nb", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\n.\r\nb", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r.\rb", "a . b\r\n.\r\n"),
            ("a\r\n.\rb", "a\r\n.. b\r\n.\r\n"),
            ("a\r\r\n.", "a \r\n..\r\n.\r\n"),
            ("a\r", "a \r\n.\r\n"),
            ("\n", "\r\n.\r\n"),
        ] {
            let read = stuff([message.as_bytes()]);
            assert_eq!(read, wire.as_bytes(), "{message:?} -> {:?}", String::from_utf8_lossy(&read));
        }
    }

    fn pieces(message: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut places: Vec<usize> = cuts.iter().map(|&cut| cut.min(message.len())).collect();
        places.extend([0, message.len()]);
        places.sort_unstable();
        places.windows(2).map(|pair| message[pair[0]..pair[1]].to_vec()).collect()
    }

    proptest! {
        #[test]
        fn a_stuffed_message_unstuffs_to_itself(lines in prop::collection::vec("[.a-z ]{0,6}", 0..20)) {
            let message: String = lines.iter().map(|line| line.clone() + "\r\n").collect();
            prop_assert_eq!(unstuff(&stuff([message.as_bytes()])).unwrap(), message.as_bytes());
        }

        #[test]
        fn any_message_in_any_pieces_has_one_terminator_at_its_end(
            message in "[.\r\na]{0,40}",
            cuts in prop::collection::vec(0usize..40, 0..6),
        ) {
            let whole = stuff([message.as_bytes()]);
            let parts = pieces(message.as_bytes(), &cuts);
            prop_assert_eq!(&stuff(parts.iter().map(Vec::as_slice)), &whole);
            prop_assert!(unstuff(&whole).is_some());
            // The wire form has no CR or LF outside CRLF.
            let text = String::from_utf8(whole).unwrap().replace("\r\n", "");
            prop_assert!(!text.contains(['\r', '\n']));
        }
    }
}
