//! Certificates by ACME: the server with an authority that looks at its answers.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pillarbox::acme::certificate_file;
use pillarbox::config::{self, AcmeChallenge};
use pillarbox::mail::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use crate::client::Client;
use crate::fake_ca::{FakeCa, quiet_port};
use crate::fake_dns::FakeDns;
use crate::http::read_answer;
use crate::identity::trust_pem;
use crate::program;
use crate::server::{HOSTNAME, TestServer, database_file};
use crate::wait::{PATIENCE, until};

/// Longer than the first look of a server waits.
const START: Duration = Duration::from_secs(11);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct Stage {
    dns: FakeDns,
    ca: FakeCa,
    server: TestServer,
}

impl Stage {
    async fn start() -> Self {
        Self::with(|_, _| ()).await
    }

    /// A server that has no certificate yet.
    async fn with(change: impl FnOnce(&FakeCa, &mut config::Acme)) -> Self {
        let dns = FakeDns::start().await;
        let ca = FakeCa::start(&dns).await;
        let mut settings = ca.settings();
        change(&ca, &mut settings);
        let server = TestServer::start_with(&dns, 1, |config| config.acme = settings).await;
        ca.set(|behaviour| behaviour.clock = server.clock.clone());
        Self { dns, ca, server }
    }

    /// A server with its first certificate.
    async fn certified() -> Self {
        let stage = Self::start().await;
        stage.server.clock.advance(START);
        stage.expect_issued(1).await;
        stage
    }

    async fn view(&self) -> Value {
        self.server.control.get("/v1/certificate").await
    }

    /// Waits until no order runs and the view is so.
    async fn expect(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        until(what, async || {
            let view = self.view().await;
            (view["acme"]["running"] == false && is_so(&view)).then_some(view)
        })
        .await
    }

    /// Waits until the last of so many certificates is in use.
    async fn expect_issued(&self, count: usize) -> Value {
        let what = format!("{count} certificates were issued");
        self.expect(&what, |view| {
            self.ca.issued() == count && view["source"] == "acme" && view["acme"]["error"].is_null()
        })
        .await
    }

    async fn expect_failure(&self, part: &str) -> Value {
        self.expect(&format!("an order fails: {part}"), |view| {
            view["acme"]["error"].as_str().is_some_and(|error| error.contains(part))
        })
        .await
    }

    async fn renew(&self) {
        self.server.control.ok("POST", "/v1/certificate/renew", Value::Null).await;
    }

    fn trust(&self) -> Arc<ClientConfig> {
        trust_pem(&self.ca.root_pem)
    }

    /// Whether a listener shows a certificate of the authority.
    async fn shows_issued(&self) -> bool {
        let mut client = Client::connect(self.server.submission(), HOSTNAME).await;
        client.ehlo().await;
        client.try_starttls(self.trust()).await.is_some()
    }

    fn file(&self) -> PathBuf {
        certificate_file(&self.server.config.data_dir)
    }

    async fn events(&self, kind: &str) -> Vec<Value> {
        let list = self.server.control.get(&format!("/v1/events?type={kind}")).await;
        list["data"].as_array().unwrap().clone()
    }

    async fn finding(&self, check: &str) -> Value {
        let found = self.server.control.get("/v1/doctor?refresh=true").await;
        found["findings"].as_array().unwrap().iter().find(|one| one["id"] == check).unwrap().clone()
    }
}

fn time(view: &Value) -> Timestamp {
    view.as_str().unwrap_or_else(|| panic!("no time: {view}")).parse().unwrap()
}

/// Hours from now on the clock of the server until a time.
fn hours_until(stage: &Stage, view: &Value) -> f64 {
    time(view).duration_since(stage.server.clock.now()).as_secs_f64() / 3600.0
}

