//! Decides which addresses the server may connect to if tenants or other domains choose the target: for mail, webhooks
//! and MTA-STS policies. No I/O; imports nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Whether the server may connect to `ip`: a public address, or one in an allowed network. Without this check, any MX
/// record could make the server connect to internal hosts.
pub fn is_permitted(ip: IpAddr, allowed: &[IpNet]) -> bool {
    let ip = ip.to_canonical();
    allowed.iter().any(|network| network.contains(&ip))
        || match ip {
            IpAddr::V4(v4) => is_public_v4(v4),
            IpAddr::V6(v6) => is_public_v6(v6),
        }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    // RFC 6890: "this network", shared address space, protocol assignments, benchmarking, reserved.
    let is_special = a == 0
        || (a == 100 && b & 0xc0 == 64)
        || ip.octets()[..3] == [192, 0, 0]
        || (a == 198 && b & 0xfe == 18)
        || a >= 240;
    !(is_special || ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast())
}

/// RFC 4291 §2.4 and the IANA registry: only one eighth of the IPv6 address space is allocated.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    match ip.segments() {
        // RFC 6052 §2.1: a gateway to IPv4; RFC 3056: 6to4.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        // RFC 2928: protocol assignments, Teredo (RFC 4380) among them; RFC 3849, RFC 9637: documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_permitted_by_default() {
        for bad in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fec0::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::1",
            "64:ff9b:1::808:808",
            "64:ff9b::1:808:808",
            "::ffff:0:8.8.8.8",
            "::8.8.8.8",
            "100::1",
            "100:0:0:1::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:20::1",
            "2001:db8::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fe00::1",
        ] {
            assert!(!is_permitted(bad.parse().unwrap(), &[]), "{bad}");
        }
        for good in [
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2002:808:808::1",
            "2a00:1450::1",
            "3fff:1000::1",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_permitted(good.parse().unwrap(), &[]), "{good}");
        }
    }

    #[test]
    fn an_allowed_network_matches_in_every_notation() {
        let allowed = ["127.0.0.0/8".parse().unwrap()];
        assert!(is_permitted("127.0.0.11".parse().unwrap(), &allowed));
        assert!(is_permitted("::ffff:127.0.0.11".parse().unwrap(), &allowed));
        assert!(!is_permitted("10.0.0.1".parse().unwrap(), &allowed));
        assert!(!is_permitted("::1".parse().unwrap(), &allowed));
    }
}
