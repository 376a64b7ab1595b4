//! The resources of the API: their rules and their errors.

use pillarbox::mail::Timestamp;
use pillarbox::model::{Environment, RefusalCode, RequestId, Scope, Stage};
use pillarbox::store::{Journal, Rejection};
use serde_json::{Value, json};

use crate::api_stage::{ApiStage, text};
use crate::http::{exchange, request};
use crate::wait::until;

#[tokio::test]
async fn a_tenant_is_created_changed_and_listed() {
    let stage = ApiStage::start().await;
    let made = stage
        .post(
            &stage.platform,
            "/v1/tenants",
            json!({
                "name": "Acme Ltd.", "external_ref": "c-1", "metadata": {"plan": "gold", "seats": 3},
                "rate_limit": {"emails_per_day": 100}, "retention_days": 7, "body_retention_days": 3,
                "smtp": {"host": "relay.example", "user": "u", "pass": "do-not-show"},
            }),
        )
        .await;
    assert!(!made.to_string().contains("do-not-show"));
    let made = made.expect(201);
    assert_eq!(made["slug"], "acme-ltd");
    let smart_host = json!({
        "host": "relay.example", "port": 587, "user": "u", "tls": "starttls", "destinations": [], "dkim": "all",
    });
    assert_eq!(made["smtp"], smart_host);
    assert_eq!((&made["object"], &made["status"]), (&json!("tenant"), &json!("active")));
    let path = format!("/v1/tenants/{}", text(&made, "/id"));
    let patch = json!({
        "metadata": {"plan": null, "region": "eu"}, "settings": {"from_name": "Acme"},
        "rate_limit": {"emails_per_minute": 5}, "retention_days": null, "body_retention_days": null, "smtp": null,
    });
    let changed = stage.patch(&stage.platform, &path, patch).await.expect(200);
    assert_eq!(changed["metadata"], json!({"seats": 3, "region": "eu"}));
    let settings = json!({
        "from": null, "from_name": "Acme", "reply_to": null, "apply_to_smtp": true, "delivery_reports": "mail",
        "message_lifetime_hours": null, "brakes": null, "soft_bounces": null, "brand": null,
    });
    assert_eq!(changed["settings"], settings);
    let limits = json!({
        "requests_per_minute": null, "emails_per_day": 100, "emails_per_hour": null, "emails_per_minute": 5, "ramp": null,
    });
    assert_eq!(changed["rate_limit"], limits);
    assert_eq!((&changed["retention_days"], &changed["smtp"]), (&Value::Null, &Value::Null));
    assert_eq!(stage.get(&stage.platform, &path).await.expect(200), changed);
    let put = stage.call(&stage.platform, "PUT", &path, json!({"name": "Acme GmbH"})).await.expect(200);
    assert_eq!((&put["name"], &put["external_ref"]), (&json!("Acme GmbH"), &json!("c-1")));
}

#[tokio::test]
async fn tenants_with_equal_names_get_different_slugs() {
    let stage = ApiStage::start().await;
    let make = async |body: Value| stage.post(&stage.platform, "/v1/tenants", body).await;
    for slug in ["acme", "acme-2", "acme-3"] {
        assert_eq!(make(json!({"name": "ACME"})).await.expect(201)["slug"], slug);
    }
    make(json!({"name": "x", "slug": "acme"})).await.expect_error(409, "already_exists");
}

#[tokio::test]
async fn a_tenant_may_change_its_name_and_nothing_that_the_platform_decides() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let path = format!("/v1/tenants/{}", tenant.id);
    let renamed = json!({"name": "New", "settings": {"reply_to": "a@b.example"}});
    assert_eq!(stage.patch(&tenant.key, &path, renamed).await.expect(200)["name"], "New");
    let wrong = json!({"settings": {"reply_to": "nobody"}});
    let error = stage.patch(&tenant.key, &path, wrong).await.expect_error(422, "validation_failed");
    assert_eq!(error["errors"][0]["path"], "settings.reply_to");
    for body in [json!({"status": "active"}), json!({"rate_limit": {}}), json!({"smtp": null})] {
        stage.patch(&tenant.key, &path, body).await.expect_error(403, "platform_key_required");
    }
}

