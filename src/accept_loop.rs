//! The accept loop of every listener. Imports nothing.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Delay after an error of accept that would otherwise repeat immediately, such as too many open files.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Accepts connections until `stop` and passes each to `serve`, which must not block; then closes the listener. The
/// caller limits connections, because only the caller knows how to refuse one.
pub async fn accept_until(
    stop: &CancellationToken,
    listener: TcpListener,
    mut serve: impl FnMut(TcpStream, SocketAddr),
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Replies are small and written whole, so Nagle's algorithm would only delay them.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
                }
                serve(stream, peer);
            }
            // The client closed the connection before it was accepted; others are not affected.
            Err(error) if concerns_one_client(&error) => {}
            Err(error) => {
                // The target of `telemetry::FLOOD`, which this layer does not import.
                let address = listener.local_addr().ok().map(tracing::field::display);
                tracing::error!(target: "pillarbox::flood", address, "cannot accept connections: {error}");
                stop.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await;
            }
        }
    }
}

fn concerns_one_client(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_loop_passes_on_connections_until_the_stop_and_closes_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, (sender, mut peers)) = (CancellationToken::new(), mpsc::unbounded_channel());
        let until = stop.clone();
        let accepting = tokio::spawn(async move {
            accept_until(&until, listener, |_, peer| sender.send(peer).unwrap()).await;
        });
        let client = TcpStream::connect(address).await.unwrap();
        let limit = Duration::from_secs(20);
        assert_eq!(timeout(limit, peers.recv()).await.unwrap(), Some(client.local_addr().unwrap()));
        stop.cancel();
        timeout(limit, accepting).await.unwrap().unwrap();
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
