//! Reads DSNs with an independent parser (RFC 3462, RFC 3464).

use mail_parser::{MessageParser, MimeHeaders, PartType};

/// Panics unless `content` is a DSN with this status of this recipient.
#[track_caller]
pub fn expect_report(content: &[u8], recipient: &str, action: &str, status: &str) {
    let shown = String::from_utf8_lossy(content);
    let message = MessageParser::default().parse(content).expect("a message");
    let kind = message.content_type().expect("a content type");
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")), "{shown}");
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"), "{shown}");
    for field in ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"] {
        assert!(message.header(field).is_some(), "{field} in {shown}");
    }
    assert_eq!(
        message.header_raw("Auto-Submitted").map(str::trim),
        Some("auto-replied"),
        "RFC 3834 §5: {shown}"
    );

    let status_part = message.parts.iter().find(|part| part.is_content_type("message", "delivery-status"));
    let body = match &status_part.unwrap_or_else(|| panic!("no status in {shown}")).body {
        PartType::Text(text) => text.to_string(),
        PartType::Binary(octets) | PartType::InlineBinary(octets) => {
            String::from_utf8(octets.to_vec()).unwrap()
        }
        other => panic!("{other:?}"),
    };
    let groups: Vec<&str> = body.trim().split("\r\n\r\n").collect();
    assert!(value(groups[0], "Reporting-MTA").is_some_and(|mta| mta.starts_with("dns;")), "{body}");
    let of_recipient = groups[1..].iter().find(|group| {
        value(group, "Final-Recipient")
            .is_some_and(|value| value.replace(' ', "") == format!("rfc822;{recipient}"))
    });
    let group = of_recipient.unwrap_or_else(|| panic!("nothing about {recipient} in {body}"));
    assert_eq!(value(group, "Action").as_deref(), Some(action), "{body}");
    assert_eq!(value(group, "Status").as_deref(), Some(status), "{body}");
}

fn value(group: &str, name: &str) -> Option<String> {
    let fields = group.lines().filter_map(|line| line.split_once(':'));
    let mut found = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim().to_owned())
}
