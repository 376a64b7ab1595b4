//! The one integration binary: the real server on ports of the system's choice, a fake DNS and fake MX hosts.
//! Its modules are named by situation; `fake_*`, `server`, `client`, `wire`, `identity` and `wait` are the stage.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod client;
mod fake_dns;
mod fake_mx;
mod identity;
mod wait;
mod wire;

mod layers;
mod stage;
