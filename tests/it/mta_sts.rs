//! MTA-STS (RFC 8461): policies that domains publish over HTTPS decide which hosts get their mail.

use pillarbox::mail::{SignedDuration, Timestamp};
use pillarbox::store::{StsPolicies, StsRecord};
use serde_json::Value;

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Offer};
use crate::identity::Identity;
use crate::receiver::{Reaction, Receiver};
use crate::server::{Account, TestServer, message};

/// The certificate of a domain's host.
#[derive(Clone, Copy)]
pub enum Shows {
    Right,
    Strange,
    NoTls,
}

use Shows::{NoTls, Right, Strange};

pub struct Stage {
    pub dns: FakeDns,
    pub hosts: Vec<FakeMx>,
    pub policies: Receiver,
    pub server: TestServer,
    pub account: Account,
    _directory: tempfile::TempDir,
}

impl Stage {
    /// Domain n is `d{n}.test` with the host `mx.d{n}.test`. One server has all policies.
    pub async fn set(shows: &[Shows], timeout_ms: u64) -> Self {
        let dns = FakeDns::start().await;
        let names: Vec<String> =
            (0..shows.len()).flat_map(|n| [format!("mx.d{n}.test"), format!("mta-sts.d{n}.test")]).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (right, strange) = (Identity::new(&names), Identity::new(&names));
        let offers = shows.iter().map(|shows| match shows {
            Right => Offer { tls: Some(right.server_config()), ..Offer::default() },
            Strange => Offer { tls: Some(strange.server_config()), ..Offer::default() },
            NoTls => Offer::default(),
        });
        let hosts = FakeMx::several(offers.collect()).await;
        let policies = Receiver::with(Some(right.server_config())).await;
        for (n, host) in hosts.iter().enumerate() {
            dns.mx(&format!("d{n}.test"), &[(10, &format!("mx.d{n}.test"))]);
            dns.addresses(&format!("mx.d{n}.test"), &[host.address.ip()]);
            dns.addresses(&format!("mta-sts.d{n}.test"), &[policies.address.ip()]);
            dns.text(&format!("_mta-sts.d{n}.test"), "v=STSv1; id=1");
        }
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, &right.certificate_pem).unwrap();
        let port = policies.address.port();
        let server = TestServer::start_with(&dns, hosts[0].address.port(), |config| {
            config.relay.ca_file = Some(ca);
            config.relay.mta_sts.port = port;
            config.relay.mta_sts.fetch_timeout = std::time::Duration::from_millis(timeout_ms);
        })
        .await;
        let account = server.create_account("acme.test").await;
        Self { dns, hosts, policies, server, account, _directory: directory }
    }

    /// Submits a message to a domain. Returns its state and the attempt.
    pub async fn send(&self, domain: usize) -> (String, Value) {
        self.send_to(&format!("d{domain}.test")).await
    }

    pub async fn send_to(&self, domain: &str) -> (String, Value) {
        let message = message(&self.account, "policy");
        let id = self.server.submit(&self.account, &[&format!("bob@{domain}")], &message).await;
        let email = self.server.wait_for_status(&id, &["delivered", "deferred", "bounced"]).await;
        let timeline = self.server.control.get(&format!("/v1/emails/{id}/timeline")).await;
        let entries = timeline["data"].as_array().unwrap();
        let attempt = entries.iter().find(|entry| entry["object"] == "attempt").unwrap().clone();
        (email["status"].as_str().unwrap().to_owned(), attempt)
    }

    /// Stores a policy for the domain's host that is valid for a week, as if it had been fetched hours ago.
    async fn keep(&self, domain: &str, hours: i64) {
        self.keep_for(domain, hours, 168).await;
    }

    async fn keep_for(&self, domain: &str, hours: i64, lifetime_hours: i64) {
        let fetched_at = Timestamp::now() - SignedDuration::from_hours(hours);
        let record = StsRecord {
            domain: domain.parse().unwrap(),
            policy_id: "1".into(),
            policy: format!("version: STSv1\nmode: enforce\nmx: mx.{domain}\nmax_age: 604800\n"),
            fetched_at,
            expires_at: fetched_at + SignedDuration::from_hours(lifetime_hours),
        };
        self.server.running().store().store_sts_policy(record).await.unwrap();
    }

    /// Waits until the store has a policy that names a host.
    async fn wait_for_policy(&self, domain: &str, host: &str) {
        let domain = domain.parse().unwrap();
        crate::wait::until("the new policy holds", async || {
            let found = self.server.running().store().sts_policy(&domain, Timestamp::now());
            found.await.unwrap().filter(|record| record.policy.contains(host))
        })
        .await;
    }

    #[track_caller]
    fn check(&self, (status, attempt): (String, Value), expected: &str, policy: &str) {
        let found = match attempt["reply"].as_str().unwrap().strip_prefix('[') {
            Some(code) if status == "deferred" => code.split(']').next().unwrap(),
            _ => status.as_str(),
        };
        assert_eq!(found, expected, "{attempt:#}");
        let ground = attempt["tls_policy"].as_str().unwrap_or_default();
        assert!(ground.contains(policy), "no {policy} in {attempt:#}");
    }
}

