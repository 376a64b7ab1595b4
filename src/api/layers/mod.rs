//! The layers around handlers, from the outermost to the innermost. `idle_timeout` watches the connection. `trace`, `cors`
//! and `compression` wrap every route. `auth` wraps every operation that needs a key, and applies `rate_limit`.
//! `idempotency` and `preconditions` wrap the handler; they run once the body has been read.

pub mod auth;
pub mod compression;
pub mod cors;
pub mod idempotency;
pub mod idle_timeout;
pub mod preconditions;
pub mod rate_limit;
pub mod trace;
pub mod unknown_keys;
