//! Converts the results of an attempt into records: the new state of each delivery, the time and reason of a retry, and
//! whether the address is suppressed.

use std::sync::Arc;

use super::recipient_result::RecipientResult;
use crate::dsn::recipient::crosses_delay;
use crate::mail::{EnhancedStatus, Timestamp};
use crate::model::{AttemptId, BounceClass, DeliveryState, SuppressionReason};
use crate::policy::reply_verdict::{Verdict, suppressed_until};
use crate::policy::retry_schedule::{Failure, UNROUTABLE_FOR_MAX};
use crate::store::{Attempt, AttemptRecord, Batch, Delivery, NewSuppression};

/// Characters of a reply that are stored and shown.
const REPLY_CHARS_MAX: usize = 1000;

/// A completed attempt of a batch.
#[derive(Debug)]
pub struct CompletedAttempt<'a> {
    /// The batch.
    pub batch: &'a Batch,
    /// When the attempt began.
    pub started_at: Timestamp,
    /// When the attempt ended.
    pub now: Timestamp,
    /// How long the attempt took.
    pub duration_ms: u64,
    /// The dialogue.
    pub transcript: &'a Arc<str>,
}

/// What decides the time of the next attempt, besides the result.
#[derive(Debug, Clone, Copy)]
pub struct RetryConditions {
    /// A random number from -1 to 1.
    pub jitter: f64,
    /// When the last attempt is made, if that is not at the end of the lifetime.
    pub give_up_at: Option<Timestamp>,
}

/// A batch whose state changes without an attempt.
#[derive(Debug)]
pub struct UnattemptedBatch<'a> {
    /// The batch.
    pub batch: &'a Batch,
    /// The time of the change.
    pub now: Timestamp,
}

/// The new state of one delivery.
struct NextState {
    state: DeliveryState,
    next_attempt_at: Option<Timestamp>,
    reason: String,
}

impl CompletedAttempt<'_> {
    /// The record of one recipient's result.
    pub fn record(
        &self,
        delivery: &Delivery,
        result: &RecipientResult,
        retry: RetryConditions,
    ) -> AttemptRecord {
        let given_up = retry.give_up_at.filter(|at| *at <= self.now).map(|_| give_up(result));
        let result = given_up.as_ref().unwrap_or(result);
        let message = &self.batch.message;
        let NextState { state, next_attempt_at, reason } = self.next_state(delivery, result, retry);
        let reply = truncate(&result.to_reply_text());
        let suppress =
            matches!(result.verdict, Verdict::Bounced { suppress: true, .. }).then(|| NewSuppression {
                evidence: Some(reply.clone()),
                message_id: Some(message.id),
                expires_at: result.verdict.class().and_then(|class| suppressed_until(class, self.now)),
                ..NewSuppression::of_all_mail(
                    Some(message.tenant_id),
                    message.environment,
                    delivery.recipient.clone(),
                    SuppressionReason::Bounce,
                )
            });
        let attempt = Attempt {
            id: AttemptId::generate(self.now),
            message_id: message.id,
            delivery_id: delivery.id,
            started_at: self.started_at,
            duration_ms: self.duration_ms,
            host: result.peer.host.clone(),
            address: result.peer.address,
            source: result.peer.source,
            tls: result.peer.tls.clone(),
            tls_policy: result.peer.tls_policy.clone(),
            code: result.code,
            enhanced: result.enhanced,
            text: truncate(&result.text),
            transcript: self.transcript.clone(),
            outcome: state,
            bounce_class: result.verdict.class(),
            reason,
        };
        AttemptRecord {
            bounce_class: result.verdict.class(),
            next_attempt_at,
            attempt: Some(attempt),
            reply,
            suppress,
            delayed: state == DeliveryState::Deferred && crosses_delay(message, delivery, self.now),
            ..AttemptRecord::new(message, delivery.id, state, self.now)
        }
    }

    fn next_state(&self, delivery: &Delivery, result: &RecipientResult, retry: RetryConditions) -> NextState {
        let cause = match result.status_text() {
            status if status.is_empty() => result.text.clone(),
            status => status,
        };
        let pace = match result.verdict {
            Verdict::Delivered => {
                return NextState::final_state(DeliveryState::Delivered, "delivered".into());
            }
            Verdict::Bounced { .. } => {
                let reason = format!("refused permanently by {}: no retry", truncate(&cause));
                return NextState::final_state(DeliveryState::Bounced, reason);
            }
            Verdict::Deferred { pace, .. } => pace,
        };
        let attempts = delivery.attempts.saturating_add(1);
        let failure = Failure { attempts, pace, at: self.now, expires_at: self.batch.message.expires_at };
        match failure.next_attempt_at(retry.jitter) {
            Some(next) => {
                let next = retry.give_up_at.map_or(next, |at| at.min(next));
                NextState::retry(&cause, attempts, self.now, next)
            }
            None => {
                let reason = format!(
                    "deferred by {}: the next attempt would be after the lifetime of the message",
                    truncate(&cause)
                );
                NextState::final_state(DeliveryState::Expired, reason)
            }
        }
    }
}

