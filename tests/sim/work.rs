//! How long the work of the store takes, and the moment of a crash: in the middle of work, where it matters most.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use crate::chance::Chance;

static CHANCE: Mutex<Option<Chance>> = Mutex::new(None);
/// Pieces of work until the crash; 0 if none is planned.
static LEFT: AtomicU64 = AtomicU64::new(0);
static CRASH: LazyLock<Notify> = LazyLock::new(Notify::new);

/// Simulates all work of the process.
pub fn simulate(chance: &Chance) {
    *CHANCE.lock().unwrap() = Some(chance.clone());
    pillarbox::blocking::simulate(duration);
}

fn duration() -> Duration {
    if LEFT.load(Ordering::Relaxed) > 0 && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        CRASH.notify_one();
    }
    let chance = CHANCE.lock().unwrap();
    let chance = chance.as_ref().expect("the simulation has begun");
    match chance.below(200) {
        0 => Duration::from_secs(3),
        1..10 => Duration::from_millis(chance.below(400) as u64),
        _ => Duration::from_millis(chance.below(12) as u64),
    }
}

/// Crashes after so many pieces of work.
pub fn plan_crash(after: Option<u64>) {
    LEFT.store(after.unwrap_or(0), Ordering::Relaxed);
}

pub async fn crash() {
    CRASH.notified().await;
}
