//! The DNS records and probes of return hosts.
