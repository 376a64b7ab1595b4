//! The remote server of a connection, as shown in attempts and DSNs.

use std::net::IpAddr;

/// A mail host or smart host.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Its name; empty if no host was reached.
    pub host: String,
    /// The address that was dialled.
    pub address: Option<IpAddr>,
    /// The own address of the connection.
    pub source: Option<IpAddr>,
    /// TLS version and cipher suite, such as `TLSv1.3 TLS13_AES_256_GCM_SHA384`; `None` without TLS.
    pub tls: Option<String>,
    /// The TLS policy that applied, and why.
    pub tls_policy: Option<String>,
    /// Whether it offers the DSN extension (RFC 3461).
    pub offers_dsn: bool,
}

impl Peer {
    /// A host before the first reply.
    pub fn at(host: &str, address: Option<IpAddr>) -> Self {
        Self { host: host.to_owned(), address, ..Self::default() }
    }
}
