//! The log of the real binary: one line for each accepted message and each attempt, and never a secret.

use base64::Engine;
use serde_json::Value;

use crate::http::request;
use crate::program::Serving;

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
        (word_after("platform key"), word_after("demo tenant    user"), word_after("password"));
    let address = word_after("http://").split('/').next().unwrap().parse().unwrap();
    request(address, "GET", "/v1/tenants", Some(&platform), None::<&Value>).await.expect(200);
    server.wait_for_line("\"path\":\"/v1/tenants\"").await;

    let logged: Vec<&str> = server.said.lines().filter(|line| line.starts_with('{')).collect();
    let lines: Vec<Value> = logged.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |what: &str| lines.iter().filter(|line| line["message"] == what).collect::<Vec<_>>();
    let (accepted, attempts) = (said("accepted"), said("attempt"));
    assert_eq!((accepted.len(), attempts.len()), (1, 1));
    assert_eq!(accepted[0]["msg"], attempts[0]["msg"]);
    assert_eq!((&accepted[0]["tenant"], &attempts[0]["outcome"]), (&"demo".into(), &"delivered".into()));

    let login = format!("\0{user}\0{password}");
    let base64 = base64::prelude::BASE64_STANDARD.encode(login);
    for secret in [&platform, &password, &base64] {
        let told = logged.iter().find(|line| line.contains(secret.as_str()));
        assert!(told.is_none(), "a secret in the log: {told:?}");
    }
    server.end("TERM").await;
}
