//! Counts what came back since the start.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::model::{RefusalCode, ReportEffect, ReportKind};

/// Numbers since the start.
#[derive(Debug, Clone, Default)]
pub struct ReturnCounts {
    /// Recorded reports.
    pub reports: BTreeMap<(ReportKind, ReportEffect), u64>,
    /// Refused recipients and messages, by the text of the code.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Proved addresses whose delivery or message was read from the store. Tests read it: a forged address costs no look-up.
    pub lookups: u64,
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct ReturnCounters(Mutex<ReturnCounts>);

impl ReturnCounters {
    pub(super) fn count_report(&self, kind: ReportKind, effect: ReportEffect) {
        let mut counts = self.0.lock();
        *counts.reports.entry((kind, effect)).or_default() += 1;
    }

    pub(super) fn count_refusal(&self, code: RefusalCode) {
        let mut counts = self.0.lock();
        *counts.refusals.entry(code.as_str()).or_default() += 1;
    }

    pub(super) fn count_lookup(&self) {
        self.0.lock().lookups += 1;
    }

    pub(super) fn read(&self) -> ReturnCounts {
        self.0.lock().clone()
    }
}
