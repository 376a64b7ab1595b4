//! The commands of the command line against a real server.

use pillarbox::mail::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Phase};
use crate::program::{Serving, status_of};
use crate::server::{TestServer, message, one_destination};
use crate::wait::until;

struct Stage {
    dns: FakeDns,
    mx: FakeMx,
    server: TestServer,
}

/// The environment of a user: a URL and a key.
struct Terminal {
    url: String,
    key: String,
}

impl Stage {
    async fn start() -> Self {
        let (dns, mx, server) = one_destination().await;
        Self { dns, mx, server }
    }

    /// The server, by its name in the hosts file of this machine.
    fn platform(&self) -> Terminal {
        let control = &self.server.control;
        Terminal { url: format!("http://localhost:{}", control.address.port()), key: control.secret.clone() }
    }
}

impl Terminal {
    fn environment(&self) -> [(&str, &str); 2] {
        [("PILLARBOX_URL", &self.url), ("PILLARBOX_KEY", &self.key)]
    }

    async fn ends(&self, status: i32, line: &str) -> String {
        let (ended, said) = status_of(&words(line), &self.environment()).await;
        assert_eq!(ended, Some(status), "{line}: {said}");
        said
    }

    async fn ok(&self, line: &str) -> String {
        self.ends(0, line).await
    }

    /// The terminal of somebody with a key of a tenant that may do everything.
    async fn of_tenant(&self, slug: &str) -> Self {
        let made = self.json(&format!("key create --name all --tenant {slug}")).await;
        Self { url: self.url.clone(), key: made["secret"].as_str().unwrap().to_owned() }
    }

    async fn json(&self, line: &str) -> Value {
        let said = self.ok(&format!("{line} --json")).await;
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{line}: {said}"))
    }
}

/// The arguments of a command line.
fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// The last word of the output of a command.
fn last_word(said: &str) -> String {
    said.split_whitespace().last().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_tenant_with_a_domain_and_a_key_is_created_by_names_and_can_send() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    let made = platform.ok("tenant create Acme --external-ref c17 --set rate_limit.emails_per_day=100").await;
    assert!(made.contains("acme") && made.contains("rate_limit.emails_per_day"), "{made}");
    assert!(platform.ok("tenant update acme --set rate_limit.emails_per_day=null").await.contains("c17"));
    let shown = platform.json("tenant show acme").await;
    assert_eq!((&shown["slug"], &shown["rate_limit"]["emails_per_day"]), (&"acme".into(), &Value::Null));

    let made = platform.ok("tenant create Second --domain second.test").await;
    assert!(made.contains("_domainkey.second.test") && !made.contains("domain.name"), "{made}");

    let added = platform.ok("domain add acme.test --tenant acme").await;
    assert!(added.contains("ownership") && added.contains("pending"), "{added}");
    let refused = platform.ends(1, "domain verify acme.test").await;
    assert!(refused.contains("missing") && refused.contains("is pending"), "{refused}");
    for line in platform.ok("domain show acme.test --zone").await.lines() {
        let (name, value) = line.split_once(" 3600 IN TXT ").unwrap_or_else(|| panic!("{line}"));
        let value = value.trim_matches('"').replace("\" \"", "");
        stage.dns.text(name.trim_end_matches('.'), &value);
    }
    assert!(platform.ok("domain verify acme.test").await.ends_with("acme.test is verified\n"));

    let told = platform.ok("key create --name shop --tenant acme --domain acme.test").await;
    let secret = told.split_whitespace().find(|word| word.starts_with("pb_live_")).unwrap();
    let tenant = Terminal { url: platform.url.clone(), key: secret.to_owned() };
    let sent = tenant.ok("message send --from a@acme.test --to bob@b.test --subject Hi --text there").await;
    let id = last_word(&sent);
    stage.server.wait_for_status(&id, &["delivered"]).await;
    assert!(tenant.ok("message list --status delivered --to bob@b.test --since 10m").await.contains(&id));
    until("the message is older than that", async || {
        (!tenant.ok("message list --since 1ms").await.contains(&id)).then_some(())
    })
    .await;
    assert!(tenant.ok(&format!("message show {id}")).await.contains("bob@b.test  delivered  1"));
    let life = tenant.ok(&format!("message timeline {id} --transcript")).await;
    assert!(life.contains("bob@b.test at mx.b.test [") && life.contains("RCPT TO"), "{life}");
    assert!(tenant.ok(&format!("message raw {id}")).await.contains("Subject: Hi"));

    assert_eq!(platform.json("tenant usage acme").await["emails_delivered"], 1);
    let usage = platform.ok("usage --tenant acme --group-by domain").await;
    let of_domain = |line: &str| line.split_whitespace().take(4).eq(["acme", "acme.test", "1", "1"]);
    assert!(usage.lines().any(of_domain), "{usage}");
    assert_eq!(platform.json("usage --group-by key").await["object"], "list");

    let keys = platform.json("key list --tenant acme").await;
    let key_id = keys["data"][0]["id"].as_str().unwrap();
    assert!(platform.ok(&format!("key show {key_id}")).await.contains("shop"));
    let rotated = platform.json(&format!("key rotate {key_id} --expires-in 1h")).await;
    let renewed = Terminal { url: tenant.url.clone(), key: rotated["secret"].as_str().unwrap().to_owned() };
    for terminal in [&tenant, &renewed] {
        terminal.ok("message list").await;
    }
    assert!(platform.ok("key list --tenant acme --status active").await.contains(key_id));
    assert!(!platform.ok("key list --tenant acme --status expired").await.contains(key_id));
    assert!(tenant.ok(&format!("message list --key {key_id} --recipient-domain b.test")).await.contains(&id));
    assert!(!tenant.ok("message list --metadata order=17").await.contains(&id));
    assert!(tenant.ends(2, "message list --metadata order").await.contains("KEY=VALUE"));
    assert!(platform.ok(&format!("key revoke {key_id}")).await.contains("is revoked"));
    assert!(platform.ok("key list --tenant acme").await.contains("revoked"));
    assert!(tenant.ends(1, "message list").await.contains("[revoked_api_key]"));
}

