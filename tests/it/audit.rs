//! The audit log: every operation that changes something is one entry and one line of the log, without secrets.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Once;

use hyper::Method;
use pillarbox::api::{Access, Operation, ROUTES, Route};
use pillarbox::model::{DkimAlgorithm, Environment, Scope};
use serde_json::{Value, json};

use crate::api_objects::{Belongings, body, operations};
use crate::api_stage::{ApiStage, text};
use crate::dkim::private_key_pem;
use crate::http::{Answer, request_with};

/// Changes without an entry: mail is in the message log, rendering a template changes nothing, and the stage does not use ACME.
const WITHOUT_ENTRY: &[&str] = &["send_email", "send_emails", "render_template", "renew_certificate"];
/// Changes that are only logged: a key can make any number of them, and their entries would push out those of others.
const LOGGED_ONLY: &[&str] = &["create_session", "retry_email"];
/// Its code is in a mail. A wrong one counts as an attempt, so the refusal is an entry too.
const REFUSED: &str = "confirm_inbox";
/// Its entry has neither the address nor what was stored about it.
const NAMES_A_PERSON: &str = "erase_recipient";
const BANNED: &str = "192.0.2.50";

thread_local! {
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The log of this thread. The subscriber is that of all threads: of several, each would hide lines from the others while
/// it is registered.
struct Log;

impl Log {
    fn capture() -> Self {
        static STARTED: Once = Once::new();
        STARTED.call_once(|| tracing_subscriber::fmt().json().with_writer(|| Self).init());
        tracing::callsite::rebuild_interest_cache();
        Self
    }

    /// What was logged since the previous call.
    fn take(&self) -> String {
        String::from_utf8(LOGGED.take()).unwrap()
    }

    /// The changes that were logged since the previous call.
    fn take_changes(&self) -> Vec<Value> {
        let lines = self.take();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].take());
        lines.filter(|fields| fields["message"] == "changed").collect()
    }
}

impl Write for Log {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.write(octets))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All changes by one key to the objects of one tenant, deletions last.
struct Walk<'a> {
    stage: &'a ApiStage,
    of: &'a Belongings,
    key: &'a str,
    is_platform: bool,
    number: u32,
}

/// One change.
struct Change {
    route: &'static Route,
    operation: &'static Operation,
    path: String,
    body: Value,
}

impl<'a> Walk<'a> {
    fn all(stage: &'a ApiStage, of: &'a Belongings, key: &'a str) -> Self {
        Self { stage, of, key, is_platform: key == stage.platform, number: 0 }
    }

    fn changes(&mut self) -> Vec<Change> {
        let is_removal = |operation: &Operation| operation.method == Method::DELETE;
        let mut all: Vec<_> = operations().filter(|(_, operation)| operation.method != Method::GET).collect();
        all.retain(|(_, operation)| self.is_platform || operation.access() != Access::Platform);
        all.sort_by_key(|(route, one)| (is_removal(one), one.name == "delete_tenant", route.path.len()));
        let mut removed = HashSet::new();
        all.retain(|(_, operation)| !is_removal(operation) || removed.insert(operation.name));
        all.into_iter().map(|(route, operation)| self.change(route, operation)).collect()
    }

