//! The message of a request: reads it and reports all its errors. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::fmt::rfc2822;
use lettre::message::header::ContentType;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::compose::{Attachment, MimeMessage};
use super::header_field::write_field;
use super::mailbox::{Mailbox, Mailboxes};
use crate::api::FieldError;
use crate::api::json::Checks;
use crate::api::templates::{Data, Rendered};
use crate::mail::{Address, SignedDuration, Timestamp, is_message_id};
use crate::model::{ListName, RefusalCode, TemplateId, TenantId};
use crate::store::{Annotations, Metadata, TenantSettings};

pub const RECIPIENT_REQUIRED: &str = "a message needs at least one recipient in to, cc or bcc";
const FROM_REQUIRED: &str = "give the sender here, or set settings.from of the tenant";
const SUBJECT_CHARS_MAX: usize = 998;
const HEADERS_MAX: usize = 50;
const HEADER_NAME_OCTETS_MAX: usize = 76;
const HEADER_CHARS_MAX: usize = 4000;
const ATTACHMENTS_MAX: usize = 50;
const FILENAME_CHARS_MAX: usize = 255;
const CONTENT_TYPE_CHARS_MAX: usize = 255;
const TAGS_MAX: usize = 10;
const TAG_CHARS_MAX: usize = 64;
const REPLY_TO_MAX: usize = 10;
/// The same limit as for FUTURERELEASE over SMTP (RFC 4865).
const SEND_AHEAD_MAX: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Header fields that other request fields set, or that only the server may set.
const RESERVED_HEADERS: &[&str] = &[
    "Bcc",
    "Cc",
    "Content-Disposition",
    "Content-ID",
    "Content-Transfer-Encoding",
    "Content-Type",
    "DKIM-Signature",
    "From",
    "Idempotency-Key",
    "MIME-Version",
    "Received",
    "Reply-To",
    "Return-Path",
    "Subject",
    "To",
    "X-Pillarbox-List",
];

/// A message to send. At least one of `text`, `html` and `template_id` is required.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailRequest {
    /// The tenant that sends. Default with a platform key: the tenant `default`. In a batch, give it beside `emails`.
    pub tenant_id: Option<TenantId>,
    /// Sender: an address of a verified domain of the tenant. Default: `settings.from` of the tenant. The default display
    /// name is `settings.from_name` of the tenant.
    pub from: Option<Mailbox>,
    /// Recipients: a string, or an array of strings. A message needs at least one in `to`, `cc` or `bcc`.
    #[serde(default)]
    pub to: Mailboxes,
    /// Copy recipients.
    #[serde(default)]
    pub cc: Mailboxes,
    /// Blind copy recipients.
    #[serde(default)]
    pub bcc: Mailboxes,
    /// Reply-To addresses, at most 10. Default: `settings.reply_to` of the tenant.
    #[serde(default)]
    pub reply_to: Mailboxes,
    /// The subject, at most 998 characters. Default with a template: that of the template.
    pub subject: Option<String>,
    /// The body as plain text.
    pub text: Option<String>,
    /// The body as HTML.
    pub html: Option<String>,
    /// Other header fields by their names, at most 50 of 4000 characters. Text in other characters than ASCII is encoded. Fields that are not text, like
    /// `References` and `List-Unsubscribe`, must be ASCII. A word between spaces must fit into a line of 998 octets.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Attachments, at most 50.
    #[serde(default)]
    pub attachments: Vec<AttachmentRequest>,
    /// Tags, for `GET /v1/emails?tag=`. At most 10 of 64 characters.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Metadata of the sender; recipients do not see it. At most 50 keys and 8 KiB.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// Template for subject and bodies.
    pub template_id: Option<TemplateId>,
    /// Template variables; at most 256 KiB.
    #[serde(default)]
    pub template_data: Data,
    /// Scheduled time of delivery; at most 30 days ahead.
    pub send_at: Option<Timestamp>,
    /// The list that the message belongs to, which its recipient can leave with one click. Such a message has one recipient.
    pub unsubscribe: Option<UnsubscribeRequest>,
    /// Expiry of delivery: after `send_at`, by at most `relay.message_lifetime_max`. Default: the lifetime that the tenant
    /// sets with `message_lifetime_hours`, or else that of the server.
    pub expires_at: Option<Timestamp>,
}

