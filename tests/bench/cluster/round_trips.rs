//! Counts round trips: a socket before that of the server, which counts how often a session sends after it has heard.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// The name of the socket in its directory, as PostgreSQL spells it.
const SOCKET: &str = ".s.PGSQL.5432";

#[derive(Clone, Default)]
pub struct RoundTrips(Arc<AtomicU64>);

impl RoundTrips {
    /// Takes sessions in `dir` and forwards them to the server in `to`.
    pub fn listen(dir: &Path, to: &Path) -> Self {
        let count = Self::default();
        let (listener, counted) = (UnixListener::bind(dir.join(SOCKET)).unwrap(), count.clone());
        let to = to.join(SOCKET);
        tokio::spawn(async move {
            while let Ok((session, _)) = listener.accept().await {
                let server = UnixStream::connect(&to).await.unwrap();
                tokio::spawn(counted.clone().forward(session, server));
            }
        });
        count
    }

    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    async fn forward(self, session: UnixStream, server: UnixStream) {
        let (from_session, to_session) = session.into_split();
        let (from_server, to_server) = server.into_split();
        let has_heard = AtomicBool::new(false);
        let asks = copy(from_session, to_server, || {
            if has_heard.swap(false, Ordering::Relaxed) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        });
        let answers = copy(from_server, to_session, || has_heard.store(true, Ordering::Relaxed));
        tokio::join!(asks, answers);
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut note: impl FnMut()) {
    let mut octets = vec![0; 256 * 1024];
    while let Ok(count @ 1..) = from.read(&mut octets).await {
        note();
        if to.write_all(&octets[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
