//! The reverse path that mail leaves with: one transaction and one token for each recipient.

use std::time::Duration;

use pillarbox::config::{Config, Route, SiteRule};
use pillarbox::mail::{Timestamp, Token, TokenScope};
use pillarbox::model::{DeliveryId, MessageId};
use pillarbox::store::Reports;
use serde_json::json;

use crate::fake_mx::{FakeMx, Fault, Phase, Transaction};
use crate::inbound_stage::{DOMAIN, InboundStage, PLATFORM_HOST, RETURN_HOST};
use crate::server::{HOSTNAME, RETRY_DELAY_MAX, message, message_id};
use crate::wait::until;

/// A stage whose domain has an active return host, and the server that was probed.
async fn stage_with(change: impl FnOnce(&mut Config)) -> (InboundStage, FakeMx) {
    let stage = InboundStage::start_with(change).await;
    let probed = FakeMx::beside(&stage.mx).await;
    stage.dns.addresses(HOSTNAME, &[probed.address.ip()]);
    stage.dns.alias(RETURN_HOST, PLATFORM_HOST);
    let path = format!("/v1/domains/{}/verify", stage.account.domain_id);
    let checked = stage.server.control.ok("POST", &path, json!({})).await;
    assert_eq!(checked["return_path"]["status"], "active", "{checked}");
    (stage, probed)
}

async fn stage() -> (InboundStage, FakeMx) {
    stage_with(|_| ()).await
}

/// The token of a reverse path, which must be genuine and at the host.
fn token_at(stage: &InboundStage, path: &str, host: &str) -> Token {
    let (local, found) = path.split_once('@').unwrap();
    assert_eq!(found, host, "{path}");
    let token = Token::parse(local).unwrap_or_else(|| panic!("no token in {path}"));
    assert_eq!(stage.server.running().store().token_keys().verify(&token, Timestamp::now()), Ok(()));
    token
}

fn reverse_paths(all: &[Transaction]) -> Vec<String> {
    all.iter().map(|transaction| transaction.reverse_path.clone()).collect()
}

#[tokio::test]
async fn each_recipient_has_a_transaction_and_a_token_of_its_delivery() {
    let (stage, _probed) = stage().await;
    let recipients = ["a@b.test", "b@b.test", "c@b.test"];
    let delivered = stage.deliver(&recipients).await;
    let all = stage.mx.transactions();
    assert_eq!(all.len(), 3);
    assert_eq!(stage.mx.connections().len(), 1);
    for transaction in &all {
        let token = token_at(&stage, &transaction.reverse_path, RETURN_HOST);
        let own = delivered.iter().find(|delivered| transaction.recipients == [delivered.recipient.as_str()]);
        let id: DeliveryId = own.unwrap().delivery.parse().unwrap();
        assert_eq!((token.subject.scope, token.subject.id), (TokenScope::Delivery, id.into()));
        assert_eq!(transaction.content, all[0].content);
    }
    let email = stage.server.control.get(&format!("/v1/emails/{}", delivered[0].message)).await;
    assert_eq!(email["from"], format!("alice@{DOMAIN}"), "the tenant sees its own path");
}

#[tokio::test]
async fn a_large_message_to_several_recipients_goes_out_once_with_a_shared_token() {
    let (stage, _probed) = stage().await;
    let large = [&message(&stage.account, "large")[..], &b"0123456789\r\n".repeat(420_000)].concat();
    let id = stage.server.submit(&stage.account, &["a@b.test", "b@b.test", "c@b.test"], &large).await;
    stage.server.wait_for_status(&id, &["delivered"]).await;
    let all = stage.mx.transactions();
    assert_eq!((all.len(), all[0].recipients.len()), (1, 3));
    let token = token_at(&stage, &all[0].reverse_path, RETURN_HOST);
    let id: MessageId = id.parse().unwrap();
    assert_eq!((token.subject.scope, token.subject.id), (TokenScope::Message, id.into()));
    let id = stage.server.submit(&stage.account, &["a@b.test"], &large).await;
    stage.server.wait_for_status(&id, &["delivered"]).await;
    let token = token_at(&stage, &stage.mx.transactions()[1].reverse_path, RETURN_HOST);
    assert_eq!(token.subject.scope, TokenScope::Delivery, "a single recipient shares with nobody");
}