impl UnattemptedBatch<'_> {
    /// The record of a delivery that waits for the end of a back-off of its smart host. No attempt is counted.
    pub fn record_backoff(&self, delivery: &Delivery, reason: &str, until: Timestamp) -> AttemptRecord {
        AttemptRecord {
            // The back-off does not extend the lifetime.
            next_attempt_at: Some(until.min(self.batch.message.expires_at)),
            ..self.record(delivery, delivery.state, BounceClass::Authentication, reason)
        }
    }

    /// The record of a delivery whose recipient was suppressed after the message was accepted.
    pub fn record_suppressed(&self, delivery: &Delivery, refusal: &str) -> AttemptRecord {
        self.record(delivery, DeliveryState::Bounced, BounceClass::Policy, refusal)
    }

    /// The record of a delivery whose lifetime ended before the attempt.
    pub fn record_expired(&self, delivery: &Delivery) -> AttemptRecord {
        // The class of the last failure is more specific than `expired`.
        let class = delivery.bounce_class.unwrap_or(BounceClass::Expired);
        let last = delivery.last_reply.as_deref().unwrap_or("no attempt was made");
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
            bounce_class: Some(class),
            reply: truncate(reply),
            ..AttemptRecord::new(&self.batch.message, delivery.id, state, self.now)
        }
    }
}

impl NextState {
    fn final_state(state: DeliveryState, reason: String) -> Self {
        Self { state, next_attempt_at: None, reason }
    }

    fn retry(cause: &str, attempts: u32, now: Timestamp, next: Timestamp) -> Self {
        let reason = format!(
            "deferred by {}: next attempt in {} (retry {attempts})",
            truncate(cause),
            rough_duration(next.as_second() - now.as_second())
        );
        Self { state: DeliveryState::Deferred, next_attempt_at: Some(next), reason }
    }
}

/// The permanent failure of mail that could not be routed for too long.
fn give_up(result: &RecipientResult) -> RecipientResult {
    let text = format!(
        "no mail host for the domain; the DNS has given such answers for {}: {}",
        rough_duration(UNROUTABLE_FOR_MAX.as_secs()),
        result.text
    );
    // The names of the hosts in the text are not classified.
    let verdict = Verdict::Bounced { class: BounceClass::Dns, suppress: false };
    RecipientResult { verdict, ..RecipientResult::unroutable(550, EnhancedStatus::new(5, 4, 4), text) }
}

/// A rounded duration, such as `5 m` or `2 h 45 m`.
pub fn rough_duration(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{} s", seconds.max(0)),
        60..3570 => format!("{} m", (seconds + 30) / 60),
        _ if (seconds + 30) % 3600 < 60 => format!("{} h", (seconds + 30) / 3600),
        _ => format!("{} h {} m", (seconds + 30) / 3600, (seconds + 30) % 3600 / 60),
    }
}

