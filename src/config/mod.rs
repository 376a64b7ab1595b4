//! The configuration: one TOML file, read once into typed values. It configures the process; the API manages data such as
//! tenants.
//!
//! Every option has a default, so an empty file is valid. Unknown keys are errors. Secrets are in separate files,
//! referenced by path.

mod acme;
mod api;
mod credentials;
mod database_url;
mod doctor;
mod domains;
mod duration;
mod error;
mod inbound;
mod listeners;
mod log;
mod long_key;
mod memory;
mod open_files;
mod public;
mod relay;
mod retention;
mod return_path;
mod routing;
mod shaping;
mod smtp;
mod store;
#[cfg(test)]
mod tests;
mod tls_report;
mod ui;
mod webhooks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::mail::DomainName;
pub use acme::{Acme, AcmeChallenge};
pub use api::{Api, Tls};
pub use credentials::comes_with_the_service;
pub use database_url::{DatabaseTarget, DatabaseUrl, DatabaseUrlError};
pub use doctor::Doctor;
pub use domains::Domains;
pub use error::ConfigError;
use error::{InvalidOption, require_positive_durations};
pub use inbound::{Inbound, InboundForward};
pub use log::{Log, LogFormat, LogLevel, LogLevelError};
use long_key::{PARTS_MAX, find_long_key};
pub use public::Public;
pub use relay::{DestinationTls, Dnssec, MtaSts, Relay, Timeouts};
pub use retention::Retention;
pub use return_path::{ReturnHosts, ReturnPath};
pub use routing::{Endpoint, NamedHost, NamedHostError, PlatformSmartHost, Pool, Route, Source};
pub use shaping::SiteRule;
pub use smtp::{BareNewline, DuplicateHeaders, Smtp};
pub use store::Store;
pub use tls_report::{TlsReport, TlsReportMail};
pub use ui::Ui;
pub use webhooks::Webhooks;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The whole configuration file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The host name in greetings, `Received` and Message-IDs: fully qualified.
    pub hostname: DomainName,
    /// The directory of the database, message bodies and the master key.
    pub data_dir: PathBuf,
    /// The file with the key that encrypts secrets in the database; `master.key` in the data directory by default.
    pub master_key_file: Option<PathBuf>,
    /// The longest time that a shutdown takes.
    #[serde(with = "duration")]
    pub shutdown_deadline: Duration,
    /// The longest time that a new process waits for work in progress of the one that it replaces.
    #[serde(with = "duration")]
    pub handover_deadline: Duration,
    /// Logging.
    pub log: Log,
    /// Submission over SMTP.
    pub smtp: Smtp,
    /// The server's certificate.
    pub tls: Tls,
    /// Certificates from an authority.
    pub acme: Acme,
    /// The control API.
    pub api: Api,
    /// The pages for people.
    pub ui: Ui,
    /// What the doctor looks at.
    pub doctor: Doctor,
    /// Verification of sending domains.
    pub domains: Domains,
    /// Delivery.
    pub relay: Relay,
    /// Reports about mail that was sent.
    pub inbound: Inbound,
    /// The reverse path that mail leaves with.
    pub return_path: ReturnPath,
    /// The pages that recipients open from their mail.
    pub public: Public,
    /// Webhooks.
    pub webhooks: Webhooks,
    /// SMTP TLS reports.
    pub tls_report: TlsReport,
    /// Retention of data.
    pub retention: Retention,
    /// The database.
    pub store: Store,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: own_hostname(),
            data_dir: PathBuf::from("/var/lib/pillarbox"),
            master_key_file: None,
            shutdown_deadline: Duration::from_secs(40),
            handover_deadline: Duration::from_secs(20),
            log: Log::default(),
            smtp: Smtp::default(),
            tls: Tls::default(),
            acme: Acme::default(),
            api: Api::default(),
            ui: Ui::default(),
            doctor: Doctor::default(),
            domains: Domains::default(),
            relay: Relay::default(),
            inbound: Inbound::default(),
            return_path: ReturnPath::default(),
            public: Public::default(),
            webhooks: Webhooks::default(),
            tls_report: TlsReport::default(),
            retention: Retention::default(),
            store: Store::default(),
        }
    }
}

/// The host name of the machine, or `localhost` if it is not a valid domain name.
fn own_hostname() -> DomainName {
    let system = rustix::system::uname();
    DomainName::parse(&system.nodename().to_string_lossy())
        .or_else(|_| DomainName::parse("localhost"))
        .unwrap_or_else(|_| unreachable!("localhost is a domain name"))
}

impl Config {
    /// Reads and validates a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Parses and validates the text of the file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: describe(&error, text) })?;
        match config.find_invalid() {
            None => Ok(config),
            Some(InvalidOption { key, message }) => {
                Err(ConfigError::Value { path: path.to_owned(), key, message: message.into_owned() })
            }
        }
    }

    /// The return hosts; `None` without a listener for reports.
    pub fn return_hosts(&self) -> Option<ReturnHosts> {
        self.inbound.is_enabled().then(|| ReturnHosts {
            defaults: self.return_path.clone(),
            host: self.inbound.host(&self.hostname),
        })
    }

    fn find_invalid(&self) -> Option<InvalidOption> {
        require_positive_durations(&[
            ("shutdown_deadline", self.shutdown_deadline),
            ("handover_deadline", self.handover_deadline),
        ])
        .or_else(|| self.smtp.find_invalid())
        .or_else(|| self.tls.find_invalid())
        .or_else(|| self.acme.find_invalid(&self.tls, &self.hostname))
        .or_else(|| self.api.find_invalid())
        .or_else(|| self.ui.find_invalid())
        .or_else(|| self.doctor.find_invalid())
        .or_else(|| self.domains.find_invalid())
        .or_else(|| self.relay.find_invalid())
        .or_else(|| self.inbound.find_invalid())
        .or_else(|| self.return_path.find_invalid())
        .or_else(|| self.public.find_invalid())
        .or_else(|| self.webhooks.find_invalid())
        .or_else(|| self.tls_report.find_invalid())
        .or_else(|| self.retention.find_invalid())
        .or_else(|| self.store.find_invalid())
        .or_else(|| listeners::find_invalid(self))
    }
}

/// What is wrong with the text, and in which line.
fn describe(error: &toml::de::Error, text: &str) -> String {
    if error.span().is_none()
        && let Some(line) = find_long_key(text)
    {
        return format!(
            "TOML parse error at line {line}\na key has more than {PARTS_MAX} parts: correct or remove it, options have at most three"
        );
    }
    error.to_string().trim_end().to_owned()
}
