//! A tenant moves from one server to another, with the command line.

use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use age::secrecy::ExposeSecret;
use age::x25519;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pillarbox::archive::{SecretIdentity, read_bundle};
use pillarbox::store::{plain_secret, secret_field};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api_stage::local_webhooks;
use crate::dkim::{publish, verify};
use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Phase};
use crate::http::request;
use crate::program::status_of;
use crate::receiver::Receiver;
use crate::server::{Account, RETRY_DELAY_MAX, TestServer, message, text};
use crate::wait::until;
use crate::webhooks::signature;

/// Two servers with the same DNS and the same destination.
struct Move {
    dns: FakeDns,
    mx: FakeMx,
    from: TestServer,
    to: TestServer,
    folder: TempDir,
}

impl Move {
    async fn start() -> Self {
        let (dns, mx) = (FakeDns::start().await, FakeMx::start().await);
        dns.mx("b.test", &[(10, "mx.b.test")]);
        dns.addresses("mx.b.test", &[mx.address.ip()]);
        let server =
            async || TestServer::start_with(&dns, mx.address.port(), |c| c.webhooks = local_webhooks()).await;
        let (from, to) = (server().await, server().await);
        Self { from, to, dns, mx, folder: TempDir::new().unwrap() }
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn identity_file(&self, name: &str, identity: &x25519::Identity) -> String {
        self.file(name, &format!("# made by a test\n{}\n", identity.to_string().expose_secret()))
    }

    async fn export(&self, server: &TestServer, options: &str) -> String {
        let bundle = run(server, &format!("tenant export acme-test {options}"), 0).await;
        self.file("acme.jsonl", &bundle)
    }
}

/// Runs a command, which must end with this status, against a server.
async fn run(server: &TestServer, line: &str, status: i32) -> String {
    let url = format!("http://localhost:{}", server.control.address.port());
    let environment = [("PILLARBOX_URL", url.as_str()), ("PILLARBOX_KEY", &server.control.secret)];
    let words: Vec<_> = line.split_whitespace().collect();
    let (ended, said) = status_of(&words, &environment).await;
    assert_eq!(ended, Some(status), "{line}: {said}");
    said
}

/// The secrets of a bundle by the ids of their objects.
fn secrets(bundle: &str, identity: &str) -> Vec<(String, Vec<u8>)> {
    let open = |path: &str| BufReader::new(std::fs::File::open(Path::new(path)).unwrap());
    let identity = SecretIdentity::read(open(identity)).ok().unwrap();
    let objects = read_bundle(open(bundle), |_| true).unwrap().objects;
    let decrypted = objects.into_iter().filter_map(|mut object| {
        let field = secret_field(&object)?;
        identity.decrypt(&mut object).unwrap().then_some(())?;
        Some((text(&object["id"]), plain_secret(&object[field])?.to_vec()))
    });
    decrypted.collect()
}

fn messages_of(bundle: &str) -> Vec<Value> {
    let file = std::fs::File::open(bundle).unwrap();
    let objects = read_bundle(BufReader::new(file), |kind| kind == "message").unwrap().objects;
    objects.into_iter().map(Value::Object).collect()
}

async fn exists(server: &TestServer, account: &Account) -> bool {
    let path = format!("/v1/tenants/{}", account.tenant_id);
    request(server.control.address, "GET", &path, Some(&server.control.secret), None).await.status == 200
}

#[tokio::test]
async fn a_tenant_that_moves_with_its_secrets_signs_mail_and_webhooks_with_the_same_keys() {
    let stage = Move::start().await;
    let Move { dns, mx, from, to, .. } = &stage;
    let account = from.create_account("acme.test").await;
    publish(dns, &from.control.get(&format!("/v1/domains/{}", account.domain_id)).await, &[]);
    let receiver = Receiver::start().await;
    let hook = json!({
        "tenant_id": account.tenant_id, "url": format!("http://{}/hook", receiver.address),
        "events": ["message.accepted"],
    });
    let hook = from.control.ok("POST", "/v1/webhooks", hook).await;
    let smart_host = json!({"smtp": {
        "host": "127.0.0.1", "port": 2525, "user": "acme", "pass": "smart-secret", "tls": "none",
        "destinations": ["smart.test"],
    }});
    from.control.ok("PATCH", &format!("/v1/tenants/{}", account.tenant_id), smart_host).await;

    let (own, other) = (x25519::Identity::generate(), x25519::Identity::generate());
    let (identity, wrong) = (stage.identity_file("own.txt", &own), stage.identity_file("other.txt", &other));
    let to_both = format!("--to {} --to {}", own.to_public(), x25519::Identity::generate().to_public());
    let bundle = stage.export(from, &to_both).await;
    let known = secrets(&bundle, &identity);
    assert_eq!(known.len(), 3, "the key, the webhook and the smart host");
    assert!(known.iter().any(|(id, secret)| *id == account.tenant_id && secret == b"smart-secret"));

    let refused = run(to, &format!("tenant import {bundle} --identity {wrong}"), 2).await;
    assert!(refused.contains("not encrypted to this identity"), "{refused}");
    assert!(!exists(to, &account).await);
    let would = run(to, &format!("tenant import {bundle} --identity {identity} --dry-run"), 0).await;
    for (id, _) in &known {
        assert_eq!(would.matches(&format!(" {id}\n")).count(), 1, "{would}");
    }
    assert!(!exists(to, &account).await);
    let import = format!("tenant import {bundle} --identity {identity} --trust-domains");
    let done = run(to, &import, 0).await;
    assert!(!done.contains("left out"), "{done}");
    let again = run(to, &import, 0).await;
    assert!(again.contains(" 0 created") && !again.contains("secrets"), "{again}");

    let bundle = stage.export(to, &format!("--to {}", own.to_public())).await;
    assert_eq!(secrets(&bundle, &identity), known);
    let audit = to.control.get("/v1/audit").await.to_string();
    for (_, secret) in &known {
        assert!(!audit.contains(&BASE64_STANDARD.encode(secret)), "{audit}");
    }
    let keys = to.control.get(&format!("/v1/domains/{}/dkim", account.domain_id)).await;
    assert_eq!(keys["data"].as_array().map(Vec::len), Some(1), "{keys}");
    // The verifier hashes bodies that end in white space wrongly.
    let content = b"From: Alice <alice@acme.test>\r\nTo: bob@b.test\r\nSubject: moved\r\n\r\nHello.\r\n";
    to.submit(&account, &["bob@b.test"], content).await;
    let received = mx.wait_for(1).await.remove(0).content;
    let selector = text(&keys["data"][0]["selector"]);
    let signature_of_mail = ("acme.test".to_owned(), selector, "RsaSha256".to_owned(), true);
    let results = verify(dns, &received).await;
    assert!(results.contains(&signature_of_mail), "{results:?}");
    let notification = receiver.wait_for(1).await.remove(0);
    assert_eq!(notification.header("webhook-signature"), signature(&text(&hook["secret"]), &notification));
}

#[tokio::test]
async fn secrets_are_left_out_without_an_identity_and_an_identity_needs_secrets() {
    let stage = Move::start().await;
    let Move { from, to, .. } = &stage;
    let account = from.create_account("acme.test").await;
    let identity = x25519::Identity::generate();
    let file = stage.identity_file("own.txt", &identity);
    let plain = stage.export(from, "").await;
    let refused = run(to, &format!("tenant import {plain} --identity {file}"), 2).await;
    assert!(refused.contains("export it with --to"), "{refused}");
    let refused = run(from, "tenant export acme-test --to age1wrong", 1).await;
    assert!(refused.contains("public keys of age"), "{refused}");
    let bundle = stage.export(from, &format!("--to {}", identity.to_public())).await;
    // A selector has the second in which its key was made.
    to.clock.advance(Duration::from_secs(1));
    let done = run(to, &format!("tenant import {bundle}"), 0).await;
    assert!(done.contains("--identity FILE decrypts them") && done.contains("left out: 1"), "{done}");

    // The key arrives later: it is added beside the key that the domain got.
    let done = run(to, &format!("tenant import {bundle} --identity {file}"), 0).await;
    assert!(done.contains(" 1 created") && done.contains("dkim_key"), "{done}");
    let keys = to.control.get(&format!("/v1/domains/{}/dkim", account.domain_id)).await;
    assert_eq!(keys["data"].as_array().map(Vec::len), Some(2), "{keys}");
}

/// Changes the secret of an object of a bundle that is imported over the API.
#[tokio::test]
async fn an_imported_secret_is_checked_like_a_new_one() {
    let stage = Move::start().await;
    let Move { from, to, .. } = &stage;
    let account = from.create_account("acme.test").await;
    let another = from.create_account("other.test").await;
    let identity = x25519::Identity::generate();
    let file = stage.identity_file("own.txt", &identity);
    let recipient = format!("--to {}", identity.to_public());
    let bundle = stage.export(from, &recipient).await;
    let keys = from.control.get(&format!("/v1/domains/{}/dkim", another.domain_id)).await;
    let other_bundle = run(from, &format!("tenant export other-test {recipient}"), 0).await;
    let other_secrets = secrets(&stage.file("other.jsonl", &other_bundle), &file);
    let other_key = &other_secrets.iter().find(|(id, _)| keys["data"][0]["id"] == **id).unwrap().1;

    let objects =
        read_bundle(BufReader::new(std::fs::File::open(&bundle).unwrap()), |_| true).unwrap().objects;
    let objects: Vec<Value> = objects.into_iter().map(Value::Object).collect();
    let place = objects.iter().position(|object| object["object"] == "dkim_key").unwrap();
    for plain in [json!(BASE64_STANDARD.encode(other_key)), json!("YQ=="), json!("?"), json!(7)] {
        let mut changed = objects.clone();
        changed[place]["private_key"] = json!({"plain": plain});
        let body = crate::bundle::body_of(&changed);
        let key = Some(to.control.secret.as_str());
        let refused = request(to.control.address, "POST", "/v1/tenants/import", key, Some(&body)).await;
        let refused = refused.expect_error(422, "validation_failed");
        assert_eq!(refused["errors"][0]["path"], format!("objects[{place}].private_key"), "{refused}");
        assert!(!refused.to_string().contains(&BASE64_STANDARD.encode(other_key)));
        assert!(!exists(to, &account).await);
    }
}

#[tokio::test]
async fn the_history_of_mail_moves_and_mail_that_is_not_delivered_yet_stays() {
    let stage = Move::start().await;
    let Move { dns, mx, from, to, .. } = &stage;
    dns.mx("acme.test", &[(10, "mx.b.test")]);
    let account = from.create_account("acme.test").await;
    let (no, later) = (Fault::Reply("550 5.1.1 no such user"), Fault::Reply("451 4.7.1 come back later"));
    mx.script(Phase::Rcpt, "<no@b.test>", 9, no);
    mx.script(Phase::Rcpt, "<later@b.test>", 9, later);
    let large = [message(&account, "large"), b"x\r\n".repeat(200_000)].concat();
    let mut ended = Vec::new();
    for (recipient, content, status) in [
        ("bob@b.test", message(&account, "small"), "delivered"),
        ("large@b.test", large, "delivered"),
        ("no@b.test", message(&account, "refused"), "bounced"),
    ] {
        let id = from.submit(&account, &[recipient], &content).await;
        from.wait_for_status(&id, &[status]).await;
        ended.push(id);
    }
    let open = from.submit(&account, &["later@b.test"], &message(&account, "open")).await;
    from.wait_for_status(&open, &["deferred"]).await;
    // Two messages and the report about the refused one.
    mx.wait_for(3).await;
    let bundle = until("the report is delivered", async || {
        let bundle = stage.export(from, "--messages").await;
        let is_open = |message: &&Value| message["deliveries"][0]["status"] == "deferred";
        (messages_of(&bundle).iter().filter(is_open).count() == 1).then_some(bundle)
    })
    .await;
    let without = run(to, &format!("tenant import {bundle} --dry-run"), 0).await;
    assert!(without.contains("5 messages are left out; --messages imports them"), "{without}");
    let import = format!("tenant import {bundle} --messages --trust-domains");
    let would = run(to, &format!("{import} --dry-run"), 0).await;
    assert!(would.contains("still delivers them: 1;") && !exists(to, &account).await, "{would}");
    let done = run(to, &import, 0).await;
    assert!(done.contains("still delivers them: 1;"), "{done}");
    let again = run(to, &import, 0).await;
    assert!(again.contains(" 0 created"), "{again}");

    for id in &ended {
        for path in ["", "/timeline", "/raw"] {
            let path = format!("/v1/emails/{id}{path}");
            let get = async |server: &TestServer| {
                let key = Some(server.control.secret.as_str());
                request(server.control.address, "GET", &path, key, None).await
            };
            let (there, here) = (get(from).await, get(to).await);
            assert_eq!((here.status, &here.body), (200, &there.body), "{path}");
        }
    }
    let refused = to.control.get(&format!("/v1/emails/{}", ended[2])).await;
    assert!(refused.to_string().contains("no such user"), "{refused}");
    let found = to.control.get(&format!("/v1/emails?tenant_id={}&to=large@b.test", account.tenant_id)).await;
    assert_eq!(
        (found["data"].as_array().map(Vec::len), &found["data"][0]["id"]),
        (Some(1), &json!(ended[1]))
    );
    let path = format!("/v1/emails/{open}");
    let gone = request(to.control.address, "GET", &path, Some(&to.control.secret), None).await;
    assert_eq!(gone.status, 404);
    let mut known = messages_of(&bundle);
    known.retain(|message| message["id"] != *open);
    assert_eq!(known.len(), 4);
    assert_eq!(messages_of(&stage.export(to, "--messages").await), known);
}

#[tokio::test]
async fn open_mail_of_a_suspended_tenant_is_delivered_once_by_its_new_server() {
    let stage = Move::start().await;
    let Move { dns, mx, from, to, .. } = &stage;
    let new_mx = FakeMx::beside(mx).await;
    let account = from.create_account("acme.test").await;
    mx.script(Phase::Rcpt, "", 99, Fault::Reply("451 4.7.1 come back later"));
    let mut ids = Vec::new();
    for number in 0..5 {
        let (recipient, content) = (format!("r{number}@b.test"), message(&account, &format!("m{number}")));
        let id = from.submit(&account, &[&recipient], &content).await;
        from.wait_for_status(&id, &["deferred"]).await;
        ids.push(id);
    }
    let import = |bundle: &str| format!("tenant import {bundle} --messages --open --trust-domains");
    let active = stage.export(from, "--messages").await;
    let refused = run(to, &import(&active), 1).await;
    assert!(refused.contains("suspend it on the other server, and export it again"), "{refused}");
    assert!(!exists(to, &account).await);

    let gate = mx.wait_at(Phase::Rcpt);
    from.clock.advance(RETRY_DELAY_MAX);
    to.clock.advance(RETRY_DELAY_MAX);
    let attempted = mx.commands().iter().filter(|line| line.starts_with("RCPT")).count();
    until("an attempt waits for its answer", async || {
        let tries = mx.commands().iter().filter(|line| line.starts_with("RCPT")).count();
        (tries > attempted).then_some(())
    })
    .await;
    run(from, "tenant suspend acme-test", 0).await;
    let in_progress = stage.export(from, "--messages").await;
    let refused = run(to, &import(&in_progress), 2).await;
    assert!(refused.contains("were in progress at the time of the export"), "{refused}");
    gate.cancel();
    let bundle = until("no delivery is in progress", async || {
        let bundle = stage.export(from, "--messages").await;
        let text = std::fs::read_to_string(&bundle).unwrap();
        text.lines().next()?.contains("\"deliveries_in_progress\":0").then_some(bundle)
    })
    .await;

    dns.addresses("mx.b.test", &[new_mx.address.ip()]);
    let done = run(to, &import(&bundle), 0).await;
    assert!(done.contains("deliveries for this server: 5;"), "{done}");
    for id in &ids {
        assert_eq!(to.control.get(&format!("/v1/emails/{id}")).await["status"], "deferred");
    }
    run(to, "tenant resume acme-test", 0).await;
    for id in &ids {
        to.wait_for_status(id, &["delivered"]).await;
    }
    let again = run(to, &import(&bundle), 0).await;
    assert!(again.contains(" 0 created"), "{again}");
    let mut recipients: Vec<_> =
        new_mx.transactions().into_iter().flat_map(|received| received.recipients).collect();
    recipients.sort();
    assert_eq!(recipients, (0..5).map(|number| format!("r{number}@b.test")).collect::<Vec<_>>());
    assert!(mx.transactions().is_empty());
}
