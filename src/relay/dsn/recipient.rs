//! What a report says of one recipient, and whether the sender wants to hear it (RFC 3461 §4.1, §5.2).

use crate::mail::{Address, EnhancedStatus, OriginalRecipient, SignedDuration, Timestamp};
use crate::model::DeliveryState;
use crate::store::{AttemptRecord, Delivery, Message};

/// When a sender who wants to know of delay is told.
const DELAY: SignedDuration = SignedDuration::from_hours(4);

/// What became of one recipient's mail.
#[derive(Debug, Clone)]
pub struct DsnRecipient {
    /// Who.
    pub recipient: Address,
    /// Who it was before somebody sent it on.
    pub original: Option<OriginalRecipient>,
    /// What.
    pub action: DsnAction,
    /// Why, as a code.
    pub status: EnhancedStatus,
    /// The server that said so, if one did.
    pub host: Option<String>,
    /// Its reply, or what went wrong.
    pub diagnostic: String,
    /// When it was last tried, if it was.
    pub last_attempt_at: Option<Timestamp>,
}

/// RFC 3464 §2.3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DsnAction {
    /// It will not arrive.
    Failed {
        /// Whether the lifetime ended, rather than a server refusing.
        expired: bool,
    },
    /// It is still tried, until this time.
    Delayed(Timestamp),
    /// A server took it that gives no report of its own.
    Relayed,
}

impl DsnAction {
    /// The value of the field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed { .. } => "failed",
            Self::Delayed(_) => "delayed",
            Self::Relayed => "relayed",
        }
    }
}

/// What the sender of a delivery is told of a record, if it is anything. `passed_on`: the server that took the message
/// was asked for the report, which is then its to give (RFC 3461 §5.2.1).
pub fn notice_of(
    message: &Message,
    delivery: &Delivery,
    record: &AttemptRecord,
    passed_on: bool,
) -> Option<DsnRecipient> {
    let wants = delivery.parameters.wants();
    let action = match record.state {
        DeliveryState::Bounced if wants.failure => DsnAction::Failed { expired: false },
        DeliveryState::Expired if wants.failure => DsnAction::Failed { expired: true },
        DeliveryState::Deferred if wants.delay && record.delayed => DsnAction::Delayed(message.expires_at),
        // RFC 3461 §5.2.2.
        DeliveryState::Delivered if wants.success && !passed_on => DsnAction::Relayed,
        _ => return None,
    };
    let attempt = record.attempt.as_ref();
    let said = attempt.and_then(|attempt| attempt.enhanced);
    Some(DsnRecipient {
        recipient: delivery.recipient.clone(),
        original: delivery.parameters.original_recipient.clone(),
        action,
        status: status_of(action, said),
        host: attempt.map(|attempt| attempt.host.clone()).filter(|host| !host.is_empty()),
        diagnostic: record.reply.clone(),
        last_attempt_at: match attempt {
            Some(attempt) => Some(attempt.started_at),
            // What changed it last was its last try.
            None => (delivery.attempts > 0).then_some(delivery.updated_at),
        },
    })
}

/// Whether a try that ended at this time is the first to end after the time at which delay is told.
pub fn crosses_delay(message: &Message, delivery: &Delivery, ended_at: Timestamp) -> bool {
    let told_at = message.begins_at().checked_add(DELAY).unwrap_or(Timestamp::MAX);
    delivery.updated_at < told_at && told_at <= ended_at
}

