use pillarbox::api::template_language::{Engine, Form, check, from_object};
use serde_json::json;

const TEXT_OCTETS_MAX: usize = 1024 * 1024;

/// No source aborts the process, a source that `check` refuses is never rendered, and a rendered text stays within its limit.
/// In HTML, data makes no markup unless the source says `safe`.
pub fn template(octets: &[u8]) {
    let Ok(source) = std::str::from_utf8(octets) else { return };
    let serde_json::Value::Object(data) = json!({
        "x": -1, "f": 2.5, "s": "a<b", "t": true, "n": null, "big": u64::MAX,
        "l": [3, "a", [1, {"a<": null}], "<", ">"], "m": {"a": {"b": [1]}, "b": "c>"},
    }) else {
        return;
    };
    let (data, is_template) = (from_object(data), check(source).is_ok());
    for form in [Form::Text, Form::Html] {
        let engine = Engine::default();
        match engine.compile(source, form).and_then(|part| part.render(&data)) {
            Ok(text) => {
                assert!(is_template && text.len() <= TEXT_OCTETS_MAX);
                let is_escaped = form == Form::Html && !source.contains("safe");
                for mark in ['<', '>'].into_iter().filter(|mark| is_escaped && !source.contains(*mark)) {
                    assert!(!text.contains(mark), "{text}");
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
