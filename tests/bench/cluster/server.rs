//! A PostgreSQL server of the benchmark: its directory, its sessions, the processor time of its processes.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};

/// Of `/proc`, on Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const SETTINGS: [&str; 5] = [
    "listen_addresses=",
    "max_connections=200",
    "max_wal_size=8GB",
    "checkpoint_timeout=15min",
    "shared_preload_libraries=pg_stat_statements",
];

pub struct Server {
    pub dir: TempDir,
    postmaster: Child,
}

impl Server {
    pub fn start(settings: &[String]) -> Self {
        let programs = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let programs =
            programs.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists());
        let programs = std::env::var_os("PILLARBOX_TEST_PG_BIN").map(PathBuf::from).or(programs);
        let programs = programs.expect("PostgreSQL is not installed");
        let dir = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let owner = owner();
        if let Some((user, group)) = owner {
            [dir.path(), &data].map(|path| chown(path, Some(user), Some(group)).unwrap());
        }
        let as_owner = |program: &str| {
            let mut command = Command::new(programs.join(program));
            if let Some((user, group)) = owner {
                command.uid(user).gid(group);
            }
            command.current_dir("/");
            command
        };
        let mut initdb = as_owner("initdb");
        initdb.args(["-A", "trust", "--locale=C", "-E", "UTF8", "-U", "bench", "-D"]).arg(&data);
        assert!(initdb.stdout(Stdio::null()).status().unwrap().success());
        let mut postgres = as_owner("postgres");
        postgres.arg("-D").arg(&data).arg("-k").arg(dir.path());
        for setting in SETTINGS.into_iter().chain(settings.iter().map(String::as_str)) {
            postgres.args(["-c", setting]);
        }
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let postmaster = postgres.stderr(log).stdout(Stdio::null()).spawn().unwrap();
        Self { dir, postmaster }
    }

    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(self.dir.path()).user("bench").dbname("postgres");
        config
    }

    /// A session, once the server takes them.
    pub async fn connect(&self) -> Client {
        let end = Instant::now() + START_TIMEOUT;
        loop {
            match self.config().connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(_) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The processor time of all its processes, also of those that have ended, in seconds.
    pub fn processor_seconds(&self) -> f64 {
        let root = self.postmaster.id();
        let mut ticks = 0;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            // After the name, which may have spaces: state, parent, …, user and system time, those of ended children.
            let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
            let fields: Vec<&str> = fields.split(' ').collect();
            let number = |at: usize| fields[at].parse::<u64>().unwrap();
            if entry.file_name().to_str() == Some(&*root.to_string()) {
                ticks += number(11) + number(12) + number(13) + number(14);
            } else if number(1) == u64::from(root) {
                ticks += number(11) + number(12);
            }
        }
        ticks as f64 / TICKS_PER_SECOND
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A fast shutdown.
        let pid = i32::try_from(self.postmaster.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let _ = self.postmaster.wait();
    }
}

/// PostgreSQL refuses to run as root.
fn owner() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("the user postgres");
    let fields: Vec<_> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}
