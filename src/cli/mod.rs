//! The command line: one file for each command.

mod api_client;
mod audit;
mod backup;
mod ban;
mod certificate;
mod check_config;
mod colour;
mod completions;
mod doctor;
mod domain;
mod event;
mod inbox;
mod input;
mod key;
mod local_change;
mod man;
mod message;
mod name_lookup;
mod output;
mod pagination;
mod queue;
mod quickstart;
mod recipient;
mod rejection;
mod report;
mod rotate_tokens;
mod serve;
mod shutdown_watchdog;
mod store;
mod suppression;
mod table;
mod tail;
mod take_over;
mod template;
mod tenant;
mod ui;
mod upgrade;
mod usage;
mod webhook;

use std::any::TypeId;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::NonEmptyStringValueParser;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::output::printable_lines;
use crate::mail::{SignedDuration, Timestamp};

const CONFIG_FILE_DEFAULT: &str = "/etc/pillarbox/pillarbox.toml";

/// A self-hosted, multi-tenant SMTP submission relay with an HTTP control API.
///
/// Applications submit mail on port 587 or 465 with a tenant's credential. Pillarbox checks it against the tenant's
/// domains and suppressions, signs it with DKIM, stores it durably, replies 250, and delivers it to the recipients'
/// servers. Tenants, domains and keys are managed over the API.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Try it at once, on this machine only:  pillarbox quickstart\n\n\
    Commands for a running server use the API at $PILLARBOX_URL (default: http://127.0.0.1:8587) with the key in \
    $PILLARBOX_KEY. With --json they print the response of the server. Exit status: 0 for success, 1 if the server \
    refused, 2 if the arguments are invalid or the server was not reached. Documentation: /docs of a running server."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server until SIGTERM or Ctrl-C
    ///
    /// SIGHUP reloads the certificate and the log level. SIGUSR2 hands over to a new process of the program on disk.
    Serve(serve::Arguments),
    /// Checks a configuration file and reports the first error
    CheckConfig(check_config::Arguments),
    /// Replaces the running server by the program on disk, without refusing a connection
    ///
    /// The new process reads the configuration file, too. If it cannot start, the running server goes on.
    Upgrade(upgrade::Arguments),
    /// Shows what is wrong with the server or a sending domain, and what to do
    Doctor(doctor::Arguments),
    /// Lists, creates, changes, suspends, archives, moves and deletes tenants
    Tenant(tenant::Arguments),
    /// Lists, adds, verifies and deletes sending domains; shows their DNS records; replaces their DKIM keys
    Domain(domain::Arguments),
    /// Creates, lists and revokes keys
    ///
    /// By default a running server does this, as for the other commands. With --local, --config or --data-dir the command
    /// works directly in a data directory on this machine and needs no key: create the first key of a new server this
    /// way. The server may be running; it notices the change within a second.
    Key(key::Arguments),
    /// Lists, adds, confirms and removes inboxes for trial mail
    Inbox(inbox::Arguments),
    /// Lists, adds, checks and removes suppressed addresses
    Suppression(suppression::Arguments),
    /// Shows everything about one recipient, and erases it
    Recipient(recipient::Arguments),
    /// Lists, shows, sends, retries and cancels messages; shows their delivery attempts
    Message(message::Arguments),
    /// Lists, creates, changes, renders and deletes templates
    Template(template::Arguments),
    /// Lists submissions that the server refused
    Rejection(rejection::Arguments),
    /// Lists and shows what other servers sent back: bounces, complaints, automatic replies
    Report(report::Arguments),
    /// Makes new keys for the addresses that reports come to and for unsubscribe links
    RotateTokens(rotate_tokens::Arguments),
    /// Shows the queue and why mail waits; pauses, resumes and flushes it or parts of it
    Queue(queue::Arguments),
    /// Shows what all tenants used in a month, by tenant, key, domain or day
    Usage(usage::Arguments),
    /// Lists, creates, changes, tests and deletes webhooks; shows and repeats what was sent to them
    Webhook(webhook::Arguments),
    /// Lists events of the past
    Event(event::Arguments),
    /// Lists and shows what people changed
    Audit(audit::Arguments),
    /// Prints events as they happen, until Ctrl-C
    Tail(tail::Arguments),
    /// Makes, checks and restores backups of the data directory
    ///
    /// Works on the machine of the server, beside it, and needs no key.
    Backup(backup::Arguments),
    /// Copies the data of a server from SQLite to PostgreSQL, or back
    Store(store::Arguments),
    /// Lists and lifts bans from SMTP logins
    Ban(ban::Arguments),
    /// Shows the certificate of the server and how it is renewed; orders a new one
    Certificate(certificate::Arguments),
    /// Prints a link that opens the pages signed in, and opens the browser
    Ui(ui::Arguments),
    /// Prints what a shell needs to complete commands
    Completions(completions::Arguments),
    /// Writes the manual pages
    #[command(hide = true)]
    Man(man::Arguments),
    /// Starts a demo server on loopback with a tenant, and sends a first message through it
    Quickstart(quickstart::Arguments),
}

impl Arguments {
    /// Reads the arguments of this process. If they are invalid, prints why and ends the process.
    pub fn read() -> Self {
        let found = refuse_empty(Self::command()).get_matches();
        Self::from_arg_matches(&found).unwrap_or_else(|error| error.exit())
    }
}

