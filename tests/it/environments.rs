//! Live and test: nothing of one environment touches the other, and a test key sees and changes test objects only.

use pillarbox::mail::Timestamp;
use pillarbox::model::{Environment, EventKind, Scope};
use pillarbox::store::{Journal, NewEvent};
use serde_json::{Value, json};

use crate::api_stage::ApiStage;
use crate::http::request;
use crate::server::{Account, TestServer, message, one_destination, text};
use crate::wait::until;

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
    let tester = server.test_account(&account).await;
    let id = server.submit(&tester, &["bounce@b.test"], &message(&account, "bounced")).await;
    server.wait_for_status(&id, &["bounced"]).await;
    let id = server.submit(&tester, &["complaint@b.test"], &message(&account, "complained")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let in_test = vec![pair("complaint@b.test", "test"), pair("bounce@b.test", "test")];
    until("the complaint comes back", async || {
        (suppressions(&server, &tester.secret, "").await == in_test).then_some(())
    })
    .await;
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
    let tester = server.test_account(&account).await;
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

#[tokio::test]
async fn lists_show_a_key_of_a_tenant_its_environment_and_the_platform_both() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let tester = server.test_account(&account).await;
    let live = server.submit(&account, &["bob@b.test"], &message(&account, "live")).await;
    let test = server.submit(&tester, &["bob@b.test", "defer+9@b.test"], &message(&account, "test")).await;
    server.log_in(&account).await.command("MAIL FROM:<a@foreign.test>").await.expect_code(550);
    server.log_in(&tester).await.command("MAIL FROM:<a@foreign.test>").await.expect_code(550);
    server.wait_for_status(&live, &["delivered"]).await;
    server.wait_for_status(&test, &["delivered", "deferred"]).await;
    let cancel = format!("/v1/emails/{test}/cancel");
    request(server.control.address, "POST", &cancel, Some(&tester.secret), None).await.expect(200);
    let environments = async |key: &str, path: String| {
        let list = request(server.control.address, "GET", &path, Some(key), None).await.expect(200);
        let mut found: Vec<_> =
            list["data"].as_array().unwrap().iter().map(|one| text(&one["environment"])).collect();
        found.sort();
        found.dedup();
        found.join(" ")
    };
    let of_tenant = format!("tenant_id={}", account.tenant_id);
    crate::wait::until("both refusals are recorded", async || {
        let path = format!("/v1/rejections?{of_tenant}");
        (environments(&server.control.secret, path).await == "live test").then_some(())
    })
    .await;
    // Without events of domains and tenants, which both share.
    let events = "events?type=message.accepted&".to_owned();
    for list in ["emails?".to_owned(), "rejections?".to_owned(), events] {
        for (key, query, expected) in [
            (&account.secret, "", "live"),
            (&account.secret, "environment=test", "test"),
            (&tester.secret, "", "test"),
            (&tester.secret, "environment=test", "test"),
            (&server.control.secret, &of_tenant, "live test"),
            (&server.control.secret, "environment=live", "live"),
            (&server.control.secret, "environment=test", "test"),
        ] {
            assert_eq!(environments(key, format!("/v1/{list}{query}")).await, expected, "{list} {query}");
        }
    }
    // Accepted, delivered, deferred and cancelled.
    let of_message = format!("/v1/events?message_id={test}&limit=100");
    assert_eq!(environments(&account.secret, of_message).await, "test");
    let of_message = format!("/v1/events?message_id={live}");
    assert_eq!(environments(&account.secret, of_message.clone()).await, "live");
    assert_eq!(environments(&tester.secret, of_message).await, "");
    for (key, id, status) in [
        (&account.secret, &live, 200),
        (&account.secret, &test, 200),
        (&tester.secret, &test, 200),
        (&tester.secret, &live, 404),
    ] {
        for path in ["", "/timeline", "/raw"] {
            let path = format!("/v1/emails/{id}{path}");
            let answer = request(server.control.address, "GET", &path, Some(key), None).await;
            assert_eq!(answer.status, status, "{path}");
        }
    }
}

#[tokio::test]
async fn usage_shows_a_test_key_what_test_keys_used() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let tester = stage.key(own.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    for key in [&own.key, &own.key, &tester] {
        stage.get(key, "/v1/emails").await.expect(200);
    }
    for path in ["usage", "usage/timeseries"] {
        let path = format!("/v1/tenants/{}/{path}", own.id);
        let read = async |key: &str| {
            let usage = stage.get(key, &path).await.expect(200);
            let parts = usage["data"].as_array().cloned().unwrap_or(vec![usage.clone()]);
            let requests: u64 = parts.iter().map(|part| part["api_requests"].as_u64().unwrap()).sum();
            (text(&usage["environment"]), requests)
        };
        let total = crate::wait::until("the requests are written", async || {
            Some(read(&stage.platform).await).filter(|(_, requests)| *requests >= 3)
        });
        assert_eq!(total.await.0, "live");
        let (environment, requests) = read(&tester).await;
        assert_eq!(environment, "test");
        assert!((1..3).contains(&requests), "{requests}");
    }
    let of_keys = stage.get(&tester, "/v1/usage?group_by=key").await.expect(200);
    let [only] = &of_keys["data"].as_array().unwrap()[..] else { panic!("{of_keys}") };
    assert_eq!(only["environment"], "test");
}

