//! Delivery status notifications (RFC 3461, RFC 3464): which recipients are reported, and the DSN itself.
//!
//! Imports `mail`, `model` and `store`.

mod delivery_status;
pub mod message;
pub mod recipient;
