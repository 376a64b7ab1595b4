//! When a background task looks for work again.

use std::time::Duration;

use tokio::sync::watch;

use super::{Clock, Instant};

/// The longest pause while nothing changes.
const QUIET_PAUSE: Duration = Duration::from_secs(60 * 60);

/// The rounds of a background task: the first at once, the others a pause after the one before. While nothing changes, a round
/// would find what the last one has found, so it begins only with the next change, at a time that the task names, or after an
/// hour: time alone can make work due, and a program beside this one can have changed something.
#[derive(Debug)]
pub struct Rounds {
    clock: Clock,
    pause: Duration,
    /// Counts changes; `None` if others change things, too.
    changes: Option<watch::Receiver<u64>>,
    began: Option<Instant>,
    /// When the next round begins, unless something changes before.
    due: Option<Instant>,
}

impl Rounds {
    /// Rounds with at least this pause between two of them. Without `changes`, exactly this pause.
    pub const fn new(clock: Clock, pause: Duration, changes: Option<watch::Receiver<u64>>) -> Self {
        Self { clock, pause, changes, began: None, due: None }
    }

    /// Completes when the next round begins. Safe to cancel.
    pub async fn next(&mut self) {
        if let Some(began) = self.began {
            if let Some(changes) = &mut self.changes {
                let due = self.due.unwrap_or(began + QUIET_PAUSE);
                tokio::select! {
                    // An error means that the store is closed: the task is about to be stopped.
                    _ = changes.changed() => self.due = Some(began),
                    () = self.clock.sleep_until(due) => {}
                }
            }
            self.clock.sleep_until(began + self.pause).await;
        }
        // What changes from here on may be missed by this round.
        if let Some(changes) = &mut self.changes {
            changes.mark_unchanged();
        }
        (self.began, self.due) = (Some(self.clock.instant()), None);
    }

    /// The next round begins after this time at the latest, if that is later than the pause.
    pub fn again_after(&mut self, length: Duration) {
        let at = self.clock.instant() + length;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// The next round begins after the pause: this one has left something.
    pub fn again(&mut self) {
        self.again_after(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::timeout;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(60);

    async fn begins(rounds: &mut Rounds) -> bool {
        let next = pin!(rounds.next());
        timeout(Duration::from_millis(50), next).await.is_ok()
    }

    #[tokio::test]
    async fn a_round_follows_a_change_but_not_sooner_than_the_pause() {
        let (clock, changes) = (Clock::adjustable(), watch::Sender::new(0));
        let mut rounds = Rounds::new(clock.clone(), PAUSE, Some(changes.subscribe()));
        assert!(begins(&mut rounds).await, "the first at once");
        clock.advance(2 * PAUSE);
        assert!(!begins(&mut rounds).await, "nothing has changed");
        changes.send_modify(|count| *count += 1);
        assert!(begins(&mut rounds).await);
        changes.send_modify(|count| *count += 1);
        assert!(!begins(&mut rounds).await, "the pause is not over");
        clock.advance(PAUSE);
        assert!(begins(&mut rounds).await);
    }

    #[tokio::test]
    async fn without_changes_a_round_begins_when_the_task_says_so_or_after_an_hour() {
        let (clock, changes) = (Clock::adjustable(), watch::Sender::new(0));
        let mut rounds = Rounds::new(clock.clone(), PAUSE, Some(changes.subscribe()));
        assert!(begins(&mut rounds).await);
        rounds.again_after(5 * PAUSE);
        clock.advance(4 * PAUSE);
        assert!(!begins(&mut rounds).await);
        clock.advance(PAUSE);
        assert!(begins(&mut rounds).await);
        rounds.again();
        assert!(!begins(&mut rounds).await);
        clock.advance(PAUSE);
        assert!(begins(&mut rounds).await);
        clock.advance(QUIET_PAUSE - PAUSE);
        assert!(!begins(&mut rounds).await);
        clock.advance(PAUSE);
        assert!(begins(&mut rounds).await);
    }

    #[tokio::test]
    async fn where_others_change_things_rounds_have_the_same_pause() {
        let clock = Clock::adjustable();
        let mut rounds = Rounds::new(clock.clone(), PAUSE, None);
        assert!(begins(&mut rounds).await);
        rounds.again_after(5 * PAUSE);
        assert!(!begins(&mut rounds).await);
        clock.advance(PAUSE);
        assert!(begins(&mut rounds).await);
    }
}