/// How the recipient leaves the list of a message. The server adds `List-Unsubscribe`, `List-Unsubscribe-Post` and `List-Id`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "EmailUnsubscribe")]
pub struct UnsubscribeRequest {
    /// The name of the list: 1 to 64 of a-z, 0-9, dot, underscore and hyphen. Mail of other lists, and mail without a list,
    /// goes on.
    pub list: ListName,
}

/// An attachment.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachmentRequest {
    /// Its name, at most 255 characters.
    pub filename: String,
    /// Content type, at most 255 characters. Default: `application/octet-stream`.
    pub content_type: Option<String>,
    /// Content in base64, with or without line breaks.
    pub content: String,
    /// Content-ID, to show the file in the HTML body (`<img src="cid:logo">`).
    pub content_id: Option<String>,
}

/// Limits and defaults of a message.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Settings of the tenant.
    pub defaults: &'a TenantSettings,
    /// Limits of the server.
    pub limits: &'a Limits,
    /// Maximum lifetime of a message.
    pub lifetime_max: Duration,
    /// Time of the request.
    pub now: Timestamp,
}

/// Limits of every message.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Recipients of one message.
    pub recipients_max: usize,
    /// Octets of one message, header included.
    pub message_octets_max: u64,
}

/// A valid message with its envelope.
#[derive(Debug)]
pub struct Draft {
    /// The parts of the message.
    pub mime: MimeMessage,
    /// The reverse path.
    pub sender: Address,
    /// The recipients, without duplicates.
    pub recipients: Vec<Address>,
    /// Tags and metadata. Recipients do not see them.
    pub annotations: Annotations,
    /// Time before which delivery must not start.
    pub release_at: Option<Timestamp>,
    /// Time after which delivery must not be attempted.
    pub expires_at: Option<Timestamp>,
}

impl EmailRequest {
    /// Takes the bodies from a template, and the subject unless the message has one.
    pub fn fill(&mut self, rendered: Rendered) {
        self.subject.get_or_insert(rendered.subject);
        self.text = rendered.text;
        self.html = rendered.html;
    }

    /// Validates the message.
    pub fn resolve(mut self, terms: &Terms<'_>) -> Result<Draft, Vec<FieldError>> {
        let Terms { defaults, limits, .. } = terms;
        let mut checks = Checks::default();
        let default_from = || Some(Mailbox { name: None, address: defaults.from.clone()? });
        let from = self.from.take().or_else(default_from);
        checks.require(from.is_some(), "from", "required", FROM_REQUIRED);
        let recipients = self.read_recipients(limits.recipients_max, &mut checks);
        check_subject(self.subject.as_deref(), &mut checks);
        self.check_bodies(&mut checks);
        check_tags(&self.tags, &mut checks);
        checks.metadata(&self.metadata);
        self.check_times(terms, &mut checks);
        let headers = read_headers(&self.headers, &mut checks);
        let attachments = read_attachments(std::mem::take(&mut self.attachments), &mut checks);
        checks.into_result()?;
        let from = from.ok_or_else(|| vec![FieldError::new("from", "required", FROM_REQUIRED)])?;
        let sender = from.address.clone();
        let mime = MimeMessage {
            from: Some(Mailbox { name: from.name.or_else(|| defaults.from_name.clone()), ..from }),
            to: self.to.0,
            cc: self.cc.0,
            reply_to: if self.reply_to.0.is_empty() { default_reply_to(defaults) } else { self.reply_to.0 },
            subject: self.subject.unwrap_or_default(),
            text: self.text,
            html: self.html,
            headers,
            attachments,
        };
        self.tags.sort_unstable();
        self.tags.dedup();
        let annotations = Annotations { tags: self.tags, metadata: Metadata::of(&self.metadata) };
        let (release_at, expires_at) = (self.send_at, self.expires_at);
        Ok(Draft { mime, sender, recipients, annotations, release_at, expires_at })
    }