#[tokio::test]
async fn lists_are_paged_in_both_directions() {
    let stage = ApiStage::start().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let body = json!({"name": format!("t{number}")});
        ids.push(text(&stage.post(&stage.platform, "/v1/tenants", body).await.expect(201), "/id"));
    }
    ids.sort();
    ids.reverse();
    let page = async |query: String| {
        let list = stage.get(&stage.platform, &format!("/v1/tenants?limit=2{query}")).await.expect(200);
        let data = list["data"].as_array().unwrap().iter().map(|item| text(item, "/id")).collect::<Vec<_>>();
        (data, list["has_more"] == true, list["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(page(String::new()).await, (ids[..2].to_vec(), true, Some(ids[1].clone())));
    assert_eq!(page(format!("&after={}", ids[1])).await, (ids[2..4].to_vec(), true, Some(ids[3].clone())));
    assert_eq!(page(format!("&after={}", ids[3])).await, (ids[4..].to_vec(), false, None));
    assert_eq!(page(format!("&before={}", ids[4])).await, (ids[2..4].to_vec(), true, Some(ids[2].clone())));
    assert_eq!(page(format!("&before={}", ids[2])).await, (ids[..2].to_vec(), false, None));
    assert_eq!(page("&created_after=2999-01-01T00:00:00Z".into()).await, (vec![], false, None));
    let own = stage.tenant("own").await;
    for (query, count) in [
        (String::new(), 1),
        (format!("?after={}", own.id), 0),
        (format!("?before={}", own.id), 0),
        ("?after=tnt_7ZZZZZZZZZZZZZZZZZZZZZZZZZ".to_owned(), 1),
        ("?created_before=2000-01-01T00:00:00Z".to_owned(), 0),
        ("?created_after=2999-01-01T00:00:00Z".to_owned(), 0),
    ] {
        let list = stage.get(&own.key, &format!("/v1/tenants{query}")).await.expect(200);
        assert_eq!(list["data"].as_array().unwrap().len(), count, "{query}");
    }
    let error = stage.get(&stage.platform, "/v1/tenants?limit=0&colour=red").await;
    let error = error.expect_error(422, "validation_failed");
    assert_eq!(error["errors"][0]["path"], "colour", "{error}");
}

#[tokio::test]
async fn a_domain_is_verified_by_its_records_and_fails_only_after_the_grace_period() {
    let stage = ApiStage::with(|_, domains| domains.verification_grace = std::time::Duration::ZERO).await;
    let tenant = stage.tenant("own").await;
    let made = stage.post(&tenant.key, "/v1/domains", json!({"name": "Own.Example"})).await.expect(201);
    assert_eq!((&made["name"], &made["status"]), (&json!("own.example"), &json!("pending")));
    let records = made["dns_records"].as_array().unwrap().clone();
    let purposes: Vec<_> = records.iter().map(|record| text(record, "/purpose")).collect();
    assert_eq!(purposes, ["ownership", "dkim", "spf", "dmarc"]);
    assert!(text(&records[2], "/value").contains("include:mail.host.example"));
    let path = format!("/v1/domains/{}/verify", text(&made, "/id"));
    let verify = async || stage.post(&tenant.key, &path, Value::Null).await.expect(200);
    let nothing = verify().await;
    assert_eq!(
        (&nothing["status"], &nothing["dns_records"][0]["status"]),
        (&json!("pending"), &json!("missing"))
    );
    let ownership = text(&records[0], "/name");
    for record in &records[..2] {
        stage.dns.text(&text(record, "/name"), &text(record, "/value"));
    }
    let right = verify().await;
    assert_eq!((&right["status"], &right["dns_records"][1]["status"]), (&json!("verified"), &json!("ok")));
    stage.dns.fail(&ownership);
    assert_eq!(verify().await["status"], "verified", "trouble with the DNS changes nothing");
    stage.dns.mend(&ownership);
    stage.dns.text(&ownership, "pillarbox-verify=other");
    let wrong = verify().await;
    assert_eq!(
        (&wrong["status"], &wrong["dns_records"][0]["status"]),
        (&json!("failing"), &json!("mismatch"))
    );
    assert_eq!(wrong["dns_records"][0]["found"], json!(["pillarbox-verify=other"]));
    stage.dns.text(&ownership, &text(&records[0], "/value"));
    assert_eq!(verify().await["status"], "verified");
}

#[tokio::test]
async fn an_spf_record_is_evaluated_for_the_source_address_and_the_proposal_extends_it() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    stage.dns.text("mail.host.example", "v=spf1 a -all");
    stage.dns.addresses("mail.host.example", &["192.0.2.7".parse().unwrap()]);
    stage.dns.text("_spf.own.example", "v=spf1 ip4:192.0.2.7 ~all");
    let mut ten = String::from("v=spf1");
    for number in 0..10 {
        let name = format!("l{number}.own.example");
        stage.dns.text(&name, "v=spf1 ip4:192.0.2.99 ~all");
        ten += &format!(" include:{name}");
    }
    let too_many = format!("{ten} include:mail.host.example -all");
    let made = stage.post(&tenant.key, "/v1/domains", json!({"name": "own.example"})).await.expect(201);
    let path = format!("/v1/domains/{}/verify", text(&made, "/id"));
    for (published, status, proposed) in [
        ("v=spf1 include:mail.host.example ~all", "ok", None),
        ("v=spf1 include:_spf.own.example -all", "ok", None),
        ("v=spf1 redirect=_spf.own.example", "ok", None),
        ("v=spf1 -include:mail.host.example ~all", "mismatch", Some("v=spf1 include:mail.host.example ~all")),
        ("v=spf1 -all include:mail.host.example", "mismatch", Some("v=spf1 include:mail.host.example -all")),
        (
            "v=spf1 ip4:192.0.2.9 -all",
            "mismatch",
            Some("v=spf1 ip4:192.0.2.9 include:mail.host.example -all"),
        ),
        (&too_many, "mismatch", None),
    ] {
        stage.dns.text("own.example", published);
        let domain = stage.post(&tenant.key, &path, Value::Null).await.expect(200);
        let spf = &domain["dns_records"][2];
        assert_eq!((&spf["purpose"], &spf["status"]), (&json!("spf"), &json!(status)), "{published}: {spf}");
        assert_eq!(spf["value"], proposed.unwrap_or(published), "{published}");
    }
}

#[tokio::test]
async fn the_regular_check_verifies_a_domain_without_a_request() {
    let stage = ApiStage::with(|_, domains| domains.check_interval = std::time::Duration::ZERO).await;
    let tenant = stage.tenant("own").await;
    let path = stage.publish_domain(&tenant.key, "own.example").await;
    let checking = stage.recheck_until_verified(&tenant.key, &path).await;
    stage.stop.cancel();
    checking.await.unwrap();
}

#[tokio::test]
async fn the_first_tenant_to_verify_a_domain_owns_it() {
    let stage = ApiStage::start().await;
    let (one, two) = (stage.tenant("one").await, stage.tenant("two").await);
    let claim = async |key: &str, name: &str| stage.post(key, "/v1/domains", json!({"name": name})).await;
    let first = text(&claim(&one.key, "shared.example").await.expect(201), "/id");
    let second = text(&claim(&two.key, "shared.example").await.expect(201), "/id");
    claim(&one.key, "shared.example").await.expect_error(409, "already_exists");
    let manual = json!({"verification": "manual"});
    let path = format!("/v1/domains/{second}");
    stage.patch(&two.key, &path, manual.clone()).await.expect_error(403, "platform_key_required");
    assert_eq!(stage.patch(&stage.platform, &path, manual).await.expect(200)["status"], "verified");
    let lost = stage.get(&one.key, &format!("/v1/domains/{first}")).await.expect(200);
    assert_eq!(lost["status"], "taken");
    assert_eq!(lost["status_reason"], "another tenant has verified the same domain");
    assert!(text(&lost, "/status_hint").contains("operator"), "{lost}");
    let events = stage.get(&one.key, "/v1/events?type=domain.taken").await.expect(200);
    assert_eq!(events["data"][0]["data"]["domain_id"], json!(first), "{events}");
    let third = stage.tenant("three").await;
    claim(&third.key, "shared.example").await.expect_error(409, "domain_taken");
    claim(&one.key, "below.shared.example").await.expect(201);
    let keys = stage.get(&two.key, &format!("{path}/dkim")).await.expect(200);
    assert_eq!(keys["data"][0]["state"], "active", "{keys}");
    stage.delete(&two.key, &path).await.expect(200);
    let free = stage.get(&one.key, &format!("/v1/domains/{first}")).await.expect(200);
    assert_eq!(free["status"], "pending");
}

#[tokio::test]
async fn a_tenant_can_import_a_dkim_key_and_never_read_it() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let body = json!({"name": "own.example", "ed25519": true});
    let domain = stage.post(&tenant.key, "/v1/domains", body).await.expect(201);
    let path = format!("/v1/domains/{}/dkim", text(&domain, "/id"));
    let algorithms = |list: &Value| {
        let keys = list["data"].as_array().unwrap().iter();
        keys.map(|key| text(key, "/algorithm")).collect::<std::collections::BTreeSet<_>>()
    };
    let keys = stage.get(&tenant.key, &path).await.expect(200);
    assert_eq!(algorithms(&keys), ["rsa-sha256", "ed25519-sha256"].map(str::to_owned).into());
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    let body = json!({"selector": "own.2026", "private_key": pem});
    let added = stage.post(&tenant.key, &path, body.clone()).await.expect(201);
    assert_eq!(
        (&added["state"], &added["record_name"]),
        (&json!("pending"), &json!("own.2026._domainkey.own.example"))
    );
    stage.post(&tenant.key, &path, body).await.expect_error(409, "already_exists");
    let error = stage.post(&tenant.key, &path, json!({"selector": "x", "private_key": "secret"})).await;
    let error = error.expect_error(422, "validation_failed");
    assert_eq!(error["errors"][0]["path"], "private_key");
    let list = stage.get(&tenant.key, &path).await;
    assert!(!list.to_string().contains("PRIVATE") && list.json()["data"].as_array().unwrap().len() == 3);
}

