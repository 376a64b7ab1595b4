//! The part of a DSN about one recipient, and whether the sender asked for it (RFC 3461 §4.1, §5.2).

use crate::mail::{Address, EnhancedStatus, OriginalRecipient, SignedDuration, Timestamp};
use crate::model::{DeliveryState, ReportAction};
use crate::store::{AttemptRecord, Delivery, Message};

/// The age of a message at which its delay is reported.
const DELAY_REPORTED_AFTER: SignedDuration = SignedDuration::from_hours(4);

/// What a DSN reports about one recipient.
#[derive(Debug, Clone)]
pub struct DsnRecipient {
    /// The recipient address.
    pub recipient: Address,
    /// The sender's `ORCPT`.
    pub original: Option<OriginalRecipient>,
    /// The action.
    pub action: DsnAction,
    /// The status code.
    pub status: EnhancedStatus,
    /// The server that replied, if one did.
    pub host: Option<String>,
    /// The reply of the server, or this server's description of the failure.
    pub diagnostic: String,
    /// When the last attempt was made, if one was.
    pub last_attempt_at: Option<Timestamp>,
}

/// The `Action` field (RFC 3464 §2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DsnAction {
    /// It will not be delivered.
    Failed {
        /// Whether its lifetime ended, rather than a server refusing it.
        expired: bool,
    },
    /// It is retried until this time.
    Delayed(Timestamp),
    /// A server accepted it that does not support DSNs.
    Relayed,
    /// Another server reports that it is in the mailbox.
    Delivered,
    /// Another server reports that it sent it on to several addresses.
    Expanded,
}

impl DsnAction {
    /// The field's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed { .. } => "failed",
            Self::Delayed(_) => "delayed",
            Self::Relayed => "relayed",
            Self::Delivered => "delivered",
            Self::Expanded => "expanded",
        }
    }
}

impl DsnRecipient {
    /// The report for the sender after a record; `None` if the sender gets no report. `server_sends_dsn`: the server
    /// that accepted the message supports DSNs and has been asked for one (RFC 3461 §5.2.1).
    pub fn for_record(
        message: &Message,
        delivery: &Delivery,
        record: &AttemptRecord,
        server_sends_dsn: bool,
    ) -> Option<Self> {
        let wants = delivery.parameters.notify_or_default();
        let action = match record.state {
            DeliveryState::Bounced if wants.failure => DsnAction::Failed { expired: false },
            DeliveryState::Expired if wants.failure => DsnAction::Failed { expired: true },
            DeliveryState::Deferred if wants.delay && record.delayed => {
                DsnAction::Delayed(message.expires_at)
            }
            // RFC 3461 §5.2.2.
            DeliveryState::Delivered if wants.success && !server_sends_dsn => DsnAction::Relayed,
            _ => return None,
        };
        let attempt = record.attempt.as_ref();
        let replied = match attempt {
            Some(attempt) => attempt.enhanced,
            None => record.is_suppressed().then_some(SUPPRESSED),
        };
        Some(Self {
            recipient: delivery.recipient.clone(),
            original: delivery.parameters.original_recipient.clone(),
            action,
            status: status_of(action, replied),
            host: attempt.map(|attempt| attempt.host.clone()).filter(|host| !host.is_empty()),
            diagnostic: record.reply.clone(),
            last_attempt_at: match attempt {
                Some(attempt) => Some(attempt.started_at),
                // The last attempt was the last change.
                None => (delivery.attempts > 0).then_some(delivery.updated_at),
            },
        })
    }
}

/// RFC 3463 §3.8: the status with which the server refuses a suppressed recipient.
const SUPPRESSED: EnhancedStatus = EnhancedStatus::new(5, 7, 1);

/// What another server reported about a delivery.
#[derive(Debug)]
pub struct ForeignStatus {
    /// The action.
    pub action: ReportAction,
    /// The status code, if there is one.
    pub status: Option<EnhancedStatus>,
    /// The server that said the diagnostic.
    pub host: Option<String>,
    /// The words of that server.
    pub diagnostic: String,
}

/// RFC 3463 §3.5: the lifetime ended, at another server.
const LIFETIME_ENDED: EnhancedStatus = EnhancedStatus::new(4, 4, 7);

impl DsnRecipient {
    /// The report for the sender after another server reported; `None` if the sender wants no such report.
    pub fn for_foreign_status(delivery: &Delivery, foreign: ForeignStatus) -> Option<Self> {
        let wants = delivery.parameters.notify_or_default();
        let action = match foreign.action {
            ReportAction::Failed if wants.failure => {
                DsnAction::Failed { expired: foreign.status == Some(LIFETIME_ENDED) }
            }
            ReportAction::Relayed if wants.success => DsnAction::Relayed,
            ReportAction::Delivered if wants.success => DsnAction::Delivered,
            ReportAction::Expanded if wants.success => DsnAction::Expanded,
            _ => return None,
        };
        Some(Self {
            recipient: delivery.recipient.clone(),
            original: delivery.parameters.original_recipient.clone(),
            action,
            status: status_of(action, foreign.status),
            host: foreign.host,
            diagnostic: foreign.diagnostic,
            last_attempt_at: None,
        })
    }
}

