//! The parts of a message (RFC 2046), without a look into returned messages. Counts, depth and lengths are limited.

use std::borrow::Cow;

use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::html::html_to_text;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::parsers::MessageStream;
use mail_parser::{ContentType, HeaderValue};
use memchr::memmem;

use crate::mail::{body_start, line_end, parts_of};

use super::fields::Fields;

/// Parts that are looked at.
const PARTS_MAX: usize = 64;
/// Multiparts within each other.
const DEPTH_MAX: usize = 5;
/// Octets of a part that are decoded.
const PART_OCTETS_MAX: usize = 64 * 1024;

/// A message and its parts.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) header: Fields<'a>,
    /// The parts that have no parts, in order. A returned message is one part.
    pub(super) parts: Vec<Part<'a>>,
}

/// A part that has no parts.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// Type and subtype, in lower case.
    pub(super) kind: String,
    /// How many multiparts it is in.
    pub(super) depth: usize,
    pub(super) body: &'a [u8],
    /// Where the body begins in the message.
    pub(super) start: usize,
    encoding: String,
    charset: Option<String>,
}

impl<'a> Message<'a> {
    pub(super) fn split(octets: &'a [u8]) -> Self {
        let mut parts = Vec::new();
        collect(octets, 0, 0, &mut parts);
        Self { header: Fields::of_header(octets), parts }
    }

    /// The first returned message, or its header.
    pub(super) fn returned_part(&self) -> Option<&Part<'a>> {
        self.parts.iter().find(|part| part.is_returned_message())
    }

    /// The text before the returned message: the plain text, or else the HTML.
    pub(super) fn own_text(&self) -> String {
        let own = || self.parts.iter().take_while(|part| !part.is_returned_message());
        let is_plain = |part: &&Part<'_>| part.kind == "text/plain" || part.kind.starts_with("multipart/");
        let mut text = String::new();
        for part in own().filter(is_plain) {
            if text.len() < PART_OCTETS_MAX {
                text.push_str(&part.text());
                text.push_str("\n\n");
            }
        }
        match own().find(|part| part.kind == "text/html") {
            Some(html) if text.trim().is_empty() => html.text(),
            _ => text,
        }
    }

    /// The first part of one of these types.
    pub(super) fn part(&self, kinds: &[&str]) -> Option<&Part<'a>> {
        self.parts.iter().find(|part| kinds.contains(&&*part.kind))
    }
}

impl Part<'_> {
    /// Whether it is a returned message, or the header of one.
    pub(super) fn is_returned_message(&self) -> bool {
        matches!(
            &*self.kind,
            "message/rfc822"
                | "message/global"
                | "message/global-headers"
                | "message/rfc822-headers"
                | "text/rfc822-headers"
                | "text/rfc822"
        )
    }

    /// Whether its content is encoded.
    pub(super) fn is_encoded(&self) -> bool {
        matches!(&*self.encoding, "base64" | "quoted-printable")
    }

    /// The beginning of its content without the transfer encoding. An encoding that is not valid is taken for none.
    pub(super) fn content(&self) -> Cow<'_, [u8]> {
        let body = &self.body[..self.body.len().min(PART_OCTETS_MAX)];
        let decoded = match &*self.encoding {
            "base64" => base64_decode(body),
            "quoted-printable" if line_end(body) == b'\n' => quoted_printable_decode(body),
            "quoted-printable" => quoted_printable_decode(&with_line_feeds(body)),
            _ => None,
        };
        decoded.map_or(Cow::Borrowed(body), Cow::Owned)
    }

    /// The beginning of its text, with CRLF or LF as line ends.
    pub(super) fn text(&self) -> String {
        let content = self.content();
        // ISO-2022-JP has seven bits and is seen without its name, also in status parts.
        let is_japanese = memmem::find(&content, b"\x1b$").is_some();
        let charset = if is_japanese { Some("iso-2022-jp") } else { self.charset.as_deref() };
        let decode = charset.and_then(|charset| charset_decoder(charset.as_bytes()));
        let text = match decode {
            Some(decode) if is_japanese || !content.is_ascii() => decode(&content),
            _ => String::from_utf8_lossy(&content).into_owned(),
        };
        let text = if self.kind == "text/html" { html_to_text(&text) } else { text };
        if text.contains('\n') { text } else { text.replace('\r', "\n") }
    }
}

/// A text with CR as line end, with LF instead.
fn with_line_feeds(text: &[u8]) -> Vec<u8> {
    text.iter().map(|&octet| if octet == b'\r' { b'\n' } else { octet }).collect()
}

/// Content-Type and Content-Transfer-Encoding.
struct Kind {
    name: String,
    boundary: Option<String>,
    charset: Option<String>,
    encoding: String,
}