pub fn answer(head: &str, body: &str) -> Reaction {
    Reaction::Write(format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into())
}

pub fn policy(mode: &str, mx: &str) -> Reaction {
    policy_for(mode, mx, 86_400)
}

fn policy_for(mode: &str, mx: &str, max_age_s: u32) -> Reaction {
    let body = format!("version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age_s}\r\n");
    answer("200 OK\r\nContent-Type: text/plain; charset=utf-8", &body)
}

#[tokio::test]
async fn a_policy_decides_by_mode_hosts_and_certificates() {
    let cases = [
        (
            Right,
            "enforce",
            "mx.d0.test",
            "delivered",
            "mta-sts enforce: the policy of d0.test names the host",
        ),
        (Right, "enforce", "*.d1.test", "delivered", "mta-sts enforce: "),
        (Strange, "enforce", "mx.d2.test", "tls_not_trusted", "mta-sts enforce: "),
        (NoTls, "enforce", "mx.d3.test", "tls_not_offered", "mta-sts enforce: "),
        (Right, "enforce", "mx.other.test", "mta_sts_host", "d4.test does not name the host"),
        (
            Right,
            "testing",
            "mx.d5.test",
            "delivered",
            "mta-sts testing: the policy of d5.test names the host",
        ),
        (Strange, "testing", "mx.d6.test", "delivered", "mta-sts testing: "),
        (NoTls, "testing", "mx.d7.test", "delivered", "mta-sts testing: "),
        (Strange, "testing", "mx.other.test", "delivered", "d8.test does not name the host"),
        (Strange, "none", "mx.other.test", "delivered", "no MTA-STS policy"),
    ];
    let stage = Stage::set(&cases.map(|case| case.0), 10_000).await;
    for (n, (shows, mode, mx, expected, ground)) in cases.into_iter().enumerate() {
        stage.policies.script([policy(mode, mx)]);
        let (status, attempt) = stage.send(n).await;
        let transcript = attempt["transcript"].as_str().unwrap().to_owned();
        assert_eq!(transcript.contains("policy is in testing mode"), n == 6, "{transcript}");
        let is_clear = attempt["tls"].is_null();
        stage.server.explains(&format!("d{n}.test"), &attempt, status == "delivered").await;
        stage.check((status, attempt), expected, ground);
        let taken = stage.hosts[n].transactions();
        assert_eq!(taken.len(), usize::from(expected == "delivered"), "{n}");
        assert_eq!(is_clear, matches!(shows, NoTls) || taken.is_empty(), "{n}");
    }
    let requests = stage.policies.requests();
    assert_eq!(requests.len(), 10);
    assert!(
        requests[0].head.starts_with("GET /.well-known/mta-sts.txt HTTP/1.1\r\n"),
        "{}",
        requests[0].head
    );
    let host = format!("mta-sts.d0.test:{}", stage.policies.address.port());
    assert_eq!(requests[0].header("host"), host);
}

