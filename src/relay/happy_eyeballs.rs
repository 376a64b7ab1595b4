//! Happy Eyeballs (RFC 8305): dials the addresses of a host one second apart and uses the first connection. So a dead
//! address, or a family without a route, costs a second instead of a time-out.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

/// The delay before the next address is dialled as well. RFC 8305 §5 allows up to 2 s. Mail can wait, and an unused
/// connection costs the receiver resources.
pub const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_secs(1);

/// The result of dialling the addresses of a host.
pub struct RaceResult<T> {
    /// The first address that answered.
    pub connected: Option<(SocketAddr, T)>,
    /// The addresses that failed before that.
    pub failed: Vec<(SocketAddr, io::Error)>,
}

/// Alternates the two address families, beginning with that of the first address (RFC 8305 §4).
pub fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let (same, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut ordered = Vec::with_capacity(addresses.len());
    while ordered.len() < addresses.len() {
        ordered.extend(same.next());
        ordered.extend(other.next());
    }
    ordered
}

/// How many of a host's addresses may be dialled if the attempt may dial `left` more. One is reserved for each of the
/// `hosts_after` it, unless this host then could not be dialled once in each of its families.
pub fn address_quota(addresses: &[SocketAddr], left: usize, hosts_after: usize) -> usize {
    let has = |is_ipv4: bool| usize::from(addresses.iter().any(|address| address.is_ipv4() == is_ipv4));
    left.saturating_sub(hosts_after).max(has(true) + has(false)).min(left)
}

/// Whether the network of this server has no route or address. Such an error is no feedback about the host.
pub fn is_local_network_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable)
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Dials in order: the next address when one fails, or has not answered after `delay`.
pub async fn race<T, F>(
    addresses: &[SocketAddr],
    delay: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> RaceResult<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut waiting = addresses.iter().copied();
    // Dropping it aborts the connection attempts that still run.
    let mut running = JoinSet::new();
    let mut result = RaceResult { connected: None, failed: Vec::new() };
    loop {
        if let Some(address) = waiting.next() {
            let connecting = connect(address);
            running.spawn(async move { (address, connecting.await) });
        }
        let ended = match timeout(delay, running.join_next()).await {
            Ok(ended) => ended,
            Err(_) if waiting.len() > 0 => continue,
            Err(_) => running.join_next().await,
        };
        match ended {
            Some(Ok((address, Ok(stream)))) => {
                result.connected = Some((address, stream));
                return result;
            }
            Some(Ok((address, Err(error)))) => result.failed.push((address, error)),
            // A task that panicked is ignored: the other addresses count.
            Some(Err(_)) => {}
            None => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn address_families_alternate() {
        let mixed = addresses(&["1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1", "[::1]:1", "[::2]:1"]);
        let ordered = interleave(&mixed);
        assert_eq!(ordered, addresses(&["1.1.1.1:1", "[::1]:1", "2.2.2.2:1", "[::2]:1", "3.3.3.3:1"]));
        let one = addresses(&["[::1]:1", "[::2]:1"]);
        assert_eq!(interleave(&one), one);
        assert_eq!(interleave(&[]), []);
    }

    #[test]
    fn a_host_leaves_an_address_for_each_host_after_it() {
        let (one, both) = (addresses(&["1.1.1.1:1", "2.2.2.2:1"]), addresses(&["1.1.1.1:1", "[::1]:1"]));
        for (addresses, left, hosts_after, share) in [
            (&one, 5, 0, 5),
            (&one, 5, 1, 4),
            (&one, 5, 9, 1),
            (&both, 5, 9, 2),
            (&both, 1, 0, 1),
            (&one, 1, 3, 1),
        ] {
            assert_eq!(address_quota(addresses, left, hosts_after), share, "{left} {hosts_after}");
        }
    }

    #[test]
    fn a_missing_route_or_source_address_is_a_local_network_error() {
        use rustix::io::Errno;
        for (errno, ours) in [
            (Errno::NETUNREACH, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::AFNOSUPPORT, true),
            (Errno::HOSTUNREACH, false),
            (Errno::CONNREFUSED, false),
            (Errno::TIMEDOUT, false),
        ] {
            assert_eq!(is_local_network_error(&errno.into()), ours, "{errno}");
        }
    }

    /// An address ending in 1 never answers, one in 2 refuses; others answer.
    async fn answer(address: SocketAddr) -> io::Result<SocketAddr> {
        match address.ip().to_string().chars().last() {
            Some('1') => std::future::pending().await,
            Some('2') => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => Ok(address),
        }
    }

    /// The address that answered, and how many had failed.
    async fn run(texts: &[&str], delay: Duration) -> (Option<String>, usize) {
        let race = race(&addresses(texts), delay, answer).await;
        let won = race.connected.map(|(address, stream)| {
            assert_eq!(address, stream);
            address.ip().to_string()
        });
        (won, race.failed.len())
    }

    #[tokio::test]
    async fn the_next_address_is_dialled_after_a_failure_or_the_delay() {
        const HOUR: Duration = Duration::from_secs(3600);
        const MOMENT: Duration = Duration::from_millis(1);
        let won = |text: &str| Some(text.to_owned());
        assert_eq!(run(&["127.0.0.4:1", "[::5]:1"], HOUR).await, (won("127.0.0.4"), 0));
        assert_eq!(run(&["127.0.0.2:1", "[::5]:1"], HOUR).await, (won("::5"), 1));
        assert_eq!(run(&["127.0.0.1:1", "[::5]:1"], MOMENT).await, (won("::5"), 0));
        assert_eq!(run(&["127.0.0.1:1", "127.0.0.2:1", "[::5]:1"], MOMENT).await, (won("::5"), 1));
        assert_eq!(run(&["127.0.0.2:1", "[::2]:1"], HOUR).await, (None, 2));
        assert_eq!(run(&[], HOUR).await, (None, 0));
    }
}