    /// A request that changes something, also if an alias of it was called before.
    fn change(&mut self, route: &'static Route, operation: &'static Operation) -> Change {
        self.number += 1;
        let number = self.number;
        let mut body = body(route, operation, Some(self.of.tenant.id));
        match operation.name {
            "update_tenant" | "update_key" => body = json!({"name": format!("changed {number}")}),
            "update_domain" => body = json!({"subdomains": operation.method == Method::PUT}),
            "update_template" => body = json!({"subject": format!("changed {number}")}),
            "update_webhook" => body = json!({"url": format!("https://changed{number}.example/")}),
            "create_domain" => body["name"] = format!("new{number}.example").into(),
            "create_template" => body["name"] = format!("new {number}").into(),
            "suppress" | "add_inbox" => body["address"] = format!("new{number}@x.example").into(),
            "suppress_many" => body["suppressions"][0]["address"] = format!("new{number}@x.example").into(),
            "add_dkim_key" => {
                let pem = private_key_pem(DkimAlgorithm::Ed25519);
                body = json!({"selector": "own", "private_key": pem});
            }
            "create_tenant" => {
                let smtp = json!({"host": "h.example", "user": "u", "pass": "smart-host-password"});
                body = json!({"name": format!("new {number}"), "smtp": smtp});
            }
            _ => {}
        }
        let path = match operation.name {
            "lift_ban" => format!("/v1/bans/{BANNED}"),
            _ => self.of.path(route),
        };
        Change { route, operation, path, body }
    }

    async fn newest(&self) -> String {
        let list = self.stage.get(&self.stage.platform, "/v1/audit?limit=1").await.expect(200);
        text(&list, "/data/0/id")
    }

    /// Makes a change and returns the entries that it added, as the platform sees them.
    async fn make(&self, change: &Change) -> (Answer, Vec<Value>) {
        let newest = self.newest().await;
        let Change { operation, path, body, .. } = change;
        let answer = self.stage.call(self.key, operation.method.as_str(), path, body.clone()).await;
        let since = format!("/v1/audit?before={newest}&limit=10");
        let list = self.stage.get(&self.stage.platform, &since).await.expect(200);
        (answer, list["data"].as_array().unwrap().clone())
    }
}

async fn stage_with_two() -> (ApiStage, Belongings, Belongings) {
    let stage = ApiStage::start().await;
    let (first, second) = (Belongings::make(&stage, "first").await, Belongings::make(&stage, "second").await);
    for name in ["first", "second", "third"] {
        stage.bans.record_failure(BANNED.parse().unwrap(), name, stage.clock.now());
    }
    (stage, first, second)
}

/// Whether the path is that of an object that can be read, or is below one.
fn is_about_readable(route: &Route) -> bool {
    let end = route.main_path.rfind('}').map(|end| end + 1);
    let path = end.map(|end| &route.main_path[..end]);
    let read = |other: &Route| {
        Some(other.path) == path && other.operations.iter().any(|one| one.method == Method::GET)
    };
    ROUTES.iter().any(read)
}

#[tokio::test]
async fn every_operation_that_changes_something_is_one_entry_and_one_line_of_the_log() {
    let (stage, first, second) = stage_with_two().await;
    let log = Log::capture();
    for (of, key) in [(&first, &first.tenant.key), (&second, &stage.platform)] {
        let mut walk = Walk::all(&stage, of, key);
        for change in walk.changes() {
            log.take();
            let (answer, entries) = walk.make(&change).await;
            let Change { route, operation, path, .. } = &change;
            let what = format!("{} {path}: {answer}\n{entries:#?}", operation.method);
            let lines = log.take_changes();
            if WITHOUT_ENTRY.contains(&operation.name) {
                assert!(entries.is_empty() && lines.is_empty(), "{what}\n{lines:?}");
                continue;
            }
            let is_entry = !LOGGED_ONLY.contains(&operation.name);
            assert_eq!((entries.len(), lines.len()), (usize::from(is_entry), 1), "{what}\n{lines:?}");
            if !is_entry {
                assert_eq!(lines[0]["operation"], operation.name, "{what}");
                continue;
            }
            let (entry, line) = (&entries[0], &lines[0]);
            assert_eq!(entry["operation"], operation.name, "{what}");
            let actor = json!([entry["actor"]["type"], entry["actor"]["platform"], entry["actor"]["name"]]);
            assert_eq!(actor, json!(["key", walk.is_platform, "stage"]), "{what}");
            assert_eq!(entry["request_id"].as_str(), answer.header("x-request-id"), "{what}");
            assert_eq!(line["operation"], entry["operation"], "{what}");
            for (field, name) in [("by", &entry["actor"]["key_id"]), ("request_id", &entry["request_id"])] {
                assert_eq!(&line[field], name, "{what}");
            }
            let is_success = (200..300).contains(&answer.status);
            assert_eq!(is_success, operation.name != REFUSED, "{what}");
            assert_eq!(entry["error"].is_null(), is_success, "{what}");
            if route.path.contains('{') {
                let is_in_path = entry["object_id"].as_str().is_some_and(|id| path.contains(id));
                let is_new = text(entry, "/object_id") == answer.json()["id"];
                assert!(is_in_path || is_new, "{what}");
                // The platform erases a recipient of all tenants.
                let is_of_all = operation.name == NAMES_A_PERSON && walk.is_platform;
                let is_of_tenant = operation.name != "lift_ban" && !is_of_all;
                assert_eq!(entry["tenant_id"] == json!(of.tenant.id), is_of_tenant, "{what}");
            }
            let has_before = is_about_readable(route) && operation.name != NAMES_A_PERSON;
            assert_eq!(entry["before"].is_null(), !has_before, "{what}");
            let is_gone = is_success && answer.json()["deleted"] == true && is_about_readable(route);
            assert_eq!(entry["after"].is_null(), is_gone || !is_success, "{what}");
        }
        assert!(walk.number >= if walk.is_platform { 45 } else { 35 }, "{}", walk.number);
    }
}