#[tokio::test]
async fn every_retry_has_the_same_reverse_path_also_after_a_rotation_of_the_keys() {
    let (stage, _probed) = stage().await;
    stage.mx.script(Phase::Rcpt, "", 3, Fault::Reply("451 4.7.1 greylisted"));
    let id = stage.server.submit(&stage.account, &["bob@b.test"], &message(&stage.account, "x")).await;
    for attempts in 1..4 {
        until("the attempt is recorded", async || {
            let email = stage.server.control.get(&format!("/v1/emails/{id}")).await;
            let delivery = &email["deliveries"][0];
            (delivery["attempts"] == attempts && delivery["status"] == "deferred").then_some(())
        })
        .await;
        stage.server.running().store().rotate_tokens(false, stage.server.clock.now()).await.unwrap();
        stage.server.clock.advance(RETRY_DELAY_MAX);
    }
    stage.server.wait_for_status(&id, &["delivered"]).await;
    let commands = stage.mx.commands();
    let paths: Vec<_> = commands.iter().filter(|line| line.starts_with("MAIL")).collect();
    assert_eq!(paths.len(), 4);
    assert!(paths.iter().all(|path| *path == paths[0]), "{paths:?}");
    token_at(&stage, &stage.mx.transactions()[0].reverse_path, RETURN_HOST);
}

#[tokio::test]
async fn a_retry_leaves_under_the_given_path_once_the_record_is_lost() {
    let (stage, _probed) = stage().await;
    stage.mx.script(Phase::Rcpt, "", 1, Fault::Reply("451 4.7.1 later"));
    let id = stage.server.submit(&stage.account, &["bob@b.test"], &message(&stage.account, "x")).await;
    stage.server.wait_for_status(&id, &["deferred"]).await;
    let first = stage.mx.commands().into_iter().find(|line| line.starts_with("MAIL")).unwrap();
    assert!(first.contains(RETURN_HOST), "{first}");
    stage.dns.remove(RETURN_HOST);
    let path = format!("/v1/domains/{}/verify", stage.account.domain_id);
    stage.server.control.ok("POST", &path, json!({})).await;
    stage.server.clock.advance(RETRY_DELAY_MAX);
    stage.server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(reverse_paths(&stage.mx.transactions()), [format!("alice@{DOMAIN}")]);
}

#[tokio::test]
async fn null_paths_smart_hosts_and_domains_without_the_mode_keep_their_path() {
    let (stage, _probed) = stage_with(|config| {
        config.smtp.allow_null_sender = true;
    })
    .await;
    let given = format!("alice@{DOMAIN}");
    let mut client = stage.server.log_in(&stage.account).await;
    let reply = client.send("", &["bob@b.test"], &message(&stage.account, "null")).await.expect_code(250);
    stage.server.wait_for_status(&message_id(&reply), &["delivered"]).await;
    let path = format!("/v1/domains/{}", stage.account.domain_id);
    for mode in ["off", "platform", "auto"] {
        let change = json!({"return_path": {"mode": mode}});
        stage.server.control.ok("PATCH", &path, change).await;
        stage.deliver(&["bob@b.test"]).await;
        stage.server.control.ok("POST", &format!("{path}/verify"), json!({})).await;
    }
    stage.deliver(&["bob@b.test"]).await;
    let paths = reverse_paths(&stage.mx.transactions());
    assert_eq!((paths[0].as_str(), &paths[1]), ("", &given));
    token_at(&stage, &paths[2], PLATFORM_HOST);
    // Another mode is checked first.
    assert_eq!(paths[3], given);
    token_at(&stage, &paths[4], RETURN_HOST);

    let address = stage.mx.address;
    let smart_host =
        json!({"smtp": {"host": address.ip().to_string(), "port": address.port(), "tls": "none"}});
    let tenant = format!("/v1/tenants/{}", stage.account.tenant_id);
    stage.server.control.ok("PATCH", &tenant, smart_host).await;
    stage.deliver(&["bob@b.test"]).await;
    assert_eq!(reverse_paths(&stage.mx.transactions())[5], given);
}

