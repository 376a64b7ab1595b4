//! How often what was refused, since the start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::RefusalCode;

/// Counts by code.
pub struct RejectionCounters([AtomicU64; RefusalCode::ALL.len()]);

impl RejectionCounters {
    /// Nothing was refused.
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Counts one.
    pub fn note(&self, code: RefusalCode) {
        if let Some(count) = self.0.get(code as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those that there were; codes that share a text are one.
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
