//! The command line: one file for each subcommand.

mod api_client;
mod check_config;
mod domain;
mod key;
mod listing;
mod message;
mod names;
mod queue;
mod quickstart;
mod screen;
mod serve;
mod stop_guard;
mod suppression;
mod table;
mod tail;
mod tenant;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::mail::{SignedDuration, Timestamp};

const CONFIG_FILE_DEFAULT: &str = "/etc/pillarbox/pillarbox.toml";

/// A self-hosted, multi-tenant SMTP submission relay with an HTTP control API.
///
/// Applications submit mail on port 587 or 465 with a tenant's credential. Pillarbox checks it against the tenant's
/// domains and suppressions, signs it with DKIM, stores it durably, answers 250, and delivers it to the recipients'
/// servers. Tenants, domains and keys are managed over the API.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Try it at once, on this machine only:  pillarbox quickstart\n\n\
    Commands that ask a running server find it at $PILLARBOX_URL (http://127.0.0.1:8587 by default) and use the key in \
    $PILLARBOX_KEY. With --json they print the answer of the server. Exit status: 0 if done, 1 if the server refused, \
    2 if the server was not reached or the arguments are wrong. Documentation: /docs of a running server."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server until SIGTERM or Ctrl-C
    ///
    /// SIGHUP reloads the certificate and the log level.
    Serve(serve::Arguments),
    /// Checks a configuration file and says what is wrong with it
    CheckConfig(check_config::Arguments),
    /// Lists, creates, changes, suspends and deletes tenants
    Tenant(tenant::Arguments),
    /// Lists, adds, verifies and deletes sending domains; shows their DNS records
    Domain(domain::Arguments),
    /// Creates, lists and revokes keys
    ///
    /// Asks a running server, like the other commands. With --local, --config or --data-dir it works directly in the
    /// data directory of this machine and needs no key: a new server gets its first key this way. The server may be
    /// running or not; a running server sees the change within a second.
    Key(key::Arguments),
    /// Lists, adds, checks and removes suppressed addresses
    Suppression(suppression::Arguments),
    /// Lists, shows, sends, retries and cancels messages; shows their delivery attempts
    Message(message::Arguments),
    /// Shows the queue and why mail waits; pauses, resumes and flushes parts of it
    Queue(queue::Arguments),
    /// Prints events as they happen, until Ctrl-C
    Tail(tail::Arguments),
    /// Starts a demo server on loopback with a tenant, and sends a first message through it
    Quickstart(quickstart::Arguments),
}

/// The configuration file.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file; every option of it has a default
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_FILE_DEFAULT)]
    config: PathBuf,
}

/// Runs what the arguments say.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::CheckConfig(arguments) => check_config::run(&arguments),
        Command::Tenant(arguments) => tenant::run(arguments),
        Command::Domain(arguments) => domain::run(arguments),
        Command::Key(arguments) => key::run(arguments),
        Command::Suppression(arguments) => suppression::run(arguments),
        Command::Message(arguments) => message::run(arguments),
        Command::Queue(arguments) => queue::run(arguments),
        Command::Tail(arguments) => tail::run(arguments),
        Command::Quickstart(arguments) => quickstart::run(&arguments),
    }
}

/// The exit status of a failure: 2 if the server was not reached or the arguments are wrong, else 1.
pub fn exit_status(error: &anyhow::Error) -> u8 {
    if error.is::<api_client::NotAsked>() { 2 } else { 1 }
}

/// The time at which a span that starts now ends.
fn expiry(span: SignedDuration) -> anyhow::Result<Timestamp> {
    let now = Timestamp::now();
    let expiry = now.checked_add(span).ok().filter(|at| *at > now);
    expiry.with_context(|| format!("{span}: the duration must be positive and end before the year 9999"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_fit_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_expires_does_so_in_the_future_and_within_the_calendar() {
        assert!(expiry(SignedDuration::from_hours(72)).unwrap() > Timestamp::now());
        for wrong in [SignedDuration::ZERO, SignedDuration::from_hours(-1), SignedDuration::MAX] {
            assert!(expiry(wrong).is_err());
        }
    }
}
