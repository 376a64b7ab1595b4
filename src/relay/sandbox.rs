//! Delivery in the test environment: nothing leaves the machine, and the recipient's local part selects the result.

use std::sync::Arc;
use std::time::Duration;

use super::peer::Peer;
use super::recipient_result::RecipientResult;
use super::transcript::Transcript;
use crate::mail::{Address, EnhancedStatus, Timestamp};
use crate::smtp::Reply;
use crate::smtp::client::{Outcome, Phase};
use crate::store::{AttemptRecord, Batch, Delivery};

/// The delay of `slow`.
pub const SLOW_DELAY: Duration = Duration::from_secs(5);
/// The delay of a retry; short, because a person waits for it.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The behaviour that a local part selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxScenario {
    /// Any other local part: delivered.
    Deliver,
    /// `bounce`, `bounce+5.2.2`: refused with this status.
    Bounce(EnhancedStatus),
    /// `defer+3`: deferred three times, then delivered.
    Defer(u32),
    /// `complaint`: delivered, then a complaint.
    Complaint,
    /// `late-bounce`, `late-bounce+5.2.2`: delivered, then a delivery status notification with this status.
    LateBounce(EnhancedStatus),
    /// `autoreply`: delivered, then an automatic reply.
    AutoReply,
    /// `suppressed`: refused as if it were on a suppression list.
    Suppressed,
    /// `slow`: delivered after [`SLOW_DELAY`].
    Slow,
}

impl SandboxScenario {
    /// Parses a recipient's local part, ignoring case.
    pub fn of(recipient: &Address) -> Self {
        let local = recipient.local().as_str().to_ascii_lowercase();
        let (word, tag) = match local.split_once('+') {
            Some((word, tag)) => (word, Some(tag)),
            None => (local.as_str(), None),
        };
        match (word, tag) {
            ("bounce", status) => failure(status).map_or(Self::Deliver, Self::Bounce),
            ("late-bounce", status) => failure(status).map_or(Self::Deliver, Self::LateBounce),
            ("autoreply", None) => Self::AutoReply,
            ("defer", Some(times)) => times.parse().map_or(Self::Deliver, Self::Defer),
            ("complaint", None) => Self::Complaint,
            ("suppressed", None) => Self::Suppressed,
            ("slow", None) => Self::Slow,
            _ => Self::Deliver,
        }
    }

    /// The reply of the simulated server, and the phase of its command.
    pub fn outcome(self, attempts: u32) -> Outcome {
        let (phase, code, enhanced, text) = match self {
            Self::Defer(times) if attempts < times => {
                let text = format!("deferral {} of {times}, as the address requests", attempts + 1);
                (Phase::Rcpt, 451, EnhancedStatus::new(4, 7, 1), text)
            }
            Self::Deliver
            | Self::Complaint
            | Self::LateBounce(_)
            | Self::AutoReply
            | Self::Slow
            | Self::Defer(_) => {
                (Phase::Content, 250, EnhancedStatus::new(2, 0, 0), "accepted by the sandbox".to_owned())
            }
            Self::Bounce(status) => {
                let code = if status.class == 4 { 450 } else { 550 };
                (Phase::Rcpt, code, status, "refused by the sandbox, as the address requests".to_owned())
            }
            Self::Suppressed => {
                let text = "[recipient_suppressed] the sandbox treats this address as suppressed".to_owned();
                (Phase::Rcpt, 550, EnhancedStatus::new(5, 7, 1), text)
            }
        };
        Outcome { phase, reply: Reply { code, enhanced: Some(enhanced), lines: vec![text] } }
    }

    /// Adds to the record the short retry delay.
    pub fn adjust(self, record: &mut AttemptRecord, delivery: &Delivery, now: Timestamp) {
        if let Some(next) = &mut record.next_attempt_at
            && matches!(self, Self::Defer(_))
        {
            *next = now.checked_add(RETRY_DELAY).unwrap_or(now);
            if let Some(attempt) = &mut record.attempt {
                attempt.reason = format!(
                    "deferred by 451 4.7.1: next attempt in 1 s (retry {}), the delay of the sandbox",
                    delivery.attempts + 1
                );
            }
        }
    }
}

/// The status that an address names, 5.1.1 if it names none. `None` if it names no failure.
fn failure(status: Option<&str>) -> Option<EnhancedStatus> {
    let status = status.map_or(Ok(EnhancedStatus::new(5, 1, 1)), str::parse);
    status.ok().filter(|status: &EnhancedStatus| status.class != 2)
}

