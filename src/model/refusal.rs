//! Refusals: what was refused and what to do about it, with a stable code.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// The stable code of a refusal, the same in SMTP replies and JSON responses. Causes with different SMTP
        /// replies may share one text.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum RefusalCode {
            $($(#[$doc])* $name,)*
        }

        impl RefusalCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The text form, as in replies, responses and the journal.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// The platform has suspended the tenant.
    TenantSuspended = "tenant_suspended";
    /// The tenant is archived: its keys may only read.
    TenantArchived = "tenant_archived";
    /// The sender's domain is the tenant's, but is not verified.
    SenderDomainNotVerified = "sender_domain_not_verified";
    /// The sender's domain is not a domain of the tenant, or the key is restricted to other domains.
    DomainNotAllowedForKey = "domain_not_allowed_for_key";
    /// The key does not have the scope.
    InsufficientScope = "insufficient_scope";
    /// The client's address is not in the key's networks.
    IpNotAllowed = "ip_not_allowed";
    /// The server does not accept `MAIL FROM:<>`.
    NullSenderRefused = "null_sender_refused";
    /// The tenant's send limit per minute is used up.
    SendLimitExceeded = "send_limit_exceeded";
    /// The tenant's send limit per hour is used up.
    HourlySendLimitExceeded = "send_limit_exceeded";
    /// The tenant's send limit per day is used up.
    DailySendLimitExceeded = "send_limit_exceeded";
    /// The message is larger than the limit.
    MessageTooLarge = "message_too_large";
    /// The recipient is suppressed.
    RecipientSuppressed = "recipient_suppressed";
    /// The recipient of trial mail is not a confirmed inbox.
    RecipientNotConfirmed = "recipient_not_confirmed";
    /// The recipient left the list that the message names, or complained about list mail.
    RecipientUnsubscribed = "recipient_unsubscribed";
    /// A message that names a list has several recipients.
    UnsubscribeNeedsOneRecipient = "unsubscribe_needs_one_recipient";
    /// A message names a list and has its own List-Unsubscribe.
    UnsubscribeConflict = "unsubscribe_conflict";
    /// A message names a list, but no unsubscribe link can be made or signed.
    UnsubscribeUnavailable = "unsubscribe_unavailable";
    /// A report came to an address that this server did not make, or whose key it refuses.
    ReportAddressUnknown = "report_address_unknown";
    /// A report is about a message that is too old or deleted.
    ReportAddressExpired = "report_address_expired";
    /// A report is about a delivery that is being recorded.
    ReportEarly = "report_early";
    /// Too many reports came about one delivery today.
    TooManyReports = "too_many_reports";
    /// Too many reports came about one delivery.
    ReportsExhausted = "too_many_reports";
    /// There is no such mailbox at a host of this server.
    MailboxUnknown = "mailbox_unknown";
    /// The recipient of a report is at a host that is not ours.
    RelayDenied = "relay_denied";
    /// The recipient is not a valid address.
    RecipientInvalid = "recipient_invalid";
    /// The recipient's local part is not ASCII, and SMTPUTF8 was not declared.
    RecipientNeedsSmtputf8 = "recipient_invalid";
    /// The recipient's domain is a single label.
    RecipientNotQualified = "recipient_invalid";
    /// The message has too many recipients.
    TooManyRecipients = "too_many_recipients";
    /// The message has no From field.
    FromHeaderMissing = "from_header_missing";
    /// The message has several From fields, or one that is ambiguous.
    FromHeaderAmbiguous = "from_header_ambiguous";
    /// The header block is malformed or ambiguous.
    HeaderMalformed = "header_malformed";
    /// The message has several fields of which RFC 5322 §3.6 allows one.
    HeaderDuplicate = "header_duplicate";
    /// The message contains a NUL octet.
    NulInContent = "nul_in_content";
    /// The message contains a bare CR or LF, and the server refuses them.
    BareNewline = "bare_newline";
    /// A line is longer than the limit.
    LineTooLong = "line_too_long";
    /// Binary content that cannot be relayed as 8BITMIME.
    ConversionRequired = "conversion_required";
    /// The Idempotency-Key was used for another request, or over SMTP for another envelope.
    IdempotencyKeyReused = "idempotency_key_reused";
    /// The message has too many Received fields.
    MailLoop = "mail_loop";
    /// The database cannot be written.
    StorageUnavailable = "storage_unavailable";
    /// The stored content of the message is not what was accepted.
    ContentDamaged = "content_damaged";
    /// The disk is nearly full.
    DiskLow = "disk_low";
    /// A limit of the whole server is reached.
    Overloaded = "overloaded";
    /// The server is shutting down.
    ShuttingDown = "shutting_down";
    /// The request has no credential.
    AuthenticationRequired = "authentication_required";
    /// The session is not encrypted.
    TlsRequired = "tls_required";
    /// The credential is malformed or unknown.
    InvalidApiKey = "invalid_api_key";
    /// The credential is expired.
    ExpiredApiKey = "expired_api_key";
    /// The credential is revoked.
    RevokedApiKey = "revoked_api_key";
    /// The key is revoked or expired, so it gets no new secret.
    KeyNotActive = "key_not_active";
    /// The archived tenant may not be deleted before its date.
    NotDeletableYet = "not_deletable_yet";
    /// Recipients are being erased, so restored deliveries are not released yet.
    ErasurePending = "erasure_pending";
    /// Objects of a bundle conflict with what is stored.
    ImportConflict = "import_conflict";
    /// The request needs a platform key.
    PlatformKeyRequired = "platform_key_required";
    /// The request needs a live key: it is about live objects, or changes objects that both environments share.
    LiveKeyRequired = "live_key_required";
    /// The object does not exist or is not visible to this key.
    NotFound = "not_found";
    /// The path does not support the method.
    MethodNotAllowed = "method_not_allowed";
    /// A field of the request is invalid.
    ValidationFailed = "validation_failed";
    /// A field of the request is unknown.
    UnknownField = "unknown_field";
    /// The body is not valid JSON.
    InvalidJson = "invalid_json";
    /// The media type of the body is not supported.
    UnsupportedMediaType = "unsupported_media_type";
    /// The body is larger than the limit.
    PayloadTooLarge = "payload_too_large";
    /// The request did not arrive in time.
    RequestTimeout = "request_timeout";
    /// Another tenant has verified the domain.
    DomainTaken = "domain_taken";
    /// An object with this name exists.
    AlreadyExists = "already_exists";
    /// The tenant's limit of these objects is reached.
    LimitReached = "limit_reached";
    /// The request authenticates with the key that it changes.
    KeyInUse = "key_in_use";
    /// The template cannot be rendered with the message's data.
    TemplateFailed = "template_failed";
    /// A request with the same Idempotency-Key is in progress.
    IdempotencyInProgress = "idempotency_in_progress";
    /// `If-Match` does not match the current ETag.
    PreconditionFailed = "precondition_failed";
    /// All deliveries of the message are finished.
    MessageFinished = "message_finished";
    /// The key or its tenant exceeds its request limit.
    RateLimited = "rate_limited";
    /// The webhook is disabled.
    WebhookDisabled = "webhook_disabled";
    /// An internal error.
    Internal = "internal_error";
}

impl schemars::JsonSchema for RefusalCode {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RefusalCode".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut codes: Vec<&str> = Self::ALL.iter().map(|code| code.as_str()).collect();
        codes.sort_unstable();
        codes.dedup();
        schemars::json_schema!({
            "type": "string",
            "description": "The reason of a refusal: the same code as in SMTP replies.",
            "enum": codes,
        })
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: code, message and hint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[{code}] {message}; {hint}")]
pub struct Refusal {
    /// The stable code.
    pub code: RefusalCode,
    /// What was refused and why; without secrets and raw client input.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl Refusal {
    /// A refusal with its texts.
    pub fn new(code: RefusalCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }
}
