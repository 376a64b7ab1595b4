//! The queue of the real server: it shows queued mail with its wait reason; pause, flush, retry and cancel act on mail
//! for a real MX.

use serde_json::{Value, json};

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Phase};
use crate::program;
use crate::server::{Account, LIFETIME_MAX, TestServer, destinations, message};
use crate::wait::until;

/// A server whose destinations `b.test` and `c.test` have one MX.
async fn two_destinations() -> (FakeDns, FakeMx, TestServer) {
    destinations(&["b.test", "c.test"], |_| ()).await
}

async fn submit(server: &TestServer, account: &Account, recipient: &str) -> String {
    server.submit(account, &[recipient], &message(account, recipient)).await
}

/// The queue, when it is in the expected state: counts may be some milliseconds old.
async fn queue_when(server: &TestServer, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    until(what, async || {
        let queue = server.control.get("/v1/queue").await;
        is_so(&queue).then_some(queue)
    })
    .await
}

fn reasons(group: &Value) -> Vec<&str> {
    group["reasons"].as_array().unwrap().iter().map(|wait| wait["reason"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn mail_for_a_paused_destination_waits_through_a_restart_and_is_delivered_after_resume() {
    let (_dns, mx, mut server) = two_destinations().await;
    let account = server.create_account("acme.test").await;
    let paused = json!({"destination": "b.test", "reason": "repairs"});
    server.control.ok("POST", "/v1/queue/pause", paused).await;
    let held = submit(&server, &account, "bob@b.test").await;
    let free = submit(&server, &account, "carol@c.test").await;
    server.wait_for_status(&free, &["delivered"]).await;
    server.restart(|_| ()).await;
    let queue = queue_when(&server, "it is set aside", |queue| queue["paused"] == 1).await;
    assert_eq!(queue["pauses"][0]["reason"], "repairs", "{queue}");
    let group = &queue["data"][0];
    assert_eq!((&group["destination"], &group["tenant_slug"]), (&json!("b.test"), &json!("acme-test")));
    assert_eq!((reasons(group), &group["reasons"][0]["detail"]), (vec!["paused"], &json!("repairs")));
    assert_eq!(mx.transactions().len(), 1);

    server.control.ok("POST", "/v1/queue/resume", json!({"destination": "b.test"})).await;
    server.wait_for_status(&held, &["delivered"]).await;
    queue_when(&server, "nothing waits", |queue| queue["open"] == 0 && queue["pauses"] == json!([])).await;
}

#[tokio::test]
async fn deferred_mail_has_a_reason_and_a_flush_or_retry_delivers_it_now() {
    let (_dns, mx, server) = two_destinations().await;
    let account = server.create_account("acme.test").await;
    for order in ["flush", "retry"] {
        mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.7.1 greylisted"));
        let id = submit(&server, &account, "bob@b.test").await;
        server.wait_for_status(&id, &["deferred"]).await;
        // A count of the round before, of mail that is delivered since, has another reason.
        let is_deferred =
            |queue: &Value| queue["deferred"] == 1 && reasons(&queue["data"][0]) == ["deferred"];
        let queue = queue_when(&server, "it is due later", is_deferred).await;
        let wait = &queue["data"][0]["reasons"][0];
        assert_eq!((&wait["reason"], &wait["count"]), (&json!("deferred"), &json!(1)), "{queue}");
        assert!(
            wait["detail"].as_str().unwrap().contains("greylisted") && wait["until"].is_string(),
            "{queue}"
        );
        if order == "flush" {
            let flushed =
                server.control.ok("POST", "/v1/queue/flush", json!({"destination": "b.test"})).await;
            assert_eq!(flushed["flushed"], 1);
        } else {
            let retried = server.control.ok("POST", &format!("/v1/emails/{id}/retry"), Value::Null).await;
            assert_eq!(retried["retried"][0]["recipient"], "bob@b.test", "{retried}");
        }
        server.wait_for_status(&id, &["delivered"]).await;
    }
}

#[tokio::test]
async fn a_cancelled_message_is_never_delivered_and_its_timeline_says_so() {
    let (_dns, mx, server) = two_destinations().await;
    let account = server.create_account("acme.test").await;
    mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.7.1 greylisted"));
    let id = submit(&server, &account, "bob@b.test").await;
    server.wait_for_status(&id, &["deferred"]).await;
    let path = format!("/v1/emails/{id}");
    let cancelled = server.control.ok("POST", &format!("{path}/cancel"), Value::Null).await;
    assert_eq!(cancelled["cancelled"][0]["recipient"], "bob@b.test", "{cancelled}");
    let email = server.control.get(&path).await;
    assert_eq!(
        (&email["status"], &email["deliveries"][0]["next_attempt_at"]),
        (&json!("cancelled"), &Value::Null)
    );
    let timeline = server.control.get(&format!("{path}/timeline")).await.to_string();
    assert!(timeline.contains("message.cancelled"), "{timeline}");
    assert_eq!(server.control.ok("POST", "/v1/queue/flush", Value::Null).await["flushed"], 0);
    let other = submit(&server, &account, "carol@c.test").await;
    server.wait_for_status(&other, &["delivered"]).await;
    assert_eq!(mx.transactions().len(), 1);
}

#[tokio::test]
async fn mail_that_waits_for_a_connection_can_be_cancelled() {
    let (_dns, mx, server) = destinations(&["b.test"], |config| config.relay.connections_max = 1).await;
    let account = server.create_account("acme.test").await;
    let going_on = mx.wait_at(Phase::Mail);
    let running = submit(&server, &account, "one@b.test").await;
    until("it runs", async || mx.connections().first().map(drop)).await;
    let waiting = submit(&server, &account, "two@b.test").await;
    let last = submit(&server, &account, "three@b.test").await;
    queue_when(&server, "the relay has all", |queue| queue["in_flight"] == 3).await;
    let cancel =
        async |id: &str| server.control.ok("POST", &format!("/v1/emails/{id}/cancel"), json!(null)).await;
    let cancelled = cancel(&waiting).await;
    assert_eq!(cancelled["cancelled"][0]["recipient"], "two@b.test", "{cancelled}");
    assert_eq!(cancelled["in_flight"], json!([]));
    let cancelled = cancel(&running).await;
    assert_eq!(cancelled["in_flight"][0]["recipient"], "one@b.test", "{cancelled}");
    queue_when(&server, "two are left", |queue| queue["in_flight"] == 2 && queue["open"] == 2).await;
    going_on.cancel();
    for id in [&running, &last] {
        server.wait_for_status(id, &["delivered"]).await;
    }
    assert_eq!(server.wait_for_status(&waiting, &["cancelled"]).await["deliveries"][0]["attempts"], 0);
    let recipients: Vec<_> = mx.transactions().into_iter().flat_map(|one| one.recipients).collect();
    assert_eq!(recipients.len(), 2, "{recipients:?}");
}

#[tokio::test]
async fn what_expires_while_its_tenant_is_suspended_gets_one_try_when_it_is_resumed() {
    let (_dns, mx, server) = two_destinations().await;
    let account = server.create_account("acme.test").await;
    mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.7.1 greylisted"));
    let held = submit(&server, &account, "bob@b.test").await;
    server.wait_for_status(&held, &["deferred"]).await;
    let tenant = format!("/v1/tenants/{}", account.tenant_id);
    server.control.ok("PATCH", &tenant, json!({"status": "suspended"})).await;
    server.clock.advance(LIFETIME_MAX);
    let queue = queue_when(&server, "it is due, but held", |queue| queue["paused"] == 1).await;
    assert_eq!(reasons(&queue["data"][0]), ["tenant_suspended"], "{queue}");
    server.control.ok("PATCH", &tenant, json!({"status": "active"})).await;
    server.wait_for_status(&held, &["delivered"]).await;
}

#[tokio::test]
async fn the_command_line_shows_pauses_and_resumes() {
    let (_dns, _mx, server) = two_destinations().await;
    let account = server.create_account("acme.test").await;
    let url = format!("http://{}", server.control.address);
    let environment = [("PILLARBOX_URL", url.as_str()), ("PILLARBOX_KEY", server.control.secret.as_str())];
    let run = async |arguments: &[&str]| program::run_with(arguments, &environment).await;
    let part = ["--tenant", "acme-test", "--destination", "b.test"];
    let (ok, said) = run(&[&["queue", "pause"][..], &part, &["--reason", "repairs"]].concat()).await;
    assert!(ok && said.starts_with("paused"), "{said}");
    submit(&server, &account, "bob@b.test").await;
    queue_when(&server, "it is set aside", |queue| queue["paused"] == 1).await;
    let (ok, said) = run(&["queue"]).await;
    assert!(ok && said.contains("paused (repairs)") && said.contains("1 paused"), "{said}");
    let (ok, said) = run(&["queue", "list", "--tenant", "acme-test", "--json"]).await;
    assert!(ok && serde_json::from_str::<Value>(&said).unwrap()["open"] == 1, "{said}");
    let (ok, said) = run(&["queue", "resume", "--destination", "b.test"]).await;
    assert!(!ok && said.contains("[not_found]"), "{said}");
    let (ok, said) = run(&[&["queue", "resume"][..], &part].concat()).await;
    assert!(ok, "{said}");
    queue_when(&server, "nothing waits", |queue| queue["open"] == 0).await;
    let (ok, said) = run(&["queue", "flush"]).await;
    assert!(ok && said.starts_with("0 deliveries"), "{said}");
}
