use pillarbox::smtp::proxy::{ProxyProgress, parse};

/// Reads a header as a connection does, by the number of missing octets. It must end within its limit, must not include
/// octets behind it, and must be the same as from the complete input.
pub fn proxy(octets: &[u8]) {
    let mut taken = 0;
    loop {
        match parse(&octets[..taken]) {
            Ok(ProxyProgress::Missing(missing)) => {
                assert!(missing > 0 && taken + missing <= 16 + 2048, "{taken} and {missing} more");
                taken += missing;
                if taken > octets.len() {
                    return;
                }
            }
            Ok(ProxyProgress::Complete { octets: length, client }) => {
                assert_eq!(
                    (length, parse(octets)),
                    (taken, Ok(ProxyProgress::Complete { octets: length, client }))
                );
                return;
            }
            Err(error) => return assert_eq!(parse(octets), Err(error)),
        }
    }
}
