//! The program: runs the command line.

use std::process::ExitCode;

/// A connection's thread allocates the body of a message and the thread of the store frees it; mimalloc makes that cheap.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match pillarbox::cli::run(pillarbox::cli::Arguments::read()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("pillarbox: {}", pillarbox::cli::describe(&error));
            pillarbox::cli::exit_status(&error).into()
        }
    }
}
