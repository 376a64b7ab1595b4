//! How the pages of a tenant look.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How the pages of a tenant look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Brand {
    /// The name in place of Pillarbox: one line of at most 60 characters.
    pub name: Option<String>,
    /// The accent colour, like `#0b57a4`.
    pub color: Option<Color>,
}

/// A colour: red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Color([u8; 3]);

/// The text is not a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this must be a colour like #0b57a4")]
pub struct ColorError;

impl Color {
    const BLACK: Self = Self([0; 3]);
    const WHITE: Self = Self([255; 3]);

    /// The colour of text on this one: black or white, whichever has more contrast. It is at least 4.5:1 (WCAG 2 §1.4.3).
    pub fn text(self) -> Self {
        let luminance = self.luminance();
        // Contrast with black and with white (WCAG 2, "contrast ratio").
        if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) { Self::BLACK } else { Self::WHITE }
    }

    /// The relative luminance (WCAG 2), from 0 for black to 1 for white.
    fn luminance(self) -> f64 {
        let linear = |octet: u8| match f64::from(octet) / 255.0 {
            low if low <= 0.04045 => low / 12.92,
            high => ((high + 0.055) / 1.055).powf(2.4),
        };
        let Self([red, green, blue]) = self;
        0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
    }
}

impl FromStr for Color {
    type Err = ColorError;
    fn from_str(text: &str) -> Result<Self, ColorError> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6).ok_or(ColorError)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(ColorError);
        }
        let value = u32::from_str_radix(digits, 16).map_err(|_| ColorError)?;
        let [_, red, green, blue] = value.to_be_bytes();
        Ok(Self([red, green, blue]))
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([red, green, blue]) = self;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

impl Serialize for Color {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Color {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Color {
    fn schema_name() -> Cow<'static, str> {
        "Color".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A colour: `#` and six hexadecimal digits.",
            "pattern": "^#[0-9a-fA-F]{6}$",
            "examples": ["#0b57a4"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_has_six_digits_and_a_text_colour_with_enough_contrast() {
        let text = |colour: &str| colour.parse::<Color>().map(|colour| colour.text().to_string());
        assert_eq!("#0B57a4".parse::<Color>().unwrap().to_string(), "#0b57a4");
        assert_eq!(text("#0b57a4").unwrap(), "#ffffff");
        assert_eq!(text("#ffcc00").unwrap(), "#000000");
        for wrong in ["", "#fff", "0b57a4", "#0b57a4f", "#0b57ag", "#+b57a4", "#0b57a\u{e9}"] {
            assert_eq!(text(wrong), Err(ColorError), "{wrong}");
        }
        for grey in 0..=255 {
            let ground = Color([grey; 3]);
            let (a, b) = (ground.luminance(), ground.text().luminance());
            assert!((a.max(b) + 0.05) / (a.min(b) + 0.05) >= 4.5, "{ground}");
        }
    }
}
