//! Errors at startup: the real binary names the file, the key and the remedy. After a successful start it handles
//! signals.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::client::Client;
use crate::identity::{Identity, trust_pem};
use crate::program::{Serving, run, run_with};
use crate::server::{HOSTNAME, database_file};
use crate::wait::until;

struct Setting {
    directory: TempDir,
}

impl Setting {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration. `more` comes first, because it may contain top-level keys.
    fn configure(&self, more: &str, sections: &str) -> PathBuf {
        let file = self.path("pillarbox.toml");
        let text = format!(
            "{more}\nhostname = \"{HOSTNAME}\"\ndata_dir = \"{}\"\n[smtp]\nsubmission = [\"127.0.0.1:0\"]\n\
             submissions = [\"127.0.0.1:0\"]\n[store]\nfree_disk_min = \"1MiB\"\n{sections}\n",
            self.path("data").display()
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    /// The output of `serve` when it fails.
    async fn fail(&self, more: &str, sections: &str) -> String {
        let file = self.configure(more, sections);
        let (success, said) = run(&["serve", "--config", file.to_str().unwrap()]).await;
        assert!(!success, "it should not have started: {said}");
        said
    }
}

const API: &str = "[api]\nlisten = [\"127.0.0.1:0\"]";

#[track_caller]
fn expect_all(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn a_wrong_key_is_reported_with_file_and_line() {
    let setting = Setting::new();
    let said = setting.fail("hostnme = \"x\"", API).await;
    expect_all(&said, &["pillarbox.toml", "hostnme", "line 1", "hostname"]);
    let said = setting.fail("", "[relay]\nmessage_lifetime = \"5 lightyears\"").await;
    expect_all(&said, &["pillarbox.toml", "message_lifetime", "5 lightyears", "30s"]);
    let said = setting.fail("", "[tls]\ncertificate = \"x\"").await;
    expect_all(&said, &["pillarbox.toml", "private_key"]);
    let said = setting.fail("", "[log]\nlevel = \"wran\"").await;
    expect_all(&said, &["pillarbox.toml", "line", "level", "`wran` is neither a level"]);
}

#[tokio::test]
async fn a_missing_configuration_is_reported() {
    let (success, said) = run(&["serve", "--config", "/nonexistent/pillarbox.toml"]).await;
    assert!(!success);
    expect_all(&said, &["/nonexistent/pillarbox.toml"]);
}

#[tokio::test]
async fn an_unreadable_certificate_is_reported() {
    let setting = Setting::new();
    let tls = |certificate: &Path, key: &Path| {
        format!(
            "[tls]\ncertificate = \"{}\"\nprivate_key = \"{}\"\n{API}",
            certificate.display(),
            key.display()
        )
    };
    let (certificate, key) = (setting.path("tls.crt"), setting.path("tls.key"));
    let said = setting.fail("", &tls(&certificate, &key)).await;
    expect_all(&said, &["tls.crt", "No such file"]);
    let (one, other) = (Identity::new(&[HOSTNAME]), Identity::new(&[HOSTNAME]));
    std::fs::write(&certificate, &one.certificate_pem).unwrap();
    std::fs::write(&key, "garbage").unwrap();
    expect_all(&setting.fail("", &tls(&certificate, &key)).await, &["tls.key", "PEM"]);
    std::fs::write(&key, &other.private_key_pem).unwrap();
    expect_all(&setting.fail("", &tls(&certificate, &key)).await, &["tls.crt", "tls.key"]);
}

#[tokio::test]
async fn a_port_in_use_is_reported_with_its_option() {
    let setting = Setting::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = setting.fail("", &format!("[api]\nlisten = [\"{address}\"]")).await;
    expect_all(&said, &["api.listen", &address, "in use"]);
}

#[tokio::test]
async fn a_data_directory_in_use_is_reported() {
    let setting = Setting::new();
    let _first = start(&setting).await;
    let said = setting.fail("", API).await;
    expect_all(&said, &[setting.path("data").to_str().unwrap(), "in use by another process"]);
}

#[tokio::test]
async fn a_newer_database_is_not_changed() {
    let setting = Setting::new();
    start(&setting).await.end("TERM").await;
    let file = database_file(&setting.path("data"));
    // What no version writes: damage is what SQL in a test is for.
    let database = rusqlite::Connection::open(&file).unwrap();
    database.pragma_update(None, "user_version", 9999).unwrap();
    database.execute("PRAGMA wal_checkpoint", []).ok();
    drop(database);
    let said = setting.fail("", API).await;
    expect_all(&said, &["9999", "newer pillarbox"]);
}

#[tokio::test]
async fn a_wrong_master_key_is_detected() {
    let setting = Setting::new();
    start(&setting).await.end("TERM").await;
    let key = setting.path("data").join("master.key");
    let mut octets = std::fs::read(&key).unwrap();
    let at = octets.iter().position(u8::is_ascii_alphanumeric).unwrap_or(0);
    octets[at] = if octets[at] == b'a' { b'b' } else { b'a' };
    std::fs::write(&key, octets).unwrap();
    expect_all(&setting.fail("", API).await, &["master.key"]);
}

/// The empty files that a power cut leaves if they were not synced.
#[tokio::test]
async fn a_self_signed_certificate_emptied_by_a_power_cut_is_generated_again() {
    let setting = Setting::new();
    start(&setting).await.end("TERM").await;
    let certificate = setting.path("data").join("self-signed.crt");
    for name in ["self-signed.crt", "self-signed.key"] {
        std::fs::write(setting.path("data").join(name), "").unwrap();
    }
    let server = start(&setting).await;
    expect_all(&server.said, &["WARN", "self-signed.crt", "generating a new one"]);
    let mut client = Client::connect(([127, 0, 0, 1], server.port).into(), HOSTNAME).await;
    client.ehlo().await;
    let made = std::fs::read_to_string(certificate).unwrap();
    assert!(client.try_starttls(trust_pem(&made)).await.is_some());
    server.end("TERM").await;
}

#[tokio::test]
async fn check_config_accepts_the_sample_and_reports_faults() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pillarbox.toml");
    let (success, said) = run(&["check-config", "--config", sample.to_str().unwrap()]).await;
    assert!(success, "{said}");
    let setting = Setting::new();
    let (absent, garbage) = (setting.path("absent"), setting.path("garbage"));
    std::fs::write(&garbage, "garbage").unwrap();
    for (more, sections, parts) in [
        ("", "[smtp.x]".to_owned(), ["pillarbox.toml", "smtp.x"]),
        (
            "",
            "[log]\nlevel = \"info,pillarbox=dbug\"".to_owned(),
            ["line", "`pillarbox=dbug` is neither a level"],
        ),
        ("", format!("[webhooks]\nca_file = {absent:?}"), ["webhooks.ca_file", "No such file"]),
        ("", format!("[webhooks]\nca_file = {garbage:?}"), ["webhooks.ca_file", "garbage"]),
        (&format!("master_key_file = {absent:?}"), String::new(), ["master_key_file", "does not exist"]),
        (&format!("master_key_file = {garbage:?}"), String::new(), ["master_key_file", "garbage"]),
    ] {
        let file = setting.configure(more, &sections);
        let (success, said) = run(&["check-config", "--config", file.to_str().unwrap()]).await;
        assert!(!success, "{said}");
        expect_all(&said, &parts);
    }
}

#[tokio::test]
async fn check_config_refuses_a_certificate_that_clients_refuse_and_finds_a_lost_master_key() {
    let setting = Setting::new();
    let (certificate, key) = (setting.path("tls.crt"), setting.path("tls.key"));
    let install = |certificate_pem: &str, private_key_pem: &str| {
        std::fs::write(&certificate, certificate_pem).unwrap();
        std::fs::write(&key, private_key_pem).unwrap();
    };
    let file =
        setting.configure("", &format!("[tls]\ncertificate = {certificate:?}\nprivate_key = {key:?}\n{API}"));
    let arguments = ["check-config", "--config", file.to_str().unwrap()];
    let foreign = Identity::new(&["other.example"]);
    install(&foreign.certificate_pem, &foreign.private_key_pem);
    let (success, said) = run(&arguments).await;
    assert!(!success, "{said}");
    expect_all(&said, &["tls: ", "tls.crt is not for the hostname", "mail clients refuse it"]);
    let expired = certificate_until(2001);
    install(&expired.0, &expired.1);
    let (success, said) = run(&arguments).await;
    assert!(!success, "{said}");
    expect_all(&said, &["tls: ", "tls.crt expired at 2001-01-01", "mail clients refuse it"]);
    // From 1975 to 2030: less than a third is left.
    let ending = certificate_until(2030);
    install(&ending.0, &ending.1);
    let (success, said) = run(&arguments).await;
    assert!(success, "{said}");
    expect_all(&said, &["warning: tls.certificate", "tls.crt ends at 2030-01-01", "renew it"]);
    assert!(!setting.path("data").exists());
    start(&setting).await.end("TERM").await;
    std::fs::remove_file(setting.path("data").join("master.key")).unwrap();
    let (success, said) = run(&arguments).await;
    assert!(!success, "{said}");
    expect_all(&said, &["master_key_file", "master.key", "restore it"]);
}

#[tokio::test]
async fn a_system_without_certificate_authorities_is_named_and_the_file_of_the_relay_is_enough() {
    let setting = Setting::new();
    let none = [("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    let check = async |sections: &str| {
        let file = setting.configure("", sections);
        run_with(&["check-config", "--config", file.to_str().unwrap()], &none).await
    };
    let (success, said) = check("").await;
    assert!(!success, "{said}");
    expect_all(
        &said,
        &["relay: there are no certificate authorities on this system", "ca-certificates", "relay.ca_file"],
    );
    let ca = setting.path("ca.crt");
    std::fs::write(&ca, Identity::new(&[HOSTNAME]).certificate_pem).unwrap();
    let (success, said) = check(&format!("[relay]\nca_file = {ca:?}")).await;
    assert!(success, "{said}");
}

/// systemd makes their folder when it starts the service.
#[tokio::test]
async fn check_config_leaves_out_the_credentials_of_a_service_that_does_not_run() {
    let setting = Setting::new();
    let folder = format!("/run/credentials/absent-{}.service", std::process::id());
    let file = setting.configure(
        &format!("master_key_file = \"{folder}/master.key\""),
        &format!("[tls]\ncertificate = \"{folder}/tls.crt\"\nprivate_key = \"{folder}/tls.key\""),
    );
    let (success, said) = run(&["check-config", "--config", file.to_str().unwrap()]).await;
    assert!(success, "{said}");
    for name in ["master.key", "tls.crt"] {
        expect_all(&said, &[&format!("note: {folder}/{name} is there only while the service runs")]);
    }
}

/// A certificate for the host name from 1975 on, and its key.
fn certificate_until(year: i32) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new([HOSTNAME.into()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(1975, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
    (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_and_what_does_not_fit_it_is_lowered_and_said() {
    let setting = Setting::new();
    let file = setting.configure("", API);
    let arguments = ["serve", "--config", file.to_str().unwrap()];
    let mut server = Serving::start_with_open_files(300, 1000, &arguments);
    let said = server.wait_for_line("the limit of open files is 1000").await;
    expect_all(&said, &["smtp.connections_max is", "instead of 12000", "LimitNOFILE"]);
    server.wait_for_line("submission=[127.0.0.1:").await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["1000", "1000"], "{line}");
    server.end("TERM").await;
    let mut server = Serving::start_with_open_files(300, 300, &arguments);
    server.wait_for_line("at least 472 are needed").await;
    assert_eq!(server.wait_for_status().await, Some(1));
}

#[tokio::test]
async fn signals_reload_the_certificate_and_stop_the_server_cleanly() {
    let setting = Setting::new();
    let (old, new) = (Identity::new(&[HOSTNAME]), Identity::new(&[HOSTNAME]));
    let install = |identity: &Identity| {
        std::fs::write(setting.path("tls.key"), &identity.private_key_pem).unwrap();
        std::fs::write(setting.path("tls.crt"), &identity.certificate_pem).unwrap();
    };
    install(&old);
    let (certificate, key) = (setting.path("tls.crt"), setting.path("tls.key"));
    let tls = format!("[tls]\ncertificate = {certificate:?}\nprivate_key = {key:?}\n{API}");
    let server = start_with(&setting, &tls).await;
    assert!(trusts(server.port, &old).await);
    install(&new);
    server.signal("HUP");
    until("the new certificate is served", async || trusts(server.port, &new).await.then_some(())).await;
    server.end("TERM").await;
}

async fn trusts(port: u16, identity: &Identity) -> bool {
    let mut client = Client::connect(([127, 0, 0, 1], port).into(), HOSTNAME).await;
    client.ehlo().await;
    client.try_starttls(trust_pem(&identity.certificate_pem)).await.is_some()
}

async fn start(setting: &Setting) -> Serving {
    start_with(setting, API).await
}

/// Starts the server and waits until its log names its address.
async fn start_with(setting: &Setting, sections: &str) -> Serving {
    let file = setting.configure("", sections);
    let mut server = Serving::start(&["serve", "--config", file.to_str().unwrap()]);
    let line = server.wait_for_line("submission=[127.0.0.1:").await;
    let (_, rest) = line.split_once("submission=[127.0.0.1:").unwrap();
    server.port = rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
    server
}
