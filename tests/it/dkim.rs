//! DKIM: an independent verifier, which looks up the records that the API shows, accepts the signatures.

use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator};
use pillarbox::model::DkimAlgorithm;
use serde_json::{Value, json};

use crate::fake_dns::FakeDns;
use crate::fake_mx::FakeMx;
use crate::server::{Account, TestServer, one_destination, text};
use crate::wait::until;

/// No body here ends in lines of white space: the verifier hashes such bodies wrongly (our signer corrects this fault
/// of the library). The tests with real clients cover them with dkimpy.
const CONTENT: &[u8] =
    "From: Alice <alice@acme.test>\r\nTo: bob@b.test\r\nSubject:  folded\r\n  subject \r\n\r\n\
    Hello.\r\n.\r\ntrailing \t \r\n  Grüße\r\n\r\n\r\n"
        .as_bytes();

pub async fn setting() -> (FakeDns, FakeMx, TestServer, Account) {
    let (dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    (dns, mx, server, account)
}

/// Publishes the records that a domain should have, without `except`.
pub fn publish(dns: &FakeDns, domain: &Value, except: &[&str]) {
    for record in domain["dns_records"].as_array().unwrap() {
        if except.contains(&record["purpose"].as_str().unwrap()) {
            continue;
        }
        let (name, value) = (record["name"].as_str().unwrap(), record["value"].as_str().unwrap());
        match record["type"].as_str().unwrap() {
            "TXT" => dns.text(name, value),
            "CNAME" => dns.alias(name, value),
            "MX" => {
                let (preference, host) = value.split_once(' ').unwrap();
                dns.mx(name, &[(preference.parse().unwrap(), host)]);
            }
            other => panic!("a record of type {other}"),
        }
    }
}

async fn domain(server: &TestServer, account: &Account) -> Value {
    server.control.get(&format!("/v1/domains/{}", account.domain_id)).await
}

/// The results of all signatures: domain, selector, algorithm, and whether the signature is valid.
pub async fn verify(dns: &FakeDns, content: &[u8]) -> Vec<(String, String, String, bool)> {
    let mut server = NameServerConfig::udp_and_tcp(dns.address.ip());
    for connection in &mut server.connections {
        connection.port = dns.address.port();
    }
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().timeout = Duration::from_secs(5);
    let authenticator = MessageAuthenticator(builder.build().unwrap());
    let message = AuthenticatedMessage::parse(content).expect("a message");
    let outputs = authenticator.verify_dkim(&message).await;
    let results = outputs.iter().map(|output| {
        let signature = output.signature().expect("a signature");
        let holds = output.result() == &DkimResult::Pass;
        (signature.d.clone(), signature.s.clone(), format!("{:?}", signature.a), holds)
    });
    results.collect()
}

#[tokio::test]
async fn signatures_are_valid_with_the_records_that_the_api_shows() {
    let (dns, mx, server, account) = setting().await;
    publish(&dns, &domain(&server, &account).await, &[]);
    server.submit(&account, &["bob@b.test"], CONTENT).await;
    let received = mx.wait_for(1).await.remove(0).content;
    let results = verify(&dns, &received).await;
    assert!(results.iter().any(|(_, _, algorithm, _)| algorithm == "RsaSha256"), "{results:?}");
    for (d, _, _, holds) in &results {
        assert!(d == "acme.test" && *holds, "{results:?}");
    }

    let whole = String::from_utf8(received.clone()).unwrap();
    let unfolded = whole.replace("\r\n\t", " ").replace("\r\n ", " ");
    let signed = unfolded.split("h=").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
    let from = signed.split(':').filter(|name| name.trim().eq_ignore_ascii_case("from")).count();
    assert_eq!(from, 2, "From is over-signed: {signed}");
    for part in [" l=", "\tl="] {
        assert!(!unfolded.split("\r\nReceived").next().unwrap().contains(part), "no length: {unfolded}");
    }

    let added = [b"From: mallory@evil.test\r\n", &received[..]].concat();
    assert!(
        verify(&dns, &added).await.iter().all(|(.., holds)| !holds),
        "a second From breaks the signature"
    );
    let changed = whole.replace("Hello.", "Hallo.");
    assert!(
        verify(&dns, changed.as_bytes()).await.iter().all(|(.., holds)| !holds),
        "and so does a new body"
    );
}

#[tokio::test]
async fn a_mailing_list_may_add_fields_that_the_message_does_not_have() {
    let (dns, mx, server, account) = setting().await;
    publish(&dns, &domain(&server, &account).await, &[]);
    server.submit(&account, &["bob@b.test"], CONTENT).await;
    let received = mx.wait_for(1).await.remove(0).content;
    for name in [
        "Sender",
        "Reply-To",
        "Cc",
        "In-Reply-To",
        "References",
        "MIME-Version",
        "Content-Type",
        "List-Id",
        "List-Help",
        "List-Unsubscribe",
        "List-Unsubscribe-Post",
        "List-Post",
        "List-Archive",
    ] {
        let field = format!("{name}: <list@lists.test>\r\n");
        let resent = [field.as_bytes(), &received[..]].concat();
        let results = verify(&dns, &resent).await;
        assert!(!results.is_empty() && results.iter().all(|(.., holds)| *holds), "{name}: {results:?}");
    }
    for name in ["Subject", "To", "Date", "Message-ID"] {
        let text = String::from_utf8_lossy(&received).into_owned();
        let changed = text.replacen(&format!("\r\n{name}: "), &format!("\r\n{name}: x"), 1);
        let results = verify(&dns, changed.as_bytes()).await;
        assert!(changed != text && results.iter().all(|(.., holds)| !holds), "{name} is signed: {results:?}");
    }
}

#[tokio::test]
async fn a_display_name_that_must_be_quoted_is_quoted_before_the_signature() {
    let (dns, mx, server, account) = setting().await;
    publish(&dns, &domain(&server, &account).await, &[]);
    for (count, (author, quoted)) in [
        ("alice@acme.test <alice@acme.test>", "\"alice@acme.test\" <alice@acme.test>"),
        ("Doe, Alice\r\n\t<alice@acme.test> (work)", "\"Doe, Alice\" <alice@acme.test>"),
        ("[Acme] A & B; sons <alice@acme.test>", "\"[Acme] A & B; sons\" <alice@acme.test>"),
    ]
    .into_iter()
    .enumerate()
    {
        let content = format!("Subject: x\r\nFrom: {author}\r\nTo: bob@b.test\r\n\r\nbody\r\n");
        server.submit(&account, &["bob@b.test"], content.as_bytes()).await;
        let received = mx.wait_for(count + 1).await.remove(count).content;
        let text = String::from_utf8_lossy(&received);
        let expected = format!("\r\nSubject: x\r\nFrom: {quoted}\r\nTo: bob@b.test\r\n\r\nbody\r\n");
        assert!(text.ends_with(&expected), "{text}");
        let results = verify(&dns, &received).await;
        assert!(!results.is_empty() && results.iter().all(|(.., holds)| *holds), "{author}: {results:?}");
    }
}

#[tokio::test]
async fn mail_from_a_subdomain_is_signed_by_the_domain_that_covers_it() {
    let (dns, mx, server, account) = setting().await;
    publish(&dns, &domain(&server, &account).await, &[]);
    let content = b"From: alice@news.acme.test\r\nSubject: x\r\n\r\nbody\r\n";
    let reply = server.log_in(&account).await.send("bounces@acme.test", &["bob@b.test"], content).await;
    reply.expect_code(250);
    let results = verify(&dns, &mx.wait_for(1).await[0].content).await;
    assert!(
        !results.is_empty() && results.iter().all(|(d, .., holds)| d == "acme.test" && *holds),
        "{results:?}"
    );
}

#[tokio::test]
async fn a_domain_can_send_only_after_its_records_are_verified() {
    let (dns, mx, server, account) = setting().await;
    let wanted = json!({"name": "proved.test", "tenant_id": account.tenant_id});
    let pending = server.control.ok("POST", "/v1/domains", wanted).await;
    assert_eq!(pending["status"], "pending", "{pending}");
    let path = format!("/v1/domains/{}", text(&pending["id"]));
    let mut client = server.log_in(&account).await;
    let refused = client.command("MAIL FROM:<a@proved.test>").await;
    refused.expect_saying(550, "[sender_domain_not_verified]");

    publish(&dns, &pending, &["ownership"]);
    let checked = server.control.ok("POST", &format!("{path}/verify"), json!({})).await;
    assert_eq!(checked["status"], "pending", "the proof is missing: {checked}");

    publish(&dns, &pending, &[]);
    let checked = server.control.ok("POST", &format!("{path}/verify"), json!({})).await;
    assert_eq!(checked["status"], "verified", "{checked}");
    until("the server takes the domain", async || {
        let reply = client.command("MAIL FROM:<a@proved.test>").await;
        if reply.code == 250 {
            client.command("RSET").await.expect_code(250);
        }
        (reply.code == 250).then_some(())
    })
    .await;
    client
        .send("a@proved.test", &["bob@b.test"], b"From: a@proved.test\r\n\r\nproved\r\n")
        .await
        .expect_code(250);
    let results = verify(&dns, &mx.wait_for(1).await[0].content).await;
    assert!(
        !results.is_empty() && results.iter().all(|(d, .., holds)| d == "proved.test" && *holds),
        "{results:?}"
    );
}

pub fn private_key_pem(algorithm: DkimAlgorithm) -> String {
    let pair = pillarbox::dkim::generate(algorithm).unwrap();
    let der = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &*pair.private_key);
    let lines: Vec<_> = der.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

#[tokio::test]
async fn a_domain_with_an_ed25519_key_has_two_signatures() {
    let (dns, mx, server, account) = setting().await;
    let path = format!("/v1/domains/{}/dkim", account.domain_id);
    let pem = private_key_pem(DkimAlgorithm::Ed25519);
    server.control.ok("POST", &path, json!({"selector": "ed", "private_key": pem})).await;
    publish(&dns, &domain(&server, &account).await, &[]);
    server.submit(&account, &["bob@b.test"], CONTENT).await;
    let results = verify(&dns, &mx.wait_for(1).await[0].content).await;
    let mut algorithms: Vec<_> = results.iter().map(|(_, _, algorithm, _)| algorithm.as_str()).collect();
    algorithms.sort_unstable();
    assert_eq!(algorithms, ["Ed25519Sha256", "RsaSha256"]);
    assert!(results.iter().all(|(.., holds)| *holds), "{results:?}");
}

#[tokio::test]
async fn a_route_selects_the_signatures_and_the_remaining_ones_are_valid() {
    let dns = FakeDns::start().await;
    let mx = FakeMx::start().await;
    let routes = [("both.test", "all"), ("rsa.test", "rsa"), ("none.test", "none")];
    let text = routes.map(|(domain, dkim)| {
        dns.mx(domain, &[(10, "mx.b.test")]);
        format!("[[relay.routes]]\ndestinations = [\"{domain}\"]\ndkim = \"{dkim}\"\n")
    });
    dns.addresses("mx.b.test", &[mx.address.ip()]);
    let parsed = pillarbox::config::Config::parse(&text.concat(), "routes.toml".as_ref()).unwrap();
    let server =
        TestServer::start_with(&dns, mx.address.port(), |config| config.relay.routes = parsed.relay.routes)
            .await;
    let account = server.create_account("acme.test").await;
    let path = format!("/v1/domains/{}/dkim", account.domain_id);
    let pem = private_key_pem(DkimAlgorithm::Ed25519);
    server.control.ok("POST", &path, json!({"selector": "ed", "private_key": pem})).await;
    publish(&dns, &domain(&server, &account).await, &[]);
    let recipients = routes.map(|(domain, _)| format!("bob@{domain}"));
    server.submit(&account, &recipients.each_ref().map(String::as_str), CONTENT).await;
    for transaction in mx.wait_for(3).await {
        let results = verify(&dns, &transaction.content).await;
        let mut algorithms: Vec<_> = results.iter().map(|(_, _, algorithm, _)| algorithm.as_str()).collect();
        algorithms.sort_unstable();
        let expected: &[&str] = match transaction.recipients[0].as_str() {
            "bob@both.test" => &["Ed25519Sha256", "RsaSha256"],
            "bob@rsa.test" => &["RsaSha256"],
            _ => &[],
        };
        assert_eq!(algorithms, expected, "{:?}", transaction.recipients);
        assert!(results.iter().all(|(.., holds)| *holds), "{results:?}");
        let prefix = transaction.prefix_before(CONTENT);
        assert_eq!(prefix.matches("DKIM-Signature:").count(), expected.len());
        assert!(prefix.contains("Received: "), "{prefix}");
    }
}

#[tokio::test]
async fn an_imported_key_signs() {
    let (dns, mx, server, account) = setting().await;
    let pem = private_key_pem(DkimAlgorithm::Rsa);
    let path = format!("/v1/domains/{}/dkim", account.domain_id);
    let added = server.control.ok("POST", &path, json!({"selector": "mine", "private_key": pem})).await;
    assert!(!added.to_string().contains(pem.lines().nth(4).unwrap()), "never readable again");
    publish(&dns, &domain(&server, &account).await, &[]);
    server.submit(&account, &["bob@b.test"], CONTENT).await;
    let results = verify(&dns, &mx.wait_for(1).await[0].content).await;
    let own: Vec<_> = results.iter().filter(|(_, selector, ..)| selector == "mine").collect();
    assert!(own.len() == 1 && results.iter().all(|(.., holds)| *holds), "{results:?}");
}
