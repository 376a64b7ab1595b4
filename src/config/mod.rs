//! The configuration: one TOML file, read once into typed values. It configures the process; the API manages data.
//!
//! Every option has a default and a unit in its name or its value, so an empty file is a valid one. Unknown keys are
//! refused. Secrets stand in files of their own, named here by path. A leaf: imports nothing of this crate but `mail`.

mod api;
mod duration;
mod error;
mod keeping;
mod relay;
mod routing;
mod shaping;
mod smtp;
mod telling;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::mail::DomainName;
pub use api::{Api, Tls};
pub use error::ConfigError;
use error::Fault;
pub use keeping::{Domains, Retention, Store};
pub use relay::{DestinationTls, Dnssec, MtaSts, Relay, Timeouts};
pub use routing::{Endpoint, NamedHost, NamedHostError, PlatformSmartHost, Pool, Route, Source};
pub use shaping::SiteRule;
pub use smtp::{BareNewline, Smtp};
pub use telling::{TlsReport, TlsReportMail, Webhooks};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything that the file can say.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The name in greetings, `Received` and Message-IDs: the machine's own, fully qualified.
    pub hostname: DomainName,
    /// Where the spool, the keys of the store and large bodies are.
    pub data_dir: PathBuf,
    /// The file with the key that seals secrets; `master.key` in the data directory if absent.
    pub master_key_file: Option<PathBuf>,
    /// How long a stop takes at most.
    #[serde(with = "duration")]
    pub shutdown_deadline: Duration,
    /// What is logged, and how.
    pub log: Log,
    /// Submission over SMTP.
    pub smtp: Smtp,
    /// The server's certificate.
    pub tls: Tls,
    /// The control API.
    pub api: Api,
    /// Sending domains and their proof.
    pub domains: Domains,
    /// Delivery.
    pub relay: Relay,
    /// Events for web servers.
    pub webhooks: Webhooks,
    /// Reports on TLS to the domains that mail goes to.
    pub tls_report: TlsReport,
    /// How long things are kept.
    pub retention: Retention,
    /// The store.
    pub store: Store,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A filter of `tracing`: a level, or directives like `info,pillarbox::relay=debug`.
    pub level: String,
    /// For people or for programs.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line.
    Text,
    /// One JSON object.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: own_hostname(),
            data_dir: PathBuf::from("/var/lib/pillarbox"),
            master_key_file: None,
            shutdown_deadline: Duration::from_secs(30),
            log: Log::default(),
            smtp: Smtp::default(),
            tls: Tls::default(),
            api: Api::default(),
            domains: Domains::default(),
            relay: Relay::default(),
            webhooks: Webhooks::default(),
            tls_report: TlsReport::default(),
            retention: Retention::default(),
            store: Store::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// The machine's name, or `localhost` where it has none that mail can use.
fn own_hostname() -> DomainName {
    let system = rustix::system::uname();
    DomainName::parse(&system.nodename().to_string_lossy())
        .or_else(|_| DomainName::parse("localhost"))
        .unwrap_or_else(|_| unreachable!("localhost is a domain name"))
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads and checks a text that stands in `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        match config.find_fault() {
            None => Ok(config),
            Some(Fault { key, message }) => {
                Err(ConfigError::Value { path: path.to_owned(), key, message: message.to_owned() })
            }
        }
    }

    fn find_fault(&self) -> Option<Fault> {
        self.smtp
            .find_fault()
            .or_else(|| self.tls.find_fault())
            .or_else(|| self.api.find_fault())
            .or_else(|| self.relay.find_fault())
            .or_else(|| self.webhooks.find_fault())
            .or_else(|| self.tls_report.find_fault())
            .or_else(|| self.retention.find_fault())
            .or_else(|| self.store.find_fault())
    }
}