#[tokio::test]
async fn no_secret_is_in_the_audit_log() {
    let (stage, first, second) = stage_with_two().await;
    let log = Log::capture();
    let mut seen = String::new();
    for (of, key) in [(&first, &first.tenant.key), (&second, &stage.platform)] {
        let mut walk = Walk::all(&stage, of, key);
        for change in walk.changes() {
            let (answer, _) = walk.make(&change).await;
            seen += &format!("{}\n{}\n", change.body, String::from_utf8_lossy(&answer.body));
        }
    }
    let secrets = secrets_in(&seen);
    for kind in ["pb_live_", "whsec_", "MFECAQEw", "smart-host-password", "/ui/sign-in#"] {
        assert!(secrets.iter().any(|secret| secret.contains(kind)), "{kind} in {secrets:?}");
    }
    let database = stage.database();
    let mut dump = database.prepare("SELECT coalesce(before, '') || coalesce(after, '') FROM audit").unwrap();
    let stored: Vec<String> = dump.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(stored.len() > 80, "{}", stored.len());
    let logged = log.take();
    for secret in &secrets {
        assert!(!stored.iter().any(|entry| entry.contains(secret)), "{secret} in an entry");
        assert!(!logged.contains(secret), "{secret} in the log");
    }
}

/// Secrets of keys and webhooks, private keys, the password of the smart host, and tokens of links.
fn secrets_in(text: &str) -> HashSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || "_+/=-".contains(c);
    let mut found = HashSet::from(["smart-host-password".to_owned()]);
    for start in ["pb_live_", "pb_test_", "whsec_", "/ui/sign-in#"] {
        for (at, _) in text.match_indices(start) {
            let rest = &text[at + start.len()..];
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            found.insert(format!("{start}{}", &rest[..end]));
        }
    }
    for part in text.split("-----BEGIN PRIVATE KEY-----\\n").skip(1) {
        found.extend(part.split("\\n").next().map(str::to_owned));
    }
    found
}

