//! Disk faults: a failed write is reported, and lost or altered data is neither treated as absent
//! nor sent.

use std::path::PathBuf;

use pillarbox::config::Config;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::fake_mx::{Fault, Phase};
use crate::http::{Answer, request};
use crate::program::{Serving, run};
use crate::server::{RETRY_DELAY_MAX, TestServer, database_file, message, one_destination_with};
use crate::wait::until;

/// A data directory and a configuration for the real binary.
struct Setting {
    directory: tempfile::TempDir,
    config: PathBuf,
}

impl Setting {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("pillarbox.toml");
        let text = format!(
            "hostname = \"relay.test\"\ndata_dir = {:?}\n[smtp]\nsubmission = [\"127.0.0.1:0\"]\n\
             submissions = []\n[api]\nlisten = [\"127.0.0.1:0\"]\n[store]\nfree_disk_min = \"1MiB\"\n",
            directory.path().join("data"),
        );
        std::fs::write(&config, text).unwrap();
        Self { directory, config }
    }

    fn data(&self, name: &str) -> PathBuf {
        self.directory.path().join("data").join(name)
    }

    /// The server, after it listens. Its port is that of the API.
    async fn start(&self) -> Serving {
        let mut server = Serving::start_under_limits(&["serve", "--config", self.config.to_str().unwrap()]);
        let line = server.wait_for_line("api=[127.0.0.1:").await;
        let (_, rest) = line.split_once("api=[127.0.0.1:").unwrap();
        server.port = rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        server
    }
}

async fn readiness(server: &Serving) -> Answer {
    request(([127, 0, 0, 1], server.port).into(), "GET", "/readyz", None, None).await
}

/// A file size limit stands for a full disk: the same writes fail, whichever user runs the server.
#[tokio::test]
async fn a_server_with_a_full_disk_is_not_ready_until_there_is_space() {
    let setting = Setting::new();
    let server = setting.start().await;
    readiness(&server).await.expect(200);
    let limit = |octets| {
        let id = Pid::from_raw(server.id().cast_signed());
        prlimit(id, Resource::Fsize, Rlimit { current: octets, maximum: None }).unwrap();
    };
    limit(Some(1));
    let answer = until("it says that it is not ready", async || {
        Some(readiness(&server).await).filter(|answer| answer.status != 200)
    });
    let error = answer.await.expect_error(503, "storage_unavailable");
    let said = error["message"].as_str().unwrap();
    assert!(said.contains("cannot store mail") && said.contains("File too large"), "{said}");
    assert!(!said.contains(setting.directory.path().to_str().unwrap()), "{said}");
    limit(None);
    until("it is ready again", async || (readiness(&server).await.status == 200).then_some(())).await;
    server.end("TERM").await;
}

#[tokio::test]
async fn a_data_directory_without_its_database_is_not_initialized_again() {
    let setting = Setting::new();
    setting.start().await.end("TERM").await;
    let database = setting.data("pillarbox.db");
    let kept = std::fs::read(&database).unwrap();
    std::fs::remove_file(&database).unwrap();
    let config = setting.config.to_str().unwrap();
    for arguments in [&["serve"][..], &["key", "create", "--name", "x"], &["key", "list"]] {
        let arguments = [arguments, &["--config", config]].concat();
        let (success, said) = run(&arguments).await;
        assert!(!success, "{arguments:?}: {said}");
        for part in ["pillarbox.db is missing", "master.key", "restore the database from a backup"] {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
    }
    assert!(!database.exists());
    std::fs::write(&database, kept).unwrap();
    setting.start().await.end("TERM").await;
}

#[tokio::test]
async fn key_commands_do_not_make_a_data_directory_whose_name_is_mistyped() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("mistyped");
    let (revoke, create) = (["revoke", "key_01JZZZZZZZZZZZZZZZZZZZZZZZ"], ["create", "--name", "x"]);
    for verb in [&["list"][..], &revoke, &create] {
        let arguments = [&["key"], verb, &["--data-dir", absent.to_str().unwrap()]].concat();
        let (success, said) = run(&arguments).await;
        assert!(!success && said.contains("there is no database") && said.contains("mistyped"), "{said}");
        assert!(!absent.exists());
    }
}

/// The only body file of a server that stores all bodies in files.
fn body_file(config: &Config) -> PathBuf {
    let entries = |path: PathBuf| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files = entries(config.data_dir.join("bodies")).filter(|path| path.is_dir()).flat_map(entries);
    files.next().expect("a body file")
}

