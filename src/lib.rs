//! Pillarbox: a self-hosted, multi-tenant SMTP submission relay.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod dkim;
pub mod dns;
pub mod egress_guard;
pub mod http_client;
pub mod limits;
pub mod mail;
pub mod maintenance;
pub mod metrics;
pub mod model;
pub mod policy;
pub mod queue;
pub mod relay;
pub mod server;
pub mod smtp;
pub mod store;
pub mod submission;
pub mod telemetry;
pub mod tls;
pub mod tls_report;
pub mod verification;
pub mod webhook;
