//! Builds an RFC 5322 message: encoded and folded header fields, bodies and attachments in MIME. Pure.
//!
//! lettre builds the MIME parts. `header_field` writes the header fields, because lettre refuses addresses that are in use and
//! writes lines of any length. This module writes line ends, because lettre moves the rest of the text for each CRLF.

use email_encoding::body::Encoding;
use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Attachment as AttachmentPart, Body, MultiPart, SinglePart};

use super::header_field::{write_mailboxes, write_subject};
use super::mailbox::Mailbox;

/// The parts of a message. [`super::draft`] has validated them.
#[derive(Debug, Default)]
pub struct MimeMessage {
    /// `From`. `None` only in [`Default`].
    pub from: Option<Mailbox>,
    /// `To`.
    pub to: Vec<Mailbox>,
    /// `Cc`.
    pub cc: Vec<Mailbox>,
    /// `Reply-To`.
    pub reply_to: Vec<Mailbox>,
    /// `Subject`.
    pub subject: String,
    /// The body as plain text.
    pub text: Option<String>,
    /// The body as HTML.
    pub html: Option<String>,
    /// Other header fields as they are sent, each with its CRLF.
    pub headers: String,
    /// Attachments.
    pub attachments: Vec<Attachment>,
}

/// An attachment.
#[derive(Debug)]
pub struct Attachment {
    /// Its name.
    pub filename: String,
    /// Its type.
    pub content_type: ContentType,
    /// Its octets.
    pub content: Vec<u8>,
    /// The Content-ID, to which the HTML body refers (`cid:`). A file with it is shown in the body.
    pub content_id: Option<String>,
}

/// A part of a message, with or without parts of its own.
enum Part {
    Single(SinglePart),
    Multi(MultiPart),
}

impl MimeMessage {
    /// The message, with CRLF line ends and lines of at most 998 octets. The submission service adds Date and Message-ID.
    pub fn compose(self) -> Vec<u8> {
        let mut header = String::new();
        let from: Vec<Mailbox> = self.from.into_iter().collect();
        for (name, mailboxes) in
            [("From", &from), ("To", &self.to), ("Cc", &self.cc), ("Reply-To", &self.reply_to)]
        {
            if !mailboxes.is_empty() {
                header += &write_mailboxes(name, mailboxes);
            }
        }
        if self.to.is_empty() && self.cc.is_empty() {
            // Many readers and filters miss a message without recipients (RFC 5322 §3.6.3, an empty group).
            header += "To: undisclosed-recipients:;\r\n";
        }
        header += &write_subject(&self.subject);
        header += &self.headers;
        header += "MIME-Version: 1.0\r\n";
        let mut message = header.into_bytes();
        message.extend(match assemble(self.text, self.html, self.attachments) {
            Part::Single(part) => part.formatted(),
            Part::Multi(parts) => parts.formatted(),
        });
        message
    }
}