#[tokio::test]
async fn suspend_and_delete_describe_their_effect_and_delete_asks_for_confirmation() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    stage.server.create_account("acme.test").await;
    assert_eq!(platform.ok("tenant suspend acme-test").await, "acme-test is suspended\n");
    assert!(platform.ok("tenant list").await.contains("suspended"));
    assert_eq!(
        platform.ok("tenant archive acme-test --delete-after 2099-01-01").await,
        "acme-test is archived; it may be deleted from 2099-01-01T00:00:00.000000Z on\n"
    );
    assert!(platform.ends(1, "tenant delete acme-test --yes").await.contains("[not_deletable_yet]"));
    let refused = platform.ends(2, "tenant archive acme-test --delete-after soon").await;
    assert!(refused.contains("a day like 2027-01-01, or a time of RFC 3339"), "{refused}");
    assert_eq!(platform.ok("tenant resume acme-test").await, "acme-test is active\n");
    let would = platform.ok("tenant delete acme-test --dry-run").await;
    assert!(
        would.contains("would be deleted with all its data (")
            && would.contains("domains: 1")
            && would.contains("keys: 1"),
        "{would}"
    );
    let asked = platform.ends(2, "tenant delete acme-test").await;
    assert!(asked.contains("--yes") && asked.contains("tenant export acme-test"), "{asked}");
    assert!(platform.ends(2, "domain delete acme.test").await.contains("--yes"));
    assert!(platform.ok("domain list --tenant acme-test").await.contains("acme.test"));
    assert!(platform.ok("domain delete acme.test --yes").await.contains("is deleted"));
    let folder = TempDir::new().unwrap();
    let bundle = folder.path().join("acme.jsonl");
    let delete = format!("tenant delete acme-test --export {} --yes", bundle.display());
    assert!(platform.ok(&delete).await.contains("is deleted"));
    let would = platform.ok(&format!("tenant import {} --dry-run", bundle.display())).await;
    assert!(would.contains("would be created"), "{would}");
    let done = platform.ok(&format!("tenant import {} --slug moved", bundle.display())).await;
    assert!(done.contains(" created"), "{done}");
    assert!(platform.ok("tenant list").await.contains("moved"));
    let again = platform.ok(&format!("tenant import {} --slug other", bundle.display())).await;
    assert!(
        again.contains(": 0 created") && again.contains("already there, and its slug stays moved"),
        "{again}"
    );
    let program = platform.ends(2, &format!("tenant import {}", env!("CARGO_BIN_EXE_pillarbox"))).await;
    assert!(program.contains("pillarbox: this is not a bundle: line 1 is not text; "), "{program}");
    assert!(!program.contains("stream"), "{program}");
    assert!(platform.ok("tenant delete moved --yes").await.contains("is deleted"));
    assert!(platform.ends(1, "tenant show acme-test").await.contains("there is no tenant acme-test"));
    let left = platform.ok("tenant list").await;
    assert!(left.lines().count() == 2 && left.contains("default"), "{left}");
}

