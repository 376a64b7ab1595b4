//! The program: runs the command line.

use std::process::ExitCode;

use clap::Parser;

/// A connection's thread allocates the body of a message and the thread of the store frees it; mimalloc makes that cheap.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match pillarbox::cli::run(pillarbox::cli::Arguments::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("pillarbox: {}", describe(&error));
            pillarbox::cli::exit_status(&error).into()
        }
    }
}

/// The error and its causes. A cause that the text already contains is omitted: many of our errors include their cause.
fn describe(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        let gap = if text.is_empty() { "" } else { ": " };
        if text.contains(&cause) { text } else { format!("{text}{gap}{cause}") }
    })
}
