//! The headers inside a message: those of its MIME parts and of the messages in it (RFC 2045, RFC 2046).

use std::collections::HashSet;

use memchr::memchr;

use super::header::find_end;

/// Whether the header of the message, of a MIME part or of a contained message has octets above 127. Takes time and
/// memory in proportion to the length of the message, whatever its structure.
pub(super) fn has_utf8_header(message: &[u8]) -> bool {
    let mut delimiters: HashSet<&[u8]> = HashSet::new();
    let mut rest = message;
    while !rest.is_empty() {
        let (header, body) = rest.split_at(find_end(rest));
        if !header.is_ascii() {
            return true;
        }
        let body = body.strip_prefix(b"\r\n").unwrap_or(body);
        let kind = content_type(header);
        delimiters.extend(boundary(kind));
        rest = if is_message(kind) { body } else { after_delimiter(body, &delimiters) };
    }
    false
}

/// The value of the first Content-Type field, with its folded lines; empty without one.
fn content_type(header: &[u8]) -> &[u8] {
    const NAME: &[u8] = b"content-type:";
    let (mut start, mut end) = (None, 0);
    for line in header.split_inclusive(|&octet| octet == b'\n') {
        let is_folded = line.starts_with(b" ") || line.starts_with(b"\t");
        let is_field = || line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME));
        match start {
            Some(start) if !is_folded => return &header[start..end],
            None if is_field() => start = Some(end + NAME.len()),
            _ => {}
        }
        end += line.len();
    }
    start.map_or(&[], |start| &header[start..])
}

/// The parameter `boundary` of a Content-Type (RFC 2046 §5.1.1). No boundary has a semicolon, quote or backslash.
fn boundary(content_type: &[u8]) -> Option<&[u8]> {
    content_type.split(|&octet| octet == b';').find_map(|parameter| {
        let (name, value) = parameter.trim_ascii_start().split_at_checked(b"boundary".len())?;
        let value = value.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
        let is_end: fn(&u8) -> bool = match value.starts_with(b"\"") {
            true => |octet: &u8| *octet == b'"',
            false => |octet: &u8| octet.is_ascii_whitespace() || *octet == b'(',
        };
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        name.eq_ignore_ascii_case(b"boundary").then(|| value.split(is_end).next()).flatten()
    })
}

/// Whether the content is a message with its own header (RFC 2046 §5.2.1, RFC 6532 §3.7).
fn is_message(content_type: &[u8]) -> bool {
    let mut words = content_type.trim_ascii_start().split(|octet| b"; \t\r\n(".contains(octet));
    let kind = words.next().unwrap_or_default();
    [&b"message/rfc822"[..], b"message/global"].iter().any(|message| kind.eq_ignore_ascii_case(message))
}

/// The text after the first line that begins a part.
fn after_delimiter<'a>(body: &'a [u8], delimiters: &HashSet<&[u8]>) -> &'a [u8] {
    if delimiters.is_empty() {
        return &[];
    }
    let mut rest = body;
    while let Some(end) = memchr(b'\n', rest) {
        let (line, after) = rest.split_at(end + 1);
        if let Some(delimiter) = line.strip_prefix(b"--")
            && delimiters.contains(delimiter.trim_ascii_end())
        {
            return after;
        }
        rest = after;
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIXED: &str =
        "From: a@b\r\nContent-Type: multipart/mixed;\r\n\tBoundary = \"b 1\"\r\n\r\nprologue é\r\n";

    #[test]
    fn the_headers_of_parts_and_of_contained_messages_count() {
        for inner in [
            "--b 1\r\nContent-Disposition: attachment; filename=\"é\"\r\n\r\nx\r\n--b 1--\r\n",
            "--b 1\r\n\r\né\r\n--b 1 \r\nContent-Description: é\r\n\r\nx\r\n--b 1--\r\n",
            "--b 1\r\nContent-Type: message/rfc822\r\n\r\nSubject: é\r\n\r\nx\r\n--b 1--\r\n",
            "--b 1\r\ncontent-type: MESSAGE/GLOBAL; x=y\r\n\r\nSubject: é\r\n\r\nx\r\n--b 1--\r\n",
            "--b 1\r\nContent-Type: multipart/related; boundary=b2(c)\r\n\r\n--b2\r\nX: é\r\n\r\nx\r\n--b2--\r\n--b 1--\r\n",
            "--b 1\r\nContent-Type: multipart/related; boundary=b2\r\n\r\n--b2\r\n\r\nx\r\n--b2--\r\n--b 1\r\nX: é\r\n\r\n",
        ] {
            assert!(has_utf8_header(format!("{MIXED}{inner}").as_bytes()), "{inner}");
        }
        assert!(has_utf8_header("Subject: é\r\n\r\nx\r\n".as_bytes()));
    }

    #[test]
    fn the_bodies_do_not_count() {
        for inner in [
            "--b 1\r\nContent-Type: text/plain\r\n\r\né\r\n--b 1--\r\né: é\r\n\r\n",
            "--b 1\r\n\r\n--b 2\r\nX: é\r\n\r\n--b 1--\r\n",
            "--b 1\r\nContent-Type: message/delivery-status\r\n\r\nX: é\r\n\r\n--b 1--\r\n",
            "--b 1\r\nContent-Type: message/rfc822\r\n\r\nSubject: e\r\n\r\né\r\n--b 1--\r\n",
        ] {
            assert!(!has_utf8_header(format!("{MIXED}{inner}").as_bytes()), "{inner}");
        }
        assert!(!has_utf8_header("Subject: e\r\n\r\n--\r\nX: é\r\n\r\n".as_bytes()));
        assert!(!has_utf8_header(b""));
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(message in proptest::collection::vec(prop_oneof![
            Just("\r\n"), Just("Content-Type: multipart/x; boundary=b"), Just("--b"), Just("é"), Just(" "), Just("\""),
            Just("boundary"), Just("Content-Type: message/rfc822"), Just(";"), Just("="),
        ], 0..40)) {
            let _ = has_utf8_header(message.concat().as_bytes());
        }
    }
}
