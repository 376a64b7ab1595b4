//! The server with its data in PostgreSQL. These tests are skipped where PostgreSQL is not installed.

#[path = "../../src/store/contract/postgres_server.rs"]
pub mod postgres_server;

use std::os::unix::fs::PermissionsExt;

use pillarbox::config::Config;
use tokio_postgres::config::Host;

use self::postgres_server::Server;
use crate::http::request;
use crate::program::run;
use crate::server::{HOSTNAME, message, one_destination_with};
use crate::wait::until;

const DATABASE: &str = "mail";

/// A server of PostgreSQL with a database, and its URL.
pub async fn start_database() -> Option<(Server, String)> {
    let server = Server::start_with(&["-c", "fsync=off", "-c", "listen_addresses="], |_| ())?;
    server.create(DATABASE).await;
    let config = server.config(DATABASE);
    let Host::Unix(socket) = &config.get_hosts()[0] else { panic!("the server has a socket") };
    let url = format!("postgres:///{DATABASE}?host={}&user=pillarbox", socket.display());
    Some((server, url))
}

#[tokio::test]
async fn mail_is_accepted_and_delivered_while_the_database_is_there() {
    let Some((postgres, url)) = start_database().await else { return };
    let configure = |config: &mut Config| {
        config.store.url = Some(url.clone().into());
        config.store.unsafe_database = true;
    };
    let (_dns, mx, mut server) = one_destination_with(configure).await;
    let account = server.create_account("acme.test").await;
    let first = server.submit(&account, &["bob@b.test"], &message(&account, "one")).await;
    mx.wait_for(1).await;
    server.wait_for_status(&first, &["delivered"]).await;
    server.restart(|config| assert!(!config.data_dir.join("pillarbox.db").exists())).await;
    let second = server.submit(&account, &["bob@b.test"], &message(&account, "two")).await;
    for id in [first, second] {
        server.wait_for_status(&id, &["delivered"]).await;
        let timeline = server.control.get(&format!("/v1/emails/{id}/timeline")).await.to_string();
        assert!(timeline.contains("message.delivered"), "{timeline}");
    }
    postgres.execute(DATABASE, "SELECT 1 / count(*) FROM message WHERE kind = 'message'").await;

    let health = server.control.address;
    let ready = async || request(health, "GET", "/readyz", None, None).await.status;
    assert_eq!(ready().await, 200);
    drop(postgres);
    until("the server is not ready", async || (ready().await == 503).then_some(())).await;
    let mut client = server.connect().await;
    let login = client.auth_plain(&account.user, &account.secret).await;
    let reply = match login.code {
        235 => client.send("alice@acme.test", &["bob@b.test"], &message(&account, "three")).await,
        _ => login,
    };
    assert_eq!(reply.code / 100, 4, "{}", reply.text());
}

#[tokio::test]
async fn commands_use_the_database_or_say_what_to_use_there() {
    let Some((_postgres, url)) = start_database().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pillarbox.toml");
    let text = format!(
        "hostname = \"{HOSTNAME}\"\ndata_dir = \"{}\"\n[store]\nurl = \"{url}\"\nunsafe_database = true\n",
        directory.path().join("data").display()
    );
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let expect = async |arguments: &[&str], is_right: bool, parts: &[&str]| {
        let (success, said) = run(arguments).await;
        assert_eq!(success, is_right, "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "`{part}` is not in:\n{said}");
        }
    };
    expect(&["check-config", "--config", file], true, &["PostgreSQL", "without tables yet"]).await;
    let list = ["key", "list", "--config", file];
    expect(&list, false, &["no tables of Pillarbox", "--init"]).await;
    let create = ["key", "create", "--config", file, "--name", "platform", "--init"];
    expect(&create, true, &["pb_live_"]).await;
    expect(&list, true, &["platform"]).await;
    let target = directory.path().join("backup");
    let backup = ["backup", "create", "--config", file, target.to_str().unwrap()];
    expect(&backup, false, &["pg_basebackup", "pg_dump"]).await;
    expect(&["backup", "restore", "--config", file, "--yes", "/nowhere"], false, &["store copy"]).await;
    let doctor = ["doctor", "--local", "--config", file, "--only", "store.database,backup.age", "--all"];
    expect(&doctor, false, &["answers within", "max_wal_size", "the database is in PostgreSQL"]).await;
}

#[tokio::test]
async fn a_store_moves_to_postgresql_and_its_old_place_is_closed() {
    let Some((_postgres, url)) = start_database().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (data, key) = (path("data"), path("data/master.key"));
    let expect = async |arguments: &[&str], is_right: bool, parts: &[&str]| {
        let (success, said) = run(arguments).await;
        assert_eq!(success, is_right, "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "`{part}` is not in:\n{said}");
        }
    };
    expect(&["key", "create", "--init", "--data-dir", &data, "--name", "platform"], true, &["pb_live_"])
        .await;
    let copy = ["store", "copy", "--from", &data, "--to", &url];
    expect(&copy, false, &["fsync is off"]).await;
    let other_key = path("other.key");
    std::fs::write(&other_key, "a".repeat(64)).unwrap();
    std::fs::set_permissions(&other_key, PermissionsExt::from_mode(0o600)).unwrap();
    let with_other_key = [&copy[..], &["--unsafe-database", "--master-key", &other_key]].concat();
    expect(&with_other_key, false, &["other.key", "is not the master key"]).await;
    let copy = [&copy[..], &["--unsafe-database"]].concat();
    expect(&copy, true, &["both are the same", "fingerprint"]).await;
    expect(&copy, false, &["was moved to"]).await;
    expect(&["key", "list", "--data-dir", &data], false, &["was moved to postgres://pillarbox@"]).await;
    let config = path("pillarbox.toml");
    let text = format!(
        "hostname = \"{HOSTNAME}\"\ndata_dir = \"{}\"\nmaster_key_file = \"{key}\"\n[store]\nurl = \"{url}\"\n\
         unsafe_database = true\n",
        path("node"),
    );
    std::fs::write(&config, text).unwrap();
    expect(&["key", "list", "--config", &config], true, &["platform"]).await;
    let other = path("back");
    let back = ["store", "copy", "--from", &url, "--to", &other, "--unsafe-database", "--keep-source"];
    expect(&back, true, &["both are the same"]).await;
    expect(&["key", "list", "--config", &config], true, &["platform"]).await;
    std::fs::copy(&key, path("back/master.key")).unwrap();
    expect(&["key", "list", "--data-dir", &other], true, &["platform"]).await;
}
