//! Requests over HTTP that others cause: the URL comes from a tenant or from the DNS of a stranger, so the address that
//! it leads to, the time and the size of the answer are all bounded. A leaf: imports `dns`, `network`, `tls`.
//!
//! Each request has a connection of its own, HTTP/1.1, and redirects are answers like any other: where they lead
//! would have to be asked of the one who made the request.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use url::{Host, Url};

use crate::dns::{DnsError, Resolver};
use crate::egress_guard::is_permitted;
use crate::tls::{self, TlsError};

/// Addresses of one host that are tried.
const ADDRESSES_TRIED_MAX: usize = 4;
const HEADERS_MAX: usize = 64;
const HEADER_OCTETS_MAX: usize = 32 * 1024;

/// Makes requests. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    names: Names,
    tls: TlsConnector,
    allowed_networks: Arc<[IpNet]>,
}

/// How the host of a URL becomes addresses.
#[derive(Clone)]
pub enum Names {
    /// By the DNS alone, as is right for names that strangers give.
    Dns(Box<Resolver>),
    /// As for other programs of this machine: `localhost`, its file of hosts and its search list hold too.
    System,
}

impl From<Resolver> for Names {
    fn from(resolver: Resolver) -> Self {
        Self::Dns(Box::new(resolver))
    }
}

/// What is asked. `https` or `http`; whether the latter is good enough is the caller's to decide. The headers
/// `Host`, `Connection` and those of the body's length are ours.
#[derive(Debug, Clone)]
pub struct Request {
    /// How.
    pub method: Method,
    /// Of whom, and what.
    pub url: Url,
    /// What else there is to say.
    pub headers: HeaderMap,
    /// Empty for none.
    pub body: Bytes,
}

/// What a request may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the look-up to the last octet of the body.
    pub timeout: Duration,
    /// Of the answer.
    pub body_octets_max: usize,
    /// What becomes of a longer one.
    pub excess: OverflowPolicy,
}

/// What becomes of an answer that is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverflowPolicy {
    /// It is [`SendError::TooLarge`].
    Refuse,
    /// It is cut: the rest is not read.
    Cut,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Response {
    /// Any, redirects included.
    pub status: StatusCode,
    /// Those of the final answer.
    pub headers: HeaderMap,
    /// Without transfer coding.
    pub body: Bytes,
}