#[tokio::test]
async fn the_sandbox_domain_shows_the_records_that_trial_mail_needs_and_none_that_is_required() {
    let stage = Stage::start().await;
    let shown = stage.platform().ok("domain show sandbox.relay.test").await;
    assert!(shown.contains("dkim (optional)") && shown.contains("spf (optional)"), "{shown}");
    assert!(!shown.contains("ownership") && !shown.contains("dmarc"), "{shown}");
    assert!(shown.ends_with("Publish these only so that receivers accept trial mail.\n"), "{shown}");
}

#[tokio::test]
async fn a_recipient_is_exported_and_erased() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    let account = stage.server.create_account("acme.test").await;
    let id = stage.server.submit(&account, &["bob@b.test"], &message(&account, "hello")).await;
    stage.server.wait_for_status(&id, &["delivered"]).await;
    assert!(platform.ok("recipient export bob@b.test --tenant acme-test").await.contains(&id));
    let would = platform.ok("recipient erase bob@b.test --dry-run").await;
    assert!(would.starts_with("bob@b.test would be erased (") && would.contains("deliveries: 1"), "{would}");
    assert!(platform.ends(2, "recipient erase bob@b.test").await.contains("--yes"));
    let done = platform.ok("recipient erase bob@b.test --yes").await;
    assert!(done.starts_with("bob@b.test is erased ("), "{done}");
    assert!(platform.ok("recipient export bob@b.test").await.contains("\"deliveries\": []"));
    assert!(platform.ok("recipient erasures").await.contains("ers_"));
    let lines = platform.ok("recipient erasures --export").await;
    assert!(lines.lines().count() == 1 && lines.contains("\"digest\":") && !lines.contains("bob"), "{lines}");
}

#[tokio::test]
async fn an_address_is_suppressed_checked_and_removed() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    stage.server.create_account("acme.test").await;
    platform.ok("suppression add bob@b.test --tenant acme-test --evidence asked").await;
    let before = Timestamp::now();
    platform.ok("suppression add bob@b.test --reason complaint --expires-in 24h").await;
    let checked = platform.ok("suppression check bob@b.test").await;
    assert!(checked.contains("everybody"), "{checked}");
    let found = platform.json("suppression check bob@b.test").await;
    let end = found.as_array().unwrap().iter().find_map(|one| one["expires_at"].as_str()).unwrap();
    let end: Timestamp = end.parse().unwrap();
    let day = SignedDuration::from_hours(24);
    assert!((before + day..=Timestamp::now() + day).contains(&end), "{end}");
    assert!(platform.ends(1, "suppression remove bob@b.test").await.contains("several suppressions"));
    platform.ok("suppression remove bob@b.test --tenant acme-test").await;
    assert!(platform.ok("suppression list").await.contains("complaint"));
    platform.ok("suppression remove bob@b.test").await;
    assert_eq!(platform.ok("suppression check bob@b.test").await, "bob@b.test is not suppressed\n");
    assert!(platform.ends(1, "suppression remove bob@b.test").await.contains("is not suppressed"));
    platform.ok("suppression add eve@b.test --tenant acme-test --environment test").await;
    for (environment, found) in [("test", true), ("live", false)] {
        let line = format!("suppression list --tenant acme-test --environment {environment}");
        assert_eq!(platform.ok(&line).await.contains("eve@b.test"), found);
    }
    let line = "suppression check eve@b.test --environment live";
    assert_eq!(platform.ok(line).await, "eve@b.test is not suppressed\n");
    platform.ok("suppression remove eve@b.test --environment test").await;
}

