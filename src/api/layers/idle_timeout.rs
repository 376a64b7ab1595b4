//! Idle timeout of connections. A connection is active while a request is in progress or the client receives response
//! data. Pings do not count.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// Checks per idle timeout.
const CHECKS: u32 = 4;

/// The activity of a connection. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Requests in progress.
    open: AtomicUsize,
    /// Started and ended requests, and parts of response bodies that were produced because the client received earlier ones.
    events: AtomicU64,
}

/// Marks a request as in progress until it is dropped.
#[derive(Debug)]
pub struct ActiveRequest(Activity);

impl Activity {
    /// Marks the start of a request.
    pub fn begin(&self) -> ActiveRequest {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.note_event();
        ActiveRequest(self.clone())
    }

    /// Completes once the connection has been idle for `limit`, or up to a quarter of it longer.
    pub async fn wait_until_idle(&self, limit: Duration) {
        let (mut seen, mut quiet) = (0, 0);
        while quiet < CHECKS {
            tokio::time::sleep(limit / CHECKS).await;
            let events = self.0.events.load(Ordering::Relaxed);
            let is_quiet = events == seen && self.0.open.load(Ordering::Relaxed) == 0;
            seen = events;
            quiet = if is_quiet { quiet + 1 } else { 0 };
        }
    }

    /// Wraps a response body so that its progress counts as activity.
    pub fn watch(&self, body: Body) -> WatchedBody {
        WatchedBody { body, activity: self.clone() }
    }

    fn note_event(&self) {
        self.0.events.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.note_event();
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body whose progress counts as activity.
pub struct WatchedBody {
    body: Body,
    activity: Activity,
}

impl hyper::body::Body for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.activity.note_event();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
