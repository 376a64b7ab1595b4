use super::super::smtp::proxy::{ProxyProgress, parse};

/// A header that is read as a connection reads it, by what is said to be missing, ends within its limit, never reaches
/// into what follows, and is the same when all of it is there at once.
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
