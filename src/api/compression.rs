//! gzip compression of responses (RFC 9110 §8.4.1.3).
//!
//! Only GET responses are compressed. Secrets occur in POST responses only, so the length of a compressed response reveals
//! nothing about a secret (BREACH).

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::ACCEPT_ENCODING;
use hyper::{HeaderMap, Method};

use crate::limits::memory_budget::MemoryReservation;

use super::response::ApiResponse;

/// Less fits one packet anyhow.
const OCTETS_MIN: usize = 1024;
/// More takes a core for long.
const OCTETS_MAX: usize = 4 * 1024 * 1024;
/// What a compressor keeps beside its input and output, about.
const COMPRESSOR_OCTETS: usize = 320 * 1024;

/// Whether the answer to a request should be compressed.
pub fn is_wanted(method: &Method, headers: &HeaderMap) -> bool {
    let texts = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    [Method::GET, Method::HEAD].contains(method) && texts.flat_map(|text| text.split(',')).any(takes_gzip)
}

/// Whether a member of Accept-Encoding says so (RFC 9110 §12.5.3).
fn takes_gzip(member: &str) -> bool {
    let mut parts = member.split(';').map(str::trim);
    let coding = parts.next().unwrap_or_default();
    let is_gzip = ["gzip", "x-gzip"].iter().any(|name| coding.eq_ignore_ascii_case(name));
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    is_gzip && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
}

/// The answer compressed, if that is worth it and `room` has place for both forms of it.
pub async fn compress(answer: ApiResponse, mut room: MemoryReservation) -> ApiResponse {
    let answer = answer.compressed_if_fixed();
    let Some(body) = answer.plain_body().filter(|body| (OCTETS_MIN..=OCTETS_MAX).contains(&body.len()))
    else {
        return answer;
    };
    if !room.grow_to((body.len() + COMPRESSOR_OCTETS) as u64) {
        return answer;
    }
    let compressed = tokio::task::spawn_blocking(move || {
        let mut octets = gzip(&body).ok()?;
        octets.shrink_to_fit();
        room.shrink_to(octets.len() as u64);
        Some(room.hold(octets))
    });
    match compressed.await {
        Ok(Some(compressed)) => answer.compressed(compressed),
        _ => answer,
    }
}

/// Octets in gzip.
pub fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        for (text, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("x-gzip", true),
            ("br, gzip; q=1.0", true),
            ("gzip;q=0", false),
            ("gzip;q=0.000, br", false),
            ("gzip;q=x", false),
            ("identity", false),
            ("gzipped", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, text.parse().unwrap())]);
            assert_eq!(is_wanted(&Method::GET, &headers), expected, "{text}");
            assert!(!is_wanted(&Method::POST, &headers), "{text}");
        }
        assert!(!is_wanted(&Method::GET, &HeaderMap::new()));
    }
}
