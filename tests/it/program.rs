//! The real binary as a process: run to its end, or started, signalled and stopped.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, getpriority_process, kill_process_group};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::wait::{PATIENCE, until};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// Runs to the end. Returns whether it succeeded, and its output.
pub async fn run(arguments: &[&str]) -> (bool, String) {
    run_with(arguments, &[]).await
}

/// Runs to the end with additional environment variables.
pub async fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let (status, said) = status_of(arguments, environment).await;
    (status == Some(0), said)
}

/// Runs to the end. Returns the exit status and the output.
pub async fn status_of(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = program(arguments);
    command.envs(environment.iter().copied());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut process = Process { child, leads_group: false };
    let child = &mut process.child;
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reading = spawn_blocking(move || {
        let stderr = thread::spawn(move || read_all(stderr));
        [read_all(stdout), stderr.join().unwrap()].concat()
    });
    let said = timeout(PATIENCE, reading).await.expect("it ends by itself").unwrap();
    (process.child.wait().unwrap().code(), String::from_utf8(said).unwrap())
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut octets = Vec::new();
    from.read_to_end(&mut octets).unwrap();
    octets
}

/// A process that is killed at the end of its test.
struct Process {
    child: Child,
    /// Those that it has started are killed too.
    leads_group: bool,
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.leads_group {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running server.
pub struct Serving {
    /// The address of its listener, after the test has found it.
    pub port: u16,
    /// The output read so far.
    pub said: String,
    process: Process,
    lines: UnboundedReceiver<String>,
}

impl Serving {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// Starts it with additional environment variables.
    pub fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = program(arguments);
        command.envs(environment.iter().copied());
        Self::spawn(command)
    }

    /// Starts this file, for a test in which other processes take over. All of them are killed at its end.
    pub fn start_group(file: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(file);
        command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG").process_group(0);
        command.envs(environment.iter().copied());
        let mut serving = Self::spawn(command);
        serving.process.leads_group = true;
        serving
    }

    /// Starts it so that a write beyond the file size limit fails, as on a full disk, instead of raising a signal.
    pub fn start_under_limits(arguments: &[&str]) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_pillarbox")]);
        command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
        Self::spawn(command)
    }

    /// Starts it with these soft and hard limits of open files.
    pub fn start_with_open_files(soft: u64, hard: u64, arguments: &[&str]) -> Self {
        let mut command = Command::new("/bin/sh");
        let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_pillarbox")]);
        command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        read_lines(child.stdout.take().unwrap(), sender.clone());
        read_lines(child.stderr.take().unwrap(), sender);
        Self { port: 0, said: String::new(), process: Process { child, leads_group: false }, lines }
    }

    /// Waits for a line of output with this text. Returns the line.
    pub async fn wait_for_line(&mut self, part: &str) -> String {
        loop {
            let next = timeout(PATIENCE, self.lines.recv()).await;
            let next = next.unwrap_or_else(|_| panic!("no `{part}` in time in:\n{}", self.said));
            let Some(line) = next else { panic!("it ended without `{part}`:\n{}", self.said) };
            self.said += &line;
            self.said.push('\n');
            if line.contains(part) {
                return line;
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.process.child.id()
    }

    /// `nice` of POSIX.
    pub fn priority(&self) -> i32 {
        getpriority_process(Some(Pid::from_child(&self.process.child))).unwrap()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// Sends a signal, and expects a successful exit.
    pub async fn end(mut self, name: &str) {
        self.signal(name);
        self.wait_for_end().await;
    }

    /// Waits for a successful exit.
    pub async fn wait_for_end(&mut self) {
        assert_eq!(self.wait_for_status().await, Some(0));
    }

    /// Waits for its exit.
    pub async fn wait_for_status(&mut self) -> Option<i32> {
        until("it ends", async || self.process.child.try_wait().unwrap()).await.code()
    }
}

/// Reads to the end in a thread, so that the writer is never blocked.
fn read_lines(from: impl Read + Send + 'static, to: UnboundedSender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = to.send(line);
        }
    });
}