/// RFC 5322 §2.3: CR occurs only before LF. A lone CR becomes a line end.
fn mend_line_ends(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

/// A text with CRLF line ends, in the encoding that `Body::new` of lettre would choose. lettre gets it as octets, in which
/// it does not search for line ends.
fn encode_text(text: String) -> Body {
    let text = mend_line_ends(text);
    let encoding = match Encoding::choose(text.as_str(), false) {
        Encoding::SevenBit => ContentTransferEncoding::SevenBit,
        Encoding::EightBit => ContentTransferEncoding::EightBit,
        Encoding::QuotedPrintable => ContentTransferEncoding::QuotedPrintable,
        Encoding::Base64 => ContentTransferEncoding::Base64,
    };
    let octets = text.replace('\n', "\r\n").into_bytes();
    match encoding {
        ContentTransferEncoding::QuotedPrintable | ContentTransferEncoding::Base64 => {
            encode_octets(octets, encoding)
        }
        unchanged => Body::dangerous_pre_encoded(octets, unchanged),
    }
}

fn encode_octets(octets: Vec<u8>, encoding: ContentTransferEncoding) -> Body {
    let body = Body::new_with_encoding(octets, encoding);
    body.unwrap_or_else(|_| unreachable!("base64 and quoted-printable take any octets"))
}

/// RFC 2046 §5.1: attachments beside the body; in the body, the HTML with its inline files as the alternative of the text.
fn assemble(text: Option<String>, html: Option<String>, files: Vec<Attachment>) -> Part {
    let is_shown = |file: &Attachment| html.is_some() && file.content_id.is_some();
    let (shown, beside): (Vec<_>, Vec<_>) = files.into_iter().partition(is_shown);
    let rich = html.map(|html| match shown.is_empty() {
        true => Part::Single(SinglePart::html(encode_text(html))),
        false => Part::Multi(add_files(
            MultiPart::related().singlepart(SinglePart::html(encode_text(html))),
            shown,
        )),
    });
    let body = match (text, rich) {
        (text, None) => Part::Single(SinglePart::plain(encode_text(text.unwrap_or_default()))),
        (None, Some(rich)) => rich,
        (Some(text), Some(rich)) => Part::Multi(
            rich.add_to(MultiPart::alternative().singlepart(SinglePart::plain(encode_text(text)))),
        ),
    };
    match beside.is_empty() {
        true => body,
        false => Part::Multi(add_files(body.add_to(MultiPart::mixed().build()), beside)),
    }
}

fn add_files(parts: MultiPart, files: Vec<Attachment>) -> MultiPart {
    files.into_iter().map(Attachment::into_part).fold(parts, MultiPart::singlepart)
}

impl Part {
    fn add_to(self, parts: MultiPart) -> MultiPart {
        match self {
            Self::Single(part) => parts.singlepart(part),
            Self::Multi(more) => parts.multipart(more),
        }
    }
}

impl Attachment {
    fn into_part(self) -> SinglePart {
        let kind = match self.content_id {
            Some(id) => AttachmentPart::new_inline_with_name(id, self.filename),
            None => AttachmentPart::new(self.filename),
        };
        kind.body(encode_octets(self.content, ContentTransferEncoding::Base64), self.content_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::{MessageParser, MimeHeaders};
    use proptest::prelude::*;

    fn mailbox(text: &str) -> Mailbox {
        text.parse().unwrap()
    }

    fn mime() -> MimeMessage {
        MimeMessage {
            from: Some(mailbox("a@a.example")),
            to: vec![mailbox("b@b.example")],
            ..MimeMessage::default()
        }
    }

    fn file(name: &str, content_id: Option<&str>) -> Attachment {
        Attachment {
            filename: name.into(),
            content_type: ContentType::parse("image/png").unwrap(),
            content: vec![0, 255, b'\n', b'\r', 7],
            content_id: content_id.map(str::to_owned),
        }
    }

    /// Like `mixed(alternative(text, related(html, file)), file)`.
    fn shape(mime: MimeMessage) -> String {
        fn describe(message: &mail_parser::Message<'_>, part: u32) -> String {
            let part = message.part(part).unwrap();
            let kind = part.content_type().unwrap();
            match &part.body {
                mail_parser::PartType::Multipart(parts) => {
                    let inner: Vec<String> = parts.iter().map(|&n| describe(message, n)).collect();
                    format!("{}({})", kind.subtype().unwrap(), inner.join(", "))
                }
                _ => kind.subtype().unwrap().to_owned(),
            }
        }
        let bytes = mime.compose();
        describe(&MessageParser::default().parse(&bytes).unwrap(), 0)
    }

    #[test]
    fn the_parts_are_nested_as_mail_clients_expect() {
        let (text, html) = (|| Some("t".to_owned()), || Some("<p>".to_owned()));
        let files = || vec![file("a.png", None), file("b.png", Some("b"))];
        for (mime, expected) in [
            (MimeMessage { text: text(), ..mime() }, "plain"),
            (MimeMessage { html: html(), ..mime() }, "html"),
            (MimeMessage { text: text(), html: html(), ..mime() }, "alternative(plain, html)"),
            (MimeMessage { text: text(), attachments: files(), ..mime() }, "mixed(plain, png, png)"),
            (MimeMessage { html: html(), attachments: files(), ..mime() }, "mixed(related(html, png), png)"),
            (
                MimeMessage { text: text(), html: html(), attachments: files(), ..mime() },
                "mixed(alternative(plain, related(html, png)), png)",
            ),
        ] {
            assert_eq!(shape(mime), expected);
        }
    }

    #[test]
    fn names_and_subjects_in_any_script_are_preserved() {
        let names =
            ["Doe, John", "Jürgen \"J\" Müller", "日本 太郎", "a@evil.example", "x".repeat(150).as_str()]
                .map(|name| Mailbox { name: Some(name.into()), address: "b@b.example".parse().unwrap() });
        let subject =
            "Grüße – 日本語 und ein langer Betreff, der über mehr als eine Zeile geht 🦀 ".repeat(3);
        let mime = MimeMessage { to: names.to_vec(), subject: subject.trim().into(), ..mime() };
        let bytes = mime.compose();
        assert!(bytes.split(|&b| b == b'\n').all(|line| line.len() < 200), "folded");
        let message = MessageParser::default().parse(&bytes).unwrap();
        assert_eq!(message.subject(), Some(subject.trim()));
        let read: Vec<_> = message.to().unwrap().iter().map(|one| one.name().unwrap().to_owned()).collect();
        assert_eq!(read, names.map(|one| one.name.unwrap()));
    }

    #[test]
    fn an_attachment_keeps_its_octets_and_its_name() {
        let bytes = MimeMessage { attachments: vec![file("Größe, 1.png", None)], ..mime() }.compose();
        let message = MessageParser::default().parse(&bytes).unwrap();
        let part = message.attachment(0).unwrap();
        assert_eq!(part.attachment_name(), Some("Größe, 1.png"));
        assert_eq!(part.contents(), [0, 255, b'\n', b'\r', 7]);
    }

    #[test]
    fn a_lone_carriage_return_ends_a_line() {
        let bytes = MimeMessage { text: Some("a\rb".into()), html: Some("\r".into()), ..mime() }.compose();
        assert!(!String::from_utf8_lossy(&bytes).replace("\r\n", "").contains(['\r', '\n']));
    }

    /// If each CR moved the rest of the text, this would take many minutes.
    #[test]
    fn the_cost_of_a_line_does_not_grow_with_the_number_of_lines() {
        let lines = 6_000_000;
        assert_eq!(encode_text("\n".repeat(lines)).len(), 2 * lines);
    }

    proptest! {
        #[test]
        fn a_text_is_encoded_as_lettre_would_encode_it(text in "([a-zé =.\t\n]|[a-z ]{50,90}\n){0,20}") {
            let (ours, theirs) = (encode_text(text.clone()), Body::new(text));
            prop_assert_eq!(ours.encoding(), theirs.encoding());
            prop_assert_eq!(ours.as_ref(), theirs.as_ref());
        }

        #[test]
        fn whatever_the_text_lines_end_in_crlf_and_are_short(text in "[a-zé\r\n\t .=🦀]{0,2000}", html: Option<String>) {
            let html = html.map(|html| html.replace('\0', ""));
            let bytes = MimeMessage { text: Some(text.clone()), html, ..mime() }.compose();
            let rest = String::from_utf8_lossy(&bytes).replace("\r\n", "");
            prop_assert!(!rest.contains(['\r', '\n', '\0']));
            prop_assert!(bytes.split(|&b| b == b'\n').all(|line| line.len() <= 999));
            let message = MessageParser::default().parse(&bytes).unwrap();
            let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n").trim_end().to_owned();
            prop_assert_eq!(lines(&message.body_text(0).unwrap()), lines(&text));
        }
    }
}
