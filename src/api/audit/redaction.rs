//! What the audit log leaves out of an object: secrets, and what makes it long.

use serde_json::{Value, json};

use crate::store::AUDIT_OBJECT_OCTETS_MAX;

/// Fields that contain secrets, wherever they are.
const SECRETS: [&str; 6] = ["secret", "password", "pass", "private_key", "token", "authorization"];
/// Octets of a text; a template may have megabytes.
const TEXT_OCTETS_MAX: usize = 1024;
const ITEMS_MAX: usize = 50;

/// The object without secrets, long texts shortened.
pub fn redact(object: Value, concealed: &[&str]) -> Value {
    let redacted = shorten(object, concealed);
    if redacted.to_string().len() <= AUDIT_OBJECT_OCTETS_MAX {
        return redacted;
    }
    let kept = ["object", "id", "name", "slug", "tenant_id", "address"];
    let kept = kept.into_iter().filter_map(|field| Some((field.to_owned(), redacted.get(field)?.clone())));
    let mut short = Value::Object(kept.collect());
    short["truncated"] = json!(true);
    short
}

fn shorten(value: Value, concealed: &[&str]) -> Value {
    let is_secret = |name: &str| SECRETS.contains(&name) || concealed.contains(&name);
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().map(|(name, value)| {
                match is_secret(&name) && !value.is_null() && !value.is_boolean() {
                    true => (name, json!("concealed")),
                    false => (name, shorten(value, concealed)),
                }
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => {
            Value::Array(items.into_iter().take(ITEMS_MAX).map(|item| shorten(item, concealed)).collect())
        }
        Value::String(text) if text.len() > TEXT_OCTETS_MAX => {
            let end = text.floor_char_boundary(TEXT_OCTETS_MAX);
            json!(format!("{}… ({} octets)", &text[..end], text.len()))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_concealed_at_any_depth_and_the_rest_stays() {
        let object = json!({"secret": "s", "list": [{"password": "p", "url": "u", "token": null, "secret": true}], "name": "n"});
        let expected = json!({"secret": "concealed", "list": [{"password": "concealed", "url": "concealed", "token": null, "secret": true}], "name": "n"});
        assert_eq!(redact(object, &["url"]), expected);
    }

    #[test]
    fn what_is_long_is_shortened() {
        let text = "é".repeat(2000);
        let short = redact(json!({"text": text, "items": vec![1; 80]}), &[]);
        assert_eq!(
            short["text"].as_str().map(|text| text.ends_with("é… (4000 octets)")),
            Some(true),
            "{short}"
        );
        assert_eq!(short["items"].as_array().map(Vec::len), Some(ITEMS_MAX));
        let fields = (0..40).map(|number| (number.to_string(), json!("x".repeat(1000))));
        let mut long = Value::Object(fields.collect());
        long["id"] = json!("dom_1");
        assert_eq!(redact(long, &[]), json!({"id": "dom_1", "truncated": true}));
    }
}
