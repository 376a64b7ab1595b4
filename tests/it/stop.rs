//! The shutdown of the real binary ends even if some work cannot be interrupted. A pipe without a writer stands for
//! such work: a reader waits forever.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::Value;

use crate::http::{Answer, request};
use crate::program::Serving;
use crate::wait::until;

/// A configuration for `quickstart` in which the body of the first message is a file.
fn configure(directory: &Path, more: &str) {
    let text = format!(
        "hostname = \"localhost\"\ndata_dir = \"{}\"\n{more}\n[smtp]\nsubmission = [\"127.0.0.1:0\"]\n\
         submissions = [\"127.0.0.1:0\"]\n[api]\nlisten = [\"127.0.0.1:0\"]\n\
         [store]\nfree_disk_min = \"1MiB\"\ninline_body_max = \"1B\"\n",
        directory.join("data").display()
    );
    std::fs::write(directory.join("pillarbox.toml"), text).unwrap();
}

/// Replaces a file with a pipe. The file is kept under another name.
fn replace_by_pipe(path: &Path) -> PathBuf {
    let kept = path.with_extension("kept");
    std::fs::rename(path, &kept).unwrap();
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    kept
}

/// Waits until somebody reads the pipe. The reader is blocked while the writing end is open.
async fn wait_for_reader(pipe: &Path) -> File {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
    let open = async || OpenOptions::new().write(true).custom_flags(flags).open(pipe).ok();
    until("the pipe is read", open).await
}

fn word_after(said: &str, part: &str) -> String {
    let (_, rest) = said.split_once(part).unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}

async fn get(api: SocketAddr, path: &str, key: &str) -> Answer {
    request(api, "GET", path, Some(key), None::<&Value>).await
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_blocked_thread_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    configure(directory.path(), "");
    let mut server = Serving::start(&["quickstart", "--dir", directory.path().to_str().unwrap()]);
    server.wait_for_line("Ctrl-C stops it").await;
    let platform = word_after(&server.said, "platform key   ");
    let api = word_after(&server.said, "http://").split('/').next().unwrap().parse().unwrap();
    let emails = get(api, "/v1/emails", &platform).await.expect(200);
    let id = emails["data"][0]["id"].as_str().unwrap();
    let raw = format!("/v1/emails/{id}/raw");
    let whole = get(api, &raw, &platform).await;

    let file = directory.path().join("data/bodies").join(&id[id.len() - 2..]).join(format!("{id}.eml"));
    let kept = replace_by_pipe(&file);
    let (path, key) = (raw.clone(), platform.clone());
    let asked = tokio::spawn(async move { get(api, &path, &key).await });
    let _pipe = wait_for_reader(&file).await;
    asked.abort();
    server.end("TERM").await;

    std::fs::rename(&kept, &file).unwrap();
    let config = directory.path().join("pillarbox.toml");
    let mut server = Serving::start(&["serve", "--config", config.to_str().unwrap()]);
    let line = server.wait_for_line("started").await;
    let api = word_after(&line, "api=[").trim_end_matches(']').parse().unwrap();
    let again = get(api, &raw, &platform).await;
    assert_eq!((again.status, &again.body), (200, &whole.body));
    server.end("TERM").await;
}

#[tokio::test]
async fn a_shutdown_that_is_blocked_ends_at_its_deadline() {
    let directory = tempfile::tempdir().unwrap();
    configure(directory.path(), "shutdown_deadline = \"1s\"");
    let config = directory.path().join("pillarbox.toml");
    let mut server = Serving::start(&["serve", "--config", config.to_str().unwrap()]);
    server.wait_for_line("started").await;
    let certificate = directory.path().join("data/self-signed.crt");
    replace_by_pipe(&certificate);
    server.signal("HUP");
    let _pipe = wait_for_reader(&certificate).await;
    server.signal("TERM");
    server.wait_for_line("no accepted mail is lost").await;
    assert_eq!(server.wait_for_status().await, Some(1));
}
