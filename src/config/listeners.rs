//! Listeners of different options that cannot exist at the same time.

use std::net::SocketAddr;

use super::Config;
use super::error::InvalidOption;

pub(super) fn find_invalid(config: &Config) -> Option<InvalidOption> {
    let options: [(&'static str, &[SocketAddr]); 7] = [
        ("smtp.submission", &config.smtp.submission),
        ("smtp.submissions", &config.smtp.submissions),
        ("api.listen", &config.api.listen),
        ("api.metrics_listen", &config.api.metrics_listen),
        ("inbound.listen", &config.inbound.listen),
        ("public.listen", &config.public.listen),
        ("acme.http_listen", config.acme.challenge_listeners()),
    ];
    let mut seen: Vec<(&'static str, SocketAddr)> = Vec::new();
    for (option, addresses) in options {
        for &address in addresses {
            if let Some((other, taken)) = seen.iter().find(|(_, taken)| exclude_each_other(*taken, address)) {
                let message = format!("{address} and {taken} of {other} are the same; use another port");
                return Some(InvalidOption::new(option, message));
            }
            seen.push((option, address));
        }
    }
    None
}

fn exclude_each_other(a: SocketAddr, b: SocketAddr) -> bool {
    let (of_a, of_b) = (a.ip().to_canonical(), b.ip().to_canonical());
    // Port 0: the system chooses a free port.
    a.port() == b.port()
        && a.port() != 0
        && (of_a == of_b
            || (a.is_ipv4() == b.is_ipv4() && (of_a.is_unspecified() || of_b.is_unspecified()))
            || (includes_ipv4(a) && b.is_ipv4())
            || (includes_ipv4(b) && a.is_ipv4()))
}

/// Whether it is `[::]`, and the system does not reserve that for IPv6.
fn includes_ipv4(address: SocketAddr) -> bool {
    let is_reserved =
        || std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|value| value.trim() == "1");
    address.is_ipv6() && address.ip().is_unspecified() && !is_reserved()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_port_twice_is_found_whatever_the_form_of_the_address() {
        for (a, b, excluded) in [
            ("127.0.0.1:25", "127.0.0.1:25", true),
            ("127.0.0.1:25", "127.0.0.2:25", false),
            ("127.0.0.1:25", "127.0.0.1:26", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:25", "127.0.0.1:25", true),
            ("[::]:25", "[::1]:25", true),
            ("[::1]:25", "127.0.0.1:25", false),
            ("[::1]:25", "0.0.0.0:25", false),
            ("[::ffff:127.0.0.1]:25", "127.0.0.1:25", true),
        ] {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!((exclude_each_other(a, b), exclude_each_other(b, a)), (excluded, excluded), "{a} {b}");
        }
    }
}