#[tokio::test]
async fn the_first_certificate_comes_by_http_01_and_the_listeners_use_it() {
    let stage = Stage::start().await;
    let own = trust_pem(&stage.server.certificate_pem());
    let mut early = Client::connect(stage.server.submission(), HOSTNAME).await;
    early.ehlo().await;
    let mut early = early.starttls(own).await;
    let before = stage.view().await;
    assert_eq!((&before["source"], &before["acme"]["account"]), (&json!("self_signed"), &Value::Null));
    assert!(!stage.shows_issued().await);

    stage.server.clock.advance(START);
    let view = stage.expect_issued(1).await;
    assert!(stage.shows_issued().await);
    Client::connect_implicit(stage.server.submissions(), HOSTNAME, stage.trust()).await;
    early.command("NOOP").await.expect_code(250);
    let acme = &view["acme"];
    assert_eq!((&acme["challenge"], &acme["names"]), (&json!("http-01"), &json!([HOSTNAME])));
    assert!((hours_until(&stage, &view["expires_at"]) - 90.0 * 24.0).abs() < 1.0, "{view}");
    let audited = stage.server.control.get("/v1/audit?operation=renew_certificate").await;
    assert_eq!(audited["data"], json!([]), "nobody asked for it");
    let event = &stage.events("certificate.renewed").await[0];
    assert_eq!(event["data"]["expires_at"], view["expires_at"], "{event}");
    assert_eq!(stage.finding("acme.order").await["status"], "ok");
    assert_eq!(stage.finding("acme.port80").await["status"], "ok");
    assert_eq!(stage.finding("tls.name").await["status"], "ok");

    let http = stage.server.config.acme.http_listen[0];
    assert!(TcpStream::connect(http).await.is_err(), "the listener for http-01 is closed after the order");
}

#[tokio::test]
async fn keys_and_certificate_are_one_file_for_its_owner_only_and_the_account_is_encrypted() {
    let stage = Stage::certified().await;
    let directory = stage.file().parent().unwrap().to_owned();
    let files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files, [stage.file()]);
    assert_eq!(std::fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let pem = std::fs::read_to_string(&files[0]).unwrap();
    assert_eq!(pem.matches("PRIVATE KEY-----\n").count(), 2, "one key");
    assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 2, "the chain");

    let database = rusqlite::Connection::open(database_file(&stage.server.config.data_dir)).unwrap();
    let row = database.query_row("SELECT account_url, credentials FROM acme_account", [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))
    });
    let (url, credentials) = row.unwrap();
    assert_eq!(stage.view().await["acme"]["account"], url);
    let text = String::from_utf8_lossy(&credentials);
    assert!(!text.contains("key_pkcs8") && !text.contains("MIG"), "{text}");
}

#[tokio::test]
async fn the_record_for_dns_persist_is_used_when_it_is_there_and_else_http() {
    let stage = Stage::with(|ca, _| {
        ca.set(|behaviour| behaviour.challenges = vec!["dns-01", "dns-persist-01", "http-01"]);
    })
    .await;
    stage.server.clock.advance(START);
    let view = stage.expect_issued(1).await;
    assert_eq!(view["acme"]["challenge"], "http-01");
    let record = &view["acme"]["records"][0];
    let (name, value) = (record["name"].as_str().unwrap(), record["value"].as_str().unwrap());
    assert_eq!(name, format!("_validation-persist.{HOSTNAME}"));
    assert_eq!(stage.finding("acme.record").await["status"], "skipped", "http-01 is enough");

    // The record of another account.
    stage.dns.text(name, &format!("{value}9"));
    stage.renew().await;
    assert_eq!(stage.expect_issued(2).await["acme"]["challenge"], "http-01");

    stage.dns.texts(name, &["v=spf1 -all", value]);
    stage.renew().await;
    assert_eq!(stage.expect_issued(3).await["acme"]["challenge"], "dns-persist-01");
    let audited = stage.server.control.get("/v1/audit?operation=renew_certificate").await;
    assert_eq!(audited["data"].as_array().unwrap().len(), 2, "{audited}");
}

