//! Connections: accepting, TLS, HTTP/1.1 or HTTP/2 with their limits, and the orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::mail::{RefusalCode, RequestId, Timestamp};
use crate::tls::SharedServerConfig;

use super::Api;
use super::error::ApiError;
use super::idle::IdleLimit;

/// How long a TLS handshake or a request's header may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a stop waits for running requests before their connections are cut.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after a failed accept, such as one for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: u32 = 64 * 1024;
const STREAMS_MAX: u32 = 100;
/// Streams that a client opened and gave up before anybody looked at them (CVE-2023-44487), and faults that it caused; one
/// more, and the connection ends.
const RESETS_MAX: usize = 20;
const ERRORS_MAX: usize = 200;
/// Octets that a client may send ahead of whoever reads, on all streams of its connection together.
const UNREAD_BYTES_MAX: u32 = 256 * 1024;
/// Octets of one stream that wait for a client to take them.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// Runs hyper's own tasks (the streams of HTTP/2) where the stop can wait for them.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Accepts until `stop`, then lets running requests finish and answers when all of them have.
pub async fn serve(api: Arc<Api>, listener: TcpListener, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let graceful = GracefulShutdown::new();
    // Ends what the stop has waited for too long.
    let cut = CancellationToken::new();
    let mut builder = Builder::new(Tracked(tasks.clone()));
    configure(&mut builder);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection to the API could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = api.connections.clone().try_acquire_owned() else {
            refuse(&stream, api.tls.is_none());
            continue;
        };
        let connection = Connection {
            api: api.clone(),
            peer,
            builder: builder.clone(),
            watcher: graceful.watcher(),
            stop: stop.clone(),
            _permit: permit,
        };
        let cut = cut.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = connection.run(stream) => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests to the API ran on past the stop and were cut");
    }
    cut.cancel();
    tasks.wait().await;
}

fn configure(builder: &mut Builder<Tracked>) {
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX as usize);
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
        .keep_alive_interval(IDLE_TIMEOUT / 3)
        .keep_alive_timeout(HEADER_TIMEOUT);
}

/// Says so once, without waiting; behind TLS there is nobody to say it to yet.
fn refuse(stream: &TcpStream, is_plain: bool) {
    tracing::debug!("a connection to the API was refused: there are as many as api.connections_max");
    if is_plain && let Err(error) = stream.try_write(&overloaded(RequestId::generate(Timestamp::now()))) {
        tracing::trace!(%error, "the refused client has gone");
    }
}

/// What a connection above the limit hears, where a mere close would look like a fault of the network.
fn overloaded(request_id: RequestId) -> Vec<u8> {
    let error = ApiError::new(
        RefusalCode::Overloaded,
        "the API has as many connections as it takes",
        "close connections that are not used, or try again; the operator sets api.connections_max",
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
    peer: SocketAddr,
    builder: Builder<Tracked>,
    watcher: Watcher,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        // Answers are small and written whole: waiting for more to send only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::trace!(%error, "the client has gone");
        }
        let stream = IdleLimit::new(stream, IDLE_TIMEOUT);
        let Some(tls) = self.api.tls.clone() else {
            return self.speak(stream).await;
        };
        let handshake = tokio::time::timeout(HEADER_TIMEOUT, acceptor(&tls).accept(stream));
        let handshake = tokio::select! {
            () = self.stop.cancelled() => return,
            handshake = handshake => handshake,
        };
        match handshake {
            Ok(Ok(stream)) => self.speak(stream).await,
            Ok(Err(error)) => tracing::debug!(peer = %self.peer, %error, "TLS handshake with the API failed"),
            Err(_) => tracing::debug!(peer = %self.peer, "TLS handshake with the API timed out"),
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let Self { api, peer, builder, watcher, stop, _permit } = self;
        let service = service_fn(move |request| {
            let (api, stop) = (api.clone(), stop.clone());
            async move { Ok::<_, Infallible>(api.answer(request, peer.ip(), &stop).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%peer, error, "a connection to the API ended early");
        }
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
        let bytes = overloaded(RequestId::generate(Timestamp::UNIX_EPOCH));
        let text = std::str::from_utf8(&bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "overloaded");
    }
}
