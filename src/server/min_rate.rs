//! Whether a message comes fast enough. A client that sends an octet now and then would hold its memory for an hour.

use std::time::Duration;

/// How fast a message has to come.
#[derive(Debug, Clone, Copy)]
pub struct MinRate {
    /// Octets in a second, on average; 0 for any.
    pub rate_min: u64,
    /// Time that is given in any case.
    pub grace: Duration,
}

/// How fast one comes. Only time spent waiting for the client counts.
#[derive(Debug, Default)]
pub struct TransferProgress {
    octets: u64,
    waited: Duration,
}

impl MinRate {
    /// How much longer the next octet may take to come; `None` for any time.
    pub fn patience(&self, progress: &TransferProgress) -> Option<Duration> {
        let millis = progress.octets.saturating_mul(1000).checked_div(self.rate_min)?;
        Some(self.grace.max(Duration::from_millis(millis)).saturating_sub(progress.waited))
    }
}

impl TransferProgress {
    /// So many octets came after so long a wait.
    pub fn note(&mut self, octets: usize, waited: Duration) {
        self.octets += octets as u64;
        self.waited += waited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_fast_earns_patience_and_what_drips_uses_it_up() {
        let pace = MinRate { rate_min: 1000, grace: Duration::from_secs(10) };
        let mut progress = TransferProgress::default();
        assert_eq!(pace.patience(&progress), Some(Duration::from_secs(10)));
        progress.note(100, Duration::from_secs(4));
        assert_eq!(pace.patience(&progress), Some(Duration::from_secs(6)));
        progress.note(59_900, Duration::from_secs(1));
        assert_eq!(pace.patience(&progress), Some(Duration::from_secs(55)));
        progress.note(1, Duration::from_secs(60));
        assert_eq!(pace.patience(&progress), Some(Duration::ZERO));
        assert_eq!(MinRate { rate_min: 0, ..pace }.patience(&progress), None);
    }
}