#[tokio::test]
async fn without_its_record_dns_persist_asks_for_nothing_and_says_what_to_publish() {
    let stage = Stage::with(|ca, settings| {
        ca.set(|behaviour| behaviour.challenges = vec!["dns-persist-01", "http-01"]);
        settings.challenge = AcmeChallenge::DnsPersist;
    })
    .await;
    stage.server.clock.advance(START);
    let view = stage.expect_failure("has no TXT record").await;
    assert_eq!(stage.ca.asked("/challenge/"), 0, "a challenge that must fail is not begun");
    let record = &view["acme"]["records"][0];
    let finding = stage.finding("acme.record").await;
    assert_eq!((&finding["status"], &finding["fix"]["record"]["name"]), (&json!("error"), &record["name"]));
    assert_eq!(finding["fix"]["record"]["value"], record["value"]);
    assert_eq!(stage.finding("tls.chain").await["fix"]["command"], "pillarbox certificate renew");

    let url = format!("http://{}", stage.server.control.address);
    let environment =
        [("PILLARBOX_URL", url.as_str()), ("PILLARBOX_KEY", stage.server.control.secret.as_str())];
    let (is_ok, text) = program::run_with(&["certificate", "show"], &environment).await;
    let (name, value) = (record["name"].as_str().unwrap(), record["value"].as_str().unwrap());
    assert!(is_ok && text.contains(&format!("\nTXT {name} {value}\n")), "{text}");

    stage.dns.text(name, value);
    assert_eq!(stage.finding("acme.record").await["status"], "ok", "who follows the fix sees it at once");
    let (is_ok, text) = program::run_with(&["certificate", "renew"], &environment).await;
    assert!(is_ok, "{text}");
    assert_eq!(stage.expect_issued(1).await["acme"]["challenge"], "dns-persist-01");
    assert_eq!(stage.finding("acme.record").await["status"], "ok");
}

#[tokio::test]
async fn a_record_that_is_missing_is_awaited_without_the_authority() {
    let stage = Stage::with(|ca, settings| {
        ca.set(|behaviour| behaviour.challenges = vec!["dns-persist-01"]);
        settings.challenge = AcmeChallenge::DnsPersist;
    })
    .await;
    stage.server.clock.advance(START);
    let view = stage.expect_failure("has no TXT record").await;
    let hours = hours_until(&stage, &view["acme"]["next_at"]);
    assert!(hours < 0.2, "{hours}");
    assert_eq!(stage.events("certificate.failing").await.len(), 0, "nobody can know the record before");
    let asked = stage.ca.asked("/");
    stage.server.clock.advance(11 * MINUTE);
    let first = time(&view["acme"]["next_at"]);
    let view = stage.expect("it looks again", |view| time(&view["acme"]["next_at"]) > first).await;
    assert_eq!((stage.ca.asked("/"), stage.events("certificate.failing").await.len()), (asked, 1));

    let record = &view["acme"]["records"][0];
    stage.dns.text(record["name"].as_str().unwrap(), record["value"].as_str().unwrap());
    stage.server.clock.advance(11 * MINUTE);
    stage.expect_issued(1).await;
    assert_eq!(stage.events("certificate.renewed").await.len(), 1);
}

#[tokio::test]
async fn all_records_that_are_missing_are_named_until_all_are_there() {
    let other = "smtp.relay.test";
    let stage = Stage::with(|ca, settings| {
        ca.set(|behaviour| behaviour.challenges = vec!["dns-persist-01"]);
        settings.challenge = AcmeChallenge::DnsPersist;
        settings.names = [HOSTNAME, other].map(|name| name.parse().unwrap()).into();
    })
    .await;
    stage.server.clock.advance(START);
    let view = stage.expect_failure("has no TXT record").await;
    let records = view["acme"]["records"].as_array().unwrap();
    let error = view["acme"]["error"].as_str().unwrap();
    for name in [HOSTNAME, other] {
        assert!(error.contains(&format!("_validation-persist.{name} has no TXT record")), "{error}");
    }
    let asked = stage.ca.asked("/");
    for (place, record) in records.iter().enumerate() {
        stage.dns.text(record["name"].as_str().unwrap(), record["value"].as_str().unwrap());
        stage.server.clock.advance(11 * MINUTE);
        if place == 0 {
            let left = records[1]["name"].as_str().unwrap();
            let view = stage.expect("one record is left", |view| view["acme"]["error"] != error).await;
            let error = view["acme"]["error"].as_str().unwrap();
            assert!(error.starts_with(left) && !error.contains(record["name"].as_str().unwrap()), "{error}");
            assert_eq!(stage.ca.asked("/"), asked, "a record that is missing costs the authority nothing");
        }
    }
    stage.expect_issued(1).await;
}

