//! Error responses: status, type and body. The codes are those of the SMTP replies.

use std::fmt;
use std::num::NonZeroU32;

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::model::{Refusal, RefusalCode, RequestId};
use crate::store::{Conflict, StoreError};

/// The type of an error. It follows from the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ErrorType {
    /// The key is missing, unknown, expired or revoked.
    AuthenticationError,
    /// The key may not do this.
    PermissionError,
    /// The request is wrong.
    ValidationError,
    /// There is no such object, or the key may not see it.
    NotFound,
    /// The state of an object does not allow it.
    Conflict,
    /// Too many requests or messages for now.
    RateLimited,
    /// The server cannot do it now.
    Internal,
}

/// Why a request failed.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// Code, message and hint for the client.
    pub refusal: Refusal,
    /// Invalid fields and parameters.
    pub fields: Vec<FieldError>,
    /// The methods that the path has, for 405 (RFC 9110 §15.5.6).
    pub allow: Option<Box<str>>,
    /// Seconds to wait before a retry, if known.
    pub retry_after_s: Option<NonZeroU32>,
    /// The cause of a server error, for the log only.
    pub cause: Option<Box<str>>,
}

/// The result of a handler.
pub type Result<T> = std::result::Result<T, ApiError>;

/// An invalid field or parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FieldError {
    /// Like `scopes[0]`; empty for the body as a whole.
    pub path: String,
    /// Stable code, for programs.
    pub code: &'static str,
    /// Explanation, for people.
    pub message: String,
}

impl FieldError {
    /// An invalid field.
    pub fn new(path: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { path: path.into(), code, message: message.into() }
    }
}

impl ApiError {
    /// An error with this code, message and hint.
    pub fn new(code: RefusalCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            refusal: Refusal::new(code, message, hint),
            fields: Vec::new(),
            allow: None,
            retry_after_s: None,
            cause: None,
        }
    }

    /// The object does not exist, or the key may not see it. Both cases have the same response.
    pub fn not_found(what: &str) -> Self {
        Self::new(
            RefusalCode::NotFound,
            format!("there is no such {what}"),
            "check the id; a tenant key can access only the objects of its own tenant",
        )
    }

    /// An error about one or more invalid fields.
    pub fn invalid(fields: Vec<FieldError>) -> Self {
        let message = match &fields[..] {
            [only] if only.path.is_empty() => only.message.clone(),
            [only] => format!("{}: {}", only.path, only.message),
            more => format!("{} fields are invalid", more.len()),
        };
        let is_unknown = |field: &FieldError| field.code == "unknown_field";
        let (code, hint) = if !fields.is_empty() && fields.iter().all(is_unknown) {
            (
                RefusalCode::UnknownField,
                "remove the field or correct its name; the message lists the known fields",
            )
        } else {
            (RefusalCode::ValidationFailed, "correct the fields in `errors` and send the request again")
        };
        Self { fields, ..Self::new(code, message, hint) }
    }

    /// An error about one invalid field.
    pub fn field(path: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::new(path, code, message)])
    }

    /// The operation needs a platform key.
    pub fn platform_only(what: &str) -> Self {
        Self::new(
            RefusalCode::PlatformKeyRequired,
            format!("{what} needs a platform key"),
            "use a platform key, or ask the operator of the platform",
        )
    }

    /// The operation needs a live key.
    pub fn live_only(what: &str) -> Self {
        Self::new(
            RefusalCode::LiveKeyRequired,
            format!("{what} needs a live key"),
            "use a live key; a test key sees and changes test objects only, and reads domains, templates and settings",
        )
    }

    /// The server is stopping.
    pub fn stopping() -> Self {
        Self::new(
            RefusalCode::ShuttingDown,
            "the server is stopping",
            "try again in a few seconds, when the server has restarted",
        )
    }

    /// An internal error. `cause` is only logged.
    pub fn internal(cause: impl fmt::Display) -> Self {
        let refusal = Self::new(
            RefusalCode::Internal,
            "internal server error",
            "try again; if the error persists, give the request_id to the operator, who finds the cause in the log",
        );
        Self { cause: Some(cause.to_string().into()), ..refusal }
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        classify(self.refusal.code).0
    }

    /// The body of the response.
    pub fn body(&self, request_id: RequestId) -> Vec<u8> {
        let error = ErrorBody {
            kind: classify(self.refusal.code).1,
            code: self.refusal.code.as_str(),
            message: &self.refusal.message,
            hint: &self.refusal.hint,
            request_id,
            errors: &self.fields,
        };
        serde_json::to_vec(&Envelope { error }).unwrap_or_default()
    }
}

