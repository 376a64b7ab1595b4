//! The jobs that wait for a lane of the writer.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore};

use crate::store::{Result, StoreError};

/// Maximum of waiting jobs; further senders wait.
const JOBS_MAX: usize = 4096;
/// Maximum of jobs in one transaction.
const BATCH_JOBS_MAX: usize = 512;
/// A transaction of hot jobs takes no more of them after so many octets.
const BATCH_OCTETS_MAX: usize = 4 * 1024 * 1024;

/// What may run at the same time as a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobKind {
    /// Only enqueues, claims or records: hot jobs of other lanes and processes.
    Hot,
    /// Nothing.
    Alone,
}

/// A waiting item.
struct Waiting<T> {
    /// Its place in the order of arrival.
    number: u64,
    /// How much it sends to the database.
    octets: usize,
    item: T,
}

struct Queues<T> {
    hot: VecDeque<Waiting<T>>,
    alone: VecDeque<Waiting<T>>,
    next_number: u64,
    /// Whether a lane runs jobs that run alone.
    is_one_alone: bool,
    lanes: usize,
    is_closed: bool,
}

/// A queue of jobs for several lanes.
pub(super) struct JobQueue<T> {
    queues: Mutex<Queues<T>>,
    changed: Condvar,
    /// As `changed`, for a lane of a simulation, which has no thread.
    simulated_change: Notify,
    space: Semaphore,
    /// Whether a transaction may have jobs of both kinds. They all run alone then.
    mixes: bool,
}

impl<T> JobQueue<T> {
    pub(super) fn new(lanes: usize, mixes: bool) -> Self {
        let queues = Queues {
            hot: VecDeque::new(),
            alone: VecDeque::new(),
            next_number: 0,
            is_one_alone: false,
            lanes,
            is_closed: false,
        };
        Self {
            queues: Mutex::new(queues),
            changed: Condvar::new(),
            simulated_change: Notify::new(),
            space: Semaphore::new(JOBS_MAX),
            mixes,
        }
    }

    /// Adds an item once there is space.
    pub(super) async fn send(&self, kind: JobKind, octets: usize, item: T) -> Result<()> {
        self.space.acquire().await.map_err(|_| StoreError::Closed)?.forget();
        self.add(kind, octets, item)
    }

    /// Adds an item if there is space.
    pub(super) fn try_send(&self, kind: JobKind, item: T) -> Result<()> {
        self.space.try_acquire().map_err(|_| StoreError::Busy)?.forget();
        self.add(kind, 0, item)
    }

    fn add(&self, kind: JobKind, octets: usize, item: T) -> Result<()> {
        let mut queues = self.queues.lock();
        if queues.is_closed {
            return Err(StoreError::Closed);
        }
        let number = queues.next_number;
        queues.next_number += 1;
        queues.of(kind).push_back(Waiting { number, octets, item });
        drop(queues);
        self.changed.notify_one();
        self.simulated_change.notify_one();
        Ok(())
    }

    /// Waits for items, and takes those of one kind that wait; `None` once the queue is closed and empty. A lane that took
    /// items that run alone calls [`Self::end_alone`] afterwards.
    pub(super) fn take(&self, taken: &mut Vec<T>) -> Option<JobKind> {
        let mut queues = self.queues.lock();
        let kind = loop {
            if let Some(kind) = queues.next_kind() {
                break kind;
            }
            if queues.is_at_end() {
                return None;
            }
            self.changed.wait(&mut queues);
        };
        Some(self.take_of_kind(&mut queues, kind, taken))
    }

    /// As [`Self::take`], in a simulation: once there are items, others that come within the time may be taken with them.
    pub(super) async fn take_after(
        &self,
        duration: impl Fn() -> Duration,
        taken: &mut Vec<T>,
    ) -> Option<JobKind> {
        loop {
            let is_waiting = self.queues.lock().next_kind().is_some();
            if is_waiting {
                tokio::time::sleep(duration()).await;
                let mut queues = self.queues.lock();
                if let Some(kind) = queues.next_kind() {
                    return Some(self.take_of_kind(&mut queues, kind, taken));
                }
            }
            if self.queues.lock().is_at_end() {
                return None;
            }
            self.simulated_change.notified().await;
        }
    }

    fn take_of_kind(&self, queues: &mut Queues<T>, kind: JobKind, taken: &mut Vec<T>) -> JobKind {
        let mut octets = 0;
        let count_before = taken.len();
        while taken.len() - count_before < BATCH_JOBS_MAX && (self.mixes || octets < BATCH_OCTETS_MAX) {
            let kind = if self.mixes { queues.oldest_kind().unwrap_or(kind) } else { kind };
            let Some(next) = queues.of(kind).pop_front() else { break };
            octets += next.octets;
            taken.push(next.item);
        }
        self.space.add_permits(taken.len() - count_before);
        queues.is_one_alone |= kind == JobKind::Alone;
        if self.mixes { JobKind::Alone } else { kind }
    }