#[tokio::test]
async fn a_deferred_message_is_retried_or_cancelled() {
    let stage = Stage::start().await;
    let account = stage.server.create_account("acme.test").await;
    let platform = stage.platform();
    for (verb, result, end) in [("retry", "retried", "delivered"), ("cancel", "cancelled", "cancelled")] {
        stage.mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.7.1 greylisted"));
        let id = stage.server.submit(&account, &["bob@b.test"], &message(&account, verb)).await;
        stage.server.wait_for_status(&id, &["deferred"]).await;
        assert!(platform.ok(&format!("message show {id}")).await.contains("greylisted"));
        let said = platform.ok(&format!("message {verb} {id}")).await;
        assert_eq!(said, format!("bob@b.test: {result}\n"));
        stage.server.wait_for_status(&id, &[end]).await;
        assert!(platform.ends(1, &format!("message {verb} {id}")).await.contains("[message_finished]"));
    }
}

#[tokio::test]
async fn webhooks_and_templates_are_managed_by_commands() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    stage.server.create_account("acme.test").await;
    let made =
        platform.json("webhook create https://hooks.test/a --tenant acme-test --event message.bounced").await;
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"), "{made}");
    let id = made["id"].as_str().unwrap();
    let listed = platform.ok("webhook list --status enabled").await;
    assert!(
        listed.contains(id) && listed.contains("acme-test") && listed.contains("message.bounced"),
        "{listed}"
    );
    assert!(!listed.contains("tnt_"), "{listed}");
    assert!(
        platform
            .ok(&format!("webhook update {id} --all-events --to https://hooks.test/b"))
            .await
            .contains("/b")
    );
    assert_eq!(platform.json(&format!("webhook show {id}")).await["events"], json!([]));
    platform.ends(2, &format!("webhook update {id}")).await;
    let secret = &platform.json(&format!("webhook rotate-secret {id}")).await["secret"];
    assert_ne!(secret, &made["secret"]);
    let tested = platform.ok(&format!("webhook test {id}")).await;
    let delivery =
        tested.split_whitespace().find(|word| word.starts_with("whd_")).unwrap().trim_end_matches(':');
    assert!(platform.ok(&format!("webhook deliveries {id}")).await.contains(delivery));
    assert_eq!(
        platform.ok(&format!("webhook replay {delivery}")).await,
        format!("{delivery} is queued again\n")
    );
    assert_eq!(platform.ok(&format!("webhook disable {id}")).await, format!("{id} is disabled\n"));
    assert!(platform.ends(1, &format!("webhook test {id}")).await.contains("[webhook_disabled]"));
    assert_eq!(platform.ok(&format!("webhook enable {id}")).await, format!("{id} is enabled\n"));
    platform.ends(2, "webhook show ../tenants").await;
    assert!(platform.ends(2, &format!("webhook delete {id}")).await.contains("--yes"));
    platform.ok(&format!("webhook delete {id} --yes")).await;
    assert_eq!(platform.ok("webhook list").await, "nothing found\n");

    let dir = TempDir::new().unwrap();
    let file = dir.path().join("body");
    std::fs::write(&file, "Dear {{ name }},\nhello.\n").unwrap();
    let file = file.display();
    let create = "template create greeting --tenant acme-test --subject Hi";
    platform.ends(1, create).await;
    let shown = platform.ok(&format!("{create} --text-file {file}")).await;
    assert!(shown.contains("acme-test") && shown.contains("\ntext:\nDear {{ name }},\nhello.\n"), "{shown}");
    assert!(platform.ok("template list --tenant acme-test").await.contains("greeting"));
    platform.ok("template update greeting --subject {{name}}").await;
    let rendered = platform.ok("template render greeting --data {\"name\":\"Ann\"}").await;
    assert_eq!(rendered, "subject  Ann\n\ntext:\nDear Ann,\nhello.\n");
    let tenant = platform.of_tenant("acme-test").await;
    let send =
        "message send --from a@acme.test --to bob@b.test --template greeting --data {\"name\":\"Bob\"}";
    let id = last_word(&tenant.ok(send).await);
    assert!(tenant.ok(&format!("message show {id}")).await.contains("subject          Bob"));
    platform.ok("template delete greeting --yes").await;
    assert!(platform.ends(1, "template show greeting").await.contains("there is no template greeting"));
}

