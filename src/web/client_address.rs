//! The client of a request, which may come through a proxy. Pure.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Whether the address is a proxy whose `X-Forwarded-For` is believed.
pub(super) fn is_trusted(proxies: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    proxies.iter().any(|network| network.contains(&address))
}

/// The last address that no trusted proxy has. `forwarded` are the values of `X-Forwarded-For` in their order; each proxy
/// adds the address that it saw at the end, and what stands before that of the first trusted proxy can be forged.
pub(super) fn find<'h>(
    proxies: &[IpNet],
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'h str>,
) -> IpAddr {
    let mut client = peer.to_canonical();
    for text in forwarded.rev().flat_map(|value| value.rsplit(',')) {
        let Some(before) = parse(text.trim()).filter(|_| is_trusted(proxies, client)) else { break };
        client = before.to_canonical();
    }
    client
}

/// An address, with or without a port.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_trusted_proxy_added_is_believed() {
        let proxies: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec();
        let client = |peer: &str, forwarded: &[&str]| {
            find(&proxies, peer.parse().unwrap(), forwarded.iter().copied()).to_string()
        };
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["198.51.100.7, 10.1.1.1", "fd00::2"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["203.0.113.9, nonsense"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["[2001:db8::7]:4000"]), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &["198.51.100.7:4000"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert!(is_trusted(&proxies, "::ffff:10.0.0.1".parse().unwrap()));
    }
}