impl Kind {
    fn of(header: &Fields<'_>) -> Self {
        let value = header.get("Content-Type").unwrap_or_default();
        let encoding = header.get("Content-Transfer-Encoding").unwrap_or_default().to_ascii_lowercase();
        let mut this = Self { name: "text/plain".into(), boundary: None, charset: None, encoding };
        let line = format!("{value}\n");
        let HeaderValue::ContentType(parsed) = MessageStream::new(line.as_bytes()).parse_content_type()
        else {
            return this;
        };
        let attribute = |name| ContentType::attribute(&parsed, name).map(str::to_owned);
        // Some leave out the semicolon before the parameters.
        if let Some(subtype) = parsed.subtype().and_then(|subtype| subtype.split_whitespace().next()) {
            this.name = format!("{}/{subtype}", parsed.ctype()).to_ascii_lowercase();
        }
        this.boundary = attribute("boundary").filter(|boundary| !boundary.is_empty());
        this.charset = attribute("charset");
        this
    }
}

/// Adds the parts of an entity that begins at `start` of the message.
fn collect<'a>(entity: &'a [u8], start: usize, depth: usize, parts: &mut Vec<Part<'a>>) {
    if parts.len() >= PARTS_MAX {
        return;
    }
    let kind = Kind::of(&Fields::of_header(entity));
    let body_at = body_start(entity);
    let (body, body_at) = (&entity[body_at..], start + body_at);
    let boundary = kind.boundary.filter(|_| kind.name.starts_with("multipart/") && depth < DEPTH_MAX);
    let before = parts.len();
    for (child, at) in boundary.iter().flat_map(|boundary| parts_of(body, boundary.as_bytes())) {
        collect(child, body_at + at, depth + 1, parts);
        if parts.len() >= PARTS_MAX {
            return;
        }
    }
    // A multipart without its boundary is a text.
    if parts.len() > before {
        return;
    }
    parts.push(Part {
        kind: kind.name,
        depth,
        body,
        start: body_at,
        encoding: kind.encoding,
        charset: kind.charset,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<String> {
        Message::split(text.as_bytes())
            .parts
            .iter()
            .map(|part| format!("{} {}", part.kind, part.text()))
            .collect()
    }

    #[test]
    fn parts_are_found_with_each_line_end_and_without_the_last_delimiter() {
        let lines = [
            "Content-Type: multipart/report; boundary=\"a b\"",
            "",
            "preamble",
            "--a b",
            "",
            "one",
            "--a b  ",
            "Content-Type: multipart/alternative; boundary=c",
            "",
            "--c",
            "Content-Type: TEXT/HTML",
            "",
            "<b>two</b>",
            "--c--",
            "--a b",
            "Content-Type: message/rfc822",
            "",
            "Content-Type: multipart/report; boundary=c",
            "",
            "--c",
        ];
        for end in ["\r\n", "\n", "\r"] {
            for text in [lines.join(end), lines.join(end) + end + "--a b--" + end + "epilogue"] {
                let found = kinds(&text);
                let [one, two, returned] = &found[..] else { panic!("{found:?}") };
                assert_eq!(one.trim_ascii_end(), "text/plain one");
                assert_eq!(two.trim_ascii_end(), "text/html two");
                assert!(returned.starts_with("message/rfc822 Content-Type: multipart/report"), "{returned}");
                assert!(returned.trim_ascii_end().ends_with("--c"), "{returned}");
            }
        }
    }

    #[test]
    fn the_encoding_and_the_charset_are_undone() {
        for (header, body) in [
            ("Content-Transfer-Encoding: BASE64\r\nContent-Type: text/plain; charset=utf-8", "w6k=\r\n"),
            (
                "Content-Transfer-Encoding: quoted-printable\r\nContent-Type: text/plain; charset=iso-8859-1",
                "=E9",
            ),
            ("Content-Type: text/plain; charset=unknown-8bit", "\u{e9}"),
            ("Content-Transfer-Encoding: base64", "\u{e9}"),
        ] {
            assert_eq!(kinds(&format!("{header}\r\n\r\n{body}")), ["text/plain \u{e9}"], "{header}");
        }
    }

    #[test]
    fn japanese_is_read_without_its_name() {
        // The word for mail in ISO-2022-JP.
        let text = "A: b\r\n\r\n\u{1b}$B%a!<%k\u{1b}(B";
        assert_eq!(kinds(text), ["text/plain \u{30e1}\u{30fc}\u{30eb}"]);
    }

    #[test]
    fn the_text_of_the_server_ends_before_the_returned_message() {
        let text = "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\nown\r\n--a\r\nContent-Type: message/rfc822\r\n\r\n\
            A: b\r\n--a\r\n\r\nof the sender\r\n--a--\r\n";
        assert_eq!(Message::split(text.as_bytes()).own_text().trim(), "own");
    }

    #[test]
    fn the_number_and_the_depth_of_parts_are_limited() {
        let many =
            format!("Content-Type: multipart/mixed; boundary=a\r\n\r\n{}", "--a\r\n\r\nx\r\n".repeat(10_000));
        assert_eq!(kinds(&many).len(), 64);
        let nested: String = (0..1000)
            .map(|level| format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n"))
            .collect();
        let found = Message::split(nested.as_bytes());
        assert_eq!(found.parts.iter().map(|part| part.depth).collect::<Vec<_>>(), [5]);
        let pieces: String = (0..200_000).map(|n| format!(" x*{n}=y;")).collect();
        let continued = format!("Content-Type: multipart/mixed;{pieces} boundary=a\r\n\r\n--a\r\n\r\nx\r\n");
        assert_eq!(Message::split(continued.as_bytes()).parts.len(), 1);
    }
}