#[tokio::test]
async fn a_truncated_altered_or_lost_body_file_makes_its_message_wait_until_it_is_restored() {
    let in_files = |config: &mut Config| config.store.inline_body_max = "0B".parse().unwrap();
    let (_dns, mx, server) = one_destination_with(in_files).await;
    let account = server.create_account("acme.test").await;
    mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.7.1 greylisted"));
    let submitted = message(&account, "whole");
    let id = server.submit(&account, &["bob@b.test"], &submitted).await;
    server.wait_for_status(&id, &["deferred"]).await;
    let file = body_file(&server.config);
    let whole = std::fs::read(&file).unwrap();
    let mut altered = whole.clone();
    *altered.last_mut().unwrap() ^= 1;
    for (attempts, damage) in [(2, Some(&whole[..whole.len() - 1])), (3, Some(&altered)), (4, None)] {
        match damage {
            Some(octets) => std::fs::write(&file, octets).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        server.clock.advance(RETRY_DELAY_MAX);
        expect_to_wait(&server, &id, attempts).await;
        let control = &server.control;
        let raw = format!("/v1/emails/{id}/raw");
        let raw = request(control.address, "GET", &raw, Some(&control.secret), None).await;
        raw.expect_error(500, "content_damaged");
    }
    let events = server.control.get("/v1/events?type=message.content_damaged").await;
    assert_eq!(events["data"].as_array().map(Vec::len), Some(1), "{events}");
    assert_eq!(events["data"][0]["message_id"], id);
    assert!(mx.transactions().is_empty(), "nothing wrong was sent");

    std::fs::write(&file, &whole).unwrap();
    server.clock.advance(RETRY_DELAY_MAX);
    server.wait_for_status(&id, &["delivered"]).await;
    mx.wait_for(1).await[0].prefix_before(&submitted);
}

#[tokio::test]
async fn a_small_body_that_was_altered_in_the_database_is_not_sent() {
    let (_dns, mx, mut server) = one_destination_with(|_| ()).await;
    let account = server.create_account("acme.test").await;
    mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.7.1 greylisted"));
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "whole")).await;
    server.wait_for_status(&id, &["deferred"]).await;
    server
        .restart(|config| {
            // No version of the server writes this: damage is what SQL in a test is for.
            let database = rusqlite::Connection::open(database_file(&config.data_dir)).unwrap();
            let alter = "UPDATE body SET submitted = CAST(replace(submitted, 'H', 'J') AS BLOB)";
            assert_eq!(database.execute(alter, []).unwrap(), 1);
        })
        .await;
    server.clock.advance(RETRY_DELAY_MAX);
    expect_to_wait(&server, &id, 2).await;
    assert!(mx.transactions().is_empty());
}

#[tokio::test]
async fn damaged_rows_of_deliveries_and_messages_are_set_apart_and_other_mail_is_delivered() {
    let (dns, mx, mut server) = one_destination_with(|_| ()).await;
    let account = server.create_account("acme.test").await;
    dns.fail("b.test");
    let mut ids = Vec::new();
    for number in 0..5 {
        let id = server.submit(&account, &["bob@b.test"], &message(&account, &format!("n{number}"))).await;
        server.wait_for_status(&id, &["deferred"]).await;
        ids.push(id);
    }
    dns.mend("b.test");
    let clock = server.clock.clone();
    server
        .restart(|config| {
            let database = rusqlite::Connection::open(database_file(&config.data_dir)).unwrap();
            for (alter, id) in [
                (
                    "UPDATE delivery SET recipient = CAST(X'FF40622E74657374' AS TEXT) WHERE message_id = ?1",
                    &ids[0],
                ),
                ("UPDATE delivery SET destination = CAST(X'FF' AS TEXT) WHERE message_id = ?1", &ids[1]),
                ("UPDATE delivery SET attempts = 'many' WHERE message_id = ?1", &ids[2]),
                ("UPDATE message SET subject = CAST(X'FF' AS TEXT) WHERE id = ?1", &ids[3]),
            ] {
                assert_eq!(database.execute(alter, [id]).unwrap(), 1, "{alter}");
            }
            clock.advance(RETRY_DELAY_MAX);
        })
        .await;
    server.wait_for_status(&ids[4], &["delivered"]).await;
    let events = until("an event for each damaged row", async || {
        let events = server.control.get("/v1/events?type=message.content_damaged").await;
        (events["data"].as_array().map(Vec::len) == Some(4)).then_some(events)
    })
    .await;
    let damaged: Vec<_> =
        events["data"].as_array().unwrap().iter().map(|event| &event["message_id"]).collect();
    assert!(ids[..4].iter().all(|id| damaged.iter().any(|found| *found == id)), "{events}");
    assert_eq!(mx.transactions().len(), 1);
}

/// Deferred after this many attempts, with the reason, and not due immediately.
async fn expect_to_wait(server: &TestServer, id: &str, attempts: u64) {
    let email = until(&format!("try {attempts} is over"), async || {
        let email = server.control.get(&format!("/v1/emails/{id}")).await;
        (email["deliveries"][0]["attempts"] == attempts).then_some(email)
    })
    .await;
    let delivery = &email["deliveries"][0];
    assert_eq!(delivery["status"], "deferred", "{delivery}");
    let reply = delivery["last_reply"].as_str().unwrap();
    assert!(reply.contains("content of the message is damaged"), "{reply}");
    let next: pillarbox::mail::Timestamp = delivery["next_attempt_at"].as_str().unwrap().parse().unwrap();
    assert!(next > server.clock.now(), "{delivery}");
}
