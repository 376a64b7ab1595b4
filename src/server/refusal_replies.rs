//! SMTP replies to refusals: one reply for each code. The text has one form: `550 5.7.1 [domain_not_allowed_for_key]
//! what is wrong; what to do (ref req_…)`.

use crate::mail::EnhancedStatus;
use crate::model::{Refusal, RefusalCode, RequestId};
use crate::smtp::Reply;

/// The reply to a refusal, with the id of the recorded rejection.
pub fn reply(refusal: &Refusal, reference: Option<RequestId>) -> Reply {
    let (code, enhanced) = status(refusal.code);
    Reply::new(code, Some(enhanced), &text(refusal, reference))
}

/// The reply to a refusal at AUTH, where RFC 4954 §6 defines only permanent and temporary failure.
pub fn login_reply(refusal: &Refusal) -> Reply {
    let (code, enhanced) = if status(refusal.code).0 < 500 {
        (454, EnhancedStatus::new(4, 7, 0))
    } else {
        (535, EnhancedStatus::new(5, 7, 8))
    };
    Reply::new(code, Some(enhanced), &text(refusal, None))
}

/// The server has no memory for another message.
pub fn overloaded() -> Refusal {
    Refusal::new(
        RefusalCode::Overloaded,
        "the server has no memory for another message",
        "try again in a minute",
    )
}

/// Whether the tenant can act on the refusal. Faults of the server are not recorded as rejections of the tenant.
pub fn is_recorded(code: RefusalCode) -> bool {
    use RefusalCode::*;
    !matches!(code, StorageUnavailable | ContentDamaged | DiskLow | Overloaded | ShuttingDown | Internal)
}

fn text(refusal: &Refusal, reference: Option<RequestId>) -> String {
    match reference {
        Some(reference) => format!("{refusal} (ref {reference})"),
        None => refusal.to_string(),
    }
}

/// Reply codes by RFC 5321 §4.2.3, enhanced codes by RFC 3463 and RFC 5248.
fn status(code: RefusalCode) -> (u16, EnhancedStatus) {
    use RefusalCode::*;
    let (code, subject, detail) = match code {
        TenantSuspended
        | TenantArchived
        | SenderDomainNotVerified
        | DomainNotAllowedForKey
        | InsufficientScope
        | IpNotAllowed
        | NullSenderRefused
        | RecipientSuppressed
        | RecipientNotConfirmed
        | FromHeaderMissing
        | FromHeaderAmbiguous
        | RecipientUnsubscribed
        | RelayDenied
        | ReportsExhausted => (550, 7, 1),
        ReportAddressUnknown | ReportAddressExpired | MailboxUnknown => (550, 1, 1),
        ReportEarly => (451, 3, 0),
        TooManyReports => (450, 7, 1),
        SendLimitExceeded | HourlySendLimitExceeded | RateLimited => (450, 7, 1),
        DailySendLimitExceeded => (452, 7, 1),
        MessageTooLarge => (552, 3, 4),
        RecipientInvalid => (553, 1, 3),
        RecipientNeedsSmtputf8 => (553, 6, 7),
        RecipientNotQualified => (550, 1, 2),
        TooManyRecipients => (452, 5, 3),
        HeaderDuplicate => (550, 6, 0),
        IdempotencyKeyReused
        | HeaderMalformed
        | NulInContent
        | BareNewline
        | LineTooLong
        | UnsubscribeNeedsOneRecipient
        | UnsubscribeConflict
        | UnsubscribeUnavailable => (554, 6, 0),
        ConversionRequired => (554, 6, 1),
        MailLoop => (554, 4, 6),
        StorageUnavailable | ContentDamaged | Internal => (451, 3, 0),
        DiskLow => (452, 3, 1),
        Overloaded => (451, 3, 2),
        ShuttingDown => (421, 3, 2),
        // The session's key is no longer valid: the client must authenticate with another.
        AuthenticationRequired | TlsRequired | InvalidApiKey | ExpiredApiKey | RevokedApiKey => (530, 7, 0),
        // Used by the HTTP API only.
        PlatformKeyRequired
        | LiveKeyRequired
        | NotFound
        | MethodNotAllowed
        | ValidationFailed
        | UnknownField
        | InvalidJson
        | UnsupportedMediaType
        | PayloadTooLarge
        | RequestTimeout
        | DomainTaken
        | AlreadyExists
        | LimitReached
        | KeyInUse
        | KeyNotActive
        | NotDeletableYet
        | ErasurePending
        | ImportConflict
        | MessageFinished
        | PreconditionFailed
        | WebhookDisabled
        | TemplateFailed
        | IdempotencyInProgress => (550, 7, 1),
    };
    // RFC 2034 §4: the first digits agree.
    let class = if code < 500 { 4 } else { 5 };
    (code, EnhancedStatus::new(class, subject, detail))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::mail::Timestamp;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_refusal_has_the_same_text_form() {
        let id = RequestId::generate(Timestamp::UNIX_EPOCH);
        let refusal =
            Refusal::new(RefusalCode::DomainNotAllowedForKey, "b.example is not yours", "use a.example");
        assert_eq!(
            wire(&reply(&refusal, Some(id))),
            format!(
                "550 5.7.1 [domain_not_allowed_for_key] b.example is not yours; use a.example (ref {id})\r\n"
            )
        );
        let refusal = Refusal::new(RefusalCode::IpNotAllowed, "no", "go home");
        assert_eq!(wire(&login_reply(&refusal)), "535 5.7.8 [ip_not_allowed] no; go home\r\n");
        let refusal = Refusal::new(RefusalCode::StorageUnavailable, "no", "later");
        assert_eq!(wire(&login_reply(&refusal)), "454 4.7.0 [storage_unavailable] no; later\r\n");
    }

    #[test]
    fn every_code_has_a_valid_reply() {
        for &code in RefusalCode::ALL {
            let refusal = Refusal::new(code, "x".repeat(300) + "\r\n250 Ok é", "y ".repeat(400));
            let written = wire(&reply(&refusal, Some(RequestId::generate(Timestamp::UNIX_EPOCH))));
            let class = &written[..1];
            assert!(["4", "5"].contains(&class), "{code}");
            for line in written.split_inclusive("\r\n") {
                assert!(line.len() <= 512 && line.is_ascii() && line[4..].starts_with(class), "{line}");
                assert_eq!(line.matches(['\r', '\n']).count(), 2, "{line}");
            }
        }
    }

    #[test]
    fn the_page_of_errors_has_the_replies_of_every_code() {
        let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for &code in RefusalCode::ALL {
            let (reply, enhanced) = status(code);
            known.entry(code.to_string()).or_default().insert(format!("{reply} {enhanced}"));
        }
        let (page, _) = include_str!("../docs/errors.md").split_once("\n## Pages").unwrap();
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let code = cells[0].trim_matches('`');
            let replies: BTreeSet<String> = cells[1].split(", ").map(str::to_owned).collect();
            let is_of_api_alone = cells[1] == "–" && known[code].contains("550 5.7.1");
            assert!(is_of_api_alone || known[code] == replies, "{code}: {:?}", known[code]);
            known.remove(code);
        }
        assert!(known.is_empty(), "{known:?}");
    }
}
