//! The minimum transfer rate of message data. Without it, a client that sends single octets would occupy memory for an
//! hour.

use std::time::Duration;

/// The minimum transfer rate.
#[derive(Debug, Clone, Copy)]
pub struct MinRate {
    /// Minimum of octets per second on average; 0 for none.
    pub rate_min: u64,
    /// The time allowed at any rate.
    pub grace: Duration,
}

/// The transfer so far. Only time spent waiting for the client counts.
#[derive(Debug, Default)]
pub struct TransferProgress {
    octets: u64,
    waited: Duration,
}

impl MinRate {
    /// How long to wait for the next octets; `None` without a limit.
    pub fn time_left(&self, transfer: &TransferProgress) -> Option<Duration> {
        let millis = transfer.octets.saturating_mul(1000).checked_div(self.rate_min)?;
        Some(self.grace.max(Duration::from_millis(millis)).saturating_sub(transfer.waited))
    }
}

impl TransferProgress {
    /// Adds octets received, and the time waited for them.
    pub fn add(&mut self, octets: usize, waited: Duration) {
        self.octets += octets as u64;
        self.waited += waited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_transfers_extend_the_deadline_and_slow_ones_use_it_up() {
        let pace = MinRate { rate_min: 1000, grace: Duration::from_secs(10) };
        let mut transfer = TransferProgress::default();
        assert_eq!(pace.time_left(&transfer), Some(Duration::from_secs(10)));
        transfer.add(100, Duration::from_secs(4));
        assert_eq!(pace.time_left(&transfer), Some(Duration::from_secs(6)));
        transfer.add(59_900, Duration::from_secs(1));
        assert_eq!(pace.time_left(&transfer), Some(Duration::from_secs(55)));
        transfer.add(1, Duration::from_secs(60));
        assert_eq!(pace.time_left(&transfer), Some(Duration::ZERO));
        assert_eq!(MinRate { rate_min: 0, ..pace }.time_left(&transfer), None);
    }
}
