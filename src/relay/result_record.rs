//! What is written down of a try: the state that follows for each recipient, when the next try is and why, whether
//! the address is suppressed.

use std::sync::Arc;

use super::dsn::recipient::crosses_delay;
use super::recipient_result::RecipientResult;
use crate::mail::Timestamp;
use crate::model::{AttemptId, BounceClass, DeliveryState, SuppressionReason};
use crate::policy::reply_verdict::Verdict;
use crate::policy::retry::Failure;
use crate::store::{Attempt, AttemptRecord, Batch, Delivery, NewSuppression};

/// Characters of a reply that are kept as evidence and shown.
const REPLY_CHARS_MAX: usize = 1000;

/// One try of a batch, seen from its end.
#[derive(Debug)]
pub struct Account<'a> {
    /// What was tried.
    pub batch: &'a Batch,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub now: Timestamp,
    /// How long it took.
    pub duration_ms: u64,
    /// What was said.
    pub transcript: &'a Arc<str>,
}

/// A batch that is written down without a try.
#[derive(Debug)]
pub struct Untried<'a> {
    /// What was not tried.
    pub batch: &'a Batch,
    /// When.
    pub now: Timestamp,
}

/// What follows for one recipient.
struct Consequence {
    state: DeliveryState,
    next_attempt_at: Option<Timestamp>,
    reason: String,
}

impl Account<'_> {
    /// What one recipient's ending leads to. `jitter` is a random number from -1 to 1.
    pub fn record(&self, delivery: &Delivery, ending: &RecipientResult, jitter: f64) -> AttemptRecord {
        let message = &self.batch.message;
        let Consequence { state, next_attempt_at, reason } = self.consequence(delivery, ending, jitter);
        let reply = shorten(&ending.to_reply_text());
        let suppress =
            matches!(ending.verdict, Verdict::Bounced { suppress: true, .. }).then(|| NewSuppression {
                tenant_id: Some(message.tenant_id),
                address: delivery.recipient.clone(),
                reason: SuppressionReason::Bounce,
                evidence: Some(reply.clone()),
                expires_at: None,
            });
        let attempt = Attempt {
            id: AttemptId::generate(self.now),
            message_id: message.id,
            delivery_id: delivery.id,
            started_at: self.started_at,
            duration_ms: self.duration_ms,
            host: ending.peer.host.clone(),
            address: ending.peer.address,
            tls: ending.peer.tls.clone(),
            tls_policy: ending.peer.tls_policy.clone(),
            code: ending.code,
            enhanced: ending.enhanced,
            text: shorten(&ending.text),
            transcript: self.transcript.clone(),
            outcome: state,
            class: ending.verdict.class(),
            reason,
        };
        AttemptRecord {
            message_id: message.id,
            tenant_id: message.tenant_id,
            delivery_id: delivery.id,
            state,
            class: ending.verdict.class(),
            next_attempt_at,
            attempt: Some(attempt),
            reply,
            suppress,
            complained: false,
            delayed: state == DeliveryState::Deferred && crosses_delay(message, delivery, self.now),
            at: self.now,
        }
    }

    fn consequence(&self, delivery: &Delivery, ending: &RecipientResult, jitter: f64) -> Consequence {
        let cause = match ending.status_text() {
            status if status.is_empty() => ending.text.clone(),
            status => status,
        };
        let pace = match ending.verdict {
            Verdict::Delivered => {
                return Consequence::last(DeliveryState::Delivered, "delivered".into());
            }
            Verdict::Bounced { .. } => {
                let reason = format!("refused for good by {}: no next try", shorten(&cause));
                return Consequence::last(DeliveryState::Bounced, reason);
            }
            Verdict::Deferred { pace, .. } => pace,
        };
        let attempts = delivery.attempts.saturating_add(1);
        let failure = Failure { attempts, pace, at: self.now, expires_at: self.batch.message.expires_at };
        match failure.next_attempt_at(jitter) {
            Some(next) => Consequence::retry(&cause, attempts, self.now, next),
            None => {
                let reason = format!(
                    "deferred by {}: the next try would be past the message's lifetime",
                    shorten(&cause)
                );
                Consequence::last(DeliveryState::Expired, reason)
            }
        }
    }
}

