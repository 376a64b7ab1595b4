//! Trial mail: a live key sends from the sandbox domain to inboxes that their owners confirmed, and to nobody else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fake_dns::FakeDns;
use crate::fake_mx::FakeMx;
use crate::http::{Answer, request};
use crate::server::{Account, HOSTNAME, TestServer, database_file, one_destination};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Trial {
    _dns: FakeDns,
    mx: FakeMx,
    server: TestServer,
    account: Account,
    sender: String,
}

impl Trial {
    async fn start() -> Self {
        let (_dns, mx, server) = one_destination().await;
        let account = server.create_account("acme.test").await;
        Self { _dns, mx, server, account, sender: format!("hello@sandbox.{HOSTNAME}") }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = (!body.is_null()).then_some(&body);
        request(self.server.control.address, method, path, Some(&self.account.secret), body).await
    }

    async fn add(&self, address: &str) -> Answer {
        self.call("POST", "/v1/inboxes", json!({"address": address})).await
    }

    async fn confirm(&self, inbox: &Value, code: &str) -> Answer {
        let path = format!("/v1/inboxes/{}/confirm", inbox["id"].as_str().unwrap());
        self.call("POST", &path, json!({"code": code})).await
    }

    async fn send(&self, recipients: &[&str]) -> Answer {
        let email = json!({"from": self.sender, "to": recipients, "subject": "Trial", "text": "Hi"});
        self.call("POST", "/v1/emails", email).await
    }

    /// The code in the message that arrived as the nth.
    async fn code_in(&self, nth: usize) -> String {
        let mail = self.mx.wait_for(nth).await.remove(nth - 1);
        assert_eq!(mail.reverse_path, "", "nobody gets a report about it");
        let text = String::from_utf8(mail.content).unwrap();
        assert!(text.contains(&format!("<confirm@sandbox.{HOSTNAME}>")), "{text}");
        assert!(text.contains("\r\nAuto-Submitted: auto-generated\r\n"), "{text}");
        let mut words = text.lines().filter_map(|line| line.strip_prefix("    "));
        words.next().unwrap_or_else(|| panic!("no code in {text}")).to_owned()
    }

    async fn confirmed(&self, address: &str) -> Value {
        let sent = self.mx.transactions().len();
        let inbox = self.add(address).await.expect(201);
        let code = self.code_in(sent + 1).await;
        self.confirm(&inbox, &code).await.expect(200)
    }
}

#[tokio::test]
async fn trial_mail_goes_to_inboxes_whose_owner_confirmed_them_and_to_nobody_else() {
    let it = Trial::start().await;
    let error = it.send(&["bob@b.test"]).await.expect_error(422, "recipient_not_confirmed");
    assert!(error["hint"].as_str().unwrap().contains("/v1/inboxes"), "{error}");

    let inbox = it.add("Bob@b.test").await.expect(201);
    assert_eq!((&inbox["status"], &inbox["tenant_id"]), (&json!("pending"), &json!(it.account.tenant_id)));
    let code = it.code_in(1).await;
    it.send(&["bob@b.test"]).await.expect_error(422, "recipient_not_confirmed");
    let error = it.confirm(&inbox, "0000-0000").await.expect_error(422, "validation_failed");
    assert!(error["message"].as_str().unwrap().contains("4 attempts"), "{error}");
    let confirmed = it.confirm(&inbox, &code.to_lowercase().replace('-', "")).await.expect(200);
    assert_eq!(confirmed["status"], "confirmed");
    it.confirm(&inbox, "again").await.expect(200);
    assert_eq!(it.add("bob@B.test").await.expect(201)["id"], inbox["id"], "no other mail, no other inbox");

    let sent = it.send(&["bob@b.test"]).await.expect(202);
    it.server.wait_for_status(sent["id"].as_str().unwrap(), &["delivered"]).await;
    let mut client = it.server.log_in(&it.account).await;
    let message =
        |from: &str| format!("From: {from}\r\nTo: bob@b.test\r\nSubject: x\r\n\r\nHi\r\n").into_bytes();
    client.send(&it.sender, &["bob@b.test"], &message(&it.sender)).await.expect_code(250);
    let arrived = it.mx.wait_for(3).await;
    assert_eq!(arrived[1].reverse_path, it.sender);
    for (reverse_path, from) in
        [(&it.sender[..], &it.sender[..]), (&it.sender, "a@acme.test"), ("a@acme.test", &it.sender)]
    {
        let refused = client.send(reverse_path, &["bob@b.test", "eve@b.test"], &message(from)).await;
        refused.expect_saying(550, "[recipient_not_confirmed] eve@b.test is not a confirmed inbox");
    }
    client.send("a@acme.test", &["eve@b.test"], &message("a@acme.test")).await.expect_code(250);
    it.send(&["bob@b.test", "eve@b.test"]).await.expect_error(422, "recipient_not_confirmed");

    let other = it.server.create_account("other.test").await;
    let email = json!({"from": it.sender, "to": "bob@b.test", "subject": "s", "text": "t"});
    let control = it.server.control.address;
    let foreign = request(control, "POST", "/v1/emails", Some(&other.secret), Some(&email)).await;
    foreign.expect_error(422, "recipient_not_confirmed");
    let path = format!("/v1/inboxes/{}", inbox["id"].as_str().unwrap());
    it.call("DELETE", &path, Value::Null).await.expect(200);
    it.send(&["bob@b.test"]).await.expect_error(422, "recipient_not_confirmed");
}

