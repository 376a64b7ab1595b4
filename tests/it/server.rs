//! The real server, in this process, on free ports, with its own data directory.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pillarbox::app::{Machine, Running};
use pillarbox::clock::Clock;
use pillarbox::config::Config;
use pillarbox::mail::Timestamp;
use pillarbox::model::{Environment, KeySecret};
use pillarbox::rng::Rng;
use pillarbox::store::{Access, Directory, NewKey, Store, StoreOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Client, Reply};
use crate::control::Control;
use crate::fake_dns::FakeDns;
use crate::fake_mx::FakeMx;
use crate::identity::trust_pem;
use crate::wait::until;

pub const HOSTNAME: &str = "relay.test";

/// Longer than mail waits for its next attempt, and shorter than it takes until a delay is reported.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(200 * 60);
/// Longer than the lifetime of a message.
pub const LIFETIME_MAX: Duration = Duration::from_secs(6 * 24 * 3600);

pub struct TestServer {
    pub config: Config,
    pub control: Control,
    /// The server's clock, which goes on through restarts.
    pub clock: Clock,
    running: Option<Running>,
    /// Declared last, so that it is deleted after everything that uses it.
    _directory: TempDir,
}

/// The submitter: a key with the scope to send.
#[derive(Clone)]
pub struct Account {
    pub tenant_id: String,
    pub domain_id: String,
    pub domain: String,
    pub user: String,
    pub secret: String,
}

impl TestServer {
    /// Uses this DNS, delivers to this port, and permits loopback addresses as targets.
    pub async fn start(dns: &FakeDns, port: u16) -> Self {
        Self::start_with(dns, port, |_| ()).await
    }

    pub async fn start_with(dns: &FakeDns, port: u16, change: impl FnOnce(&mut Config)) -> Self {
        let directory = TempDir::new().unwrap();
        let mut config = config(directory.path(), dns, port);
        change(&mut config);
        let secret = create_platform_key(&config).await;
        let clock = Clock::adjustable();
        let running =
            Running::start_on_machine(Machine::with(clock.clone(), Rng::system()), &config).await.unwrap();
        let control = Control { address: running.api_addresses[0], secret };
        Self { config, control, clock, running: Some(running), _directory: directory }
    }

    /// Stops the server and starts it on the same data. `between` runs while the data directory is unused.
    pub async fn restart(&mut self, between: impl FnOnce(&Config)) {
        self.stop().await;
        between(&self.config);
        let running =
            Running::start_on_machine(Machine::with(self.clock.clone(), Rng::system()), &self.config)
                .await
                .unwrap();
        self.control.address = running.api_addresses[0];
        self.running = Some(running);
    }

    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await.unwrap();
        }
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("the server runs")
    }

    pub fn submission(&self) -> SocketAddr {
        self.running().submission_addresses[0]
    }

    pub fn submissions(&self) -> SocketAddr {
        self.running().submissions_addresses[0]
    }

    /// The server's certificate, as it is on disk now.
    pub fn certificate_pem(&self) -> String {
        std::fs::read_to_string(self.config.data_dir.join("self-signed.crt")).unwrap()
    }

    /// A tenant with a manually verified domain and a live key.
    pub async fn create_account(&self, domain: &str) -> Account {
        self.create_account_in(domain, "live").await
    }

    pub async fn create_account_in(&self, domain: &str, environment: &str) -> Account {
        create_account(&self.control, domain, environment).await
    }

    /// A test key of the tenant of an account.
    pub async fn test_account(&self, account: &Account) -> Account {
        let wanted = json!({
            "name": "test", "tenant_id": account.tenant_id, "environment": "test",
            "scopes": ["smtp:send", "emails:send", "emails:read", "suppressions:manage"],
        });
        let key = self.control.ok("POST", "/v1/keys", wanted).await;
        Account { user: text(&key["id"]), secret: text(&key["secret"]), ..account.clone() }
    }

    /// A connection in TLS, ready for AUTH.
    pub async fn connect(&self) -> Client {
        let mut client = Client::connect(self.submission(), HOSTNAME).await;
        client.ehlo().await;
        client.starttls(trust_pem(&self.certificate_pem())).await
    }

    /// A connection that is authenticated and ready for MAIL.
    pub async fn log_in(&self, account: &Account) -> Client {
        let mut client = self.connect().await;
        client.auth_plain(&account.user, &account.secret).await.expect_code(235);
        client
    }

    /// Sends one message that must be accepted. Returns its id.
    pub async fn submit(&self, account: &Account, recipients: &[&str], message: &[u8]) -> String {
        let from = format!("alice@{}", account.domain);
        message_id(&self.log_in(account).await.send(&from, recipients, message).await.expect_code(250))
    }

    /// Waits until all recipients of a message are in one of these states. Returns the message.
    pub async fn wait_for_status(&self, id: &str, states: &[&str]) -> Value {
        until(&format!("{id} is {states:?}"), async || {
            let email = self.control.get(&format!("/v1/emails/{id}")).await;
            let deliveries = email["deliveries"].as_array().unwrap();
            let settled = deliveries.iter().all(|d| states.contains(&d["status"].as_str().unwrap()));
            settled.then_some(email)
        })
        .await
    }

    /// Compares the explanation of a destination with one host with an attempt to deliver there.
    pub async fn explains(&self, domain: &str, attempt: &Value, is_delivered: bool) {
        let plan = self.control.get(&format!("/v1/destinations/{domain}?probe=true")).await;
        let host = &plan["hosts"][0];
        assert_eq!(host["tls_reason"], attempt["tls_policy"], "{plan:#} {attempt:#}");
        assert_eq!(host["probe"]["ready"] == true, is_delivered, "{plan:#} {attempt:#}");
        if is_delivered {
            assert_eq!(host["probe"]["tls"], attempt["tls"], "{plan:#} {attempt:#}");
        } else {
            let error = host["error"].as_str().or(host["probe"]["error"].as_str());
            let error = error.unwrap_or_else(|| panic!("no error in {plan:#}"));
            // An expired certificate was looked at in another second.
            let error = error.split(": verification time").next().unwrap_or_default();
            assert!(text(&attempt["reply"]).contains(error), "{plan:#} {attempt:#}");
        }
    }
}

