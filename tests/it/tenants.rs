//! Isolation of tenants: suspension is enforced, no tenant can access another, and test keys stay in the sandbox.

use serde_json::json;

use crate::fake_mx::{FakeMx, Fault, Phase};
use crate::server::{HOSTNAME, RETRY_DELAY_MAX, message, message_id, one_destination};

#[tokio::test]
async fn a_suspended_tenant_is_refused_its_queue_is_held_and_resumes() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let other = server.create_account("other.test").await;
    mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.3.0 later"));
    let held = server.submit(&account, &["held@b.test"], &message(&account, "held")).await;
    server.wait_for_status(&held, &["deferred"]).await;

    let mut client = server.log_in(&account).await;
    let tenant = format!("/v1/tenants/{}", account.tenant_id);
    server.control.ok("PATCH", &tenant, json!({"status": "suspended"})).await;
    client.command("MAIL FROM:<alice@acme.test>").await.expect_saying(550, "[tenant_suspended]");
    let mut client = server.connect().await;
    let refused = client.auth_plain(&account.user, &account.secret).await;
    refused.expect_saying(535, "5.7.8 [tenant_suspended] tenant acme-test is suspended");
    server.clock.advance(RETRY_DELAY_MAX);
    let id = server.submit(&other, &["bob@b.test"], &message(&other, "other")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(mx.transactions().len(), 1, "only the other tenant's: {:?}", mx.transactions());

    server.control.ok("PATCH", &tenant, json!({"status": "active"})).await;
    server.wait_for_status(&held, &["delivered"]).await;
}

#[tokio::test]
async fn a_tenant_with_a_backlog_to_a_host_that_hangs_delays_nobody_else() {
    let (dns, mx, server) = one_destination().await;
    let hanging = FakeMx::beside(&mx).await;
    hanging.script(Phase::Greeting, "", usize::MAX, Fault::Hang);
    dns.mx("stuck.test", &[(10, "mx.stuck.test")]);
    dns.addresses("mx.stuck.test", &[hanging.address.ip()]);
    let (loud, quiet) = (server.create_account("loud.test").await, server.create_account("quiet.test").await);
    let mut client = server.log_in(&loud).await;
    for number in 0..100 {
        let content = message(&loud, &format!("backlog{number}"));
        client.send("alice@loud.test", &["bob@stuck.test"], &content).await.expect_code(250);
    }
    let id = server.submit(&quiet, &["bob@b.test"], &message(&quiet, "prompt")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let id = server.submit(&loud, &["bob@b.test"], &message(&loud, "other")).await;
    server.wait_for_status(&id, &["delivered"]).await;
}

#[tokio::test]
async fn senders_of_domains_of_other_tenants_are_refused() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let _other = server.create_account("other.test").await;
    let mut client = server.log_in(&account).await;
    for sender in ["alice@other.test", "alice@evilacme.test", "alice@nobody.test", "alice@test"] {
        client
            .command(&format!("MAIL FROM:<{sender}>"))
            .await
            .expect_saying(550, "[domain_not_allowed_for_key]");
    }
    let below = server.create_account("sub.acme.test").await;
    let mut other = server.log_in(&below).await;
    other.command("MAIL FROM:<alice@x.sub.acme.test>").await.expect_code(250);
    client
        .command("MAIL FROM:<alice@x.sub.acme.test>")
        .await
        .expect_saying(550, "another tenant has verified sub.acme.test");
    client.command("MAIL FROM:<alice@near.acme.test>").await.expect_code(250);
    client.command("RSET").await.expect_code(250);
    for (from, code) in [
        ("From: alice@other.test\r\n", "[domain_not_allowed_for_key]"),
        ("From: alice@acme.test\r\nFrom: x@acme.test\r\n", "[from_header_ambiguous]"),
        ("Subject: none\r\n", "[from_header_missing]"),
    ] {
        let content = format!("{from}\r\nbody\r\n");
        let reply = client.send("alice@acme.test", &["bob@b.test"], content.as_bytes()).await;
        reply.expect_saying(550, code);
    }
    assert!(mx.connections().is_empty());
}

#[tokio::test]
async fn a_key_whose_domains_were_deleted_is_refused_with_the_reason() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let key = format!("/v1/keys/{}", account.user);
    let second = json!({"name": "second.test", "tenant_id": account.tenant_id, "verification": "manual"});
    let second = server.control.ok("POST", "/v1/domains", second).await;
    server.control.ok("PATCH", &key, json!({"allowed_domain_ids": [second["id"]]})).await;
    let mut client = server.log_in(&account).await;
    client.command("MAIL FROM:<a@second.test>").await.expect_code(250);
    client.command("RSET").await.expect_code(250);
    let path = format!("/v1/domains/{}", second["id"].as_str().unwrap());
    server.control.ok("DELETE", &path, json!(null)).await;
    let left = server.control.ok("GET", &key, json!(null)).await;
    assert_eq!((&left["allowed_domain_ids"], &left["restricted_to_domains"]), (&json!([]), &json!(true)));
    for sender in ["a@acme.test", "a@second.test"] {
        client
            .command(&format!("MAIL FROM:<{sender}>"))
            .await
            .expect_saying(550, "[domain_not_allowed_for_key] this key may send from no domain");
    }
    server.control.ok("PATCH", &key, json!({"allowed_domain_ids": [account.domain_id]})).await;
    client.command("MAIL FROM:<a@acme.test>").await.expect_code(250);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_get_the_same_reply() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let mut replies = Vec::new();
    for user in [account.user.as_str(), "key_01ARZ3NDEKTSV4RRFFQ69G5FAV", "nobody"] {
        let mut client = server.connect().await;
        replies.push(client.auth_plain(user, "pb_live_wrong").await.expect_code(535));
    }
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
}