#[tokio::test]
async fn a_webhook_chooses_environments_and_a_test_key_manages_those_of_test_only() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let tester = stage.key(own.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    let make = async |key: &str, environments: Value| {
        let body = json!({"url": "https://hooks.example/", "environments": environments});
        stage.post(key, "/v1/webhooks", body).await
    };
    let live = make(&own.key, Value::Null).await.expect(201);
    assert_eq!(live["environments"], json!(["live"]));
    let both = make(&own.key, json!(["test", "live", "test"])).await.expect(201);
    assert_eq!(both["environments"], json!(["live", "test"]));
    let test = make(&tester, Value::Null).await.expect(201);
    assert_eq!(test["environments"], json!(["test"]));
    make(&own.key, json!([])).await.expect_error(422, "validation_failed");
    make(&tester, json!(["live", "test"])).await.expect_error(403, "live_key_required");
    let [live, both, test] = [live, both, test].map(|webhook| text(&webhook["id"]));
    let list = async |key: &str, query: &str| {
        let list = stage.get(key, &format!("/v1/webhooks{query}")).await.expect(200);
        list["data"].as_array().unwrap().iter().map(|one| text(&one["id"])).collect::<Vec<_>>()
    };
    let all = [test.clone(), both.clone(), live.clone()];
    assert_eq!(list(&own.key, "").await, all);
    assert_eq!(list(&own.key, "?environment=live").await, all[1..]);
    assert_eq!(list(&own.key, "?environment=test").await, all[..2]);
    assert_eq!(list(&tester, "").await, all[..1]);
    let patch = async |key: &str, id: &str, environments: Value| {
        stage.patch(key, &format!("/v1/webhooks/{id}"), json!({"environments": environments})).await
    };
    patch(&tester, &test, json!(["live"])).await.expect_error(403, "live_key_required");
    patch(&tester, &both, json!(["test"])).await.expect_error(404, "not_found");
    patch(&own.key, &live, json!(["live", "test"])).await.expect(200);
    for id in [&live, &both] {
        let error = patch(&own.key, id, json!(["test"])).await.expect_error(422, "validation_failed");
        assert_eq!(error["errors"][0]["path"], "environments");
    }
    patch(&own.key, &both, json!(["live"])).await.expect(200);
    patch(&own.key, &test, json!(["test", "live"])).await.expect(200);
    assert_eq!(list(&tester, "").await, <[String; 0]>::default());
}

#[tokio::test]
async fn a_key_for_tests_manages_keys_for_tests_only() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let tester = stage.key(own.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    let make = async |environment: Value| {
        let body = json!({"name": "new", "scopes": ["smtp:send"], "environment": environment});
        stage.post(&tester, "/v1/keys", body).await
    };
    make(json!("live")).await.expect_error(403, "live_key_required");
    let made = make(Value::Null).await.expect(201);
    assert_eq!(made["environment"], "test");
    let list = stage.get(&tester, "/v1/keys").await.expect(200);
    assert!(list["data"].as_array().unwrap().iter().all(|key| key["environment"] == "test"), "{list}");
    stage.delete(&tester, &format!("/v1/keys/{}", text(&made["id"]))).await.expect(200);
}

#[tokio::test]
async fn events_of_shared_objects_are_in_both_environments() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let tester = stage.key(own.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    for environment in [None, Some(Environment::Live), Some(Environment::Test)] {
        let event = NewEvent {
            kind: EventKind::DomainVerified,
            tenant_id: Some(own.id),
            environment,
            data: json!({}),
            at: Timestamp::now(),
        };
        stage.store.append(event).await.unwrap();
    }
    for (key, own) in [(&own.key, "live"), (&tester, "test")] {
        let list = stage.get(key, "/v1/events?type=domain.verified").await.expect(200);
        let seen: Vec<_> =
            list["data"].as_array().unwrap().iter().map(|one| one["environment"].clone()).collect();
        let mut seen: Vec<_> = seen.iter().map(|one| one.as_str().unwrap_or("shared")).collect();
        seen.sort_unstable();
        let mut expected = vec!["shared", own];
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn requests_with_test_keys_use_up_no_request_of_live_keys() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let tester = stage.key(own.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    let limit = json!({"rate_limit": {"requests_per_minute": 2}});
    stage.patch(&stage.platform, &format!("/v1/tenants/{}", own.id), limit).await.expect(200);
    crate::wait::until("the requests of the tests are refused", async || {
        (stage.get(&tester, "/v1/keys").await.status == 429).then_some(())
    })
    .await;
    stage.get(&own.key, "/v1/keys").await.expect(200);
}