/// A tenant with a manually verified domain and a key.
pub async fn create_account(control: &Control, domain: &str, environment: &str) -> Account {
    let slug = domain.replace('.', "-");
    let tenant = control.ok("POST", "/v1/tenants", json!({"name": domain, "slug": slug})).await;
    let wanted = json!({"name": domain, "tenant_id": tenant["id"], "verification": "manual"});
    let owned = control.ok("POST", "/v1/domains", wanted).await;
    assert_eq!(owned["status"], "verified", "{owned}");
    let wanted = json!({
        "name": "it", "tenant_id": tenant["id"], "environment": environment,
        "scopes": ["smtp:send", "emails:send", "emails:read", "suppressions:manage", "domains:manage"],
    });
    let key = control.ok("POST", "/v1/keys", wanted).await;
    Account {
        tenant_id: text(&tenant["id"]),
        domain_id: text(&owned["id"]),
        domain: domain.to_owned(),
        user: text(&key["id"]),
        secret: text(&key["secret"]),
    }
}

/// The id in the reply to a message.
pub fn message_id(reply: &Reply) -> String {
    let text = reply.text();
    let start = text.find("msg_").unwrap_or_else(|| panic!("no message id in {text}"));
    text[start..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// A message that the policy accepts.
pub fn message(account: &Account, subject: &str) -> Vec<u8> {
    format!(
        "From: Alice <alice@{0}>\r\nTo: someone@elsewhere.test\r\nSubject: {subject}\r\n\
         Message-ID: <{subject}@{0}>\r\nDate: Sun, 22 Nov 2026 02:00:00 +0000\r\n\r\n\
         Hello.\r\n.\r\n..\r\n.a dot \r\nGr\u{fc}\u{df}e\r\n\r\n \r\n",
        account.domain
    )
    .into_bytes()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

/// A server whose only destination is one MX of `b.test`.
pub async fn one_destination() -> (FakeDns, FakeMx, TestServer) {
    one_destination_with(|_| ()).await
}

pub async fn one_destination_with(change: impl FnOnce(&mut Config)) -> (FakeDns, FakeMx, TestServer) {
    destinations(&["b.test"], change).await
}

/// A server whose destinations have one MX.
pub async fn destinations(
    domains: &[&str],
    change: impl FnOnce(&mut Config),
) -> (FakeDns, FakeMx, TestServer) {
    let dns = FakeDns::start().await;
    let mx = FakeMx::start().await;
    for domain in domains {
        dns.mx(domain, &[(10, "mx.b.test")]);
    }
    dns.addresses("mx.b.test", &[mx.address.ip()]);
    let server = TestServer::start_with(&dns, mx.address.port(), change).await;
    (dns, mx, server)
}

/// The only SQLite file in the data directory.
pub fn database_file(data_dir: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files = entries.filter(|path| path.extension().is_some_and(|e| e == "db" || e == "sqlite"));
    files.next().expect("a database")
}

fn config(directory: &Path, dns: &FakeDns, port: u16) -> Config {
    let text = format!(
        r#"
        hostname = "{HOSTNAME}"
        data_dir = "{data}"
        shutdown_deadline = "20s"
        [smtp]
        submission = ["127.0.0.1:0"]
        submissions = ["127.0.0.1:0"]
        [api]
        listen = ["127.0.0.1:0"]
        [store]
        free_disk_min = "1MiB"
        [relay]
        name_servers = ["{dns}"]
        port = {port}
        allowed_private_networks = ["127.0.0.0/8"]
        "#,
        data = directory.join("data").display(),
        dns = dns.address,
    );
    Config::parse(&text, Path::new("test.toml")).unwrap()
}

/// The first key is created in the data directory, as by `pillarbox key create --init`.
async fn create_platform_key(config: &Config) -> String {
    let store = Store::open(StoreOptions::new(config, Access::Initialize).unwrap()).await.unwrap();
    let secret = KeySecret::generate(Environment::Live);
    let key = NewKey::unrestricted(None, "it", Environment::Live, &secret);
    store.create_key(key, Timestamp::now()).await.unwrap();
    store.close().await;
    secret.expose().to_owned()
}
