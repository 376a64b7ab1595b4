//! The default tenant: a platform key sends and owns domains for it, unless it names another tenant.

use serde_json::{Value, json};

use crate::client::Client;
use crate::http::{Answer, request};
use crate::identity::trust_pem;
use crate::server::{Account, HOSTNAME, TestServer, message, message_id, one_destination};

fn email(from: &str) -> Value {
    json!({"from": from, "to": "bob@b.test", "subject": "Hello", "text": "Hi"})
}

fn email_with(from: &str, name: &str, value: &Value) -> Value {
    let mut email = email(from);
    email[name] = value.clone();
    email
}

async fn post(server: &TestServer, path: &str, body: Value) -> Answer {
    let control = &server.control;
    request(control.address, "POST", path, Some(&control.secret), Some(&body)).await
}

async fn default_tenants(server: &TestServer) -> Vec<Value> {
    server.control.get("/v1/tenants?slug=default").await["data"].as_array().unwrap().clone()
}

/// A domain of the default tenant.
async fn own_domain(server: &TestServer, name: &str) -> Value {
    server.control.ok("POST", "/v1/domains", json!({"name": name, "verification": "manual"})).await
}

/// The platform key as the account of an SMTP client with this user name; its id if absent.
async fn platform_account(server: &TestServer, domain: &str, user: Option<&str>) -> Account {
    let keys = server.control.get("/v1/keys?limit=100").await["data"].as_array().unwrap().clone();
    let key = keys.into_iter().find(|key| key["tenant_id"].is_null()).unwrap();
    Account {
        tenant_id: String::new(),
        domain_id: String::new(),
        domain: domain.to_owned(),
        user: user.unwrap_or_else(|| key["id"].as_str().unwrap()).to_owned(),
        secret: server.control.secret.clone(),
    }
}

#[tokio::test]
async fn over_http_a_platform_key_sends_for_the_default_tenant_or_for_the_one_that_it_names() {
    let (_dns, mx, server) = one_destination().await;
    let acme = server.create_account("acme.test").await;
    let acme_id = Value::from(acme.tenant_id.clone());
    let [default] = &default_tenants(&server).await[..] else { panic!("one default tenant") };
    let domain = own_domain(&server, "own.test").await;
    assert_eq!(domain["tenant_id"], default["id"]);

    let own = post(&server, "/v1/emails", email("shop@own.test")).await.expect(202);
    let named = email_with("shop@acme.test", "tenant_id", &acme_id);
    let named = post(&server, "/v1/emails", named).await.expect(202);
    let by_path = format!("/v1/tenants/{}/emails", acme.tenant_id);
    let by_path = post(&server, &by_path, email("shop@acme.test")).await.expect(202);
    let batch = json!({"tenant_id": acme_id, "emails": [email("shop@acme.test")]});
    let batch = post(&server, "/v1/emails/batch", batch).await.expect(202);
    mx.wait_for(4).await;
    for (id, owner) in [
        (&own["id"], &default["id"]),
        (&named["id"], &acme_id),
        (&by_path["id"], &acme_id),
        (&batch["data"][0]["id"], &acme_id),
    ] {
        let shown = server.wait_for_status(id.as_str().unwrap(), &["delivered"]).await;
        assert_eq!(shown["tenant_id"], *owner, "{shown}");
    }
    for (tenant, sent) in [(&default["id"], 1), (&acme_id, 3)] {
        let path = format!("/v1/tenants/{}/usage", tenant.as_str().unwrap());
        assert_eq!(server.control.get(&path).await["emails_sent"], sent);
    }

    // Domains, templates and state are those of the tenant that sends.
    let foreign = post(&server, "/v1/emails", email("shop@acme.test")).await;
    assert!(foreign.status >= 400 && foreign.to_string().contains("tenant default"), "{foreign}");
    let template = json!({"name": "t", "tenant_id": acme_id, "subject": "s", "text": "t"});
    let template = post(&server, "/v1/templates", template).await.expect(201);
    let mut using = email_with("shop@own.test", "template_id", &template["id"]);
    using.as_object_mut().unwrap().retain(|name, _| name != "text");
    let error = post(&server, "/v1/emails", using).await.expect_error(422, "validation_failed");
    assert_eq!(error["errors"][0]["path"], "template_id");
    let unknown = email_with("shop@own.test", "tenant_id", &json!("tnt_00000000000000000000000000"));
    post(&server, "/v1/emails", unknown).await.expect_error(422, "validation_failed");
    let batch = json!({"emails": [email("shop@own.test"), email_with("a@acme.test", "tenant_id", &acme_id)]});
    let error = post(&server, "/v1/emails/batch", batch).await.expect_error(422, "validation_failed");
    assert_eq!(error["errors"][0]["path"], "emails[1].tenant_id");
    let path = format!("/v1/tenants/{}", acme.tenant_id);
    server.control.ok("PATCH", &path, json!({"status": "suspended"})).await;
    let named = email_with("shop@acme.test", "tenant_id", &acme_id);
    post(&server, "/v1/emails", named).await.expect_error(403, "tenant_suspended");
}