#[tokio::test]
async fn a_record_that_only_the_server_sees_keeps_no_certificate_from_being_issued() {
    let stage = Stage::with(|ca, _| {
        ca.set(|behaviour| {
            behaviour.challenges = vec!["dns-persist-01", "http-01"];
            (behaviour.sees_no_records, behaviour.looks_before_decision) = (true, 1);
        });
    })
    .await;
    stage.server.clock.advance(START);
    let view = stage.expect_issued(1).await;
    let record = &view["acme"]["records"][0];
    stage.dns.text(record["name"].as_str().unwrap(), record["value"].as_str().unwrap());
    stage.renew().await;
    stage.expect_failure("there is no record here").await;
    stage.renew().await;
    assert_eq!(stage.expect_issued(2).await["acme"]["challenge"], "http-01");
}

#[tokio::test]
async fn names_that_the_authority_still_knows_need_no_record() {
    let stage = Stage::with(|ca, settings| {
        ca.set(|behaviour| (behaviour.challenges, behaviour.knows_names) = (vec!["dns-persist-01"], true));
        settings.challenge = AcmeChallenge::DnsPersist;
    })
    .await;
    stage.server.clock.advance(START);
    let view = stage.expect_issued(1).await;
    assert_eq!((&view["acme"]["challenge"], stage.ca.asked("/challenge/")), (&Value::Null, 0));
    assert_eq!(stage.finding("acme.record").await["status"], "skipped");
}

#[tokio::test]
async fn the_window_of_the_authority_decides_when_to_renew() {
    let stage = Stage::start().await;
    let at = |days: i64| stage.server.clock.now() + SignedDuration::from_hours(24 * days);
    let mut windows = [(at(20), at(21)), (at(60), at(61))];
    stage.ca.set(|behaviour| behaviour.windows = windows.to_vec());
    stage.server.clock.advance(START);
    let view = stage.expect_issued(1).await;
    let days = hours_until(&stage, &view["acme"]["next_at"]) / 24.0;
    assert!((19.9..21.1).contains(&days), "{days}");
    stage.server.clock.advance(21 * DAY + HOUR);
    let view = stage.expect_issued(2).await;
    let days = hours_until(&stage, &view["acme"]["next_at"]) / 24.0;
    assert!((38.9..40.1).contains(&days), "{days}");
    let replaced = stage.ca.last_order()["replaces"].clone();
    assert!(replaced.as_str().is_some_and(|id| id.contains('.')), "RFC 9773 §5: {replaced}");

    // The window moves: the authority is going to revoke the certificate. It does not say when to ask again.
    windows[1] = (at(-2), at(-1));
    stage.ca.set(|behaviour| (behaviour.windows, behaviour.window_pause) = (windows.to_vec(), None));
    stage.server.clock.advance(7 * HOUR);
    // It says nothing about the third one.
    let view = stage.expect_issued(3).await;
    let days = hours_until(&stage, &view["acme"]["next_at"]) / 24.0;
    assert!((days - 60.0).abs() < 0.1, "{days}");
}

#[tokio::test]
async fn without_a_window_it_is_two_thirds_of_life() {
    let stage = Stage::with(|ca, settings| {
        ca.set(|behaviour| behaviour.life = 30 * DAY);
        settings.profile = Some("shortlived".into());
    })
    .await;
    stage.server.clock.advance(START);
    let view = stage.expect_issued(1).await;
    let days = hours_until(&stage, &view["acme"]["next_at"]) / 24.0;
    assert!((days - 20.0).abs() < 0.1, "{days}");
    stage.server.clock.advance(20 * DAY + MINUTE);
    stage.expect_issued(2).await;
    assert_eq!(stage.ca.last_order()["profile"], "shortlived");
    assert_eq!(stage.ca.last_order()["replaces"], Value::Null);
}

