//! Durations as people write them: `30s`, `5m`, `1h 30m`.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// No clock overflows when so much is added to now.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    let fault = || D::Error::custom(format!("`{text}` is not a duration; examples: 30s, 5m, 72h"));
    let signed: jiff::SignedDuration = text.parse().map_err(|_| fault())?;
    let duration = Duration::try_from(signed).map_err(|_| fault())?;
    if duration > DURATION_MAX {
        return Err(D::Error::custom(format!("`{text}` is too long; the maximum is 87600h (ten years)")));
    }
    Ok(duration)
}
