use pillarbox::mail::{Address, HeaderBlock, parse_mailbox_list, quote_display_name};

/// The fields of a header cover it without gaps, and every address of an accepted From field parses again from its wire form.
/// A display name that was quoted leaves one address.
pub fn headers(octets: &[u8]) {
    let message = super::as_content(octets);
    let Ok(block) = HeaderBlock::scan(&message, 64 * 1024) else { return };
    let mut at = 0;
    for field in &block.fields {
        assert_eq!(field.span.start, at);
        assert!(field.span.start < field.value.start && field.value.end == field.span.end);
        assert_eq!(message[field.value.start - 1], b':');
        assert_eq!(&message[field.span.start..field.value.start - 1], field.name.as_bytes());
        at = field.span.end;
    }
    assert_eq!(at, block.end);
    let rest = &message[block.end..];
    assert!(rest.is_empty() || rest.starts_with(b"\r\n"));

    let from: Vec<_> = block.named("From").collect();
    let [field] = from[..] else { return };
    let value = &message[field.value.clone()];
    if let Some(name) = quote_display_name(value) {
        assert_eq!(parse_mailbox_list(name.quoted.as_bytes()), Ok(vec![name.address]));
    }
    let Ok(mailboxes) = parse_mailbox_list(value) else { return };
    assert!(!mailboxes.is_empty());
    for mailbox in &mailboxes {
        assert_eq!(Address::parse(&mailbox.to_string()).as_ref(), Ok(mailbox));
    }
}