#[tokio::test]
async fn a_failure_keeps_the_old_certificate_is_told_once_and_tries_become_rare() {
    let stage = Stage::certified().await;
    let before = stage.view().await;
    stage.ca.set(|behaviour| behaviour.problem = Some(("/order", "rejectedIdentifier", None)));
    stage.renew().await;
    let view = stage.expect_failure("rejectedIdentifier: not today").await;
    let hours = hours_until(&stage, &view["acme"]["next_at"]);
    assert!((0.89..1.11).contains(&hours), "{hours}");
    assert_eq!((&view["source"], &view["expires_at"]), (&json!("acme"), &before["expires_at"]));
    assert!(stage.shows_issued().await);
    let finding = stage.finding("acme.order").await;
    assert_eq!(finding["status"], "warning");
    assert!(finding["text"].as_str().unwrap().contains("not today"), "{finding}");

    stage.server.clock.advance(HOUR + 10 * MINUTE);
    let failed = time(&view["acme"]["next_at"]);
    let again = stage.expect("it is tried again", |view| time(&view["acme"]["next_at"]) > failed).await;
    let hours = hours_until(&stage, &again["acme"]["next_at"]);
    assert!((1.7..2.3).contains(&hours), "{hours}");
    assert_eq!(again["acme"]["failing_since"], view["acme"]["failing_since"]);
    let events = stage.events("certificate.failing").await;
    assert_eq!(events.len(), 1, "{events:?}");

    stage.ca.set(|behaviour| behaviour.problem = Some(("/order", "rateLimited", Some("172800"))));
    stage.renew().await;
    let view = stage.expect_failure("rateLimited").await;
    let hours = hours_until(&stage, &view["acme"]["next_at"]);
    assert!((47.9..48.1).contains(&hours), "the authority says when: {hours}");
    // Or it names a date, here one that is too far away for us.
    let date = Some("Fri, 31 Dec 2100 23:59:59 GMT");
    stage.ca.set(|behaviour| behaviour.problem = Some(("/order", "rateLimited", date)));
    stage.renew().await;
    let is_far = |view: &Value| hours_until(&stage, &view["acme"]["next_at"]) > 49.0;
    let view = stage.expect("the pause is that until the date", is_far).await;
    let hours = hours_until(&stage, &view["acme"]["next_at"]);
    assert!((167.9..168.1).contains(&hours), "a week at most: {hours}");

    stage.ca.set(|behaviour| behaviour.problem = None);
    stage.server.clock.advance(8 * DAY);
    let view = stage.expect_issued(2).await;
    assert_eq!(view["acme"]["failing_since"], Value::Null);
    assert_eq!(stage.finding("acme.order").await["status"], "ok");
}

#[tokio::test]
async fn what_the_authority_says_about_a_challenge_is_the_error() {
    let stage = Stage::start().await;
    stage.ca.set(|behaviour| behaviour.http_port = quiet_port());
    stage.server.clock.advance(START);
    let view = stage.expect_failure("refused relay.test: unauthorized: Connection refused").await;
    assert_eq!(view["source"], "self_signed");
    stage.ca.set(|behaviour| behaviour.challenges = vec!["dns-01", "tls-alpn-01"]);
    stage.renew().await;
    stage
        .expect_failure("relay.test: the authority offers dns-01, tls-alpn-01, and acme.challenge is auto")
        .await;
    stage.ca.set(|behaviour| behaviour.is_down = true);
    stage.renew().await;
    stage.expect_failure("answered 503").await;
}

#[tokio::test]
async fn without_addresses_for_http_01_the_error_says_so() {
    let stage = Stage::with(|_, settings| settings.http_listen.clear()).await;
    stage.server.clock.advance(START);
    stage.expect_failure("and acme.challenge is auto, without an address in acme.http_listen").await;
}

#[tokio::test]
async fn a_decision_that_comes_later_has_its_reason_although_nonces_are_refused() {
    let stage = Stage::with(|ca, _| {
        ca.set(|behaviour| {
            (behaviour.http_port, behaviour.looks_before_decision) = (quiet_port(), 1);
            behaviour.refused_nonces = 4;
        });
    })
    .await;
    stage.server.clock.advance(START);
    stage.expect_failure("refused relay.test: unauthorized: Connection refused").await;
}