#[tokio::test]
async fn a_policy_that_cannot_be_fetched_stops_no_mail_and_is_not_requested_again_immediately() {
    let plain = "200 OK\r\nContent-Type: text/plain";
    let good = "version: STSv1\r\nmode: enforce\r\nmx: mx.other.test\r\nmax_age: 86400\r\n";
    let oversized = format!("{good}{}", "x: y\r\n".repeat(20_000));
    let redirect = "301 Moved\r\nLocation: https://mta-sts.d0.test/other";
    let cases = [
        (answer("404 Not Found\r\nContent-Type: text/plain", good), "its server replied 404"),
        (answer(redirect, good), "its server replied 301"),
        (answer(plain, &oversized), "larger than 65536 octets"),
        (answer("200 OK\r\nContent-Type: text/html", good), "did not send the media type text/plain"),
        (answer("200 OK", good), "did not send the media type text/plain"),
        (answer(plain, "<html></html>"), "the policy has a line that is not a field"),
        (
            Reaction::WriteAndHang(format!("HTTP/1.1 {plain}\r\n\r\nversion").into()),
            "no complete response within",
        ),
    ];
    let stage = Stage::set(&[Strange; 9], 1500).await;
    let count = cases.len();
    for (n, (reaction, reason)) in cases.into_iter().enumerate() {
        stage.policies.script([reaction]);
        stage.check(stage.send(n).await, "delivered", reason);
        stage.check(stage.send(n).await, "delivered", reason);
    }
    assert_eq!(stage.policies.requests().len(), count);
    // The policy host has no address, an invalid record, or a certificate for other names.
    stage.dns.addresses(&format!("mta-sts.d{count}.test"), &[]);
    stage.check(stage.send(count).await, "delivered", "no records of this type in the DNS");
    stage.dns.fail(&format!("_mta-sts.d{}.test", count + 1));
    stage.check(stage.send(count + 1).await, "delivered", "DNS lookup failed");
    let other = "d0.d0.test";
    stage.dns.text(&format!("_mta-sts.{other}"), "v=STSv1; id=1");
    stage.dns.mx(other, &[(10, "mx.d0.test")]);
    stage.dns.addresses(&format!("mta-sts.{other}"), &[stage.policies.address.ip()]);
    stage.check(stage.send_to(other).await, "delivered", "certificate not valid for name");
    assert_eq!(stage.policies.requests().len(), count);
}

#[tokio::test]
async fn a_known_policy_applies_after_a_restart_whatever_the_dns_and_the_policy_host_say() {
    let mut stage = Stage::set(&[Strange], 10_000).await;
    stage.policies.script([policy("enforce", "mx.d0.test")]);
    stage.check(stage.send(0).await, "tls_not_trusted", "mta-sts enforce: ");
    stage.server.restart(|_| ()).await;
    stage.check(stage.send(0).await, "tls_not_trusted", "mta-sts enforce: ");
    assert_eq!(stage.policies.requests().len(), 1, "it is still there and fresh");
    stage.dns.text("_mta-sts.d0.test", "v=STSv1; id=2");
    stage.policies.script([answer("500 Down", "")]);
    stage.check(stage.send(0).await, "tls_not_trusted", "mta-sts enforce: ");
    assert_eq!(stage.policies.requests().len(), 2);
    stage.dns.text("_mta-sts.d0.test", "gone");
    stage.check(stage.send(0).await, "tls_not_trusted", "mta-sts enforce: ");
    stage.dns.fail("_mta-sts.d0.test");
    stage.check(stage.send(0).await, "tls_not_trusted", "mta-sts enforce: ");
    assert_eq!(stage.hosts[0].transactions(), []);
}

#[tokio::test]
async fn a_new_id_makes_the_relay_fetch_the_new_policy() {
    let stage = Stage::set(&[Right], 10_000).await;
    stage.policies.script([policy("enforce", "mx.other.test"), policy("enforce", "mx.d0.test")]);
    stage.check(stage.send(0).await, "mta_sts_host", "mta-sts enforce: ");
    stage.check(stage.send(0).await, "mta_sts_host", "mta-sts enforce: ");
    assert_eq!(stage.policies.requests().len(), 1);
    stage.dns.text("_mta-sts.d0.test", "v=STSv1; id=2");
    stage.check(stage.send(0).await, "delivered", "mta-sts enforce: ");
    stage.check(stage.send(0).await, "delivered", "mta-sts enforce: ");
    assert_eq!(stage.policies.requests().len(), 2);
}

