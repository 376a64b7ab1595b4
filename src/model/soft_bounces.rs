//! When an address is suppressed that no delivery reaches, though nobody says that it is gone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many deliveries to an address must fail, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SoftBounces {
    /// The least number of failed deliveries without a success, 2 to 50.
    pub messages: u32,
    /// The least days since the first of them, 1 to 90.
    pub days: u32,
}

impl SoftBounces {
    /// Accepted numbers of messages.
    pub const MESSAGES: std::ops::RangeInclusive<u32> = 2..=50;
    /// Accepted numbers of days.
    pub const DAYS: std::ops::RangeInclusive<u32> = 1..=90;
}