#[tokio::test]
async fn it_waits_for_a_decision_but_not_for_ever() {
    let stage = Stage::with(|ca, _| ca.set(|behaviour| behaviour.looks_before_decision = 2)).await;
    stage.server.clock.advance(START);
    stage.expect_issued(1).await;
    stage.ca.set(|behaviour| behaviour.looks_before_decision = usize::MAX);
    stage.renew().await;
    until("it waits", async || (stage.ca.asked("/order/1") > 0).then_some(())).await;
    stage.server.clock.advance(6 * MINUTE);
    stage.expect_failure("did not decide within five minutes").await;
}

#[tokio::test]
async fn an_order_has_an_end_and_not_more_authorizations_than_names() {
    let stage = Stage::with(|ca, _| ca.set(|behaviour| behaviour.more_authorizations = 1)).await;
    stage.server.clock.advance(START);
    stage.expect_failure("more authorizations than names").await;
    assert_eq!(stage.ca.asked("/authorization/"), 0);
    stage.ca.set(|behaviour| behaviour.more_authorizations = 0);
    stage.ca.hold(Some("/order"));
    let ordered = stage.ca.ordered();
    stage.renew().await;
    until("it orders", async || (stage.ca.ordered() > ordered).then_some(())).await;
    stage.server.clock.advance(31 * MINUTE);
    stage.expect_failure("did not end within half an hour").await;
}

#[tokio::test]
async fn an_order_is_repeated_without_the_certificate_that_it_replaces_only_if_that_is_refused() {
    let stage = Stage::start().await;
    let at = |days: i64| stage.server.clock.now() + SignedDuration::from_hours(24 * days);
    let windows = vec![(at(60), at(61)); 3];
    stage.ca.set(|behaviour| behaviour.windows = windows);
    stage.server.clock.advance(START);
    stage.expect_issued(1).await;
    for (problem, orders) in [("rateLimited", 2), ("alreadyReplaced", 4)] {
        stage.ca.set(|behaviour| behaviour.replacing_problem = Some(problem));
        stage.renew().await;
        stage.expect("the order ends", |_| stage.ca.ordered() == orders).await;
    }
    stage.expect_issued(2).await;
    assert_eq!(stage.ca.last_order()["replaces"], Value::Null);
}

#[tokio::test]
async fn an_order_that_is_asked_for_when_one_is_due_is_that_one() {
    let stage = Stage::start().await;
    let at = |days: i64| stage.server.clock.now() + SignedDuration::from_hours(24 * days);
    let windows = vec![(at(20), at(21)), (at(60), at(61))];
    stage.ca.set(|behaviour| behaviour.windows = windows);
    stage.server.clock.advance(START);
    stage.expect_issued(1).await;
    let asked = stage.ca.asked("/renewal");
    stage.ca.hold(Some("/renewal"));
    stage.server.clock.advance(21 * DAY + HOUR);
    until("it is due", async || (stage.ca.asked("/renewal") > asked).then_some(())).await;
    stage.renew().await;
    stage.ca.hold(None);
    stage.expect_issued(2).await;
    let asked = stage.ca.asked("/renewal");
    until("it looks again", async || {
        stage.server.clock.advance(HOUR);
        (stage.ca.asked("/renewal") > asked).then_some(())
    })
    .await;
    assert_eq!(stage.ca.issued(), 2);
}

#[tokio::test]
async fn a_panic_of_the_library_is_a_failed_order() {
    // The library takes no URL that is so long.
    let stage = Stage::with(|_, settings| settings.directory.set_query(Some(&"x".repeat(70_000)))).await;
    stage.server.clock.advance(START);
    stage.expect_failure("panicked").await;
    let mut client = Client::connect(stage.server.submission(), HOSTNAME).await;
    client.command("NOOP").await.expect_code(250);
}