#[tokio::test]
async fn a_route_to_named_hosts_has_our_reverse_path_only_if_it_says_so() {
    let own = |stage: &mut Config, domain: &str, host: &FakeMx, return_path| {
        stage.relay.routes.push(Route {
            destinations: vec![domain.parse().unwrap()],
            hosts: vec![host.address.to_string().parse().unwrap()],
            tls: Some(pillarbox::model::TlsMode::None),
            user: None,
            password_file: None,
            dkim: Default::default(),
            source_pool: None,
            ehlo_name: None,
            return_path,
        });
    };
    let (plain, ours) = (FakeMx::start().await, FakeMx::start().await);
    let (stage, _probed) = stage_with(|config| {
        own(config, "c.test", &plain, false);
        own(config, "d.test", &ours, true);
    })
    .await;
    stage.deliver(&["bob@c.test", "bob@d.test"]).await;
    assert_eq!(reverse_paths(&plain.transactions()), [format!("alice@{DOMAIN}")]);
    token_at(&stage, &ours.transactions()[0].reverse_path, RETURN_HOST);
}

#[tokio::test]
async fn mail_of_the_sandbox_keeps_its_path() {
    let (stage, _probed) = stage().await;
    let account = stage.server.test_account(&stage.account).await;
    let id = stage.server.submit(&account, &["delivered@b.test"], &message(&account, "x")).await;
    stage.server.wait_for_status(&id, &["delivered"]).await;
    let attempts = stage.server.control.get(&format!("/v1/emails/{id}/timeline")).await.to_string();
    assert!(attempts.contains(&format!("MAIL FROM:<alice@{DOMAIN}>")), "{attempts}");
}

#[tokio::test]
async fn a_refused_recipient_harms_no_other_one_and_the_limit_of_a_connection_holds() {
    let (stage, _probed) = stage_with(|config| config.relay.messages_per_connection_max = 2).await;
    stage.mx.script(Phase::Rcpt, "no@", 1, Fault::Reply("550 5.1.1 no such user"));
    let recipients = ["a@b.test", "no@b.test", "c@b.test", "d@b.test", "e@b.test"];
    let id = stage.server.submit(&stage.account, &recipients, &message(&stage.account, "x")).await;
    let email = stage.server.wait_for_status(&id, &["delivered", "bounced"]).await;
    for delivery in email["deliveries"].as_array().unwrap() {
        let expected = if delivery["recipient"] == "no@b.test" { "bounced" } else { "delivered" };
        assert_eq!((&delivery["status"], &delivery["attempts"]), (&json!(expected), &json!(1)), "{delivery}");
    }
    assert_eq!(stage.mx.transactions().len(), 4);
    let of_connection = |line: &String| line.starts_with("MAIL");
    let most = stage
        .mx
        .connections()
        .iter()
        .map(|one| one.commands.iter().filter(|line| of_connection(line)).count())
        .max();
    assert_eq!(most, Some(2));
}

