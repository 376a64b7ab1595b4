//! Rows of usage by key and domain that exist, so that adding to them costs no query.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::UsagePartRow;

/// Maximum of remembered rows. Beyond it all are forgotten.
const ROWS_MAX: usize = 10_000;

/// Committed rows of usage by key and domain.
#[derive(Default)]
pub(in crate::store) struct UsageParts(Mutex<HashSet<UsagePartRow>>);

impl UsageParts {
    /// Whether a row is known to exist.
    pub(in crate::store) fn contains(&self, row: &UsagePartRow) -> bool {
        self.0.lock().contains(row)
    }

    /// Remembers committed rows.
    pub(in crate::store) fn note(&self, rows: impl IntoIterator<Item = UsagePartRow>) {
        let mut known = self.0.lock();
        for row in rows {
            if known.len() >= ROWS_MAX {
                known.clear();
            }
            known.insert(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;
    use crate::model::{Environment, TenantId};

    #[test]
    fn the_number_of_rows_is_limited() {
        let parts = UsageParts::default();
        let tenant = TenantId::generate(Timestamp::UNIX_EPOCH);
        let row =
            |day: i64| (tenant, Timestamp::from_second(day * 86_400).unwrap(), Environment::Live, None, None);
        parts.note((0..=ROWS_MAX as i64).map(row));
        assert!(parts.contains(&row(ROWS_MAX as i64)) && !parts.contains(&row(0)));
        assert!(parts.0.lock().len() <= ROWS_MAX);
    }
}
