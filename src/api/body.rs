//! Request bodies: their type, size and time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_TYPE;

use crate::mail::RefusalCode;

use super::error::{ApiError, Result};

/// Reads a body of JSON. An empty one may have any type.
pub async fn read(headers: &HeaderMap, body: Incoming, bytes_max: u64, timeout: Duration) -> Result<Bytes> {
    if body.size_hint().lower() > bytes_max {
        return Err(too_large(bytes_max));
    }
    let limit = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let collected = tokio::time::timeout(timeout, Limited::new(body, limit).collect())
        .await
        .map_err(|_| timed_out(timeout))?;
    let bytes = match collected {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large(bytes_max)),
        Err(_) => return Err(timed_out(timeout)),
    };
    if !bytes.is_empty() && !is_json(headers) {
        return Err(ApiError::new(
            RefusalCode::UnsupportedMediaType,
            "the body is not declared as JSON",
            "send it as JSON in UTF-8 with the header `Content-Type: application/json`",
        ));
    }
    Ok(bytes)
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = value.split(';').map(|part| part.trim().to_ascii_lowercase());
    // RFC 8259 §8.1: JSON is in UTF-8.
    let charset_is_right = |part: String| {
        part.strip_prefix("charset=").is_none_or(|charset| charset.trim_matches('"') == "utf-8")
    };
    parts.next().as_deref() == Some("application/json") && parts.all(charset_is_right)
}

fn too_large(bytes_max: u64) -> ApiError {
    ApiError::new(
        RefusalCode::PayloadTooLarge,
        format!("the body is larger than {bytes_max} bytes"),
        "send less in one request; the operator sets the limit with api.body_max",
    )
}

fn timed_out(timeout: Duration) -> ApiError {
    ApiError::new(
        RefusalCode::RequestTimeout,
        format!("the body did not arrive whole within {} seconds", timeout.as_secs()),
        "send the request again over a connection that is fast enough",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_in_utf_8_is_taken() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/json; charset=latin1", false),
            ("application/jsonp", false),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(is_json(&headers), expected, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