#[tokio::test]
async fn a_secret_is_shown_once_and_works_until_it_is_revoked() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let body = json!({"name": "app", "environment": "test", "scopes": ["keys:manage", "smtp:send"]});
    let made = stage.post(&tenant.key, "/v1/api-keys", body).await.expect(201);
    let (id, secret) = (text(&made, "/id"), text(&made, "/secret"));
    assert!(secret.starts_with("pb_test_") && secret.ends_with(&text(&made, "/last_four")));
    let path = format!("/v1/keys/{id}");
    let seen = stage.get(&secret, &path).await;
    assert!(!seen.to_string().contains(&secret) && seen.json().get("secret").is_none());
    until("its use is shown", async || {
        stage.get(&tenant.key, &path).await.expect(200)["last_used_at"].is_string().then_some(())
    })
    .await;
    assert_eq!(stage.patch(&secret, &path, json!({"name": "renamed"})).await.expect(200)["name"], "renamed");
    assert!(stage.delete(&tenant.key, &path).await.expect(200)["revoked_at"].is_string());
    stage.get(&secret, &path).await.expect_error(401, "revoked_api_key");
    stage.get(&tenant.key, &path).await.expect(200);
}

#[tokio::test]
async fn a_key_cannot_create_a_key_with_more_rights() {
    let stage = ApiStage::start().await;
    let (tenant, other) = (stage.tenant("own").await, stage.tenant("other").await);
    let domain = async |key: &str, name: &str| {
        text(&stage.post(key, "/v1/domains", json!({"name": name})).await.expect(201), "/id")
    };
    let (own, foreign) =
        (domain(&tenant.key, "own.example").await, domain(&other.key, "other.example").await);
    let scopes = [Scope::KeysManage, Scope::SmtpSend, Scope::DomainsManage];
    let bound = stage
        .key(tenant.id, &scopes, |key| {
            key.environment = Environment::Test;
            key.allowed_domain_ids = vec![own.parse().unwrap()];
            key.expires_at = Some(Timestamp::now() + pillarbox::mail::SignedDuration::from_hours(1));
        })
        .await;
    let make = async |key: &str, extra: Value| {
        let mut body = json!({"name": "k", "scopes": ["smtp:send"]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        stage.post(key, "/v1/keys", body).await
    };
    for extra in [
        json!({"scopes": ["emails:read"]}),
        json!({"allowed_domain_ids": []}),
        json!({"expires_at": "2999-01-01T00:00:00Z"}),
    ] {
        make(&bound, extra).await.expect_error(403, "insufficient_scope");
    }
    make(&bound, json!({"environment": "live"})).await.expect_error(403, "live_key_required");
    let narrow = make(&bound, json!({})).await.expect(201);
    assert_eq!((&narrow["environment"], &narrow["allowed_domain_ids"]), (&json!("test"), &json!([own])));
    assert!(narrow["expires_at"].is_string());
    let live = text(&make(&tenant.key, json!({})).await.expect(201), "/id");
    stage.delete(&bound, &format!("/v1/keys/{live}")).await.expect_error(404, "not_found");
    let error = make(&tenant.key, json!({"allowed_domain_ids": [foreign]})).await;
    assert_eq!(error.expect_error(422, "validation_failed")["errors"][0]["path"], "allowed_domain_ids[0]");
    let second = domain(&tenant.key, "second.example").await;
    // A test key changes no domain.
    let bound =
        stage.key(tenant.id, &scopes, |key| key.allowed_domain_ids = vec![own.parse().unwrap()]).await;
    let path = format!("/v1/domains/{second}");
    stage.delete(&bound, &path).await.expect_error(403, "domain_not_allowed_for_key");
    let new = json!({"name": "third.example"});
    stage.post(&bound, "/v1/domains", new).await.expect_error(403, "domain_not_allowed_for_key");
}

#[tokio::test]
async fn an_external_reference_names_one_tenant_and_finds_it() {
    let stage = ApiStage::start().await;
    let make = async |name: &str, external_ref: Value| {
        let body = json!({"name": name, "external_ref": external_ref});
        stage.post(&stage.platform, "/v1/tenants", body).await
    };
    let one = make("one", json!("crm-7")).await.expect(201);
    let error = make("two", json!("crm-7")).await.expect_error(409, "already_exists");
    assert!(text(&error, "/message").contains("external_ref"), "{error}");
    let two = make("two", Value::Null).await.expect(201);
    make("three", Value::Null).await.expect(201);
    let path = format!("/v1/tenants/{}", text(&two, "/id"));
    let change = json!({"external_ref": "crm-7"});
    stage.patch(&stage.platform, &path, change).await.expect_error(409, "already_exists");
    let change = json!({"external_ref": "crm-8"});
    stage.patch(&stage.platform, &path, change.clone()).await.expect(200);
    stage.patch(&stage.platform, &path, change).await.expect(200);
    let found = stage.get(&stage.platform, "/v1/tenants?external_ref=crm-7").await.expect(200);
    let found = found["data"].as_array().unwrap();
    assert_eq!(found.iter().map(|tenant| &tenant["id"]).collect::<Vec<_>>(), [&one["id"]]);
    stage.delete(&stage.platform, &format!("/v1/tenants/{}", text(&one, "/id"))).await.expect(200);
    make("four", json!("crm-7")).await.expect(201);
}

#[tokio::test]
async fn a_tenant_is_created_with_its_first_domain_or_not_at_all() {
    let stage = ApiStage::start().await;
    let make = async |name: &str, domain: &str| {
        stage.post(&stage.platform, "/v1/tenants", json!({"name": name, "domain": domain})).await
    };
    let made = make("Acme", "Acme.Example").await.expect(201);
    let domain = &made["domain"];
    assert_eq!((&domain["name"], &domain["status"]), (&json!("acme.example"), &json!("pending")));
    assert_eq!(domain["tenant_id"], made["id"]);
    assert_eq!(domain["dns_records"].as_array().unwrap().len(), 4, "{domain}");
    let path = format!("/v1/domains/{}", text(domain, "/id"));
    assert_eq!(stage.get(&stage.platform, &path).await.expect(200), *domain);
    let plain = stage.post(&stage.platform, "/v1/tenants", json!({"name": "Plain"})).await.expect(201);
    assert_eq!(plain["domain"], Value::Null);
    let manual = json!({"verification": "manual"});
    stage.patch(&stage.platform, &path, manual).await.expect(200);
    make("Second", "acme.example").await.expect_error(409, "domain_taken");
    let error = make("", "localhost").await.expect_error(422, "validation_failed");
    let paths: Vec<_> = error["errors"].as_array().unwrap().iter().map(|one| text(one, "/path")).collect();
    assert_eq!(paths, ["name", "domain"], "{error}");
    let list = stage.get(&stage.platform, "/v1/tenants").await.expect(200);
    assert_eq!(list["data"].as_array().unwrap().len(), 2, "{list}");
}

#[tokio::test]
async fn scopes_have_other_names_and_read_only_forms_and_an_unknown_one_is_named_alone() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let make = async |body: Value| stage.post(&tenant.key, "/v1/keys", body).await;
    let names = json!(["send", "messages:read", "domains:read"]);
    let made = make(json!({"name": "k", "permissions": names})).await.expect(201);
    assert_eq!(made["scopes"], json!(["smtp:send", "emails:send", "emails:read", "domains:read"]));
    let key = text(&made, "/secret");
    stage.get(&key, "/v1/domains").await.expect(200);
    stage.get(&key, "/v1/emails").await.expect(200);
    let claim = json!({"name": "own.example"});
    let error = stage.post(&key, "/v1/domains", claim.clone()).await.expect_error(403, "insufficient_scope");
    assert!(text(&error, "/message").contains("domains:manage"), "{error}");
    stage.get(&key, "/v1/suppressions").await.expect_error(403, "insufficient_scope");
    let manager =
        text(&make(json!({"name": "m", "scopes": ["domains:manage"]})).await.expect(201), "/secret");
    stage.post(&manager, "/v1/domains", claim).await.expect(201);
    stage.get(&manager, "/v1/domains").await.expect(200);
    // Who may manage may let others read.
    let granting = [Scope::KeysManage, Scope::WebhooksManage];
    let granting = stage.key(tenant.id, &granting, |_| {}).await;
    let reader = json!({"name": "r", "scopes": ["webhooks:read"]});
    stage.post(&granting, "/v1/keys", reader).await.expect(201);
    let wider = json!({"name": "r", "scopes": ["domains:read"]});
    stage.post(&granting, "/v1/keys", wider).await.expect_error(403, "insufficient_scope");
    for field in ["scopes", "permissions"] {
        let wrong = json!({"name": "k", field: ["smtp:send", "everything", "domains:read", "domains:write"]});
        let error = make(wrong).await.expect_error(422, "validation_failed");
        let named = error["errors"].as_array().unwrap().iter();
        let named: Vec<_> = named.map(|one| (text(one, "/path"), text(one, "/message"))).collect();
        let expected =
            [("scopes[1]", "unknown scope: everything"), ("scopes[3]", "unknown scope: domains:write")];
        assert_eq!(named, expected.map(|(path, message)| (path.to_owned(), message.to_owned())));
        assert!(text(&error, "/hint").contains("domains:manage"), "{error}");
    }
    let error = make(json!({"name": "k", "scopes": ["everything"]})).await;
    assert_eq!(
        error.expect_error(422, "validation_failed")["message"],
        "scopes[0]: unknown scope: everything"
    );
    let both = json!({"name": "k", "scopes": ["send"], "permissions": ["send"]});
    let error = make(both).await.expect_error(422, "validation_failed");
    assert_eq!(error["errors"][0]["code"], "duplicate", "{error}");
    let path = format!("/v1/keys/{}", text(&made, "/id"));
    let changed =
        stage.patch(&tenant.key, &path, json!({"permissions": ["templates:read"]})).await.expect(200);
    assert_eq!(changed["scopes"], json!(["templates:read"]));
}

#[tokio::test]
async fn objects_of_the_platform_are_listed_apart_with_a_null_tenant() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    stage.post(&tenant.key, "/v1/domains", json!({"name": "own.example"})).await.expect(201);
    for key in [&tenant.key, &stage.platform] {
        let body = json!({"address": format!("{}@x.example", &key[8..20])});
        stage.post(key, "/v1/suppressions", body).await.expect(201);
        stage.post(key, "/v1/webhooks", json!({"url": "http://127.0.0.1:1/"})).await.expect(201);
    }
    for (path, is_used) in
        [("domains", false), ("keys", true), ("suppressions", true), ("webhooks", true), ("events", true)]
    {
        let list = stage.get(&stage.platform, &format!("/v1/{path}?tenant_id=null")).await.expect(200);
        let data = list["data"].as_array().unwrap();
        let has_any = !data.is_empty();
        assert_eq!(has_any, is_used, "{path}: {list}");
        assert!(data.iter().all(|one| one["tenant_id"].is_null()), "{path}: {list}");
        let all = stage.get(&stage.platform, &format!("/v1/{path}")).await.expect(200);
        assert!(all["data"].as_array().unwrap().len() > data.len(), "{path}: {all}");
        let refused = stage.get(&tenant.key, &format!("/v1/{path}?tenant_id=null")).await;
        refused.expect_error(403, "platform_key_required");
    }
    let path = format!("/v1/tenants/{}/domains?tenant_id=null", tenant.id);
    stage.get(&stage.platform, &path).await.expect_error(422, "validation_failed");
    let path = "/v1/emails?tenant_id=null";
    stage.get(&stage.platform, path).await.expect_error(422, "validation_failed");
}

