//! Every operation of the API with every kind of key: who may call it, and what another tenant can learn from it.

use std::collections::HashSet;
use std::time::Duration;

use hyper::Method;
use pillarbox::api::{Access, Operation, ROUTES, Route};
use pillarbox::mail::Timestamp;
use pillarbox::model::{Environment, KeySecret, Scope, TenantId};
use serde_json::{Value, json};

use crate::api_objects::{Belongings, body, is_post_of_new, operations};
use crate::api_stage::{ApiStage, Tenant};
use crate::http::request;

/// Fewer than the server looks up.
const UNKNOWN_KEYS_PER_MINUTE: usize = 100;

#[tokio::test]
async fn without_a_valid_key_every_operation_is_refused() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let expired =
        stage.key(own.tenant.id, Scope::ALL, |key| key.expires_at = Some(Timestamp::UNIX_EPOCH)).await;
    let elsewhere = stage
        .key(own.tenant.id, Scope::ALL, |key| key.allowed_cidrs = vec!["192.0.2.0/24".parse().unwrap()])
        .await;
    let unknown = KeySecret::generate(Environment::Live).expose().to_owned();
    let mistyped = own.tenant.key.to_uppercase();
    let before = own.look(&stage).await;
    for (count, (route, operation)) in operations().enumerate() {
        if count % UNKNOWN_KEYS_PER_MINUTE == UNKNOWN_KEYS_PER_MINUTE - 1 {
            stage.clock.advance(Duration::from_secs(60));
        }
        let (method, path) = (operation.method.as_str(), own.path(route));
        let body = body(route, operation, Some(own.tenant.id));
        let body = (!body.is_null()).then_some(&body);
        for (key, status, code) in [
            (None, 401, "authentication_required"),
            (Some(mistyped.as_str()), 401, "invalid_api_key"),
            (Some(&unknown), 401, "invalid_api_key"),
            (Some(&expired), 401, "expired_api_key"),
            (Some(&elsewhere), 403, "ip_not_allowed"),
        ] {
            let answer = request(stage.address, method, &path, key, body).await;
            assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{method} {path}");
            answer.expect_error(status, code);
        }
    }
    assert_eq!(own.look(&stage).await, before);
}

#[tokio::test]
async fn a_key_needs_the_scope_of_the_operation_and_no_other() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let before = own.look(&stage).await;
    for (route, operation) in operations() {
        let (method, path) = (operation.method.as_str(), own.path(route));
        let body = body(route, operation, None);
        if operation.access() == Access::Key {
            let any = stage.key(own.tenant.id, &[Scope::SmtpSend], |_| {}).await;
            let answer = stage.call(&any, method, &path, body).await;
            assert!([200, 201].contains(&answer.status), "{method} {path}: {answer}");
            continue;
        }
        let Access::Scope(scope) = operation.access() else {
            stage.call(&own.tenant.key, method, &path, body).await.expect_error(403, "platform_key_required");
            continue;
        };
        let others: Vec<Scope> = Scope::ALL.iter().copied().filter(|other| !other.includes(scope)).collect();
        let without = stage.key(own.tenant.id, &others, |_| {}).await;
        let error = stage.call(&without, method, &path, body).await.expect_error(403, "insufficient_scope");
        assert!(error["message"].as_str().unwrap().contains(scope.as_str()), "{error}");
        if operation.method == Method::GET {
            let with = stage.key(own.tenant.id, &[scope], |_| {}).await;
            let answer = stage.get(&with, &path).await;
            assert_eq!(answer.status, 200, "{method} {path}: {answer}");
        }
    }
    assert_eq!(own.look(&stage).await, before);
}

/// Operations without an effect here: no part of the queue is paused, and nobody is banned.
const WITHOUT_OBJECT: &[&str] = &["resume_queue", "lift_ban"];

#[tokio::test]
async fn the_platform_and_the_owner_may_call_every_operation_meant_for_them() {
    let stage = ApiStage::start().await;
    let (first, second) = (Belongings::make(&stage, "first").await, Belongings::make(&stage, "second").await);
    for (of, key, is_platform) in [(&first, &first.tenant.key, false), (&second, &stage.platform, true)] {
        // Deletions come last, and each once: an alias of the path would find nothing.
        let is_removal = |operation: &Operation| operation.method == Method::DELETE;
        let mut all: Vec<_> = operations().collect();
        all.retain(|(_, operation)| is_platform || operation.access() != Access::Platform);
        all.sort_by_key(|(route, one)| (is_removal(one), one.name == "delete_tenant", route.path.len()));
        let mut removed = Vec::new();
        for (route, operation) in all {
            let name = operation.name;
            if WITHOUT_OBJECT.contains(&name) || (is_removal(operation) && removed.contains(&name)) {
                continue;
            }
            removed.push(name);
            let (method, path) = (operation.method.as_str(), of.path(route));
            let answer = stage.call(key, method, &path, body(route, operation, Some(of.tenant.id))).await;
            // The domains here are not verified, so a message has no sender that its key may use.
            let is_of_sender = operation.is_sending
                && answer.status == 403
                && answer.json()["error"]["code"] == "domain_not_allowed_for_key";
            let is_let_in = ![401, 403, 404].contains(&answer.status) && answer.status < 500 || is_of_sender;
            assert!(is_let_in, "{method} {path}: {answer}");
        }
    }
}

