//! Simulates the server: the real code of submission, queue, relay and store on one thread, with a clock, a network, a DNS and
//! other servers that exist only here. A seed decides everything, so a run can be repeated.
//!   cargo run --release --example sim -- [--seed N] [--seeds COUNT] [--days D] [--twice] [--trace]
//! Runs COUNT seeds from N on, each in processes of its own, as many at once as there are processors. `--twice` runs each seed
//! twice and compares the traces; `--trace` prints them. What must hold stands in `checks`. A seed that fails is run again with
//! fewer kinds of faults and for a shorter time; what is wrong in the shortest run that fails is printed, with what happened to it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chance;
mod checks;
mod clients;
mod dialogue;
mod domains;
mod entropy;
mod erasures;
mod failure;
#[allow(dead_code)]
#[path = "../it/fake_mx.rs"]
mod fake_mx;
mod faults;
mod gates;
mod hook;
mod http;
#[allow(dead_code)]
#[path = "../it/identity.rs"]
mod identity;
mod ledger;
mod life;
mod network;
mod operators;
mod pipe;
mod policy_host;
mod prepared_keys;
mod queue_view;
mod reporters;
mod run;
mod seeds;
mod sites;
mod stored;
mod tenants;
mod trace;
#[allow(dead_code)]
#[path = "../it/wait.rs"]
mod wait;
#[allow(dead_code)]
#[path = "../it/wire.rs"]
mod wire;
mod work;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::world::{HOUR, Options};

#[derive(Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How long clients, operators and faults are active.
    #[arg(long, default_value_t = 1.0)]
    days: f64,
    /// Runs each seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Ends with the first seed that fails, and does not look for a shorter run.
    #[arg(long)]
    stop_at_first: bool,
    /// Prints the traces.
    #[arg(long)]
    trace: bool,
    /// Runs in this process. Its randomness must come from the seed already.
    #[arg(long, hide = true)]
    here: bool,
    /// The server only stops as it should.
    #[arg(long)]
    no_crashes: bool,
    /// Nothing is paused, suspended, suppressed, cancelled or rotated.
    #[arg(long)]
    no_operators: bool,
    /// Other servers do nothing wrong. Connections still break.
    #[arg(long)]
    no_faults: bool,
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            seed: self.seed,
            active: Duration::from_secs_f64(self.days * 24.0 * HOUR.as_secs_f64()),
            crashes: !self.no_crashes,
            operators: !self.no_operators,
            faults: !self.no_faults,
            client_pause: HOUR * 4,
            operator_pause: HOUR,
            fault_pause: HOUR / 2,
            report_pause: HOUR,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.here {
        return run::run(arguments.options(), arguments.trace);
    }
    seeds::run(&arguments)
}