#[tokio::test]
async fn what_was_refused_and_what_happened_is_listed_and_dkim_keys_are_replaced() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    stage.server.create_account("acme.test").await;
    let tenant = platform.of_tenant("acme-test").await;
    let refused =
        tenant.ends(1, "message send --from a@foreign.test --to bob@b.test --subject x --text x").await;
    assert!(refused.contains("foreign.test"), "{refused}");
    let listed = until("the refusal is recorded", async || {
        let listed = platform.ok("rejection list --since 1h").await;
        listed.contains("foreign.test").then_some(listed)
    });
    let listed = listed.await;
    assert!(listed.contains("acme-test") && !listed.contains("tnt_"), "{listed}");
    let events = platform.ok("event list --type domain.verified --tenant acme-test").await;
    assert!(events.contains("Z  domain.verified  acme-test  acme.test"), "{events}");
    assert_eq!(platform.json("event list --limit 1").await["data"].as_array().unwrap().len(), 1);
    assert_eq!(platform.ok("ban list").await, "nothing found\n");
    assert!(platform.ends(1, "ban lift 192.0.2.0/24").await.contains("[not_found]"));

    let keys = platform.json("domain dkim acme.test").await;
    assert_eq!(keys["data"][0]["state"], "active", "{keys}");
    let zone = platform.ok("domain rotate-dkim acme.test --algorithm rsa-sha256 --zone").await;
    assert!(zone.contains("._domainkey.acme.test. 3600 IN TXT \"v=DKIM1;"), "{zone}");
    assert!(platform.ok("domain rotate-dkim acme.test").await.contains("domain verify acme.test"));
    assert!(platform.ok("domain dkim acme.test").await.contains("pending"));
}

#[tokio::test]
async fn all_mail_is_paused_and_resumed_and_the_queue_names_its_tenants() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    let account = stage.server.create_account("acme.test").await;
    assert!(platform.ends(2, "queue pause").await.contains("--all"));
    assert!(platform.ends(2, "queue resume").await.contains("--all"));
    platform.ends(2, "queue pause --all --tenant acme-test").await;
    let paused = platform.ok("queue pause --all --reason repairs").await;
    assert_eq!(paused, "paused: all mail, until resumed: repairs\n");
    platform.ok("queue pause --tenant acme-test --for 1h").await;
    let id = stage.server.submit(&account, &["bob@b.test"], &message(&account, "x")).await;
    let queue = until("it is counted", async || {
        let queue = platform.ok("queue").await;
        queue.contains("1 delivery waits: 0 in flight, 0 due, 0 deferred, 1 paused").then_some(queue)
    });
    let queue = queue.await;
    assert!(
        queue.contains("paused: mail of acme-test, until ") && queue.contains("paused (repairs)"),
        "{queue}"
    );
    assert!(queue.contains("paused: all mail, until resumed: repairs") && !queue.contains("tnt_"), "{queue}");
    let resumed = platform.ok("queue resume --all").await;
    assert_eq!(resumed, "resumed: all mail; 1 other pause stays: see `pillarbox queue`\n");
    assert_eq!(platform.ok("queue resume --tenant acme-test").await, "resumed: mail of acme-test\n");
    stage.server.wait_for_status(&id, &["delivered"]).await;
}

#[tokio::test]
async fn a_list_continues_after_the_cursor_of_the_page_before() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    for number in 1..=3 {
        platform.ok(&format!("tenant create T{number}")).await;
    }
    let first = platform.json("tenant list --limit 2").await;
    assert_eq!((first["data"].as_array().unwrap().len(), &first["has_more"]), (2, &true.into()));
    let said = platform.ok("tenant list --limit 2").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    assert!(said.contains(cursor) && !said.contains("t1"), "{said}");
    let rest = platform.ok(&format!("tenant list --after {cursor}")).await;
    assert!(rest.contains("t1") && !rest.contains("t2"), "{rest}");
}