#[tokio::test]
async fn suppressions_are_created_looked_up_and_deleted() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let body = json!({"address": "Bob@X.example", "reason": "complaint", "evidence": "said so"});
    let made = stage.post(&tenant.key, "/v1/suppressions", body).await.expect(201);
    assert_eq!((&made["address"], &made["reason"]), (&json!("bob@x.example"), &json!("complaint")));
    let list = stage.get(&tenant.key, "/v1/suppressions?address=BOB%40x.example").await.expect(200);
    assert_eq!(list["data"], json!([made]));
    let again =
        stage.post(&tenant.key, "/v1/suppressions", json!({"address": "bob@x.example"})).await.expect(201);
    assert_eq!(again["id"], made["id"]);
    let everywhere = stage.post(&stage.platform, "/v1/suppressions", json!({"address": "a@x.example"})).await;
    let everywhere = everywhere.expect(201);
    assert_eq!(everywhere["tenant_id"], Value::Null);
    let path = format!("/v1/suppressions/{}", text(&everywhere, "/id"));
    stage.delete(&tenant.key, &path).await.expect_error(404, "not_found");
    let path = format!("/v1/suppressions/{}", text(&made, "/id"));
    assert_eq!(stage.delete(&tenant.key, &path).await.expect(200)["deleted"], true);
    stage.delete(&tenant.key, &path).await.expect_error(404, "not_found");
}

