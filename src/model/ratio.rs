//! A number with six decimals, for shares and factors.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const MILLION: f64 = 1_000_000.0;

/// From 0 to 1000, rounded to millionths, so that equal numbers are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ratio(u32);

impl Ratio {
    const MAX: f64 = 1000.0;

    /// `None` if the number is out of range.
    pub fn new(number: f64) -> Option<Self> {
        // The range fits into 32 bits.
        (0.0..=Self::MAX).contains(&number).then(|| Self((number * MILLION).round() as u32))
    }

    /// The share of a part in a whole.
    pub fn of(part: u64, whole: u64) -> Self {
        Self::new(part as f64 / whole.max(1) as f64).unwrap_or(Self((Self::MAX * MILLION) as u32))
    }

    /// As a number.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / MILLION
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| de::Error::custom("this must be a number from 0 to 1000"))
    }
}

impl schemars::JsonSchema for Ratio {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ratio".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "number", "minimum": 0, "maximum": 1000 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_read_and_written_as_a_number_with_six_decimals() {
        for (text, written) in [("0.05", "0.05"), ("2", "2.0"), ("0.00000049", "0.0"), ("1000", "1000.0")] {
            let ratio: Ratio = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&ratio).unwrap(), written);
        }
        for wrong in ["-0.1", "1000.1", "\"1\"", "null"] {
            assert!(serde_json::from_str::<Ratio>(wrong).is_err(), "{wrong}");
        }
        assert_eq!((Ratio::of(1, 4).as_f64(), Ratio::of(5, 0).as_f64()), (0.25, 5.0));
    }
}
