//! `pillarbox upgrade`, asked of a server that another program plays.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::program::run;
use crate::server::HOSTNAME;

/// The length of each message of the control socket.
const RECORD_OCTETS: usize = 8192;

struct Stage {
    directory: TempDir,
}

impl Stage {
    /// A server that sends these messages, one on each connection, and then ends the connection.
    fn answering(answers: &[Value]) -> Self {
        let stage = Self { directory: tempfile::tempdir().unwrap() };
        let data = stage.directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(
            stage.config(),
            format!("hostname = \"{HOSTNAME}\"\ndata_dir = \"{}\"\n", data.display()),
        )
        .unwrap();
        let listener = UnixListener::bind(data.join("control")).unwrap();
        let answers = answers.to_vec();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut [0; RECORD_OCTETS]).await.unwrap();
                let mut record = answer.to_string().into_bytes();
                record.resize(RECORD_OCTETS, b' ');
                stream.write_all(&record).await.unwrap();
            }
        });
        stage
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("pillarbox.toml")
    }

    async fn upgrade(&self, arguments: &[&str]) -> (bool, String) {
        let config = self.config();
        run(&[&["upgrade", "--config", config.to_str().unwrap()], arguments].concat()).await
    }
}

fn version(version: &str, process: u32) -> Value {
    json!({"type": "version", "version": version, "process": process})
}

#[tokio::test]
async fn what_a_server_says_is_printed_without_control_characters() {
    let refused = json!({"type": "refused", "reason": "not\u{1b}]0;now\u{7}"});
    let hostile = version("0.0.9\u{1b}[2J", 7);
    let stage = Stage::answering(&[hostile.clone(), hostile, refused]);
    let (success, said) = stage.upgrade(&["--dry-run"]).await;
    assert!(success && said.contains("the server runs 0.0.9 [2J (process 7)"), "{said}");
    let (success, said) = stage.upgrade(&[]).await;
    assert!(!success && said.contains("no upgrade: not ]0;now "), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains('\u{7}'), "{said}");
}

#[tokio::test]
async fn a_migration_of_any_length_is_waited_for() {
    let prepared = json!({"type": "prepared", "version": "1.0.0", "migration_seconds": u64::MAX});
    let stage = Stage::answering(&[version("0.0.9", 7), prepared, version("1.0.0", 8)]);
    let (success, said) = stage.upgrade(&["--accept-pause"]).await;
    assert!(success && said.contains("handed over to 1.0.0 (process 8), was 0.0.9 (process 7)"), "{said}");
}
