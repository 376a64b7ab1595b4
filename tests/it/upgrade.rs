//! The upgrade without an outage: real processes, one of which takes over from the other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::net::{TcpStream, UnixDatagram};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use crate::client::{Client, stuff};
use crate::control::Control;
use crate::identity::trust_pem;
use crate::program::{Serving, run, status_of};
use crate::server::{Account, HOSTNAME, create_account, message, message_id};
use crate::wait::{PATIENCE, until};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const PROGRAM: &str = env!("CARGO_BIN_EXE_pillarbox");

/// A server that other processes take over from.
struct Stage {
    server: Serving,
    submission: SocketAddr,
    submissions: SocketAddr,
    control: Control,
    /// Declared last, so that it is deleted after everything that uses it.
    directory: TempDir,
}

impl Stage {
    async fn start() -> Self {
        Self::start_program(tempfile::tempdir().unwrap(), Path::new(PROGRAM), &[]).await
    }

    async fn start_program(directory: TempDir, program: &Path, environment: &[(&str, &str)]) -> Self {
        let file = configure(directory.path(), "");
        let data = directory.path().join("data");
        let (success, said) =
            run(&["key", "create", "--init", "--data-dir", data.to_str().unwrap(), "--name", "it"]).await;
        assert!(success, "{said}");
        let secret = said.split_whitespace().find(|word| word.starts_with("pb_")).unwrap().to_owned();
        let arguments = ["serve", "--config", file.to_str().unwrap()];
        let mut server = Serving::start_group(program, &arguments, environment);
        let started = server.wait_for_line("submission=[").await;
        let control = Control { address: addresses(&started, "api")[0], secret };
        let (submission, submissions) =
            (addresses(&started, "submission")[0], addresses(&started, "submissions")[0]);
        Self { server, submission, submissions, control, directory }
    }

    fn file(&self) -> String {
        self.directory.path().join("pillarbox.toml").to_str().unwrap().to_owned()
    }

    /// `pillarbox upgrade` with these arguments: whether it succeeds, and what it says.
    async fn upgrade(&self, arguments: &[&str]) -> (bool, String) {
        let file = self.file();
        let mut all = vec!["upgrade", "--config", &file];
        all.extend_from_slice(arguments);
        run(&all).await
    }

    /// `pillarbox upgrade` in the background.
    fn begin_upgrade(&self) -> JoinHandle<(bool, String)> {
        let file = self.file();
        tokio::spawn(async move { run(&["upgrade", "--config", &file]).await })
    }

    /// The server greets.
    async fn connect(&self) -> Client {
        Client::connect(self.submission, HOSTNAME).await
    }

    /// Trusts the certificate of the server.
    fn trusted(&self) -> Arc<ClientConfig> {
        let certificate = self.directory.path().join("data/self-signed.crt");
        trust_pem(&std::fs::read_to_string(certificate).unwrap())
    }

    async fn account(&self) -> Account {
        create_account(&self.control, "acme.test", "test").await
    }

    /// A session in the middle of a message, and the rest of the message. Until it is sent, the server does not stop.
    async fn session_in_transfer(&self, account: &Account) -> (Client, Vec<u8>) {
        let mut client = self.connect().await;
        client.ehlo().await;
        let mut client = client.starttls(self.trusted()).await;
        client.auth_plain(&account.user, &account.secret).await.expect_code(235);
        client.command(&format!("MAIL FROM:<alice@{}> BODY=8BITMIME", account.domain)).await.expect_code(250);
        client.command("RCPT TO:<someone@b.test>").await.expect_code(250);
        client.command("DATA").await.expect_code(354);
        let mut text = stuff(&message(account, "transfer"));
        text.extend_from_slice(b".\r\n");
        let rest = text.split_off(text.len() / 2);
        client.write(&text).await;
        (client, rest)
    }

    /// The server refuses connections.
    async fn refuses(&self, address: SocketAddr) {
        until("connections are refused", async || TcpStream::connect(address).await.err()).await;
    }
}

