//! Refusals: what a tenant or a client may not do, with a stable code, and what to do about it.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// The stable code of a refusal, the same in an SMTP reply and in a JSON answer. Some codes have several
        /// causes, each with an SMTP reply of its own; they share one text.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum RefusalCode {
            $($(#[$doc])* $name,)*
        }

        impl RefusalCode {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as written in replies, answers and the journal.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// The platform suspended the tenant.
    TenantSuspended = "tenant_suspended";
    /// The sender's domain belongs to nobody or to someone else.
    SenderDomainNotOwned = "sender_domain_not_owned";
    /// The sender's domain is the tenant's, but its DNS proof is missing.
    SenderDomainNotVerified = "sender_domain_not_verified";
    /// The key is bound to other domains.
    DomainNotAllowedForKey = "domain_not_allowed_for_key";
    /// The key lacks the scope.
    InsufficientScope = "insufficient_scope";
    /// The client's address is outside the key's networks.
    IpNotAllowed = "ip_not_allowed";
    /// The reverse path is `<>` and the server does not take that.
    NullSenderRefused = "null_sender_refused";
    /// What the tenant may send in a minute is used up.
    SendLimitExceeded = "send_limit_exceeded";
    /// What the tenant may send in a day is used up.
    DailySendLimitExceeded = "send_limit_exceeded";
    /// More octets than the server takes.
    MessageTooLarge = "message_too_large";
    /// The recipient is on a suppression list.
    RecipientSuppressed = "recipient_suppressed";
    /// The recipient is not an address that mail can go to.
    RecipientInvalid = "recipient_invalid";
    /// The recipient's local part is not ASCII and SMTPUTF8 was not declared.
    RecipientNeedsSmtputf8 = "recipient_invalid";
    /// The recipient's domain is a single label.
    RecipientNotQualified = "recipient_invalid";
    /// More recipients than one message may have.
    TooManyRecipients = "too_many_recipients";
    /// No From field.
    FromHeaderMissing = "from_header_missing";
    /// More than one From field, or one that does not have exactly one reading.
    FromHeaderAmbiguous = "from_header_ambiguous";
    /// An address in From is not under the tenant's domains.
    FromDomainNotOwned = "from_domain_not_owned";
    /// The header block does not have exactly one reading.
    HeaderMalformed = "header_malformed";
    /// A NUL octet.
    NulInContent = "nul_in_content";
    /// A lone CR or LF, where the server is set to refuse them.
    BareNewline = "bare_newline";
    /// A line above the hard limit.
    LineTooLong = "line_too_long";
    /// Binary content that has no form other servers take.
    ConversionRequired = "conversion_required";
    /// The key of this submission stands for another one.
    IdempotencyKeyReused = "idempotency_key_reused";
    /// More than a hundred Received fields.
    MailLoop = "mail_loop";
    /// The spool cannot be written.
    StorageUnavailable = "storage_unavailable";
    /// The stored content of the message is not what was accepted.
    ContentDamaged = "content_damaged";
    /// The disk is nearly full.
    DiskLow = "disk_low";
    /// A limit of the whole server is reached.
    Overloaded = "overloaded";
    /// The server is stopping.
    ShuttingDown = "shutting_down";
    /// No credential in the request.
    AuthenticationRequired = "authentication_required";
    /// The credential is malformed or unknown.
    InvalidApiKey = "invalid_api_key";
    /// The credential is expired or revoked.
    ExpiredApiKey = "expired_api_key";
    /// Only the platform may do this.
    PlatformKeyRequired = "platform_key_required";
    /// There is no such object, or not for this key.
    NotFound = "not_found";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed";
    /// A field of the request is wrong.
    ValidationFailed = "validation_failed";
    /// A field of the request is unknown.
    UnknownField = "unknown_field";
    /// The body is not JSON.
    InvalidJson = "invalid_json";
    /// The body is of another type than JSON.
    UnsupportedMediaType = "unsupported_media_type";
    /// The body is over the limit.
    PayloadTooLarge = "payload_too_large";
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout";
    /// Another tenant has proved the domain or one above or below it.
    DomainTaken = "domain_taken";
    /// An object of that name exists.
    AlreadyExists = "already_exists";
    /// The tenant has as many of these objects as a tenant may.
    LimitReached = "limit_reached";
    /// The key is the one that the request is made with.
    KeyInUse = "key_in_use";
    /// A template cannot be made with the data of a message.
    TemplateFailed = "template_failed";
    /// A request with the same Idempotency-Key is still being worked on.
    IdempotencyInProgress = "idempotency_in_progress";
    /// The object is not the one that the request is meant for.
    PreconditionFailed = "precondition_failed";
    /// Nothing of the message is on its way any more.
    MessageFinished = "message_finished";
    /// The key or its tenant makes more requests than it may.
    RateLimited = "rate_limited";
    /// The webhook is disabled, and nothing is told there.
    WebhookDisabled = "webhook_disabled";
    /// A fault of ours.
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
            "description": "Why something was refused: the same code as in the replies over SMTP.",
            "enum": codes,
        })
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One refusal: the code for programs, the message and the hint for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[{code}] {message}; {hint}")]
pub struct Refusal {
    /// The stable code.
    pub code: RefusalCode,
    /// What is wrong, naming the thing; no secret and none of the client's raw bytes.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(code: RefusalCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }
}
