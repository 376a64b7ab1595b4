//! Counts refusals by code since the start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::RefusalCode;

/// Counters by code.
pub struct RejectionCounters([AtomicU64; RefusalCode::ALL.len()]);

impl RejectionCounters {
    /// All counters at zero.
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Adds one.
    pub fn increment(&self, code: RefusalCode) {
        if let Some(count) = self.0.get(code as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counters that are not zero, by the text of the code.
    pub fn read(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for (code, count) in RefusalCode::ALL.iter().zip(&self.0) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                *sums.entry(code.as_str()).or_default() += count;
            }
        }
        sums
    }
}
