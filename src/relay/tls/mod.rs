//! TLS towards mail hosts: what a host must offer (`policy`, `mta_sts`), how its certificate is checked (`client`,
//! `dane`), and what is counted for TLS reports (`results`).

pub mod client;
pub mod dane;
pub mod mta_sts;
pub mod policy;
pub mod results;
