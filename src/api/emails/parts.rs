//! The parts of a message: its header fields, its texts, and its attachments. Number, depth and lengths are limited,
//! whatever the message contains; a message within a message is one part.

use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::parsers::MessageStream;
use mail_parser::{ContentType, HeaderValue, Message, MessageParser, MimeHeaders};
use schemars::JsonSchema;
use serde::Serialize;
use std::borrow::Cow;

use crate::api::{ApiError, ApiResponse, RequestContext, Result};
use crate::limits::memory_budget::MemoryReservation;
use crate::mail::{HeaderBlock, body_start, parts_of};
use crate::model::{MessageId, RefusalCode};

use super::raw;

/// Octets of a message that is read as a whole.
pub const MESSAGE_OCTETS_MAX: u64 = 5 * 1024 * 1024;
/// Parts that are shown.
const PARTS_MAX: usize = 200;
/// Multiparts within each other.
const DEPTH_MAX: usize = 20;
/// Octets of the header of a part that are looked at.
const PART_HEADER_OCTETS_MAX: usize = 16 * 1024;
/// Header fields that are shown.
const FIELDS_MAX: usize = 200;
/// Octets of the header that are shown.
const FIELD_OCTETS_MAX: usize = 64 * 1024;
/// Octets of each text that are shown.
const TEXT_OCTETS_MAX: usize = 512 * 1024;
const NAME_CHARS_MAX: usize = 200;

/// The parts of a message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EmailParts")]
pub struct PartsView {
    /// Always `email_parts`.
    #[schemars(extend("const" = "email_parts"))]
    object: &'static str,
    /// The message.
    message_id: MessageId,
    /// Its size in octets.
    octets: u64,
    /// The header fields in order, decoded; at most 200 and 64 KiB.
    headers: Vec<FieldView>,
    /// The first plain text, at most 512 KiB.
    text: Option<String>,
    /// The first HTML text, at most 512 KiB. It comes from the sender of the message: show it in a sandbox only.
    html: Option<String>,
    /// Whether header fields or a text were left out, or there are 200 parts.
    truncated: bool,
    /// All parts that contain no other parts, at most 200.
    parts: Vec<PartView>,
}

/// A header field.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "HeaderField")]
pub struct FieldView {
    /// Its name.
    name: String,
    /// Its value in one line, without encoded words.
    value: String,
}

/// A part of a message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EmailPart")]
pub struct PartView {
    /// Its number, from 0.
    part: usize,
    /// Its media type.
    #[serde(rename = "type")]
    kind: String,
    /// Its charset.
    charset: Option<String>,
    /// Its file name, without a path.
    name: Option<String>,
    /// Its Content-ID, without angle brackets.
    content_id: Option<String>,
    /// `inline` or `attachment`.
    disposition: Option<Disposition>,
    /// Its size in octets, decoded.
    octets: usize,
}

/// How a part is meant to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "EmailPartDisposition")]
pub enum Disposition {
    /// Within the message.
    Inline,
    /// As a file.
    Attachment,
}

/// A part that contains no other parts.
struct Part<'a> {
    header: Option<Message<'a>>,
    kind: String,
    body: &'a [u8],
}

/// `GET /v1/emails/{id}/parts`
pub async fn list(call: RequestContext) -> Result<ApiResponse> {
    let (message, octets, reservation) = read(&call).await?;
    let view = call.work(move || Ok(view(message, &octets))).await?;
    drop(reservation);
    ApiResponse::ok(&view)
}

/// `GET /v1/emails/{id}/parts/{part}`
pub async fn get(call: RequestContext) -> Result<ApiResponse> {
    let number = call.part.as_deref().and_then(|text| text.parse::<usize>().ok());
    let (_, octets, reservation) = read(&call).await?;
    let content = call.work(move || {
        let found = number.and_then(|number| Part::all_of(&octets).into_iter().nth(number));
        Ok(found.map(|part| part.content().into_owned()))
    });
    ApiResponse::file(content.await?.ok_or_else(|| ApiError::not_found("part"))?).reserve(reservation)
}

/// The message, and memory for it, for its decoded parts and for the response.
async fn read(call: &RequestContext) -> Result<(MessageId, Vec<u8>, MemoryReservation)> {
    let message = super::find(call).await?;
    let octets = raw::find_content(call, &message).await?.octets();
    if octets > MESSAGE_OCTETS_MAX {
        return Err(too_large());
    }
    let (octets, reservation) = raw::load(call, message.id, octets, 3).await?;
    Ok((message.id, octets, reservation))
}

pub fn too_large() -> ApiError {
    ApiError::new(
        RefusalCode::MessageTooLarge,
        "this message is larger than 5 MiB",
        "get it whole with GET /v1/emails/{id}/raw",
    )
}

/// The parts of a message, within the limits.
pub fn view(message_id: MessageId, octets: &[u8]) -> PartsView {
    let (headers, has_more_fields) = fields(octets);
    let parts = Part::all_of(octets);
    let text = |kind: &str| {
        let is_shown =
            |part: &&Part<'_>| part.kind == kind && part.disposition() != Some(Disposition::Attachment);
        parts.iter().find(is_shown).map(Part::text)
    };
    let (text, html) = (text("text/plain"), text("text/html"));
    let is_cut = |text: &Option<(String, bool)>| text.as_ref().is_some_and(|(_, is_cut)| *is_cut);
    let truncated = has_more_fields || parts.len() >= PARTS_MAX || is_cut(&text) || is_cut(&html);
    PartsView {
        object: "email_parts",
        message_id,
        octets: octets.len() as u64,
        headers,
        text: text.map(|(text, _)| text),
        html: html.map(|(html, _)| html),
        truncated,
        parts: parts.iter().enumerate().map(|(number, part)| part.view(number)).collect(),
    }
}

