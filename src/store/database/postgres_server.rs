//! The PostgreSQL server, and how sessions with it begin.

use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, Connection, NoTls};

use super::postgres_tls::TlsConnector;

/// The name of our sessions in `pg_stat_activity`.
const APPLICATION_NAME: &str = "pillarbox";
const PORT_DEFAULT: u16 = 5432;
/// A server that does not confirm in time what was sent is lost. Without it, a call would wait as long as the system tries.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent server is asked after this time whether it is there.
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);

/// Where the database is and how it is reached.
pub(in crate::store) struct PostgresServer {
    config: Config,
    tls: Option<TlsConnector>,
}

impl PostgresServer {
    /// A server by its connection string. With `tls`, every session is encrypted and the server's certificate verified.
    pub(in crate::store) fn new(mut config: Config, tls: Option<tokio_rustls::TlsConnector>) -> Self {
        config.application_name(APPLICATION_NAME);
        config.tcp_user_timeout(CONFIRMATION_TIMEOUT).keepalives_idle(IDLE_TIME_MAX);
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        Self { config, tls: tls.map(TlsConnector) }
    }

    /// Like `postgres://user@host:5432/database`, for people. Without the password.
    pub(in crate::store) fn name(&self) -> String {
        let config = &self.config;
        let ports = config.get_ports();
        let hosts = config.get_hosts().iter().enumerate().map(|(number, host)| match host {
            Host::Tcp(host) => {
                let port = ports.get(number).or(ports.first()).copied().unwrap_or(PORT_DEFAULT);
                if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
            }
            Host::Unix(directory) => directory.display().to_string(),
        });
        let hosts = hosts.collect::<Vec<_>>().join(",");
        format!("postgres://{}@{hosts}/{}", config.get_user().unwrap_or_default(), self.database())
    }

    /// How the database is created.
    pub(in crate::store) fn creation(&self) -> String {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let owner = quoted(self.config.get_user().unwrap_or_default());
        let database = quoted(self.database());
        format!("create it with: CREATE DATABASE {database} OWNER {owner} ENCODING 'UTF8' TEMPLATE template0")
    }

    fn database(&self) -> &str {
        self.config.get_dbname().or(self.config.get_user()).unwrap_or_default()
    }

    /// Begins a session, which a task of the current runtime drives.
    pub(super) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        match self.tls.clone() {
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                drive(connection);
                Ok(client)
            }
            Some(tls) => {
                let (client, connection) = self.config.connect(tls).await?;
                drive(connection);
                Ok(client)
            }
        }
    }

    /// Asks the server to end the statement of a session.
    pub(super) async fn cancel(&self, client: &Client) {
        let token = client.cancel_token();
        let cancelled = match self.tls.clone() {
            None => token.cancel_query(NoTls).await,
            Some(tls) => token.cancel_query(tls).await,
        };
        if let Err(error) = cancelled {
            tracing::debug!(%error, "a statement was not cancelled");
        }
    }
}

fn drive<S, T>(connection: Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        // The client of the session gets the error too.
        if let Err(error) = connection.await {
            tracing::warn!(%error, "a session with PostgreSQL ended");
        }
    });
}
