//! Backups beside a running server: what they contain, and what a check of them finds.

use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use pillarbox::store::hold_bodies;
use serde_json::{Value, json};

use crate::fake_mx::{FakeMx, Fault, Phase};
use crate::http::request;
use crate::program::{self, Serving};
use crate::server::{Account, TestServer, message, one_destination, one_destination_with, text};
use crate::wait::until;

/// A path beside the data directory of a server.
pub fn beside(server: &TestServer, name: &str) -> PathBuf {
    server.config.data_dir.parent().unwrap().join(name)
}

pub fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs `pillarbox backup create` with more arguments.
pub async fn create(server: &TestServer, target: &Path, more: &[&str]) -> (bool, String) {
    let data_dir = str(&server.config.data_dir);
    program::run(&[&["backup", "create", "--data-dir", data_dir, str(target)], more].concat()).await
}

/// A backup that is made.
pub async fn backup(server: &TestServer, name: &str) -> PathBuf {
    let target = beside(server, name);
    let (ok, said) = create(server, &target, &[]).await;
    assert!(ok && said.starts_with("backup of "), "{said}");
    target
}

pub async fn verify(backup: &Path, more: &[&str]) -> (Option<i32>, String) {
    program::status_of(&[&["backup", "verify", str(backup)], more].concat(), &[]).await
}

fn master_key(server: &TestServer) -> PathBuf {
    server.config.data_dir.join("master.key")
}

/// A message with a body in a file of its own.
pub fn large(account: &Account, subject: &str) -> Vec<u8> {
    let mut content = message(account, subject);
    content.extend(
        "0123456789012345678901234567890123456789012345678901234567890123456789\r\n".repeat(5000).bytes(),
    );
    content
}

pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

pub fn bodies(directory: &Path) -> Vec<PathBuf> {
    let directory = directory.join("bodies");
    if directory.is_dir() { files_below(&directory) } else { Vec::new() }
}

/// What a backup says of itself.
pub fn manifest(backup: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(backup.join("manifest.json")).unwrap()).unwrap()
}

/// A server with an open message and a large one that is delivered.
pub async fn with_mail() -> (crate::fake_dns::FakeDns, FakeMx, TestServer, Account) {
    let (dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let sent = server.submit(&account, &["bob@b.test"], &large(&account, "large")).await;
    server.wait_for_status(&sent, &["delivered"]).await;
    mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.7.1 greylisted"));
    let open = server.submit(&account, &["carol@b.test"], &message(&account, "open")).await;
    server.wait_for_status(&open, &["deferred"]).await;
    (dns, mx, server, account)
}

#[tokio::test]
async fn a_backup_beside_a_server_has_what_was_acknowledged_and_is_whole() {
    let (_dns, _mx, server, _account) = with_mail().await;
    let target = backup(&server, "backup").await;
    let found = manifest(&target);
    assert_eq!(
        (&found["rows"]["message"], &found["open_deliveries"], &found["bodies"]),
        (&json!(2), &json!(1), &json!(1))
    );
    let (status, said) = verify(&target, &[]).await;
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("is whole") && said.contains("2 messages, 1 open delivery\n"), "{said}");
    assert!(said.contains("not looked at: ") && said.contains("because --master-key is not given"), "{said}");
    let key = master_key(&server);
    let (status, said) = verify(&target, &["--master-key", str(&key), "--restore-drill"]).await;
    assert!(status == Some(0) && said.contains("the master key opens "), "{said}");
    let (status, said) = verify(&target, &["--master-key", str(&key), "--json"]).await;
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &report["faults"]), (Some(0), &json!([])), "{said}");
    assert_eq!(report["deliveries_compared"], 2, "{said}");
    // Nothing else is left beside it.
    let mut names = std::fs::read_dir(beside(&server, ".")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.all(|name| name == "data" || name == "backup"));
    let (ok, said) = create(&server, &target, &[]).await;
    assert!(!ok && said.contains("exists"), "{said}");
    let (ok, said) = create(&server, &server.config.data_dir.join("backup"), &[]).await;
    assert!(!ok && said.contains("a backup belongs elsewhere"), "{said}");
    let below = server.config.data_dir.join("backups");
    let (ok, said) = create(&server, &below, &["--keep", "7"]).await;
    assert!(!ok && said.contains("a backup belongs elsewhere") && !below.exists(), "{said}");
}

