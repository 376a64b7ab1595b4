//! AUTH SCRAM-SHA-256 and SCRAM-SHA-256-PLUS with the keys of a real server (RFC 5802, RFC 7677, RFC 9266).

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::client::{Client, Reply};
use crate::fake_dns::FakeDns;
use crate::identity::{trust_pem, trust_pem_with};
use crate::server::{Account, HOSTNAME, TestServer, message};

const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

async fn server() -> (FakeDns, TestServer, Account) {
    server_with(false).await
}

async fn server_with(scram_plus: bool) -> (FakeDns, TestServer, Account) {
    let dns = FakeDns::start().await;
    let server = TestServer::start_with(&dns, 1, |config| config.smtp.scram_plus = scram_plus).await;
    let account = server.create_account("acme.test").await;
    (dns, server, account)
}

async fn connect(server: &TestServer) -> Client {
    let trust = trust_pem(&server.certificate_pem());
    let mut client = Client::connect_implicit(server.submissions(), HOSTNAME, trust).await;
    client.ehlo().await;
    client
}

/// The header of the client's first message, and the channel binding.
struct Binding<'a> {
    mechanism: &'a str,
    flag: &'a str,
    channel: &'a [u8],
}

const UNBOUND: Binding<'_> = Binding { mechanism: "SCRAM-SHA-256", flag: "n", channel: b"" };