#[tokio::test]
async fn an_entry_tells_what_was_before_and_what_is_afterwards() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let path = format!("/v1/tenants/{}", own.id);
    let change = json!({"name": "Changed", "settings": {"brand": {"name": "Acme", "color": "#0b57a4"}}});
    stage.patch(&own.key, &path, change).await.expect(200);
    let entry = stage.get(&own.key, "/v1/audit?limit=1").await.expect(200)["data"][0].take();
    assert_eq!((&entry["object_type"], &entry["object_id"]), (&json!("tenant"), &json!(own.id)));
    assert_eq!((&entry["before"]["name"], &entry["after"]["name"]), (&json!("own"), &json!("Changed")));
    assert_eq!(
        (&entry["before"]["settings"]["brand"], entry["after"]["settings"]["brand"]["name"].as_str()),
        (&Value::Null, Some("Acme"))
    );
    assert_eq!(entry["actor"]["client_address"], "127.0.0.1");
    let shown = stage.get(&own.key, &format!("/v1/audit/{}", text(&entry, "/id"))).await.expect(200);
    assert_eq!(shown, entry);
}

#[tokio::test]
async fn the_entry_of_a_conditional_change_is_complete() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let path = format!("/v1/tenants/{}", own.id);
    let read = stage.get(&own.key, &path).await;
    let condition = [("If-Match", read.header("etag").unwrap())];
    let change = json!({"name": "Changed"});
    let answer = request_with(stage.address, "PATCH", &path, Some(&own.key), Some(&change), &condition).await;
    answer.expect(200);
    let entry = stage.get(&own.key, "/v1/audit?limit=1").await.expect(200)["data"][0].take();
    assert_eq!((&entry["before"]["name"], &entry["after"]["name"]), (&json!("own"), &json!("Changed")));
}

#[tokio::test]
async fn entries_stay_when_their_tenant_is_deleted() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let path = format!("/v1/tenants/{}", own.tenant.id);
    let dry_run = stage.delete(&stage.platform, &format!("{path}?dry_run=true")).await.expect(200);
    assert_eq!(dry_run["deleted"], false);
    stage.delete(&stage.platform, &path).await.expect(200);
    let list =
        stage.get(&stage.platform, &format!("/v1/audit?tenant_id={}", own.tenant.id)).await.expect(200);
    let operations: Vec<_> = list["data"].as_array().unwrap().iter().map(|e| text(e, "/operation")).collect();
    assert_eq!(
        operations.iter().filter(|name| *name == "delete_tenant").count(),
        1,
        "a dry run changes nothing"
    );
    assert_eq!(operations[0], "delete_tenant");
    assert_eq!(
        (list["data"][0]["before"]["slug"].as_str(), &list["data"][0]["after"]),
        (Some("own"), &Value::Null)
    );
    for name in ["create_domain", "create_key", "suppress", "create_template", "create_webhook"] {
        assert!(operations.iter().any(|operation| operation == name), "{name} in {operations:?}");
    }
}

#[tokio::test]
async fn a_tenant_sees_its_own_changes_and_not_who_of_the_platform_made_them() {
    let stage = ApiStage::start().await;
    let (own, other) = (stage.tenant("own").await, stage.tenant("other").await);
    for (key, name) in [(&own.key, "mine.example"), (&stage.platform, "theirs.example")] {
        let body = json!({"name": name, "tenant_id": own.id});
        stage.post(key, "/v1/domains", body).await.expect(201);
    }
    stage.post(&other.key, "/v1/suppressions", json!({"address": "x@other.example"})).await.expect(201);
    let list = stage.get(&own.key, "/v1/audit?type=domain").await.expect(200);
    let entries = list["data"].as_array().unwrap();
    let named: Vec<_> = entries.iter().map(|entry| text(entry, "/after/name")).collect();
    assert_eq!(named, ["theirs.example", "mine.example"]);
    let of_platform = &entries[0]["actor"];
    assert_eq!(of_platform["platform"], true);
    for hidden in ["key_id", "name", "client_address"] {
        assert!(of_platform[hidden].is_null(), "{of_platform}");
        assert!(!entries[1]["actor"][hidden].is_null(), "{}", entries[1]);
    }
    assert!(entries[0]["request_id"].is_null());
    assert!(!stage.get(&own.key, "/v1/audit").await.expect(200).to_string().contains("other.example"));

    let seen = stage.get(&stage.platform, "/v1/audit?type=domain").await.expect(200);
    let key_id = text(&seen, "/data/0/actor/key_id");
    for (key, count) in [(&own.key, 0), (&stage.platform, 1)] {
        let of_key = stage.get(key, &format!("/v1/audit?type=domain&key_id={key_id}")).await.expect(200);
        assert_eq!(of_key["data"].as_array().unwrap().len(), count, "{of_key}");
    }
}

