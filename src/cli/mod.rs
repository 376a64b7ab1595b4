//! The command line: one file for each subcommand.

mod api_client;
mod check_config;
mod key;
mod queue;
mod quickstart;
mod serve;
mod table;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// A self-hosted, multi-tenant SMTP submission relay with an HTTP control API.
///
/// Applications submit mail on port 587 or 465 with a tenant's credential. Pillarbox checks it against the tenant's
/// domains and suppressions, signs it with DKIM, stores it durably, answers 250, and delivers it to the recipients'
/// servers. Tenants, domains and keys are managed over the API.
#[derive(Debug, Parser)]
#[command(version, after_help = "Try it at once, on this machine only:  pillarbox quickstart")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server until SIGTERM or Ctrl-C
    ///
    /// SIGHUP reads the certificate and the log level again.
    Serve(serve::Arguments),
    /// Says whether a configuration file is right, and what is wrong with it
    CheckConfig(check_config::Arguments),
    /// Makes, lists and revokes keys, directly in the data directory
    ///
    /// This is how a new server gets its first key. It works whether or not the server is running; a running server
    /// sees the change within a second.
    Key(key::Arguments),
    /// Shows what waits at a running server and why; pauses, resumes and flushes parts of it
    ///
    /// Asks the API at --url or $PILLARBOX_URL with the platform key in $PILLARBOX_KEY.
    Queue(queue::Arguments),
    /// Starts a ready-made server on loopback, with a demo tenant, and sends a first message through it
    Quickstart(quickstart::Arguments),
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file; every option of it has a default
    #[arg(long, short, value_name = "FILE", default_value = "/etc/pillarbox/pillarbox.toml")]
    config: PathBuf,
}

/// Runs what the arguments say.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::CheckConfig(arguments) => check_config::run(&arguments),
        Command::Key(arguments) => key::run(arguments),
        Command::Queue(arguments) => queue::run(arguments),
        Command::Quickstart(arguments) => quickstart::run(&arguments),
    }
}
