//! Connections of the API: accept loop, TLS handshake, HTTP/1.1 and HTTP/2, and their limits.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::accept_loop;
use crate::limits::connection_limiter::{ConnectionSlot, LimitReached};
use crate::mail::Timestamp;
use crate::model::{RefusalCode, RequestId};
use crate::net;
use crate::telemetry::FLOOD;
use crate::tls::{self, SharedServerConfig};

use super::error::ApiError;
use super::layers::idle_timeout::Activity;
use super::request_context::Origin;
use super::tasks::Tasks;
use super::{Api, router};

/// Timeout of a TLS handshake, of a request head, and of the response to an HTTP/2 ping.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be idle before its first request with a valid key.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long closing a connection may take whose slot another one has taken.
const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// Interval of HTTP/2 pings, which detect lost clients.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Timeout of closing an idle connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Header fields of a request over HTTP/1.1.
const HEADERS_MAX: usize = 64;
/// Octets of a request head over HTTP/1.1, and of data that waits to be sent there.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Octets of a request head over HTTP/2, for each stream. Each field counts 32 octets more (RFC 9113 §6.5.2).
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Concurrent streams of one HTTP/2 connection. The memory budget does not count short responses, nor request heads
/// before authentication: multiply their size by this and by the number of connections.
const STREAMS_MAX: u32 = 32;
/// Streams that a client may reset before the server accepts them (CVE-2023-44487). One more ends the connection.
const RESETS_MAX: usize = 20;
/// Streams that the server may reset because of client errors. One more ends the connection.
const ERRORS_MAX: usize = 200;
/// Octets that a client may send before the server reads them, on all streams of a connection together.
const UNREAD_BYTES_MAX: u32 = 256 * 1024;
/// Octets of one stream that wait to be sent.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// Serves the API and the pages. Accepts connections until `stop`. Returns when all running requests have ended.
pub async fn serve(api: Arc<Api>, listener: TcpListener, pages: Option<Router>, stop: CancellationToken) {
    let connections = Connections::new(api, pages, stop.clone());
    accept_loop::accept_until(&stop, listener, |stream, peer| connections.accept(stream.into(), peer)).await;
    connections.end().await;
}

/// The connections of a listener.
pub struct Connections {
    api: Arc<Api>,
    router: Router,
    builder: Builder<Tasks>,
    tasks: Tasks,
}

impl Connections {
    /// None yet. Idle ones end at the stop.
    pub fn new(api: Arc<Api>, pages: Option<Router>, stop: CancellationToken) -> Self {
        let router = router::build_with(&api, pages);
        let tasks = Tasks::new(stop);
        let mut builder = Builder::new(tasks.clone());
        configure(&mut builder);
        Self { api, router, builder, tasks }
    }

    /// Serves one more, unless there are too many.
    pub fn accept(&self, stream: net::Stream, peer: SocketAddr) {
        let Self { api, router, builder, tasks } = self;
        let slot = match admit(api, peer) {
            Ok(slot) => Arc::new(slot),
            Err(option) => return refuse(&stream, api.tls.is_none(), option, api.now()),
        };
        let origin = Origin { client: peer.ip(), slot, tasks: tasks.clone() };
        let connection =
            Connection { api: api.clone(), router: router.clone(), builder: builder.clone(), origin };
        tasks.spawn(connection.run(stream));
    }

    /// Waits until all have ended.
    async fn end(self) {
        self.tasks.end().await;
    }
}

/// Reserves a slot for a connection. The error is the option that sets the reached limit.
fn admit(api: &Api, peer: SocketAddr) -> Result<ConnectionSlot, &'static str> {
    let mut slot = api.connections.admit().map_err(|LimitReached| "api.connections_max")?;
    slot.set_address(peer.ip()).map_err(|LimitReached| "api.connections_per_address_max")?;
    Ok(slot)
}