#[tokio::test]
async fn the_master_key_is_in_no_file_of_a_backup() {
    let (_dns, _mx, server, _account) = with_mail().await;
    let target = backup(&server, "backup").await;
    let key = std::fs::read_to_string(master_key(&server)).unwrap();
    let key = key.trim_end();
    let raw = data_encoding::HEXLOWER.decode(key.as_bytes()).unwrap();
    let files = files_below(&target);
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        let octets = std::fs::read(&file).unwrap();
        let has = |part: &[u8]| octets.windows(part.len()).any(|window| window == part);
        assert!(!has(key.as_bytes()) && !has(&raw), "{}", file.display());
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn a_flipped_bit_in_each_file_is_found() {
    let (_dns, _mx, server, _account) = with_mail().await;
    let target = backup(&server, "backup").await;
    for file in files_below(&target) {
        let whole = std::fs::read(&file).unwrap();
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        std::fs::write(&file, &changed).unwrap();
        let (status, said) = verify(&target, &[]).await;
        let name = file.strip_prefix(&target).unwrap().to_str().unwrap();
        assert!(status == Some(2) && said.contains("damaged: ") && said.contains(name), "{name}: {said}");
        std::fs::write(&file, &whole).unwrap();
    }
    std::fs::write(target.join("bodies/extra"), "").unwrap();
    let (status, said) = verify(&target, &[]).await;
    assert!(status == Some(2) && said.contains("bodies/extra: it is not in files.sha256"), "{said}");
}

#[tokio::test]
async fn a_wrong_master_key_is_named() {
    let (_dns, _mx, server, _account) = with_mail().await;
    let target = backup(&server, "backup").await;
    let wrong = beside(&server, "wrong.key");
    std::fs::write(&wrong, format!("{}\n", "ab".repeat(32))).unwrap();
    std::fs::set_permissions(&wrong, Permissions::from_mode(0o600)).unwrap();
    let (status, said) = verify(&target, &["--master-key", str(&wrong)]).await;
    let needed = manifest(&target)["master_key"].as_str().unwrap().to_owned();
    assert!(status == Some(2) && said.contains(&format!("and the backup needs {needed}")), "{said}");
    let restored = beside(&server, "restored");
    let arguments = [
        "backup",
        "restore",
        str(&target),
        "--data-dir",
        str(&restored),
        "--master-key",
        str(&wrong),
        "--yes",
    ];
    let (ok, said) = program::run(&arguments).await;
    assert!(!ok && said.contains("is not the master key of this backup") && said.contains(&needed), "{said}");
    assert!(!restored.exists());
}

#[tokio::test]
async fn a_state_that_its_events_do_not_give_is_found() {
    let (_dns, _mx, server, _account) = with_mail().await;
    let target = backup(&server, "backup").await;
    let database = rusqlite::Connection::open(target.join("pillarbox.db")).unwrap();
    let sql = "UPDATE delivery SET state = 'delivered', next_attempt_us = NULL WHERE state = 'deferred'";
    assert_eq!(database.execute(sql, []).unwrap(), 1);
    database.close().unwrap();
    let (status, said) = verify(&target, &[]).await;
    assert!(
        status == Some(2) && said.contains("its state is delivered, but from its events follows queued"),
        "{said}"
    );
}

#[tokio::test]
async fn bodies_that_an_earlier_backup_has_are_linked_and_only_the_newest_backups_are_kept() {
    let (_dns, _mx, server, account) = with_mail().await;
    let first = backup(&server, "first").await;
    let id = server.submit(&account, &["bob@b.test"], &large(&account, "second")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let second = beside(&server, "second");
    let (ok, said) = create(&server, &second, &["--since", str(&first)]).await;
    assert!(ok && said.contains("1 body file linked"), "{said}");
    assert_eq!((bodies(&first).len(), bodies(&second).len()), (1, 2));
    let links = |backup: &Path| bodies(backup).iter().map(|body| body.metadata().unwrap().nlink()).max();
    assert_eq!(links(&second), Some(2));
    assert_eq!(verify(&second, &[]).await.0, Some(0));

    // Links do not lead to another file system, so files are copied there.
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let is_same = elsewhere.path().metadata().unwrap().dev() == second.metadata().unwrap().dev();
    let other = elsewhere.path().join("backup");
    let (ok, said) = create(&server, &other, &["--since", str(&second)]).await;
    assert!(ok && said.contains("linked") == is_same, "{said}");
    assert_eq!(verify(&other, &[]).await.0, Some(0));

    // An earlier file that was cut off is not taken over.
    std::fs::File::options().write(true).open(&bodies(&first)[0]).unwrap().set_len(1000).unwrap();
    let third = beside(&server, "third");
    let (ok, said) = create(&server, &third, &["--since", str(&first)]).await;
    assert!(ok && !said.contains("linked"), "{said}");
    assert_eq!(verify(&third, &[]).await.0, Some(0));

    let kept = beside(&server, "kept");
    for round in 0..3 {
        // The name has seconds.
        until("the name is free", async || {
            let (ok, said) = create(&server, &kept, &["--keep", "2"]).await;
            assert!(ok || said.contains("exists"), "{said}");
            assert!(!ok || round == 0 || said.contains("2 body files linked"), "{said}");
            ok.then_some(())
        })
        .await;
    }
    let left: Vec<_> = std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    for backup in left {
        assert_eq!(verify(&backup, &[]).await.0, Some(0));
    }
}

#[tokio::test]
async fn a_tar_file_and_the_standard_output_have_the_same_contents() {
    let (_dns, _mx, server, _account) = with_mail().await;
    let file = beside(&server, "backup.tar");
    let (ok, said) = create(&server, &file, &[]).await;
    assert!(ok, "{said}");
    let other = beside(&server, "other.tar");
    let data_dir = server.config.data_dir.clone();
    let out = std::fs::File::create(&other).unwrap();
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
        command.args(["backup", "create", "--data-dir", str(&data_dir), "-"]);
        command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).status().unwrap()
    };
    assert!(tokio::task::spawn_blocking(run).await.unwrap().success());
    for archive in [&file, &other] {
        let (status, said) =
            verify(archive, &["--master-key", str(&master_key(&server)), "--restore-drill"]).await;
        assert!(status == Some(0) && said.contains("2 messages, 1 open delivery\n"), "{said}");
    }
    let octets = std::fs::read(&file).unwrap();
    std::fs::write(&other, &octets[..octets.len() - 3000]).unwrap();
    let (status, said) = verify(&other, &[]).await;
    assert_eq!(status, Some(2), "an archive that ends early: {said}");
    let gzip = beside(&server, "today.tar.gz");
    std::fs::write(&gzip, [b"\x1f\x8b\x08".as_slice(), &octets[..2000]].concat()).unwrap();
    let (status, said) = verify(&gzip, &[]).await;
    assert!(
        status == Some(2) && said.contains("no tar file; if it is compressed, unpack it first"),
        "{said}"
    );
    assert!(files_below(&server.config.data_dir).iter().all(|file| !str(file).contains(".partial-")));
}

