//! Mail that is not delivered immediately: later attempts, restarts, failing servers, expiry.

use pillarbox::config::Config;

use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::report::expect_report;
use crate::server::{LIFETIME_MAX, RETRY_DELAY_MAX, TestServer, message, one_destination};
use crate::wait::until;

#[tokio::test]
async fn a_deferred_message_is_delivered_by_a_later_attempt() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.7.1 greylisted"));
    let submitted = message(&account, "later");
    let id = server.submit(&account, &["bob@b.test"], &submitted).await;
    let email = server.wait_for_status(&id, &["deferred"]).await;
    assert!(email["deliveries"][0]["last_reply"].as_str().unwrap().contains("greylisted"), "{email}");
    assert!(email["deliveries"][0]["next_attempt_at"].is_string(), "{email}");
    assert!(mx.transactions().is_empty());

    server.clock.advance(RETRY_DELAY_MAX);
    let email = server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(email["deliveries"][0]["attempts"], 2);
    mx.wait_for(1).await[0].prefix_before(&submitted);
}

#[tokio::test]
async fn mail_accepted_before_a_stop_is_delivered_after_it() {
    let (dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    dns.fail("b.test");
    let mut ids = Vec::new();
    for number in 0..10 {
        let subject = format!("kept{number}");
        ids.push(server.submit(&account, &["bob@b.test"], &message(&account, &subject)).await);
    }
    for id in &ids {
        server.wait_for_status(id, &["deferred"]).await;
    }
    dns.mend("b.test");
    let clock = server.clock.clone();
    server.restart(|_| clock.advance(RETRY_DELAY_MAX)).await;
    for id in &ids {
        server.wait_for_status(id, &["delivered"]).await;
    }
    assert_eq!(mx.transactions().len(), 10);
}

#[tokio::test]
async fn the_next_host_is_tried_if_the_first_does_not_answer() {
    let dns = FakeDns::start().await;
    let servers = FakeMx::several(vec![Offer::default(), Offer::default()]).await;
    dns.mx("b.test", &[(10, "mx1.b.test"), (20, "mx2.b.test")]);
    dns.addresses("mx1.b.test", &[servers[0].address.ip()]);
    dns.addresses("mx2.b.test", &[servers[1].address.ip()]);
    servers[0].script(Phase::Greeting, "", 99, Fault::ReplyAndClose("554 5.3.2 no service"));
    let server = TestServer::start(&dns, servers[0].address.port()).await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "second")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!((servers[0].transactions().len(), servers[1].transactions().len()), (0, 1));
}

#[tokio::test]
async fn a_server_with_two_names_is_asked_once_in_an_attempt() {
    let (dns, mx, server) = one_destination().await;
    dns.mx("b.test", &[(10, "mx.b.test"), (20, "mx2.b.test")]);
    dns.addresses("mx2.b.test", &[mx.address.ip()]);
    mx.script(Phase::Rcpt, "", 99, Fault::Reply("451 4.7.1 greylisted"));
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["a@b.test", "c@b.test"], &message(&account, "later")).await;
    server.wait_for_status(&id, &["deferred"]).await;
    let asked: Vec<_> = mx.commands().into_iter().filter(|line| line.starts_with("RCPT")).collect();
    assert_eq!((asked.len(), mx.connections().len()), (2, 1), "{asked:?}");
}

#[tokio::test]
async fn a_first_host_with_many_dead_addresses_leaves_one_attempt_for_the_next() {
    let dns = FakeDns::start().await;
    let servers = FakeMx::several(vec![Offer::default(); 7]).await;
    let (alive, dead) = servers.split_first().unwrap();
    dns.mx("b.test", &[(10, "mx1.b.test"), (20, "mx2.b.test")]);
    dns.addresses("mx1.b.test", &dead.iter().map(|server| server.address.ip()).collect::<Vec<_>>());
    dns.addresses("mx2.b.test", &[alive.address.ip()]);
    dead.iter().for_each(|server| server.script(Phase::Greeting, "", 9, Fault::Reply("554 5.3.2 no")));
    let server = TestServer::start(&dns, alive.address.port()).await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "second")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let dialled: usize = dead.iter().map(|server| server.connections().len()).sum();
    assert_eq!((dialled, alive.transactions().len()), (4, 1));
}

