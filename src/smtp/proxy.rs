//! Parses the header of the PROXY protocol, versions 1 and 2: the client's address, which a load balancer sends before
//! the first octet of the client. Specified in HAProxy's `proxy-protocol.txt`. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Section 2.2: the signature of version 2.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_SIGNATURE: &[u8] = b"PROXY ";
/// The shortest header: `PROXY UNKNOWN` and CRLF. A header of version 2 is longer.
const SHORTEST_OCTETS: usize = 15;
/// Section 2.1: the longest header of version 1.
const V1_OCTETS_MAX: usize = 107;
const V2_FIXED_OCTETS: usize = 16;
/// Addresses need at most 216 octets. TLVs may follow; they are ignored.
const V2_VARIABLE_OCTETS_MAX: usize = 2048;

/// The result of parsing the octets received so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProgress {
    /// At least this many octets are missing. A caller that reads only this many never reads beyond the header.
    Missing(usize),
    /// The header is complete.
    Complete {
        /// The length of the header.
        octets: usize,
        /// The client's address; `None` if the proxy connects on its own behalf or does not know the address.
        client: Option<IpAddr>,
    },
}

/// Why the header is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The connection does not begin with a header: the proxy is not configured to send one.
    #[error("the connection does not begin with a PROXY header")]
    Absent,
    /// The header is longer than the limit.
    #[error("the PROXY header is too long")]
    TooLong,
    /// The header does not match the grammar, or has an unknown version.
    #[error("the PROXY header is malformed")]
    Malformed,
}

/// Parses a header at the start of a connection.
///
/// # Errors
/// [`ProxyError`] if the octets cannot be the start of a header.
pub fn parse(header: &[u8]) -> Result<ProxyProgress, ProxyError> {
    if share_a_prefix(header, V2_SIGNATURE) && !header.is_empty() {
        return parse_v2(header);
    }
    if !share_a_prefix(header, V1_SIGNATURE) {
        return Err(ProxyError::Absent);
    }
    match header.len() {
        short if short < SHORTEST_OCTETS => Ok(ProxyProgress::Missing(SHORTEST_OCTETS - short)),
        _ => parse_v1(header),
    }
}

/// Whether one of the two is a prefix of the other.
fn share_a_prefix(header: &[u8], signature: &[u8]) -> bool {
    header.iter().zip(signature).all(|(a, b)| a == b)
}