#[tokio::test]
async fn a_key_of_a_tenant_sends_for_no_other_tenant() {
    let (_dns, _mx, server) = one_destination().await;
    let acme = server.create_account("acme.test").await;
    let default = default_tenants(&server).await.remove(0);
    let control = &server.control;
    for (tenant, status) in [(&default["id"], 404), (&json!(acme.tenant_id), 202)] {
        let body = email_with("shop@acme.test", "tenant_id", tenant);
        let answer = request(control.address, "POST", "/v1/emails", Some(&acme.secret), Some(&body)).await;
        answer.expect(status);
    }
}

#[tokio::test]
async fn over_smtp_a_platform_key_sends_for_the_tenant_of_the_user_name_or_the_default_tenant() {
    let (_dns, mx, server) = one_destination().await;
    let acme = server.create_account("acme.test").await;
    let default = default_tenants(&server).await.remove(0);
    own_domain(&server, "own.test").await;
    for (domain, user, owner) in [
        ("own.test", None, default["id"].as_str().unwrap()),
        ("own.test", Some("default"), default["id"].as_str().unwrap()),
        ("acme.test", Some("acme-test"), &acme.tenant_id),
    ] {
        let account = platform_account(&server, domain, user).await;
        let id = server.submit(&account, &["bob@b.test"], &message(&account, "platform")).await;
        assert_eq!(server.wait_for_status(&id, &["delivered"]).await["tenant_id"], owner);
    }
    assert_eq!(mx.transactions().len(), 3);
    // The domains of the other tenant are foreign.
    let account = platform_account(&server, "acme.test", None).await;
    let mut client = server.log_in(&account).await;
    client.command("MAIL FROM:<a@acme.test>").await.expect_saying(550, "tenant default");
    let trust = trust_pem(&server.certificate_pem());
    let mut client = Client::connect_implicit(server.submissions(), HOSTNAME, trust).await;
    client.ehlo().await;
    client.auth_plain("nobody", &account.secret).await.expect_code(535);
}

#[tokio::test]
async fn the_default_tenant_is_made_once_and_without_it_a_platform_key_must_name_one() {
    let (_dns, mx, mut server) = one_destination().await;
    let default = default_tenants(&server).await.remove(0);
    let path = format!("/v1/tenants/{}", default["id"].as_str().unwrap());
    server.restart(|_| {}).await;
    assert_eq!(default_tenants(&server).await, std::slice::from_ref(&default));
    server.control.ok("PATCH", &path, json!({"slug": "main"})).await;
    server.restart(|_| {}).await;
    assert_eq!(default_tenants(&server).await, [] as [Value; 0]);
    let domain = json!({"name": "own.test", "verification": "manual"});
    for (path, body) in [("/v1/domains", domain.clone()), ("/v1/emails", email("a@own.test"))] {
        let error = post(&server, path, body).await.expect_error(422, "validation_failed");
        assert_eq!(error["errors"][0]["path"], "tenant_id", "{error}");
    }
    let account = platform_account(&server, "own.test", None).await;
    let trust = trust_pem(&server.certificate_pem());
    let mut client = Client::connect_implicit(server.submissions(), HOSTNAME, trust).await;
    client.ehlo().await;
    let refused = client.auth_plain(&account.user, &account.secret).await;
    refused.expect_saying(535, "[insufficient_scope] a platform key sends for the tenant default");

    let mut named = domain;
    named["tenant_id"] = default["id"].clone();
    post(&server, "/v1/domains", named).await.expect(201);
    let named = platform_account(&server, "own.test", Some("main")).await;
    let sent = server.log_in(&named).await.send("a@own.test", &["bob@b.test"], &message(&named, "x")).await;
    message_id(&sent.expect_code(250));
    mx.wait_for(1).await;
}

#[tokio::test]
async fn a_platform_key_can_be_restricted_to_domains_of_the_default_tenant() {
    let (_dns, _mx, server) = one_destination().await;
    let acme = server.create_account("acme.test").await;
    let [one, _two] = [own_domain(&server, "one.test").await, own_domain(&server, "two.test").await];
    let wanted = |id: &Value| json!({"name": "shop", "allowed_domain_ids": [id]});
    let error = post(&server, "/v1/keys", wanted(&json!(acme.domain_id))).await;
    assert_eq!(error.expect_error(422, "validation_failed")["errors"][0]["path"], "allowed_domain_ids[0]");
    let key = post(&server, "/v1/keys", wanted(&one["id"])).await.expect(201);
    let call = async |path: &str, body: Value| {
        request(server.control.address, "POST", path, key["secret"].as_str(), Some(&body)).await
    };
    call("/v1/emails", email("a@one.test")).await.expect(202);
    call("/v1/emails", email("a@two.test")).await.expect_error(403, "domain_not_allowed_for_key");
    let wider = json!({"name": "wider", "allowed_domain_ids": []});
    call("/v1/keys", wider).await.expect_error(403, "insufficient_scope");
}