#[tokio::test]
async fn the_configuration_may_require_more_than_the_policy() {
    let stage = {
        let mut stage = Stage::set(&[NoTls, Strange, Right, Right], 10_000).await;
        for n in 0..4 {
            stage.dns.text(&format!("_mta-sts.d{n}.test"), "none");
        }
        let minimums = [(0, "encrypted"), (1, "verified"), (2, "verified"), (3, "dane")];
        stage.server.config.relay.tls_minimum = minimums
            .map(|(n, minimum)| pillarbox::config::DestinationTls {
                domain: format!("d{n}.test").parse().unwrap(),
                minimum: minimum.parse().unwrap(),
            })
            .to_vec();
        stage.server.restart(|_| ()).await;
        stage
    };
    stage.check(stage.send(0).await, "tls_not_offered", "minimum encrypted: ");
    stage.check(stage.send(1).await, "tls_not_trusted", "minimum verified: ");
    stage.check(stage.send(2).await, "delivered", "minimum verified: ");
    stage.check(stage.send(3).await, "dane_missing", "minimum dane: ");
}

#[tokio::test]
async fn an_expired_policy_does_not_apply() {
    let stage = Stage::set(&[Strange], 10_000).await;
    stage.policies.script([policy_for("enforce", "mx.d0.test", 1)]);
    stage.check(stage.send(0).await, "tls_not_trusted", "mta-sts enforce: ");
    stage.dns.text("_mta-sts.d0.test", "gone");
    crate::wait::until("mail goes without the policy", async || {
        (stage.send(0).await.0 == "delivered").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_day_old_policy_applies_although_it_cannot_be_fetched_after_a_restart() {
    let mut stage = Stage::set(&[Strange], 10_000).await;
    stage.keep("d0.test", 25).await;
    stage.policies.script([answer("500 Down", ""), answer("500 Down", ""), answer("500 Down", "")]);
    stage.server.restart(|_| ()).await;
    stage.policies.wait_for(1).await;
    stage.check(stage.send(0).await, "tls_not_trusted", "mta-sts enforce: ");
    stage.policies.wait_for(2).await;
    stage.check(stage.send(0).await, "tls_not_trusted", "mta-sts enforce: ");
    assert_eq!(stage.hosts[0].transactions(), []);
}

#[tokio::test]
async fn a_policy_is_fetched_when_mail_is_sent_after_a_day_or_half_of_its_time_and_applies_meanwhile() {
    for (hours, lifetime_hours) in [(25, 168), (6, 10)] {
        let stage = Stage::set(&[Right], 10_000).await;
        stage.keep_for("d0.test", hours, lifetime_hours).await;
        stage.policies.script([policy("enforce", "mx.other.test")]);
        stage.check(stage.send(0).await, "delivered", "the policy of d0.test names the host");
        stage.policies.wait_for(1).await;
        stage.wait_for_policy("d0.test", "mx.other.test").await;
        stage.check(stage.send(0).await, "mta_sts_host", "mta-sts enforce: ");
        assert_eq!(stage.policies.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_day_old_policy_is_fetched_although_no_mail_is_sent() {
    let mut stage = Stage::set(&[Right, Right], 10_000).await;
    stage.keep("d0.test", 25).await;
    stage.keep("d1.test", 23).await;
    stage.policies.script([policy("enforce", "mx.other.test")]);
    stage.server.restart(|_| ()).await;
    let requests = stage.policies.wait_for(1).await;
    assert!(requests[0].header("host").starts_with("mta-sts.d0.test:"), "{}", requests[0].head);
    stage.wait_for_policy("d0.test", "mx.other.test").await;
    stage.check(stage.send(0).await, "mta_sts_host", "mta-sts enforce: ");
    stage.check(stage.send(1).await, "delivered", "mta-sts enforce: the policy of d1.test names the host");
    assert_eq!(stage.policies.requests().len(), 1);
}
