//! The command line of Pillarbox.

use std::process::ExitCode;

use clap::Parser;

/// The body of a message is made by a connection's thread and freed by the store's; this allocator makes that cheap.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match pillarbox::cli::run(pillarbox::cli::Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pillarbox: {error:#}");
            ExitCode::FAILURE
        }
    }
}