#[tokio::test]
async fn no_answer_of_the_authority_stops_the_server() {
    const FOREVER: Option<&str> = Some("18446744073709551615");
    let stage = Stage::start().await;
    stage.ca.set(|behaviour| behaviour.nonce_url = Some(""));
    stage.server.clock.advance(START);
    stage.expect_failure("\"\" is not an https URL").await;
    let at = |days: i64| stage.server.clock.now() + SignedDuration::from_hours(24 * days);
    let windows = vec![(at(20), at(21))];
    stage.ca.set(|behaviour| {
        (behaviour.nonce_url, behaviour.windows) = (None, windows);
        (behaviour.order_pause, behaviour.window_pause) = (FOREVER, FOREVER);
    });
    stage.renew().await;
    let view = stage.expect_issued(1).await;
    let days = hours_until(&stage, &view["acme"]["next_at"]) / 24.0;
    assert!((19.9..21.1).contains(&days), "the window is known: {days}");
    let mut client = Client::connect(stage.server.submission(), HOSTNAME).await;
    client.command("NOOP").await.expect_code(250);
}

#[tokio::test]
async fn a_refused_nonce_is_no_failure() {
    // The library gives up after three.
    let stage = Stage::with(|ca, _| ca.set(|behaviour| behaviour.refused_nonces = 4)).await;
    stage.server.clock.advance(START);
    stage.expect_issued(1).await;
    assert_eq!((stage.ca.accounts(), stage.events("certificate.failing").await.len()), (1, 0));
}

#[tokio::test]
async fn a_restart_uses_the_account_and_orders_nothing_new() {
    let mut stage = Stage::certified().await;
    let asked = stage.ca.asked("/directory");
    stage.server.restart(|_| ()).await;
    assert!(stage.shows_issued().await);
    stage.server.clock.advance(START);
    let view = stage.expect("the account is known", |view| !view["acme"]["account"].is_null()).await;
    assert!((hours_until(&stage, &view["acme"]["next_at"]) / 24.0 - 60.0).abs() < 0.1, "{view}");
    assert!(stage.ca.asked("/directory") > asked);
    assert_eq!((stage.ca.accounts(), stage.ca.issued()), (1, 1));
    // It is the same account, unless the authority does not know it any more.
    stage.renew().await;
    stage.expect_issued(2).await;
    assert_eq!(stage.ca.accounts(), 1);
    stage.ca.forget_accounts();
    stage.renew().await;
    stage.expect_issued(3).await;
    assert_eq!(stage.ca.accounts(), 2);
}

#[tokio::test]
async fn a_damaged_certificate_file_is_replaced_and_another_name_is_ordered() {
    let mut stage = Stage::certified().await;
    let file = stage.file();
    let good = std::fs::read(&file).unwrap();
    stage.server.restart(|_| std::fs::write(&file, &good[..good.len() / 2]).unwrap()).await;
    assert!(!stage.shows_issued().await, "it starts with the self-signed one");
    stage.server.clock.advance(START);
    stage.expect_issued(2).await;
    assert!(stage.shows_issued().await);

    let names = [HOSTNAME, "mail.relay.test"].map(|name| name.parse().unwrap());
    stage.server.config.acme.names = names.to_vec();
    stage.server.restart(|_| ()).await;
    assert!(stage.shows_issued().await, "the one for fewer names is better than none");
    stage.server.clock.advance(START);
    stage.expect_issued(3).await;
    let named = Client::connect(stage.server.submission(), "mail.relay.test");
    let mut client = named.await;
    client.ehlo().await;
    assert!(client.try_starttls(stage.trust()).await.is_some());
}

#[tokio::test]
async fn another_directory_orders_another_certificate() {
    let mut stage = Stage::certified().await;
    let mut other = FakeCa::start(&stage.dns).await;
    other.set(|behaviour| behaviour.clock = stage.server.clock.clone());
    let settings = [other.settings(), stage.server.config.acme.clone()];
    for (settings, count) in settings.into_iter().zip([1, 2]) {
        std::mem::swap(&mut stage.ca, &mut other);
        stage.server.config.acme = settings;
        stage.server.restart(|_| ()).await;
        assert!(!stage.shows_issued().await, "the other one is better than none");
        stage.server.clock.advance(START);
        stage.expect_issued(count).await;
        assert!(stage.shows_issued().await);
    }
}

