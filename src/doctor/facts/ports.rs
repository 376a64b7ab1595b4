//! Whether the listeners can be bound, for a server that does not run yet.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::{PortFacts, PortState, Seen, blocking};
use crate::config::Config;

/// The time for a greeting.
const GREETING_TIMEOUT: Duration = Duration::from_millis(500);
const GREETING_OCTETS_MAX: u64 = 1024;
/// A running server has these ports only while it orders a certificate.
const CHALLENGE_LISTENERS: &str = "acme.http_listen";

/// Binds each address for a moment.
pub async fn gather(config: &Config, is_local: bool) -> Seen<Vec<PortFacts>> {
    if !is_local {
        return Seen::NotAsked("the running server has its ports");
    }
    let listeners: [(&'static str, &[SocketAddr]); 7] = [
        ("smtp.submission", &config.smtp.submission),
        ("smtp.submissions", &config.smtp.submissions),
        ("inbound.listen", &config.inbound.listen),
        ("api.listen", &config.api.listen),
        ("api.metrics_listen", &config.api.metrics_listen),
        ("public.listen", &config.public.listen),
        (CHALLENGE_LISTENERS, config.acme.challenge_listeners()),
    ];
    let wanted: Vec<(&'static str, SocketAddr)> = listeners
        .into_iter()
        .flat_map(|(option, all)| all.iter().map(move |address| (option, *address)))
        .collect();
    let hostname = config.hostname.to_string();
    blocking(move || Seen::Value(look(&wanted, &hostname))).await
}

fn look(wanted: &[(&'static str, SocketAddr)], hostname: &str) -> Vec<PortFacts> {
    let mut found: Vec<PortFacts> = wanted
        .iter()
        .map(|&(option, address)| PortFacts { option, address, state: state_of(address) })
        .collect();
    let greets = |port: &PortFacts| {
        port.state == PortState::Taken
            && port.option.starts_with("smtp.")
            && is_greeted_by(port.address, hostname)
    };
    // If one port greets with our name, the server runs and has the others too.
    if found.iter().any(greets) {
        let taken = found
            .iter_mut()
            .filter(|port| port.state == PortState::Taken && port.option != CHALLENGE_LISTENERS);
        taken.for_each(|port| port.state = PortState::Ours);
    }
    found
}

fn state_of(address: SocketAddr) -> PortState {
    match TcpListener::bind(address) {
        Ok(_) => PortState::Free,
        Err(error) => match error.kind() {
            ErrorKind::AddrInUse => PortState::Taken,
            ErrorKind::PermissionDenied => PortState::Forbidden,
            _ => PortState::Unusable(error.to_string()),
        },
    }
}

/// Whether a server there greets with the host name in clear (RFC 5321 §4.2).
fn is_greeted_by(address: SocketAddr, hostname: &str) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&address, GREETING_TIMEOUT) else { return false };
    if stream.set_read_timeout(Some(GREETING_TIMEOUT)).is_err() {
        return false;
    }
    let mut line = String::new();
    let read = BufReader::new(stream.take(GREETING_OCTETS_MAX)).read_line(&mut line);
    read.is_ok() && line.strip_prefix("220 ").is_some_and(|rest| rest.starts_with(hostname))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_port_is_free_or_taken_or_ours_if_it_greets_with_the_host_name() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        let greeting = std::thread::spawn(move || {
            for name in ["other.example", "mail.example.com"] {
                let (mut stream, _) = taken.accept().unwrap();
                write!(stream, "220 {name} ESMTP\r\n").unwrap();
            }
        });
        let wanted = [
            ("smtp.submission", address),
            ("api.listen", address),
            ("api.listen", free),
            (CHALLENGE_LISTENERS, address),
        ];
        let states =
            || look(&wanted, "mail.example.com").into_iter().map(|port| port.state).collect::<Vec<_>>();
        assert_eq!(states(), [PortState::Taken, PortState::Taken, PortState::Free, PortState::Taken]);
        assert_eq!(states(), [PortState::Ours, PortState::Ours, PortState::Free, PortState::Taken]);
        greeting.join().unwrap();
    }
}
