//! A tenant as a bundle: export, and import elsewhere.

use data_encoding::HEXLOWER;
use pillarbox::model::Scope;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api_objects::Belongings;
use crate::api_stage::ApiStage;
use crate::http::Answer;

/// The objects of a tenant, without the first and last line, whose digest is checked.
async fn export(stage: &ApiStage, tenant: &str) -> Vec<Value> {
    let path = if tenant.contains('/') { tenant.to_owned() } else { format!("{tenant}/export") };
    let answer = stage.get(&stage.platform, &format!("/v1/tenants/{path}")).await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let text = unchunked(&answer.body);
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = lines.pop().unwrap();
    let before = text.lines().count() - 1;
    let signed: String = text.lines().take(before).map(|line| format!("{line}\n")).collect();
    assert_eq!((&end["object"], &end["sha256"]), (&json!("end"), &json!(sha256(&signed))), "{end}");
    assert_eq!(lines.remove(0)["object"], "bundle");
    lines
}

/// The content of a response in chunks (RFC 9112 §7.1).
fn unchunked(body: &[u8]) -> String {
    let (mut content, mut rest) = (Vec::new(), body);
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let octets = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        content.extend_from_slice(&rest[end + 2..][..octets]);
        rest = &rest[end + 2 + octets + 2..];
        if octets == 0 {
            return String::from_utf8(content).unwrap();
        }
    }
}

fn sha256(text: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(text))
}

pub fn body_of(objects: &[Value]) -> Value {
    let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
    json!({"objects": objects, "sha256": sha256(&lines)})
}

