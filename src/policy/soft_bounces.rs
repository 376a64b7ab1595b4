//! Whether an address has been unreachable for so long that mail to it is pointless.

use crate::mail::{SignedDuration, Timestamp};
use crate::model::{BounceClass, DeliveryState, SoftBounces};

/// How long the address is suppressed.
pub const SUPPRESSED_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);
/// The last deliveries to an address that are examined.
pub const EXAMINED_MAX: usize = 1_000;

/// What the end of a delivery says about the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// It took the mail.
    Reached,
    /// It could not be reached, for no fault of the sender.
    Unreached,
    /// Nothing: the sender or its server was the cause, or no attempt was made.
    Inconclusive,
}

/// A run of failed deliveries to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureRun {
    /// Failed deliveries.
    pub messages: u32,
    /// When the first of them ended.
    pub since: Timestamp,
}

/// What a finished delivery says about its address.
pub fn end_of(state: DeliveryState, class: Option<BounceClass>, attempts: u32) -> DeliveryEnd {
    match (state, class) {
        (DeliveryState::Delivered, _) => DeliveryEnd::Reached,
        (DeliveryState::Bounced, Some(BounceClass::MailboxFull | BounceClass::Expired)) => {
            DeliveryEnd::Unreached
        }
        // A block list, a rate limit or a login concerns this server, and would suppress everybody.
        (
            DeliveryState::Expired,
            Some(
                BounceClass::MailboxFull
                | BounceClass::RecipientUnknown
                | BounceClass::RecipientInactive
                | BounceClass::Temporary
                | BounceClass::Network
                | BounceClass::Dns
                | BounceClass::Expired
                | BounceClass::Unclassified,
            ),
        ) if attempts > 0 => DeliveryEnd::Unreached,
        _ => DeliveryEnd::Inconclusive,
    }
}

/// The run of failures up to now, if it is as long as the tenant wants. `ends`: the newest first.
pub fn too_many(
    limit: SoftBounces,
    ends: impl IntoIterator<Item = (DeliveryEnd, Timestamp)>,
    now: Timestamp,
) -> Option<FailureRun> {
    let since_last_success = ends.into_iter().take_while(|(end, _)| *end != DeliveryEnd::Reached);
    let failed = since_last_success.filter(|(end, _)| *end == DeliveryEnd::Unreached);
    let run = failed.fold(None, |run: Option<FailureRun>, (_, at)| {
        let messages = run.map_or(0, |run| run.messages) + 1;
        Some(FailureRun { messages, since: run.map_or(at, |run| run.since.min(at)) })
    })?;
    let days = SignedDuration::from_hours(24 * i64::from(limit.days));
    let is_long = now.duration_since(run.since) >= days;
    (run.messages >= limit.messages && is_long).then_some(run)
}

#[cfg(test)]
mod tests {
    use super::DeliveryEnd::{Inconclusive, Reached, Unreached};
    use super::*;

    #[test]
    fn an_address_is_unreached_if_enough_deliveries_failed_for_long_enough_without_a_success() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let limit = SoftBounces { messages: 3, days: 14 };
        for (ends, expected) in [
            (vec![(Unreached, 0), (Unreached, 7), (Unreached, 14)], Some((3, 14))),
            (vec![(Unreached, 0), (Unreached, 7), (Unreached, 13)], None),
            (vec![(Unreached, 0), (Unreached, 14)], None),
            (vec![(Unreached, 0), (Reached, 1), (Unreached, 7), (Unreached, 14)], None),
            (
                vec![(Unreached, 0), (Inconclusive, 1), (Unreached, 7), (Unreached, 20), (Reached, 21)],
                Some((3, 20)),
            ),
            (vec![(Inconclusive, 0), (Inconclusive, 7), (Inconclusive, 14)], None),
            (vec![], None),
        ] {
            let times = ends.iter().map(|(end, days)| (*end, now - SignedDuration::from_hours(24 * days)));
            let expected = expected.map(|(messages, days): (u32, i64)| FailureRun {
                messages,
                since: now - SignedDuration::from_hours(24 * days),
            });
            assert_eq!(too_many(limit, times, now), expected, "{ends:?}");
        }
    }

    #[test]
    fn only_failures_for_which_the_sender_is_not_the_cause_count() {
        use BounceClass as Class;
        use DeliveryState as State;
        for (state, class, attempts, end) in [
            (State::Delivered, None, 1, Reached),
            (State::Bounced, Some(Class::MailboxFull), 1, Unreached),
            (State::Bounced, Some(Class::Expired), 1, Unreached),
            (State::Bounced, Some(Class::Policy), 1, Inconclusive),
            (State::Bounced, Some(Class::Content), 1, Inconclusive),
            (State::Expired, Some(Class::MailboxFull), 9, Unreached),
            (State::Expired, Some(Class::Temporary), 9, Unreached),
            (State::Expired, Some(Class::Network), 9, Unreached),
            (State::Expired, Some(Class::Reputation), 9, Inconclusive),
            (State::Expired, Some(Class::RateLimited), 9, Inconclusive),
            (State::Expired, Some(Class::Authentication), 9, Inconclusive),
            // A paused tenant.
            (State::Expired, Some(Class::Expired), 0, Inconclusive),
            (State::Cancelled, None, 2, Inconclusive),
        ] {
            assert_eq!(end_of(state, class, attempts), end, "{state} {class:?} {attempts}");
        }
    }
}
