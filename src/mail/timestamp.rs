//! A time in microseconds, the precision of the store. Every module writes the same time as the same text.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, TimestampArithmetic, Zoned};

/// A point in time. `Display` writes RFC 3339 in UTC with six digits after the second.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

/// The text is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this must be a time of RFC 3339 like 2026-01-31T12:00:00Z")]
pub struct TimestampError;

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(jiff::Timestamp::UNIX_EPOCH);
    /// The earliest time.
    pub const MIN: Self = Self(jiff::Timestamp::MIN);
    /// The latest time: the last second that microseconds can express.
    pub const MAX: Self = Self(jiff::Timestamp::constant(253_402_207_200, 0));

    /// The time this many seconds after 1970. Fails outside of the range.
    pub fn from_second(second: i64) -> Result<Self, jiff::Error> {
        jiff::Timestamp::from_second(second).map(Self)
    }

    /// The time this many milliseconds after 1970. Fails outside of the range.
    pub fn from_millisecond(millisecond: i64) -> Result<Self, jiff::Error> {
        jiff::Timestamp::from_millisecond(millisecond).map(Self)
    }

    /// The time this many microseconds after 1970. Fails outside of the range.
    pub fn from_microsecond(microsecond: i64) -> Result<Self, jiff::Error> {
        jiff::Timestamp::from_microsecond(microsecond).map(Self)
    }

    /// Seconds after 1970.
    pub fn as_second(self) -> i64 {
        self.0.as_second()
    }

    /// Milliseconds after 1970.
    pub fn as_millisecond(self) -> i64 {
        self.0.as_millisecond()
    }

    /// Microseconds after 1970.
    pub fn as_microsecond(self) -> i64 {
        self.0.as_microsecond()
    }

    /// Later by a duration; an error beyond the range of times.
    pub fn checked_add(self, duration: impl Into<TimestampArithmetic>) -> Result<Self, jiff::Error> {
        self.0.checked_add(duration).map(Self::from)
    }

    /// Earlier by a duration; an error beyond the range of times.
    pub fn checked_sub(self, duration: impl Into<TimestampArithmetic>) -> Result<Self, jiff::Error> {
        self.0.checked_sub(duration).map(Self::from)
    }

    /// Later by a duration, up to the last time.
    pub fn saturating_add(self, duration: impl Into<TimestampArithmetic>) -> Result<Self, jiff::Error> {
        self.0.saturating_add(duration).map(Self::from)
    }

    /// Earlier by a duration, down to the first time.
    pub fn saturating_sub(self, duration: impl Into<TimestampArithmetic>) -> Result<Self, jiff::Error> {
        self.0.saturating_sub(duration).map(Self::from)
    }

    /// The time since an earlier moment; negative if that is later.
    pub fn duration_since(self, earlier: Self) -> SignedDuration {
        self.0.duration_since(earlier.0)
    }

    /// The moment in a time zone.
    pub fn to_zoned(self, zone: TimeZone) -> Zoned {
        self.0.to_zoned(zone)
    }

    /// In UTC in a form of strftime.
    pub fn strftime<'f>(&self, form: &'f str) -> jiff::fmt::strtime::Display<'f> {
        self.0.strftime(form)
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(time: jiff::Timestamp) -> Self {
        Self(jiff::Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time))
    }
}

macro_rules! arithmetic {
    ($($duration:ty),*) => {$(
        impl Add<$duration> for Timestamp {
            type Output = Self;

            fn add(self, duration: $duration) -> Self {
                (self.0 + duration).into()
            }
        }

        impl Sub<$duration> for Timestamp {
            type Output = Self;

            fn sub(self, duration: $duration) -> Self {
                (self.0 - duration).into()
            }
        }

        impl AddAssign<$duration> for Timestamp {
            fn add_assign(&mut self, duration: $duration) {
                *self = *self + duration;
            }
        }

        impl SubAssign<$duration> for Timestamp {
            fn sub_assign(&mut self, duration: $duration) {
                *self = *self - duration;
            }
        }
    )*};
}
arithmetic!(SignedDuration, Duration);

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        text.parse::<jiff::Timestamp>().map(Self::from).map_err(|_| TimestampError)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(6);
        write!(f, "{:.digits$}", self.0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_one_text_with_microseconds() {
        for (text, written) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000000Z"),
            ("2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00.500000Z"),
            ("2026-01-31T14:00:00.123456789+02:00", "2026-01-31T12:00:00.123456Z"),
        ] {
            let time: Timestamp = text.parse().unwrap();
            assert_eq!(time.to_string(), written);
            assert_eq!(serde_json::to_value(time).unwrap(), written);
            assert_eq!(written.parse(), Ok(time));
            assert_eq!(Timestamp::from_microsecond(time.as_microsecond()).unwrap(), time);
        }
        assert_eq!("tomorrow".parse::<Timestamp>(), Err(TimestampError));
    }

    #[test]
    fn sums_and_differences_have_microseconds() {
        let later = Timestamp::UNIX_EPOCH + Duration::from_nanos(1_999);
        assert_eq!(later, Timestamp::from_microsecond(1).unwrap());
        assert_eq!(Timestamp::UNIX_EPOCH.checked_add(SignedDuration::from_nanos(1_999)).unwrap(), later);
        let end = Timestamp::MAX;
        assert_eq!(Timestamp::from_microsecond(end.as_microsecond()).unwrap(), end);
    }
}