#[tokio::test]
async fn a_tenant_cannot_read_the_code_and_the_confirmation_mail_counts_nowhere() {
    let it = Trial::start().await;
    it.add("bob@b.test").await.expect(201);
    let code = it.code_in(1).await;
    let listed = async |query: &str| {
        it.call("GET", &format!("/v1/emails{query}"), Value::Null).await.expect(200)["data"].clone()
    };
    assert_eq!(listed("").await, json!([]));
    let found = listed("?kind=confirmation").await;
    let path = format!("/v1/emails/{}", found[0]["id"].as_str().unwrap());
    it.server.wait_for_status(found[0]["id"].as_str().unwrap(), &["delivered"]).await;
    it.call("GET", &format!("{path}/raw"), Value::Null).await.expect_error(404, "not_found");
    for part in ["", "/timeline"] {
        let shown = it.call("GET", &format!("{path}{part}"), Value::Null).await.expect(200).to_string();
        assert!(!shown.contains(&code), "{shown}");
    }
    let usage = it.server.control.get(&format!("/v1/tenants/{}/usage", it.account.tenant_id)).await;
    assert_eq!((&usage["emails_sent"], &usage["emails_delivered"]), (&json!(0), &json!(0)));
    let events = it.server.control.get("/v1/events?limit=100").await;
    assert!(!events.to_string().contains("\"message."), "{events}");
    let database = rusqlite::Connection::open(database_file(&it.server.config.data_dir)).unwrap();
    let digest: Vec<u8> = database.query_row("SELECT code_digest FROM inbox", [], |row| row.get(0)).unwrap();
    assert_eq!(digest.len(), 32, "of the code only a digest is stored");
}

#[tokio::test]
async fn a_code_ends_after_five_attempts_and_after_a_day_and_a_new_one_can_be_asked_for() {
    let it = Trial::start().await;
    let inbox = it.add("bob@b.test").await.expect(201);
    let first = it.code_in(1).await;
    for _ in 0..5 {
        it.confirm(&inbox, "0000").await.expect_error(422, "validation_failed");
    }
    let error = it.confirm(&inbox, &first).await.expect_error(422, "validation_failed");
    assert_eq!(error["errors"][0]["code"], "expired");
    assert_eq!(it.add("bob@b.test").await.expect(201)["id"], inbox["id"]);
    let second = it.code_in(2).await;
    it.confirm(&inbox, &first).await.expect_error(422, "validation_failed");
    it.server.clock.advance(DAY + Duration::from_secs(1));
    let error = it.confirm(&inbox, &second).await.expect_error(422, "validation_failed");
    assert_eq!(error["errors"][0]["code"], "expired");
    it.add("bob@b.test").await.expect(201);
    let third = it.code_in(3).await;
    it.confirm(&inbox, &third).await.expect(200);
}

#[tokio::test]
async fn inboxes_confirmation_mails_and_trial_messages_are_limited() {
    let it = Trial::start().await;
    it.confirmed("bob@b.test").await;
    for number in 1..5 {
        it.add(&format!("r{number}@b.test")).await.expect(201);
    }
    it.add("r5@b.test").await.expect_error(409, "limit_reached");
    for _ in 0..5 {
        it.add("r1@b.test").await.expect(201);
    }
    let error = it.add("r1@b.test").await.expect_error(409, "limit_reached");
    assert!(error["message"].as_str().unwrap().contains("confirmation mails"), "{error}");
    it.mx.wait_for(10).await;

    for _ in 0..50 {
        it.send(&["bob@b.test"]).await.expect(202);
    }
    let error = it.send(&["bob@b.test"]).await.expect_error(429, "send_limit_exceeded");
    assert!(error["message"].as_str().unwrap().contains("50 live messages a day"), "{error}");
    it.server.clock.advance(DAY);
    it.send(&["bob@b.test"]).await.expect(202);
    it.add("r1@b.test").await.expect(201);
}

#[tokio::test]
async fn a_test_key_adds_no_inbox_and_sends_from_the_sandbox_domain_to_anybody() {
    let it = Trial::start().await;
    let test = it.server.create_account_in("test.test", "test").await;
    let call = async |path: &str, body: Value| {
        request(it.server.control.address, "POST", path, Some(&test.secret), Some(&body)).await
    };
    let inbox = call("/v1/inboxes", json!({"address": "bob@b.test"})).await;
    inbox.expect_error(403, "live_key_required");
    let email = json!({"from": it.sender, "to": "eve@b.test", "subject": "s", "text": "t"});
    call("/v1/emails", email).await.expect(202);
    assert!(it.mx.transactions().is_empty());
}
