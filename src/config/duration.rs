//! Durations as text: `30s`, `5m`, `1h 30m`.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Upper bound, so that adding a duration to the time never overflows.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    let invalid = || D::Error::custom(format!("`{text}` is not a duration; write it like 30s, 5m or 72h"));
    let signed: jiff::SignedDuration = text.parse().map_err(|_| invalid())?;
    let duration = Duration::try_from(signed).map_err(|_| invalid())?;
    if duration > DURATION_MAX {
        return Err(D::Error::custom(format!("`{text}` is too long; at most 87600h, ten years")));
    }
    Ok(duration)
}
