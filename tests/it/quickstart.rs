//! `pillarbox quickstart`: the first run creates and shows everything, the second keeps it.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use crate::http::{exchange, request};
use crate::program::{Serving, run};

/// The configuration that quickstart would write, with free ports.
fn configure(directory: &Path) {
    let text = format!(
        "hostname = \"localhost\"\ndata_dir = \"{}\"\n[log]\nlevel = \"warn\"\n[smtp]\n\
         submission = [\"127.0.0.1:0\"]\nsubmissions = [\"127.0.0.1:0\"]\n[api]\nlisten = [\"127.0.0.1:0\"]\n\
         [store]\nfree_disk_min = \"1MiB\"\n",
        directory.join("data").display()
    );
    std::fs::write(directory.join("pillarbox.toml"), text).unwrap();
}

/// The link of the first line after what is logged.
fn sign_in_link(said: &str) -> String {
    let link = said.lines().find(|line| !line.contains(" WARN ")).and_then(|line| line.strip_prefix("Open "));
    link.unwrap_or_else(|| panic!("no link in the first line:\n{said}")).to_owned()
}

/// What the script of the page does: posts the token of the link.
async fn assert_signs_in(link: &str) {
    let (page, token) = link.split_once('#').unwrap();
    let (origin, _) = page.split_once("/ui/").unwrap();
    let address = origin.strip_prefix("http://").unwrap();
    let head = format!(
        "POST /ui/sign-in HTTP/1.1\r\nHost: {address}\r\nOrigin: {origin}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    );
    let body = format!("link={token}");
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let answer = exchange(address.parse().unwrap(), request.as_bytes()).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/ui/messages")), "{answer}");
    assert!(answer.header("set-cookie").unwrap().starts_with("pillarbox="), "{answer}");
}

/// Changes in the data directory are entries of the audit log, as those over the API are.
async fn assert_local_changes(address: SocketAddr, platform: &str, data: &Path) {
    let data = data.to_str().unwrap();
    let (success, made) = run(&["key", "create", "--data-dir", data, "--name", "ops", "--json"]).await;
    assert!(success, "{made}");
    let id = made.split('"').find(|word| word.starts_with("key_")).unwrap();
    assert!(run(&["key", "revoke", id, "--data-dir", data]).await.0);
    let list = request(address, "GET", "/v1/audit", Some(platform), None::<&Value>).await.expect(200);
    let entries = list["data"].as_array().unwrap();
    let operations: Vec<_> = entries.iter().map(|entry| entry["operation"].as_str().unwrap()).collect();
    assert_eq!(operations, ["revoke_key", "create_key", "create_key", "create_key", "create_tenant"]);
    assert!(entries.iter().all(|entry| entry["actor"]["type"] == "local"), "{list}");
    assert_eq!(
        (&entries[4]["actor"]["name"], &entries[4]["after"]["slug"]),
        (&"quickstart".into(), &"demo".into())
    );
    assert_eq!((&entries[0]["object_id"], &entries[1]["object_id"]), (&id.into(), &id.into()));
    assert!(entries[0]["before"]["revoked_at"].is_null() && !entries[0]["after"]["revoked_at"].is_null());
    assert!(!list.to_string().contains("pb_live_"), "{list}");
}

#[tokio::test]
async fn quickstart_shows_the_delivery_of_a_first_message_and_keeps_everything() {
    let directory = tempfile::tempdir().unwrap();
    configure(directory.path());
    let arguments = ["quickstart", "--dir", directory.path().to_str().unwrap()];
    let mut first = Serving::start(&arguments);
    first.wait_for_line("Ctrl-C stops it").await;
    let link = sign_in_link(&first.said);
    for part in [
        "platform key",
        "swaks --server",
        "smtplib",
        "curl --ssl-reqd",
        "accepted",
        "signed",
        "delivered",
        "bounced",
    ] {
        assert!(first.said.contains(part), "`{part}` in:\n{}", first.said);
    }
    let word_after = |part: &str| {
        let (_, rest) = first.said.split_once(part).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let (platform, api) = (word_after("platform key   "), word_after("http://"));
    let address = api.split('/').next().unwrap().parse().unwrap();
    let emails = request(address, "GET", "/v1/emails", Some(&platform), None::<&Value>).await.expect(200);
    let statuses = [&emails["data"][1]["status"], &emails["data"][0]["status"]];
    assert_eq!(statuses, ["delivered", "bounced"], "{emails}");
    assert_signs_in(&link).await;
    assert_local_changes(address, &platform, &directory.path().join("data")).await;
    first.end("INT").await;

    let mut second = Serving::start(&arguments);
    second.wait_for_line("Ctrl-C stops it").await;
    assert!(!second.said.contains("pb_"), "secrets are shown once:\n{}", second.said);
    assert_signs_in(&sign_in_link(&second.said)).await;
    for part in ["hello@sandbox.localhost", "STARTTLS", "/docs", "self-signed.crt", "key create --data-dir"] {
        assert!(second.said.contains(part), "`{part}` in:\n{}", second.said);
    }
    second.end("INT").await;
}

#[tokio::test]
async fn the_ports_of_quickstart_can_be_moved_when_it_makes_its_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("demo");
    // Nothing listens there in this test: the data directory is a file, so that the start fails.
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("data"), "").unwrap();
    let start = async |offset: &str| {
        run(&["quickstart", "--dir", dir.to_str().unwrap(), "--port-offset", offset]).await
    };
    assert!(!start("100").await.0);
    let written = std::fs::read_to_string(dir.join("pillarbox.toml")).unwrap();
    for port in ["127.0.0.1:2687", "127.0.0.1:2565", "127.0.0.1:8687"] {
        assert!(written.contains(port), "{port} in:\n{written}");
    }
    let (success, said) = start("200").await;
    assert!(!success && said.contains("has other ports"), "{said}");
    assert!(start("60000").await.1.contains("--port-offset"));
}

#[tokio::test]
async fn quickstart_of_a_moved_folder_makes_nothing_at_the_old_path() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    std::fs::create_dir(&old).unwrap();
    configure(&old);
    std::fs::rename(&old, &new).unwrap();
    let (success, said) = run(&["quickstart", "--dir", new.to_str().unwrap()]).await;
    assert!(!success, "{said}");
    for part in [old.join("data"), new.join("data")] {
        assert!(said.contains(part.to_str().unwrap()), "{part:?} is not in: {said}");
    }
    assert!(!old.exists() && !new.join("data").exists());
}
