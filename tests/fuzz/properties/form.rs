use pillarbox::web::form::read;

/// Octets of the value that unsubscribes.
const VALUE: &[u8] = b"One-Click";

/// The first line of the input is the Content-Type. A form without one is URL-encoded. Nothing unsubscribes without the value of
/// RFC 8058.
pub fn form(octets: &[u8]) {
    let (kind, body) = match octets.iter().position(|&octet| octet == b'\n') {
        Some(end) => (&octets[..end], &octets[end + 1..]),
        None => (&b""[..], octets),
    };
    let kind = std::str::from_utf8(kind).ok();
    let read_form = kind.and_then(|kind| read(Some(kind), body));
    let plain = read(None, body);
    assert_eq!(plain, read(Some("Application/x-www-form-urlencoded ; charset=utf-8"), body));
    for form in [read_form, plain].into_iter().flatten() {
        assert!(form.is_from_page || !form.every_list);
        let has_value = body.windows(VALUE.len()).any(|octets| octets == VALUE);
        assert!(has_value || body.contains(&b'%'), "{}", body.escape_ascii());
    }
}
