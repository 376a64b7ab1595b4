//! HTTP client for URLs that come from tenants or from the DNS of other domains: it limits the target addresses, the
//! time and the response size. Imports `dns`, `egress_guard`, `tls`.
//!
//! Each request uses a new HTTP/1.1 connection. Redirects are not followed: the tenant or domain that named the URL has
//! not agreed to their target.

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
use crate::net::{self, Network};
use crate::tls::{self, TlsError};

/// Maximum number of addresses tried for one host.
const ADDRESSES_TRIED_MAX: usize = 4;
const HEADERS_MAX: usize = 64;
const HEADER_OCTETS_MAX: usize = 32 * 1024;

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    resolution: NameResolution,
    tls: TlsConnector,
    allowed_networks: Arc<[IpNet]>,
}

/// How host names are resolved.
#[derive(Clone)]
pub enum NameResolution {
    /// By DNS only, for names that tenants or other domains choose.
    Dns(Box<Resolver>),
    /// By the operating system, with `localhost`, the hosts file and search lists.
    System,
}

impl From<Resolver> for NameResolution {
    fn from(resolver: Resolver) -> Self {
        Self::Dns(Box::new(resolver))
    }
}

/// A request. The scheme is `https` or `http`; the caller decides whether plain HTTP is acceptable. The client sets
/// `Host`, `Connection` and the length headers.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The URL.
    pub url: Url,
    /// Other headers.
    pub headers: HeaderMap,
    /// The body; empty for none.
    pub body: Bytes,
}

/// The limits of a request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Timeout from the DNS lookup to the last octet of the response.
    pub timeout: Duration,
    /// Maximum size of the response body.
    pub body_octets_max: usize,
    /// The treatment of a larger body.
    pub overflow: OverflowPolicy,
}

/// The treatment of a response body above the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverflowPolicy {
    /// An error, [`SendError::TooLarge`].
    Refuse,
    /// The body is truncated.
    Truncate,
}

