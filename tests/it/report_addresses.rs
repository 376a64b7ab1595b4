//! The addresses that reports come to.

use std::time::Duration;

use pillarbox::mail::{TokenKind, TokenScope, TokenSubject};
use pillarbox::model::{DeliveryId, MessageId};
use pillarbox::store::Reports;

use crate::client::Reply;
use crate::inbound_stage::{InboundStage, PLATFORM_HOST, RETURN_HOST, bounce};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Sends a failure back, and moves the clock on if the reply is delayed.
async fn send_back(stage: &InboundStage, recipient: &str) -> Reply {
    stage.impatient(stage.send_back("", recipient, &bounce())).await
}

fn lookups(stage: &InboundStage) -> u64 {
    stage.server.running().returns().counts().lookups
}

#[tokio::test]
async fn an_address_works_in_upper_case_and_at_each_host_of_the_message() {
    let stage = InboundStage::start().await;
    let (delivered, address) = stage.deliver_one().await;
    let local = address.split_once('@').unwrap().0;
    for recipient in [
        address.clone(),
        address.to_ascii_uppercase(),
        format!("{local}@{RETURN_HOST}"),
        format!("{local}@own.test"),
        format!("{}@{RETURN_HOST}", local.to_ascii_uppercase()),
    ] {
        send_back(&stage, &recipient).await.expect_saying(250, "recorded as");
    }
    let found = stage.all_reports().await;
    assert!(!found.is_empty());
    for report in found {
        assert_eq!(report.delivery_id.map(|id| id.to_string()), Some(delivered.delivery.clone()));
    }
}

#[tokio::test]
async fn a_changed_address_is_refused_before_any_row_is_read() {
    let stage = InboundStage::start().await;
    let (_, address) = stage.deliver_one().await;
    let (local, _) = address.split_once('@').unwrap();
    let other_digit = |digit: char| if digit == '7' { '8' } else { '7' };
    let changed_at = |at: usize| {
        let digit = local[at..].chars().next().unwrap();
        format!("{}{}{}", &local[..at], other_digit(digit), &local[at + 1..])
    };
    let wrong = [
        changed_at("bounce+d1".len() + 12),
        changed_at(local.len() - 1),
        changed_at(local.len() - 20),
        local.replacen("bounce", "fbl", 1),
        local.replacen("bounce", "unsub", 1),
        local.replacen("+d", "+m", 1),
        local.replacen("+d1", "+d2", 1),
        local.replacen('0', "O", 1),
        format!("{local}0"),
        local[..local.len() - 1].to_owned(),
    ];
    for local in wrong {
        let reply = send_back(&stage, &format!("{local}@{PLATFORM_HOST}")).await;
        reply.expect_saying(550, "5.1.1 [");
        stage.server.clock.advance(Duration::from_secs(3600));
    }
    assert_eq!(lookups(&stage), 0);
    send_back(&stage, &address).await.expect_code(250);
    assert_eq!((lookups(&stage), stage.all_reports().await.len()), (1, 1));
}

#[tokio::test]
async fn an_address_of_one_tenant_is_refused_at_the_host_of_another() {
    let stage = InboundStage::start().await;
    stage.server.create_account("other.test").await;
    let (_, address) = stage.deliver_one().await;
    let local = address.split_once('@').unwrap().0;
    for host in ["bounces.other.test", "other.test", "elsewhere.test"] {
        let reply = send_back(&stage, &format!("{local}@{host}")).await;
        reply.expect_saying(550, "5.1.1 [report_address_unknown]");
    }
    assert!(stage.all_reports().await.is_empty());
}

#[tokio::test]
async fn a_complaint_address_takes_no_bounces_under_another_name() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver(&["bob@b.test"]).await.remove(0);
    let address = stage.address_of(TokenKind::Feedback, &delivered);
    let renamed = address.replacen("fbl+", "bounce+", 1);
    send_back(&stage, &renamed).await.expect_saying(550, "5.1.1 [report_address_unknown]");
    send_back(&stage, &address).await.expect_code(250);
}

