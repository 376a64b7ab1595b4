//! A probe of a return host: whether port 25 of its mail host leads to this server. A dialogue as of a server that sends a
//! report, up to RCPT: the recipient has a token that only this server accepts.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::clock::{Clock, Instant};
use crate::dns::{DnsError, Resolver};
use crate::mail::{DomainName, without_macs};

/// The time for the whole dialogue.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a host that was reached counts as reached: most domains have the same.
const REACHED_FOR: Duration = Duration::from_secs(60);
/// How long a host that was not reached, or of which that is unknown, is not tried again.
const UNREACHED_FOR: Duration = Duration::from_secs(5);
/// Longest reply that is read, in octets.
const REPLY_OCTETS_MAX: u64 = 16 * 1024;
/// Characters of a reply that are logged.
const SHOWN_CHARS_MAX: usize = 200;

/// The results of probes by host.
#[derive(Debug, Default)]
pub struct ProbeCache {
    /// Locked during a probe, so that many domains with one host cause one probe. The hosts are those of the configuration, so
    /// there are few.
    results: Mutex<HashMap<DomainName, (Instant, Option<bool>)>>,
}

/// What to dial, and what to say.
pub(super) struct Probe<'a> {
    pub(super) resolver: &'a Resolver,
    /// The mail host: a name of this server in the configuration.
    pub(super) exchange: &'a DomainName,
    pub(super) port: u16,
    /// The EHLO name.
    pub(super) hostname: &'a DomainName,
    /// An address that only this server accepts.
    pub(super) recipient: String,
}

/// Why a probe did not succeed.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    /// The DNS does not answer, or the host is busy: neither is about the records of a domain.
    #[error("{0}")]
    Unknown(String),
    /// Mail for the host does not arrive here.
    #[error("{0}")]
    Failed(String),
}

impl ProbeCache {
    /// Whether this server is reached at the host; `None` if that is unknown.
    pub(super) async fn is_reached(&self, probe: &Probe<'_>, clock: &Clock) -> Option<bool> {
        let mut results = self.results.lock().await;
        if let Some((since, reached)) = results.get(probe.exchange) {
            let lifetime = if *reached == Some(true) { REACHED_FOR } else { UNREACHED_FOR };
            if clock.elapsed_since(*since) < lifetime {
                return *reached;
            }
        }
        let timed_out = |_| Err(ProbeError::Failed("it timed out".to_owned()));
        let probed = tokio::time::timeout(TIMEOUT, probe.run()).await.unwrap_or_else(timed_out);
        if let Err(error) = &probed {
            tracing::info!(host = %probe.exchange, %error, "the probe of a return host failed");
        }
        let reached = match probed {
            Ok(()) => Some(true),
            Err(ProbeError::Failed(_)) => Some(false),
            Err(ProbeError::Unknown(_)) => None,
        };
        results.insert(probe.exchange.clone(), (clock.instant(), reached));
        reached
    }
}

impl Probe<'_> {
    /// Succeeds if the host accepts the recipient.
    async fn run(&self) -> Result<(), ProbeError> {
        let addresses = self.resolver.addresses(self.exchange.as_str()).await?;
        let addresses: Vec<_> = addresses.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect();
        let mut stream = BufReader::new(TcpStream::connect(addresses.as_slice()).await?);
        expect(&mut stream, "220").await?;
        let rcpt = format!("RCPT TO:<{}>", self.recipient);
        for command in [&format!("EHLO {}", self.hostname), "MAIL FROM:<>", &rcpt] {
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            expect(&mut stream, "250").await?;
        }
        // The answer is known, so what follows is a courtesy.
        let _ = stream.write_all(b"RSET\r\nQUIT\r\n").await;
        Ok(())
    }
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<DnsError> for ProbeError {
    fn from(error: DnsError) -> Self {
        let text = error.to_string();
        match error {
            DnsError::Temporary(_) => Self::Unknown(text),
            DnsError::NoSuchDomain | DnsError::NoRecords => Self::Failed(text),
        }
    }
}

/// Reads a reply with this code.
async fn expect(stream: &mut BufReader<TcpStream>, code: &str) -> Result<(), ProbeError> {
    let mut limited = stream.take(REPLY_OCTETS_MAX);
    loop {
        let mut line = Vec::new();
        limited.read_until(b'\n', &mut line).await?;
        let line = String::from_utf8_lossy(&line);
        if !line.starts_with(code) {
            let shown: String = without_macs(line.trim_end()).chars().take(SHOWN_CHARS_MAX).collect();
            let text = format!("the host replied: {shown}");
            let is_temporary = line.starts_with('4');
            return Err(if is_temporary { ProbeError::Unknown(text) } else { ProbeError::Failed(text) });
        }
        if line.as_bytes().get(code.len()) != Some(&b'-') {
            return Ok(());
        }
    }
}
