//! Tests of the fixtures: the fake servers behave as the other tests rely on.

use std::net::IpAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RecordType;

use crate::client::Client;
use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::identity::Identity;
use crate::wire::Wire;

#[tokio::test]
async fn the_fake_dns_answers_and_changes_its_records() {
    let dns = FakeDns::start().await;
    let resolver = resolver(&dns);
    assert!(resolver.lookup("a.test.", RecordType::MX).await.unwrap_err().is_nx_domain());
    dns.mx("a.test", &[(10, "mx1.a.test"), (20, "mx2.a.test")]);
    dns.addresses("mx1.a.test", &["127.0.0.9".parse::<IpAddr>().unwrap()]);
    dns.alias("www.a.test", "mx1.a.test");
    let long = "x".repeat(700);
    dns.text("key.a.test", &long);
    assert_eq!(resolver.lookup("a.test.", RecordType::MX).await.unwrap().answers().len(), 2);
    assert_eq!(resolver.lookup("www.a.test.", RecordType::A).await.unwrap().answers().len(), 2);
    let text = resolver.lookup("key.a.test.", RecordType::TXT).await.unwrap().answers()[0].data.to_string();
    assert_eq!(text.matches('x').count(), 700, "longer than a UDP answer may be");
    assert!(resolver.lookup("mx1.a.test.", RecordType::MX).await.unwrap_err().is_no_records_found());
    dns.fail("a.test");
    assert!(!resolver.lookup("a.test.", RecordType::MX).await.unwrap_err().is_nx_domain());
    dns.mend("a.test");
    assert!(resolver.lookup("a.test.", RecordType::MX).await.is_ok());
    assert!(dns.queries("a.test") >= 4);
}

fn resolver(dns: &FakeDns) -> TokioResolver {
    let mut server = NameServerConfig::udp_and_tcp(dns.address.ip());
    for connection in &mut server.connections {
        connection.port = dns.address.port();
    }
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().attempts = 0;
    builder.build().unwrap()
}

#[tokio::test]
async fn the_fake_mx_records_exact_octets_and_follows_its_script() {
    let identity = Identity::new(&["fake.test"]);
    let offer =
        Offer { tls: Some(identity.server_config()), account: Some(("user", "secret")), ..Offer::default() };
    let mx = FakeMx::with(offer).await;
    mx.script(Phase::Rcpt, "no@", 1, Fault::Reply("550 5.1.1 nobody"));
    mx.script(Phase::Dot, "", 1, Fault::Reply("451 4.3.0 later"));

    let mut client = Client::connect(mx.address, "fake.test").await;
    client.ehlo().await;
    let mut client = client.starttls(identity.client_config()).await;
    client.command("MAIL FROM:<a@a.test>").await.expect_code(530);
    client.auth_plain("user", "secret").await.expect_code(235);
    let message = b"Subject: x\r\n\r\n.\r\n..a\r\n.b\r\n \xff\r\n";
    client.command("MAIL FROM:<a@a.test> SIZE=9").await.expect_code(250);
    client.command("RCPT TO:<no@b.test>").await.expect_code(550);
    client.command("RCPT TO:<yes@b.test>").await.expect_code(250);
    client.data(message).await.expect_code(451);
    client.send("a@a.test", &["no@b.test", "yes@b.test"], message).await.expect_code(250);
    client.command("QUIT").await.expect_code(221);
    client.expect_close().await;

    let all = mx.transactions();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].content, message);
    assert_eq!(all[0].recipients, ["no@b.test", "yes@b.test"]);
    assert_eq!((all[0].tls, all[0].user.as_deref()), (true, Some("user")));
    assert_eq!(all[0].mail_parameters, "BODY=8BITMIME");
    assert_eq!(mx.connections().len(), 1);
}

#[tokio::test]
async fn a_fake_mx_without_a_listener_serves_connections_in_memory() {
    let address = "192.0.2.1:25".parse().unwrap();
    let mx = FakeMx::offline(address, Offer::default());
    let (near, far) = tokio::io::duplex(1024);
    let (number, session) = mx.open(Wire::of(far), address.ip());
    tokio::spawn(session);
    let greeting = Wire::of(near).read_line().await.unwrap().unwrap();
    assert_eq!((number, greeting.as_slice()), (0, &b"220 fake.test ESMTP"[..]));
    assert_eq!(mx.connections()[0].source, Some(address.ip()));
}

#[tokio::test]
async fn several_fake_servers_share_a_port_and_can_close_after_recording_a_message() {
    let servers = FakeMx::several(vec![Offer::default(), Offer::default()]).await;
    assert_eq!(servers[0].address.port(), servers[1].address.port());
    servers[1].script(Phase::Dot, "", 1, Fault::Counted(&Fault::Drop));
    let mut client = Client::connect(servers[1].address, "fake.test").await;
    client.ehlo().await;
    client.command("MAIL FROM:<>").await.expect_code(250);
    client.command("RCPT TO:<a@b.test>").await.expect_code(250);
    client.command("DATA").await.expect_code(354);
    client.write(b".\r\n").await;
    assert_eq!(client.try_read_reply().await, None);
    let all = servers[1].wait_for(1).await;
    assert_eq!((all[0].content.as_slice(), all[0].wire.as_slice()), (&b""[..], &b".\r\n"[..]));
    assert!(servers[0].transactions().is_empty());
}