#[tokio::test]
async fn the_listener_for_http_01_leads_people_to_the_public_address_and_has_64_connections() {
    let dns = FakeDns::start().await;
    let ca = FakeCa::start(&dns).await;
    let settings = ca.settings();
    let server = TestServer::start_with(&dns, 1, |config| {
        config.acme = settings;
        config.api.public_url = Some("https://mail.relay.test/pb/".parse().unwrap());
    })
    .await;
    ca.set(|behaviour| behaviour.clock = server.clock.clone());
    ca.hold(Some("/challenge/"));
    server.clock.advance(START);
    until("a challenge is begun", async || (ca.asked("/challenge/") > 0).then_some(())).await;
    let connect = async || TcpStream::connect(server.config.acme.http_listen[0]).await.unwrap();
    let mut person = connect().await;
    person.write_all(b"GET /ui?x=1 HTTP/1.1\r\nHost: relay.test\r\n\r\n").await.unwrap();
    let answer = read_answer(&mut person).await;
    assert!(answer.status == 308 && answer.head.contains("https://mail.relay.test/pb/ui?x=1"), "{answer}");
    let until_closed = async |person: &mut TcpStream| {
        let mut answer = Vec::new();
        let _closed = timeout(PATIENCE, person.read_to_end(&mut answer)).await.expect("it is closed");
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert_eq!(until_closed(&mut person).await, "");
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(connect().await);
    }
    let mut person = connect().await;
    let request = b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n";
    let _ = person.write_all(request).await;
    assert_eq!(until_closed(&mut person).await, "", "it is the 65th");
    idle[63].write_all(request).await.unwrap();
    assert!(until_closed(&mut idle[63]).await.starts_with("HTTP/1.1 308"), "it is the 64th");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_by_the_doctor() {
    let stage = Stage::start().await;
    let http = stage.server.config.acme.http_listen[0];
    let other = std::net::TcpListener::bind(http).unwrap();
    stage.server.clock.advance(START);
    stage.expect_failure(&format!("cannot listen on {http}")).await;
    assert_eq!(stage.ca.asked("/challenge/"), 0, "a challenge that must fail is not begun");
    let finding = stage.finding("acme.port80").await;
    assert_eq!(finding["status"], "error", "{finding}");
    assert!(finding["text"].as_str().unwrap().contains(&http.to_string()), "{finding}");
    drop(other);
    stage.renew().await;
    stage.expect_issued(1).await;
    assert_eq!(stage.finding("acme.port80").await["status"], "ok");
}

#[tokio::test]
async fn a_record_in_place_of_a_port_that_is_taken_ends_the_finding() {
    let stage = Stage::with(|ca, _| {
        ca.set(|behaviour| behaviour.challenges = vec!["dns-persist-01", "http-01"]);
    })
    .await;
    let _other = std::net::TcpListener::bind(stage.server.config.acme.http_listen[0]).unwrap();
    stage.server.clock.advance(START);
    let view = stage.expect_failure("cannot listen on").await;
    assert_eq!(stage.finding("acme.port80").await["status"], "error");
    let record = &view["acme"]["records"][0];
    stage.dns.text(record["name"].as_str().unwrap(), record["value"].as_str().unwrap());
    stage.renew().await;
    stage.expect_issued(1).await;
    assert_eq!(stage.finding("acme.port80").await["status"], "skipped");
}

#[tokio::test]
async fn without_acme_there_is_nothing_to_renew() {
    let dns = FakeDns::start().await;
    let server = TestServer::start(&dns, 1).await;
    let view = server.control.get("/v1/certificate").await;
    assert_eq!((&view["source"], &view["acme"]), (&json!("self_signed"), &Value::Null));
    let control = &server.control;
    let renew =
        crate::http::request(control.address, "POST", "/v1/certificate/renew", Some(&control.secret), None);
    renew.await.expect_error(422, "validation_failed");
    assert!(!certificate_file(&server.config.data_dir).exists());
}
