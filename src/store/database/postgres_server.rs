//! The PostgreSQL server, and how sessions with it begin.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls};

use super::postgres_tls::TlsConnector;

/// The name of our sessions in `pg_stat_activity`.
const APPLICATION_NAME: &str = "pillarbox";
const PORT_DEFAULT: u16 = 5432;
/// A server that does not confirm in time what was sent is lost. Without it, a call would wait as long as the system tries.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent server is asked after this time whether it is there.
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);

/// Settings of the sessions of lanes. A commit waits for the disk, and for the standby if there is one. Nothing is cancelled,
/// because a cancelled wait for the standby looks like a commit. A session that is cut off ends its transaction soon,
/// and itself within half a minute, because its lane may wait for that: see `Lane::require_answered`. The server would look for
/// the client after two hours. Sockets of the machine ignore these times.
/// Lanes look rows up by keys. A plan that reads whole tables or partitions would be chosen while they are small, and kept
/// when they have grown. Where a table is scanned all the same, the statement gets a cost for which the server would compile it
/// (JIT) at each execution.
const LANE_SETTINGS: &str = "SET synchronous_commit = on; SET statement_timeout = 0; SET lock_timeout = 0; \
    SET idle_in_transaction_session_timeout = 5000; SET tcp_user_timeout = 10000; SET tcp_keepalives_idle = 10; \
    SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; SET enable_seqscan = off; SET jit = off";

/// The commit of the message, which comes later in the log, is waited for.
const PIECES_SETTINGS: &str = "SET synchronous_commit = off";

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum SessionRole {
    /// Queries.
    Reader,
    /// The transactions of a lane of the writer.
    Lane,
    /// Bodies that a later transaction of a lane refers to.
    BodyPieces,
}

/// A session that has begun.
pub(super) struct BegunSession {
    pub(super) client: Client,
    /// The name of the session in `pg_stat_activity`. That of a lane has no other session.
    pub(super) name: String,
    /// The task that drives it.
    pub(super) task: AbortHandle,
    pub(super) signals: Arc<Signals>,
}

/// What a server sends without having been asked.
#[derive(Default)]
pub(in crate::store) struct Signals {
    /// Whether it sent a warning.
    pub(super) is_warned: AtomicBool,
    /// Completed by a notification.
    pub(in crate::store) notified: Notify,
}

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
    pub(super) async fn connect(&self, role: SessionRole) -> Result<BegunSession, tokio_postgres::Error> {
        let mut config = self.config.clone();
        let mut name = APPLICATION_NAME.to_owned();
        let settings = match role {
            SessionRole::Reader => "",
            SessionRole::Lane => {
                name = format!("{APPLICATION_NAME} lane {:032x}", rand::random::<u128>());
                LANE_SETTINGS
            }
            SessionRole::BodyPieces => PIECES_SETTINGS,
        };
        config.application_name(&name);
        let signals = Arc::<Signals>::default();
        let (client, task) = self.begin(&config, Arc::clone(&signals)).await?;
        // PgBouncer accepts no settings when a session begins.
        client.batch_execute(settings).await?;
        Ok(BegunSession { client, name, task, signals })
    }

    /// Begins a session whose notifications complete `signals.notified`.
    pub(in crate::store) async fn connect_noting(
        &self,
        signals: Arc<Signals>,
    ) -> Result<Client, tokio_postgres::Error> {
        Ok(self.begin(&self.config, signals).await?.0)
    }

    async fn begin(
        &self,
        config: &Config,
        signals: Arc<Signals>,
    ) -> Result<(Client, AbortHandle), tokio_postgres::Error> {
        match self.tls.clone() {
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                Ok((client, drive(connection, signals)))
            }
            Some(tls) => {
                let (client, connection) = config.connect(tls).await?;
                Ok((client, drive(connection, signals)))
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

fn drive<S, T>(mut connection: Connection<S, T>, signals: Arc<Signals>) -> AbortHandle
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
{
    let task = tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            match message {
                Ok(AsyncMessage::Notification(_)) => signals.notified.notify_one(),
                Ok(AsyncMessage::Notice(notice)) if notice.severity() == "WARNING" => {
                    tracing::warn!("PostgreSQL warns: {}", notice.message());
                    signals.is_warned.store(true, Ordering::Relaxed);
                }
                Ok(_) => {}
                // The client of the session gets the error too.
                Err(error) => {
                    tracing::warn!(%error, "a session with PostgreSQL ended");
                    return;
                }
            }
        }
    });
    task.abort_handle()
}
