//! Cancels what this node has in memory and another node of the database was asked to cancel.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::queue::QueueManager;
use crate::store::{AnnouncedCancellation, Queue};

/// Maximum of messages at once. Their commits share transactions.
const MESSAGES_MAX: usize = 32;

/// Runs until `stop`. A task that ends earlier stops the server.
pub async fn run(queue: Arc<QueueManager>, stop: CancellationToken) {
    let Some(mut feed) = queue.store().take_cancellation_feed() else { return stop.cancelled().await };
    let mut asked = Vec::new();
    while stop
        .run_until_cancelled(feed.recv_many(&mut asked, MESSAGES_MAX))
        .await
        .is_some_and(|count| count > 0)
    {
        join_all(asked.drain(..).map(|asked| cancel(&queue, asked))).await;
    }
    stop.cancelled().await;
}

async fn cancel(queue: &QueueManager, asked: AnnouncedCancellation) {
    let message = asked.message_id;
    if let Err(error) = queue.apply_announced_cancellation(asked).await {
        tracing::warn!(%error, %message, "what this node has of a message was not cancelled, as another node asked");
    }
}