    /// The addresses of `to`, `cc` and `bcc`, with repetitions.
    fn all_recipients(&self) -> impl Iterator<Item = &Mailbox> + Clone {
        self.to.0.iter().chain(&self.cc.0).chain(&self.bcc.0)
    }

    /// The recipients, without duplicates.
    pub fn recipients(&self) -> Vec<Address> {
        distinct(self.all_recipients())
    }

    fn read_recipients(&self, recipients_max: usize, checks: &mut Checks) -> Vec<Address> {
        checks.length(self.reply_to.0.len(), "reply_to", REPLY_TO_MAX, "addresses");
        let recipients = self.all_recipients();
        let has_any = recipients.clone().next().is_some();
        checks.require(has_any, "to", "required", RECIPIENT_REQUIRED);
        // Repetitions count: the fields have them too.
        checks.require(
            recipients.clone().count() <= recipients_max,
            "to",
            RefusalCode::TooManyRecipients.as_str(),
            &format!("limit exceeded: {recipients_max} recipients in to, cc and bcc together"),
        );
        distinct(recipients)
    }

    fn check_bodies(&self, checks: &mut Checks) {
        let has_body = self.text.is_some() || self.html.is_some();
        checks.require(has_body, "text", "required", "a message needs text, html or a template_id");
        for (body, path) in [(&self.text, "text"), (&self.html, "html")] {
            let has_nul = body.as_ref().is_some_and(|body| body.contains('\0'));
            checks.require(!has_nul, path, RefusalCode::NulInContent.as_str(), "this must not contain NUL");
        }
    }

    fn check_times(&self, terms: &Terms<'_>, checks: &mut Checks) {
        let now = terms.now;
        let is_ahead = |at: Timestamp| at > now && at.duration_since(now) <= SEND_AHEAD_MAX;
        checks.require(
            self.send_at.is_none_or(is_ahead),
            "send_at",
            "invalid",
            "this must be in the future, at most 30 days ahead",
        );
        let begins_at = self.send_at.unwrap_or(now);
        let ends_at = begins_at.checked_add(terms.lifetime_max).unwrap_or(Timestamp::MAX);
        checks.require(
            self.expires_at.is_none_or(|at| begins_at < at && at <= ends_at),
            "expires_at",
            "invalid",
            &format!(
                "this must be in the future, after send_at, and at most {} hours after it",
                terms.lifetime_max.as_secs() / 3600
            ),
        );
    }
}

fn distinct<'a>(mailboxes: impl Iterator<Item = &'a Mailbox>) -> Vec<Address> {
    let mut seen = std::collections::HashSet::new();
    mailboxes.map(|mailbox| &mailbox.address).filter(|address| seen.insert(*address)).cloned().collect()
}

fn default_reply_to(defaults: &TenantSettings) -> Vec<Mailbox> {
    defaults.reply_to.iter().map(|address| Mailbox { name: None, address: address.clone() }).collect()
}

fn check_subject(subject: Option<&str>, checks: &mut Checks) {
    match subject {
        None => checks.require(false, "subject", "required", "a message without a template needs a subject"),
        Some("") => {}
        Some(subject) => checks.line(subject, "subject", SUBJECT_CHARS_MAX),
    }
}

fn check_tags(tags: &[String], checks: &mut Checks) {
    checks.length(tags.len(), "tags", TAGS_MAX, "tags");
    for (index, tag) in tags.iter().take(TAGS_MAX).enumerate() {
        checks.line(tag, &format!("tags[{index}]"), TAG_CHARS_MAX);
    }
}