fn configure(builder: &mut Builder<Tasks>) {
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(ERRORS_MAX)
        .initial_connection_window_size(UNREAD_BYTES_MAX)
        .initial_stream_window_size(UNREAD_BYTES_MAX)
        .max_send_buf_size(UNSENT_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(HEADER_TIMEOUT);
}

/// Sends a 503 without waiting, if the connection is plain: before a TLS handshake no response is possible.
fn refuse(stream: &net::Stream, is_plain: bool, option: &'static str, now: Timestamp) {
    tracing::warn!(target: FLOOD, "API connection refused: {option}");
    if is_plain && let Err(error) = stream.send_now(&overloaded(option, RequestId::generate(now))) {
        tracing::trace!(%error, "the refused client closed the connection");
    }
}

/// The 503 for a connection above the limit. Closing without a response would look like a network error.
fn overloaded(option: &str, request_id: RequestId) -> Vec<u8> {
    let error = ApiError::new(
        RefusalCode::Overloaded,
        "limit reached: API connections, from this address or in total",
        format!("close unused connections, or try again later; the operator sets {option}"),
    );
    let body = error.body(request_id);
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         X-Request-Id: {request_id}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

struct Connection {
    api: Arc<Api>,
    router: Router,
    builder: Builder<Tasks>,
    origin: Origin,
}

impl Connection {
    async fn run(self, stream: net::Stream) {
        let Some(acceptor) = self.api.tls.as_ref().map(ApiTls::acceptor) else {
            return self.speak(stream).await;
        };
        let client = self.origin.client;
        let handshake = tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(stream));
        let handshake = tokio::select! {
            () = self.origin.tasks.stop.cancelled() => return,
            handshake = handshake => handshake,
        };
        match handshake {
            Ok(Ok(stream)) => self.speak(stream).await,
            Ok(Err(error)) => {
                tracing::debug!(%client, "API TLS handshake failed: {}", tls::explain_client_error(&error));
            }
            Err(_) => tracing::debug!(%client, "API TLS handshake failed: timed out"),
        }
    }

    /// Serves requests until the client closes, the server stops or the idle timeout expires.
    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let Self { api, router, builder, origin } = self;
        let (client, stop) = (origin.client, origin.tasks.stop.clone());
        let slot = origin.slot.clone();
        let idle_timeout = api.settings.idle_timeout;
        let activity = Activity::default();
        let seen = activity.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (router, activity) = (router.clone(), seen.clone());
            request.extensions_mut().insert(origin.clone());
            name_host(&mut request);
            if let Some(uri) = router::without_prefix(request.uri()) {
                *request.uri_mut() = uri;
            }
            async move {
                let _working = activity.begin();
                // Boxed, so that the memory of the request future is released before the response body is sent.
                let mut response = Box::pin(router.oneshot(request)).await?;
                if response.status() == StatusCode::NOT_MODIFIED {
                    // axum sets the length of the empty body, but the field stands for that of the object (RFC 9110 §8.6).
                    response.headers_mut().remove(CONTENT_LENGTH);
                }
                Ok::<_, Infallible>(response.map(|body| activity.watch(body)))
            }
        });
        let evicted = slot.evicted();
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = wait_until_idle(&activity, &slot, idle_timeout) => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(CLOSE_TIMEOUT, connection).await.unwrap_or(Ok(()))
            }
            () = evicted.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(EVICTION_GRACE, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%client, error, "API connection ended early");
        }
    }
}

/// HTTP/2 names the host in `:authority`, HTTP/1.1 in `Host` (RFC 9113 §8.3.1). The handlers read `Host`. In a request with
/// both, the authority counts (RFC 9112 §3.2.2).
fn name_host(request: &mut Request<Incoming>) {
    let authority = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    if let Some(Ok(authority)) = authority {
        request.headers_mut().insert(HOST, authority);
    }
}

/// Completes when the connection was idle for the timeout, which is short before its first request with a valid key.
async fn wait_until_idle(activity: &Activity, slot: &ConnectionSlot, timeout: Duration) {
    let short = timeout.min(LOGIN_TIMEOUT);
    if !slot.is_logged_in() {
        activity.wait_until_idle(short).await;
    }
    if slot.is_logged_in() {
        activity.wait_until_idle(timeout).await;
    }
}

/// The certificate with the protocols of this listener for ALPN (RFC 7301).
pub struct ApiTls {
    shared: SharedServerConfig,
    /// The shared configuration that was copied last, and its copy with the protocols.
    copied: Mutex<(Arc<ServerConfig>, Arc<ServerConfig>)>,
}

impl ApiTls {
    pub fn new(shared: SharedServerConfig) -> Self {
        let current = shared.load_full();
        let copy = with_alpn(&current);
        Self { shared, copied: Mutex::new((current, copy)) }
    }

    /// An acceptor with the current certificate. The configuration is copied only after a reload.
    fn acceptor(&self) -> TlsAcceptor {
        let current = self.shared.load_full();
        let mut copied = self.copied.lock();
        if !Arc::ptr_eq(&copied.0, &current) {
            let copy = with_alpn(&current);
            *copied = (current, copy);
        }
        TlsAcceptor::from(Arc::clone(&copied.1))
    }
}

fn with_alpn(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_to_a_connection_over_the_limit_is_well_formed() {
        let bytes = overloaded("api.connections_max", RequestId::generate(Timestamp::UNIX_EPOCH));
        let text = std::str::from_utf8(&bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "overloaded");
    }
}