#[tokio::test]
async fn an_address_ends_45_days_after_the_last_change_of_its_delivery() {
    let stage = InboundStage::start_with(|config| config.retention.message_days = 90).await;
    let (_, address) = stage.deliver_one().await;
    stage.server.clock.advance(44 * DAY);
    send_back(&stage, &address).await.expect_code(250);
    // The report suppressed the first recipient.
    let delivered = stage.deliver(&["carol@b.test"]).await.remove(0);
    let other = stage.address_of(TokenKind::Bounce, &delivered);
    stage.server.clock.advance(46 * DAY);
    send_back(&stage, &other).await.expect_saying(550, "5.1.1 [report_address_expired]");
}

#[tokio::test]
async fn an_address_of_a_message_that_is_gone_or_never_was_is_expired() {
    let stage = InboundStage::start().await;
    let keys = stage.server.running().store().token_keys();
    let now = stage.server.clock.now();
    let subjects = [
        TokenSubject { scope: TokenScope::Delivery, id: DeliveryId::generate(now).into() },
        TokenSubject { scope: TokenScope::Message, id: MessageId::generate(now).into() },
    ];
    for subject in subjects {
        let token = keys.issue(TokenKind::Bounce, subject).unwrap();
        let reply = send_back(&stage, &format!("{token}@{PLATFORM_HOST}")).await;
        reply.expect_saying(550, "5.1.1 [report_address_expired]");
    }
    assert_eq!(lookups(&stage), 2);
    let (_, address) = stage.deliver_one().await;
    stage.server.clock.advance(121 * DAY);
    send_back(&stage, &address).await.expect_saying(550, "5.1.1 [report_address_expired]");
    assert_eq!(lookups(&stage), 2, "an old id is refused unread");
}

#[tokio::test]
async fn a_captured_address_is_refused_after_a_rotation_at_once() {
    let stage = InboundStage::start().await;
    let (_, address) = stage.deliver_one().await;
    let store = stage.server.running().store().clone();
    store.rotate_tokens(false, stage.server.clock.now()).await.unwrap();
    send_back(&stage, &address).await.expect_code(250);
    store.rotate_tokens(true, stage.server.clock.now()).await.unwrap();
    send_back(&stage, &address).await.expect_saying(550, "5.1.1 [report_address_unknown]");
}

#[tokio::test]
async fn a_probe_address_is_accepted_and_takes_no_message() {
    let stage = InboundStage::start().await;
    let keys = stage.server.running().store().token_keys();
    let id = DeliveryId::generate(stage.server.clock.now()).into();
    let token = keys.issue(TokenKind::Bounce, TokenSubject { scope: TokenScope::Probe, id }).unwrap();
    let reply = send_back(&stage, &format!("{token}@{RETURN_HOST}")).await;
    reply.expect_saying(550, "[mailbox_unknown]");
    let mut client = stage.connect().await;
    client.command("MAIL FROM:<>").await.expect_code(250);
    client.command(&format!("RCPT TO:<{token}@{RETURN_HOST}>")).await.expect_code(250);
    assert!(stage.all_reports().await.is_empty());
}

#[tokio::test]
async fn a_delivery_has_16_reports_a_day_and_64_in_all() {
    let stage = InboundStage::start_with(|config| config.retention.message_days = 90).await;
    let (_, address) = stage.deliver_one().await;
    for day in 0..4 {
        for number in 0..16 {
            let reply = stage.send_back("", &address, &bounce()).await;
            assert_eq!(reply.code, 250, "{day} {number}: {reply:?}");
        }
        let reply = stage.send_back("", &address, &bounce()).await;
        match day {
            3 => reply.expect_saying(550, "5.7.1 [too_many_reports]"),
            _ => reply.expect_saying(450, "4.7.1 [too_many_reports]"),
        };
        stage.server.clock.advance(DAY);
    }
    send_back(&stage, &address).await.expect_saying(550, "5.7.1 [too_many_reports]");
}
