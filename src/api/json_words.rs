//! What serde says about a value of the wrong type, in the words of JSON. Pure.

/// What a value must be; `None` if the text is not about that.
pub fn describe_mismatch(text: &str) -> Option<String> {
    let wrong_type = text.strip_prefix("invalid type: ");
    let (found, expected) =
        wrong_type.or_else(|| text.strip_prefix("invalid value: "))?.rsplit_once(", expected ")?;
    let expected = expected_value(expected);
    Some(match wrong_type {
        Some(_) => format!("this must be {expected}, not {}", found_value(found)),
        None => format!("this must be {expected}"),
    })
}

/// The type of a value that serde names together with the value.
fn found_value(text: &str) -> &str {
    match text.split(' ').next() {
        Some("boolean") => "a boolean",
        Some("integer") => "a number",
        Some("floating") => "a number with a fraction or an exponent",
        Some("string") => "a string",
        Some("sequence") => "an array",
        Some("map") => "an object",
        _ => text,
    }
}

fn expected_value(text: &str) -> String {
    let integer = |min: i128, max: i128| format!("an integer from {min} to {max}");
    match text {
        "a map" => "an object".into(),
        "a sequence" => "an array".into(),
        "f32" | "f64" => "a number".into(),
        "i8" => integer(i8::MIN.into(), i8::MAX.into()),
        "i16" => integer(i16::MIN.into(), i16::MAX.into()),
        "i32" => integer(i32::MIN.into(), i32::MAX.into()),
        "i64" | "isize" => integer(i64::MIN.into(), i64::MAX.into()),
        "u8" => integer(0, u8::MAX.into()),
        "u16" => integer(0, u16::MAX.into()),
        "u32" => integer(0, u32::MAX.into()),
        "u64" | "usize" => integer(0, u64::MAX.into()),
        "a nonzero u16" => integer(1, u16::MAX.into()),
        "a nonzero u32" => integer(1, u32::MAX.into()),
        "a nonzero u64" | "a nonzero usize" => integer(1, u64::MAX.into()),
        text if text.starts_with("struct ") => "an object".into(),
        text => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use bytes::Bytes;
    use serde::Deserialize;
    use serde_json::{Map, Value};

    use crate::api::json;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Body {
        flag: bool,
        port: u16,
        size: usize,
        count: Option<NonZeroU32>,
        names: Vec<String>,
        values: Map<String, Value>,
        inner: Option<Box<Body>>,
    }

    #[test]
    fn a_value_of_the_wrong_type_is_described_in_the_words_of_json() {
        for (text, expected) in [
            (r#"{"flag":"yes, expected"}"#, "flag: this must be a boolean, not a string"),
            (r#"{"flag":null}"#, "flag: this must be a boolean, not null"),
            (r#"{"port":"1"}"#, "port: this must be an integer from 0 to 65535, not a string"),
            (r#"{"port":-1}"#, "port: this must be an integer from 0 to 65535"),
            (r#"{"port":65536}"#, "port: this must be an integer from 0 to 65535"),
            (
                r#"{"port":1.5}"#,
                "port: this must be an integer from 0 to 65535, not a number with a fraction or an exponent",
            ),
            (r#"{"size":{}}"#, "size: this must be an integer from 0 to 18446744073709551615, not an object"),
            (r#"{"count":0}"#, "count: this must be an integer from 1 to 4294967295"),
            (r#"{"names":"a"}"#, "names: this must be an array, not a string"),
            (r#"{"names":["a",{}]}"#, "names[1]: this must be a string, not an object"),
            (r#"{"values":[]}"#, "values: this must be an object, not an array"),
            (r#"{"inner":[]}"#, "inner: this must be an object, not an array"),
            (
                r#"{"inner":{"port":true}}"#,
                "inner.port: this must be an integer from 0 to 65535, not a boolean",
            ),
            (r#"{"port":1,"port":2}"#, "port: this field is given twice"),
        ] {
            let error = json::parse::<Body>(&Bytes::copy_from_slice(text.as_bytes())).unwrap_err();
            assert_eq!(error.refusal.message, expected, "{text}");
        }
    }
}
