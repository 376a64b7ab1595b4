//! Live and test: nothing of one environment touches the other, and a test key sees and changes test objects only.

use serde_json::{Value, json};

use crate::http::request;
use crate::server::{Account, TestServer, message, one_destination, text};

/// A test key of the tenant of an account.
async fn tester(server: &TestServer, account: &Account) -> Account {
    let wanted = json!({
        "name": "test", "tenant_id": account.tenant_id, "environment": "test",
        "scopes": ["smtp:send", "emails:send", "emails:read", "suppressions:manage"],
    });
    let key = server.control.ok("POST", "/v1/keys", wanted).await;
    Account { user: text(&key["id"]), secret: text(&key["secret"]), ..account.clone() }
}

/// The addresses and environments of the suppressions that a key lists.
async fn suppressions(server: &TestServer, key: &str, query: &str) -> Vec<(String, String)> {
    let path = format!("/v1/suppressions{query}");
    let list = request(server.control.address, "GET", &path, Some(key), None).await.expect(200);
    let list = list["data"].as_array().unwrap();
    list.iter().map(|one| (text(&one["address"]), text(&one["environment"]))).collect()
}

fn pair(address: &str, environment: &str) -> (String, String) {
    (address.to_owned(), environment.to_owned())
}

#[tokio::test]
async fn what_the_sandbox_suppresses_stops_test_mail_only_and_a_live_suppression_live_mail_only() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let tester = tester(&server, &account).await;
    let id = server.submit(&tester, &["bounce@b.test"], &message(&account, "bounced")).await;
    server.wait_for_status(&id, &["bounced"]).await;
    let id = server.submit(&tester, &["complaint@b.test"], &message(&account, "complained")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let in_test = vec![pair("complaint@b.test", "test"), pair("bounce@b.test", "test")];
    assert_eq!(suppressions(&server, &tester.secret, "").await, in_test);
    assert_eq!(suppressions(&server, &account.secret, "").await, []);
    assert_eq!(suppressions(&server, &account.secret, "?environment=test").await, in_test);
    assert_eq!(suppressions(&server, &server.control.secret, "").await, in_test);
    let id = server.submit(&account, &["bounce@b.test"], &message(&account, "live")).await;
    server.wait_for_status(&id, &["delivered"]).await;

    let body = json!({"address": "live@b.test", "tenant_id": account.tenant_id});
    let made = server.control.ok("POST", "/v1/suppressions", body).await;
    assert_eq!(made["environment"], "live");
    let admits = async |account: &Account, recipient: &str| {
        let mut client = server.log_in(account).await;
        client.command("MAIL FROM:<alice@acme.test>").await.expect_code(250);
        client.command(&format!("RCPT TO:<{recipient}>")).await.code == 250
    };
    for (recipient, live, test) in
        [("live@b.test", false, true), ("bounce@b.test", true, false), ("bob@b.test", true, true)]
    {
        assert_eq!(admits(&account, recipient).await, live, "{recipient}");
        assert_eq!(admits(&tester, recipient).await, test, "{recipient}");
    }
}

#[tokio::test]
async fn a_test_key_suppresses_for_test_mail_and_neither_sees_nor_lifts_a_live_suppression() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let tester = tester(&server, &account).await;
    let call = async |account: &Account, method: &str, path: &str, body: Value| {
        let body = (!body.is_null()).then_some(&body);
        request(server.control.address, method, path, Some(&account.secret), body).await
    };
    let body = |environment: Value| json!({"address": "bob@b.test", "environment": environment});
    let live = call(&account, "POST", "/v1/suppressions", json!({"address": "bob@b.test"})).await.expect(201);
    assert_eq!(live["environment"], "live");
    let test = call(&tester, "POST", "/v1/suppressions", body(Value::Null)).await.expect(201);
    assert_eq!(test["environment"], "test");
    let many = json!({"suppressions": [{"address": "a@b.test"}, body(json!("live"))]});
    for (path, body) in [("/v1/suppressions", body(json!("live"))), ("/v1/suppressions/batch", many)] {
        let error = call(&tester, "POST", path, body).await.expect_error(403, "live_key_required");
        assert!(text(&error["hint"]).contains("use a live key"), "{error}");
    }
    let live = format!("/v1/suppressions/{}", text(&live["id"]));
    for method in ["GET", "DELETE"] {
        call(&tester, method, &live, Value::Null).await.expect_error(404, "not_found");
    }
    let list = call(&tester, "GET", "/v1/suppressions?environment=live", Value::Null).await;
    list.expect_error(403, "live_key_required");
    // A live key manages those of both.
    let test = format!("/v1/suppressions/{}", text(&test["id"]));
    for path in [live, test] {
        call(&account, "GET", &path, Value::Null).await.expect(200);
        call(&account, "DELETE", &path, Value::Null).await.expect(200);
    }
}
