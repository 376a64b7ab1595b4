//! The rotation of DKIM keys: which key signs, which records are required, and when the old key is deleted.

use std::time::Duration;

use pillarbox::model::DkimAlgorithm;
use serde_json::{Value, json};

use crate::api_stage::{ApiStage, text};
use crate::dkim::{private_key_pem, publish, setting, verify};
use crate::wait::until;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys of a domain: selector and state, the oldest first.
fn states(keys: &Value) -> Vec<(String, String)> {
    let keys = keys["data"].as_array().unwrap();
    keys.iter().map(|key| (text(key, "/selector"), text(key, "/state"))).collect()
}

/// The DKIM records of a domain: selector, status, whether it is required, state of the key.
fn records(domain: &Value) -> Vec<(String, String, bool, String)> {
    let records = domain["dns_records"].as_array().unwrap().iter();
    let of_keys = records.filter(|record| record["purpose"] == "dkim").map(|record| {
        let selector = text(record, "/name").split('.').next().unwrap().to_owned();
        let required = record["required"].as_bool().unwrap();
        (selector, text(record, "/status"), required, text(record, "/dkim_key_state"))
    });
    of_keys.collect()
}

#[tokio::test]
async fn mail_signed_before_a_rotation_verifies_after_it_and_the_old_key_goes_when_none_is_left() {
    let (dns, mx, server, account) = setting().await;
    let path = format!("/v1/domains/{}", account.domain_id);
    let by_dns = server.control.ok("PATCH", &path, json!({"verification": "dns"})).await;
    publish(&dns, &by_dns, &[]);
    let check = format!("{path}/verify");
    assert_eq!(server.control.ok("POST", &check, json!({})).await["status"], "verified");
    let old = records(&by_dns)[0].0.clone();
    let held = json!({"tenant_id": account.tenant_id});
    server.control.ok("POST", "/v1/queue/pause", held.clone()).await;
    let content = |subject: &str| format!("From: alice@acme.test\r\nSubject: {subject}\r\n\r\nbody\r\n");
    server.submit(&account, &["bob@b.test"], content("before").as_bytes()).await;

    let made = server.control.ok("POST", &format!("{path}/dkim/rotate"), Value::Null).await;
    let new = text(&made, "/data/0/selector");
    server.submit(&account, &["bob@b.test"], content("meanwhile").as_bytes()).await;
    let waiting = server.control.ok("POST", &check, json!({})).await;
    assert_eq!((&waiting["status"], &waiting["failing_since"]), (&json!("verified"), &Value::Null));
    let is = |selector: &String, status: &str, required, state: &str| {
        (selector.clone(), status.to_owned(), required, state.to_owned())
    };
    let expected = [is(&old, "ok", true, "active"), is(&new, "missing", false, "pending")];
    assert_eq!(records(&waiting), expected);

    publish(&dns, &waiting, &[]);
    let switched = server.control.ok("POST", &check, json!({})).await;
    let expected = [is(&old, "ok", false, "retiring"), is(&new, "ok", true, "active")];
    assert_eq!(records(&switched), expected);
    server.submit(&account, &["bob@b.test"], content("after").as_bytes()).await;

    server.control.ok("POST", "/v1/queue/resume", held).await;
    let mut signed = Vec::new();
    for transaction in mx.wait_for(3).await {
        let subject = String::from_utf8_lossy(&transaction.content);
        let subject = subject.split("Subject: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
        for (_, selector, _, holds) in verify(&dns, &transaction.content).await {
            assert!(holds, "{subject} by {selector}");
            signed.push((subject.clone(), selector));
        }
    }
    signed.sort();
    let by = |subject: &str, selector: &String| (subject.to_owned(), selector.clone());
    assert_eq!(signed, [by("after", &new), by("before", &old), by("meanwhile", &old)]);

    // Of two keys that were replaced four days apart, each goes eight days later: a receiver may verify late.
    server.clock.advance(4 * DAY);
    let made = server.control.ok("POST", &format!("{path}/dkim/rotate"), Value::Null).await;
    let newest = text(&made, "/data/0/selector");
    publish(&dns, &server.control.get(&path).await, &[]);
    let switched = server.control.ok("POST", &check, json!({})).await;
    let expected = [
        is(&old, "ok", false, "retiring"),
        is(&new, "ok", false, "retiring"),
        is(&newest, "ok", true, "active"),
    ];
    assert_eq!(records(&switched), expected);
    for left in [&expected[1..], &expected[2..]] {
        server.clock.advance(4 * DAY);
        until("the key that was replaced first is gone", async || {
            let now = records(&server.control.get(&path).await);
            (now.len() < left.len() + 1).then(|| assert_eq!(now, left))
        })
        .await;
    }
}

#[tokio::test]
async fn for_a_manually_verified_domain_the_new_key_signs_after_the_platform_confirms_its_record() {
    let (_dns, _mx, server, account) = setting().await;
    let path = format!("/v1/domains/{}", account.domain_id);
    server.control.ok("POST", &format!("{path}/dkim/rotate"), Value::Null).await;
    let in_order = async || {
        let keys = states(&server.control.get(&format!("{path}/dkim")).await);
        keys.into_iter().map(|(_, state)| state).collect::<Vec<_>>()
    };
    assert_eq!(in_order().await, ["active", "pending"]);
    server.control.ok("POST", &format!("{path}/verify"), json!({})).await;
    assert_eq!(in_order().await, ["retiring", "active"]);
}

#[tokio::test]
async fn a_domain_that_becomes_manually_verified_signs_immediately() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let domain = stage.post(&tenant.key, "/v1/domains", json!({"name": "own.example"})).await.expect(201);
    let path = format!("/v1/domains/{}", text(&domain, "/id"));
    let vouched = stage.patch(&stage.platform, &path, json!({"verification": "manual"})).await.expect(200);
    assert_eq!((&vouched["status"], &vouched["last_checked_at"]), (&json!("verified"), &Value::Null));
    assert_eq!(records(&vouched)[0].3, "active");
}