#[tokio::test]
async fn a_refused_change_is_no_entry() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let reader = stage.key(own.id, &[Scope::AuditRead], |_| {}).await;
    let tester = stage.key(own.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    let domain = json!({"name": "a.example"});
    stage.post(&reader, "/v1/domains", domain.clone()).await.expect_error(403, "insufficient_scope");
    stage
        .post(&own.key, "/v1/domains", json!({"name": "a.example", "x": 1}))
        .await
        .expect_error(422, "unknown_field");
    stage
        .post(&own.key, "/v1/domains", json!({"name": "no name"}))
        .await
        .expect_error(422, "validation_failed");
    stage.delete(&own.key, "/v1/domains/dom_01ARZ3NDEKTSV4RRFFQ69G5FAV").await.expect_error(404, "not_found");
    stage.get(&tester, "/v1/audit").await.expect_error(403, "live_key_required");
    let of_domains = async || stage.get(&reader, "/v1/audit?type=domain").await.expect(200)["data"].take();
    assert_eq!(of_domains().await, json!([]));
    stage.post(&own.key, "/v1/domains", domain).await.expect(201);
    assert_eq!(of_domains().await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_change_that_changes_nothing_is_no_entry() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let count = async || {
        let list = stage.get(&own.tenant.key, "/v1/audit?limit=100").await.expect(200);
        list["data"].as_array().unwrap().len()
    };
    let before = count().await;
    stage.patch(&own.tenant.key, &format!("/v1/keys/{}", own.key), json!({})).await.expect(200);
    assert_eq!(count().await, before);
}

#[tokio::test]
async fn a_repeated_request_is_one_entry() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let body = json!({"name": "app", "scopes": ["smtp:send"]});
    let headers = [("Idempotency-Key", "one")];
    for _ in 0..3 {
        let key = Some(own.key.as_str());
        let answer = request_with(stage.address, "POST", "/v1/keys", key, Some(&body), &headers).await;
        assert_eq!(answer.status, 201, "{answer}");
    }
    let list = stage.get(&own.key, "/v1/audit?type=key").await.expect(200);
    assert_eq!(list["data"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list["data"][0]["after"]["secret"], "concealed");
}

#[tokio::test]
async fn the_id_of_an_object_is_as_it_is_stored_however_it_was_typed() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let (kind, id) = own.webhook.split_once('_').unwrap();
    let path = format!("/v1/webhooks/{kind}_{}", id.to_lowercase());
    assert!(!path.contains(&own.webhook), "{path}");
    stage.delete(&own.tenant.key, &path).await.expect(200);
    let path = format!("/v1/audit?object_id={}&operation=delete_webhook", own.webhook);
    let list = stage.get(&own.tenant.key, &path).await.expect(200);
    assert_eq!(list["data"].as_array().unwrap().len(), 1, "{list}");
}

#[tokio::test]
async fn a_tenant_does_not_read_the_reason_of_a_pause_by_the_platform() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let pause = json!({"tenant_id": own.id, "reason": "waits for our lawyer"});
    stage.post(&stage.platform, "/v1/queue/pause", pause).await.expect(200);
    let list = stage.get(&own.key, "/v1/audit?operation=pause_queue").await.expect(200);
    assert_eq!(list["data"][0]["after"]["tenant_id"], json!(own.id), "{list}");
    assert!(!list.to_string().contains("lawyer"), "{list}");
}