/// Refuses an empty name, id or address: it usually comes from a variable of the shell that is not set.
fn refuse_empty(command: clap::Command) -> clap::Command {
    let mend = |argument: clap::Arg| {
        let is_text = argument.get_value_parser().type_id() == TypeId::of::<String>();
        match argument.is_positional() && is_text {
            true => argument.value_parser(NonEmptyStringValueParser::new()),
            false => argument,
        }
    };
    command.mut_args(mend).mut_subcommands(refuse_empty)
}

/// The configuration file.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file; every option of it has a default
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_FILE_DEFAULT)]
    config: PathBuf,
}

/// Runs the command. The exit status of the doctor and of a check of a backup tells what it found.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let done = match arguments.command {
        Command::Doctor(arguments) => return doctor::run(&arguments),
        Command::Backup(arguments) => return backup::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::CheckConfig(arguments) => check_config::run(&arguments),
        Command::Upgrade(arguments) => upgrade::run(&arguments),
        Command::Tenant(arguments) => tenant::run(arguments),
        Command::Domain(arguments) => domain::run(arguments),
        Command::Key(arguments) => key::run(arguments),
        Command::Inbox(arguments) => inbox::run(arguments),
        Command::Suppression(arguments) => suppression::run(arguments),
        Command::Recipient(arguments) => recipient::run(arguments),
        Command::Message(arguments) => message::run(arguments),
        Command::Template(arguments) => template::run(arguments),
        Command::Rejection(arguments) => rejection::run(arguments),
        Command::Report(arguments) => report::run(arguments),
        Command::RotateTokens(arguments) => rotate_tokens::run(arguments),
        Command::Queue(arguments) => queue::run(arguments),
        Command::Usage(arguments) => usage::run(arguments),
        Command::Webhook(arguments) => webhook::run(arguments),
        Command::Event(arguments) => event::run(arguments),
        Command::Audit(arguments) => audit::run(arguments),
        Command::Tail(arguments) => tail::run(arguments),
        Command::Store(arguments) => store::run(&arguments),
        Command::Ban(arguments) => ban::run(arguments),
        Command::Certificate(arguments) => certificate::run(arguments),
        Command::Ui(arguments) => ui::run(arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
        Command::Quickstart(arguments) => quickstart::run(&arguments),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// The exit status of an error: 2 if the arguments are invalid or the server was not reached, else 1. The doctor has its own.
pub fn exit_status(error: &anyhow::Error) -> u8 {
    if error.is::<doctor::NotRun>() {
        doctor::NotRun::STATUS
    } else if error.is::<api_client::NoDecision>() || error.is::<upgrade::NotAsked>() {
        2
    } else {
        1
    }
}

/// The error and its causes. A cause that the text already contains is omitted: many of our errors include their cause. Some
/// have a text of another program, so control characters are replaced.
pub fn describe(error: &anyhow::Error) -> String {
    let text = error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        let gap = if text.is_empty() { "" } else { ": " };
        if text.contains(&cause) { text } else { format!("{text}{gap}{cause}") }
    });
    printable_lines(&text)
}

/// The end of a duration that starts now.
fn expiry(duration: SignedDuration) -> anyhow::Result<Timestamp> {
    let now = Timestamp::now();
    let expiry = now.checked_add(duration).ok().filter(|at| *at > now);
    expiry.with_context(|| format!("{duration}: the duration must be positive and end before the year 9999"))
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_definitions_of_all_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    /// clap panics only when somebody runs the command.
    #[test]
    fn no_command_has_an_argument_with_the_name_of_a_shared_one() {
        fn check(command: &clap::Command, shared: &[String]) {
            let (global, own): (Vec<_>, Vec<_>) =
                command.get_arguments().partition(|one| one.is_global_set());
            for argument in &own {
                assert!(
                    !shared.iter().any(|id| argument.get_id() == id),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            let global = global.iter().map(|one| one.get_id().to_string());
            let shared: Vec<_> = shared.iter().cloned().chain(global).collect();
            command.get_subcommands().for_each(|inner| check(inner, &shared));
        }
        check(&Arguments::command(), &[]);
    }

    #[test]
    fn no_command_takes_an_empty_name_id_or_address() {
        fn check(command: &clap::Command, path: &[&str]) -> usize {
            let empty = command.get_positionals().map(|_| "");
            let arguments: Vec<_> = path.iter().copied().chain(empty).collect();
            let inner =
                command.get_subcommands().map(|inner| check(inner, &[path, &[inner.get_name()]].concat()));
            let checked = inner.sum();
            if arguments.len() == path.len() {
                return checked;
            }
            let refused = refuse_empty(Arguments::command()).try_get_matches_from(&arguments);
            let kind = refused.expect_err(&arguments.join(" ")).kind();
            assert!(
                matches!(kind, ErrorKind::InvalidValue | ErrorKind::ValueValidation),
                "{arguments:?}: {kind}"
            );
            checked + 1
        }
        assert!(check(&Arguments::command(), &["pillarbox"]) > 30);
    }

    #[test]
    fn an_error_has_no_control_characters_of_another_program() {
        let error = anyhow::anyhow!("not now\u{1b}[2J").context("no\u{7} upgrade");
        assert_eq!(describe(&error), "no  upgrade: not now [2J");
    }

    #[test]
    fn an_expiry_is_in_the_future_and_within_the_calendar() {
        assert!(expiry(SignedDuration::from_hours(72)).unwrap() > Timestamp::now());
        for wrong in [SignedDuration::ZERO, SignedDuration::from_hours(-1), SignedDuration::MAX] {
            assert!(expiry(wrong).is_err());
        }
    }
}
