//! Refused nonces.

use instant_acme::Error;

use super::error::kind_of;

/// How often a call is made. The library makes three requests in each.
pub(super) const TRIES_MAX: u32 = 10;

/// Whether the authority refused the nonce of a request, and so did nothing (RFC 8555 §6.5).
pub(super) fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if kind_of(problem) == "badNonce")
}

/// Repeats a call while the authority refuses its nonce. The library gives up at the third refusal, and an order has many
/// calls.
macro_rules! again {
    ($call:expr) => {{
        let mut tries = 1;
        loop {
            match $call {
                Err(error)
                    if tries < $crate::acme::nonce::TRIES_MAX && $crate::acme::nonce::is_refused(&error) =>
                {
                    tries += 1;
                }
                done => break done,
            }
        }
    }};
}

pub(super) use again;
