//! The address of a database in PostgreSQL.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use tokio_postgres::config::{Host, TargetSessionAttrs};

/// The parameters that a URL may have. Others would weaken what the server relies on, or have an option of their own.
const PARAMETERS: [&str; 7] =
    ["host", "port", "user", "dbname", "sslmode", "connect_timeout", "target_session_attrs"];
/// How long one of several hosts may take to answer before the next one is tried.
const HOST_TIMEOUT: Duration = Duration::from_secs(2);

/// The URL of a database, as it was written. It may have a password that must not be shown, so it has no `Display`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

/// A database in PostgreSQL, without the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseTarget {
    /// Hosts, user and name of the database.
    pub config: tokio_postgres::Config,
    /// Whether connections are encrypted and the certificate of the server is verified.
    pub is_encrypted: bool,
}

/// Why a URL does not name a database that may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// It is not a URL of PostgreSQL.
    #[error("must be like postgres://user@host:5432/database")]
    Form,
    /// It has a password.
    #[error(
        "must not contain a password, because this file is not secret; name a file with store.password_file"
    )]
    Password,
    /// It names no user, host or database.
    #[error("names no {0}; write it like postgres://user@host:5432/database")]
    Missing(&'static str),
    /// A parameter is not known.
    #[error("the parameter {0} is not supported; supported are {list}", list = PARAMETERS.join(", "))]
    Parameter(String),
    /// Certificate authorities have an option of their own.
    #[error("name the certificate authorities with store.tls_ca_file instead of sslrootcert")]
    AuthorityFile,
    /// A mode of TLS that does not verify the certificate.
    #[error(
        "sslmode={0} does not verify the certificate of the server; use verify-full, which is the default, or disable on this machine"
    )]
    Mode(String),
    /// A connection that leaves the machine must be encrypted.
    #[error("sslmode=disable is only for sockets and loopback addresses, and {0} is another machine")]
    Unencrypted(String),
    /// TLS needs a host name.
    #[error("sockets cannot be encrypted; name either sockets or hosts, and sockets without sslmode")]
    EncryptedSocket,
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(..)")
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl DatabaseUrl {
    /// Reads and checks the parts of the URL.
    ///
    /// # Errors
    /// [`DatabaseUrlError`]; it never has the password.
    pub fn parse(&self) -> Result<DatabaseTarget, DatabaseUrlError> {
        let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| self.0.starts_with(scheme));
        if !is_url {
            return Err(DatabaseUrlError::Form);
        }
        let (place, query) = self.0.split_once('?').unwrap_or((&self.0, ""));
        let (mut mode, mut kept) = (None, Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=').ok_or(DatabaseUrlError::Form)? {
                ("sslmode", value) => mode = Some(value),
                ("sslrootcert", _) => return Err(DatabaseUrlError::AuthorityFile),
                ("password", _) => return Err(DatabaseUrlError::Password),
                (name, _) if PARAMETERS.contains(&name) => kept.push(parameter),
                (name, _) => return Err(DatabaseUrlError::Parameter(name.to_owned())),
            }
        }
        let url = format!("{place}?{}", kept.join("&"));
        let mut config: tokio_postgres::Config = url.parse().map_err(|_| DatabaseUrlError::Form)?;
        if config.get_password().is_some() {
            return Err(DatabaseUrlError::Password);
        }
        require_parts(&config)?;
        let is_encrypted = is_encrypted(&config, mode)?;
        if config.get_hosts().len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            if config.get_connect_timeout().is_none() {
                config.connect_timeout(HOST_TIMEOUT);
            }
        }
        Ok(DatabaseTarget { config, is_encrypted })
    }
}

fn require_parts(config: &tokio_postgres::Config) -> Result<(), DatabaseUrlError> {
    let missing = |part: Option<&str>| part.is_none_or(str::is_empty);
    let is_empty = |host: &Host| matches!(host, Host::Tcp(name) if name.is_empty());
    if config.get_hosts().is_empty() || config.get_hosts().iter().any(is_empty) {
        return Err(DatabaseUrlError::Missing("host"));
    }
    if missing(config.get_user()) {
        return Err(DatabaseUrlError::Missing("user"));
    }
    if missing(config.get_dbname()) {
        return Err(DatabaseUrlError::Missing("database"));
    }
    Ok(())
}