/// Mail of more octets than one step of a copy has.
async fn fill(server: &TestServer, account: &Account) {
    let line = "0123456789012345678901234567890123456789012345678901234567890123456789\r\n";
    let mut client = server.log_in(account).await;
    for number in 0..24 {
        let content = [message(account, &format!("m{number}")), line.repeat(3300).into_bytes()].concat();
        client.send("alice@acme.test", &["bob@b.test"], &content).await.expect_code(250);
    }
}

/// Starts a backup that waits after its first step for this many seconds, and waits until its copy has begun.
async fn start_slow(server: &TestServer, target: &Path, rate: &str) -> Serving {
    let data_dir = str(&server.config.data_dir);
    let process = Serving::start(&["backup", "create", "--data-dir", data_dir, str(target), "--rate", rate]);
    wait_for_copy(target).await;
    process
}

async fn wait_for_copy(target: &Path) {
    let parent = target.parent().unwrap();
    until("the copy has begun", async || {
        let work = work_directory(parent)?;
        let copy = std::fs::metadata(work.join("pillarbox.db")).ok()?;
        (copy.len() > 0).then_some(())
    })
    .await;
}

pub fn work_directory(parent: &Path) -> Option<PathBuf> {
    let mut paths = std::fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().path());
    paths.find(|path| str(path).contains(".partial-"))
}

#[tokio::test]
async fn a_backup_that_has_a_low_priority_asks_for_no_other() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    fill(&server, &account).await;
    let (data_dir, target) = (str(&server.config.data_dir), beside(&server, "backup"));
    let file = env!("CARGO_BIN_EXE_pillarbox");
    let backup = ["backup", "create", "--data-dir", data_dir, str(&target), "--rate", "1KiB"];
    let command = [["-n", "10", file].as_slice(), backup.as_slice()].concat();
    let process = Serving::start_group(Path::new("nice"), &command, &[]);
    wait_for_copy(&target).await;
    // The filter of the systemd unit can kill a process for that.
    assert!((10..19).contains(&process.priority()), "{}", process.priority());
}

#[tokio::test]
async fn a_killed_backup_leaves_nothing_that_verifies_and_the_next_one_removes_it() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    fill(&server, &account).await;
    let target = beside(&server, "backup");
    let mut process = start_slow(&server, &target, "1KiB").await;
    assert_eq!(process.priority(), 19, "the server beside it goes first");
    process.signal("KILL");
    process.wait_for_status().await;
    let left = work_directory(&beside(&server, ".")).unwrap();
    let (status, said) = verify(&left, &[]).await;
    assert!(status == Some(2) && said.contains("has no manifest.json"), "{said}");
    assert!(!target.exists());
    std::fs::File::open(&left).unwrap().set_modified(SystemTime::now() - Duration::from_secs(600)).unwrap();
    // Such as one to the standard output left.
    let other = server.config.data_dir.join("backup.partial-0123456789abcdef");
    std::fs::create_dir(&other).unwrap();
    std::fs::File::open(&other).unwrap().set_modified(SystemTime::now() - Duration::from_secs(600)).unwrap();
    backup(&server, "backup").await;
    assert!(!left.exists() && !other.exists());
    assert_eq!(verify(&target, &[]).await.0, Some(0));
}

