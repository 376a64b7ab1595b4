//! The PROXY protocol: from configured addresses the header names the client, from others it is an unknown command.

use std::net::IpAddr;

use serde_json::json;

use crate::client::Client;
use crate::fake_dns::FakeDns;
use crate::http::request;
use crate::identity::trust_pem;
use crate::server::{HOSTNAME, TestServer, message, message_id};
use crate::submission_stage::{self, SubmissionStage};

async fn behind_a_proxy() -> SubmissionStage {
    SubmissionStage::with(|limits| {
        limits.proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()];
        limits.connections_per_address_max = 1;
    })
    .await
}

/// A connection that begins with these octets.
async fn open(stage: &SubmissionStage, header: &[u8]) -> Client {
    let mut client = Client::open(stage.submission, submission_stage::HOSTNAME).await;
    client.write(header).await;
    client
}

fn version_two(client: &str) -> Vec<u8> {
    let (family, address) = match client.parse().unwrap() {
        IpAddr::V4(v4) => (0x11, v4.octets().to_vec()),
        IpAddr::V6(v6) => (0x21, v6.octets().to_vec()),
    };
    let addresses = [&address[..], &address, &[1, 2, 3, 4]].concat();
    let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21"[..], &[family], &length, &addresses].concat()
}

#[tokio::test]
async fn limits_apply_to_the_client_that_the_proxy_names() {
    let stage = behind_a_proxy().await;
    let v4 = b"PROXY TCP4 192.0.2.1 127.0.0.1 50000 587\r\n";
    let mut first = open(&stage, v4).await;
    first.read_reply().await.expect_code(220);
    let mut second = open(&stage, &version_two("2001:db8::1")).await;
    second.read_reply().await.expect_code(220);
    open(&stage, v4)
        .await
        .read_reply()
        .await
        .expect_saying(421, "4.7.0 Too many connections from your address");
    open(&stage, &version_two("2001:db8::2")).await.read_reply().await.expect_code(421);
    first.ehlo().await;
    second.ehlo().await;
    // A connection that the proxy opens for itself counts for its own address.
    let mut health_check = open(&stage, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await;
    health_check.read_reply().await.expect_code(220);
    open(&stage, b"PROXY UNKNOWN\r\n").await.read_reply().await.expect_code(421);
    health_check.command("QUIT").await.expect_code(221);
}

#[tokio::test]
async fn commands_may_arrive_in_one_segment_with_the_header() {
    let stage = behind_a_proxy().await;
    let mut client = open(&stage, b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\nNOOP\r\n").await;
    client.read_reply().await.expect_code(220);
    client.read_reply().await.expect_code(250);
}

#[tokio::test]
async fn a_proxy_without_a_header_gets_no_greeting() {
    let stage = behind_a_proxy().await;
    let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    // The last header never ends; the server waits for it for some seconds.
    for header in [&b"EHLO client.example\r\n"[..], b"PROXY TCP4 999.0.2.1 ::1 1 2\r\n", &long, b"PROXY TCP4"]
    {
        open(&stage, header).await.expect_close().await;
    }
}

#[tokio::test]
async fn other_clients_cannot_name_another_address() {
    let elsewhere = vec!["192.0.2.0/24".parse().unwrap()];
    let stage = SubmissionStage::with(|limits| limits.proxy_protocol_from = elsewhere).await;
    let mut client = open(&stage, b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n").await;
    client.read_reply().await.expect_code(220);
    client.read_reply().await.expect_saying(500, "5.5.1");
}

async fn connect(server: &TestServer, from: &str) -> Client {
    let mut client = Client::open(server.submissions(), HOSTNAME).await;
    client.write(&version_two(from)).await;
    let mut client = client.into_tls(trust_pem(&server.certificate_pem())).await.unwrap();
    client.read_reply().await.expect_code(220);
    client.ehlo().await;
    client
}

#[tokio::test]
async fn key_networks_and_received_fields_use_the_clients_address() {
    let dns = FakeDns::start().await;
    let server = TestServer::start_with(&dns, 1, |config| {
        config.smtp.proxy_protocol_from = vec!["127.0.0.1/32".parse().unwrap()];
        config.smtp.received_includes_client_address = true;
    })
    .await;
    let account = server.create_account("acme.test").await;
    let change = json!({"allowed_cidrs": ["203.0.113.0/24"]});
    server.control.ok("PATCH", &format!("/v1/keys/{}", account.user), change).await;
    let mut client = connect(&server, "198.51.100.1").await;
    client.auth_plain(&account.user, &account.secret).await.expect_saying(535, "198.51.100.1");
    let mut client = connect(&server, "203.0.113.7").await;
    client.auth_plain(&account.user, &account.secret).await.expect_code(235);
    let reply = client.send("alice@acme.test", &["bob@b.test"], &message(&account, "proxy")).await;
    let path = format!("/v1/emails/{}/raw", message_id(&reply.expect_code(250)));
    let raw = request(server.control.address, "GET", &path, Some(&server.control.secret), None).await;
    let raw = String::from_utf8_lossy(&raw.body).into_owned();
    assert!(raw.contains("203.0.113.7") && !raw.contains("127.0.0.1"), "{raw}");
}
