//! Whether receivers find a message authentic: checked against the DNS as it is now.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::dkim::{publish, setting};
use crate::fake_dns::FakeDns;
use crate::fake_mx::FakeMx;
use crate::http::request;
use crate::server::{Account, TestServer, message, message_id, text};

/// A delivered message of a domain whose records are published, and the address that it left from.
async fn delivered(dns: &FakeDns, mx: &FakeMx, server: &TestServer, account: &Account) -> (String, String) {
    let domain = server.control.get(&format!("/v1/domains/{}", account.domain_id)).await;
    publish(dns, &domain, &[]);
    dns.text("_dmarc.acme.test", "v=DMARC1; p=reject");
    let id = server.submit(account, &["bob@b.test"], &message(account, "one")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let timeline = server.control.get(&format!("/v1/emails/{id}/timeline")).await;
    let attempts = timeline["data"].as_array().unwrap().iter().filter(|entry| entry["object"] == "attempt");
    let source = attempts.map(|attempt| text(&attempt["source"])).next().unwrap();
    let seen = mx.connections()[0].source.unwrap();
    assert_eq!(source, seen.to_string(), "the address that the receiver saw");
    (id, source)
}

async fn check(server: &TestServer, id: &str) -> Value {
    server.control.get(&format!("/v1/emails/{id}/authentication")).await
}

/// The names of the published keys.
fn key_names(found: &Value) -> Vec<String> {
    let of = |signature: &Value| {
        format!("{}._domainkey.{}", text(&signature["selector"]), text(&signature["domain"]))
    };
    found["dkim"].as_array().unwrap().iter().map(of).collect()
}

#[tokio::test]
async fn each_signature_is_verified_against_dns_now() {
    let (dns, mx, server, account) = setting().await;
    let (id, _) = delivered(&dns, &mx, &server, &account).await;
    let found = check(&server, &id).await;
    assert_eq!((&found["object"], &found["message_id"]), (&json!("authentication"), &json!(id)));
    assert_eq!(found["from_domain"], "acme.test");
    let signatures = found["dkim"].as_array().unwrap();
    assert!(!signatures.is_empty(), "{found}");
    for signature in signatures {
        assert_eq!((&signature["result"], &signature["aligned"]), (&json!("pass"), &json!(true)), "{found}");
    }
    assert!(signatures.iter().any(|signature| signature["algorithm"] == "rsa-sha256"), "{found}");
    let name = &key_names(&found)[0];
    let other = server.create_account("other.test").await;
    let other = server.control.get(&format!("/v1/domains/{}", other.domain_id)).await;
    let algorithm = if signatures[0]["algorithm"] == "rsa-sha256" { "k=rsa" } else { "k=ed25519" };
    let records = other["dns_records"].as_array().unwrap().iter().map(|record| text(&record["value"]));
    let wrong = records.clone().find(|value| value.contains(algorithm)).unwrap();
    type Change<'a> = Box<dyn Fn() + 'a>;
    let changes: [(Change<'_>, &str, String); 3] = [
        (
            Box::new(|| dns.text(name, &wrong)),
            "fail",
            format!("the key at {name} is another one, or a signed field was changed"),
        ),
        (Box::new(|| dns.remove(name)), "fail", format!("there is no key at {name}")),
        (Box::new(|| dns.fail(name)), "temporary_error", format!("the key at {name} could not be looked up")),
    ];
    for (change, result, reason) in changes {
        change();
        let found = check(&server, &id).await;
        let signature = &found["dkim"][0];
        assert_eq!((&signature["result"], &signature["reason"]), (&json!(result), &json!(reason)), "{found}");
        assert_eq!(signature["aligned"], true, "{found}");
    }
}

#[tokio::test]
async fn spf_is_that_of_the_address_the_message_left_from() {
    let (dns, mx, server, account) = setting().await;
    let part = json!({"tenant_id": account.tenant_id});
    server.control.ok("POST", "/v1/queue/pause", part.clone()).await;
    let waiting = server.submit(&account, &["bob@b.test"], &message(&account, "waiting")).await;
    assert_eq!(check(&server, &waiting).await["spf"], Value::Null);
    server.control.ok("POST", "/v1/queue/resume", part).await;
    let (id, source) = delivered(&dns, &mx, &server, &account).await;
    for (record, result, reason) in [
        (
            format!("v=spf1 ip4:{source} -all"),
            "pass",
            format!("the SPF record of acme.test permits {source}"),
        ),
        ("v=spf1 -all".into(), "fail", format!("the SPF record of acme.test does not permit {source}")),
        (
            "v=spf1 ~all".into(),
            "fail",
            format!("the SPF record of acme.test does not permit {source}, and asks to accept it (~all)"),
        ),
        (
            "v=spf1 ?all".into(),
            "fail",
            format!("the SPF record of acme.test says nothing about {source} (?all)"),
        ),
        ("v=spf1 ip4:x -all".into(), "fail", "the SPF record of acme.test is not valid".into()),
        ("x".into(), "none", "acme.test has no SPF record".into()),
    ] {
        dns.text("acme.test", &record);
        let expected = json!({
            "domain": "acme.test", "address": source, "result": result, "aligned": true, "reason": reason,
        });
        assert_eq!(check(&server, &id).await["spf"], expected, "{record}");
    }
    dns.fail("acme.test");
    assert_eq!(check(&server, &id).await["spf"]["result"], "temporary_error");
}

#[tokio::test]
async fn spf_of_another_domain_or_of_a_host_name_is_not_aligned() {
    let (dns, mx, server, account) = setting().await;
    let (_, source) = delivered(&dns, &mx, &server, &account).await;
    let wanted = json!({"name": "other.test", "tenant_id": account.tenant_id, "verification": "manual"});
    server.control.ok("POST", "/v1/domains", wanted).await;
    dns.text("other.test", &format!("v=spf1 ip4:{source} -all"));
    dns.text("relay.test", "v=spf1 -all");
    let mut client = server.log_in(&account).await;
    for (path, domain, result) in [("alice@other.test", "other.test", "pass"), ("", "relay.test", "fail")] {
        let reply = client.send(path, &["bob@b.test"], &message(&account, "two")).await.expect_code(250);
        let id = message_id(&reply);
        server.wait_for_status(&id, &["delivered"]).await;
        // With the policy of From, and by the names alone.
        for policy in ["v=DMARC1; p=reject", "x"] {
            dns.text("_dmarc.acme.test", policy);
            let spf = &check(&server, &id).await["spf"];
            assert_eq!([&spf["domain"], &spf["result"]], [domain, result], "{spf}");
            assert_eq!(spf["aligned"], false, "{policy}: {spf}");
        }
    }
}

#[tokio::test]
async fn the_policy_decides_which_subdomains_of_an_organization_are_aligned() {
    let (dns, mx, server, account) = setting().await;
    let (_, source) = delivered(&dns, &mx, &server, &account).await;
    dns.text("bounces.acme.test", &format!("v=spf1 ip4:{source} -all"));
    let mut client = server.log_in(&account).await;
    let text = b"From: Alice <alice@news.acme.test>\r\nSubject: x\r\n\r\nHello.\r\n";
    let reply = client.send("x@bounces.acme.test", &["bob@b.test"], text).await.expect_code(250);
    let id = message_id(&reply);
    server.wait_for_status(&id, &["delivered"]).await;
    // The signature is of acme.test, the reverse path of bounces.acme.test, and From of news.acme.test.
    for (policy, dkim, spf, by) in [
        ("v=DMARC1; p=reject", true, true, json!("dkim")),
        ("v=DMARC1; p=reject; adkim=s", false, true, json!("spf")),
        ("v=DMARC1; p=reject; aspf=s", true, false, json!("dkim")),
        ("v=DMARC1; p=reject; adkim=s; aspf=s", false, false, Value::Null),
        // Without a policy, a name above or under that of From is related, and another one is not.
        ("x", true, false, Value::Null),
    ] {
        dns.text("_dmarc.acme.test", policy);
        let found = check(&server, &id).await;
        assert_eq!(found["dkim"][0]["aligned"], dkim, "{policy}: {found}");
        assert_eq!(found["spf"]["aligned"], spf, "{policy}: {found}");
        assert_eq!((&found["dkim"][0]["result"], &found["spf"]["result"]), (&json!("pass"), &json!("pass")));
        assert_eq!(found["dmarc"]["by"], by, "{policy}: {found}");
    }
}

#[tokio::test]
async fn dmarc_says_which_of_both_is_aligned() {
    let (dns, mx, server, account) = setting().await;
    let (id, source) = delivered(&dns, &mx, &server, &account).await;
    dns.text("acme.test", "v=spf1 -all");
    let found = check(&server, &id).await;
    let dmarc = |result: &str, policy: Value, by: Value, reason: &str| json!({"result": result, "policy": policy, "by": by, "reason": reason});
    let by_dkim =
        dmarc("pass", json!("reject"), json!("dkim"), "a valid signature is aligned with acme.test");
    assert_eq!(found["dmarc"], by_dkim);
    key_names(&found).iter().for_each(|name| dns.remove(name));
    let reason = "neither a valid signature nor SPF is aligned with acme.test";
    assert_eq!(check(&server, &id).await["dmarc"], dmarc("fail", json!("reject"), Value::Null, reason));
    dns.text("acme.test", &format!("v=spf1 ip4:{source} -all"));
    let reason = "the reverse path passes SPF and is aligned with acme.test";
    assert_eq!(check(&server, &id).await["dmarc"], dmarc("pass", json!("reject"), json!("spf"), reason));
    dns.remove("_dmarc.acme.test");
    let reason = "acme.test has no DMARC record";
    assert_eq!(check(&server, &id).await["dmarc"], dmarc("none", Value::Null, Value::Null, reason));
    dns.fail("_dmarc.acme.test");
    let reason = "a DNS look-up failed";
    assert_eq!(
        check(&server, &id).await["dmarc"],
        dmarc("temporary_error", Value::Null, Value::Null, reason)
    );
}

#[tokio::test]
async fn the_authentication_of_a_message_is_for_its_tenant_only() {
    let (dns, mx, server, account) = setting().await;
    let (id, _) = delivered(&dns, &mx, &server, &account).await;
    let other = server.create_account("other.test").await;
    let path = format!("/v1/emails/{id}/authentication");
    let ask = async |secret: &str| request(server.control.address, "GET", &path, Some(secret), None).await;
    ask(&other.secret).await.expect_error(404, "not_found");
    assert_eq!(ask(&account.secret).await.expect(200)["dkim"], check(&server, &id).await["dkim"]);
}

#[tokio::test]
async fn eight_checks_of_one_tenant_at_once_all_end() {
    let (dns, mx, server, account) = setting().await;
    let (id, _) = delivered(&dns, &mx, &server, &account).await;
    let path = format!("/v1/emails/{id}/authentication");
    let ask = || request(server.control.address, "GET", &path, Some(&account.secret), None);
    for answer in join_all((0..8).map(|_| ask())).await {
        assert_eq!(answer.expect(200)["dmarc"]["result"], "pass");
    }
}