/// The result for one recipient.
pub fn result_of(scenario: SandboxScenario, delivery: &Delivery) -> RecipientResult {
    let peer = Arc::new(Peer { host: "sandbox".into(), ..Peer::default() });
    RecipientResult::from_outcome(scenario.outcome(delivery.attempts), true, &peer)
}

/// The transcript of the simulated dialogue.
pub fn dialogue(batch: &Batch, delivery: &Delivery, outcome: &Outcome) -> String {
    let mut transcript = Transcript::default();
    let line = |code, text: &str| Reply { code, enhanced: None, lines: vec![text.to_owned()] };
    transcript.remark("sandbox: nothing leaves the machine");
    transcript.sent(&format!("MAIL FROM:<{}>", batch.message.reverse_path));
    transcript.received(&line(250, "ok"));
    transcript.sent(&format!("RCPT TO:<{}>", delivery.recipient));
    if outcome.phase == Phase::Content {
        transcript.received(&line(250, "ok"));
        transcript.sent("DATA");
        transcript.received(&line(354, "go ahead"));
        transcript.remark(&format!("the message, {} octets", batch.message.size));
    }
    transcript.received(&outcome.reply);
    transcript.into_text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::reply_verdict::{Verdict, verdict_on_reply};

    fn verdict(local: &str, attempts: u32) -> (&'static str, String) {
        let recipient = Address::parse(&format!("{local}@x.example")).unwrap();
        let outcome = SandboxScenario::of(&recipient).outcome(attempts);
        let status = outcome.reply.enhanced.map(|status| status.to_string()).unwrap_or_default();
        let verdict = match verdict_on_reply(outcome.phase, &outcome.reply, true) {
            Verdict::Delivered => "delivered",
            Verdict::Deferred { .. } => "deferred",
            Verdict::Bounced { suppress: true, .. } => "suppressed",
            Verdict::Bounced { suppress: false, .. } => "bounced",
        };
        (verdict, format!("{} {status}", outcome.reply.code))
    }

    #[test]
    fn the_local_part_chooses_the_outcome() {
        for (local, attempts, expected, status) in [
            ("anyone", 0, "delivered", "250 2.0.0"),
            ("bounce", 0, "suppressed", "550 5.1.1"),
            ("Bounce", 0, "suppressed", "550 5.1.1"),
            ("bounce+5.2.2", 0, "bounced", "550 5.2.2"),
            ("bounce+5.7.509", 0, "bounced", "550 5.7.509"),
            ("bounce+4.2.2", 0, "deferred", "450 4.2.2"),
            ("bounce+2.0.0", 0, "delivered", "250 2.0.0"),
            ("bounce+x", 0, "delivered", "250 2.0.0"),
            ("defer+2", 0, "deferred", "451 4.7.1"),
            ("defer+2", 1, "deferred", "451 4.7.1"),
            ("defer+2", 2, "delivered", "250 2.0.0"),
            ("defer", 0, "delivered", "250 2.0.0"),
            ("complaint", 0, "delivered", "250 2.0.0"),
            ("complaint+x", 0, "delivered", "250 2.0.0"),
            ("late-bounce", 0, "delivered", "250 2.0.0"),
            ("late-bounce+5.2.2", 0, "delivered", "250 2.0.0"),
            ("autoreply", 0, "delivered", "250 2.0.0"),
            ("suppressed", 0, "bounced", "550 5.7.1"),
            ("slow", 0, "delivered", "250 2.0.0"),
        ] {
            assert_eq!(verdict(local, attempts), (expected, status.to_owned()), "{local}");
        }
        let scenario =
            |local: &str| SandboxScenario::of(&Address::parse(&format!("{local}@x.example")).unwrap());
        assert_eq!(
            (scenario("complaint"), scenario("slow"), scenario("slow+1")),
            (SandboxScenario::Complaint, SandboxScenario::Slow, SandboxScenario::Deliver)
        );
        let full = SandboxScenario::LateBounce(EnhancedStatus::new(5, 2, 2));
        assert_eq!(
            (scenario("late-bounce+5.2.2"), scenario("Autoreply")),
            (full, SandboxScenario::AutoReply)
        );
        assert_eq!(scenario("late-bounce+2.0.0"), SandboxScenario::Deliver);
    }
}