fn truncate(text: &str) -> String {
    text.chars().take(REPLY_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsn::message::sample_message;
    use crate::dsn::recipient::{DsnAction, DsnRecipient};
    use crate::mail::{Address, SignedDuration};
    use crate::model::DeliveryId;
    use crate::relay::peer::Peer;
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
            bounce_class: None,
            updated_at: message.created_at,
        };
        Batch {
            destination: delivery.recipient.host().clone(),
            message,
            deliveries: vec![delivery],
            content: None,
        }
    }

    fn result(phase: Phase, code: u16, status: &str) -> RecipientResult {
        let reply = Reply { code, enhanced: status.parse().ok(), lines: vec!["words".into()] };
        let peer = Peer { host: "mx.example".into(), ..Default::default() };
        RecipientResult::from_outcome(Outcome { phase, reply }, true, &Arc::new(peer))
    }

    fn record(attempts: u32, age: SignedDuration, result: &RecipientResult) -> AttemptRecord {
        let batch = batch(attempts);
        let now = batch.message.created_at + age;
        let attempt = CompletedAttempt {
            batch: &batch,
            started_at: now,
            now,
            duration_ms: 1,
            transcript: &"> x".into(),
        };
        attempt.record(&batch.deliveries[0], result, RetryConditions { jitter: 0.0, give_up_at: None })
    }

    fn dsn_status(batch: &Batch, record: &AttemptRecord) -> String {
        let recipient =
            DsnRecipient::for_record(&batch.message, &batch.deliveries[0], record, false).unwrap();
        assert!(matches!(recipient.action, DsnAction::Failed { .. }));
        recipient.status.to_string()
    }

    #[test]
    fn a_deferral_names_the_time_of_the_next_attempt_and_the_reason() {
        let first = record(0, SignedDuration::ZERO, &result(Phase::Rcpt, 451, "4.7.1"));
        assert_eq!(first.state, DeliveryState::Deferred);
        assert_eq!(first.next_attempt_at, Some(first.at + SignedDuration::from_secs(60)));
        assert_eq!(first.reply, "451 4.7.1 words");
        assert_eq!(first.attempt.unwrap().reason, "deferred by 451 4.7.1: next attempt in 1 m (retry 1)");
        let second = record(1, SignedDuration::ZERO, &result(Phase::Content, 452, ""));
        assert_eq!(second.attempt.unwrap().reason, "deferred by 452: next attempt in 15 m (retry 2)");
    }

    #[test]
    fn a_deferral_past_the_lifetime_ends_it() {
        let late = record(9, SignedDuration::from_hours(98), &result(Phase::Rcpt, 451, ""));
        assert_eq!((late.state, late.next_attempt_at), (DeliveryState::Expired, None));
        assert_eq!(dsn_status(&batch(9), &late), "4.4.7");
    }

    #[test]
    fn a_delivery_claimed_after_its_lifetime_ends_with_its_last_reply() {
        let mut batch = batch(9);
        batch.deliveries[0].last_reply = Some("452 4.2.2 mailbox full".into());
        let now = batch.message.expires_at;
        let record = UnattemptedBatch { batch: &batch, now }.record_expired(&batch.deliveries[0]);
        assert!(record.state == DeliveryState::Expired && record.attempt.is_none());
        assert_eq!(dsn_status(&batch, &record), "4.4.7");
        assert_eq!(record.reply, "452 4.2.2 mailbox full");
    }

    #[test]
    fn a_refusal_suppresses_only_an_address_that_is_gone_and_keeps_the_evidence() {
        let gone = record(0, SignedDuration::ZERO, &result(Phase::Rcpt, 550, "5.1.1"));
        assert_eq!(gone.state, DeliveryState::Bounced);
        let suppression = gone.suppress.clone().unwrap();
        assert_eq!(suppression.evidence.as_deref(), Some("550 5.1.1 words"));
        assert_eq!(suppression.tenant_id, Some(gone.tenant_id));
        assert!(record(0, SignedDuration::ZERO, &result(Phase::Rcpt, 550, "5.7.1")).suppress.is_none());
        let vague = record(0, SignedDuration::ZERO, &result(Phase::Mail, 550, "4.7.1"));
        assert_eq!(dsn_status(&batch(0), &vague), "5.0.0");
    }

    #[test]
    fn a_delivered_result_is_final() {
        let done = record(0, SignedDuration::ZERO, &result(Phase::Content, 250, "2.0.0"));
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
