use super::super::smtp::proxy::{ProxyProgress, parse};

/// A header that is read by the number of missing octets ends within its limit, never reads octets after its end, and
/// is the same if all octets are there at once.
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
