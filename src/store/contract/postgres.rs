//! PostgreSQL for the contract tests: a server of their own, with a database for each test.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::Harness;
use super::postgres_server::Server;
use crate::store::sql::tests::BOUNDS;
use crate::store::{Access, PostgresOptions, Store};

/// A server that cannot be reached over the network.
fn start() -> Option<Server> {
    Server::start_with(&["-c", "fsync=off", "-c", "listen_addresses="], |_| ())
}

static SERVER: OnceLock<Option<Server>> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A database, and a directory with the master key.
pub(crate) struct PostgresHarness {
    server: &'static Server,
    database: String,
    pub(crate) dir: TempDir,
}

impl Harness for PostgresHarness {
    const HOT_QUEUE_OCTETS: u64 = 0;

    fn is_available() -> bool {
        SERVER.get_or_init(start).is_some()
    }

    async fn new() -> Self {
        let server = SERVER.get_or_init(start).as_ref().expect("PostgreSQL is available");
        let database = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        server.create(&database).await;
        Self { server, database, dir: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, hot_queue_bytes_max: u64) -> Store {
        Store::open(PostgresOptions { hot_queue_bytes_max, ..self.options() }).await.unwrap()
    }
}

/// Options for a server that need not be safe.
pub(crate) fn options(config: tokio_postgres::Config, data_dir: &Path) -> PostgresOptions {
    PostgresOptions {
        config,
        tls: None,
        is_unsafe_allowed: true,
        data_dir: data_dir.to_owned(),
        master_key_file: None,
        read_connections: 2,
        lanes: 2,
        hot_queue_bytes_max: 1024 * 1024,
        access: Access::Serve,
        bounds: BOUNDS,
    }
}

impl PostgresHarness {
    pub(crate) fn options(&self) -> PostgresOptions {
        options(self.server.config(&self.database), self.dir.path())
    }

    /// A session of its own.
    pub(crate) async fn connect(&self) -> tokio_postgres::Client {
        let (client, connection) =
            self.server.config(&self.database).connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The options of another node of the same database.
    pub(crate) fn options_of_node(&self, name: &str) -> PostgresOptions {
        // The first node makes the key.
        let master_key_file = Some(self.dir.path().join("master.key"));
        PostgresOptions { data_dir: self.dir.path().join(name), master_key_file, ..self.options() }
    }

    /// Runs statements in the database, in a session of their own.
    pub(crate) async fn execute(&self, sql: &str) {
        self.server.execute(&self.database, sql).await;
    }

    /// A session with this name.
    pub(crate) async fn session(&self, name: &str) -> tokio_postgres::Client {
        let mut config = self.server.config(&self.database);
        config.application_name(name);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}