/// The layer `trace` writes the response, because it knows the id of the request.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The response to a failed request.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct Envelope<'a> {
    /// The error.
    error: ErrorBody<'a>,
}

/// Why a request failed.
#[derive(Serialize, JsonSchema)]
pub struct ErrorBody<'a> {
    /// The type of the error. It follows from the status.
    #[serde(rename = "type")]
    kind: ErrorType,
    /// Stable code, for programs.
    #[schemars(with = "RefusalCode")]
    code: &'static str,
    /// Explanation, for people.
    message: &'a str,
    /// What to do about it.
    hint: &'a str,
    /// The id of the request, as in the log and in `X-Request-Id`.
    request_id: RequestId,
    /// Invalid fields and parameters.
    errors: &'a [FieldError],
}

/// The status and the type that belong to a code.
fn classify(code: RefusalCode) -> (StatusCode, ErrorType) {
    use ErrorType as T;
    use RefusalCode as C;
    match code {
        C::AuthenticationRequired | C::InvalidApiKey | C::ExpiredApiKey | C::RevokedApiKey => {
            (StatusCode::UNAUTHORIZED, T::AuthenticationError)
        }
        C::InsufficientScope
        | C::IpNotAllowed
        | C::TenantSuspended
        | C::TenantArchived
        | C::PlatformKeyRequired
        | C::LiveKeyRequired
        | C::DomainNotAllowedForKey => (StatusCode::FORBIDDEN, T::PermissionError),
        C::NotFound => (StatusCode::NOT_FOUND, T::NotFound),
        C::DomainTaken
        | C::AlreadyExists
        | C::LimitReached
        | C::KeyInUse
        | C::KeyNotActive
        | C::NotDeletableYet
        | C::ErasurePending
        | C::ImportConflict
        | C::IdempotencyKeyReused
        | C::IdempotencyInProgress
        | C::MessageFinished
        | C::WebhookDisabled => (StatusCode::CONFLICT, T::Conflict),
        C::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, T::Conflict),
        C::SendLimitExceeded | C::HourlySendLimitExceeded | C::DailySendLimitExceeded | C::RateLimited => {
            (StatusCode::TOO_MANY_REQUESTS, T::RateLimited)
        }
        C::InvalidJson => (StatusCode::BAD_REQUEST, T::ValidationError),
        C::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, T::ValidationError),
        C::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, T::ValidationError),
        C::PayloadTooLarge | C::MessageTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, T::ValidationError),
        C::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, T::ValidationError),
        C::StorageUnavailable | C::DiskLow | C::Overloaded | C::ShuttingDown => {
            (StatusCode::SERVICE_UNAVAILABLE, T::Internal)
        }
        C::Internal | C::ContentDamaged => (StatusCode::INTERNAL_SERVER_ERROR, T::Internal),
        C::SenderDomainNotVerified
        | C::NullSenderRefused
        | C::RecipientSuppressed
        | C::RecipientNotConfirmed
        | C::RecipientInvalid
        | C::RecipientNotQualified
        | C::RecipientNeedsSmtputf8
        | C::TooManyRecipients
        | C::FromHeaderMissing
        | C::FromHeaderAmbiguous
        | C::HeaderMalformed
        | C::HeaderDuplicate
        | C::NulInContent
        | C::BareNewline
        | C::LineTooLong
        | C::ConversionRequired
        | C::TemplateFailed
        | C::RecipientUnsubscribed
        | C::UnsubscribeNeedsOneRecipient
        | C::UnsubscribeConflict
        | C::UnsubscribeUnavailable
        | C::ReportAddressUnknown
        | C::ReportAddressExpired
        | C::ReportEarly
        | C::TooManyReports
        | C::ReportsExhausted
        | C::MailboxUnknown
        | C::RelayDenied
        | C::MailLoop
        | C::TlsRequired
        | C::ValidationFailed
        | C::UnknownField => (StatusCode::UNPROCESSABLE_ENTITY, T::ValidationError),
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { code, message, hint } = refusal;
        Self::new(code, message, hint)
    }
}