/// Performs the client's side (RFC 5802 §3) and checks the server's proof. Returns the last reply.
async fn prove(client: &mut Client, user: &str, password: &str, binding: &Binding<'_>) -> Reply {
    let bare = format!("n={user},r={NONCE}");
    let first = BASE64_STANDARD.encode(format!("{},,{bare}", binding.flag));
    let asked = client.command(&format!("AUTH {} {first}", binding.mechanism)).await;
    if asked.code != 334 {
        return asked;
    }
    let challenge = decode(&asked);
    let part = |name: &str| challenge.split(',').find_map(|part| part.strip_prefix(name)).unwrap().to_owned();
    let (nonce, salt, iterations) = (part("r="), part("s="), part("i="));
    assert!(nonce.starts_with(NONCE) && nonce.len() >= NONCE.len() + 24, "{nonce}");

    let mut salted = [0; 32];
    let iterations: NonZeroU32 = iterations.parse().unwrap();
    assert!(iterations.get() >= 4096, "RFC 7677 §4");
    let salt = BASE64_STANDARD.decode(salt).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let mac =
        |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec();
    let client_key = mac(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, &client_key);
    let bound = [format!("{},,", binding.flag).as_bytes(), binding.channel].concat();
    let last = format!("c={},r={nonce}", BASE64_STANDARD.encode(bound));
    let auth_message = format!("{bare},{challenge},{last}");
    let signature = mac(stored_key.as_ref(), auth_message.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    let last = BASE64_STANDARD.encode(format!("{last},p={}", BASE64_STANDARD.encode(proof)));
    let answered = client.command(&last).await;
    if answered.code != 334 {
        return answered;
    }
    let expected = mac(&mac(&salted, b"Server Key"), auth_message.as_bytes());
    assert_eq!(
        decode(&answered),
        format!("v={}", BASE64_STANDARD.encode(expected)),
        "the server knows the key"
    );
    client.command("").await
}

fn decode(reply: &Reply) -> String {
    String::from_utf8(BASE64_STANDARD.decode(&reply.text()[4..]).unwrap()).unwrap()
}

#[tokio::test]
async fn a_key_is_proved_without_being_sent_and_may_then_submit() {
    let (_dns, server, account) = server().await;
    let mut client = connect(&server).await;
    let user = format!("{}@mail.example", account.user);
    prove(&mut client, &user, &account.secret, &UNBOUND).await.expect_saying(235, "2.7.0");
    client.send("alice@acme.test", &["bob@b.test"], &message(&account, "scram")).await.expect_code(250);
    client.command("AUTH PLAIN AAA=").await.expect_code(503);
}

#[tokio::test]
async fn a_platform_key_is_proved_and_submits_for_the_default_tenant() {
    let (_dns, server, account) = server().await;
    let domain = json!({"name": "own.test", "verification": "manual"});
    server.control.ok("POST", "/v1/domains", domain).await;
    let keys = server.control.get("/v1/keys").await["data"].as_array().unwrap().clone();
    let key = keys.iter().find(|key| key["tenant_id"].is_null()).unwrap();
    let mut client = connect(&server).await;
    let user = key["id"].as_str().unwrap();
    prove(&mut client, user, &server.control.secret, &UNBOUND).await.expect_code(235);
    let account = Account { domain: "own.test".into(), ..account };
    client.send("alice@own.test", &["bob@b.test"], &message(&account, "scram")).await.expect_code(250);
}

#[tokio::test]
async fn by_default_plus_is_neither_offered_nor_taken_and_no_downgrade_is_suspected() {
    let (_dns, server, account) = server().await;
    let mut client = connect(&server).await;
    let offer = client.ehlo().await.expect_saying(250, "AUTH SCRAM-SHA-256 PLAIN LOGIN").text();
    assert!(!offer.contains("PLUS"), "{offer}");
    let channel = client.exporter().expect("TLS 1.3");
    let plus = Binding { mechanism: "SCRAM-SHA-256-PLUS", flag: "p=tls-exporter", channel: &channel };
    prove(&mut client, &account.user, &account.secret, &plus).await.expect_code(504);
    // The client supports channel binding and sees that the server does not.
    let unbound = Binding { flag: "y", ..UNBOUND };
    prove(&mut client, &account.user, &account.secret, &unbound).await.expect_code(235);
}

#[tokio::test]
async fn a_proof_is_bound_to_the_channel_if_both_sides_support_it() {
    let (_dns, server, account) = server_with(true).await;
    let mut client = connect(&server).await;
    client.ehlo().await.expect_saying(250, "AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
    let channel = client.exporter().expect("TLS 1.3");
    let plus = |channel| Binding { mechanism: "SCRAM-SHA-256-PLUS", flag: "p=tls-exporter", channel };
    prove(&mut client, &account.user, &account.secret, &plus(&[0; 32])).await.expect_saying(535, "5.7.8");
    // A client that supports channel binding and sees no PLUS has been attacked (RFC 5802 §6).
    let fooled = Binding { flag: "y", ..UNBOUND };
    prove(&mut client, &account.user, &account.secret, &fooled).await.expect_saying(535, "5.7.8");
    prove(&mut client, &account.user, &account.secret, &plus(&channel)).await.expect_code(235);
}

#[tokio::test]
async fn over_tls_1_2_plus_is_not_offered() {
    let (_dns, server, account) = server_with(true).await;
    let trust = trust_pem_with(&server.certificate_pem(), &[&tokio_rustls::rustls::version::TLS12]);
    let mut client = Client::connect_implicit(server.submissions(), HOSTNAME, trust).await;
    client.ehlo().await.expect_saying(250, "AUTH SCRAM-SHA-256 PLAIN LOGIN");
    prove(&mut client, &account.user, &account.secret, &Binding { flag: "y", ..UNBOUND })
        .await
        .expect_code(235);
}

#[tokio::test]
async fn an_unknown_user_looks_like_a_user_with_another_password() {
    let (_dns, server, account) = server().await;
    let stranger = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let mut salts = Vec::new();
    for user in [stranger, &account.user, "nobody", stranger, &account.user, "nobody"] {
        let mut client = connect(&server).await;
        let first = BASE64_STANDARD.encode(format!("n,,n={user},r={NONCE}"));
        let challenge =
            decode(&client.command(&format!("AUTH SCRAM-SHA-256 {first}")).await.expect_code(334));
        salts.push(challenge.split(',').nth(1).unwrap().to_owned());
        assert_eq!(salts[salts.len() - 1].len(), salts[0].len());
        client.command("*").await.expect_code(501);
    }
    assert_eq!(salts[..3], salts[3..], "the same each time");
    assert!(salts[0] != salts[1] && salts[1] != salts[2] && salts[0] != salts[2]);
    let mut replies = Vec::new();
    for user in [stranger, &account.user, "nobody"] {
        replies
            .push(prove(&mut connect(&server).await, user, "wrong", &UNBOUND).await.expect_code(535).text());
    }
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
}

#[tokio::test]
async fn a_slug_names_the_key_of_a_tenant_that_has_only_one_usable() {
    let (_dns, server, account) = server().await;
    let mut client = connect(&server).await;
    prove(&mut client, "acme-test", &account.secret, &UNBOUND).await.expect_code(235);
    let wanted = json!({"name": "second", "tenant_id": account.tenant_id, "scopes": ["smtp:send"]});
    let second = server.control.ok("POST", "/v1/keys", wanted).await;
    let mut client = connect(&server).await;
    prove(&mut client, "acme-test", &account.secret, &UNBOUND).await.expect_saying(535, "key id");
    let (id, secret) = (second["id"].as_str().unwrap(), second["secret"].as_str().unwrap());
    prove(&mut client, id, secret, &UNBOUND).await.expect_code(235);
    server.control.ok("DELETE", &format!("/v1/keys/{id}"), json!(null)).await;
    let mut client = connect(&server).await;
    prove(&mut client, id, secret, &UNBOUND).await.expect_saying(535, "[revoked_api_key]");
    prove(&mut client, "acme-test", &account.secret, &UNBOUND).await.expect_code(235);
    // A key that has expired is no second one.
    let until = server.clock.now() + std::time::Duration::from_secs(3600);
    let wanted = json!({
        "name": "third", "tenant_id": account.tenant_id, "scopes": ["smtp:send"], "expires_at": until,
    });
    server.control.ok("POST", "/v1/keys", wanted).await;
    let mut client = connect(&server).await;
    prove(&mut client, "acme-test", &account.secret, &UNBOUND).await.expect_saying(535, "key id");
    server.clock.advance(std::time::Duration::from_secs(3600));
    let mut client = connect(&server).await;
    prove(&mut client, "acme-test", &account.secret, &UNBOUND).await.expect_code(235);
    // If it is the only one, its owner learns why it is refused.
    let path = format!("/v1/keys/{}", account.user);
    let expiry = server.clock.now() + std::time::Duration::from_secs(60);
    server.control.ok("PATCH", &path, json!({"expires_at": expiry})).await;
    let keys = server.control.get(&format!("/v1/keys?tenant_id={}", account.tenant_id)).await;
    for key in keys["data"].as_array().unwrap().iter().filter(|key| key["id"] != *account.user) {
        server.control.ok("DELETE", &format!("/v1/keys/{}", key["id"].as_str().unwrap()), json!(null)).await;
    }
    server.clock.advance(std::time::Duration::from_secs(60));
    let mut client = connect(&server).await;
    let refused = prove(&mut client, "acme-test", &account.secret, &UNBOUND).await;
    refused.expect_saying(535, "[expired_api_key]");
}

#[tokio::test]
async fn after_a_rotation_both_secrets_log_in_with_every_mechanism_until_the_old_one_ends() {
    let (_dns, server, account) = server().await;
    let rotate = async |seconds: u32| {
        let path = format!("/v1/keys/{}/rotate", account.user);
        let rotated = server.control.ok("POST", &path, json!({"expires_in": seconds})).await;
        rotated["secret"].as_str().unwrap().to_owned()
    };
    let new = rotate(3600).await;
    for secret in [&account.secret, &new] {
        for user in [account.user.as_str(), "acme-test"] {
            prove(&mut connect(&server).await, user, secret, &UNBOUND).await.expect_code(235);
            connect(&server).await.auth_plain(user, secret).await.expect_code(235);
        }
    }
    server.clock.advance(std::time::Duration::from_secs(3600));
    let ended = "has a new secret, and this one expired at";
    let mut client = connect(&server).await;
    prove(&mut client, &account.user, &account.secret, &UNBOUND).await.expect_saying(535, ended);
    let refused = connect(&server).await.auth_plain(&account.user, &account.secret).await;
    refused.expect_saying(535, "[expired_api_key]").expect_saying(535, ended);
    // The session of a secret ends with it, that of another secret goes on.
    let mut old = connect(&server).await;
    prove(&mut old, &account.user, &new, &UNBOUND).await.expect_code(235);
    let newest = rotate(0).await;
    let mut young = connect(&server).await;
    prove(&mut young, &account.user, &newest, &UNBOUND).await.expect_code(235);
    old.command("MAIL FROM:<app@acme.test>").await.expect_saying(530, "[expired_api_key]");
    young.command("MAIL FROM:<app@acme.test>").await.expect_code(250);
}