#[tokio::test]
async fn the_openapi_document_says_who_may_call_an_operation_and_the_server_enforces_it() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let document = request(stage.address, "GET", "/openapi.json", None, None).await.expect(200);
    let mut told = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let route = ROUTES.iter().find(|route| route.path == path).unwrap();
        for (method, operation) in methods.as_object().unwrap() {
            let needed = operation["security"].as_array().unwrap();
            let answer = request(stage.address, &method.to_uppercase(), &own.path(route), None, None).await;
            assert_eq!(answer.status, if needed.is_empty() { 200 } else { 401 }, "{method} {path}: {answer}");
            let of_route =
                route.operations.iter().find(|one| one.method.as_str().eq_ignore_ascii_case(method));
            let access = of_route.unwrap().access();
            let roles: Vec<_> = needed.iter().map(|one| one["key"][0].as_str()).collect();
            let expected: &[_] = match access {
                Access::Scope(scope) => &[Some(scope.as_str())],
                Access::Platform => &[Some("platform")],
                Access::Key => &[None],
                _ => &[],
            };
            assert_eq!(roles, expected, "{method} {path}");
            told += 1;
        }
    }
    assert_eq!(told, ROUTES.iter().map(|route| route.operations.len()).sum::<usize>());
}

#[tokio::test]
async fn an_object_of_another_tenant_looks_like_one_that_does_not_exist() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let stranger = stage.tenant("stranger").await;
    let never = Belongings {
        tenant: Tenant { id: TenantId::generate(Timestamp::now()), key: String::new() },
        domain: "dom_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        key: "key_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        suppression: "sup_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        inbox: "inb_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        template: "tpl_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        email: "msg_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        webhook: "whk_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        webhook_delivery: "whd_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        rejection: "req_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        report: pillarbox::model::ReportId::generate(Timestamp::now()).to_string(),
        audit_entry: pillarbox::model::AuditId::generate(Timestamp::now()).to_string(),
    };
    let before = own.look(&stage).await;
    let mut compared = 0;
    for (route, operation) in operations().filter(|(_, operation)| operation.access() != Access::Platform) {
        let method = operation.method.as_str();
        let ask = async |of: &Belongings| {
            let body = body(route, operation, is_post_of_new(route, operation).then_some(of.tenant.id));
            stage.call(&stranger.key, method, &of.path(route), body).await
        };
        // An address is nobody's object: a stranger finds nothing about it.
        let is_address = route.path.starts_with("/v1/recipients");
        if is_address || !route.path.contains('{') && !is_post_of_new(route, operation) {
            continue;
        }
        let mut foreign = ask(&own).await.expect_error(404, "not_found");
        let mut absent = ask(&never).await.expect_error(404, "not_found");
        foreign["request_id"].take();
        absent["request_id"].take();
        assert_eq!(foreign, absent, "{method} {}", route.path);
        compared += 1;
    }
    assert!(compared > 20, "{compared}");
    assert_eq!(own.look(&stage).await, before);
}

#[tokio::test]
async fn a_list_shows_objects_of_the_callers_tenant_only() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let other = Belongings::make(&stage, "other").await;
    let shows = |list: &str, of: &Belongings| of.listed().into_iter().any(|id| list.contains(id));
    let mut seen = HashSet::new();
    for (route, _) in operations().filter(|(route, operation)| {
        operation.is_list() && operation.access() != Access::Platform && !route.path.contains('{')
    }) {
        let list = stage.get(&own.tenant.key, route.path).await;
        assert_eq!(list.status, 200, "{list}");
        let list = list.json().to_string();
        assert!(!list.contains(&other.tenant.id.to_string()), "{} shows {list}", route.path);
        assert!(!shows(&list, &other), "{} shows {list}", route.path);
        seen.extend(own.listed().into_iter().filter(|id| list.contains(*id)));
        let everything = stage.get(&stage.platform, route.path).await.expect(200).to_string();
        assert!(everything.contains(&other.tenant.id.to_string()), "{} lacks {everything}", route.path);
        if route.path != "/v1/tenants" {
            let path = format!("{}?tenant_id={}", route.path, other.tenant.id);
            stage.get(&own.tenant.key, &path).await.expect_error(404, "not_found");
            let theirs = stage.get(&stage.platform, &path).await.expect(200).to_string();
            assert!(!shows(&theirs, &own), "{path} shows {theirs}");
        }
    }
    assert_eq!(seen, HashSet::from(own.listed()), "each own object is in a list");
}

#[tokio::test]
async fn a_suspended_tenant_is_refused_and_the_platform_is_not() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let path = format!("/v1/tenants/{}", own.tenant.id);
    stage.patch(&stage.platform, &path, json!({"status": "suspended"})).await.expect(200);
    for (route, operation) in operations() {
        let body = body(route, operation, None);
        let answer = stage.call(&own.tenant.key, operation.method.as_str(), &own.path(route), body).await;
        answer.expect_error(403, "tenant_suspended");
    }
    own.look(&stage).await;
    stage.patch(&stage.platform, &path, json!({"status": "active"})).await.expect(200);
    stage.get(&own.tenant.key, &path).await.expect(200);
}