#[tokio::test]
async fn a_batch_of_suppressions_is_accepted_whole_or_not_at_all() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let batch = async |items: Value| {
        stage.post(&tenant.key, "/v1/suppressions/batch", json!({"suppressions": items})).await
    };
    let long = "x".repeat(1025);
    for (items, path) in [
        (json!([{"address": "a@x.example"}, {"address": "nobody"}]), "suppressions[1].address"),
        (
            json!([{"address": "a@x.example"}, {"address": "b@x.example", "evidence": long}]),
            "suppressions[1].evidence",
        ),
        (json!([]), "suppressions"),
    ] {
        assert_eq!(batch(items).await.expect_error(422, "validation_failed")["errors"][0]["path"], path);
    }
    let list = async || stage.get(&tenant.key, "/v1/suppressions").await.expect(200);
    assert_eq!(list().await["data"], json!([]));
    let made = batch(json!([{"address": "a@x.example"}, {"address": "b@x.example"}])).await.expect(201);
    assert_eq!(made["data"].as_array().unwrap().len(), 2);
    assert_eq!(list().await["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_address_with_a_plus_is_found_as_it_is_written() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    stage.post(&tenant.key, "/v1/suppressions", json!({"address": "bob+tag@x.example"})).await.expect(201);
    for address in ["bob+tag@x.example", "bob%2Btag@x.example", "bob%2btag%40x.example"] {
        let list = stage.get(&tenant.key, &format!("/v1/suppressions?address={address}")).await.expect(200);
        assert_eq!(list["data"].as_array().unwrap().len(), 1, "{address}");
    }
}

#[tokio::test]
async fn a_message_is_shown_with_recipients_timeline_and_content() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let id = stage.enqueue(tenant.id).await.to_string();
    let get = async |path: String| stage.get(&tenant.key, &path).await;
    let email = get(format!("/v1/emails/{id}")).await.expect(200);
    assert_eq!(
        (&email["id"], &email["object"], &email["status"]),
        (&json!(id), &json!("email"), &json!("queued"))
    );
    assert_eq!((&email["from"], &email["to"]), (&json!("from@own.example"), &json!(["to@remote.example"])));
    let delivery = &email["deliveries"][0];
    assert_eq!((&delivery["recipient"], &delivery["attempts"]), (&json!("to@remote.example"), &json!(0)));
    let found = async |query: &str| {
        let list = get(format!("/v1/emails?{query}")).await.expect(200);
        list["data"].as_array().unwrap().len()
    };
    for (query, count) in [
        ("status=queued", 1),
        ("status=delivered", 0),
        ("to=to@remote.example", 1),
        ("to=from@own.example", 0),
        ("from=from%40own.example", 1),
        ("from=", 0),
        ("from=%3C%3E", 0),
        ("to=to+x@remote.example", 0),
        ("message_id=%3Cid%40own.example%3E", 1),
        ("environment=test", 0),
    ] {
        assert_eq!(found(query).await, count, "{query}");
    }
    let raw = get(format!("/v1/emails/{id}/raw")).await;
    assert_eq!(raw.header("content-type"), Some("message/rfc822"));
    assert_eq!(raw.body, b"A: b\r\nC: d\r\n\r\nbody\r\n");
    let story = get(format!("/v1/emails/{id}/timeline")).await.expect(200);
    assert_eq!(text(&story, "/data/0/type"), "message.accepted");
    let of_delivery = format!("/v1/emails/{id}/timeline?delivery_id={}", text(delivery, "/id"));
    assert_eq!(get(of_delivery).await.expect(200)["data"], story["data"]);
    let of_none = format!("/v1/emails/{id}/timeline?delivery_id=dlv_01ARZ3NDEKTSV4RRFFQ69G5FAV");
    get(of_none).await.expect_error(404, "not_found");
}

