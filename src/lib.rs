//! Pillarbox: a self-hosted, multi-tenant SMTP submission relay.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api;
pub mod app;
pub mod bans;
pub mod cli;
pub mod config;
pub mod dns;
pub mod https;
pub mod intake;
pub mod janitor;
pub mod mail;
pub mod network;
pub mod policy;
pub mod relay;
pub mod server;
pub mod sign;
pub mod smtp;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod tls_report;
pub mod turns;
pub mod verification;
pub mod waiting;
pub mod webhook;
