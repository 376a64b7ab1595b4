//! Reading of request bodies, with limits of type, size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Body as _;
use hyper::header::{CONTENT_TYPE, EXPECT};

use crate::limits::memory_budget::MemoryReservation;
use crate::model::RefusalCode;

use super::error::{ApiError, Result};
use super::json_values::ValueCounter;

/// Octets above the limit that are read and discarded. If the server closed the connection while the client still sends,
/// the client would get a reset instead of the response.
const DISCARDED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// JSON values per body. A batch of 100 messages with 1000 named recipients each has fewer.
const VALUES_MAX: u64 = 500_000;
/// Memory per JSON value in addition to its octets in the body: its slot in a list or map, and its allocation.
const VALUE_OCTETS: u64 = 128;

/// Limits of a body.
#[derive(Clone, Copy)]
pub struct Limits {
    /// The option that sets the size limit.
    pub option: &'static str,
    /// The size limit.
    pub bytes_max: u64,
    /// Timeout of the complete body.
    pub timeout: Duration,
}

/// Media types that clients send for any body if no other one is set: `curl -d` declares a form.
const DEFAULT_TYPES: &[&str] =
    &["", "text/plain", "text/json", "application/octet-stream", "application/x-www-form-urlencoded"];

/// Reads a JSON body, and reserves memory as it arrives, so that a large Content-Length alone reserves nothing. An empty
/// body may have any type.
pub async fn read(
    headers: &HeaderMap,
    body: Body,
    limits: Limits,
    reservation: &mut MemoryReservation,
) -> Result<Bytes> {
    let Limits { bytes_max, timeout, .. } = limits;
    let declared = body.size_hint().lower();
    // RFC 9110 §10.1.1: a client that waits for 100 (Continue) has not sent the body yet.
    let awaits_continue = headers.contains_key(EXPECT);
    if declared > bytes_max && (awaits_continue || declared > bytes_max + DISCARDED_BYTES_MAX) {
        return Err(too_large(limits));
    }
    let read = tokio::time::timeout(timeout, collect(body, limits, reservation)).await;
    let bytes = read.map_err(|_| timed_out(timeout))??;
    if !bytes.is_empty() && !may_be_json(headers) {
        return Err(ApiError::new(
            RefusalCode::UnsupportedMediaType,
            "the Content-Type names a format other than JSON",
            "send JSON in UTF-8, with the header `Content-Type: application/json` or without one",
        ));
    }
    Ok(bytes)
}

async fn collect(mut body: Body, limits: Limits, reservation: &mut MemoryReservation) -> Result<Bytes> {
    let bytes_max = limits.bytes_max;
    // The reservation includes the request head already.
    let before = reservation.octets();
    let (mut collected, mut fault) = (BytesMut::new(), None);
    let (mut received, mut values): (u64, ValueCounter) = (0, ValueCounter::default());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| incomplete())?;
        let Some(data) = frame.data_ref() else { continue };
        received += data.len() as u64;
        if fault.is_none() {
            values.feed(data);
            let needed = before + received + values.count() * VALUE_OCTETS;
            fault = match received > bytes_max {
                true => Some(too_large(limits)),
                false if values.count() > VALUES_MAX => Some(too_many_values()),
                false if !reservation.grow_to(needed) => Some(memory_exhausted()),
                false => None,
            };
        }
        match fault {
            None => collected.extend_from_slice(data),
            Some(_) => collected = BytesMut::new(),
        }
        if received > bytes_max + DISCARDED_BYTES_MAX {
            break;
        }
    }
    match fault {
        Some(fault) => Err(fault),
        None => Ok(collected.freeze()),
    }
}

/// Whether the Content-Type names JSON or no particular format.
fn may_be_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    let Ok(value) = value.to_str() else { return false };
    let mut parts = value.split(';').map(|part| part.trim().to_ascii_lowercase());
    // RFC 8259 §8.1: JSON is encoded in UTF-8.
    let charset_is_right = |part: String| {
        part.strip_prefix("charset=").is_none_or(|charset| charset.trim_matches('"') == "utf-8")
    };
    let media_type = parts.next().unwrap_or_default();
    // RFC 6839 §3.1: the suffix of types that are JSON.
    let is_json = media_type == "application/json" || media_type.ends_with("+json");
    (is_json || DEFAULT_TYPES.contains(&media_type.as_str())) && parts.all(charset_is_right)
}

fn too_large(limits: Limits) -> ApiError {
    ApiError::new(
        RefusalCode::PayloadTooLarge,
        format!("the body is larger than {} bytes", limits.bytes_max),
        format!("send less in one request; the operator sets the limit with {}", limits.option),
    )
}

fn too_many_values() -> ApiError {
    ApiError::new(
        RefusalCode::PayloadTooLarge,
        format!("the body has more than {VALUES_MAX} JSON values"),
        "send less in one request",
    )
}

/// The memory budget is used up.
pub fn memory_exhausted() -> ApiError {
    ApiError::new(
        RefusalCode::Overloaded,
        "limit reached: memory for requests and responses, for this tenant or in total",
        "read pending responses, or try again in a few seconds; the operator sets the limit with api.inbound_buffer_max",
    )
}

/// Clients that abort rarely receive this.
fn incomplete() -> ApiError {
    ApiError::new(
        RefusalCode::RequestTimeout,
        "the body ended early",
        "send the request again, with a complete body",
    )
}

fn timed_out(timeout: Duration) -> ApiError {
    ApiError::new(
        RefusalCode::RequestTimeout,
        format!("the body was not complete within {} seconds", timeout.as_secs()),
        "send the request again over a faster connection",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_json_unless_its_type_names_another_format_or_charset() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/merge-patch+json", true),
            ("text/plain;charset=UTF-8", true),
            ("text/json", true),
            ("application/octet-stream", true),
            ("application/x-www-form-urlencoded", true),
            ("", true),
            ("application/json; charset=latin1", false),
            ("text/plain; charset=iso-8859-1", false),
            ("application/jsonp", false),
            ("application/xml", false),
            ("text/html", false),
            ("multipart/form-data; boundary=x", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(may_be_json(&headers), expected, "{value}");
        }
        assert!(may_be_json(&HeaderMap::new()));
    }
}