impl Untried<'_> {
    /// A delivery whose account is refused waits until then: no try is counted.
    pub fn record_held(&self, delivery: &Delivery, reason: &str, until: Timestamp) -> AttemptRecord {
        AttemptRecord {
            // Its lifetime goes on.
            next_attempt_at: Some(until.min(self.batch.message.expires_at)),
            ..self.record(delivery, delivery.state, BounceClass::Authentication, reason)
        }
    }

    /// A delivery that was claimed at the end of its lifetime: no other try.
    pub fn record_expired(&self, delivery: &Delivery) -> AttemptRecord {
        // What was in the way until then says more than that the time is over.
        let class = delivery.last_class.unwrap_or(BounceClass::Expired);
        let last = delivery.last_reply.as_deref().unwrap_or("it was not tried");
        self.record(delivery, DeliveryState::Expired, class, last)
    }

    fn record(
        &self,
        delivery: &Delivery,
        state: DeliveryState,
        class: BounceClass,
        reply: &str,
    ) -> AttemptRecord {
        AttemptRecord {
            message_id: self.batch.message.id,
            tenant_id: self.batch.message.tenant_id,
            delivery_id: delivery.id,
            state,
            class: Some(class),
            next_attempt_at: None,
            attempt: None,
            reply: shorten(reply),
            suppress: None,
            complained: false,
            delayed: false,
            at: self.now,
        }
    }
}

impl Consequence {
    fn last(state: DeliveryState, reason: String) -> Self {
        Self { state, next_attempt_at: None, reason }
    }

    fn retry(cause: &str, attempts: u32, now: Timestamp, next: Timestamp) -> Self {
        let reason = format!(
            "deferred by {}: next try in {} (retry {attempts})",
            shorten(cause),
            rough_duration(next.as_second() - now.as_second())
        );
        Self { state: DeliveryState::Deferred, next_attempt_at: Some(next), reason }
    }
}