#[tokio::test]
async fn a_refused_submission_can_be_looked_up_by_its_request_id() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let now = Timestamp::now();
    let id = RequestId::generate(now);
    stage.store.reject(Rejection {
        id,
        tenant_id: tenant.id,
        key_id: None,
        environment: Environment::Live,
        stage: Stage::Rcpt,
        code: RefusalCode::RecipientSuppressed,
        message: "bob@x.example is suppressed".into(),
        client_address: Some("192.0.2.1".parse().unwrap()),
        created_at: now,
    });
    let rejection = until("the rejection is written", async || {
        let list = stage.get(&tenant.key, "/v1/rejections").await.expect(200);
        list["data"].get(0).cloned()
    })
    .await;
    assert_eq!((&rejection["id"], &rejection["stage"]), (&json!(id), &json!("rcpt")));
    let (code, address) = (json!("recipient_suppressed"), json!("192.0.2.1"));
    assert_eq!((&rejection["code"], &rejection["client_address"]), (&code, &address));
}

#[tokio::test]
async fn a_tenant_id_that_is_not_utf_8_gives_404_and_creates_no_platform_key() {
    let stage = ApiStage::start().await;
    let path = "/v1/tenants/%FF/api-keys";
    stage.post(&stage.platform, path, json!({"name": "k"})).await.expect_error(404, "not_found");
    stage.get(&stage.platform, path).await.expect_error(404, "not_found");
    stage.get(&stage.platform, "/v1/domains/%FF").await.expect_error(404, "not_found");
}

