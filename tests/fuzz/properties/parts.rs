use pillarbox::api::parsing::view_parts;
use pillarbox::model::MessageId;
use serde_json::Value;

const MESSAGE: &str = "msg_00000000000000000000000000";

/// The parts of a stored message are shown within their limits, and the name of a file is a name only.
pub fn parts(octets: &[u8]) {
    let view = view(octets);
    assert_eq!(view["octets"], octets.len());
    let (headers, parts) = (items(&view, "headers"), items(&view, "parts"));
    assert!(headers.len() <= 200 && (1..=200).contains(&parts.len()));
    for name in ["text", "html"] {
        assert!(view[name].as_str().is_none_or(|text| text.len() <= 512 * 1024));
    }
    for (number, part) in parts.iter().enumerate() {
        assert_eq!(part["part"], number);
        let name = part["name"].as_str().unwrap_or("file");
        assert!(!name.is_empty() && name != ".." && !name.contains(['/', '\\']), "{name:?}");
        assert!(!name.contains(char::is_control) && name.chars().count() <= 200, "{name:?}");
    }
}

/// What the API shows of a message.
pub fn view(octets: &[u8]) -> Value {
    let id = MESSAGE.parse::<MessageId>().expect("an id");
    serde_json::to_value(view_parts(id, octets)).expect("JSON")
}

pub fn items<'a>(view: &'a Value, name: &str) -> &'a [Value] {
    view[name].as_array().expect("an array")
}
