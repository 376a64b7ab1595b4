//! Restored backups: what was open waits, what came since is named, nothing is lost by a refused restore.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::fake_mx::{FakeMx, Fault, Phase};
use crate::http::request;
use crate::program;
use crate::server::{Account, RETRY_DELAY_MAX, TestServer, message, one_destination, text};
use crate::wait::until;

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A path beside the data directory of a server.
fn beside(server: &TestServer, name: &str) -> PathBuf {
    server.config.data_dir.parent().unwrap().join(name)
}

/// Runs the program to its end, without the runtime of the test.
fn run(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    let Output { status, stdout, stderr } = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    (status.success(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

async fn backup(server: &TestServer) -> PathBuf {
    let target = beside(server, "backup");
    let data_dir = str(&server.config.data_dir);
    let (ok, said) = program::run(&["backup", "create", "--data-dir", data_dir, str(&target)]).await;
    assert!(ok, "{said}");
    target
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
    let target = backup(&server).await;
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
    let target = backup(&server).await;
    restore(&mut server, &target, &[]).await;
    let cancelled = server.control.ok("POST", &format!("/v1/emails/{first}/cancel"), Value::Null).await;
    assert_eq!(cancelled["cancelled"][0]["recipient"], "bob@b.test", "{cancelled}");
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
    let target = backup(&server).await;
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
    let mut replaced = std::fs::read_dir(beside(&server, ".")).unwrap().map(|entry| entry.unwrap().path());
    let replaced = replaced.find(|path| str(path).contains("data.before-")).unwrap();
    assert!(replaced.join("pillarbox.db").is_file());
}

#[tokio::test]
async fn a_directory_in_use_or_with_a_database_stays_as_it_is() {
    let (_dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let open = defer(&server, &mx, &account, "bob@b.test").await;
    let target = backup(&server).await;
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
    let before = "ALTER TABLE seal_check DROP COLUMN fingerprint; DROP TABLE restoration; DROP TABLE acme_account; PRAGMA user_version = 46;";
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
