//! The one integration binary: the real server on ports of the system's choice, a fake DNS and fake MX hosts.
//! Its modules are named by situation; those of the first block are the stage that they play on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod api_stage;
mod client;
mod control;
mod dialogue;
mod fake_dns;
mod fake_mx;
mod http;
mod identity;
mod program;
mod report;
mod server;
mod submission_stage;
mod wait;
mod wire;

mod api;
mod api_connections;
mod api_isolation;
mod bad_input;
mod chunking;
mod content;
mod delivery;
mod dkim;
mod dsn;
mod from_field;
mod fuzz;
mod hostile;
mod idempotency;
mod layers;
mod lettre;
mod logs;
mod outcomes;
mod proxy;
mod quickstart;
mod release;
mod require_tls;
mod retry;
mod scram;
mod smart_host;
mod stage;
mod start_errors;
mod submission;
mod tenants;
mod tls;