#[tokio::test]
async fn a_rotation_creates_a_key_for_each_algorithm_and_can_be_repeated() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let new = json!({"name": "own.example", "ed25519": true});
    let domain = stage.post(&tenant.key, "/v1/domains", new).await.expect(201);
    let path = format!("/v1/domains/{}", text(&domain, "/id"));
    let rotate = async |body: Value| stage.post(&tenant.key, &format!("{path}/dkim/rotate"), body).await;
    let verify = async || stage.post(&tenant.key, &format!("{path}/verify"), Value::Null).await.expect(200);
    let keys = async || stage.get(&tenant.key, &format!("{path}/dkim")).await.expect(200);

    let first = keys().await;
    let again = rotate(Value::Null).await.expect(201);
    for key in first["data"].as_array().unwrap() {
        assert!(again["data"].as_array().unwrap().contains(key), "it is new itself: {again}");
    }
    publish(&stage.dns, &domain, &[]);
    verify().await;
    let made = rotate(json!({"algorithm": "rsa-sha256"})).await.expect(201);
    assert_eq!(
        (made["data"].as_array().unwrap().len(), &made["data"][0]["algorithm"]),
        (1, &json!("rsa-sha256"))
    );
    let name = format!("{}._domainkey.own.example", text(&made, "/data/0/selector"));
    assert_eq!(made["data"][0]["record_name"], name);
    assert!(text(&made, "/data/0/record_value").starts_with("v=DKIM1; k=rsa; p="), "{made}");
    assert_eq!(rotate(json!({"algorithm": "rsa-sha256"})).await.expect(201), made, "the same again");
    let both = rotate(Value::Null).await.expect(201);
    assert_eq!(
        (&both["data"][0], &both["data"][1]["algorithm"]),
        (&made["data"][0], &json!("ed25519-sha256"))
    );
    let of_keys = states(&keys().await).into_iter().map(|(_, state)| state).collect::<Vec<_>>();
    assert_eq!(of_keys, ["active", "active", "pending", "pending"]);
    for (body, path) in [(json!({"algorithm": "dsa"}), "algorithm"), (json!({"selector": "x"}), "selector")] {
        let answer = rotate(body).await;
        assert_eq!((answer.status, &answer.json()["error"]["errors"][0]["path"]), (422, &json!(path)));
    }
}

#[tokio::test]
async fn a_key_whose_record_was_removed_is_replaced_and_never_activated_again() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let domain = stage.post(&tenant.key, "/v1/domains", json!({"name": "own.example"})).await.expect(201);
    let path = format!("/v1/domains/{}", text(&domain, "/id"));
    let rotate = async || stage.post(&tenant.key, &format!("{path}/dkim/rotate"), Value::Null).await;
    publish(&stage.dns, &domain, &[]);
    let check = async || stage.post(&tenant.key, &format!("{path}/verify"), Value::Null).await.expect(200);
    check().await;
    let first = stage.get(&tenant.key, &format!("{path}/dkim")).await.expect(200)["data"][0].clone();
    assert_eq!(first["state"], "active");
    stage.dns.text(&text(&first, "/record_name"), "v=DKIM1; p=");
    assert_eq!(records(&check().await)[0].3, "pending", "it does not sign");
    let made = rotate().await.expect(201);
    assert_ne!(made["data"][0]["selector"], first["selector"]);
    publish(&stage.dns, &stage.get(&tenant.key, &path).await.expect(200), &[]);
    stage.dns.text(&text(&first, "/record_name"), "v=DKIM1; p=");
    let keys = records(&check().await).into_iter().map(|(.., state)| state).collect::<Vec<_>>();
    assert_eq!(keys, ["retiring", "active"], "queued mail may carry the signature of the first");
}

#[tokio::test]
async fn a_domain_with_the_maximum_number_of_keys_gets_no_other() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let domain = stage.post(&tenant.key, "/v1/domains", json!({"name": "own.example"})).await.expect(201);
    let path = format!("/v1/domains/{}", text(&domain, "/id"));
    publish(&stage.dns, &domain, &[]);
    stage.post(&tenant.key, &format!("{path}/verify"), Value::Null).await.expect(200);
    for n in 2..=10 {
        let key =
            json!({"selector": format!("s{n}"), "private_key": private_key_pem(DkimAlgorithm::Ed25519)});
        stage.post(&tenant.key, &format!("{path}/dkim"), key).await.expect(201);
    }
    let rotate =
        stage.post(&tenant.key, &format!("{path}/dkim/rotate"), json!({"algorithm": "rsa-sha256"})).await;
    let error = rotate.expect_error(409, "limit_reached");
    assert!(text(&error, "/hint").contains("a week after"), "{error}");
    let key = json!({"selector": "s11", "private_key": private_key_pem(DkimAlgorithm::Ed25519)});
    let error =
        stage.post(&tenant.key, &format!("{path}/dkim"), key).await.expect_error(409, "limit_reached");
    assert!(text(&error, "/hint").contains("a week after"), "{error}");
}