/// Whether connections are encrypted: to other machines always.
fn is_encrypted(config: &tokio_postgres::Config, mode: Option<&str>) -> Result<bool, DatabaseUrlError> {
    let hosts = config.get_hosts();
    let sockets = hosts.iter().filter(|host| matches!(host, Host::Unix(_))).count();
    match mode {
        None if sockets == hosts.len() => Ok(false),
        None | Some("verify-full") if sockets == 0 => Ok(true),
        None | Some("verify-full") => Err(DatabaseUrlError::EncryptedSocket),
        Some("disable") => match hosts.iter().find_map(name_of_another_machine) {
            Some(name) => Err(DatabaseUrlError::Unencrypted(name.to_owned())),
            None => Ok(false),
        },
        Some(other) => Err(DatabaseUrlError::Mode(other.to_owned())),
    }
}

fn name_of_another_machine(host: &Host) -> Option<&str> {
    match host {
        Host::Tcp(name) => {
            let is_loopback = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
            (!is_loopback && name != "localhost").then_some(name)
        }
        Host::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<DatabaseTarget, DatabaseUrlError> {
        DatabaseUrl(url.to_owned()).parse()
    }

    #[test]
    fn a_url_names_hosts_user_and_database() {
        let target = parse("postgres://mail@db.example.com:5433/pillarbox").unwrap();
        let config = &target.config;
        assert_eq!(config.get_hosts(), [Host::Tcp("db.example.com".into())]);
        assert_eq!((config.get_user(), config.get_dbname()), (Some("mail"), Some("pillarbox")));
        assert_eq!(config.get_ports(), [5433]);
        let target = parse("postgresql://u@a,b:1,c/d").unwrap();
        assert_eq!(target.config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        assert_eq!(target.config.get_ports(), [5432, 1, 5432]);
        assert!(target.is_encrypted && target.config.get_connect_timeout().is_some());
        let target = parse("postgres://u@h/d?connect_timeout=3").unwrap();
        assert_eq!(target.config.get_connect_timeout(), Some(&Duration::from_secs(3)));
    }

    #[test]
    fn connections_to_other_machines_are_always_encrypted() {
        for (url, is_encrypted) in [
            ("postgres://u@db.example.com/d", true),
            ("postgres://u@db.example.com/d?sslmode=verify-full", true),
            ("postgres://u@127.0.0.1/d", true),
            ("postgres://u@127.0.0.1,localhost/d?sslmode=disable", false),
            ("postgres://u@[::1]/d?sslmode=disable", false),
            ("postgres://u@%2Fvar%2Frun%2Fpostgresql/d", false),
            ("postgres:///d?host=/var/run/postgresql&user=u", false),
            ("postgres:///d?host=/var/run/postgresql&user=u&sslmode=disable", false),
        ] {
            assert_eq!(parse(url).map(|target| target.is_encrypted), Ok(is_encrypted), "{url}");
        }
    }

    #[test]
    fn a_url_that_may_not_be_used_is_refused_with_the_reason() {
        use DatabaseUrlError::*;
        for (url, error) in [
            ("mysql://u@h/d", Form),
            ("h", Form),
            ("postgres://u@h:port/d", Form),
            ("postgres://u@h/d?sslmode", Form),
            ("postgres://u:secret@h/d", Password),
            ("postgres://u@h/d?password=secret", Password),
            ("postgres:///d?user=u", Missing("host")),
            ("postgres://h/d", Missing("user")),
            ("postgres://u@h", Missing("database")),
            ("postgres://u@h/", Missing("database")),
            ("postgres://u@h/d?hostaddr=192.0.2.1", Parameter("hostaddr".into())),
            ("postgres://u@h/d?options=-cfsync%3Doff", Parameter("options".into())),
            ("postgres://u@h/d?sslrootcert=/ca", AuthorityFile),
            ("postgres://u@h/d?sslmode=require", Mode("require".into())),
            ("postgres://u@h/d?sslmode=prefer", Mode("prefer".into())),
            ("postgres://u@192.0.2.1/d?sslmode=disable", Unencrypted("192.0.2.1".into())),
            ("postgres://u@127.0.0.1,b/d?sslmode=disable", Unencrypted("b".into())),
            ("postgres:///d?host=/run&user=u&sslmode=verify-full", EncryptedSocket),
            ("postgres://u@%2Frun,h/d", EncryptedSocket),
        ] {
            assert_eq!(parse(url), Err(error), "{url}");
        }
    }

    #[test]
    fn a_url_is_not_shown() {
        let url = DatabaseUrl("postgres://u:pass-word@h/d".into());
        assert!(!format!("{url:?}").contains("pass-word"));
        assert!(!url.parse().unwrap_err().to_string().contains("pass-word"));
    }
}
