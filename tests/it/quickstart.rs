//! `pillarbox quickstart`: the first run creates and shows everything, the second keeps it.

use std::path::Path;

use serde_json::Value;

use crate::http::request;
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

#[tokio::test]
async fn quickstart_shows_the_delivery_of_a_first_message_and_keeps_everything() {
    let directory = tempfile::tempdir().unwrap();
    configure(directory.path());
    let arguments = ["quickstart", "--dir", directory.path().to_str().unwrap()];
    let mut first = Serving::start(&arguments);
    first.wait_for_line("Ctrl-C stops it").await;
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
    let (platform, api) = (word_after("platform key"), word_after("http://"));
    let address = api.split('/').next().unwrap().parse().unwrap();
    let emails = request(address, "GET", "/v1/emails", Some(&platform), None::<&Value>).await.expect(200);
    let statuses = [&emails["data"][1]["status"], &emails["data"][0]["status"]];
    assert_eq!(statuses, ["delivered", "bounced"], "{emails}");
    first.end("INT").await;

    let mut second = Serving::start(&arguments);
    second.wait_for_line("Ctrl-C stops it").await;
    assert!(!second.said.contains("pb_"), "secrets are shown once:\n{}", second.said);
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