#[tokio::test]
async fn the_error_of_a_request_names_the_field_and_the_reason() {
    let stage = ApiStage::start().await;
    let key = &stage.platform;
    let error = stage.post(key, "/v1/tenants", json!({"name": "a", "nmae": 1})).await;
    assert_eq!(error.expect_error(422, "unknown_field")["errors"][0]["path"], "nmae");
    let send = async |method: &str, target: &str, head: &str, body: &str| {
        let text = format!(
            "{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
             Content-Length: {}\r\n{head}\r\n{body}",
            body.len()
        );
        exchange(stage.address, text.as_bytes()).await
    };
    let json_type = "Content-Type: application/json\r\n";
    let error =
        send("POST", "/v1/tenants", json_type, "{\n \"name\"}").await.expect_error(400, "invalid_json");
    assert!(error["message"].as_str().unwrap().contains("line 2, column 8"), "{error}");
    let xml = "Content-Type: application/xml\r\n";
    send("POST", "/v1/tenants", xml, "{}").await.expect_error(415, "unsupported_media_type");
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(1 << 20));
    send("POST", "/v1/tenants", json_type, &large).await.expect_error(413, "payload_too_large");
    let chunked = format!(
        "POST /v1/tenants HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n{json_type}\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    exchange(stage.address, chunked.as_bytes()).await.expect_error(413, "payload_too_large");
    let wrong = send("DELETE", "/v1/emails", "", "").await;
    assert_eq!(wrong.header("allow"), Some("GET, HEAD, POST"));
    wrong.expect_error(405, "method_not_allowed");
    send("GET", "/v1/nothing", "", "").await.expect_error(404, "not_found");
    let head = send("HEAD", "/v1/tenants", "", "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.header("content-length").unwrap().parse::<usize>().unwrap() > 0);
}

#[tokio::test]
async fn a_body_needs_no_content_type_and_api_in_front_of_a_path_means_the_same() {
    let stage = ApiStage::start().await;
    let post = async |target: &str, head: &str, body: &str| {
        let text = format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange(stage.address, text.as_bytes()).await
    };
    let key = format!("Authorization: Bearer {}\r\n", stage.platform);
    // What curl -d sends.
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let named = "Idempotency-Key: k1\r\n";
    let made =
        post("/api/v1/tenants", &format!("{key}{form}{named}"), r#"{"name":"Acme"}"#).await.expect(201);
    let again = post("/v1/tenants", &format!("{key}{named}"), r#"{"name":"Acme"}"#).await;
    assert_eq!((again.header("idempotent-replayed"), again.json()), (Some("true"), made.clone()));
    post("/v1/tenants", &format!("{key}{form}"), "name=Acme").await.expect_error(400, "invalid_json");
    // A page of another origin can make a browser send this, but not with a key.
    let forged = post("/v1/tenants", form, r#"{"name":"Acme"}"#).await;
    forged.expect_error(401, "authentication_required");
    let path = format!("/v1/tenants/{}", text(&made, "/id"));
    let both =
        [path.clone(), format!("/api{path}")].map(async |path| stage.get(&stage.platform, &path).await);
    let [short, long] = both;
    assert_eq!(short.await.expect(200), long.await.expect(200));
    let list = stage.get(&stage.platform, "/api/v1/tenants?limit=5&name=x").await;
    list.expect_error(422, "validation_failed");
    stage.get(&stage.platform, "/api/v1/nothing").await.expect_error(404, "not_found");
    stage.get(&stage.platform, "/api/healthz").await.expect_error(404, "not_found");
}

#[tokio::test]
async fn the_api_describes_itself_in_openapi_and_in_html() {
    let stage = ApiStage::start().await;
    let document = request(stage.address, "GET", "/openapi.json", None, None).await;
    assert_eq!(document.header("content-type"), Some("application/json"));
    assert_eq!(document.expect(200)["openapi"], "3.1.0");
    let page = request(stage.address, "GET", "/docs", None, None).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("script-src"), "{policy}");
    request(stage.address, "POST", "/docs", None, None).await.expect_error(405, "method_not_allowed");
}
