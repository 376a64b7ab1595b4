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
            eprintln!("pillarbox: {}", describe(&error));
            pillarbox::cli::exit_status(&error).into()
        }
    }
}

/// The error and its causes, each said once: many of our errors name their cause already.
fn describe(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        let gap = if text.is_empty() { "" } else { ": " };
        if text.contains(&cause) { text } else { format!("{text}{gap}{cause}") }
    })
}