#[tokio::test]
async fn deleting_a_tenant_deletes_everything_that_belongs_to_it() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let path = format!("/v1/tenants/{}", own.tenant.id);
    let counted = stage.delete(&stage.platform, &format!("{path}?dry_run=true")).await.expect(200);
    assert_eq!((&counted["deleted"], &counted["counts"]["domains"]), (&json!(false), &json!(1)), "{counted}");
    own.look(&stage).await;
    let removed = stage.delete(&stage.platform, &path).await.expect(200);
    assert_eq!((&removed["deleted"], &removed["counts"]), (&json!(true), &counted["counts"]), "{removed}");
    stage.get(&own.tenant.key, &path).await.expect_error(401, "invalid_api_key");
    let with_id = operations().filter(|(route, _)| route.path.contains('{'));
    // Entries of the audit log stay; destinations and addresses belong to nobody.
    let belongs = |route: &Route| !["audit", "destinations", "recipients"].contains(&segment(route));
    for (route, operation) in with_id.filter(|(route, _)| belongs(route)) {
        let body = body(route, operation, None);
        let answer = stage.call(&stage.platform, operation.method.as_str(), &own.path(route), body).await;
        answer.expect_error(404, "not_found");
    }
}

/// The first segment after `/v1` of paths whose objects a test key may change: each belongs to an environment.
fn separated() -> HashSet<&'static str> {
    let changed = operations().filter(|(_, operation)| {
        operation.method != Method::GET && operation.method != Method::POST && operation.admits_test_keys()
    });
    changed.map(|(route, _)| segment(route)).chain(["emails", "rejections", "reports", "events"]).collect()
}

fn segment(route: &Route) -> &'static str {
    route.path.split('/').nth(2).unwrap()
}

#[tokio::test]
async fn a_test_key_finds_no_live_object_and_changes_no_object_that_both_environments_share() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let tester = stage.key(own.tenant.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    let before = own.look(&stage).await;
    let (mut refused, mut absent) = (0, 0);
    for (route, operation) in operations().filter(|(_, operation)| operation.access() != Access::Platform) {
        let (method, path) = (operation.method.as_str(), own.path(route));
        let answer = async |body| stage.call(&tester, method, &path, body).await;
        if !operation.admits_test_keys() {
            answer(body(route, operation, None)).await.expect_error(403, "live_key_required");
            refused += 1;
        } else if route.path.contains("{id}") && separated().contains(segment(route)) {
            answer(body(route, operation, None)).await.expect_error(404, "not_found");
            absent += 1;
        } else if operation.method == Method::GET {
            let shown = answer(Value::Null).await;
            assert_eq!(shown.status, 200, "{method} {path}: {shown}");
            let shown = shown.json().to_string();
            assert!(!shown.contains(r#""environment":"live""#), "{method} {path}: {shown}");
            let own = [&own.key, &own.suppression, &own.email, &own.webhook, &own.rejection];
            assert!(!own.iter().any(|id| shown.contains(*id)), "{method} {path}: {shown}");
        }
    }
    assert!(refused >= 10 && absent >= 15, "{refused} {absent}");
    assert_eq!(own.look(&stage).await, before);
}

#[tokio::test]
async fn a_test_key_asks_for_no_live_object_and_makes_none() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let tester = stage.key(own.tenant.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    let platform_tester = stage.platform_key(|key| key.environment = Environment::Test).await;
    let before = own.look(&stage).await;
    let (mut lists, mut made) = (0, 0);
    for (route, operation) in operations() {
        let key = if operation.access() == Access::Platform { &platform_tester } else { &tester };
        let (method, path) = (operation.method.as_str(), own.path(route));
        if operation.takes_parameter("environment") {
            let path = format!("{path}?environment=live");
            stage.get(key, &path).await.expect_error(403, "live_key_required");
            lists += 1;
        }
        // A message and a session have the environment of their key.
        let has_environment = !operation.is_sending && operation.name != "create_session";
        if is_post_of_new(route, operation) && has_environment && operation.admits_test_keys() {
            let mut body = body(route, operation, Some(own.tenant.id));
            match (body.get("suppressions"), segment(route)) {
                (Some(_), _) => body["suppressions"][0]["environment"] = json!("live"),
                (None, "webhooks") => body["environments"] = json!(["live"]),
                _ => body["environment"] = json!("live"),
            }
            stage.call(key, method, &path, body).await.expect_error(403, "live_key_required");
            made += 1;
        } else if operation.access() == Access::Platform && !operation.admits_test_keys() {
            let body = body(route, operation, None);
            stage.call(key, method, &path, body).await.expect_error(403, "live_key_required");
        }
    }
    assert!(lists >= 8 && made >= 6, "{lists} {made}");
    assert_eq!(own.look(&stage).await, before);
}