/// Writes the configuration; `sections` come last.
fn configure(directory: &Path, sections: &str) -> PathBuf {
    let file = directory.join("pillarbox.toml");
    let text = format!(
        "hostname = \"{HOSTNAME}\"\ndata_dir = \"{}\"\n[smtp]\nsubmission = [\"127.0.0.1:0\"]\n\
         submissions = [\"127.0.0.1:0\"]\n[api]\nlisten = [\"127.0.0.1:0\"]\n[store]\nfree_disk_min = \"1MiB\"\n{sections}\n",
        directory.join("data").display()
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// The addresses of a kind of listener in the line that names all of them.
fn addresses(started: &str, kind: &str) -> Vec<SocketAddr> {
    let (_, rest) =
        started.split_once(&format!(" {kind}=[")).unwrap_or_else(|| panic!("no {kind}: {started}"));
    let list = rest.split(']').next().unwrap();
    list.split(", ").filter(|address| !address.is_empty()).map(|address| address.parse().unwrap()).collect()
}

fn number_after(text: &str, part: &str) -> u32 {
    let (_, rest) = text.split_once(part).unwrap_or_else(|| panic!("no `{part}` in {text}"));
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// Waits until a process has ended, which somebody else waits for.
async fn wait_for_end_of(process: u32) {
    // One that has ended, and that nobody has waited for, has no arguments any more.
    let arguments = PathBuf::from(format!("/proc/{process}/cmdline"));
    let has_ended = async || std::fs::read(&arguments).unwrap_or_default().is_empty().then_some(());
    until("the process ends", has_ended).await;
}

/// Whether a process has the database open.
fn has_database(process: u32) -> bool {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let mut targets = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
    targets.any(|target| target.ends_with("data/pillarbox.db"))
}

#[tokio::test]
async fn a_new_process_takes_the_listeners_over_and_the_old_one_ends() {
    let mut stage = Stage::start().await;
    let account = stage.account().await;
    let mut old = stage.server.id();
    for _ in 0..2 {
        let (success, said) = stage.upgrade(&[]).await;
        assert!(success, "{said}");
        assert!(said.contains(&format!("was {VERSION} (process {old}), in ")), "{said}");
        let started = stage.server.wait_for_line("submission=[").await;
        assert_eq!(addresses(&started, "submission"), [stage.submission]);
        assert_eq!(addresses(&started, "submissions"), [stage.submissions]);
        assert_eq!(addresses(&started, "api"), [stage.control.address]);
        let new = number_after(&said, &format!("handed over to {VERSION} (process "));
        assert!(new != old && has_database(new));
        old = new;
    }
    stage.server.wait_for_end().await;
    let (mut client, rest) = stage.session_in_transfer(&account).await;
    client.write(&rest).await;
    client.read_reply().await.expect_code(250);
    drop(client);
    let stopped = Command::new("kill").arg("-TERM").arg(old.to_string()).status().unwrap();
    assert!(stopped.success());
    stage.refuses(stage.submission).await;
    let (status, said) = status_of(&["upgrade", "--config", &stage.file()], &[]).await;
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("no server runs with this data directory; start it"), "{said}");
}

#[tokio::test]
async fn a_message_in_transfer_is_finished_by_the_old_process_and_a_waiting_connection_served_by_the_new_one()
{
    let mut stage = Stage::start().await;
    let account = stage.account().await;
    let (mut sender, rest) = stage.session_in_transfer(&account).await;
    let mut idle = stage.connect().await;
    let upgrade = stage.begin_upgrade();
    // The old process takes no connections any more.
    idle.read_reply().await.expect_code(421);
    let mut waiting = Client::open(stage.submission, HOSTNAME).await;
    let new = number_after(&stage.server.wait_for_line("handing over").await, "process=");
    // One that does not wait has opened the database by the time that another server has started.
    let _other = Stage::start().await;
    assert!(has_database(stage.server.id()) && !has_database(new), "one process has the spool");
    sender.write(&rest).await;
    let id = message_id(&sender.read_reply().await.expect_code(250));
    sender.read_reply().await.expect_code(421);
    waiting.read_reply().await.expect_code(220);
    let (success, said) = upgrade.await.unwrap();
    assert!(success, "{said}");
    stage.server.wait_for_end().await;
    assert!(has_database(new));
    assert_eq!(stage.control.get(&format!("/v1/emails/{id}")).await["id"], id.as_str());
}

#[tokio::test]
async fn a_new_process_that_cannot_start_changes_nothing() {
    let mut stage = Stage::start().await;
    std::fs::write(stage.file(), "nonsense = 1\n").unwrap();
    stage.server.signal("USR2");
    stage.server.wait_for_line("this process goes on").await;
    if !stage.server.said.contains("unknown field `nonsense`") {
        stage.server.wait_for_line("unknown field `nonsense`").await;
    }
    let tls = "[tls]\ncertificate = \"/nonexistent/tls.crt\"\nprivate_key = \"/nonexistent/tls.key\"";
    configure(stage.directory.path(), tls);
    let (success, said) = stage.upgrade(&[]).await;
    assert!(!success && said.contains("/nonexistent/tls.crt"), "{said}");
    let (success, said) = stage.upgrade(&["--dry-run"]).await;
    assert!(!success && said.contains("/nonexistent/tls.crt"), "{said}");
    let file = configure(stage.directory.path(), "");
    let elsewhere = std::fs::read_to_string(&file).unwrap().replace("/data\"", "/other\"");
    std::fs::write(&file, elsewhere).unwrap();
    stage.server.signal("USR2");
    stage.server.wait_for_line("this process goes on: data_dir is").await;
    stage.connect().await.ehlo().await;
    configure(stage.directory.path(), "");
    let (success, said) = stage.upgrade(&[]).await;
    assert!(success, "{said}");
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_changes_nothing() {
    let stage = Stage::start().await;
    let (success, said) = stage.upgrade(&["--dry-run"]).await;
    assert!(success, "{said}");
    let running = format!("runs {VERSION} (process {}); this program is {VERSION}", stage.server.id());
    assert!(said.contains(&running) && said.contains("needs no migration"), "{said}");
    let (_, again) = stage.upgrade(&["--dry-run"]).await;
    assert_eq!(said, again);
}

#[tokio::test]
async fn an_added_listener_is_bound_and_a_removed_one_is_closed() {
    let mut stage = Stage::start().await;
    let file = configure(stage.directory.path(), "");
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text
        .replace("submission = [\"127.0.0.1:0\"]", "submission = [\"127.0.0.1:0\", \"127.0.0.1:0\"]")
        .replace("submissions = [\"127.0.0.1:0\"]", "submissions = []");
    std::fs::write(&file, changed).unwrap();
    let (success, said) = stage.upgrade(&[]).await;
    assert!(success, "{said}");
    let started = stage.server.wait_for_line("submission=[").await;
    let submission = addresses(&started, "submission");
    assert_eq!((submission.len(), submission[0]), (2, stage.submission), "{started}");
    Client::connect(submission[1], HOSTNAME).await.ehlo().await;
    assert!(addresses(&started, "submissions").is_empty(), "{started}");
    stage.refuses(stage.submissions).await;
}

#[tokio::test]
async fn an_ordinary_stop_refuses_connections_although_work_goes_on() {
    let mut stage = Stage::start().await;
    let account = stage.account().await;
    let (mut sender, rest) = stage.session_in_transfer(&account).await;
    stage.server.signal("TERM");
    stage.refuses(stage.submission).await;
    sender.write(&rest).await;
    sender.read_reply().await.expect_code(250);
    drop(sender);
    stage.server.wait_for_end().await;
}

#[tokio::test]
async fn a_client_that_begins_tls_at_a_stop_gets_421() {
    let mut stage = Stage::start().await;
    let mut client = stage.connect().await;
    client.ehlo().await;
    client.command("STARTTLS").await.expect_code(220);
    stage.server.signal("TERM");
    stage.refuses(stage.submission).await;
    let mut client = client.into_tls(stage.trusted()).await.expect("a handshake");
    client.read_reply().await.expect_code(421);
    drop(client);
    stage.server.wait_for_end().await;
}

/// The socket at which the service manager gets notifications of the server.
struct ServiceManager {
    socket: UnixDatagram,
    path: String,
}

impl ServiceManager {
    fn in_directory(directory: &TempDir) -> Self {
        let path = directory.path().join("notify");
        Self { socket: UnixDatagram::bind(&path).unwrap(), path: path.to_str().unwrap().to_owned() }
    }

    fn environment(&self) -> [(&str, &str); 1] {
        [("NOTIFY_SOCKET", self.path.as_str())]
    }

    async fn next(&self) -> String {
        let mut octets = [0; 256];
        let length = timeout(PATIENCE, self.socket.recv(&mut octets)).await.expect("a notification").unwrap();
        String::from_utf8(octets[..length].to_vec()).unwrap()
    }
}

#[tokio::test]
async fn the_service_manager_learns_the_new_process_before_it_is_ready() {
    let directory = tempfile::tempdir().unwrap();
    let manager = ServiceManager::in_directory(&directory);
    let mut stage = Stage::start_program(directory, Path::new(PROGRAM), &manager.environment()).await;
    assert_eq!(manager.next().await, "READY=1\n");
    stage.server.signal("USR2");
    let new = number_after(&stage.server.wait_for_line("handing over").await, "process=");
    assert_eq!(manager.next().await, format!("MAINPID={new}\n"));
    assert_eq!(manager.next().await, "READY=1\n");
    stage.server.wait_for_end().await;
}

#[tokio::test]
async fn a_start_with_a_migration_says_how_long_it_takes_and_asks_the_service_manager_for_time() {
    let directory = tempfile::tempdir().unwrap();
    let manager = ServiceManager::in_directory(&directory);
    let file = configure(directory.path(), "");
    std::fs::create_dir(directory.path().join("data")).unwrap();
    // As the first version made it.
    let database = rusqlite::Connection::open(directory.path().join("data/pillarbox.db")).unwrap();
    database.execute_batch(include_str!("../../src/store/sql/sqlite/migrations/0001_initial.sql")).unwrap();
    database.pragma_update(None, "user_version", 1).unwrap();
    drop(database);
    let mut server =
        Serving::start_with(&["serve", "--config", file.to_str().unwrap()], &manager.environment());
    let line = server.wait_for_line("migrating the database from schema 1 to ").await;
    assert!(line.ends_with("about 1 s"), "{line}");
    server.wait_for_line("the database has schema 2 now, after ").await;
    assert_eq!(manager.next().await, "EXTEND_TIMEOUT_USEC=30000000\n");
    until("it is ready", async || (manager.next().await == "READY=1\n").then_some(())).await;
    server.end("TERM").await;
}

#[tokio::test]
async fn a_new_database_is_no_migration() {
    let directory = tempfile::tempdir().unwrap();
    let file = configure(directory.path(), "");
    let mut server = Serving::start(&["serve", "--config", file.to_str().unwrap()]);
    server.wait_for_line("submission=[").await;
    assert!(!server.said.contains("schema"), "{}", server.said);
    server.end("TERM").await;
}

/// A copy of the program in a directory of the test, which scripts can replace.
struct Installed(PathBuf);

impl Installed {
    fn new(directory: &TempDir) -> Self {
        let installed = Self(directory.path().join("pillarbox"));
        installed.shell("ln \"$0\" \"$1\" 2>/dev/null || cp \"$0\" \"$1\"");
        installed
    }

    /// Puts a script in place of the program; in it, `%s` is the program.
    fn replace(&self, script: &str) {
        self.shell(&format!(
            "printf '#!/bin/sh\\n{script}\\n' \"$0\" > \"$1.new\" && chmod 755 \"$1.new\" && mv \"$1.new\" \"$1\""
        ));
    }

    /// Another process writes the file, because one that this process has open cannot be started by its other threads.
    fn shell(&self, script: &str) {
        let arguments = ["-c", script, PROGRAM, self.0.to_str().unwrap()];
        assert!(Command::new("sh").args(arguments).status().unwrap().success());
    }
}

#[tokio::test]
async fn the_file_that_has_replaced_the_program_is_started() {
    let directory = tempfile::tempdir().unwrap();
    let installed = Installed::new(&directory);
    let mut stage = Stage::start_program(directory, &installed.0, &[]).await;
    installed.replace("echo the new file >&2\\nexec \"%s\" \"$@\"");
    let (success, said) = stage.upgrade(&[]).await;
    assert!(success, "{said}");
    stage.server.wait_for_line("the new file").await;
    stage.server.wait_for_end().await;
}

#[tokio::test]
async fn a_stop_ends_the_new_process_that_is_not_prepared_so_that_it_holds_no_listeners() {
    let directory = tempfile::tempdir().unwrap();
    let installed = Installed::new(&directory);
    let mut stage = Stage::start_program(directory, &installed.0, &[]).await;
    let account = stage.account().await;
    let (mut sender, rest) = stage.session_in_transfer(&account).await;
    // It never says that it is prepared.
    installed.replace("exec cat %.0s > /dev/null");
    let upgrade = stage.begin_upgrade();
    let new = number_after(&stage.server.wait_for_line("prepares to take over").await, "process=");
    stage.server.signal("TERM");
    wait_for_end_of(new).await;
    stage.refuses(stage.submission).await;
    let (success, said) = upgrade.await.unwrap();
    assert!(!success && said.contains("the server stops"), "{said}");
    sender.write(&rest).await;
    sender.read_reply().await.expect_code(250);
    drop(sender);
    stage.server.wait_for_end().await;
}

#[tokio::test]
async fn a_stop_during_the_hand_over_ends_both_processes() {
    let mut stage = Stage::start().await;
    let account = stage.account().await;
    let (mut sender, rest) = stage.session_in_transfer(&account).await;
    let upgrade = stage.begin_upgrade();
    let new = number_after(&stage.server.wait_for_line("handing over").await, "process=");
    stage.server.signal("TERM");
    sender.write(&rest).await;
    sender.read_reply().await.expect_code(250);
    drop(sender);
    stage.server.wait_for_end().await;
    wait_for_end_of(new).await;
    stage.refuses(stage.submission).await;
    let (success, said) = upgrade.await.unwrap();
    assert!(!success && said.contains("the server stops"), "{said}");
}

#[tokio::test]
async fn the_option_that_takes_over_is_for_the_server_itself() {
    let directory = tempfile::tempdir().unwrap();
    let file = configure(directory.path(), "");
    let (success, said) = run(&["serve", "--take-over", "--config", file.to_str().unwrap()]).await;
    assert!(!success && said.contains("run pillarbox upgrade"), "{said}");
    assert!(!directory.path().join("data").exists());
}

#[tokio::test]
async fn a_handover_ends_at_its_deadline_although_a_message_is_in_transfer() {
    let mut stage = Stage::start().await;
    let account = stage.account().await;
    let file = configure(stage.directory.path(), "");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("handover_deadline = \"4s\"\n{text}")).unwrap();
    // The deadline is that of the process that hands over.
    let (success, said) = stage.upgrade(&[]).await;
    assert!(success, "{said}");
    let (mut sender, _) = stage.session_in_transfer(&account).await;
    let (success, said) = stage.upgrade(&[]).await;
    assert!(success, "{said}");
    stage.server.wait_for_line("was cut off; no accepted mail is lost").await;
    assert_eq!(sender.try_read_reply().await, None);
    stage.connect().await.ehlo().await;
}