/// RFC 3463: what the server said, as far as its class agrees with what became of it.
fn status_of(action: DsnAction, said: Option<EnhancedStatus>) -> EnhancedStatus {
    let (class, otherwise) = match action {
        // §3.5: delivery time expired. What was in the way until then is in the diagnostic.
        DsnAction::Failed { expired: true } => return EnhancedStatus::new(4, 4, 7),
        DsnAction::Failed { expired: false } => (5, EnhancedStatus::new(5, 0, 0)),
        DsnAction::Delayed(_) => (4, EnhancedStatus::new(4, 0, 0)),
        DsnAction::Relayed => (2, EnhancedStatus::new(2, 0, 0)),
    };
    said.filter(|status| status.class == class).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::RcptParameters;
    use crate::model::DeliveryId;
    use crate::relay::dsn::message::sample_message;

    const HOUR_S: i64 = 3600;

    fn delivery(notify: Option<&str>, last_try_s: i64) -> Delivery {
        let message = sample_message("a@a.example");
        Delivery {
            id: DeliveryId::generate(message.created_at),
            message_id: message.id,
            recipient: Address::parse("b@x.example").unwrap(),
            parameters: RcptParameters {
                notify: notify.map(|notify| notify.parse().unwrap()),
                original_recipient: "rfc822;old@x.example".parse().ok(),
            },
            state: DeliveryState::Queued,
            attempts: 0,
            next_attempt_at: None,
            last_reply: None,
            last_class: None,
            updated_at: Timestamp::from_second(last_try_s).unwrap(),
        }
    }

    fn told(notify: Option<&str>, state: DeliveryState, passed_on: bool) -> Option<(String, String)> {
        told_at(notify, state, passed_on, 0, 1)
    }

    fn told_at(
        notify: Option<&str>,
        state: DeliveryState,
        passed_on: bool,
        last_try_s: i64,
        now_s: i64,
    ) -> Option<(String, String)> {
        let message = sample_message("a@a.example");
        let delivery = delivery(notify, last_try_s);
        let at = Timestamp::from_second(now_s).unwrap();
        let record = AttemptRecord {
            message_id: message.id,
            tenant_id: message.tenant_id,
            delivery_id: delivery.id,
            state,
            class: None,
            next_attempt_at: None,
            attempt: None,
            reply: "452 4.2.2 mailbox full".into(),
            suppress: None,
            complained: false,
            delayed: crosses_delay(&message, &delivery, at),
            at,
        };
        let notice = notice_of(&message, &delivery, &record, passed_on)?;
        assert_eq!(notice.original.unwrap().decoded(), "rfc822;old@x.example");
        Some((notice.action.as_str().to_owned(), notice.status.to_string()))
    }

    #[test]
    fn the_sender_hears_what_was_asked_for_and_by_default_of_failure() {
        use DeliveryState::{Bounced, Deferred, Delivered, Expired};
        let said = |action: &str, status: &str| Some((action.to_owned(), status.to_owned()));
        assert_eq!(told(None, Bounced, false), said("failed", "5.0.0"));
        assert_eq!(told(None, Expired, false), said("failed", "4.4.7"));
        assert_eq!(told(Some("FAILURE"), Bounced, true), said("failed", "5.0.0"));
        for state in [Bounced, Expired, Delivered, Deferred] {
            assert_eq!(told(Some("NEVER"), state, false), None);
        }
        assert_eq!(told(Some("SUCCESS"), Bounced, false), None);
        assert_eq!(told(Some("SUCCESS"), Delivered, false), said("relayed", "2.0.0"));
        assert_eq!(told(Some("SUCCESS"), Delivered, true), None);
        assert_eq!(told(None, Delivered, false), None);
    }

    #[test]
    fn delay_is_told_once_by_the_first_try_after_four_hours() {
        let deferred = |notify, from_s, to_s| told_at(notify, DeliveryState::Deferred, false, from_s, to_s);
        assert_eq!(deferred(None, 0, 4 * HOUR_S - 1), None);
        let delayed = Some(("delayed".to_owned(), "4.0.0".to_owned()));
        assert_eq!(deferred(None, 3 * HOUR_S, 4 * HOUR_S), delayed);
        assert_eq!(deferred(Some("DELAY"), 3 * HOUR_S, 5 * HOUR_S), delayed);
        assert_eq!(deferred(None, 4 * HOUR_S, 5 * HOUR_S), None);
        assert_eq!(deferred(Some("FAILURE"), 3 * HOUR_S, 5 * HOUR_S), None);
    }
}