/// The other fields as they are written.
fn read_headers(headers: &BTreeMap<String, String>, checks: &mut Checks) -> String {
    checks.length(headers.len(), "headers", HEADERS_MAX, "fields");
    let mut written = String::new();
    let mut earlier: Vec<&str> = Vec::new();
    for (name, value) in headers.iter().take(HEADERS_MAX) {
        let path = format!("headers.{}", crate::api::json::echo(name));
        let is_reserved = RESERVED_HEADERS.iter().any(|reserved| name.eq_ignore_ascii_case(reserved));
        checks.require(
            !is_reserved,
            &path,
            "reserved",
            "another request field or the server sets this header field",
        );
        // RFC 5322 §3.6.8.
        let is_name = (1..=HEADER_NAME_OCTETS_MAX).contains(&name.len())
            && name.bytes().all(|octet| matches!(octet, 33..=126) && octet != b':');
        checks.require(
            is_name,
            &path,
            "invalid",
            "a header field name is printable ASCII without a colon, at most 76 characters",
        );
        checks.length(value.chars().count(), &path, HEADER_CHARS_MAX, "characters");
        checks.one_line(value, &path);
        check_identification(name, value, &path, checks);
        let is_repeated = earlier.iter().any(|earlier| earlier.eq_ignore_ascii_case(name));
        checks.require(
            !is_repeated,
            &path,
            "duplicate",
            "this header field is given twice; names are case-insensitive",
        );
        earlier.push(name);
        if let Some(field) = checks.read(write_field(name, value), &path) {
            written += &field;
        }
    }
    written
}

/// RFC 5322 §3.6.1 and §3.6.4.
fn check_identification(name: &str, value: &str, path: &str, checks: &mut Checks) {
    if name.eq_ignore_ascii_case("Message-ID") {
        let message = "a Message-ID is <left@right> without spaces; leave it out to get one";
        checks.require(is_message_id(value), path, "invalid", message);
    }
    if name.eq_ignore_ascii_case("Date") {
        let is_date = rfc2822::parse(value.trim()).is_ok();
        let message =
            "a Date has the form Thu, 1 Jan 1970 00:00:00 +0000; leave it out to get the current one";
        checks.require(is_date, path, "invalid", message);
    }
}

fn read_attachments(attachments: Vec<AttachmentRequest>, checks: &mut Checks) -> Vec<Attachment> {
    checks.length(attachments.len(), "attachments", ATTACHMENTS_MAX, "files");
    let files = attachments.into_iter().take(ATTACHMENTS_MAX).enumerate();
    files.filter_map(|(index, file)| read_attachment(file, index, checks)).collect()
}

fn read_attachment(file: AttachmentRequest, index: usize, checks: &mut Checks) -> Option<Attachment> {
    let path = |field: &str| format!("attachments[{index}].{field}");
    checks.line(&file.filename, &path("filename"), FILENAME_CHARS_MAX);
    let kind = file.content_type.as_deref().unwrap_or("application/octet-stream");
    let content_type = checks.read(ContentType::parse(kind), &path("content_type"));
    checks.length(kind.chars().count(), &path("content_type"), CONTENT_TYPE_CHARS_MAX, "characters");
    // RFC 2231 §4 would encode parameters, but the only one in words is the name of the file.
    checks.require(
        kind.is_ascii(),
        &path("content_type"),
        "invalid",
        "this must be ASCII; give the name of the file in filename",
    );
    // RFC 2046 §5.1, §5.2.1: multipart and message content cannot be encoded in base64.
    let is_leaf =
        !["multipart/", "message/"].iter().any(|class| kind.to_ascii_lowercase().starts_with(class));
    checks.require(
        is_leaf,
        &path("content_type"),
        "invalid",
        "attach message/* and multipart/* content as application/octet-stream",
    );
    if let Some(id) = &file.content_id {
        let is_id = (1..=FILENAME_CHARS_MAX).contains(&id.len())
            && id.bytes().all(|octet| octet.is_ascii_graphic() && !b"<>\"()".contains(&octet));
        checks.require(
            is_id,
            &path("content_id"),
            "invalid",
            "this must be printable ASCII without spaces, < and >",
        );
    }
    let mut content = file.content;
    // RFC 2045 §6.8 breaks lines.
    content.retain(|c| !matches!(c, '\r' | '\n'));
    let decoded = STANDARD.decode(content).map_err(|_| "this must be Base64 (RFC 4648 §4), with padding");
    let content = checks.read(decoded, &path("content"))?;
    Some(Attachment {
        filename: file.filename,
        content_type: content_type?,
        content,
        content_id: file.content_id,
    })
}
