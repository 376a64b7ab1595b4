//! One life of the process, from its start to a stop or a crash.

use std::sync::Arc;
use std::time::Duration;

use pillarbox::app::{Machine, Running};
use pillarbox::clock::Clock;
use pillarbox::mail::Timestamp;
use pillarbox::net::Network;
use pillarbox::rng::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::gates::Gates;
use crate::network::View;
use crate::world::World;
use crate::{checks, clients, faults, operators, prepared_keys, reporters, tenants, work};

const CLIENTS: usize = 4;
const OPERATORS: usize = 2;

/// How a life ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// In the middle of work, after so many pieces of it.
    Crash(u64),
    Stop(Duration),
}

/// Lives until the end, then looks at what the process has left.
pub fn live(world: &Arc<World>, begin: Timestamp, end: End, is_last: bool) -> Timestamp {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    let ended = runtime.block_on(async {
        *world.clock.lock().unwrap() = Clock::of_runtime(begin);
        world.note(format!("life {} begins", *world.life.lock().unwrap()));
        // What was down when the last life ended is up again.
        world.network.restore();
        work::plan_crash(if let End::Crash(after) = end { Some(after) } else { None });
        let was_stopped = tokio::select! {
            biased;
            () = work::crash() => {
                sleep(Duration::from_millis(world.chance.below(30) as u64)).await;
                world.note("crashed");
                false
            }
            () = serve(world, end) => true,
        };
        checks::check(world, checks::Ended { began: begin, was_stopped, is_last });
        world.now()
    });
    drop(runtime);
    ended
}

async fn serve(world: &Arc<World>, end: End) {
    let rng = Rng::seeded(world.chance.number());
    let clock = world.clock.lock().unwrap().clone();
    let network = Network::simulated(Arc::new(View(Arc::clone(&world.network))));
    let machine = Machine { clock, rng, network, generate_key: prepared_keys::next };
    let started = Running::start_on_machine(machine, &world.config).await;
    let mut running = match started {
        Ok(running) => running,
        Err(error) => return world.violate(format!("the server does not start: {error}")),
    };
    world.note("started");
    let gates = Arc::new(Gates::of(&running, &world.config.data_dir));
    let mut actors = JoinSet::new();
    let people = people(Arc::clone(world), Arc::clone(&gates));
    actors.spawn(people);
    actors.spawn(if_wanted(world.options.faults, faults::run(Arc::clone(world))));
    let length = match end {
        End::Crash(_) => world.options.active,
        End::Stop(length) => length,
    };
    let until = Instant::now() + length;
    tokio::select! {
        biased;
        failure = running.wait_for_failure() => world.violate(failure),
        () = tokio::time::sleep_until(until) => {}
    }
    gates.close();
    // A server that hangs may keep an attempt longer than the stop may take.
    match running.stop().await {
        Ok(()) => world.note("stopped"),
        Err(error) => world.note(format!("stopped: {error}")),
    }
}

async fn if_wanted(is_wanted: bool, work: impl Future<Output = ()>) {
    if is_wanted {
        work.await;
    }
}

async fn people(world: Arc<World>, gates: Arc<Gates>) {
    tenants::furnish(&world, &gates).await;
    operators::restore(&world, &gates).await;
    let mut people = JoinSet::new();
    for number in 0..CLIENTS {
        people.spawn(clients::run(Arc::clone(&world), Arc::clone(&gates), number));
    }
    for _ in 0..OPERATORS {
        people.spawn(if_wanted(
            world.options.operators,
            operators::run(Arc::clone(&world), Arc::clone(&gates)),
        ));
    }
    people.spawn(if_wanted(world.options.faults, reporters::run(Arc::clone(&world), Arc::clone(&gates))));
    people.join_all().await;
}