/// Whether an attempt that ended at this time is the first to end after the time at which a delay is reported.
pub fn crosses_delay(message: &Message, delivery: &Delivery, ended_at: Timestamp) -> bool {
    let report_at = message.begins_at().checked_add(DELAY_REPORTED_AFTER).unwrap_or(Timestamp::MAX);
    delivery.updated_at < report_at && report_at <= ended_at
}

/// RFC 3463: the server's status, if its class agrees with the action; else the general status of that class.
fn status_of(action: DsnAction, replied: Option<EnhancedStatus>) -> EnhancedStatus {
    let (class, otherwise) = match action {
        // §3.5: delivery time expired. The last failure is in the diagnostic.
        DsnAction::Failed { expired: true } => return LIFETIME_ENDED,
        DsnAction::Failed { expired: false } => (5, EnhancedStatus::new(5, 0, 0)),
        DsnAction::Delayed(_) => (4, EnhancedStatus::new(4, 0, 0)),
        DsnAction::Relayed | DsnAction::Delivered | DsnAction::Expanded => (2, EnhancedStatus::new(2, 0, 0)),
    };
    replied.filter(|status| status.class == class).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsn::message::sample_message;
    use crate::mail::RcptParameters;
    use crate::model::DeliveryId;

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
            bounce_class: None,
            updated_at: Timestamp::from_second(last_try_s).unwrap(),
        }
    }

    fn reported(
        notify: Option<&str>,
        state: DeliveryState,
        server_sends_dsn: bool,
    ) -> Option<(String, String)> {
        reported_at(notify, state, server_sends_dsn, 0, 1)
    }

    fn reported_at(
        notify: Option<&str>,
        state: DeliveryState,
        server_sends_dsn: bool,
        last_try_s: i64,
        now_s: i64,
    ) -> Option<(String, String)> {
        let message = sample_message("a@a.example");
        let delivery = delivery(notify, last_try_s);
        let at = Timestamp::from_second(now_s).unwrap();
        let record = AttemptRecord {
            message_id: message.id,
            kind: message.kind,
            tenant_id: message.tenant_id,
            environment: message.environment,
            key_id: None,
            sender_domain: None,
            delivery_id: delivery.id,
            state,
            bounce_class: None,
            next_attempt_at: None,
            attempt: None,
            reply: "452 4.2.2 mailbox full".into(),
            suppress: None,
            delayed: crosses_delay(&message, &delivery, at),
            at,
        };
        let recipient = DsnRecipient::for_record(&message, &delivery, &record, server_sends_dsn)?;
        assert_eq!(recipient.original.unwrap().decoded(), "rfc822;old@x.example");
        Some((recipient.action.as_str().to_owned(), recipient.status.to_string()))
    }

    #[test]
    fn the_sender_gets_the_requested_reports_and_by_default_those_of_failure() {
        use DeliveryState::{Bounced, Deferred, Delivered, Expired};
        let expected = |action: &str, status: &str| Some((action.to_owned(), status.to_owned()));
        // A delivery that bounced without an attempt has a suppressed recipient.
        assert_eq!(reported(None, Bounced, false), expected("failed", "5.7.1"));
        assert_eq!(reported(None, Expired, false), expected("failed", "4.4.7"));
        assert_eq!(reported(Some("FAILURE"), Bounced, true), expected("failed", "5.7.1"));
        for state in [Bounced, Expired, Delivered, Deferred] {
            assert_eq!(reported(Some("NEVER"), state, false), None);
        }
        assert_eq!(reported(Some("SUCCESS"), Bounced, false), None);
        assert_eq!(reported(Some("SUCCESS"), Delivered, false), expected("relayed", "2.0.0"));
        assert_eq!(reported(Some("SUCCESS"), Delivered, true), None);
        assert_eq!(reported(None, Delivered, false), None);
    }

    #[test]
    fn a_delay_is_reported_once_by_the_first_attempt_after_four_hours() {
        let deferred =
            |notify, from_s, to_s| reported_at(notify, DeliveryState::Deferred, false, from_s, to_s);
        assert_eq!(deferred(None, 0, 4 * HOUR_S - 1), None);
        let delayed = Some(("delayed".to_owned(), "4.0.0".to_owned()));
        assert_eq!(deferred(None, 3 * HOUR_S, 4 * HOUR_S), delayed);
        assert_eq!(deferred(Some("DELAY"), 3 * HOUR_S, 5 * HOUR_S), delayed);
        assert_eq!(deferred(None, 4 * HOUR_S, 5 * HOUR_S), None);
        assert_eq!(deferred(Some("FAILURE"), 3 * HOUR_S, 5 * HOUR_S), None);
    }
}