#[tokio::test]
async fn a_connection_that_ends_between_recipients_delivers_to_each_once() {
    let (stage, _probed) = stage().await;
    stage.mx.script(Phase::Dot, "", 1, Fault::Reply("250 2.0.0 taken"));
    stage.mx.script(Phase::Rcpt, "b@b.test", 1, Fault::Drop);
    let recipients = ["a@b.test", "b@b.test", "c@b.test"];
    let id = stage.server.submit(&stage.account, &recipients, &message(&stage.account, "x")).await;
    stage.server.wait_for_status(&id, &["delivered", "deferred"]).await;
    stage.server.clock.advance(RETRY_DELAY_MAX);
    stage.server.wait_for_status(&id, &["delivered"]).await;
    let mut reached: Vec<_> = stage.mx.transactions().into_iter().flat_map(|one| one.recipients).collect();
    reached.sort();
    assert_eq!(reached, recipients);
}

#[tokio::test]
async fn a_server_that_defers_is_dialled_again_only_for_recipients_that_it_has_not_answered() {
    let (stage, _probed) = stage_with(|config| config.relay.messages_per_connection_max = 2).await;
    stage.mx.script(Phase::Rcpt, "", usize::MAX, Fault::Reply("451 4.7.1 later"));
    let recipients = ["a@b.test", "b@b.test", "c@b.test", "d@b.test", "e@b.test"];
    let id = stage.server.submit(&stage.account, &recipients, &message(&stage.account, "x")).await;
    let email = stage.server.wait_for_status(&id, &["deferred"]).await;
    assert!(email["deliveries"].as_array().unwrap().iter().all(|one| one["attempts"] == 1), "{email}");
    let mut asked = stage.mx.commands();
    asked.retain(|line| line.starts_with("RCPT"));
    let each = |name: &&str| asked.iter().filter(|line| line.contains(*name)).count() == 1;
    assert!(asked.len() == 5 && recipients.iter().all(each), "{asked:?}");
    assert_eq!(stage.mx.connections().len(), 3);
}

#[tokio::test]
async fn a_second_server_gets_all_recipients_although_the_first_deferred_them_and_the_limit_is_small() {
    let (stage, _probed) = stage_with(|config| config.relay.messages_per_connection_max = 2).await;
    let second = FakeMx::beside(&stage.mx).await;
    stage.dns.mx("b.test", &[(10, "mx.b.test"), (20, "mx2.b.test")]);
    stage.dns.addresses("mx2.b.test", &[second.address.ip()]);
    stage.mx.script(Phase::Rcpt, "", usize::MAX, Fault::Reply("451 4.3.0 later"));
    let recipients = ["a@b.test", "b@b.test", "c@b.test", "d@b.test", "e@b.test"];
    let id = stage.server.submit(&stage.account, &recipients, &message(&stage.account, "x")).await;
    let email = stage.server.wait_for_status(&id, &["delivered"]).await;
    assert!(email["deliveries"].as_array().unwrap().iter().all(|one| one["attempts"] == 1), "{email}");
    assert_eq!((second.transactions().len(), second.connections().len()), (5, 3));
}

#[tokio::test]
async fn a_server_that_asks_for_less_mail_is_not_dialled_again_for_the_rest() {
    let (stage, _probed) = stage().await;
    let throttled = Fault::ReplyAndClose("421 4.7.28 unusual rate of mail from your address");
    stage.mx.script(Phase::Rcpt, "b@b.test", 1, throttled);
    let recipients = ["a@b.test", "b@b.test", "c@b.test"];
    let id = stage.server.submit(&stage.account, &recipients, &message(&stage.account, "x")).await;
    let email = stage.server.wait_for_status(&id, &["delivered", "deferred"]).await;
    let statuses = email["deliveries"].as_array().unwrap().iter().map(|one| one["status"].clone());
    assert_eq!(statuses.collect::<Vec<_>>(), ["delivered", "deferred", "deferred"], "{email}");
    assert_eq!(stage.mx.connections().len(), 1);
}

