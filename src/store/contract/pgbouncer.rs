//! A real PgBouncer before a server of PostgreSQL.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;
use tokio_postgres::config::Host;

use super::postgres_server::{REQUIRED, START_TIMEOUT, as_owner, owner};

const PROGRAM: &str = "/usr/sbin/pgbouncer";
/// Part of the name of its socket. It cannot be reached over the network.
const PORT: u16 = 6432;

/// A pooler. It ends with its value or with the process, because a shell waits for the end of its standard input.
pub(crate) struct PgBouncer {
    dir: TempDir,
    database: tokio_postgres::Config,
    _shell: Child,
}

impl PgBouncer {
    /// Starts one for a database; `None` if it is not installed.
    pub(crate) fn start(database: tokio_postgres::Config, pool_mode: &str) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            assert!(std::env::var_os(REQUIRED).is_none(), "there is no PgBouncer, and {REQUIRED} is set");
            eprintln!("skipped: the tests with PgBouncer, which is not installed");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("pgb").tempdir().unwrap();
        let config = dir.path().join("pgbouncer.ini");
        std::fs::write(&config, configuration(&database, dir.path(), pool_mode)).unwrap();
        let owner = owner();
        if let Some((user, group)) = owner {
            std::os::unix::fs::chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        let script = "trap '' INT; \"$0\" -q \"$1\" >/dev/null 2>&1 & cat; kill -TERM $!; wait";
        let mut shell = as_owner(Command::new("sh"), owner);
        shell.args(["-c", script, PROGRAM]).arg(config);
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pooler = Self { dir, database, _shell: shell };
        pooler.wait();
        Some(pooler)
    }

    fn wait(&self) {
        let end = Instant::now() + START_TIMEOUT;
        let socket = self.dir.path().join(format!(".s.PGSQL.{PORT}"));
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < end, "PgBouncer does not start");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// The database behind it.
    pub(crate) fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.dir.path()).port(PORT);
        config.user(self.database.get_user().unwrap()).dbname(self.database.get_dbname().unwrap());
        config
    }
}

fn configuration(database: &tokio_postgres::Config, dir: &Path, pool_mode: &str) -> String {
    let [Host::Unix(server)] = database.get_hosts() else { panic!("the server has one socket") };
    let (server, dir, port) = (server.display(), dir.display(), database.get_ports()[0]);
    let user = database.get_user().unwrap();
    format!(
        "[databases]\n* = host={server} port={port} user={user}\n[pgbouncer]\nunix_socket_dir = {dir}\nlisten_port = {PORT}\n\
         auth_type = any\npool_mode = {pool_mode}\ndefault_pool_size = 50\n"
    )
}
