//! Reverse names of addresses (RFC 1035 §3.5, RFC 3596 §2.5).

use std::net::IpAddr;

use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::{DnsError, Resolver, host_text};

/// The name under `in-addr.arpa` or `ip6.arpa` that has the PTR records of an address, without a final dot.
pub fn reverse_name(address: IpAddr) -> String {
    host_text(&Name::from(address))
}

impl Resolver {
    /// The names that the PTR records of an address have, without final dots.
    ///
    /// # Errors
    /// [`DnsError`].
    pub async fn reverse_names(&self, address: IpAddr) -> Result<Vec<String>, DnsError> {
        let name = reverse_name(address);
        let records = self.lookup(&name, RecordType::PTR, |data| match data {
            RData::PTR(name) => Some(host_text(&name.0)),
            _ => None,
        });
        records.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_reversed_by_octets_or_by_hexadecimal_digits() {
        assert_eq!(reverse_name([192, 0, 2, 7].into()), "7.2.0.192.in-addr.arpa");
        let v6 = reverse_name("2001:db8::1".parse().unwrap());
        assert!(v6.starts_with("1.0.0.0.") && v6.ends_with(".8.b.d.0.1.0.0.2.ip6.arpa"), "{v6}");
    }
}