/// The header fields without encoded words (RFC 2047), and whether there are more.
fn fields(message: &[u8]) -> (Vec<FieldView>, bool) {
    // The server has accepted or written this header.
    let Ok(header) = HeaderBlock::scan(message, usize::MAX) else { return (Vec::new(), false) };
    let mut fields = Vec::new();
    for field in header.fields {
        if fields.len() >= FIELDS_MAX || field.span.end > FIELD_OCTETS_MAX {
            return (fields, true);
        }
        let value = decode_words(&message[field.value]);
        fields.push(FieldView { name: field.name, value });
    }
    (fields, false)
}

fn decode_words(value: &[u8]) -> String {
    let line = [value.trim_ascii(), b"\n"].concat();
    match MessageStream::new(&line).parse_unstructured() {
        HeaderValue::Text(text) => text.into_owned(),
        _ => String::new(),
    }
}

impl<'a> Part<'a> {
    /// The parts of a message that contain no other parts, in order.
    fn all_of(message: &'a [u8]) -> Vec<Self> {
        let mut parts = Vec::new();
        collect(message, 0, &mut parts);
        parts
    }

    fn content_type(&self) -> Option<&ContentType<'_>> {
        self.header.as_ref()?.content_type()
    }

    fn disposition(&self) -> Option<Disposition> {
        let disposition = self.header.as_ref()?.content_disposition()?;
        // RFC 2183 §2.8: an unknown one is treated as `attachment`.
        Some(match disposition.ctype().eq_ignore_ascii_case("inline") {
            true => Disposition::Inline,
            false => Disposition::Attachment,
        })
    }

    /// Without the transfer encoding. One that is not valid is taken for none.
    fn content(&self) -> Cow<'a, [u8]> {
        let encoding =
            self.header.as_ref().and_then(MimeHeaders::content_transfer_encoding).unwrap_or_default();
        let decoded = match encoding.trim().to_ascii_lowercase().as_str() {
            "base64" => base64_decode(self.body),
            "quoted-printable" => quoted_printable_decode(self.body),
            _ => None,
        };
        decoded.map_or(Cow::Borrowed(self.body), Cow::Owned)
    }

    /// The beginning of its text, and whether there is more.
    fn text(&self) -> (String, bool) {
        let content = self.content();
        let shown = &content[..content.len().min(TEXT_OCTETS_MAX)];
        let charset = self.content_type().and_then(|kind| kind.attribute("charset"));
        let mut text = match charset.and_then(|charset| charset_decoder(charset.as_bytes())) {
            Some(decode) if !shown.is_ascii() => decode(shown),
            _ => String::from_utf8_lossy(shown).into_owned(),
        };
        let is_cut = shown.len() < content.len() || text.len() > TEXT_OCTETS_MAX;
        text.truncate(text.floor_char_boundary(TEXT_OCTETS_MAX));
        (text, is_cut)
    }

    fn view(&self, number: usize) -> PartView {
        let header = self.header.as_ref();
        PartView {
            part: number,
            kind: self.kind.clone(),
            charset: self.content_type().and_then(|kind| kind.attribute("charset")).map(str::to_owned),
            name: header.and_then(MimeHeaders::attachment_name).and_then(file_name),
            content_id: header.and_then(MimeHeaders::content_id).map(str::to_owned),
            disposition: self.disposition(),
            octets: self.content().len(),
        }
    }
}

/// Adds the parts of an entity.
fn collect<'a>(entity: &'a [u8], depth: usize, parts: &mut Vec<Part<'a>>) {
    if parts.len() >= PARTS_MAX {
        return;
    }
    let (header, body) = entity.split_at(body_start(entity));
    let header = &header[..header.len().min(PART_HEADER_OCTETS_MAX)];
    let header = MessageParser::default().parse_headers(header);
    let kind = header.as_ref().and_then(MimeHeaders::content_type);
    let boundary = kind.filter(|kind| kind.ctype().eq_ignore_ascii_case("multipart") && depth < DEPTH_MAX);
    let boundary = boundary.and_then(|kind| kind.attribute("boundary")).unwrap_or_default();
    let before = parts.len();
    if !boundary.is_empty() {
        for (part, _) in parts_of(body, boundary.as_bytes()) {
            collect(part, depth + 1, parts);
            if parts.len() >= PARTS_MAX {
                return;
            }
        }
    }
    // A multipart without its boundary is a text.
    if parts.len() == before {
        let kind = match kind {
            Some(kind) => format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default()),
            None => "text/plain".to_owned(),
        };
        parts.push(Part { kind: kind.to_ascii_lowercase(), header, body });
    }
}

/// The last component of a path, without control characters.
fn file_name(name: &str) -> Option<String> {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = name.chars().filter(|letter| !letter.is_control()).take(NAME_CHARS_MAX).collect();
    Some(name).filter(|name| !name.is_empty() && name != "." && name != "..")
}
