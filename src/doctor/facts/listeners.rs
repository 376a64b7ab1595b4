//! Handshakes with the listeners of the running server, as mail clients make them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dialogue::read_reply;
use super::{FACT_TIMEOUT, Handshake, HandshakeFacts, NO_SERVER, Seen, blocking};
use crate::config::Config;
use crate::mail::DomainName;
use crate::tls::pinned_client;

/// The listeners of submission.
#[derive(Debug, Clone, Default)]
pub struct Listening {
    /// Those with STARTTLS.
    pub submission: Vec<SocketAddr>,
    /// Those with implicit TLS.
    pub submissions: Vec<SocketAddr>,
}

pub const PROXIED: &str = "the listeners expect the PROXY protocol from this machine";

/// Connects to each listener. `certificate` is the file of the running server.
pub async fn gather(config: &Config, listening: Option<&Listening>, certificate: &Path) -> HandshakeFacts {
    let not_asked =
        |reason| HandshakeFacts { starttls: Seen::NotAsked(reason), implicit: Seen::NotAsked(reason) };
    let Some(Listening { submission, submissions }) = listening else { return not_asked(NO_SERVER) };
    if submission.iter().chain(submissions).any(|address| is_proxied(config, address)) {
        return not_asked(PROXIED);
    }
    let connector = match connector(certificate).await {
        Seen::Value(connector) => connector,
        other => return HandshakeFacts { starttls: other.clone().absent(), implicit: other.absent() },
    };
    let hostname = &config.hostname;
    let (starttls, implicit) = tokio::join!(
        join_all(submission.iter().map(|address| dial(*address, hostname, &connector, true))),
        join_all(submissions.iter().map(|address| dial(*address, hostname, &connector, false)))
    );
    HandshakeFacts { starttls: Seen::Value(starttls), implicit: Seen::Value(implicit) }
}

/// Whether a listener expects the PROXY protocol from this machine. To an own address the system connects from the same
/// address.
pub fn is_proxied(config: &Config, address: &SocketAddr) -> bool {
    let from = reachable(*address).ip();
    config.smtp.proxy_protocol_from.iter().any(|network| network.contains(&from))
}

/// Trusts the certificate of the running server only.
pub async fn connector(certificate: &Path) -> Seen<TlsConnector> {
    let file = certificate.to_owned();
    blocking(move || match pinned_client(&file) {
        Ok(client) => Seen::Value(Arc::new(client).into()),
        Err(error) => Seen::Failed(error.to_string()),
    })
    .await
}

async fn dial(
    address: SocketAddr,
    hostname: &DomainName,
    connector: &TlsConnector,
    is_starttls: bool,
) -> Handshake {
    let shaken = shake_hands(address, hostname, connector, is_starttls);
    let result = match tokio::time::timeout(FACT_TIMEOUT, shaken).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it did not answer in time".to_owned()),
    };
    Handshake { address, result }
}

/// Returns whether AUTH was offered in clear.
async fn shake_hands(
    address: SocketAddr,
    hostname: &DomainName,
    connector: &TlsConnector,
    is_starttls: bool,
) -> io::Result<bool> {
    let (mut stream, offers_auth) = secure(address, hostname, connector, is_starttls).await?;
    // What follows is a courtesy.
    let _ = stream.write_all(b"QUIT\r\n").await;
    Ok(offers_auth)
}

/// Connects with TLS. Returns also whether AUTH was offered in clear.
pub async fn secure(
    address: SocketAddr,
    hostname: &DomainName,
    connector: &TlsConnector,
    is_starttls: bool,
) -> io::Result<(TlsStream<TcpStream>, bool)> {
    let name = ServerName::try_from(hostname.to_string()).map_err(io::Error::other)?;
    let mut stream = BufReader::new(TcpStream::connect(reachable(address)).await?);
    let mut offers_auth = false;
    if is_starttls {
        expect(&mut stream, "220").await?;
        stream.write_all(format!("EHLO {hostname}\r\n").as_bytes()).await?;
        let extensions = expect(&mut stream, "250").await?;
        let is_auth = |line: &String| line.get(4..).is_some_and(|word| word.starts_with("AUTH"));
        offers_auth = extensions.iter().any(is_auth);
        stream.write_all(b"STARTTLS\r\n").await?;
        expect(&mut stream, "220").await?;
    }
    Ok((connector.connect(name, stream.into_inner()).await?, offers_auth))
}

/// Reads a reply, which must have this code.
pub async fn expect(stream: &mut BufReader<impl AsyncRead + Unpin>, code: &str) -> io::Result<Vec<String>> {
    let lines = read_reply(stream).await?;
    match lines.first().filter(|line| !line.starts_with(code)) {
        Some(refusal) => Err(io::Error::other(refusal.clone())),
        None => Ok(lines),
    }
}

/// The address at which a listener is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
