//! gzip compression of responses (RFC 9110 §8.4.1.3).
//!
//! Only GET responses are compressed. Secrets occur in POST responses only, so the length of a compressed response reveals
//! nothing about a secret (BREACH).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderValue, VARY};
use hyper::{HeaderMap, Method};

use crate::limits::memory_budget::MemoryReservation;

use super::auth::Identity;
use crate::api::Api;
use crate::api::content::{self, Compressible, gzip};
use crate::api::etag;

/// Minimum size: a smaller response fits into one packet.
const OCTETS_MIN: usize = 1024;
/// Maximum size: compressing a larger response would use a core for too long.
const OCTETS_MAX: usize = 4 * 1024 * 1024;
/// Approximate memory of the compressor besides its input and output.
const COMPRESSOR_OCTETS: usize = 320 * 1024;

/// Compresses the response if the client accepts it.
pub async fn layer(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let is_wanted = is_wanted(request.method(), request.headers());
    let mut response = next.run(request).await;
    let content = response.extensions_mut().remove::<Compressible>();
    let tenant = response.extensions().get::<Identity>().and_then(|identity| identity.tenant);
    let compressed = match content {
        Some(Compressible::Static(content)) if is_wanted => Some(content.gzip.clone()),
        Some(Compressible::Plain(octets)) if is_wanted => compress(octets, api.memory.reserve(tenant)).await,
        _ => None,
    };
    if let Some(octets) = compressed {
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, octets.len().into());
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        if let Some(tag) = headers.get(ETAG).and_then(etag::of_gzip) {
            headers.insert(ETAG, tag);
        }
        *response.body_mut() = content::pieces(octets);
    }
    response
}

/// Whether the method and the client allow compression of the response.
fn is_wanted(method: &Method, headers: &HeaderMap) -> bool {
    let texts = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    [Method::GET, Method::HEAD].contains(method) && texts.flat_map(|text| text.split(',')).any(accepts_gzip)
}

/// Whether a member of Accept-Encoding accepts gzip (RFC 9110 §12.5.3).
fn accepts_gzip(member: &str) -> bool {
    let mut parts = member.split(';').map(str::trim);
    let coding = parts.next().unwrap_or_default();
    let is_gzip = ["gzip", "x-gzip"].iter().any(|name| coding.eq_ignore_ascii_case(name));
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    is_gzip && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
}

/// Compresses the body. `None` if its size is out of range or the memory budget is used up.
async fn compress(body: Bytes, mut reservation: MemoryReservation) -> Option<Bytes> {
    let is_worth_it = (OCTETS_MIN..=OCTETS_MAX).contains(&body.len());
    if !is_worth_it || !reservation.grow_to((body.len() + COMPRESSOR_OCTETS) as u64) {
        return None;
    }
    let compressed = tokio::task::spawn_blocking(move || {
        let mut octets = gzip(&body).ok()?;
        octets.shrink_to_fit();
        reservation.shrink_to(octets.len() as u64);
        Some(reservation.hold(octets))
    });
    compressed.await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_clients_that_accept_it() {
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
