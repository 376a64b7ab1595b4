//! Groups of tasks that stop together within a deadline.

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Tasks that stop together.
pub struct TaskGroup {
    name: &'static str,
    tasks: JoinSet<&'static str>,
    /// Cancelled at the stop; tasks then end.
    pub stop: CancellationToken,
}

impl TaskGroup {
    /// A group without tasks.
    pub fn new(name: &'static str) -> Self {
        Self { name, tasks: JoinSet::new(), stop: CancellationToken::new() }
    }

    /// Starts a task.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits for the next task that ends, and returns its name. `None` if no task runs.
    pub async fn next_ended(&mut self) -> Option<Result<&'static str, JoinError>> {
        self.tasks.join_next().await
    }

    /// Signals the stop and waits until all tasks have ended.
    async fn end(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Like [`Self::end`], but aborts the tasks that still run at `end`. The error is the name of the group.
    async fn end_by(&mut self, end: Instant) -> Result<(), &'static str> {
        if tokio::time::timeout_at(end, self.end()).await.is_err() {
            self.tasks.abort_all();
            return Err(self.name);
        }
        Ok(())
    }
}

/// Ends two groups at the same time. The error is the name of a group that did not end in time.
pub async fn end_both(one: &mut TaskGroup, other: &mut TaskGroup, end: Instant) -> Result<(), &'static str> {
    let (one, other) = tokio::join!(one.end_by(end), other.end_by(end));
    one.and(other)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_group_that_hangs_does_not_shorten_the_time_of_the_other() {
        let (mut hung, mut busy) = (TaskGroup::new("hung"), TaskGroup::new("busy"));
        hung.spawn("client", std::future::pending());
        let finished = Arc::new(AtomicBool::new(false));
        let (stop, is_finished) = (busy.stop.clone(), finished.clone());
        busy.spawn("delivery", async move {
            stop.cancelled().await;
            tokio::task::yield_now().await;
            is_finished.store(true, Ordering::Relaxed);
        });
        let end = Instant::now() + Duration::from_secs(1);
        assert_eq!(end_both(&mut hung, &mut busy, end).await, Err("hung"));
        assert!(finished.load(Ordering::Relaxed));
    }
}
