//! `pillarbox report`: what other servers sent back.

mod parse;

use clap::Subcommand;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows how a bounce, a complaint or another report is read; needs no server
    Parse(parse::Arguments),
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Parse(arguments) => parse::run(&arguments),
    }
}