#[tokio::test]
async fn the_audit_log_shows_the_changes_with_a_key() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    platform.ok("tenant create Acme").await;
    let made = platform.json("key create --name shop --tenant acme").await;
    let tenant = Terminal { url: platform.url.clone(), key: made["secret"].as_str().unwrap().to_owned() };
    tenant.ok("domain add acme.test").await;
    let of_key = platform.ok(&format!("audit list --key {}", made["id"].as_str().unwrap())).await;
    assert!(of_key.contains("create_domain") && !of_key.contains("create_tenant"), "{of_key}");
    assert!(platform.ok("audit list").await.contains("create_tenant"));
}

#[tokio::test]
async fn the_exit_status_tells_a_refusal_from_an_unreached_server() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    let refused = platform.ends(1, "tenant create x --slug A!").await;
    assert!(refused.contains("[validation_failed]") && refused.contains("slug: a slug has"), "{refused}");
    platform.ends(2, "tenant").await;
    for elsewhere in [
        "key show tnt_1",
        "tenant show tnt_x/../../keys",
        "domain show dom_x/../../keys",
        "template show tpl_x/../../keys",
        "inbox remove inb_x/../../keys/key_x",
        "suppression remove sup_x?y",
        "audit show ../keys",
        "ban lift ../keys/key_x",
    ] {
        let refused = platform.ends(2, elsewhere).await;
        assert!(refused.contains("the id of"), "{elsewhere}: {refused}");
    }
    platform.ends(2, "tenant update x").await;
    let nobody = Terminal { url: "http://nobody.invalid".into(), ..stage.platform() };
    let told = nobody.ends(2, "tenant list").await;
    assert!(told.contains("cannot look up nobody.invalid") && told.contains("without encryption"), "{told}");
    assert!(!platform.ok("tenant list").await.contains("without encryption"));
    let wrong = Terminal { key: "pb_live_wrong".into(), ..stage.platform() };
    assert!(wrong.ends(1, "tail").await.contains("[invalid_api_key]"));
    let none = Terminal { key: String::new(), ..stage.platform() };
    assert!(none.ends(2, "key list").await.contains("key create --local"));
}

#[tokio::test]
async fn a_key_is_created_listed_and_revoked_in_the_data_directory_without_a_server() {
    let data = TempDir::new().unwrap();
    let terminal = Terminal { url: "http://127.0.0.1:9".into(), key: "none".into() };
    let place = format!("--data-dir {}", data.path().display());
    let made = terminal.ok(&format!("key create --init --name first {place}")).await;
    assert!(made.contains("pb_live_"), "{made}");
    let second = terminal.json(&format!("key create --name second {place}")).await;
    assert_eq!((&second["name"], &second["tenant_id"]), (&json!("second"), &Value::Null));
    assert!(second["secret"].as_str().unwrap().starts_with("pb_live_"), "{second}");
    let newest = terminal.json(&format!("key list --limit 1 {place}")).await;
    assert_eq!((&newest["data"][0]["id"], &newest["has_more"]), (&second["id"], &json!(true)));
    let cursor = newest["next_cursor"].as_str().unwrap();
    let listed = terminal.ok(&format!("key list --after {cursor} {place}")).await;
    assert!(!listed.contains("second"), "{listed}");
    let id = listed.split_whitespace().find(|word| word.starts_with("key_")).unwrap();
    assert!(listed.contains("platform") && listed.contains("active"), "{listed}");
    terminal.ok(&format!("key revoke {id} {place}")).await;
    assert!(terminal.ok(&format!("key list {place}")).await.contains("revoked"));
    let revoked = terminal.json(&format!("key revoke {id} {place}")).await;
    assert!(revoked["revoked_at"].is_string(), "{revoked}");
    let unknown = format!("key revoke key_00000000000000000000000000 {place}");
    assert!(terminal.ends(1, &unknown).await.contains("there is no key"));
    terminal.ends(2, &format!("key list --url http://127.0.0.1:9 {place}")).await;
    assert!(
        terminal
            .ends(1, &format!("key create --name x --scope smtp:send {place}"))
            .await
            .contains("--tenant")
    );
}

