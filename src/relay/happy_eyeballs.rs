//! Reaching a host: its addresses are dialled without waiting for each to give up, and the first to answer counts
//! (RFC 8305), so that a dead address or a family without a route costs a second and not a time-out.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long an address is waited for before the next is dialled as well. RFC 8305 §5 allows up to 2 s; mail can
/// wait, and a connection too many is a cost for the receiver.
pub const HEAD_START: Duration = Duration::from_secs(1);

/// What came of dialling the addresses of a host.
pub struct Race<T> {
    /// The first that answered.
    pub won: Option<(SocketAddr, T)>,
    /// Those that failed before.
    pub failed: Vec<(SocketAddr, io::Error)>,
}

/// Puts the two families in turns, beginning with that of the first address (RFC 8305 §4).
pub fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let (same, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut turns = Vec::with_capacity(addresses.len());
    while turns.len() < addresses.len() {
        turns.extend(same.next());
        turns.extend(other.next());
    }
    turns
}

/// How many of a host's addresses may be dialled where so many are left and so many hosts come after it. One is left for
/// each of these, save what it takes to try both families of this one.
pub fn share_of(addresses: &[SocketAddr], left: usize, hosts_after: usize) -> usize {
    let has = |is_ipv4: bool| usize::from(addresses.iter().any(|address| address.is_ipv4() == is_ipv4));
    left.saturating_sub(hosts_after).max(has(true) + has(false)).min(left)
}

/// Whether it was our own network that has no way there: that says nothing about the host.
pub fn is_our_fault(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable)
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Dials in order: the next as soon as one fails, or has not answered after its head start.
pub async fn race<T, F>(
    addresses: &[SocketAddr],
    head_start: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> Race<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut waiting = addresses.iter().copied();
    // Dropped with what still runs in it.
    let mut running = JoinSet::new();
    let mut race = Race { won: None, failed: Vec::new() };
    loop {
        if let Some(address) = waiting.next() {
            let connecting = connect(address);
            running.spawn(async move { (address, connecting.await) });
        }
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(Ok((address, Ok(stream)))) => {
                    race.won = Some((address, stream));
                    return race;
                }
                Some(Ok((address, Err(error)))) => race.failed.push((address, error)),
                // Connecting does not panic; if it did, the others count.
                Some(Err(_)) => {}
                None => return race,
            },
            () = sleep(head_start), if waiting.len() > 0 => {}
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
    fn families_take_turns() {
        let mixed = addresses(&["1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1", "[::1]:1", "[::2]:1"]);
        let turns = interleave(&mixed);
        assert_eq!(turns, addresses(&["1.1.1.1:1", "[::1]:1", "2.2.2.2:1", "[::2]:1", "3.3.3.3:1"]));
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
            assert_eq!(share_of(addresses, left, hosts_after), share, "{left} {hosts_after}");
        }
    }

    #[test]
    fn only_what_our_own_network_lacks_is_our_fault() {
        use rustix::io::Errno;
        for (errno, ours) in [
            (Errno::NETUNREACH, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::AFNOSUPPORT, true),
            (Errno::HOSTUNREACH, false),
            (Errno::CONNREFUSED, false),
            (Errno::TIMEDOUT, false),
        ] {
            assert_eq!(is_our_fault(&errno.into()), ours, "{errno}");
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

    /// Who answered, and how many had failed.
    async fn run(texts: &[&str], head_start: Duration) -> (Option<String>, usize) {
        let race = race(&addresses(texts), head_start, answer).await;
        let won = race.won.map(|(address, stream)| {
            assert_eq!(address, stream);
            address.ip().to_string()
        });
        (won, race.failed.len())
    }

    #[tokio::test]
    async fn the_next_address_is_dialled_when_one_fails_or_keeps_us_waiting() {
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