#[tokio::test]
async fn the_tenants_slug_is_a_user_name_too_and_a_revoked_key_is_not() {
    let (_dns, _mx, server) = one_destination().await;
    let mut account = server.create_account("acme.test").await;
    let id = std::mem::replace(&mut account.user, "acme-test".into());
    server.log_in(&account).await;
    server.control.ok("DELETE", &format!("/v1/keys/{id}"), json!(null)).await;
    let mut client = server.connect().await;
    client.auth_plain(&id, &account.secret).await.expect_code(535);
}

#[tokio::test]
async fn a_login_with_the_right_secret_gets_the_reason_of_its_refusal_and_with_a_wrong_one_never() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let key = format!("/v1/keys/{}", account.user);
    let log_in = async |user: &str, secret: &str| {
        let mut client = server.connect().await;
        client.command("MAIL FROM:<app@acme.test>").await.expect_saying(530, "[authentication_required]");
        client.auth_plain(user, secret).await
    };
    log_in(&format!("{}@mail.example", account.user), &account.secret).await.expect_code(235);

    let change = json!({"allowed_cidrs": ["192.0.2.0/24"]});
    server.control.ok("PATCH", &key, change).await;
    let refused = log_in(&account.user, &account.secret).await;
    refused.expect_saying(535, "5.7.8 [ip_not_allowed] this key is not allowed from 127.0.0.1");

    let hour = std::time::Duration::from_secs(3600);
    let change = json!({"allowed_cidrs": [], "expires_at": server.clock.now() + hour});
    server.control.ok("PATCH", &key, change).await;
    server.clock.advance(hour + hour);
    let refused = log_in(&account.user, &account.secret).await;
    refused.expect_saying(535, &format!("5.7.8 [expired_api_key] the key {} expired at", account.user));

    server.control.ok("DELETE", &key, json!(null)).await;
    let refused = log_in("acme-test", &account.secret).await;
    refused.expect_saying(535, &format!("5.7.8 [revoked_api_key] the key {} was revoked at", account.user));

    let wrong = account.secret.replace("pb_live_", "pb_test_");
    let of_revoked = log_in(&account.user, &wrong).await.expect_saying(535, "5.7.8 [invalid_api_key]").text();
    let of_stranger = log_in("key_01ARZ3NDEKTSV4RRFFQ69G5FAV", &wrong).await.expect_code(535).text();
    let of_nobody = log_in("nobody", &account.secret).await.expect_code(535).text();
    assert_eq!((&of_revoked, &of_revoked), (&of_stranger, &of_nobody));
}

/// A change of a key or a tenant affects its open sessions at the next command of a transaction.
#[tokio::test]
async fn an_open_session_follows_changes_of_its_key() {
    let (_dns, _mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let key = format!("/v1/keys/{}", account.user);
    let mut session = server.log_in(&account).await;
    let mail = "MAIL FROM:<app@acme.test>";
    for (change, code, part) in [
        (
            json!({"allowed_cidrs": ["192.0.2.0/24"]}),
            550,
            "[ip_not_allowed] this key is not allowed from 127.0.0.1",
        ),
        (json!({"allowed_cidrs": ["192.0.2.0/24", "127.0.0.0/8"]}), 250, ""),
        (json!({"scopes": ["emails:read"]}), 550, "[insufficient_scope]"),
        (json!({"scopes": ["smtp:send"]}), 250, ""),
    ] {
        server.control.ok("PATCH", &key, change).await;
        session.command(mail).await.expect_saying(code, part);
        session.command("RSET").await.expect_code(250);
    }
    // A transaction that began before the change is refused after it.
    for (change, code, part) in [
        (json!({"allowed_cidrs": []}), 250, ""),
        (json!({"allowed_cidrs": ["192.0.2.0/24"]}), 550, "[ip_not_allowed]"),
    ] {
        server.control.ok("PATCH", &key, json!({"allowed_cidrs": []})).await;
        session.command(mail).await.expect_code(250);
        session.command("RCPT TO:<bob@b.test>").await.expect_code(250);
        server.control.ok("PATCH", &key, change).await;
        session.data(&message(&account, "begun before")).await.expect_saying(code, part);
    }
}

#[tokio::test]
async fn mail_of_test_keys_stays_in_the_sandbox_and_its_local_part_selects_the_result() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account_in("acme.test", "test").await;
    for (recipient, status) in
        [("anyone@b.test", "delivered"), ("bounce@b.test", "bounced"), ("bounce+5.2.2@b.test", "bounced")]
    {
        let id = server.submit(&account, &[recipient], &message(&account, "sandbox")).await;
        server.wait_for_status(&id, &[status]).await;
    }
    let id = server.submit(&account, &["defer+1@b.test"], &message(&account, "sandbox")).await;
    let email = server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(email["deliveries"][0]["attempts"], 2, "{email}");

    let sender = format!("demo@sandbox.{HOSTNAME}");
    let content = format!("From: {sender}\r\nSubject: x\r\n\r\nbody\r\n");
    let mut client = server.log_in(&account).await;
    let reply = client.send(&sender, &["bob@b.test"], content.as_bytes()).await.expect_code(250);
    server.wait_for_status(&message_id(&reply), &["delivered"]).await;
    assert!(mx.connections().is_empty(), "{:?}", mx.connections());
}
