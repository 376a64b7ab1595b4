//! PostgreSQL for the contract tests: a server of their own, with a database for each test.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Harness;
use crate::store::sql::tests::BOUNDS;
use crate::store::{Access, PostgresOptions, Store};

/// How long the server may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// With this variable, tests fail without PostgreSQL instead of being skipped.
const REQUIRED: &str = "PILLARBOX_REQUIRE_POSTGRES";
/// The directory of `initdb` and `postgres`.
const PROGRAMS: &str = "PILLARBOX_TEST_PG_BIN";
const USER: &str = "pillarbox";

/// The server of this process. It ends with the process, because a shell waits for the end of its standard input and then
/// deletes its directory.
struct Server {
    dir: TempDir,
    _shell: Child,
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
    fn is_available() -> bool {
        SERVER.get_or_init(Server::start).is_some()
    }

    async fn new() -> Self {
        let server = SERVER.get_or_init(Server::start).as_ref().expect("PostgreSQL is available");
        let database = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        server.create(&database).await;
        Self { server, database, dir: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, hot_queue_bytes_max: u64) -> Store {
        Store::open(PostgresOptions { hot_queue_bytes_max, ..self.options() }).await.unwrap()
    }
}

impl PostgresHarness {
    pub(crate) fn options(&self) -> PostgresOptions {
        PostgresOptions {
            config: self.server.config(&self.database),
            tls: None,
            data_dir: self.dir.path().to_owned(),
            master_key_file: None,
            read_connections: 2,
            hot_queue_bytes_max: 1024 * 1024,
            access: Access::Serve,
            bounds: BOUNDS,
        }
    }

    /// Runs statements in the database, in a session of their own.
    pub(crate) async fn execute(&self, sql: &str) {
        let (client, connection) =
            self.server.config(&self.database).connect(tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute(sql).await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
    }
}

impl Server {
    fn start() -> Option<Self> {
        let Some(programs) = find_programs() else {
            assert!(std::env::var_os(REQUIRED).is_none(), "there is no PostgreSQL, and {REQUIRED} is set");
            eprintln!("skipped: the tests with PostgreSQL, which is not installed");
            return None;
        };
        // A path of a socket has at most 107 octets.
        let dir = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let owner = owner();
        if let Some((user, group)) = owner {
            for path in [dir.path(), &data] {
                std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
            }
        }
        let mut initdb = as_owner(Command::new(programs.join("initdb")), owner);
        initdb.args(["--no-sync", "-A", "trust", "--locale=C", "-E", "UTF8", "-U", USER, "-D"]).arg(&data);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // The signal of a terminal goes to the shell too, which must outlive the tests.
        let script = "trap '' INT; \"$0\" -D \"$1/data\" -k \"$1\" -c fsync=off -c listen_addresses= -c max_connections=500 \
                      >\"$1/log\" 2>&1 & cat; kill -INT $!; wait; rm -rf \"$1\"";
        let mut shell = as_owner(Command::new("sh"), owner);
        shell.args(["-c", script]).arg(programs.join("postgres")).arg(dir.path());
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let server = Self { dir, _shell: shell };
        server.wait();
        Some(server)
    }

    /// Waits until it takes connections.
    fn wait(&self) {
        let end = Instant::now() + START_TIMEOUT;
        let socket = self.dir.path().join(".s.PGSQL.5432");
        loop {
            match std::os::unix::net::UnixStream::connect(&socket) {
                Ok(_) => return,
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => panic!("{error}: {:?}", std::fs::read_to_string(self.dir.path().join("log"))),
            }
        }
    }

    fn config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.dir.path()).user(USER).dbname(database);
        config
    }

    async fn create(&self, database: &str) {
        let end = Instant::now() + START_TIMEOUT;
        let client = loop {
            match self.config("postgres").connect(tokio_postgres::NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    break client;
                }
                // It is starting.
                Err(_) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        };
        client.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    }
}

fn find_programs() -> Option<PathBuf> {
    let named = std::env::var_os(PROGRAMS).map(PathBuf::from);
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let installed = installed.map(|version| version.path().join("bin"));
    let has_programs = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
    named.into_iter().chain(installed).find(has_programs)
}

/// The user and group of the server. PostgreSQL refuses to run as root.
fn owner() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let of = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let fields: Vec<_> = line.split(':').collect();
        Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
    };
    Some(of("postgres").or_else(|| of("nobody")).unwrap())
}

fn as_owner(mut command: Command, owner: Option<(u32, u32)>) -> Command {
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command.current_dir("/");
    command
}
