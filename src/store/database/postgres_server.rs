//! The PostgreSQL server, and how sessions with it begin.

use std::time::Duration;

use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, Connection, NoTls};

use super::postgres_tls::TlsConnector;

/// The name of our sessions in `pg_stat_activity`.
const APPLICATION_NAME: &str = "pillarbox";
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