impl From<Conflict> for ApiError {
    fn from(conflict: Conflict) -> Self {
        let (code, hint) = match conflict {
            Conflict::Slug => {
                (RefusalCode::AlreadyExists, "choose another slug, or leave it out to get a free one")
            }
            Conflict::ExternalRef => (
                RefusalCode::AlreadyExists,
                "use the existing tenant; find it with GET /v1/tenants?external_ref=",
            ),
            Conflict::DomainExists => {
                (RefusalCode::AlreadyExists, "use the existing domain; find it with GET /v1/domains?name=")
            }
            Conflict::DomainTaken => (
                RefusalCode::DomainTaken,
                "if the domain is yours, delete it from the other tenant first, or ask the operator of the platform",
            ),
            Conflict::SubmissionKey => {
                (RefusalCode::IdempotencyKeyReused, "use a new Idempotency-Key for each message")
            }
            Conflict::KeyNotActive => (
                RefusalCode::KeyNotActive,
                "create a new key; if this one has expired, you can also set a later expires_at",
            ),
            Conflict::ErasurePending => (RefusalCode::ErasurePending, "try again in a minute"),
            Conflict::Changed => (
                RefusalCode::PreconditionFailed,
                "get the object again, then repeat the change with the new ETag if it still applies",
            ),
            Conflict::Repeated => {
                (RefusalCode::IdempotencyInProgress, "repeat the request; it gets the same response")
            }
            Conflict::NotDeletable(_) => {
                (RefusalCode::NotDeletableYet, "wait until then, or change deletable_at")
            }
            Conflict::Selector => (RefusalCode::AlreadyExists, "choose another selector"),
            Conflict::TooManyDkimKeys => (
                RefusalCode::LimitReached,
                "wait until old keys are removed: a week after their replacement, once no queued message carries their signature",
            ),
            Conflict::LimitReached(_) => {
                (RefusalCode::LimitReached, "delete unused objects; revoked keys do not count")
            }
            Conflict::TemplateName => (
                RefusalCode::AlreadyExists,
                "choose another name, or change the existing template; find it with GET /v1/templates?name=",
            ),
            Conflict::TooManyPauses => (
                RefusalCode::LimitReached,
                "resume pauses that are no longer needed, or pause a whole tenant",
            ),
            Conflict::TooManyGenerations => {
                (RefusalCode::LimitReached, "wait until an old generation ends, or rotate with `at_once`")
            }
            Conflict::NoMessage => (RefusalCode::ReportAddressExpired, "send no more reports about it"),
            Conflict::TooManyReports => (RefusalCode::TooManyReports, "try again tomorrow"),
            Conflict::WebhookBacklog => (
                RefusalCode::LimitReached,
                "make the endpoint accept the pending deliveries; list them with GET /v1/webhooks/{id}/deliveries?status=pending",
            ),
            Conflict::ConfirmationMails => (
                RefusalCode::LimitReached,
                "use the code of the last confirmation mail, or continue tomorrow (UTC)",
            ),
            Conflict::NoTenant => {
                return Self::field("tenant_id", "not_found", "there is no such tenant");
            }
        };
        Self::new(code, conflict.to_string(), hint)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let refusal = match &error {
            StoreError::Conflict(conflict) => return (*conflict).into(),
            StoreError::DiskFull => Self::new(
                RefusalCode::DiskLow,
                "the disk of the server is nearly full",
                "try again later; the operator must free space in the data directory",
            ),
            StoreError::Damaged { .. } => Self::new(
                RefusalCode::ContentDamaged,
                "the stored content of this message is damaged; the server neither returns nor sends it",
                "ask the operator to restore the message from a backup",
            ),
            StoreError::Busy => Self::new(
                RefusalCode::Overloaded,
                "too many queries wait for the database",
                "try again in a minute, with fewer requests at the same time",
            ),
            StoreError::TooSlow => Self::new(
                RefusalCode::Overloaded,
                "the server ended this query because it took too long",
                "narrow it by a time or by another filter, then try again",
            ),
            StoreError::Closed => Self::stopping(),
            StoreError::OutcomeUnknown => Self::new(
                RefusalCode::StorageUnavailable,
                "the database did not say in time whether the change is stored",
                "look whether it is before you try again, or repeat the request with the same Idempotency-Key",
            ),
            StoreError::NoLease => Self::new(
                RefusalCode::StorageUnavailable,
                "this node has lost its contact with the database",
                "try again; a load balancer that asks /readyz sends requests to another node",
            ),
            StoreError::Failed(_) => Self::new(
                RefusalCode::StorageUnavailable,
                "the store is unavailable",
                "try again; if the error persists, give the request_id to the operator, who finds the cause in the log",
            ),
        };
        Self { cause: Some(error.to_string().into()), ..refusal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;
    use crate::store::Limited;

    #[test]
    fn every_code_has_a_type_that_fits_its_status() {
        for &code in RefusalCode::ALL {
            let (status, kind) = classify(code);
            let expected = match status.as_u16() {
                401 => ErrorType::AuthenticationError,
                403 => ErrorType::PermissionError,
                404 => ErrorType::NotFound,
                409 | 412 => ErrorType::Conflict,
                429 => ErrorType::RateLimited,
                500..=599 => ErrorType::Internal,
                _ => ErrorType::ValidationError,
            };
            assert_eq!(kind, expected, "{code}: {status}");
        }
    }

    #[test]
    fn the_shape_of_an_error_is_the_documented_one() {
        let id = RequestId::generate(Timestamp::UNIX_EPOCH);
        let error = ApiError::field("scopes[0]", "invalid", "unknown scope");
        let body: serde_json::Value = serde_json::from_slice(&error.body(id)).unwrap();
        assert_eq!(
            body,
            serde_json::json!({"error": {
                "type": "validation_error",
                "code": "validation_failed",
                "message": "scopes[0]: unknown scope",
                "hint": "correct the fields in `errors` and send the request again",
                "request_id": id,
                "errors": [{"path": "scopes[0]", "code": "invalid", "message": "unknown scope"}],
            }})
        );
        assert_eq!(error.status(), 422);
    }

    #[test]
    fn the_cause_of_a_server_error_is_only_logged() {
        let id = RequestId::generate(Timestamp::UNIX_EPOCH);
        for (error, status) in [
            (ApiError::from(StoreError::Failed("/var/lib secret path".into())), 503),
            (ApiError::internal("/var/lib secret path"), 500),
        ] {
            assert_eq!(error.status(), status);
            assert!(!String::from_utf8(error.body(id)).unwrap().contains("secret"));
            assert!(error.cause.unwrap().contains("secret"));
        }
    }

    #[test]
    fn each_conflict_has_its_status_and_code() {
        for (conflict, status, code) in [
            (Conflict::Slug, 409, "already_exists"),
            (Conflict::ExternalRef, 409, "already_exists"),
            (Conflict::DomainExists, 409, "already_exists"),
            (Conflict::DomainTaken, 409, "domain_taken"),
            (Conflict::Selector, 409, "already_exists"),
            (Conflict::KeyNotActive, 409, "key_not_active"),
            (Conflict::LimitReached(Limited::Keys), 409, "limit_reached"),
            (Conflict::TooManyPauses, 409, "limit_reached"),
            (Conflict::WebhookBacklog, 409, "limit_reached"),
            (Conflict::ErasurePending, 409, "erasure_pending"),
            (Conflict::NotDeletable(Timestamp::UNIX_EPOCH), 409, "not_deletable_yet"),
            (Conflict::SubmissionKey, 409, "idempotency_key_reused"),
            (Conflict::ConfirmationMails, 409, "limit_reached"),
            (Conflict::TooManyDkimKeys, 409, "limit_reached"),
            (Conflict::TooManyGenerations, 409, "limit_reached"),
            (Conflict::NoTenant, 422, "validation_failed"),
        ] {
            let error = ApiError::from(StoreError::Conflict(conflict));
            assert_eq!((error.status().as_u16(), error.refusal.code.as_str()), (status, code));
        }
    }

    #[test]
    fn the_page_of_errors_has_the_status_of_every_code() {
        use RefusalCode as C;
        let of_smtp_only = [
            C::ReportAddressUnknown,
            C::ReportAddressExpired,
            C::ReportEarly,
            C::TooManyReports,
            C::ReportsExhausted,
            C::MailboxUnknown,
            C::RelayDenied,
        ];
        let page = include_str!("../docs/errors.md");
        for &code in RefusalCode::ALL {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{code}` |")));
            let status = row.and_then(|row| row.split('|').nth(3)).unwrap_or_else(|| panic!("no {code}"));
            let expected = match of_smtp_only.contains(&code) {
                true => "–".to_owned(),
                false => classify(code).0.as_u16().to_string(),
            };
            assert_eq!(status.trim(), expected, "{code}");
        }
    }
}
