//! Idle timeout of connections. A connection is active while a request is in progress or the client takes response data;
//! pings do not count.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// Looks within the time that a connection may be idle.
const LOOKS: u32 = 4;

/// What happens on a connection. Clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Requests that are worked on.
    open: AtomicUsize,
    /// Parts of answers that the client took, and requests that came.
    moves: AtomicU64,
}

/// A request that is worked on, until it is dropped.
#[derive(Debug)]
pub struct Working(Activity);

impl Activity {
    /// Begins a request.
    pub fn begin(&self) -> Working {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.note_move();
        Working(self.clone())
    }

    /// Completes when nothing has happened for `limit`, or a little later.
    pub async fn wait_until_idle(&self, limit: Duration) {
        let (mut seen, mut quiet) = (0, 0);
        while quiet < LOOKS {
            tokio::time::sleep(limit / LOOKS).await;
            let moves = self.0.moves.load(Ordering::Relaxed);
            let is_quiet = moves == seen && self.0.open.load(Ordering::Relaxed) == 0;
            seen = moves;
            quiet = if is_quiet { quiet + 1 } else { 0 };
        }
    }

    /// The same answer, of which every part that the client takes is noted.
    pub fn watch(&self, body: Body) -> Watched {
        Watched { body, activity: self.clone() }
    }

    fn note_move(&self) {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.note_move();
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer on its way.
pub struct Watched {
    body: Body,
    activity: Activity,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.activity.note_move();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
