//! Restored backups: what was open waits, what came since is named, nothing is lost by a refused restore.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::backup::{backup, beside, bodies, files_below, large, str, work_directory};
use crate::fake_mx::{FakeMx, Fault, Phase};
use crate::http::request;
use crate::program::{self, Serving};
use crate::server::{Account, RETRY_DELAY_MAX, TestServer, message, one_destination, text};
use crate::wait::until;

/// Runs the program to its end, without the runtime of the test.
fn run(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    let Output { status, stdout, stderr } = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    (status.success(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// Stops the server, restores a backup in place of its data, and starts it. Returns what the command said.
async fn restore(server: &mut TestServer, backup: &Path, more: &[&str]) -> String {
    let mut said = String::new();
    server
        .restart(|config| {
            let fixed =
                ["backup", "restore", str(backup), "--data-dir", str(&config.data_dir), "--replace", "--yes"];
            let (ok, output) = run(&[&fixed[..], more].concat());
            assert!(ok, "{output}");
            said = output;
        })
        .await;
    said
}

async fn defer(server: &TestServer, mx: &FakeMx, account: &Account, recipient: &str) -> String {
    mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.7.1 greylisted"));
    let id = server.submit(account, &[recipient], &message(account, recipient)).await;
    server.wait_for_status(&id, &["deferred"]).await;
    id
}

#[tokio::test]
async fn nothing_is_sent_before_the_restored_deliveries_are_released() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let open = defer(&server, &mx, &account, "bob@b.test").await;
    let target = backup(&server, "backup").await;
    // It is delivered, and then forgotten by the restore.
    server.control.ok("POST", "/v1/queue/flush", Value::Null).await;
    server.wait_for_status(&open, &["delivered"]).await;
    assert_eq!(mx.transactions().len(), 1);
    let said = restore(&mut server, &target, &[]).await;
    assert!(
        said.contains("1 delivery waits\n") && said.contains("pillarbox queue resume --restored"),
        "{said}"
    );

    server.clock.advance(RETRY_DELAY_MAX);
    assert_eq!(server.control.ok("POST", "/v1/queue/flush", Value::Null).await["flushed"], 0);
    let retried = server.control.ok("POST", &format!("/v1/emails/{open}/retry"), Value::Null).await;
    assert_eq!(retried["retried"], json!([]), "{retried}");
    for part in [json!({"destination": "b.test"}), json!({})] {
        server.control.ok("POST", "/v1/queue/pause", part.clone()).await;
        server.control.ok("POST", "/v1/queue/resume", part).await;
    }
    let tenant = format!("/v1/tenants/{}", account.tenant_id);
    for status in ["suspended", "active"] {
        server.control.ok("PATCH", &tenant, json!({"status": status})).await;
    }
    // Mail that is accepted afterwards is free, and shows that the relay works.
    let new = server.submit(&account, &["carol@b.test"], &message(&account, "new")).await;
    server.wait_for_status(&new, &["delivered"]).await;
    assert_eq!(mx.transactions().len(), 2);
    let queue = until("it waits", async || {
        let queue = server.control.get("/v1/queue").await;
        (queue["paused"] == 1 && queue["open"] == 1).then_some(queue)
    })
    .await;
    assert_eq!(queue["restoration"]["deliveries"], 1, "{queue}");
    let why = &queue["data"][0]["reasons"][0];
    assert!(
        why["reason"] == "paused" && text(&why["detail"]).starts_with("restored from the backup of "),
        "{queue}"
    );
    let (address, secret) = (server.control.address, Some(server.control.secret.as_str()));
    let refused = request(address, "POST", "/v1/queue/resume", secret, Some(&json!({}))).await;
    refused.expect_error(404, "not_found");

    let url = format!("http://{}", server.control.address);
    let environment = [("PILLARBOX_URL", url.as_str()), ("PILLARBOX_KEY", server.control.secret.as_str())];
    let (ok, said) = program::run_with(&["queue"], &environment).await;
    assert!(ok && said.contains("what was open then waits"), "{said}");
    let (ok, said) = program::run_with(&["queue", "resume", "--restored"], &environment).await;
    assert!(ok && said == "1 restored delivery is released\n", "{said}");
    server.wait_for_status(&open, &["delivered"]).await;
    assert_eq!(mx.transactions().len(), 3);
    let (ok, said) = program::run_with(&["queue", "resume", "--restored"], &environment).await;
    assert!(!ok && said.contains("no delivery of a restored backup waits"), "{said}");
}

#[tokio::test]
async fn restored_deliveries_can_be_cancelled_and_expired() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let [first, second] = [
        defer(&server, &mx, &account, "bob@b.test").await,
        defer(&server, &mx, &account, "carol@b.test").await,
    ];
    let target = backup(&server, "backup").await;
    restore(&mut server, &target, &[]).await;
    let cancelled = server.control.ok("POST", &format!("/v1/emails/{first}/cancel"), Value::Null).await;
    assert_eq!(cancelled["cancelled"][0]["recipient"], "bob@b.test", "{cancelled}");
    server.control.ok("POST", &format!("/v1/emails/{second}/cancel"), Value::Null).await;
    assert_eq!(server.control.get("/v1/queue").await["restoration"], Value::Null, "none waits");
    let said = restore(&mut server, &target, &["--open", "expire"]).await;
    assert!(said.contains("2 deliveries are expired\n"), "{said}");
    for id in [&first, &second] {
        server.wait_for_status(id, &["expired"]).await;
        let timeline = server.control.get(&format!("/v1/emails/{id}/timeline")).await.to_string();
        assert!(timeline.contains("message.expired"), "{timeline}");
    }
    assert_eq!(server.control.get("/v1/queue").await["restoration"], Value::Null);
    restore(&mut server, &target, &["--open", "send"]).await;
    server.wait_for_status(&second, &["delivered"]).await;
}

#[tokio::test]
async fn what_was_changed_since_the_backup_is_named_and_revoked_keys_stay_revoked() {
    let (_dns, _mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let target = backup(&server, "backup").await;
    server.control.ok("DELETE", &format!("/v1/keys/{}", account.user), Value::Null).await;
    server
        .control
        .ok("PATCH", &format!("/v1/tenants/{}", account.tenant_id), json!({"status": "suspended"}))
        .await;
    server.control.ok("POST", "/v1/tenants", json!({"name": "new", "slug": "new"})).await;
    server
        .control
        .ok("POST", "/v1/suppressions", json!({"address": "x@b.test", "tenant_id": account.tenant_id}))
        .await;
    let last_event = server.control.get("/v1/events?limit=1").await["data"][0].clone();
    let said = restore(&mut server, &target, &[]).await;
    for line in [
        format!("revoked again: {}\n", account.user),
        "undone: tenant acme-test was suspended, and is active again\n".to_owned(),
        "undone: tenant new was created\n".to_owned(),
        "undone: suppressions of acme-test since then: 1\n".to_owned(),
        "the replaced directory is ".to_owned(),
    ] {
        assert!(said.contains(&line), "{line}: {said}");
    }
    let key = server.control.get(&format!("/v1/keys/{}", account.user)).await;
    assert_eq!(key["status"], "revoked", "{key}");
    // Events follow those that others have seen.
    let restored = server.control.get("/v1/events?type=store.restored").await["data"][0].clone();
    assert!(text(&restored["id"]) > text(&last_event["id"]), "{restored}");
    assert_eq!(restored["data"]["deliveries"], 0, "{restored}");
    assert!(replaced_in(&beside(&server, ".")).join("pillarbox.db").is_file());
}

/// The only replaced data directory.
fn replaced_in(directory: &Path) -> PathBuf {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut replaced = paths.filter(|path| str(path).contains("data.before-"));
    let found = replaced.next().unwrap();
    assert_eq!(replaced.next(), None);
    found
}

/// Changes a database without a server, and leaves the changes in its log, as a crash does. Returns the database and the log.
fn change_and_crash(data_dir: &Path, sql: &str) -> [(PathBuf, Vec<u8>); 2] {
    let path = data_dir.join("pillarbox.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch(&format!("PRAGMA wal_autocheckpoint = 0; {sql}")).unwrap();
    let files = ["pillarbox.db", "pillarbox.db-wal"].map(|name| data_dir.join(name));
    let files = files.map(|file| (file.clone(), std::fs::read(&file).unwrap()));
    database.close().unwrap();
    for (file, octets) in &files {
        std::fs::write(file, octets).unwrap();
    }
    files
}

#[tokio::test]
async fn the_replaced_database_of_a_crashed_server_is_read_and_not_changed() {
    let (_dns, _mx, mut server) = one_destination().await;
    server.create_account("acme.test").await;
    let target = backup(&server, "backup").await;
    server.stop().await;
    // Its clock was ahead.
    let last_event = "evt_02000000000000000000000000";
    let mut sql = format!(
        "UPDATE tenant SET status = 'suspended' WHERE slug = 'acme-test';
         UPDATE event SET id = '{last_event}' WHERE id = (SELECT max(id) FROM event);
         CREATE TEMP TABLE one AS SELECT * FROM domain LIMIT 1;"
    );
    for number in 0..51 {
        sql += &format!(
            "UPDATE one SET id = 'dom_{number}', name = '{number}.test'; INSERT INTO domain SELECT * FROM one;"
        );
    }
    let files = change_and_crash(&server.config.data_dir, &sql);
    let said = restore(&mut server, &target, &[]).await;
    assert!(said.contains("undone: tenant acme-test was suspended, and is active again\n"), "{said}");
    assert_eq!(said.matches(".test was added\n").count(), 50, "{said}");
    assert_eq!(said.matches("undone: more of this kind\n").count(), 1, "{said}");
    let replaced = replaced_in(&beside(&server, "."));
    for (file, octets) in &files {
        let name = file.file_name().unwrap();
        assert!(std::fs::read(replaced.join(name)).unwrap() == *octets, "{name:?}");
    }
    let restored = server.control.get("/v1/events?type=store.restored").await["data"][0].clone();
    assert!(text(&restored["id"]).as_str() > last_event, "{restored}");
}

#[tokio::test]
async fn without_the_master_key_the_replaced_database_tells_whether_it_is_the_same() {
    let (_dns, _mx, mut server) = one_destination().await;
    let target = backup(&server, "backup").await;
    server.stop().await;
    let data_dir = server.config.data_dir.clone();
    std::fs::rename(data_dir.join("master.key"), beside(&server, "credential")).unwrap();
    let restore = |data_dir: &Path, more: &[&str]| {
        run(&[&["backup", "restore", str(&target), "--data-dir", str(data_dir), "--yes"], more].concat())
    };
    let (ok, said) = restore(&data_dir, &["--replace"]);
    assert!(ok && !said.contains("not looked at"), "{said}");
    let (ok, said) = restore(&beside(&server, "new"), &[]);
    assert!(ok && said.contains("not looked at: the master key, because its file is not here"), "{said}");
    let database = rusqlite::Connection::open(data_dir.join("pillarbox.db")).unwrap();
    database.execute("UPDATE seal_check SET fingerprint = '0123'", []).unwrap();
    database.close().unwrap();
    let (ok, said) = restore(&data_dir, &["--replace"]);
    assert!(!ok && said.contains("has the master key with the fingerprint 0123"), "{said}");
    replaced_in(&beside(&server, "."));
}

#[tokio::test]
async fn a_data_directory_behind_a_link_is_replaced_and_a_link_to_nothing_is_refused() {
    let (_dns, _mx, mut server) = one_destination().await;
    let target = backup(&server, "backup").await;
    server.stop().await;
    let (link, private) = (server.config.data_dir.clone(), beside(&server, "private"));
    std::fs::create_dir(&private).unwrap();
    std::fs::rename(&link, private.join("data")).unwrap();
    symlink(private.join("data"), &link).unwrap();
    let restore = ["backup", "restore", str(&target), "--data-dir", str(&link), "--replace", "--yes"];
    let (ok, said) = run(&restore);
    assert!(ok && link.is_symlink() && private.join("data/pillarbox.db").is_file(), "{said}");
    assert!(replaced_in(&private).join("pillarbox.db").is_file());
    std::fs::remove_dir_all(private.join("data")).unwrap();
    let (ok, said) = run(&restore);
    assert!(!ok && said.contains("make the directory that it points to"), "{said}");
    assert!(link.is_symlink() && !private.join("data").exists());
}

/// The files below a directory, with their contents.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_below(directory).into_iter();
    files.map(|file| (file.clone(), std::fs::read(&file).unwrap())).collect()
}

#[tokio::test]
async fn a_restore_that_is_killed_before_the_exchange_changes_nothing() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let sent = server.submit(&account, &["bob@b.test"], &large(&account, "large")).await;
    server.wait_for_status(&sent, &["delivered"]).await;
    let target = backup(&server, "backup").await;
    let newer = defer(&server, &mx, &account, "carol@b.test").await;
    server.stop().await;
    let data_dir = server.config.data_dir.clone();
    let before = contents(&data_dir);
    // The restore waits for a writer of its last file.
    let body = bodies(&target).remove(0);
    let octets = std::fs::read(&body).unwrap();
    std::fs::remove_file(&body).unwrap();
    mknodat(CWD, &body, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let restore = ["backup", "restore", str(&target), "--data-dir", str(&data_dir), "--yes", "--replace"];
    let mut process = Serving::start(&restore);
    let parent = beside(&server, ".");
    let brought = target.join("pillarbox.db").metadata().unwrap().len();
    let left = until("the database is brought", async || {
        let work = work_directory(&parent)?;
        let octets = work.join("pillarbox.db").metadata().ok()?.len();
        (octets == brought).then_some(work)
    })
    .await;
    process.signal("KILL");
    process.wait_for_status().await;
    assert!(contents(&data_dir) == before, "the data directory is as it was");
    std::fs::remove_file(&body).unwrap();
    std::fs::write(&body, octets).unwrap();
    // In the moment before the exchange, the restored directory has this name.
    let between = beside(&server, "data.exchange-2026-11-29T08-00-00Z");
    let (ok, said) = run(&["backup", "restore", str(&target), "--data-dir", str(&between), "--yes"]);
    assert!(ok, "{said}");
    let restored = contents(&between);
    server.restart(|_| ()).await;
    server.wait_for_status(&newer, &["deferred"]).await;
    server.stop().await;
    for directory in [&left, &between] {
        let directory = std::fs::File::open(directory).unwrap();
        directory.set_modified(SystemTime::now() - Duration::from_secs(600)).unwrap();
    }
    let (ok, said) = run(&restore);
    assert!(ok && said.contains("undone: messages since then: 1\n"), "{said}");
    assert!(!left.exists() && replaced_in(&parent).join("pillarbox.db").is_file());
    assert!(contents(&between) == restored, "nothing removes what may be the only old directory");
}

#[tokio::test]
async fn restored_files_belong_to_the_owner_of_the_directory_alone() {
    let (_dns, _mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let sent = server.submit(&account, &["bob@b.test"], &large(&account, "large")).await;
    server.wait_for_status(&sent, &["delivered"]).await;
    let target = backup(&server, "backup").await;
    server.stop().await;
    let data_dir = server.config.data_dir.clone();
    // Only root gives files away.
    let owner = match chown(&data_dir, Some(65533), Some(65533)) {
        Ok(()) => 65533,
        Err(_) => data_dir.metadata().unwrap().uid(),
    };
    let restore = ["backup", "restore", str(&target), "--data-dir", str(&data_dir), "--yes", "--replace"];
    let (ok, said) = run(&restore);
    assert!(ok, "{said}");
    let files = files_below(&data_dir);
    let directories = bodies(&data_dir).into_iter().map(|body| body.parent().unwrap().to_owned());
    for path in directories.chain([data_dir.clone(), data_dir.join("bodies")]).chain(files.clone()) {
        assert_eq!(path.metadata().unwrap().uid(), owner, "{}", path.display());
    }
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!((mode(&data_dir), mode(&data_dir.join("bodies"))), (0o700, 0o700));
    for file in
        bodies(&data_dir).into_iter().chain(["pillarbox.db", "master.key"].map(|name| data_dir.join(name)))
    {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn a_pause_beside_a_restored_backup_keeps_its_own_reason() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let other = server.create_account("other.test").await;
    defer(&server, &mx, &account, "bob@b.test").await;
    let target = backup(&server, "backup").await;
    restore(&mut server, &target, &[]).await;
    let part = json!({"tenant_id": other.tenant_id});
    server.control.ok("POST", "/v1/queue/pause", part).await;
    server.submit(&other, &["carol@b.test"], &message(&other, "new")).await;
    let groups = until("both wait", async || {
        let queue = server.control.get("/v1/queue").await;
        (queue["paused"] == 2).then(|| queue["data"].as_array().unwrap().clone())
    })
    .await;
    for group in groups {
        let is_restored = group["tenant_id"] == account.tenant_id.as_str();
        assert_eq!(group["reasons"].to_string().contains("restored from the backup"), is_restored, "{group}");
    }
}

#[tokio::test]
async fn a_directory_in_use_or_with_a_database_stays_as_it_is() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let open = defer(&server, &mx, &account, "bob@b.test").await;
    let target = backup(&server, "backup").await;
    let data_dir = server.config.data_dir.clone();
    let restore = ["backup", "restore", str(&target), "--data-dir", str(&data_dir), "--yes"];
    let (ok, said) = program::run(&[&restore[..], &["--replace"]].concat()).await;
    assert!(!ok && said.contains("is in use by another process"), "{said}");
    server.stop().await;
    let (ok, said) = run(&restore);
    assert!(!ok && said.contains("has a database or bodies") && said.contains("--replace"), "{said}");
    let (ok, said) = run(&restore[..5]);
    assert!(!ok && said.contains("use --yes"), "{said}");
    // A damaged backup replaces nothing, and leaves nothing beside.
    let file = target.join("pillarbox.db");
    let mut octets = std::fs::read(&file).unwrap();
    let middle = octets.len() / 2;
    octets[middle] ^= 1;
    std::fs::write(&file, octets).unwrap();
    let (ok, said) = run(&[&restore[..], &["--replace"]].concat());
    assert!(!ok && said.contains("the backup is damaged: pillarbox.db: its SHA-256 is "), "{said}");
    let mut names: Vec<_> =
        std::fs::read_dir(beside(&server, ".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["backup", "data"]);
    server.restart(|_| ()).await;
    server.control.ok("POST", "/v1/queue/flush", Value::Null).await;
    server.wait_for_status(&open, &["delivered"]).await;
}

#[tokio::test]
async fn a_backup_of_an_older_schema_without_a_server_moves_to_another_directory() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let open = defer(&server, &mx, &account, "bob@b.test").await;
    server.stop().await;
    let database = rusqlite::Connection::open(server.config.data_dir.join("pillarbox.db")).unwrap();
    let before = "DROP TABLE response_usage; DROP TABLE sign_in; DROP VIEW queue; ALTER TABLE seal_check DROP COLUMN fingerprint; DROP TABLE restoration; DROP TABLE acme_account; DROP TABLE erasure;
                  ALTER TABLE tenant DROP COLUMN archived_us; ALTER TABLE tenant DROP COLUMN deletable_us; PRAGMA user_version = 46;";
    database.execute_batch(before).unwrap();
    database.close().unwrap();
    let (archive, moved) = (beside(&server, "backup.tar"), beside(&server, "moved"));
    let (ok, said) = run(&["backup", "create", "--data-dir", str(&server.config.data_dir), str(&archive)]);
    assert!(ok && said.contains("; the master key is not in it"), "{said}");
    let (ok, said) = run(&["backup", "verify", str(&archive)]);
    assert!(ok && said.contains("because the database has schema 46"), "{said}");
    // The key comes from elsewhere, so the directory exists already.
    std::fs::create_dir(&moved).unwrap();
    std::fs::copy(server.config.data_dir.join("master.key"), moved.join("master.key")).unwrap();
    let (ok, said) = run(&["backup", "restore", str(&archive), "--data-dir", str(&moved), "--yes"]);
    assert!(ok && said.contains("1 delivery waits\n"), "{said}");
    server.config.data_dir = moved;
    server.restart(|_| ()).await;
    server.control.ok("POST", "/v1/queue/resume", json!({"restored": true})).await;
    server.wait_for_status(&open, &["delivered"]).await;
}

async fn erase(server: &TestServer, address: &str) {
    let (secret, path) = (server.control.secret.clone(), format!("/v1/recipients/{address}"));
    request(server.control.address, "DELETE", &path, Some(&secret), None).await.expect(200);
}

/// Waits until all erasures are complete, and looks at messages to their recipients.
async fn expect_erased(server: &TestServer, ids: &[&str]) {
    until("the erasures are complete", async || {
        let erasures = server.control.get("/v1/erasures").await;
        let erasures = erasures["data"].as_array().unwrap();
        (!erasures.is_empty() && erasures.iter().all(|one| one["applied_at"].is_string())).then_some(())
    })
    .await;
    for id in ids {
        let email = server.control.get(&format!("/v1/emails/{id}")).await;
        assert!(text(&email["to"][0]).starts_with("erased-"), "{email}");
    }
}

#[tokio::test]
async fn recipients_that_were_erased_since_the_backup_are_erased_again() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let sent = server.submit(&account, &["bob@b.test"], &message(&account, "sent")).await;
    server.wait_for_status(&sent, &["delivered"]).await;
    let open = defer(&server, &mx, &account, "bob@b.test").await;
    // Ann was erased before the backup, and got mail again.
    erase(&server, "ann%40b.test").await;
    let later = server.submit(&account, &["ann@b.test"], &message(&account, "later")).await;
    server.wait_for_status(&later, &["delivered"]).await;
    let target = backup(&server, "copy").await;
    erase(&server, "bob%40b.test").await;
    let list = server.control.get("/v1/erasures").await["data"].clone();

    let said = restore(&mut server, &target, &[]).await;
    assert!(said.contains("1 erasure of a recipient is applied again"), "{said}");
    expect_erased(&server, &[&sent, &open]).await;
    let email = server.control.get(&format!("/v1/emails/{open}")).await;
    assert_eq!(email["status"], "cancelled", "{email}");

    // The old database is lost, and the list was kept.
    let file = beside(&server, "erasures.jsonl");
    let lines: String = list.as_array().unwrap().iter().map(|erasure| format!("{erasure}\n")).collect();
    let digest = list[0]["digest"].as_str().unwrap();
    server
        .restart(|config| {
            let data_dir = &config.data_dir;
            for name in ["pillarbox.db", "pillarbox.db-wal", "pillarbox.db-shm"] {
                let _ = std::fs::remove_file(data_dir.join(name));
            }
            let _ = std::fs::remove_dir_all(data_dir.join("bodies"));
            let arguments = ["backup", "restore", str(&target), "--data-dir", str(data_dir), "--yes"];
            let restored_with = |lines: &str| {
                std::fs::write(&file, lines).unwrap();
                run(&[&arguments[..], &["--erasures", str(&file)]].concat())
            };
            for other in [&digest[2..], &format!("{digest}00"), "zz"] {
                let (ok, output) = restored_with(&lines.replace(digest, other));
                assert!(!ok && output.contains("digest must be 64 hexadecimal digits at line 1"), "{output}");
            }
            let (ok, output) = restored_with(&lines);
            assert!(ok && output.contains("1 erasure of a recipient"), "{output}");
        })
        .await;
    expect_erased(&server, &[&sent, &open]).await;
    let email = server.control.get(&format!("/v1/emails/{later}")).await;
    assert_eq!(email["to"][0], "ann@b.test", "{email}");
}