#[tokio::test]
async fn a_password_is_read_from_a_file_and_a_key_of_a_tenant_cannot_look_up_slugs() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let login = format!("--set smtp.host=a.test --set smtp.user=u --set smtp.pass=@{}", file.display());
    assert_eq!(platform.json(&format!("tenant create Acme {login}")).await["smtp"]["user"], "u");
    let missing = platform.ends(2, "tenant update acme --set smtp.pass=@/nonexistent").await;
    assert!(
        missing.contains("--set smtp.pass=@/nonexistent") && missing.contains("No such file"),
        "{missing}"
    );

    let made = platform.json("key create --name reader --tenant acme --scope emails:read").await;
    let tenant = Terminal { url: platform.url.clone(), key: made["secret"].as_str().unwrap().to_owned() };
    let refused = tenant.ends(1, "message list --tenant acme").await;
    assert!(
        refused.contains("leave the tenant out") && refused.contains("[insufficient_scope]"),
        "{refused}"
    );
    let id = made["tenant_id"].as_str().unwrap();
    assert!(tenant.ok(&format!("message list --tenant {id}")).await.contains("nothing found"));
    assert!(platform.ends(1, "message list --tenant nobody").await.contains("there is no tenant nobody"));
    let made = platform.json("key create --name all --tenant acme").await;
    let tenant = Terminal { url: platform.url.clone(), key: made["secret"].as_str().unwrap().to_owned() };
    platform.ok("tenant create Other").await;
    assert!(tenant.ok("message list --tenant acme").await.contains("nothing found"));
    assert!(tenant.ends(1, "message list --tenant other").await.contains("there is no tenant other"));
}

#[tokio::test]
async fn tail_shows_events_as_they_happen_and_continues_after_a_restart() {
    let mut stage = Stage::start().await;
    // The server must use the same port after a restart.
    stage.server.config.api.listen = vec![stage.server.control.address];
    let account = stage.server.create_account("acme.test").await;
    let platform = stage.platform();
    let events = stage.server.control.get("/v1/events?limit=1").await;
    let after = events["data"][0]["id"].as_str().unwrap();
    let people = format!("tail --after {after}");
    let mut people = Serving::start_with(&words(&people), &platform.environment());
    let programs =
        format!("tail --json --type message.delivered --tenant acme-test --count 2 --after {after}");
    let mut programs = Serving::start_with(&words(&programs), &platform.environment());
    for recipient in ["bob@b.test", "carol@b.test"] {
        let id = stage.server.submit(&account, &[recipient], &message(&account, "x")).await;
        people.wait_for_line(&format!("message.delivered     {recipient}  {id}")).await;
        let told = programs.wait_for_line("message.delivered").await;
        let event: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(event["recipient"], recipient, "{told}");
        if recipient == "bob@b.test" {
            stage.server.stop().await;
            people.wait_for_line("the server is stopping; connect again; reconnecting").await;
            people.wait_for_line("trying again").await;
            stage.server.restart(|_| ()).await;
        }
    }
    programs.wait_for_end().await;
    assert_eq!(people.said.matches("message.delivered").count(), 2, "{}", people.said);
}

#[tokio::test]
async fn an_inbox_is_added_confirmed_listed_and_removed_by_its_address() {
    let stage = Stage::start().await;
    let platform = stage.platform();
    assert!(platform.ok("inbox add bob@b.test").await.contains("pending"));
    let mail = String::from_utf8(stage.mx.wait_for(1).await.remove(0).content).unwrap();
    let command = mail.lines().find_map(|line| line.strip_prefix("For example: pillarbox ")).unwrap();
    assert!(platform.ends(1, "inbox confirm bob@b.test 0000").await.contains("4 attempts are left"));
    assert_eq!(platform.ok(command).await, "bob@b.test is confirmed\n");
    assert!(platform.ok("inbox list").await.contains("confirmed"));
    assert_eq!(platform.ok("inbox remove bob@b.test").await, "bob@b.test is removed\n");
    assert!(platform.ends(1, "inbox remove bob@b.test").await.contains("there is no inbox bob@b.test"));
}
