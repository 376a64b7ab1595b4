//! Delivery status notifications (RFC 3461, RFC 3464): who hears of what, and the message that says it.

pub mod message;
pub mod recipient;
