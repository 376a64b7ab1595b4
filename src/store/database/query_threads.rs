//! The threads on which queries run. A query that takes long continues at a lower priority of the scheduler, so that quick
//! queries, acceptance and delivery get the processor before it. A process without privileges cannot raise a priority
//! again, so the thread ends with that query.

use std::cell::Cell;
use std::io;
use std::sync::{Arc, Weak, mpsc};

use parking_lot::Mutex;

use crate::blocking;
use crate::store::{Result, StoreError};

/// Priority of slow queries (`nice` of POSIX: 0 is the normal one, 19 the lowest). Beside a thread of normal priority that
/// never waits, they get a tenth of the processor, so they always end.
const SLOW_QUERY_NICE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;
type IdleThreads = Mutex<Vec<mpsc::Sender<Job>>>;

/// Threads that wait for a query; the one that was used last is used first.
#[derive(Default)]
pub(in crate::store) struct QueryThreads {
    idle: Arc<IdleThreads>,
}

thread_local! {
    static HAS_LOWER_PRIORITY: Cell<bool> = const { Cell::new(false) };
}

impl QueryThreads {
    /// Runs a query on a thread. The caller limits the number of queries that run at the same time.
    ///
    /// # Errors
    /// Those of the query; `Failed` if it panicked or no thread could be started.
    pub(in crate::store) async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if blocking::is_simulated() {
            let done = blocking::run(query).await;
            return done.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())));
        }
        let (sender, result) = tokio::sync::oneshot::channel();
        let job = Box::new(move || {
            // The requester may have gone.
            let _ = sender.send(query());
        });
        self.start(job).map_err(|error| StoreError::Failed(error.to_string()))?;
        result.await.map_err(|_| StoreError::Failed("a query panicked".into()))?
    }

    fn start(&self, mut job: Job) -> io::Result<()> {
        while let Some(thread) = pop(&self.idle) {
            match thread.send(job) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(unsent)) => job = unsent,
            }
        }
        let idle = Arc::downgrade(&self.idle);
        std::thread::Builder::new().name("store-query".into()).spawn(move || serve(job, &idle))?;
        Ok(())
    }
}

fn pop(idle: &IdleThreads) -> Option<mpsc::Sender<Job>> {
    idle.lock().pop()
}

/// Runs jobs until the priority was lowered or the store is gone.
fn serve(first: Job, idle: &Weak<IdleThreads>) {
    let mut job = first;
    loop {
        job();
        if HAS_LOWER_PRIORITY.get() {
            return;
        }
        let (sender, next) = mpsc::channel();
        let Some(threads) = idle.upgrade() else { return };
        threads.lock().push(sender);
        drop(threads);
        let Ok(next) = next.recv() else { return };
        job = next;
    }
}

/// Lowers the priority of this thread. It must be a thread of [`QueryThreads`].
pub(in crate::store) fn lower_priority() {
    if HAS_LOWER_PRIORITY.replace(true) {
        return;
    }
    // On Linux the priority belongs to the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, SLOW_QUERY_NICE) {
        tracing::debug!(%error, "the priority of a slow query was not lowered");
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use super::*;

    fn priority() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    /// Runs a query, then waits until its thread is idle or has ended.
    async fn run(threads: &QueryThreads, is_slow: bool) -> (ThreadId, i32) {
        let query = move || {
            if is_slow {
                lower_priority();
            }
            Ok((thread::current().id(), priority()))
        };
        let ran = threads.run(query).await.unwrap();
        let idle = async {
            while Arc::weak_count(&threads.idle) > threads.idle.lock().len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(5), idle).await.unwrap();
        ran
    }

    #[tokio::test]
    async fn a_thread_runs_quick_queries_until_it_has_run_a_slow_one() {
        let threads = QueryThreads::default();
        let normal = priority();
        let (first, first_priority) = run(&threads, false).await;
        let (second, _) = run(&threads, false).await;
        assert_eq!((first, first_priority), (second, normal));
        assert_eq!(run(&threads, true).await, (first, SLOW_QUERY_NICE.max(normal)));
        let (next, next_priority) = run(&threads, false).await;
        assert_ne!(next, first);
        assert_eq!(next_priority, normal);
    }

    #[tokio::test]
    async fn a_query_that_panics_fails_alone() {
        let threads = QueryThreads::default();
        let failed = threads.run(|| -> Result<()> { panic!("of the test") }).await;
        assert!(matches!(failed, Err(StoreError::Failed(_))), "{failed:?}");
        assert_eq!(threads.run(|| Ok(7)).await.unwrap(), 7);
    }
}
