//! The part of a report that is stored.

use crate::mail::body_start;

use super::mime_parts::{Message, Part};
use super::prose::returned_message;

/// Octets of a text in which a returned message is looked for.
const TEXT_OCTETS_MAX: usize = 64 * 1024;

/// The beginning of a report up to the body of the returned message, at most `octets_max`.
pub fn excerpt(octets: &[u8], octets_max: usize) -> &[u8] {
    let message = Message::split(octets);
    let end = match message.returned_part() {
        Some(part) => part.start + returned_header(part),
        None => message.parts.iter().find_map(end_of_returned_header).unwrap_or(octets.len()),
    };
    &octets[..end.min(octets_max)]
}

/// The length of the header in a returned message; an encoded message is left out as a whole.
fn returned_header(part: &Part<'_>) -> usize {
    if part.is_encoded() { 0 } else { body_start(part.body) }
}

/// The end of the header of a message that is returned within a text.
fn end_of_returned_header(part: &Part<'_>) -> Option<usize> {
    let text = &part.body[..part.body.len().min(TEXT_OCTETS_MAX)];
    let returned = returned_message(text)?;
    Some(part.start + returned.header + body_start(&part.body[returned.header..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "Return-Path: <a@b.example>\r\nSubject: x\r\n\r\n";

    #[test]
    fn the_body_of_the_returned_message_is_left_out() {
        let report = |kind: &str, returned: &str| {
            format!(
                "Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\n\r\nfailed\r\n--b\r\nContent-Type: {kind}\r\n\r\n{returned}"
            )
        };
        for kind in ["message/rfc822", "message/global", "text/rfc822-headers"] {
            let kept = report(kind, HEADER);
            let whole = format!("{kept}secret\r\n--b--\r\n");
            assert_eq!(excerpt(whole.as_bytes(), 10_000), kept.as_bytes(), "{kind}");
        }
        let kept = report("message/rfc822\r\nContent-Transfer-Encoding: base64", "");
        assert_eq!(excerpt(format!("{kept}c2VjcmV0\r\n").as_bytes(), 10_000), kept.as_bytes());
        let kept = format!(
            "Subject: failure notice\r\n\r\nno\r\n\r\n--- Below this line is a copy of the message.\r\n\r\n{HEADER}"
        );
        assert_eq!(excerpt(format!("{kept}secret\r\n").as_bytes(), 10_000), kept.as_bytes());
        assert_eq!(excerpt(kept.as_bytes(), 7), b"Subject");
        assert_eq!(
            excerpt(b"A: b\r\n\r\nno returned message\r\n", 10_000),
            b"A: b\r\n\r\nno returned message\r\n"
        );
        assert_eq!(excerpt(b"", 10), b"");
    }
}