#[tokio::test]
async fn mail_that_is_deleted_during_a_backup_is_whole_in_it() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    fill(&server, &account).await;
    let id = server.submit(&account, &["bob@b.test"], &large(&account, "large")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let target = beside(&server, "backup");
    let mut process = start_slow(&server, &target, "2MiB").await;
    server.control.ok("DELETE", &format!("/v1/tenants/{}", account.tenant_id), Value::Null).await;
    process.wait_for_end().await;
    assert_eq!(manifest(&target)["rows"]["message"], 25);
    let (status, said) = verify(&target, &[]).await;
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(bodies(&target).len(), 1);
}

#[tokio::test]
async fn files_stay_while_a_backup_holds_them_and_are_deleted_afterwards() {
    let (_dns, _mx, server) = one_destination().await;
    let [first, second] = ["acme.test", "other.test"].map(|domain| server.create_account(domain));
    let (first, second) = (first.await, second.await);
    let id = server.submit(&first, &["bob@b.test"], &large(&first, "large")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let held = hold_bodies(&server.config.data_dir, Duration::from_secs(20)).unwrap();
    let delete = async |account: &Account| {
        server.control.ok("DELETE", &format!("/v1/tenants/{}", account.tenant_id), Value::Null).await
    };
    delete(&first).await;
    assert_eq!(bodies(&server.config.data_dir).len(), 1);
    drop(held);
    // The next deletion of files deletes what is left.
    delete(&second).await;
    assert_eq!(bodies(&server.config.data_dir).len(), 0);
}

#[tokio::test]
async fn a_backup_is_given_up_when_the_disk_gets_full() {
    let (_dns, _mx, server, _account) = with_mail().await;
    let config = beside(&server, "full.toml");
    let data_dir = server.config.data_dir.display();
    std::fs::write(&config, format!("data_dir = \"{data_dir}\"\n[store]\nfree_disk_min = \"900TiB\"\n"))
        .unwrap();
    let target = beside(&server, "backup");
    let (ok, said) = program::run(&["backup", "create", "--config", str(&config), str(&target)]).await;
    assert!(!ok && said.contains("has less free space than twice store.free_disk_min"), "{said}");
    assert!(!target.exists() && work_directory(&beside(&server, ".")).is_none());
}

#[tokio::test]
async fn a_copy_that_would_fill_the_disk_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    std::fs::create_dir(&data_dir).unwrap();
    // A file with a hole takes no space.
    std::fs::File::create(data_dir.join("pillarbox.db")).unwrap().set_len(1 << 43).unwrap();
    let target = dir.path().join("backup");
    let (ok, said) = program::run(&["backup", "create", "--data-dir", str(&data_dir), str(&target)]).await;
    assert!(!ok && said.contains(", the copy of the database needs 8."), "{said}");
    assert!(!target.exists() && work_directory(dir.path()).is_none());
}

#[tokio::test]
async fn the_doctor_the_api_and_the_metrics_know_the_last_backup() {
    let (_dns, _mx, server) = one_destination_with(|config| {
        config.api.metrics_listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    })
    .await;
    let scrape = async || {
        let answer = request(server.running().metrics_addresses[0], "GET", "/metrics", None, None).await;
        String::from_utf8(answer.body).unwrap()
    };
    let status = async || {
        let found = server.control.get("/v1/doctor?refresh=true").await;
        let findings = found["findings"].as_array().unwrap().clone();
        let age = findings.into_iter().find(|finding| finding["id"] == "backup.age").unwrap();
        text(&age["status"])
    };
    assert_eq!(server.control.get("/v1/backup").await["taken_at"], Value::Null);
    assert!(!scrape().await.contains("pillarbox_backup_age_seconds"));
    assert_eq!(status().await, "warning");
    let target = backup(&server, "backup").await;
    let last = server.control.get("/v1/backup").await;
    assert_eq!((&last["taken_at"], &last["restoration"]), (&manifest(&target)["taken_at"], &Value::Null));
    assert_eq!(last["path"], str(&target.canonicalize().unwrap()));
    assert!(scrape().await.contains("\npillarbox_backup_age_seconds "));
    assert_eq!(status().await, "ok");
}