#[tokio::test]
async fn a_server_that_takes_one_message_per_connection_gets_all_in_one_attempt() {
    let (stage, _probed) = stage().await;
    let recipients: Vec<String> = (0..12).map(|n| format!("r{n}@b.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    for fault in [
        Fault::ReplyAndClose("250 2.0.0 taken"),
        Fault::ReplyAndClose("250 2.0.0 taken\r\n421 4.3.2 closing"),
    ] {
        let (messages, connections) = (stage.mx.transactions().len(), stage.mx.connections().len());
        stage.mx.script(Phase::Dot, "", recipients.len(), fault);
        let id = stage.server.submit(&stage.account, &recipients, &message(&stage.account, "x")).await;
        let email = stage.server.wait_for_status(&id, &["delivered"]).await;
        assert!(email["deliveries"].as_array().unwrap().iter().all(|one| one["attempts"] == 1), "{email}");
        assert_eq!(stage.mx.transactions().len() - messages, recipients.len());
        assert_eq!(stage.mx.connections().len() - connections, recipients.len());
    }
}

#[tokio::test]
async fn recipients_that_a_stop_left_out_have_no_attempt() {
    let (mut stage, _probed) = stage().await;
    let gate = stage.mx.wait_at(Phase::Dot);
    let recipients = ["a@b.test", "b@b.test", "c@b.test"];
    let id = stage.server.submit(&stage.account, &recipients, &message(&stage.account, "x")).await;
    until("the first message is sent", async || {
        stage.mx.commands().iter().any(|line| line == "DATA").then_some(())
    })
    .await;
    let mx = &stage.mx;
    tokio::join!(stage.server.stop(), async { gate.cancel() });
    assert_eq!(mx.transactions().len(), 1);
    stage.server.restart(|_| ()).await;
    let email = stage.server.wait_for_status(&id, &["delivered"]).await;
    assert!(email["deliveries"].as_array().unwrap().iter().all(|one| one["attempts"] == 1), "{email}");
    let mut reached: Vec<_> = mx.transactions().into_iter().flat_map(|one| one.recipients).collect();
    reached.sort();
    assert_eq!(reached, recipients);
}

#[tokio::test]
async fn the_rate_of_a_site_counts_each_transaction() {
    let (stage, _probed) = stage_with(|config| {
        config.relay.shaping = vec![SiteRule {
            name: "b".into(),
            mx: vec!["mx.b.test".into()],
            domains: Vec::new(),
            separate_sites: false,
            per_node: false,
            connections_max: None,
            messages_per_connection_max: None,
            messages_per_minute: Some(1),
            connections_per_minute: None,
        }];
    })
    .await;
    let other = FakeMx::beside(&stage.mx).await;
    stage.dns.mx("c.test", &[(10, "mx.c.test")]);
    stage.dns.addresses("mx.c.test", &[other.address.ip()]);
    stage.deliver(&["a@b.test", "b@b.test", "c@b.test"]).await;
    let id = stage.server.submit(&stage.account, &["d@b.test"], &message(&stage.account, "x")).await;
    stage.server.clock.advance(Duration::from_secs(90));
    stage.deliver(&["x@c.test"]).await;
    assert_eq!(stage.mx.transactions().len(), 3, "three minutes are used up");
    stage.server.clock.advance(Duration::from_secs(90));
    stage.server.wait_for_status(&id, &["delivered"]).await;
}

#[tokio::test]
async fn the_transcript_masks_the_mac_of_the_reverse_path() {
    let (stage, _probed) = stage().await;
    let delivered = stage.deliver(&["bob@b.test"]).await;
    let path = format!("/v1/emails/{}/timeline", delivered[0].message);
    let timeline = stage.server.control.get(&path).await.to_string();
    let reverse_path = stage.mx.transactions()[0].reverse_path.clone();
    let (token, _) = reverse_path.split_once('@').unwrap();
    assert!(timeline.contains(&format!("MAIL FROM:<{}****@{RETURN_HOST}>", &token[..token.len() - 20])));
    assert!(!timeline.contains(token), "{timeline}");
}
