//! Pillarbox: a self-hosted, multi-tenant SMTP submission relay.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod config;
pub mod intake;
pub mod janitor;
pub mod mail;
pub mod policy;
pub mod server;
pub mod sign;
pub mod smtp;
pub mod store;
pub mod telemetry;
pub mod tls;
