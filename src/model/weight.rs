//! The weight of a tenant in fair sharing.

use serde::{Deserialize, Serialize};

/// From 1 to 100; 10 by default. Twice the weight means twice the share of a scarce resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u32);

/// The number is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a weight must be from 1 to 100")]
pub struct WeightError;

impl Default for Weight {
    fn default() -> Self {
        Self(10)
    }
}

impl TryFrom<u32> for Weight {
    type Error = WeightError;

    fn try_from(number: u32) -> Result<Self, WeightError> {
        if (1..=100).contains(&number) { Ok(Self(number)) } else { Err(WeightError) }
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

impl schemars::JsonSchema for Weight {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Weight".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "integer",
            "description": "A tenant's share of scarce resources: twice the weight means twice the share.",
            "minimum": 1,
            "maximum": 100,
            "default": 10,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_from_one_to_a_hundred() {
        assert_eq!(serde_json::from_str::<Weight>("100").ok(), Weight::try_from(100).ok());
        for wrong in ["0", "101", "-1", "1.5", "\"5\""] {
            assert!(serde_json::from_str::<Weight>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(serde_json::to_string(&Weight::default()).unwrap(), "10");
    }
}
