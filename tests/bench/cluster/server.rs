//! The PostgreSQL server of the benchmark, and the processor time of its processes.

use std::path::{Path, PathBuf};

use tokio_postgres::config::Host;
use tokio_postgres::{Client, NoTls};

use super::postgres_server::Server;

/// Of `/proc`, on Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const DATABASE: &str = "bench";
const SETTINGS: [&str; 4] = [
    "listen_addresses=",
    "max_wal_size=8GB",
    "checkpoint_timeout=15min",
    "shared_preload_libraries=pg_stat_statements",
];

pub struct MeasuredServer {
    server: Server,
    /// The process that starts all others.
    root: u64,
}

impl MeasuredServer {
    pub async fn start(settings: &[String]) -> Self {
        let settings = SETTINGS.into_iter().chain(settings.iter().map(String::as_str));
        let arguments: Vec<_> = settings.flat_map(|setting| ["-c", setting]).collect();
        let server = Server::start_with(&arguments, |_| ()).expect("PostgreSQL is not installed");
        server.create(DATABASE).await;
        server.execute(DATABASE, "CREATE EXTENSION pg_stat_statements").await;
        let pid = std::fs::read_to_string(socket_dir(&server).join("data/postmaster.pid")).unwrap();
        let root = pid.lines().next().unwrap().parse().unwrap();
        Self { server, root }
    }

    pub async fn connect(&self) -> Client {
        let (client, connection) = self.config().connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub fn config(&self) -> tokio_postgres::Config {
        self.server.config(DATABASE)
    }

    pub fn socket_dir(&self) -> PathBuf {
        socket_dir(&self.server)
    }

    /// The server behind a socket in another directory.
    pub fn config_at(&self, socket_dir: &Path) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        let of_server = self.config();
        config.host_path(socket_dir).user(of_server.get_user().unwrap()).dbname(DATABASE);
        config
    }

    /// The process that starts all others.
    pub fn pid(&self) -> String {
        self.root.to_string()
    }

    /// The processor time of all its processes, also of those that have ended, in seconds.
    pub fn processor_seconds(&self) -> f64 {
        let mut ticks = 0;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            // After the name, which may have spaces: state, parent, …, user and system time, those of ended children.
            let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
            let fields: Vec<&str> = fields.split(' ').collect();
            let number = |at: usize| fields[at].parse::<u64>().unwrap();
            if entry.file_name().to_str() == Some(&*self.root.to_string()) {
                ticks += number(11) + number(12) + number(13) + number(14);
            } else if number(1) == self.root {
                ticks += number(11) + number(12);
            }
        }
        ticks as f64 / TICKS_PER_SECOND
    }
}

fn socket_dir(server: &Server) -> PathBuf {
    match server.config(DATABASE).get_hosts() {
        [Host::Unix(directory)] => directory.clone(),
        hosts => panic!("{hosts:?} is one socket"),
    }
}