fn parse_v1(header: &[u8]) -> Result<ProxyProgress, ProxyError> {
    let window = &header[..header.len().min(V1_OCTETS_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return match (window.len(), window.ends_with(b"\r")) {
            (V1_OCTETS_MAX, _) => Err(ProxyError::TooLong),
            (_, true) => Ok(ProxyProgress::Missing(1)),
            (octets, false) => Ok(ProxyProgress::Missing(2.min(V1_OCTETS_MAX - octets))),
        };
    };
    let line = std::str::from_utf8(&window[V1_SIGNATURE.len()..end]).map_err(|_| ProxyError::Malformed)?;
    Ok(ProxyProgress::Complete { octets: end + 2, client: read_v1(line).ok_or(ProxyError::Malformed)? })
}

/// Parses `TCP4 source destination port port`, or `UNKNOWN` with anything after it.
fn read_v1(line: &str) -> Option<Option<IpAddr>> {
    let parts: Vec<&str> = line.split(' ').collect();
    let addresses: [IpAddr; 2] = match parts[..] {
        ["UNKNOWN", ..] => return Some(None),
        ["TCP4", source, destination, _, _] => {
            [source.parse::<Ipv4Addr>().ok()?.into(), destination.parse::<Ipv4Addr>().ok()?.into()]
        }
        ["TCP6", source, destination, _, _] => {
            [source.parse::<Ipv6Addr>().ok()?.into(), destination.parse::<Ipv6Addr>().ok()?.into()]
        }
        _ => return None,
    };
    let is_port = |text: &str| {
        text.bytes().all(|b| b.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'))
            && text.parse::<u16>().is_ok()
    };
    parts[3..].iter().all(|text| is_port(text)).then_some(Some(addresses[0]))
}

fn parse_v2(header: &[u8]) -> Result<ProxyProgress, ProxyError> {
    let Some((fixed, rest)) = header.split_at_checked(V2_FIXED_OCTETS) else {
        return Ok(ProxyProgress::Missing(V2_FIXED_OCTETS - header.len()));
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > V2_VARIABLE_OCTETS_MAX {
        return Err(ProxyError::TooLong);
    }
    let is_for_client = match fixed[12] {
        0x20 => false,
        0x21 => true,
        _ => return Err(ProxyError::Malformed),
    };
    let Some(addresses) = rest.get(..length) else {
        return Ok(ProxyProgress::Missing(length - rest.len()));
    };
    let client = match (is_for_client, fixed[13]) {
        (true, 0x11) if length >= 12 => first::<4>(addresses).map(IpAddr::from),
        (true, 0x21) if length >= 36 => first::<16>(addresses).map(IpAddr::from),
        (true, 0x11 | 0x21) => return Err(ProxyError::Malformed),
        // UDP and UNIX sockets have no usable client address; the caller then uses the address of the proxy.
        (true, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => None,
        (true, _) => return Err(ProxyError::Malformed),
        (false, _) => None,
    };
    Ok(ProxyProgress::Complete { octets: V2_FIXED_OCTETS + length, client })
}

fn first<const N: usize>(octets: &[u8]) -> Option<[u8; N]> {
    octets.first_chunk::<N>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, variable: &[u8]) -> Vec<u8> {
        let length = u16::try_from(variable.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &length, variable].concat()
    }

    fn tcp4(source: [u8; 4], rest: &[u8]) -> Vec<u8> {
        v2(0x21, 0x11, &[&source[..], &[127, 0, 0, 1, 1, 2, 3, 4], rest].concat())
    }

    fn tcp6(source: Ipv6Addr) -> Vec<u8> {
        v2(0x21, 0x21, &[&source.octets()[..], &[0; 20]].concat())
    }

    /// Reads as a connection does: never more octets than are missing.
    fn read(stream: &[u8]) -> Result<(usize, Option<IpAddr>), ProxyError> {
        let mut taken = 0;
        loop {
            match parse(&stream[..taken])? {
                ProxyProgress::Missing(octets) => {
                    assert!(octets > 0 && taken + octets <= V2_FIXED_OCTETS + V2_VARIABLE_OCTETS_MAX);
                    taken += octets;
                    assert!(taken <= stream.len(), "asked for more than there is");
                }
                ProxyProgress::Complete { octets, client } => {
                    assert_eq!(octets, taken, "read beyond the header");
                    return Ok((octets, client));
                }
            }
        }
    }

    #[test]
    fn proxy_headers_are_read_to_their_last_octet_and_no_further() {
        let v6: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let of = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 587\r\n".to_vec(), of("192.0.2.1")),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 0 1\r\n".to_vec(), of("1.1.1.1")),
            (b"PROXY TCP6 2001:db8::7 ::1 65535 465\r\n".to_vec(), of("2001:db8::7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN what ever 1 2 3\r\n".to_vec(), None),
            (tcp4([192, 0, 2, 9], b""), of("192.0.2.9")),
            (tcp4([192, 0, 2, 9], &[0x20; 300]), of("192.0.2.9")),
            (tcp6(v6), of("2001:db8::7")),
            (v2(0x20, 0x00, b""), None),
            (v2(0x20, 0x11, &[1; 12]), None),
            (v2(0x21, 0x00, b"xyz"), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let stream = [&header[..], b"EHLO client.example\r\n"].concat();
            assert_eq!(read(&stream), Ok((header.len(), expected)), "{}", header.escape_ascii());
        }
    }

    #[test]
    fn invalid_headers_are_refused() {
        use ProxyError::{Absent, Malformed, TooLong};
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_OCTETS_MAX));
        for (stream, expected) in [
            (&b"EHLO client.example\r\n"[..], Absent),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdef", Absent),
            (b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n", Absent),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n", Malformed),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n", Malformed),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n", Malformed),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n", Malformed),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n", Malformed),
            (b"PROXY TCP4 1.1.1.01 1.1.1.1 1 1\r\n", Malformed),
            (b"PROXY TCP4 ::1 ::1 1 1\r\n", Malformed),
            (b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n", Malformed),
            (b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n", Malformed),
            (b"PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n", Malformed),
            (b"PROXY TCP4 \xff.1.1.1 1.1.1.1 1 1\r\n", Malformed),
            (long.as_bytes(), TooLong),
            (&v2(0x11, 0x11, &[1; 12]), Malformed),
            (&v2(0x22, 0x11, &[1; 12]), Malformed),
            (&v2(0x21, 0x11, &[1; 11]), Malformed),
            (&v2(0x21, 0x21, &[1; 35]), Malformed),
            (&v2(0x21, 0x77, &[1; 36]), Malformed),
            (&v2(0x21, 0x11, &[1; V2_VARIABLE_OCTETS_MAX + 1]), TooLong),
        ] {
            assert_eq!(read(stream), Err(expected), "{}", stream.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_header_is_found_in_any_prefix_of_the_connection(
            source in any::<[u8; 4]>(),
            extra in prop::collection::vec(any::<u8>(), 0..80),
            behind in prop::collection::vec(any::<u8>(), 0..40),
            version_two in any::<bool>(),
        ) {
            let header = if version_two {
                tcp4(source, &extra)
            } else {
                format!("PROXY TCP4 {} 127.0.0.1 1 2\r\n", Ipv4Addr::from(source)).into_bytes()
            };
            let complete = ProxyProgress::Complete { octets: header.len(), client: Some(source.into()) };
            for end in 0..header.len() {
                let Ok(ProxyProgress::Missing(octets)) = parse(&header[..end]) else {
                    return Err(TestCaseError::fail("complete too early"));
                };
                prop_assert!(octets > 0 && end + octets <= header.len());
            }
            prop_assert_eq!(parse(&header), Ok(complete));
            prop_assert_eq!(parse(&[header, behind].concat()), Ok(complete));
        }

        #[test]
        fn garbage_neither_panics_nor_requests_more_than_the_limit(
            start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", V2_SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21"]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let stream = [start, &rest].concat();
            if let Ok(ProxyProgress::Missing(octets)) = parse(&stream) {
                prop_assert!(octets > 0 && stream.len() + octets <= V2_FIXED_OCTETS + V2_VARIABLE_OCTETS_MAX);
            }
        }
    }
}
