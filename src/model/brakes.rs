//! Brakes: what stops the mail of a tenant whose bounces or complaints exceed a rate.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{BrakeAction, Ratio};
use crate::mail::SignedDuration;

/// Limits of the bounces and complaints of a tenant, and what happens above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Brakes {
    /// The largest share of bounced and expired among finished recipients, such as 0.05; `null` for no limit.
    pub bounce_rate: Option<Ratio>,
    /// The largest share of complaints among delivered recipients, such as 0.003; `null` for no limit.
    pub complaint_rate: Option<Ratio>,
    /// The time over which the rates are computed: `1h` to `720h`.
    pub window: BrakeWindow,
    /// Fewer finished recipients in the window have no rate, at least 1.
    pub min_recipients: u32,
    /// What happens above a rate.
    pub action: BrakeAction,
}

impl Brakes {
    /// Recipients without which there is no rate, unless the tenant has another number.
    pub const MIN_RECIPIENTS: u32 = 100;
}

/// A number of whole hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrakeWindow(u32);

impl BrakeWindow {
    const HOURS_MAX: i64 = 30 * 24;

    /// Its hours, from 1 to 720.
    pub fn hours(self) -> u32 {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let seconds = text.parse::<SignedDuration>().ok()?.as_secs();
        let hours = seconds / 3600;
        let is_right = seconds % 3600 == 0 && (1..=Self::HOURS_MAX).contains(&hours);
        is_right.then_some(Self(u32::try_from(hours).ok()?))
    }
}

impl Default for BrakeWindow {
    fn default() -> Self {
        Self(24)
    }
}

impl Serialize for BrakeWindow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}h", self.0))
    }
}

impl<'de> Deserialize<'de> for BrakeWindow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("this must be whole hours from `1h` to `720h`"))
    }
}

impl JsonSchema for BrakeWindow {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BrakeWindow".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "examples": ["24h"], "default": "24h" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_whole_hours_and_is_written_with_its_unit() {
        for (text, hours) in [("\"1h\"", 1), ("\"24h\"", 24), ("\"720h\"", 720), ("\"120m\"", 2)] {
            assert_eq!(serde_json::from_str::<BrakeWindow>(text).unwrap().hours(), hours);
        }
        for wrong in ["\"0h\"", "\"721h\"", "\"90m\"", "\"-1h\"", "\"soon\"", "24"] {
            assert!(serde_json::from_str::<BrakeWindow>(wrong).is_err(), "{wrong}");
        }
        let brakes = Brakes {
            bounce_rate: Ratio::new(0.05),
            complaint_rate: None,
            window: BrakeWindow::default(),
            min_recipients: Brakes::MIN_RECIPIENTS,
            action: BrakeAction::default(),
        };
        let written = r#"{"bounce_rate":0.05,"complaint_rate":null,"window":"24h","min_recipients":100,"action":"pause"}"#;
        assert_eq!(serde_json::to_string(&brakes).unwrap(), written);
        assert_eq!(serde_json::from_str::<Brakes>(written).unwrap(), brakes);
    }
}