    /// Lets other lanes take items that run alone.
    pub(super) fn end_alone(&self) {
        self.queues.lock().is_one_alone = false;
        self.changed.notify_all();
        self.simulated_change.notify_one();
    }

    /// Takes no more items.
    pub(super) fn close(&self) {
        self.queues.lock().is_closed = true;
        self.space.close();
        self.changed.notify_all();
        self.simulated_change.notify_one();
    }

    /// A lane has ended. Nothing would take the items after the last one.
    pub(super) fn end_lane(&self) {
        let mut queues = self.queues.lock();
        queues.lanes -= 1;
        if queues.lanes == 0 {
            let left = (std::mem::take(&mut queues.hot), std::mem::take(&mut queues.alone));
            drop(queues);
            self.close();
            drop(left);
        }
    }
}

impl<T> Queues<T> {
    fn of(&mut self, kind: JobKind) -> &mut VecDeque<Waiting<T>> {
        match kind {
            JobKind::Hot => &mut self.hot,
            JobKind::Alone => &mut self.alone,
        }
    }

    fn is_at_end(&self) -> bool {
        self.is_closed && self.hot.is_empty() && self.alone.is_empty()
    }

    /// The kind of the item that has waited longest.
    fn oldest_kind(&self) -> Option<JobKind> {
        match (self.hot.front(), self.alone.front()) {
            (Some(hot), Some(alone)) if alone.number < hot.number => Some(JobKind::Alone),
            (Some(_), _) => Some(JobKind::Hot),
            (None, alone) => alone.map(|_| JobKind::Alone),
        }
    }

    /// The kind of the items that a lane may take next.
    fn next_kind(&self) -> Option<JobKind> {
        match self.oldest_kind() {
            Some(JobKind::Alone) if self.is_one_alone => (!self.hot.is_empty()).then_some(JobKind::Hot),
            kind => kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(queue: &JobQueue<u32>) -> (JobKind, Vec<u32>) {
        let mut taken = Vec::new();
        (queue.take(&mut taken).unwrap(), taken)
    }

    fn filled(mixes: bool) -> JobQueue<u32> {
        let queue = JobQueue::new(2, mixes);
        for (kind, item) in [(JobKind::Hot, 1), (JobKind::Alone, 2), (JobKind::Hot, 3), (JobKind::Alone, 4)] {
            queue.try_send(kind, item).unwrap();
        }
        queue
    }

    #[test]
    fn a_transaction_has_jobs_of_one_kind_unless_all_run_alone() {
        let queue = filled(false);
        assert_eq!(take(&queue), (JobKind::Hot, vec![1, 3]));
        assert_eq!(take(&queue), (JobKind::Alone, vec![2, 4]));
        assert_eq!(take(&filled(true)), (JobKind::Alone, vec![1, 2, 3, 4]));
    }

    #[test]
    fn one_lane_at_a_time_takes_jobs_that_run_alone() {
        let queue = filled(false);
        take(&queue);
        take(&queue);
        queue.try_send(JobKind::Alone, 5).unwrap();
        queue.try_send(JobKind::Hot, 6).unwrap();
        assert_eq!(take(&queue), (JobKind::Hot, vec![6]));
        queue.end_alone();
        assert_eq!(take(&queue), (JobKind::Alone, vec![5]));
    }

    #[tokio::test]
    async fn the_octets_of_a_transaction_are_limited() {
        let queue = JobQueue::new(1, false);
        for item in 0..3 {
            queue.send(JobKind::Hot, BATCH_OCTETS_MAX / 2, item).await.unwrap();
        }
        assert_eq!(take(&queue).1, [0, 1]);
        assert_eq!(take(&queue).1, [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_simulation_jobs_that_come_during_a_commit_are_taken_with_the_first() {
        let queue = JobQueue::new(1, true);
        let mut taken = Vec::new();
        let send = async {
            queue.send(JobKind::Hot, 0, 1).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            queue.send(JobKind::Alone, 0, 2).await.unwrap();
            queue.close();
        };
        let (kind, ()) = tokio::join!(queue.take_after(|| Duration::from_millis(9), &mut taken), send);
        assert_eq!((kind, &taken), (Some(JobKind::Alone), &vec![1, 2]));
        queue.end_alone();
        assert_eq!(queue.take_after(|| Duration::ZERO, &mut taken).await, None);
    }

    #[tokio::test]
    async fn a_closed_queue_is_emptied_and_takes_nothing() {
        let queue = filled(false);
        queue.close();
        assert!(matches!(queue.send(JobKind::Hot, 0, 9).await, Err(StoreError::Closed)));
        take(&queue);
        take(&queue);
        queue.end_alone();
        assert_eq!(queue.take(&mut Vec::new()), None);
    }

    #[test]
    fn items_are_dropped_with_the_last_lane() {
        let queue = filled(false);
        queue.end_lane();
        assert!(!queue.queues.lock().is_closed);
        queue.end_lane();
        let queues = queue.queues.lock();
        assert!(queues.is_closed && queues.hot.is_empty() && queues.alone.is_empty());
    }
}