#[tokio::test]
async fn a_domain_without_mx_is_its_own_mail_host() {
    let dns = FakeDns::start().await;
    let mx = FakeMx::start().await;
    dns.addresses("plain.test", &[mx.address.ip()]);
    let server = TestServer::start(&dns, mx.address.port()).await;
    let account = server.create_account("acme.test").await;
    server.submit(&account, &["bob@plain.test"], &message(&account, "plain")).await;
    mx.wait_for(1).await;
}

#[tokio::test]
async fn null_mx_and_unknown_domains_bounce_immediately_with_their_status() {
    let (dns, mx, server) = one_destination().await;
    dns.null_mx("null.test");
    dns.mx("acme.test", &[(10, "mx.b.test")]);
    let account = server.create_account("acme.test").await;
    for (recipient, status) in [("bob@null.test", "5.1.10"), ("bob@nowhere.test", "5.1.2")] {
        let before = mx.transactions().len();
        let id = server.submit(&account, &[recipient], &message(&account, "gone")).await;
        server.wait_for_status(&id, &["bounced"]).await;
        let report = mx.wait_for(before + 1).await.remove(before);
        expect_report(&report.content, recipient, "failed", status);
    }
}

#[tokio::test]
async fn mx_records_that_name_the_domain_itself_without_an_address_leave_the_other_hosts() {
    let (dns, mx, server) = one_destination().await;
    dns.mx("self.test", &[(10, "self.test"), (20, "mx.b.test")]);
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["bob@self.test"], &message(&account, "own host")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(mx.transactions().len(), 1);
}

#[tokio::test]
async fn mail_hosts_that_the_dns_denies_or_places_at_private_addresses_fail_after_four_hours() {
    let (dns, mx, server) = one_destination().await;
    dns.mx("acme.test", &[(10, "mx.b.test")]);
    for (domain, host, address) in [
        ("absent.test", "mx.absent.test", None),
        ("private.test", "mx.private.test", Some("10.1.2.3")),
        ("unspecified.test", "mx.unspecified.test", Some("0.0.0.0")),
    ] {
        dns.mx(domain, &[(10, host), (20, "mx2.absent.test")]);
        if let Some(address) = address {
            dns.addresses(host, &[address.parse().unwrap()]);
        }
    }
    dns.mx("broken.test", &[(10, "mx.broken.test"), (20, "mx2.absent.test")]);
    dns.fail("mx.broken.test");
    let account = server.create_account("acme.test").await;
    let recipients = ["a@absent.test", "a@private.test", "a@unspecified.test", "a@broken.test"];
    let id = server.submit(&account, &recipients, &message(&account, "unroutable")).await;
    for attempt in 1..=2 {
        wait_for_attempts(&server, &id, attempt).await;
        server.wait_for_status(&id, &["deferred"]).await;
        server.clock.advance(RETRY_DELAY_MAX);
    }
    wait_for_attempts(&server, &id, 3).await;
    let email = server.wait_for_status(&id, &["bounced", "deferred"]).await;
    let states: Vec<_> = email["deliveries"].as_array().unwrap().iter().map(|d| &d["status"]).collect();
    assert_eq!(states, ["bounced", "bounced", "bounced", "deferred"], "{email}");
    let reply = email["deliveries"][1]["last_reply"].as_str().unwrap();
    assert!(reply.starts_with("550 5.4.4 ") && reply.contains("for 4 h"), "{reply}");
    // The fourth report is about the delay of the other delivery.
    let reports = mx.wait_for(4).await;
    let is_failure = |content: &[u8]| String::from_utf8_lossy(content).contains("\r\nStatus: 5.4.4\r\n");
    assert_eq!(reports.iter().filter(|report| is_failure(&report.content)).count(), 3);
}

