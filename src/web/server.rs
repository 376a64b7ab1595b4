//! Connections of the public pages: one request each, over HTTP/1.1, with or without TLS.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::PublicWeb;
use crate::accept_loop;
use crate::limits::connection_limiter::ConnectionSlot;
use crate::telemetry::FLOOD;
use crate::tls;

/// Timeout of a TLS handshake and of a request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a connection.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Header fields of a request.
const HEADERS_MAX: usize = 64;
/// Octets of a request head.
const HEADER_BYTES_MAX: usize = 16 * 1024;

impl PublicWeb {
    /// Accepts connections until `stop`. Returns when all running requests have ended.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        accept_loop::accept_until(&stop, listener, |stream, peer| {
            let Ok(slot) = self.admit(peer.ip()) else {
                tracing::warn!(target: FLOOD, "connection to the public pages refused: public.connections_max");
                return;
            };
            let (web, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                let evicted = slot.evicted();
                let exchange = tokio::time::timeout(EXCHANGE_TIMEOUT, web.run(stream, peer.ip(), slot, stop));
                let _ended = evicted.run_until_cancelled(exchange).await;
            });
        })
        .await;
        tasks.close();
        tasks.wait().await;
    }

    async fn run(&self, stream: TcpStream, peer: IpAddr, slot: ConnectionSlot, stop: CancellationToken) {
        let Some(tls) = &self.tls else { return self.speak(stream, peer, slot, stop).await };
        let handshake = TlsAcceptor::from(tls.load_full()).accept(stream);
        let handshake = tokio::time::timeout(HEADER_TIMEOUT, handshake);
        match stop.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => self.speak(stream, peer, slot, stop).await,
            Some(Ok(Err(error))) => {
                let reason = tls::explain_client_error(&error);
                tracing::debug!(%peer, "TLS handshake of the public pages failed: {reason}");
            }
            Some(Err(_)) | None => {}
        }
    }

    /// Serves one request.
    async fn speak<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        peer: IpAddr,
        slot: ConnectionSlot,
        stop: CancellationToken,
    ) {
        let service = service_fn(async |request: Request<Incoming>| {
            Ok::<_, Infallible>(self.respond(peer, &slot, request).await)
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEADER_BYTES_MAX)
            .keep_alive(false);
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection to the public pages ended early");
        }
    }
}