/// Where a request came to its end.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The URL is of another scheme, names no host or carries a password.
    #[error("the URL is not one to send to: {0}")]
    Url(&'static str),
    /// The host's name did not lead to an address.
    #[error("{0}")]
    Dns(#[from] DnsError),
    /// Nor did it by the means of this machine.
    #[error("cannot look up {host}: {source}")]
    Name {
        /// Whose address was wanted.
        host: String,
        /// What the system says.
        source: io::Error,
    },
    /// It leads only to addresses that we do not connect to; this is the first.
    #[error("{0} is a private, loopback or otherwise special address, which requests are not made to")]
    Forbidden(IpAddr),
    /// No address took the connection; this is the last.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No TLS, or no certificate for this name that leads to a trusted authority.
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    /// What came is not HTTP, or it broke off.
    #[error("HTTP: {}", innermost(.0))]
    Http(#[source] hyper::Error),
    /// The answer was not there in time.
    #[error("no whole answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The answer is longer than [`Limits::body_octets_max`].
    #[error("the answer is longer than {0} octets")]
    TooLarge(usize),
}

impl Client {
    /// A client that trusts the system's authorities and those in `ca_file` (PEM), and connects to public addresses and
    /// those in `allowed_networks`.
    ///
    /// # Errors
    /// [`TlsError`] if the file is of no use.
    pub fn new(
        names: impl Into<Names>,
        ca_file: Option<&Path>,
        allowed_networks: &[IpNet],
    ) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .map_err(TlsError::Library)?
            .with_root_certificates(tls::trusted_roots(ca_file)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            names: names.into(),
            tls: Arc::new(config).into(),
            allowed_networks: allowed_networks.into(),
        })
    }

    /// Makes a request and reads its answer.
    ///
    /// # Errors
    /// [`SendError`], which tells how far it came.
    pub async fn send(&self, request: Request, limits: Limits) -> Result<Response, SendError> {
        let deadline = Instant::now() + limits.timeout;
        tokio::time::timeout_at(deadline, self.exchange(request, limits, deadline))
            .await
            .unwrap_or(Err(SendError::Timeout(limits.timeout)))
    }

    /// Makes a request whose answer has no end, or one that is not waited for; `timeout` is for its beginning.
    ///
    /// # Errors
    /// [`SendError`], which tells how far it came.
    pub async fn open(&self, request: Request, timeout: Duration) -> Result<ResponseStream, SendError> {
        let deadline = Instant::now() + timeout;
        let beginning = async {
            let stream = self.reach(&request.url, deadline).await?;
            let (mut sender, connection) = shake_hands(stream).await?;
            // It ends with the body that it serves.
            tokio::spawn(connection);
            let (head, body) =
                sender.send_request(encode(request)?).await.map_err(SendError::Http)?.into_parts();
            Ok(ResponseStream { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout_at(deadline, beginning).await.unwrap_or(Err(SendError::Timeout(timeout)))
    }

    async fn exchange(
        &self,
        request: Request,
        limits: Limits,
        deadline: Instant,
    ) -> Result<Response, SendError> {
        let stream = self.reach(&request.url, deadline).await?;
        speak(stream, request, limits).await
    }

    /// A connection to the host of a URL, with TLS if its scheme says so.
    async fn reach(&self, url: &Url, deadline: Instant) -> Result<Stream, SendError> {
        let target = Target::of(url)?;
        let stream = self.connect(&target, deadline).await?;
        if !target.is_tls {
            return Ok(Either::Left(stream));
        }
        let name = ServerName::try_from(target.host).map_err(|_| SendError::Url("its host is no name"))?;
        Ok(Either::Right(self.tls.connect(name, stream).await.map_err(SendError::Tls)?))
    }

    /// The guard stands here, on the very addresses that are connected to: a name may lead elsewhere at every look-up.
    async fn connect(&self, target: &Target, deadline: Instant) -> Result<TcpStream, SendError> {
        let found = self.names.addresses(target).await?;
        let is_permitted = |ip: &IpAddr| is_permitted(*ip, &self.allowed_networks);
        let permitted: Vec<IpAddr> =
            found.iter().copied().filter(is_permitted).take(ADDRESSES_TRIED_MAX).collect();
        let mut failure = match found.first() {
            Some(first) => SendError::Forbidden(*first),
            None => SendError::Dns(DnsError::NoRecords),
        };
        for (tried, ip) in permitted.iter().enumerate() {
            let address = SocketAddr::new(*ip, target.port);
            // Each gets its share of the time, so that one that swallows packets leaves some to the next.
            let share = deadline.saturating_duration_since(Instant::now()) / (permitted.len() - tried) as u32;
            let connected = tokio::time::timeout(share, TcpStream::connect(address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(|source| SendError::Connect { address, source })?;
                    return Ok(stream);
                }
                Err(source) => failure = SendError::Connect { address, source },
            }
        }
        Err(failure)
    }
}

impl Names {
    async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, SendError> {
        match self {
            Self::Dns(resolver) => Ok(resolver.addresses(&target.host).await?),
            Self::System => {
                let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
                let found = found.map_err(|source| SendError::Name { host: target.host.clone(), source })?;
                Ok(found.map(|address| address.ip()).collect())
            }
        }
    }
}

/// What of a URL decides the connection.
struct Target {
    host: String,
    port: u16,
    is_tls: bool,
}

impl Target {
    fn of(url: &Url) -> Result<Self, SendError> {
        let is_tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(SendError::Url("its scheme is not https")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SendError::Url("it carries a user name or a password"));
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => name.trim_end_matches('.').to_owned(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            None => return Err(SendError::Url("it names no host")),
        };
        let port = url.port_or_known_default().ok_or(SendError::Url("it names no port"))?;
        Ok(Self { host, port, is_tls })
    }
}

/// In clear or in TLS.
type Stream = Either<TcpStream, TlsStream<TcpStream>>;
type Connection = http1::Connection<TokioIo<Stream>, Full<Bytes>>;

/// An answer that is read as it comes.
pub struct ResponseStream {
    /// Any, redirects included.
    pub status: StatusCode,
    /// Those of the final answer.
    pub headers: HeaderMap,
    body: Incoming,
}

impl ResponseStream {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`SendError::Http`] if it breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SendError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(SendError::Http)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

async fn shake_hands(stream: Stream) -> Result<(http1::SendRequest<Full<Bytes>>, Connection), SendError> {
    http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_OCTETS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(SendError::Http)
}

async fn speak(stream: Stream, request: Request, limits: Limits) -> Result<Response, SendError> {
    let request = encode(request)?;
    let (mut sender, connection) = shake_hands(stream).await?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await.map_err(SendError::Http)?.into_parts();
        let body = collect(body, limits).await?;
        Ok(Response { status: head.status, headers: head.headers, body })
    };
    drive(connection, exchange).await
}

/// The connection moves only while somebody waits for it; what it fails of, the exchange hears too.
async fn drive<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

fn encode(request: Request) -> Result<hyper::Request<Full<Bytes>>, SendError> {
    let Request { method, url, headers, body } = request;
    let origin_form = &url[url::Position::BeforePath..url::Position::AfterQuery];
    // RFC 9110 §7.2: without the port where it is the scheme's own.
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let host = HeaderValue::from_str(authority).map_err(|_| SendError::Url("its host is no name"))?;
    let mut encoded = hyper::Request::new(Full::new(body));
    *encoded.method_mut() = method;
    *encoded.uri_mut() = origin_form.parse().map_err(|_| SendError::Url("its path is too long"))?;
    *encoded.headers_mut() = headers;
    encoded.headers_mut().insert(HOST, host);
    encoded.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(encoded)
}

async fn collect(mut body: Incoming, limits: Limits) -> Result<Bytes, SendError> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(SendError::Http)?.into_data() else { continue };
        let room = limits.body_octets_max - collected.len();
        collected.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            match limits.excess {
                OverflowPolicy::Refuse => return Err(SendError::TooLarge(limits.body_octets_max)),
                OverflowPolicy::Cut => break,
            }
        }
    }
    Ok(collected.freeze())
}

/// hyper says what it was doing; the error below it says what was wrong.
fn innermost(error: &hyper::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
