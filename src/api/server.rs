//! Connections: accepting, TLS, HTTP/1.1 or HTTP/2 with their limits.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::header::CONTENT_LENGTH;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::accept_loop;
use crate::limits::connection_limiter::{ConnectionSlot, LimitReached};
use crate::mail::Timestamp;
use crate::model::{RefusalCode, RequestId};
use crate::telemetry::FLOOD;
use crate::tls::SharedServerConfig;

use super::error::ApiError;
use super::layers::idle_timeout::Activity;
use super::request_context::Origin;
use super::tasks::Tasks;
use super::{Api, router};

/// How long a TLS handshake or a request's header may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be idle before its first request with a valid key.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long closing a connection may take whose slot another one has taken.
const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// Interval of HTTP/2 pings, which detect lost clients.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// How long closing an idle connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADERS_MAX: usize = 64;
/// Octets of a header over HTTP/1.1, and of what waits to be sent there.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Octets of a header over HTTP/2, each field with 32 more (RFC 9113 §6.5.2). There is one for each stream.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Requests that a client may have open on one connection of HTTP/2. What a stream costs beside what the room accounts
/// for (a short answer, a header until its key is known) is to be multiplied by this and by the connections.
const STREAMS_MAX: u32 = 32;
/// Streams that a client opened and gave up before anybody looked at them (CVE-2023-44487), and faults that it caused; one
/// more, and the connection ends.
const RESETS_MAX: usize = 20;
const ERRORS_MAX: usize = 200;
/// Octets that a client may send ahead of whoever reads, on all streams of its connection together.
const UNREAD_BYTES_MAX: u32 = 256 * 1024;
/// Octets of one stream that wait for a client to take them.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// Accepts connections until `stop`. Returns when all running requests have ended.
pub async fn serve(api: Arc<Api>, listener: TcpListener, stop: CancellationToken) {
    let router = router::build(&api);
    let tasks = Tasks::new(stop.clone());
    let mut builder = Builder::new(tasks.clone());
    configure(&mut builder);
    accept_loop::accept_until(&stop, listener, |stream, peer| {
        let place = match admit(&api, peer) {
            Ok(place) => Arc::new(place),
            Err(option) => return refuse(&stream, api.tls.is_none(), option, api.now()),
        };
        let origin = Origin { client: peer.ip(), place, tasks: tasks.clone() };
        let connection =
            Connection { api: api.clone(), router: router.clone(), builder: builder.clone(), origin };
        tasks.spawn(connection.run(stream));
    })
    .await;
    tasks.end().await;
}

/// Reserves a slot for a connection. The error is the option that sets the reached limit.
fn admit(api: &Api, peer: SocketAddr) -> Result<ConnectionSlot, &'static str> {
    let mut place = api.connections.admit().map_err(|LimitReached| "api.connections_max")?;
    place.set_address(peer.ip()).map_err(|LimitReached| "api.connections_per_address_max")?;
    Ok(place)
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
fn refuse(stream: &TcpStream, is_plain: bool, option: &'static str, now: Timestamp) {
    tracing::warn!(target: FLOOD, "API connection refused: {option}");
    if is_plain && let Err(error) = stream.try_write(&overloaded(option, RequestId::generate(now))) {
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
    async fn run(self, stream: TcpStream) {
        let Some(tls) = self.api.tls.clone() else {
            return self.speak(stream).await;
        };
        let client = self.origin.client;
        let handshake = tokio::time::timeout(HEADER_TIMEOUT, acceptor(&tls).accept(stream));
        let handshake = tokio::select! {
            () = self.origin.tasks.stop.cancelled() => return,
            handshake = handshake => handshake,
        };
        match handshake {
            Ok(Ok(stream)) => self.speak(stream).await,
            Ok(Err(error)) => tracing::debug!(%client, %error, "API TLS handshake failed"),
            Err(_) => tracing::debug!(%client, "API TLS handshake timed out"),
        }
    }

    /// Serves requests until the client closes, the server stops or the idle timeout expires.
    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let Self { api, router, builder, origin } = self;
        let (client, stop) = (origin.client, origin.tasks.stop.clone());
        let place = origin.place.clone();
        let idle_timeout = api.settings.idle_timeout;
        let activity = Activity::default();
        let seen = activity.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (router, activity) = (router.clone(), seen.clone());
            request.extensions_mut().insert(origin.clone());
            async move {
                let _working = activity.begin();
                // Boxed, so that a stream whose answer is not taken does not keep the room that finding it took.
                let mut response = Box::pin(router.oneshot(request)).await?;
                if response.status() == StatusCode::NOT_MODIFIED {
                    // axum adds that of the empty body, but it would be that of the object (RFC 9110 §8.6).
                    response.headers_mut().remove(CONTENT_LENGTH);
                }
                Ok::<_, Infallible>(response.map(|body| activity.watch(body)))
            }
        });
        let evicted = place.evicted();
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = wait_until_idle(&activity, &place, idle_timeout) => {
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

/// Completes when the connection was idle for the timeout, which is short before its first request with a valid key.
async fn wait_until_idle(activity: &Activity, place: &ConnectionSlot, timeout: Duration) {
    let short = timeout.min(LOGIN_TIMEOUT);
    if !place.is_logged_in() {
        activity.wait_until_idle(short).await;
    }
    if place.is_logged_in() {
        activity.wait_until_idle(timeout).await;
    }
}

/// The server's present certificate, with the protocols that this listener speaks (RFC 7301).
fn acceptor(shared: &SharedServerConfig) -> TlsAcceptor {
    let mut config = rustls::ServerConfig::clone(&shared.load());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_connection_too_many_is_well_formed() {
        let bytes = overloaded("api.connections_max", RequestId::generate(Timestamp::UNIX_EPOCH));
        let text = std::str::from_utf8(&bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "overloaded");
    }
}
