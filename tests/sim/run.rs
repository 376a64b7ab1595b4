//! The run of one seed in this process.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillarbox::clock::Clock;
use pillarbox::mail::Timestamp;
use pillarbox::model::{Environment, KeySecret};
use pillarbox::store::{Access, Directory, NewKey, Store, StoreOptions};

use crate::chance::Chance;
use crate::failure;
use crate::life::{self, End};
use crate::trace::Trace;
use crate::world::{self, HOUR, LIFETIME, Options, World};
use crate::{sites, work};

/// Pieces of work between a start and a crash, at most.
const WORK_MAX: usize = 3000;
/// The server is away for so long after a crash, at most.
const AWAY_MAX_SECONDS: usize = 120;

pub fn run(options: Options, prints_trace: bool) -> ExitCode {
    let directory = tempfile::Builder::new().prefix("pillarbox-sim-").tempdir_in(memory()).unwrap();
    let chance = Chance::of(options.seed);
    work::simulate(&chance);
    let config = world::config(directory.path());
    let begin = Timestamp::from_second(1_800_000_000).unwrap();
    let world = World {
        options,
        network: Arc::new(sites::build_network(&chance, directory.path())),
        trace: Trace::new(prints_trace),
        platform_secret: create_platform_key(&config, begin),
        config,
        clock: Mutex::new(Clock::of_runtime(begin)),
        begin,
        tenants: Mutex::default(),
        former: Mutex::default(),
        generations: Mutex::default(),
        furnishing: tokio::sync::Mutex::default(),
        ledger: Mutex::default(),
        violations: Mutex::default(),
        life: Mutex::new(0),
        chance,
    };
    let world = Arc::new(world);
    live_on(&world);
    let description = world.has_failed().then(|| failure::describe(&world));
    let ledger = world.ledger.lock().unwrap();
    println!(
        "seed {}: {} lives, {} acknowledged, {} refused, {} taken, {} again, trace {}{}",
        options.seed,
        *world.life.lock().unwrap(),
        ledger.acknowledged.len(),
        ledger.refused,
        ledger.taken.len(),
        ledger.duplicates,
        world.trace.digest(),
        if world.has_failed() { ", FAILED" } else { "" }
    );
    if let Some(description) = description {
        println!("{description}");
    }
    if world.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// One life after the other, and a last one in which everything works, until all mail has a result.
fn live_on(world: &Arc<World>) {
    let chance = &world.chance;
    let mut now = world.begin;
    let is_active = |now: Timestamp| now.duration_since(world.begin).unsigned_abs() < world.options.active;
    let mut is_last = false;
    while !world.has_failed() && !is_last {
        *world.life.lock().unwrap() += 1;
        is_last = !is_active(now);
        let end = if is_last {
            world.network.mend();
            End::Stop(LIFETIME + HOUR * 2)
        } else if world.options.crashes && chance.percent(75.0) {
            End::Crash(1 + chance.below(WORK_MAX) as u64)
        } else {
            End::Stop(chance.interval(Duration::from_secs(4 * 3600)))
        };
        now = life::live(world, now, end, is_last);
        now = now.saturating_add(Duration::from_secs(chance.below(AWAY_MAX_SECONDS) as u64)).unwrap();
    }
}

/// Where files are in memory, if there is such a place.
fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

fn create_platform_key(config: &pillarbox::config::Config, now: Timestamp) -> String {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let store = Store::open(StoreOptions::new(config, Access::Initialize).unwrap()).await.unwrap();
        let secret = KeySecret::generate(Environment::Live);
        let key = NewKey::unrestricted(None, "operator", Environment::Live, &secret);
        store.create_key(key, now).await.unwrap();
        store.close().await;
        secret.expose().to_owned()
    })
}
