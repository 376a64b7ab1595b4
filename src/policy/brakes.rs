//! Whether the bounces or complaints of a tenant exceed the rates of its brakes.

use crate::model::{BrakeMetric, Brakes, Ratio};

/// Recipients whose delivery ended in the window.
#[derive(Debug, Clone, Copy, Default)]
pub struct FinishedRecipients {
    /// Delivered.
    pub delivered: u64,
    /// Bounced or expired.
    pub bounced: u64,
    /// Complained, after their delivery.
    pub complained: u64,
}

/// A rate above its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExceededRate {
    /// Which rate.
    pub metric: BrakeMetric,
    /// The rate.
    pub rate: Ratio,
    /// The limit.
    pub limit: Ratio,
    /// The recipients of which the rate is a share.
    pub recipients: u64,
}

/// The first rate above its limit.
pub fn exceeded(brakes: &Brakes, finished: FinishedRecipients) -> Option<ExceededRate> {
    let FinishedRecipients { delivered, bounced, complained } = finished;
    let metrics = [
        (BrakeMetric::BounceRate, brakes.bounce_rate, bounced, delivered + bounced),
        (BrakeMetric::ComplaintRate, brakes.complaint_rate, complained, delivered),
    ];
    metrics.into_iter().find_map(|(metric, limit, part, recipients)| {
        let (limit, rate) = (limit?, Ratio::of(part, recipients));
        let is_exceeded = rate > limit && recipients >= u64::from(brakes.min_recipients);
        is_exceeded.then_some(ExceededRate { metric, rate, limit, recipients })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BrakeAction, BrakeWindow};

    #[test]
    fn a_rate_is_exceeded_above_its_limit_and_only_with_enough_recipients() {
        let brakes = Brakes {
            bounce_rate: Ratio::new(0.1),
            complaint_rate: Ratio::new(0.01),
            window: BrakeWindow::default(),
            min_recipients: 10,
            action: BrakeAction::Pause,
        };
        let check = |delivered, bounced, complained| {
            let found = exceeded(&brakes, FinishedRecipients { delivered, bounced, complained });
            found.map(|found| (found.metric, found.rate.as_f64(), found.recipients))
        };
        assert_eq!(check(9, 1, 0), None, "equal is not above");
        assert_eq!(check(8, 2, 0), Some((BrakeMetric::BounceRate, 0.2, 10)));
        assert_eq!(check(0, 9, 0), None, "too few");
        assert_eq!(check(100, 0, 2), Some((BrakeMetric::ComplaintRate, 0.02, 100)));
        assert_eq!(check(9, 0, 9), None, "too few");
        assert_eq!(check(0, 0, 0), None);
        let only_complaints = Brakes { bounce_rate: None, ..brakes };
        let many = FinishedRecipients { delivered: 0, bounced: 50, complained: 0 };
        assert_eq!(exceeded(&only_complaints, many), None);
    }
}
