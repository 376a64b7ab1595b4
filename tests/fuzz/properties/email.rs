use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use pillarbox::api::SendLimits;
use pillarbox::api::parsing::{EmailRequest, Mailboxes, Terms, parse_body};
use pillarbox::mail::{Address, HeaderBlock, Timestamp, parse_mailbox_list};
use pillarbox::store::TenantSettings;
use serde_json::Value;

use super::parts;

const RECIPIENTS_MAX: usize = 20;
/// RFC 5322 §2.1.1.
const LINE_OCTETS_MAX: usize = 998;
/// Fields of the body part.
const PART_FIELDS: &[&str] = &["content-transfer-encoding", "content-type"];

/// A request that is valid makes one message in the form of RFC 5322. It has exactly the fields, the addresses, the texts and
/// the files of the request, whatever stands in them.
pub fn email(octets: &[u8]) {
    let body = Bytes::copy_from_slice(octets);
    let Ok(request) = parse_body::<EmailRequest>(&body) else { return };
    let asked: EmailRequest = parse_body(&body).expect("the same body");
    let defaults = TenantSettings {
        from: Some("shop@own.example".parse().expect("an address")),
        ..TenantSettings::default()
    };
    let limits = SendLimits { recipients_max: RECIPIENTS_MAX, message_octets_max: 1_000_000 };
    let terms = Terms {
        defaults: &defaults,
        limits: &limits,
        lifetime_max: Duration::from_secs(5 * 24 * 3600),
        now: Timestamp::from_second(1_800_000_000).expect("a time"),
    };
    let draft = match request.resolve(&terms) {
        Ok(draft) => draft,
        Err(faults) => {
            assert!(!faults.is_empty());
            for fault in faults {
                assert!(!fault.path.contains(char::is_control) && !fault.message.contains(char::is_control), "{fault:?}");
            }
            return;
        }
    };
    let from = asked.from.as_ref().map_or(defaults.from.as_ref(), |from| Some(&from.address));
    assert_eq!(Some(&draft.sender), from);
    check_recipients(&asked, &draft.recipients);
    let message = draft.mime.compose();
    check_lines(&message);
    check_header(&asked, &draft.sender, &message);
    check_parts(&asked, &parts::view(&message));
}

fn check_recipients(asked: &EmailRequest, recipients: &[Address]) {
    let lists = [&asked.to, &asked.cc, &asked.bcc];
    let all: BTreeSet<String> = lists.into_iter().flat_map(addresses_of).map(|address| address.to_string()).collect();
    let found: BTreeSet<String> = recipients.iter().map(ToString::to_string).collect();
    assert_eq!(found, all);
    assert!(recipients.len() == all.len() && (1..=RECIPIENTS_MAX).contains(&all.len()));
}

fn addresses_of(mailboxes: &Mailboxes) -> impl Iterator<Item = &Address> {
    mailboxes.0.iter().map(|mailbox| &mailbox.address)
}

fn check_lines(message: &[u8]) {
    let text = message.strip_suffix(b"\r\n").unwrap_or(message);
    assert!(!message.contains(&0));
    for line in text.split(|&octet| octet == b'\n') {
        assert!(line.strip_suffix(b"\r").unwrap_or(line).len() <= LINE_OCTETS_MAX, "{}", line.escape_ascii());
    }
    let is_line_end = |at: usize| match message[at] {
        b'\r' => message.get(at + 1) == Some(&b'\n'),
        b'\n' => at > 0 && message[at - 1] == b'\r',
        _ => true,
    };
    assert!((0..message.len()).all(is_line_end), "{}", message.escape_ascii());
}

/// No text of the request makes a field, and no name an address.
fn check_header(asked: &EmailRequest, from: &Address, message: &[u8]) {
    let block = HeaderBlock::scan(message, usize::MAX).expect("a header");
    let mut expected: Vec<String> = vec!["from".into(), "to".into(), "subject".into(), "mime-version".into()];
    let optional = [("cc", &asked.cc), ("reply-to", &asked.reply_to)];
    expected.extend(optional.iter().filter(|(_, list)| !list.0.is_empty()).map(|(name, _)| (*name).to_owned()));
    if asked.to.0.is_empty() && !asked.cc.0.is_empty() {
        expected.retain(|name| name != "to");
    }
    expected.extend(asked.headers.keys().map(|name| name.to_ascii_lowercase()));
    expected.sort();
    let mut names: Vec<String> = block.fields.iter().map(|field| field.name.to_ascii_lowercase()).collect();
    names.sort();
    assert_eq!(names.iter().filter(|name| *name == "content-type").count(), 1);
    names.retain(|name| !PART_FIELDS.contains(&name.as_str()));
    assert_eq!(names, expected);

    let list_of = |name: &str| {
        let field = block.named(name).next()?;
        Some(parse_mailbox_list(&message[field.value.clone()]).map_err(|error| format!("{name}: {error}")))
    };
    assert_eq!(list_of("From"), Some(Ok(vec![from.clone()])));
    for (name, list) in [("To", &asked.to), ("Cc", &asked.cc), ("Reply-To", &asked.reply_to)] {
        if !list.0.is_empty() {
            assert_eq!(list_of(name), Some(Ok(addresses_of(list).cloned().collect())));
        }
    }
}

/// Our own reader finds the subject, the texts and the files.
fn check_parts(asked: &EmailRequest, view: &Value) {
    let subject = parts::items(view, "headers").iter().find(|field| field["name"] == "Subject");
    let subject = subject.and_then(|field| field["value"].as_str()).unwrap_or_default();
    assert_eq!(words_of(subject), words_of(asked.subject.as_deref().unwrap_or_default()));
    for (name, text) in [("text", &asked.text), ("html", &asked.html)] {
        if let Some(text) = text {
            assert_eq!(view[name].as_str().map(lines_of), Some(lines_of(text)), "{name}");
        }
    }
    let bodies = usize::from(asked.text.is_some()) + usize::from(asked.html.is_some());
    let found = parts::items(view, "parts");
    assert_eq!(found.len(), bodies + asked.attachments.len());
    let octets_of = |base64: &str| {
        let digits = base64.bytes().filter(|octet| !b"\r\n".contains(octet)).count();
        (digits / 4 * 3 - base64.bytes().filter(|&octet| octet == b'=').count()) as u64
    };
    let mut sizes: Vec<u64> = asked.attachments.iter().map(|file| octets_of(&file.content)).collect();
    let mut found: Vec<u64> = found[bodies..].iter().filter_map(|part| part["octets"].as_u64()).collect();
    sizes.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, sizes);
}

fn words_of(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn lines_of(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").trim_end().to_owned()
}
