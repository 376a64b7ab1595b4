//! The log of the real binary: one line for each accepted message and each attempt, in the span of its message or
//! delivery, and never a secret.

use base64::Engine;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::http::request;
use crate::program::Serving;

/// The innermost span of a line, which must have this name.
fn span<'a>(line: &'a Value, name: &str) -> &'a Value {
    let innermost =
        line["spans"].as_array().and_then(|spans| spans.last()).unwrap_or_else(|| panic!("{line}"));
    assert_eq!(innermost["name"], name, "{line}");
    innermost
}

/// Whether a text has a value as `derive(Debug)` writes it: `Some(1)`, `Part { .. }`.
fn has_debug_form(text: &str) -> bool {
    let names = text.match_indices(['(', '{']).map(|(at, _)| text[..at].trim_end());
    names.filter_map(|before| before.rsplit([' ', '(', '[', '=']).next()).any(|name| {
        name.starts_with(|c: char| c.is_ascii_uppercase()) && name.contains(|c: char| c.is_ascii_lowercase())
    })
}

#[tokio::test]
async fn accepted_messages_and_attempts_are_logged_and_secrets_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "hostname = \"localhost\"\ndata_dir = \"{}\"\n[log]\nlevel = \"trace\"\nformat = \"json\"\n[smtp]\n\
         submission = [\"127.0.0.1:0\"]\nsubmissions = [\"127.0.0.1:0\"]\n[api]\nlisten = [\"127.0.0.1:0\"]\n\
         [store]\nfree_disk_min = \"1MiB\"\n",
        directory.path().join("data").display()
    );
    std::fs::write(directory.path().join("pillarbox.toml"), text).unwrap();
    let mut server = Serving::start(&["quickstart", "--dir", directory.path().to_str().unwrap()]);
    server.wait_for_line("Ctrl-C stops it").await;
    let word_after = |part: &str| {
        let (_, rest) = server.said.split_once(part).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let (platform, user, password) =
        (word_after("platform key   "), word_after("demo tenant    user"), word_after("password"));
    let address = word_after("http://").split('/').next().unwrap().parse().unwrap();
    let submissions = word_after("submissions\":\"[").split(']').next().unwrap().to_owned();
    let mut client = TcpStream::connect(submissions).await.unwrap();
    client.write_all(b"EHLO client.example\r\n").await.unwrap();
    server.wait_for_line("TLS handshake failed").await;
    let part = json!({"destination": "one.example", "until": "2100-01-01T00:00:00Z"});
    request(address, "POST", "/v1/queue/pause", Some(&platform), Some(&part)).await.expect(200);
    let part = json!({"destination": "one.example"});
    request(address, "POST", "/v1/queue/resume", Some(&platform), Some(&part)).await.expect(200);
    request(address, "POST", "/v1/queue/flush", Some(&platform), Some(&json!({}))).await.expect(200);
    request(address, "GET", "/v1/tenants", Some(&platform), None::<&Value>).await.expect(200);
    server.wait_for_line("\"path\":\"/v1/tenants\"").await;
    while server.said.matches("\"message\":\"attempt\"").count() < 3 {
        server.wait_for_line("\"message\":\"attempt\"").await;
    }

    let logged: Vec<&str> = server.said.lines().filter(|line| line.starts_with('{')).collect();
    let lines: Vec<Value> = logged.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |what: &str| lines.iter().filter(|line| line["message"] == what).collect::<Vec<_>>();
    let (accepted, attempts) = (said("accepted"), said("attempt"));
    // The second message comes back as a late bounce, which a DSN reports to the sender.
    assert_eq!((accepted.len(), attempts.len()), (2, 3));
    assert_eq!(attempts[0]["outcome"], "delivered");
    let (message, delivery) = (span(accepted[0], "message"), span(attempts[0], "delivery"));
    assert_eq!(message["tenant"], "demo");
    assert!(message["key"].as_str().unwrap().starts_with("key_"), "{message}");
    assert!(message["msg"].as_str().unwrap().starts_with("msg_"), "{message}");
    assert_eq!(message["msg"], delivery["msg"]);
    assert!(delivery["tenant_id"].as_str().unwrap().starts_with("tnt_"), "{delivery}");
    assert_eq!((&delivery["deliveries"], &delivery["attempt"]), (&1.into(), &1.into()));
    assert!(attempts[0]["recipient"].as_str().unwrap().ends_with(delivery["destination"].as_str().unwrap()));
    for (line, fields) in [(accepted[0], message), (attempts[0], delivery)] {
        let repeated = fields.as_object().unwrap().keys().find(|name| !line[name.as_str()].is_null());
        assert_eq!(repeated, None, "{line}");
    }

    let failed =
        lines.iter().find(|line| line["message"].as_str().unwrap().starts_with("TLS handshake failed"));
    let failed = failed.unwrap();
    assert_eq!(failed["message"], "TLS handshake failed: the client sent something other than TLS");
    assert_eq!(failed["client"], "127.0.0.1", "{failed}");
    let changes: Vec<_> =
        said("changed").iter().map(|line| json!([line["operation"], line["destination"]])).collect();
    let expected =
        [("pause_queue", Some("one.example")), ("resume_queue", Some("one.example")), ("flush_queue", None)];
    assert_eq!(changes, expected.map(|(operation, destination)| json!([operation, destination])));
    for line in &lines {
        assert!(line["target"].as_str().unwrap().starts_with("pillarbox"), "a line of a library: {line}");
        let texts = line.as_object().unwrap().values().filter_map(Value::as_str);
        let dumped = texts.filter(|text| has_debug_form(text)).collect::<Vec<_>>();
        assert!(dumped.is_empty(), "{line}");
    }

    let login = format!("\0{user}\0{password}");
    let base64 = base64::prelude::BASE64_STANDARD.encode(login);
    for secret in [&platform, &password, &base64] {
        let told = logged.iter().find(|line| line.contains(secret.as_str()));
        assert!(told.is_none(), "a secret in the log: {told:?}");
    }
    server.end("TERM").await;
}
