use bytes::Bytes;
use pillarbox::mail::{HeaderBlock, Timestamp};
use pillarbox::model::MessageId;
use pillarbox::store::TenantSettings;
use pillarbox::submission::check_header;

const MESSAGE: &str = "msg_00000000000000000000000000";
/// What recipients must not see.
const REMOVED: &[&str] = &["Bcc", "Resent-Bcc", "Return-Path", "Idempotency-Key", "X-Pillarbox-List"];

/// A submitted message that passes the check has the same senders and the same body after the server has rewritten its header, which
/// passes the check again and needs no more changes.
pub fn rewrite(octets: &[u8]) {
    let message = super::as_content(octets);
    let Ok(header) = check_header(&message) else { return };
    let (id, now) = (MESSAGE.parse::<MessageId>().expect("an id"), Timestamp::UNIX_EPOCH);
    let whole = |header: &pillarbox::submission::CheckedHeader, message: &[u8]| {
        [header.missing_fields(id, now).as_bytes(), &header.rewrite(Bytes::copy_from_slice(message))].concat()
    };
    let rewritten = whole(&header, &message);
    let again = check_header(&rewritten).expect("the header of the server");
    assert_eq!((&again.from, &again.senders), (&header.from, &header.senders));
    assert!(REMOVED.iter().all(|name| !again.has(name)) && again.has("Date") && again.has("Message-ID"));
    assert!(again.missing_fields(id, now).is_empty());
    assert_eq!(whole(&again, &rewritten), rewritten);
    assert_eq!(body_of(&rewritten), body_of(&message));
    if header.refuse_duplicates().is_ok() {
        assert!(again.refuse_duplicates().is_ok());
    }
    let summary = header.summarize(&header.missing_fields(id, now), &message);
    for text in [summary.subject, summary.message_id].into_iter().flatten() {
        assert!(text.chars().count() <= 255, "{text}");
    }
    name_sender(&message, octets.first().copied().unwrap_or_default());
}

/// With the defaults of a tenant, the senders are the same.
fn name_sender(message: &[u8], choice: u8) {
    let names = ["Acme", "Acme, Inc. \"Shop\" <shop>", "Größe", "=?utf-8?q?x?="];
    let settings = TenantSettings {
        from_name: Some(names[usize::from(choice) % names.len()].to_owned()),
        reply_to: Some("help@acme.example".parse().expect("an address")),
        ..TenantSettings::default()
    };
    let Ok(mut header) = check_header(message) else { return };
    header.apply_defaults(message, &settings, choice & 4 != 0);
    let id = MESSAGE.parse::<MessageId>().expect("an id");
    let added = header.missing_fields(id, Timestamp::UNIX_EPOCH);
    let rewritten = [added.as_bytes(), &header.rewrite(Bytes::copy_from_slice(message))].concat();
    let again = check_header(&rewritten).expect("the header of the server");
    assert_eq!((again.from, again.senders), (header.from, header.senders));
    assert_eq!(body_of(&rewritten), body_of(message));
}

fn body_of(message: &[u8]) -> &[u8] {
    &message[HeaderBlock::scan(message, usize::MAX).expect("a header").end..]
}
