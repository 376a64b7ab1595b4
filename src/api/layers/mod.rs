//! The layers around handlers, from the outermost. `idle_timeout` watches a connection. `trace`, `cors` and `compression`
//! surround every route; `auth` and `rate_limit` every operation that needs a key. `idempotency` and `preconditions`
//! surround its handler once the request is complete.

pub mod auth;
pub mod compression;
pub mod cors;
pub mod idempotency;
pub mod idle_timeout;
pub mod preconditions;
pub mod rate_limit;
pub mod trace;
