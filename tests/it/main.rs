//! The one integration binary: the real server on ports of the system's choice, a fake DNS and fake MX hosts.
//! Its modules are named by situation; `fake_*`, `*_stage`, `http`, `server`, `client`, `wire`, `identity` and `wait` are the stage.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod api_stage;
mod client;
mod dialogue;
mod fake_dns;
mod fake_mx;
mod http;
mod identity;
mod submission_stage;
mod wait;
mod wire;

mod api;
mod api_isolation;
mod layers;
mod stage;
mod submission;