async fn import(stage: &ApiStage, query: &str, body: Value) -> Answer {
    stage.post(&stage.platform, &format!("/v1/tenants/import{query}"), body).await
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["object"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// Without what an import changes on purpose.
fn comparable(objects: &[Value]) -> Vec<Value> {
    let kept = objects.iter().filter(|object| object["object"] != "dkim_key").cloned();
    kept.map(|mut object| {
        for field in ["status", "verification", "verified_at", "secret", "updated_at"] {
            object.as_object_mut().unwrap().remove(field);
        }
        object
    })
    .collect()
}

#[tokio::test]
async fn an_imported_tenant_exports_the_same_bundle_but_for_marked_fields() {
    let (from, to) = (ApiStage::start().await, ApiStage::start().await);
    let own = Belongings::make(&from, "own").await;
    let id = own.tenant.id.to_string();
    let objects = export(&from, &id).await;
    for kind in ["tenant", "domain", "dkim_key", "key", "suppression", "template", "webhook", "inbox"] {
        of_kind(&objects, kind);
    }
    assert_eq!(of_kind(&objects, "dkim_key")["private_key"], json!({"excluded": true}));
    assert_eq!(of_kind(&objects, "webhook")["secret"], json!({"excluded": true}));

    let would = import(&to, "?dry_run=true", body_of(&objects)).await.expect(200);
    assert_eq!((&would["conflicts"], &would["dry_run"]), (&json!([]), &json!(true)), "{would}");
    to.get(&to.platform, &format!("/v1/tenants/{id}")).await.expect_error(404, "not_found");
    let done = import(&to, "", body_of(&objects)).await.expect(200);
    assert_eq!((&done["created"], &done["excluded"]), (&would["created"], &would["excluded"]), "{done}");
    let again = export(&to, &id).await;
    assert_eq!(comparable(&again), comparable(&objects));
    assert_eq!(of_kind(&again, "domain")["status"], "pending");
    assert_eq!(of_kind(&again, "webhook")["status"], "disabled");

    let mut renamed = body_of(&objects);
    renamed["slug"] = json!("other");
    let repeated = import(&to, "", renamed).await.expect(200);
    assert_eq!((&repeated["created"], &repeated["slug"]), (&json!(0), &json!("own")), "{repeated}");
    assert_eq!((&would["slug"], &done["slug"]), (&json!("own"), &json!("own")));
    assert_eq!(export(&to, &id).await, again);
    // The key that its holder has works here.
    let tenant = to.get(&own.tenant.key, &format!("/v1/tenants/{id}")).await.expect(200);
    assert_eq!(tenant["slug"], "own");
    let events = to.get(&to.platform, "/v1/events?type=tenant.created").await.expect(200);
    assert!(events.to_string().contains(&id), "{events}");
}

#[tokio::test]
async fn messages_are_exported_on_request_with_all_that_belongs_to_them_and_open_ones_are_left_out() {
    let (stage, to) = (ApiStage::start().await, ApiStage::start().await);
    let own = Belongings::make(&stage, "own").await;
    let id = own.tenant.id.to_string();
    assert!(export(&stage, &id).await.iter().all(|object| object["object"] != "message"));
    let objects = export(&stage, &format!("{id}/export?messages=true")).await;
    let message = of_kind(&objects, "message");
    assert_eq!((&message["id"], &message["deliveries"][0]["status"]), (&json!(own.email), &json!("queued")));
    assert_eq!(message["events"][0]["type"], "message.accepted", "{message}");
    assert!(message["content"].as_str().is_some_and(|content| !content.is_empty()), "{message}");
    let would = import(&to, "?dry_run=true", body_of(&objects)).await.expect(200);
    assert_eq!((&would["conflicts"], &would["left_open"]), (&json!([]), &json!(1)), "{would}");
    let mut body = body_of(&objects);
    body["open"] = json!(true);
    let refused = import(&to, "", body).await.expect_error(409, "import_conflict");
    assert!(refused.to_string().contains("suspend it on the other server"), "{refused}");
}

#[tokio::test]
async fn a_message_that_could_not_be_read_or_belongs_to_another_tenant_is_refused() {
    let (from, to) = (ApiStage::start().await, ApiStage::start().await);
    let own = Belongings::make(&from, "own").await;
    let objects = export(&from, &format!("{}/export?messages=true", own.tenant.id)).await;
    let place = objects.iter().position(|object| object["object"] == "message").unwrap();
    let of_future = |id: &Value| {
        format!("{}_7ZZZZZZZZZZZZZZZZZZZZZZZZZ", id.as_str().unwrap().split('_').next().unwrap())
    };
    let (message, event) = (&objects[place], &objects[place]["events"][0]);
    let lower = |id: &Value| json!(id.as_str().unwrap().to_lowercase());
    let attempt =
        json!({"id": "att_01KBX3M5V9Q7R2T4W6Y8Z0A1B2", "transcript_of": "att_01KBX3M5V9Q7R2T4W6Y8Z0A1B3"});
    for (pointer, value) in [
        ("/id", lower(&message["id"])),
        ("/id", json!(of_future(&message["id"]))),
        ("/deliveries/0/id", lower(&message["deliveries"][0]["id"])),
        ("/attempts", json!([attempt])),
        ("/kind", json!("confirmation")),
        ("/from", json!("not an address")),
        ("/tags", json!([1])),
        ("/deliveries", json!({})),
        ("/deliveries", json!([1])),
        ("/deliveries/0/status", json!("lost")),
        ("/deliveries/0/recipient", json!("nobody")),
        ("/deliveries/0/id", json!(objects[place]["id"])),
        ("/events/0/type", json!("tenant.created")),
        ("/events/0/id", json!(of_future(&event["id"]))),
        ("/events/0/delivery_id", json!("dlv_01KBX3M5V9Q7R2T4W6Y8Z0A1B2")),
        ("/content", json!("?")),
        ("/content_prefix_octets", json!(1_000_000)),
    ] {
        let mut wrong = objects.clone();
        *wrong[place].pointer_mut(pointer).unwrap() = value;
        let would = import(&to, "?dry_run=true", body_of(&wrong)).await.expect(200);
        let conflicts = would["conflicts"].as_array().unwrap();
        assert_eq!(conflicts.len(), 1, "{pointer}: {would}");
        assert_eq!(conflicts[0]["object"], "message", "{pointer}: {would}");
    }
    let other = from.tenant("other").await;
    let objects_of_other = export(&from, &other.id.to_string()).await;
    let stolen = [&objects_of_other[..1], &objects[place..=place]].concat();
    let refused = import(&from, "", body_of(&stolen)).await.expect_error(409, "import_conflict");
    assert!(refused.to_string().contains("belongs to something else"), "{refused}");
}

/// Otherwise the objects would reach the other tenant, because they name it by its id.
#[tokio::test]
async fn the_id_of_another_tenant_in_other_letters_is_refused() {
    let (from, to) = (ApiStage::start().await, ApiStage::start().await);
    let own = Belongings::make(&from, "own").await;
    let other = to.tenant("other").await;
    let mut forged = export(&from, &own.tenant.id.to_string()).await;
    forged[0]["id"] = json!(other.id.to_string().to_lowercase());
    let refused = import(&to, "", body_of(&forged)).await.expect_error(409, "import_conflict");
    assert_eq!(refused["errors"][0]["path"], "objects[0]", "{refused}");
}

#[tokio::test]
async fn a_conflict_is_named_and_nothing_is_imported() {
    let (from, to) = (ApiStage::start().await, ApiStage::start().await);
    let own = Belongings::make(&from, "own").await;
    let other = to.tenant("other").await;
    to.add_domain(other.id, "own.example").await;
    let objects = export(&from, &own.tenant.id.to_string()).await;
    let would = import(&to, "?dry_run=true", body_of(&objects)).await.expect(200);
    let conflicts = would["conflicts"].as_array().unwrap();
    assert_eq!(conflicts.len(), 1, "{would}");
    assert_eq!(conflicts[0]["reason"], "another tenant has verified this domain");
    let refused = import(&to, "", body_of(&objects)).await.expect_error(409, "import_conflict");
    assert!(refused["errors"][0]["path"].as_str().unwrap().starts_with("objects["), "{refused}");
    to.get(&to.platform, &format!("/v1/tenants/{}", own.tenant.id)).await.expect_error(404, "not_found");

    let mut twin = objects.clone();
    twin[0]["slug"] = json!("other");
    twin.retain(|object| object["object"] != "domain" && object["object"] != "dkim_key");
    import(&to, "", body_of(&twin)).await.expect_error(409, "import_conflict");
    let mut body = body_of(&twin);
    body["slug"] = json!("third");
    import(&to, "", body).await.expect(200);
    let tenant = to.get(&to.platform, &format!("/v1/tenants/{}", own.tenant.id)).await.expect(200);
    assert_eq!(tenant["slug"], "third");
}

#[tokio::test]
async fn what_is_changed_or_unreadable_is_refused() {
    let (from, to) = (ApiStage::start().await, ApiStage::start().await);
    let own = Belongings::make(&from, "own").await;
    let objects = export(&from, &own.tenant.id.to_string()).await;
    let mut changed = body_of(&objects);
    changed["objects"][0]["name"] = json!("Other");
    let refused = import(&to, "", changed).await.expect_error(422, "validation_failed");
    assert_eq!(refused["errors"][0]["path"], "sha256");
    for (kind, field, value) in [
        ("tenant", "status", json!("gone")),
        ("tenant", "settings", json!({"unknown": true})),
        ("key", "digest", json!("xyz")),
        ("key", "digest", json!("00ff")),
        ("key", "scopes", json!(["everything"])),
        ("domain", "name", json!("not a domain")),
        ("suppression", "reason", json!("dislike")),
        ("webhook", "kinds", json!(["message.imagined"])),
        ("template", "name", Value::Null),
    ] {
        let mut wrong = objects.clone();
        wrong.iter_mut().find(|object| object["object"] == kind).unwrap()[field] = value;
        let would = import(&to, "?dry_run=true", body_of(&wrong)).await.expect(200);
        assert_eq!(would["conflicts"].as_array().map(Vec::len), Some(1), "{kind} {field}: {would}");
    }
    let without_tenant = import(&to, "?dry_run=true", body_of(&objects[1..])).await.expect(200);
    assert!(!without_tenant["conflicts"].as_array().unwrap().is_empty(), "{without_tenant}");
}

#[tokio::test]
async fn objects_beyond_the_limits_of_their_operations_are_refused() {
    let (from, to) = (ApiStage::start().await, ApiStage::start().await);
    let own = Belongings::make(&from, "own").await;
    let objects = export(&from, &own.tenant.id.to_string()).await;
    for (kind, field, value) in [
        ("tenant", "name", json!("n".repeat(201))),
        ("tenant", "external_ref", json!("e".repeat(256))),
        ("tenant", "source_pool", json!("elsewhere")),
        ("tenant", "retention_days", json!(0)),
        ("dkim_key", "selector", json!("pb1; t=y")),
        ("key", "name", json!("two\nlines")),
        ("key", "allowed_cidrs", json!(vec!["192.0.2.0/24"; 101])),
        ("template", "name", json!("")),
        ("template", "subject", json!("{% if %}")),
        ("template", "html", json!("h".repeat(256 * 1024 + 1))),
        ("webhook", "url", json!("https://user:secret@hooks.example/")),
        ("domain", "name", json!(format!("{}.example", ["d".repeat(60).as_str(); 4].join(".")))),
    ] {
        let mut wrong = objects.clone();
        let place = wrong.iter().position(|object| object["object"] == kind).unwrap();
        wrong[place][field] = value;
        let refused =
            import(&to, "?dry_run=true", body_of(&wrong)).await.expect_error(422, "validation_failed");
        assert_eq!(refused["errors"][0]["path"], format!("objects[{place}].{field}"), "{refused}");
    }
    let mut body = body_of(&objects);
    body["objects"][0]["source_pool"] = json!("bulk");
    let objects: Vec<Value> = body["objects"].as_array().unwrap().clone();
    import(&to, "", body_of(&objects)).await.expect(200);
}

#[tokio::test]
async fn a_domain_that_is_imported_as_verified_is_taken_for_other_tenants() {
    let (from, to) = (ApiStage::start().await, ApiStage::start().await);
    let acme = from.tenant("acme").await;
    from.add_domain(acme.id, "acme.example").await;
    let other = to.tenant("other").await;
    let claim = json!({"name": "acme.example", "tenant_id": other.id});
    let claim = to.post(&to.platform, "/v1/domains", claim).await.expect(201);
    let path = format!("/v1/domains/{}", claim["id"].as_str().unwrap());
    let mut body = body_of(&export(&from, &acme.id.to_string()).await);
    body["trust_domains"] = json!(true);
    import(&to, "?dry_run=true", body.clone()).await.expect(200);
    assert_eq!(to.get(&to.platform, &path).await.expect(200)["status"], "pending");
    import(&to, "", body).await.expect(200);
    assert_eq!(to.get(&to.platform, &path).await.expect(200)["status"], "taken");
    let events = to.get(&to.platform, "/v1/events?type=domain.taken").await.expect(200);
    assert_eq!(events["data"].as_array().map(Vec::len), Some(1), "{events}");
}

#[tokio::test]
async fn verified_domains_stay_verified_only_on_request() {
    let (from, to) = (ApiStage::start().await, ApiStage::start().await);
    let acme = from.tenant("acme").await;
    from.add_domain(acme.id, "acme.example").await;
    let key = from.key(acme.id, &[Scope::EmailsSend], |_| {}).await;
    let objects = export(&from, &acme.id.to_string()).await;
    let mut body = body_of(&objects);
    body["trust_domains"] = json!(true);
    import(&to, "", body).await.expect(200);
    let domains = to.get(&to.platform, &format!("/v1/domains?tenant_id={}", acme.id)).await.expect(200);
    assert_eq!(domains["data"][0]["status"], "verified", "{domains}");
    let email = json!({"from": "a@acme.example", "to": ["b@x.example"], "subject": "s", "text": "t"});
    to.post(&key, "/v1/emails", email).await.expect(202);
    let to = ApiStage::start().await;
    import(&to, "", body_of(&objects)).await.expect(200);
    let domains = to.get(&to.platform, &format!("/v1/domains?tenant_id={}", acme.id)).await.expect(200);
    let domain = &domains["data"][0];
    assert_eq!((&domain["status"], &domain["verification"]), (&json!("pending"), &json!("dns")), "{domain}");
}

#[tokio::test]
async fn an_import_keeps_the_limits_of_a_tenant_and_gives_an_active_one_no_date_of_deletion() {
    let (from, to) = (ApiStage::start().await, ApiStage::start().await);
    let own = Belongings::make(&from, "own").await;
    let mut objects = export(&from, &own.tenant.id.to_string()).await;
    objects[0]["deletable_at"] = json!("2999-01-01T00:00:00Z");
    import(&to, "", body_of(&objects)).await.expect(200);
    let path = format!("/v1/tenants/{}", own.tenant.id);
    let tenant = to.get(&to.platform, &path).await.expect(200);
    assert_eq!((&tenant["status"], &tenant["deletable_at"]), (&json!("active"), &Value::Null), "{tenant}");

    let inbox = of_kind(&objects, "inbox").clone();
    let id = inbox["id"].as_str().unwrap();
    let more = (0..6).map(|number| {
        let mut inbox = inbox.clone();
        inbox["id"] = json!(format!("{}{number}", &id[..id.len() - 1]));
        inbox["address"] = json!(format!("i{number}@x.example"));
        inbox["folded"] = inbox["address"].clone();
        inbox
    });
    let many: Vec<Value> = objects[..1].iter().cloned().chain(more).collect();
    let would = import(&to, "?dry_run=true", body_of(&many)).await.expect(200);
    let conflicts = would["conflicts"].as_array().unwrap();
    let is_limit = |conflict: &Value| conflict["reason"] == "the tenant has the maximum number of inboxes";
    assert!(conflicts.iter().any(is_limit), "{would}");
}