/// A complete response.
#[derive(Debug, Clone)]
pub struct Response {
    /// Any status, redirects included.
    pub status: StatusCode,
    /// The headers of the final response.
    pub headers: HeaderMap,
    /// The body without transfer coding.
    pub body: Bytes,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The URL has another scheme, no host, or credentials.
    #[error("the URL is not supported: {0}")]
    Url(&'static str),
    /// The DNS lookup of the host failed.
    #[error("{0}")]
    Dns(#[from] DnsError),
    /// The system's lookup of the host failed.
    #[error("cannot look up {host}: {source}")]
    SystemLookup {
        /// The host.
        host: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// All addresses of the host are forbidden; this is the first.
    #[error("{0} is a private, loopback or otherwise special address, to which requests are not sent")]
    Forbidden(IpAddr),
    /// No address accepted the connection; this is the last.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The TLS handshake or the verification of the certificate failed.
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    /// The response is not HTTP, or the connection broke.
    #[error("HTTP: {}", innermost(.0))]
    Http(#[source] hyper::Error),
    /// The response was not complete in time.
    #[error("no complete response within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The response body is larger than [`Limits::body_octets_max`].
    #[error("the response is larger than {0} octets")]
    TooLarge(usize),
}

impl Client {
    /// A client that trusts the system's certificate authorities and those in `ca_file` (PEM), and connects to public
    /// addresses and `allowed_networks`.
    ///
    /// # Errors
    /// [`TlsError`] if the file is unusable.
    pub fn new(
        resolution: impl Into<NameResolution>,
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
            resolution: resolution.into(),
            tls: Arc::new(config).into(),
            allowed_networks: allowed_networks.into(),
        })
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(&self, request: Request, limits: Limits) -> Result<Response, SendError> {
        let deadline = Instant::now() + limits.timeout;
        tokio::time::timeout_at(deadline, self.exchange(request, limits, deadline))
            .await
            .unwrap_or(Err(SendError::Timeout(limits.timeout)))
    }

    /// Sends a request and returns the response as a stream. `timeout` applies until its headers have arrived.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn open(&self, request: Request, timeout: Duration) -> Result<ResponseStream, SendError> {
        let deadline = Instant::now() + timeout;
        let opening = async {
            let stream = self.connect_to(&request.url, deadline).await?;
            let (mut sender, connection) = http_handshake(stream).await?;
            // The task ends with the response body.
            tokio::spawn(connection);
            let (head, body) =
                sender.send_request(encode(request)?).await.map_err(SendError::Http)?.into_parts();
            Ok(ResponseStream { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout_at(deadline, opening).await.unwrap_or(Err(SendError::Timeout(timeout)))
    }

    async fn exchange(
        &self,
        request: Request,
        limits: Limits,
        deadline: Instant,
    ) -> Result<Response, SendError> {
        let stream = self.connect_to(&request.url, deadline).await?;
        exchange_over(stream, request, limits).await
    }

    /// Connects to the host of a URL, with TLS for `https`.
    async fn connect_to(&self, url: &Url, deadline: Instant) -> Result<Stream, SendError> {
        let target = Target::of(url)?;
        let stream = self.connect(&target, deadline).await?;
        if !target.is_tls {
            return Ok(Either::Left(stream));
        }
        let name =
            ServerName::try_from(target.host).map_err(|_| SendError::Url("the host is not a valid name"))?;
        Ok(Either::Right(self.tls.connect(name, stream).await.map_err(SendError::Tls)?))
    }

    /// Connects to a permitted address. The check and the connection use the same lookup, because a name may resolve
    /// differently at each lookup.
    async fn connect(&self, target: &Target, deadline: Instant) -> Result<net::Stream, SendError> {
        let found = self.resolution.addresses(target).await?;
        let network = self.resolution.network();
        let is_permitted = |ip: &IpAddr| is_permitted(*ip, &self.allowed_networks);
        let permitted: Vec<IpAddr> =
            found.iter().copied().filter(is_permitted).take(ADDRESSES_TRIED_MAX).collect();
        let mut failure = match found.first() {
            Some(first) => SendError::Forbidden(*first),
            None => SendError::Dns(DnsError::NoRecords),
        };
        for (tried, ip) in permitted.iter().enumerate() {
            let address = SocketAddr::new(*ip, target.port);
            // Each address gets a share of the time, so that an unresponsive one leaves time for the next.
            let share = deadline.saturating_duration_since(Instant::now()) / (permitted.len() - tried) as u32;
            let connected = tokio::time::timeout(share, dial(network, address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(stream),
                Err(source) => failure = SendError::Connect { address, source },
            }
        }
        Err(failure)
    }
}

async fn dial(network: &Network, address: SocketAddr) -> io::Result<net::Stream> {
    if let Some(simulation) = network.simulation() {
        return Ok(net::Stream::Simulated(simulation.connect(address).await?));
    }
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream.into())
}

impl NameResolution {
    fn network(&self) -> &Network {
        const SYSTEM: &Network = &Network::system();
        match self {
            Self::Dns(resolver) => resolver.network(),
            Self::System => SYSTEM,
        }
    }

    async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, SendError> {
        match self {
            Self::Dns(resolver) => Ok(resolver.addresses(&target.host).await?),
            Self::System => {
                let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
                let found =
                    found.map_err(|source| SendError::SystemLookup { host: target.host.clone(), source })?;
                Ok(found.map(|address| address.ip()).collect())
            }
        }
    }
}

/// The connection parameters of a URL.
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
            _ => return Err(SendError::Url("the scheme must be https or http")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SendError::Url("it contains a user name or password"));
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => name.trim_end_matches('.').to_owned(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            None => return Err(SendError::Url("it has no host")),
        };
        let port = url.port_or_known_default().ok_or(SendError::Url("it has no port"))?;
        Ok(Self { host, port, is_tls })
    }
}

/// Plain TCP or TLS.
type Stream = Either<net::Stream, TlsStream<net::Stream>>;
type Connection = http1::Connection<TokioIo<Stream>, Full<Bytes>>;

/// A response read as a stream.
pub struct ResponseStream {
    /// Any status, redirects included.
    pub status: StatusCode,
    /// The headers of the final response.
    pub headers: HeaderMap,
    body: Incoming,
}

impl ResponseStream {
    /// The next piece of the body; `None` at the end.
    ///
    /// # Errors
    /// [`SendError::Http`] if the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SendError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(SendError::Http)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

async fn http_handshake(stream: Stream) -> Result<(http1::SendRequest<Full<Bytes>>, Connection), SendError> {
    http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_OCTETS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(SendError::Http)
}

async fn exchange_over(stream: Stream, request: Request, limits: Limits) -> Result<Response, SendError> {
    let request = encode(request)?;
    let (mut sender, connection) = http_handshake(stream).await?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await.map_err(SendError::Http)?.into_parts();
        let body = collect(body, limits).await?;
        Ok(Response { status: head.status, headers: head.headers, body })
    };
    drive(connection, exchange).await
}

/// Polls the connection until the exchange ends. hyper reports an error of the connection to the exchange too.
async fn drive<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = connection => exchange.await,
    }
}

fn encode(request: Request) -> Result<hyper::Request<Full<Bytes>>, SendError> {
    let Request { method, url, headers, body } = request;
    let origin_form = &url[url::Position::BeforePath..url::Position::AfterQuery];
    // RFC 9110 §7.2: without the port if it is the default of the scheme.
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let host =
        HeaderValue::from_str(authority).map_err(|_| SendError::Url("the host is not a valid name"))?;
    let mut encoded = hyper::Request::new(Full::new(body));
    *encoded.method_mut() = method;
    *encoded.uri_mut() = origin_form.parse().map_err(|_| SendError::Url("the path is too long"))?;
    *encoded.headers_mut() = headers;
    encoded.headers_mut().insert(HOST, host);
    encoded.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(encoded)
}

async fn collect(mut body: Incoming, limits: Limits) -> Result<Bytes, SendError> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(SendError::Http)?.into_data() else { continue };
        let remaining = limits.body_octets_max - collected.len();
        collected.extend_from_slice(&data[..data.len().min(remaining)]);
        if data.len() > remaining {
            match limits.overflow {
                OverflowPolicy::Refuse => return Err(SendError::TooLarge(limits.body_octets_max)),
                OverflowPolicy::Truncate => break,
            }
        }
    }
    Ok(collected.freeze())
}

/// The text of the innermost error. hyper's own text names the step, not the cause.
fn innermost(error: &hyper::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
