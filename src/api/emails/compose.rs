//! A message in JSON made into one of RFC 5322: header fields encoded and folded, bodies and attachments in MIME. Pure.
//!
//! lettre makes the MIME parts; the fields of the header are written by `header_field`, for lettre refuses addresses that
//! exist and writes lines of any length. Line ends are written here, for lettre makes each CRLF by moving all that follows.

use email_encoding::body::Encoding;
use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Attachment as AttachmentPart, Body, MultiPart, SinglePart};

use super::header_field::{write_mailboxes, write_subject};
use super::mailbox::Mailbox;

/// What a message is made of; texts are free of what [`super::draft`] refuses.
#[derive(Debug, Default)]
pub struct MimeMessage {
    /// Exactly one in the end; `None` only while it is put together.
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
    /// Other fields as they are written, each with its CRLF.
    pub headers: String,
    /// Files.
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
    /// By what the HTML body refers to it (`cid:`); such a file is shown in the body.
    pub content_id: Option<String>,
}

/// A part of a message, with or without parts of its own.
enum Part {
    Single(SinglePart),
    Multi(MultiPart),
}

impl MimeMessage {
    /// The message: CRLF throughout, no line above 998 octets, without Date and Message-ID, which intake adds.
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

/// RFC 5322 §2.3: a CR stands before an LF only. A lone one ends a line.
fn mend_line_ends(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

/// A text with CRLF line ends, in the encoding that `Body::new` of lettre would choose for it. lettre gets octets, which
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
        as_it_is => Body::dangerous_pre_encoded(octets, as_it_is),
    }
}

fn encode_octets(octets: Vec<u8>, encoding: ContentTransferEncoding) -> Body {
    let body = Body::new_with_encoding(octets, encoding);
    body.unwrap_or_else(|_| unreachable!("base64 and quoted-printable take any octets"))
}

/// RFC 2046 §5.1: files beside the body; in it the HTML, with the files that it shows, as the better form of the text.
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

    fn letter() -> MimeMessage {
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
    fn shape(letter: MimeMessage) -> String {
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
        let bytes = letter.compose();
        describe(&MessageParser::default().parse(&bytes).unwrap(), 0)
    }

    #[test]
    fn the_parts_stand_where_mail_clients_look_for_them() {
        let (text, html) = (|| Some("t".to_owned()), || Some("<p>".to_owned()));
        let files = || vec![file("a.png", None), file("b.png", Some("b"))];
        for (letter, expected) in [
            (MimeMessage { text: text(), ..letter() }, "plain"),
            (MimeMessage { html: html(), ..letter() }, "html"),
            (MimeMessage { text: text(), html: html(), ..letter() }, "alternative(plain, html)"),
            (MimeMessage { text: text(), attachments: files(), ..letter() }, "mixed(plain, png, png)"),
            (
                MimeMessage { html: html(), attachments: files(), ..letter() },
                "mixed(related(html, png), png)",
            ),
            (
                MimeMessage { text: text(), html: html(), attachments: files(), ..letter() },
                "mixed(alternative(plain, related(html, png)), png)",
            ),
        ] {
            assert_eq!(shape(letter), expected);
        }
    }

    #[test]
    fn names_and_subjects_of_any_script_arrive_as_they_were() {
        let names =
            ["Doe, John", "Jürgen \"J\" Müller", "日本 太郎", "a@evil.example", "x".repeat(150).as_str()]
                .map(|name| Mailbox { name: Some(name.into()), address: "b@b.example".parse().unwrap() });
        let subject =
            "Grüße – 日本語 und ein langer Betreff, der über mehr als eine Zeile geht 🦀 ".repeat(3);
        let letter = MimeMessage { to: names.to_vec(), subject: subject.trim().into(), ..letter() };
        let bytes = letter.compose();
        assert!(bytes.split(|&b| b == b'\n').all(|line| line.len() < 200), "folded");
        let message = MessageParser::default().parse(&bytes).unwrap();
        assert_eq!(message.subject(), Some(subject.trim()));
        let read: Vec<_> = message.to().unwrap().iter().map(|one| one.name().unwrap().to_owned()).collect();
        assert_eq!(read, names.map(|one| one.name.unwrap()));
    }

    #[test]
    fn an_attachment_arrives_octet_for_octet_under_its_name() {
        let bytes = MimeMessage { attachments: vec![file("Größe, 1.png", None)], ..letter() }.compose();
        let message = MessageParser::default().parse(&bytes).unwrap();
        let part = message.attachment(0).unwrap();
        assert_eq!(part.attachment_name(), Some("Größe, 1.png"));
        assert_eq!(part.contents(), [0, 255, b'\n', b'\r', 7]);
    }

    #[test]
    fn a_lone_carriage_return_ends_a_line() {
        let bytes = MimeMessage { text: Some("a\rb".into()), html: Some("\r".into()), ..letter() }.compose();
        assert!(!String::from_utf8_lossy(&bytes).replace("\r\n", "").contains(['\r', '\n']));
    }

    /// Where each CR is put in by moving what follows, this takes many minutes.
    #[test]
    fn millions_of_lines_cost_as_much_each_as_a_few_do() {
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
            let bytes = MimeMessage { text: Some(text.clone()), html, ..letter() }.compose();
            let rest = String::from_utf8_lossy(&bytes).replace("\r\n", "");
            prop_assert!(!rest.contains(['\r', '\n', '\0']));
            prop_assert!(bytes.split(|&b| b == b'\n').all(|line| line.len() <= 999));
            let message = MessageParser::default().parse(&bytes).unwrap();
            let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n").trim_end().to_owned();
            prop_assert_eq!(lines(&message.body_text(0).unwrap()), lines(&text));
        }
    }
}
