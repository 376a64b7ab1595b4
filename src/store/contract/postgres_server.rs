//! A server of PostgreSQL for tests. The integration tests include this file, too.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long the server may take to start.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);
/// With this variable, tests fail without PostgreSQL instead of being skipped.
pub(crate) const REQUIRED: &str = "PILLARBOX_REQUIRE_POSTGRES";
/// The directory of `initdb` and `postgres`.
const PROGRAMS: &str = "PILLARBOX_TEST_PG_BIN";
const USER: &str = "pillarbox";

/// A server. It ends with its value or with the process, because a shell waits for the end of its standard input and then
/// deletes its directory.
pub(crate) struct Server {
    dir: TempDir,
    port: u16,
    _shell: Child,
}

impl Server {
    /// A server with arguments of its own. `prepare` may add files to its data directory.
    pub(crate) fn start_with(arguments: &[&str], prepare: impl FnOnce(&Path)) -> Option<Self> {
        Self::start_on_port(5432, arguments, prepare)
    }

    /// A server whose arguments name another port, which the name of its socket has too.
    pub(crate) fn start_on_port(port: u16, arguments: &[&str], prepare: impl FnOnce(&Path)) -> Option<Self> {
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
        prepare(&data);
        if let Some((user, group)) = owner {
            for file in std::fs::read_dir(&data).unwrap().flatten() {
                std::os::unix::fs::chown(file.path(), Some(user), Some(group)).unwrap();
            }
        }
        // The signal of a terminal goes to the shell too, which must outlive the tests.
        let script = "trap '' INT; dir=$1; shift; \"$0\" -D \"$dir/data\" -k \"$dir\" -c max_connections=500 \"$@\" \
                      >\"$dir/log\" 2>&1 & cat; kill -INT $!; wait; rm -rf \"$dir\"";
        let mut shell = as_owner(Command::new("sh"), owner);
        shell.args(["-c", script]).arg(programs.join("postgres")).arg(dir.path()).args(arguments);
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let server = Self { dir, port, _shell: shell };
        server.wait();
        Some(server)
    }

    /// Waits until it takes connections.
    fn wait(&self) {
        let end = Instant::now() + START_TIMEOUT;
        let socket = self.dir.path().join(format!(".s.PGSQL.{}", self.port));
        loop {
            match std::os::unix::net::UnixStream::connect(&socket) {
                Ok(_) => return,
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => panic!("{error}: {:?}", std::fs::read_to_string(self.dir.path().join("log"))),
            }
        }
    }

    pub(crate) fn config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.dir.path()).port(self.port).user(USER).dbname(database);
        config
    }

    /// Runs statements in a database, in a session of their own.
    pub(crate) async fn execute(&self, database: &str, sql: &str) {
        let (client, connection) = self.config(database).connect(tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute(sql).await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
    }

    pub(crate) async fn create(&self, database: &str) {
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
pub(crate) fn owner() -> Option<(u32, u32)> {
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

pub(crate) fn as_owner(mut command: Command, owner: Option<(u32, u32)>) -> Command {
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command.current_dir("/");
    command
}