/// Waits until each delivery of a message has had this many attempts.
async fn wait_for_attempts(server: &TestServer, id: &str, attempts: u64) {
    until(&format!("{attempts} attempts of {id}"), async || {
        let email = server.control.get(&format!("/v1/emails/{id}")).await;
        let deliveries = email["deliveries"].as_array().unwrap();
        deliveries.iter().all(|delivery| delivery["attempts"] == attempts).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_name_server_that_does_not_know_edns_is_asked_without_it() {
    let (dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    dns.deny_edns();
    server.submit(&account, &["bob@b.test"], &message(&account, "plain DNS")).await;
    mx.wait_for(1).await;
}

#[tokio::test]
async fn name_servers_that_fail_defer() {
    let (dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    dns.fail("b.test");
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "servfail")).await;
    server.wait_for_status(&id, &["deferred"]).await;
    dns.mend("b.test");
    server.clock.advance(RETRY_DELAY_MAX);
    server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(mx.transactions().len(), 1);
}

#[tokio::test]
async fn a_message_is_given_up_with_a_report_when_its_time_is_over() {
    let (dns, mx, server) = one_destination().await;
    dns.mx("acme.test", &[(10, "mx.b.test")]);
    let account = server.create_account("acme.test").await;
    mx.script(Phase::Rcpt, "<bob@", 99, Fault::Reply("452 4.2.2 mailbox full"));
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "old")).await;
    server.wait_for_status(&id, &["deferred"]).await;
    server.clock.advance(LIFETIME_MAX);
    server.wait_for_status(&id, &["expired"]).await;
    let report = mx.wait_for(1).await.remove(0);
    assert_eq!(report.reverse_path, "");
    expect_report(&report.content, "bob@b.test", "failed", "4.4.7");
}

#[tokio::test]
async fn mail_whose_lifetime_ended_while_the_server_was_down_gets_one_attempt() {
    let (dns, mx, mut server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    mx.script(Phase::Rcpt, "<late@", 99, Fault::Reply("452 4.2.2 mailbox full"));
    dns.fail("b.test");
    let mut ids = Vec::new();
    for recipient in ["bob@b.test", "late@b.test"] {
        let id = server.submit(&account, &[recipient], &message(&account, "down")).await;
        server.wait_for_status(&id, &["deferred"]).await;
        ids.push(id);
    }
    dns.mend("b.test");
    let clock = server.clock.clone();
    server.restart(|_| clock.advance(LIFETIME_MAX)).await;
    server.wait_for_status(&ids[0], &["delivered"]).await;
    let email = server.wait_for_status(&ids[1], &["expired"]).await;
    assert_eq!(email["deliveries"][0]["attempts"], 2, "{email}");
    assert_eq!(mx.transactions().len(), 1);
}

#[tokio::test]
async fn no_dsn_is_sent_for_a_message_with_the_null_reverse_path() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    mx.script(Phase::Rcpt, "<bob@", 99, Fault::Reply("550 5.1.1 nobody"));
    let mut client = server.log_in(&account).await;
    let reply = client.send("", &["bob@b.test"], &message(&account, "bounce")).await.expect_code(250);
    server.wait_for_status(&crate::server::message_id(&reply), &["bounced"]).await;
    let all = server.control.get("/v1/emails").await;
    assert_eq!(all["data"].as_array().map(Vec::len), Some(1), "{all}");
}

#[tokio::test]
async fn a_second_host_is_tried_even_if_one_connection_is_allowed() {
    let dns = FakeDns::start().await;
    let servers = FakeMx::several(vec![Offer::default(), Offer::default()]).await;
    dns.mx("b.test", &[(10, "mx1.b.test"), (20, "mx2.b.test")]);
    dns.addresses("mx1.b.test", &[servers[0].address.ip()]);
    dns.addresses("mx2.b.test", &[servers[1].address.ip()]);
    servers[0].script(Phase::Rcpt, "", 9, Fault::Reply("451 4.7.1 greylisted"));
    let one_place = |config: &mut Config| config.relay.connections_max = 1;
    let server = TestServer::start_with(&dns, servers[0].address.port(), one_place).await;
    let account = server.create_account("acme.test").await;
    let id = server.submit(&account, &["bob@b.test"], &message(&account, "second")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    servers[1].wait_for(1).await;
}