/// Like `5 m` or `2 h 45 m`.
pub fn rough_duration(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{} s", seconds.max(0)),
        60..3570 => format!("{} m", (seconds + 30) / 60),
        _ if (seconds + 30) % 3600 < 60 => format!("{} h", (seconds + 30) / 3600),
        _ => format!("{} h {} m", (seconds + 30) / 3600, (seconds + 30) % 3600 / 60),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(REPLY_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Address, SignedDuration};
    use crate::model::DeliveryId;
    use crate::relay::dsn::message::sample_message;
    use crate::relay::dsn::recipient::{DsnAction, notice_of};
    use crate::smtp::Reply;
    use crate::smtp::client::{Outcome, Phase};

    fn batch(attempts: u32) -> Batch {
        let message = sample_message("a@a.example");
        let delivery = Delivery {
            id: DeliveryId::generate(message.created_at),
            message_id: message.id,
            recipient: Address::parse("b@x.example").unwrap(),
            parameters: Default::default(),
            state: DeliveryState::Queued,
            attempts,
            next_attempt_at: None,
            last_reply: Some("451 later".into()),
            last_class: None,
            updated_at: message.created_at,
        };
        Batch {
            destination: delivery.recipient.host().clone(),
            message,
            deliveries: vec![delivery],
            content: None,
        }
    }

    fn ending(phase: Phase, code: u16, status: &str) -> RecipientResult {
        let reply = Reply { code, enhanced: status.parse().ok(), lines: vec!["words".into()] };
        let peer = super::super::connection::Peer { host: "mx.example".into(), ..Default::default() };
        RecipientResult::of_outcome(Outcome { phase, reply }, true, &Arc::new(peer))
    }

    fn record(attempts: u32, age: SignedDuration, ending: &RecipientResult) -> AttemptRecord {
        let batch = batch(attempts);
        let now = batch.message.created_at + age;
        let account =
            Account { batch: &batch, started_at: now, now, duration_ms: 1, transcript: &"> x".into() };
        account.record(&batch.deliveries[0], ending, 0.0)
    }

    fn status_told(batch: &Batch, record: &AttemptRecord) -> String {
        let notice = notice_of(&batch.message, &batch.deliveries[0], record, false).unwrap();
        assert!(matches!(notice.action, DsnAction::Failed { .. }));
        notice.status.to_string()
    }

    #[test]
    fn a_deferral_says_when_the_next_try_is_and_why() {
        let first = record(0, SignedDuration::ZERO, &ending(Phase::Rcpt, 451, "4.7.1"));
        assert_eq!(first.state, DeliveryState::Deferred);
        assert_eq!(first.next_attempt_at.unwrap() - first.at, jiff::Span::new().seconds(60).fieldwise());
        assert_eq!(first.reply, "451 4.7.1 words");
        assert_eq!(first.attempt.unwrap().reason, "deferred by 451 4.7.1: next try in 1 m (retry 1)");
        let second = record(1, SignedDuration::ZERO, &ending(Phase::Content, 452, ""));
        assert_eq!(second.attempt.unwrap().reason, "deferred by 452: next try in 15 m (retry 2)");
    }

    #[test]
    fn a_deferral_past_the_lifetime_ends_it() {
        let late = record(9, SignedDuration::from_hours(98), &ending(Phase::Rcpt, 451, ""));
        assert_eq!((late.state, late.next_attempt_at), (DeliveryState::Expired, None));
        assert_eq!(status_told(&batch(9), &late), "4.4.7");
    }

    #[test]
    fn a_delivery_claimed_after_its_lifetime_ends_with_its_last_reply() {
        let mut batch = batch(9);
        batch.deliveries[0].last_reply = Some("452 4.2.2 mailbox full".into());
        let now = batch.message.expires_at;
        let record = Untried { batch: &batch, now }.record_expired(&batch.deliveries[0]);
        assert!(record.state == DeliveryState::Expired && record.attempt.is_none());
        assert_eq!(status_told(&batch, &record), "4.4.7");
        assert_eq!(record.reply, "452 4.2.2 mailbox full");
    }

    #[test]
    fn a_refusal_suppresses_only_an_address_that_is_gone_and_keeps_the_evidence() {
        let gone = record(0, SignedDuration::ZERO, &ending(Phase::Rcpt, 550, "5.1.1"));
        assert_eq!(gone.state, DeliveryState::Bounced);
        let suppression = gone.suppress.clone().unwrap();
        assert_eq!(suppression.evidence.as_deref(), Some("550 5.1.1 words"));
        assert_eq!(suppression.tenant_id, Some(gone.tenant_id));
        assert!(record(0, SignedDuration::ZERO, &ending(Phase::Rcpt, 550, "5.7.1")).suppress.is_none());
        let vague = record(0, SignedDuration::ZERO, &ending(Phase::Mail, 550, "4.7.1"));
        assert_eq!(status_told(&batch(0), &vague), "5.0.0");
    }

    #[test]
    fn success_is_final() {
        let done = record(0, SignedDuration::ZERO, &ending(Phase::Content, 250, "2.0.0"));
        assert_eq!((done.state, done.next_attempt_at), (DeliveryState::Delivered, None));
    }

    #[test]
    fn durations_are_rough() {
        for (seconds, text) in [
            (-1, "0 s"),
            (59, "59 s"),
            (60, "1 m"),
            (290, "5 m"),
            (3600, "1 h"),
            (3569, "59 m"),
            (3590, "1 h"),
            (9900, "2 h 45 m"),
        ] {
            assert_eq!(rough_duration(seconds), text);
        }
    }
}
