//! Complaints: whom they are about, who may make them, and what follows.

use bytes::Bytes;
use pillarbox::dkim::{Signer, generate, public_record};
use pillarbox::mail::{Content, DomainName, Timestamp, Token, TokenKind};
use pillarbox::model::{DkimAlgorithm, DomainStatus, ReportEffect, ReturnPathStatus};
use pillarbox::store::{
    Directory, DomainCheck, Journal, MessageFilter, PageRequest, RecordCheck, RecordStatus,
};
use serde_json::{Value, json};

use crate::inbound_stage::{DOMAIN, InboundStage, PLATFORM_HOST, RETURN_HOST, arf};
use crate::server::{Account, message, message_id, text};
use crate::unsubscribe::{self, list_message, send_over_http};

const FEEDBACK_LOOP: &str = "fbl@bounce.relay.test";

/// The message with a signature of a domain, whose key is published.
fn sign(stage: &InboundStage, domain: &str, message: &[u8]) -> Vec<u8> {
    let pair = generate(DkimAlgorithm::Ed25519).unwrap();
    let record = public_record(pair.algorithm, &pair.public_key);
    stage.dns.text(&format!("s1._domainkey.{domain}"), &record);
    let domain = DomainName::parse(domain).unwrap();
    let signer = Signer::new(pair.algorithm, &pair.private_key, &domain, "s1").unwrap();
    let content = Content { prefix: Bytes::new(), submitted: message.to_vec().into() };
    [signer.sign(&content, &[]).unwrap().as_bytes(), message].concat()
}

/// A complaint from another domain than b.test.
fn arf_from(domain: &str, feedback_type: &str, returned_header: &str) -> Vec<u8> {
    let text = String::from_utf8(arf(feedback_type, returned_header)).unwrap();
    text.replacen("feedback@b.test", &format!("feedback@{domain}"), 1).into_bytes()
}

/// The header that the receiver got with the last message.
fn header_at_receiver(stage: &InboundStage) -> String {
    let last = stage.mx.transactions().pop().unwrap();
    let text = String::from_utf8(last.content).unwrap();
    text.split("\r\n\r\n").next().unwrap().to_owned()
}

fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

async fn suppressions(stage: &InboundStage) -> Vec<Value> {
    stage.server.control.get("/v1/suppressions").await["data"].as_array().unwrap().clone()
}

/// The events about one message that came back.
async fn events_back(stage: &InboundStage, message: &str) -> Vec<Value> {
    let mut events = stage.events_of(message).await;
    events.retain(|event| {
        ["message.complained", "message.reported"].contains(&event["type"].as_str().unwrap())
    });
    events
}

#[tokio::test]
async fn a_signed_complaint_to_the_token_in_the_message_is_recorded_and_suppresses_its_recipient() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver_one().await.0;
    let header = header_at_receiver(&stage);
    let id = field(&header, "CFBL-Feedback-ID").expect("the message has the field");
    assert_eq!(field(&header, "CFBL-Address"), None, "no return host is active");
    let address = format!("fbl+{id}@{PLATFORM_HOST}");
    assert_eq!(address, stage.address_of(TokenKind::Feedback, &delivered));
    let complaint = sign(&stage, "b.test", &arf("abuse", "Subject: hello"));
    for _ in 0..2 {
        stage.send_back("feedback@b.test", &address, &complaint).await.expect_code(250);
    }
    // It says something else, but the recipient has complained already.
    let other = sign(&stage, "b.test", &arf("fraud", "Subject: hello"));
    stage.send_back("feedback@b.test", &address, &other).await.expect_code(250);
    let mut reports = stage.all_reports().await;
    assert_eq!(reports.len(), 2);
    let report = reports.pop().unwrap();
    assert_eq!((report.effect, report.times), (ReportEffect::Complained, 2));
    assert_eq!(report.reporter.dkim.unwrap().as_str(), "b.test");
    let [event] = &events_back(&stage, &delivered.message).await[..] else { panic!("one event") };
    assert_eq!(event["type"], "message.complained");
    assert_eq!(event["data"]["feedback_type"], "abuse");
    let [suppression] = &suppressions(&stage).await[..] else { panic!("one suppression") };
    assert_eq!(
        (&suppression["address"], &suppression["reason"]),
        (&"bob@b.test".into(), &"complaint".into())
    );
}

#[tokio::test]
async fn a_complaint_without_a_valid_signature_aligned_with_its_sender_changes_nothing() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver_one().await.0;
    let address = stage.address_of(TokenKind::Feedback, &delivered);
    let signed = |domain| sign(&stage, domain, &arf("abuse", "Subject: hello"));
    let changed = {
        let text = String::from_utf8(signed("b.test")).unwrap();
        text.replacen("A complaint.", "A complaint!", 1).into_bytes()
    };
    for message in [arf("abuse", "Subject: hello"), signed("other.test"), changed] {
        stage.send_back("feedback@b.test", &address, &message).await.expect_code(250);
    }
    let [report] = &stage.all_reports().await[..] else { panic!("one report") };
    assert_eq!((report.effect, report.times), (ReportEffect::Unverified, 3));
    assert_eq!(report.reporter.dkim, None);
    assert_eq!(events_back(&stage, &delivered.message).await.len(), 0);
    assert_eq!(suppressions(&stage).await.len(), 0);
    // The one with a signature is another report.
    stage.send_back("feedback@b.test", &address, &signed("b.test")).await.expect_code(250);
    assert_eq!(stage.all_reports().await[0].effect, ReportEffect::Complained);
}

#[tokio::test]
async fn a_complaint_waits_while_the_key_of_its_signature_cannot_be_looked_up() {
    let stage = InboundStage::start().await;
    let address = stage.address_of(TokenKind::Feedback, &stage.deliver_one().await.0);
    let complaint = sign(&stage, "b.test", &arf("abuse", "Subject: hello"));
    stage.dns.fail("s1._domainkey.b.test");
    let refused = stage.send_back("feedback@b.test", &address, &complaint).await;
    refused.expect_saying(451, "report_early");
    assert_eq!(stage.all_reports().await.len(), 0);
    stage.dns.mend("s1._domainkey.b.test");
    stage.send_back("feedback@b.test", &address, &complaint).await.expect_code(250);
    assert_eq!(stage.all_reports().await[0].effect, ReportEffect::Complained);
}

#[tokio::test]
async fn a_registered_loop_finds_the_message_by_token_and_only_if_trusted_by_id() {
    let stage = InboundStage::start().await;
    let yahoo = "arf.mail.yahoo.com";
    let send = async |domain: &str, returned_header: &str| {
        let complaint = sign(&stage, domain, &arf_from(domain, "abuse", returned_header));
        let before = stage.all_reports().await.len();
        stage.send_back("feedback@x.test", FEEDBACK_LOOP, &complaint).await.expect_code(250);
        let mut reports = stage.all_reports().await;
        assert_eq!(reports.len(), before + 1, "it repeats no other report");
        reports.swap_remove(0)
    };
    let by_token = stage.deliver_one().await.0;
    let header = header_at_receiver(&stage);
    let report = send("b.test", &header).await;
    assert_eq!(report.effect, ReportEffect::Complained);
    assert_eq!(report.message_id.unwrap().to_string(), by_token.message);

    // Mail to the first recipient is suppressed now.
    let by_id = stage.deliver(&["carol@b.test"]).await.pop().unwrap();
    let received = format!("Received: by relay.test with ESMTPSA\r\n id {};\r\n now", by_id.message);
    // People have mailboxes of the last three domains.
    for domain in ["b.test", "yahoo.com", "hotmail.com", "outlook.com"] {
        let untrusted = send(domain, &received).await;
        assert_eq!((untrusted.effect, untrusted.message_id), (ReportEffect::Unattributed, None), "{domain}");
    }
    let trusted = send(yahoo, &received).await;
    assert_eq!(trusted.effect, ReportEffect::Complained);
    assert_eq!(trusted.message_id.unwrap().to_string(), by_id.message);
    assert_eq!(send(yahoo, "Subject: of nobody").await.effect, ReportEffect::Unattributed);
    let forged = field(&header, "CFBL-Feedback-ID").unwrap().replacen('1', "2", 1);
    let forged = send(yahoo, &format!("CFBL-Feedback-ID: {forged}")).await;
    assert_eq!(forged.effect, ReportEffect::Unattributed);
}

#[tokio::test]
async fn the_message_id_attributes_the_complaint_of_a_trusted_reporter() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver_one().await.0;
    let header = header_at_receiver(&stage);
    let id = field(&header, "Message-ID").unwrap();
    let returned = format!("Message-ID: {id}");
    let complaint = sign(&stage, "arf.mail.yahoo.com", &arf_from("arf.mail.yahoo.com", "abuse", &returned));
    let report = crate::wait::until("the message is in the search index", async || {
        stage.send_back("feedback@x.test", FEEDBACK_LOOP, &complaint).await.expect_code(250);
        let report = stage.all_reports().await.swap_remove(0);
        (report.effect == ReportEffect::Complained).then_some(report)
    })
    .await;
    assert_eq!(report.message_id.unwrap().to_string(), delivered.message);
}

#[tokio::test]
async fn a_test_message_with_the_same_message_id_hides_no_live_one_from_a_complaint() {
    let stage = InboundStage::start().await;
    let body = serde_json::json!({
        "name": "tester", "tenant_id": stage.account.tenant_id, "environment": "test", "scopes": ["smtp:send"],
    });
    let key = stage.server.control.ok("POST", "/v1/keys", body).await;
    let tester = Account { user: text(&key["id"]), secret: text(&key["secret"]), ..stage.account.clone() };
    stage.server.submit(&tester, &["bob@b.test"], &message(&tester, "hello")).await;
    let delivered = stage.deliver_one().await.0;
    let header = header_at_receiver(&stage);
    let returned = format!("Message-ID: {}", field(&header, "Message-ID").unwrap());
    let header_message_id = field(&header, "Message-ID").map(|id| id.trim_matches(['<', '>']).to_owned());
    crate::wait::until("both messages are in the search index", async || {
        let filter =
            MessageFilter { header_message_id: header_message_id.clone(), ..MessageFilter::default() };
        let page = PageRequest { limit: 3, ..PageRequest::default() };
        let found = stage.server.running().store().list_messages(filter, page).await.unwrap().items;
        (found.len() == 2).then_some(())
    })
    .await;
    let complaint = sign(&stage, "arf.mail.yahoo.com", &arf_from("arf.mail.yahoo.com", "abuse", &returned));
    stage.send_back("feedback@x.test", FEEDBACK_LOOP, &complaint).await.expect_code(250);
    let report = stage.all_reports().await.swap_remove(0);
    assert_eq!(report.effect, ReportEffect::Complained);
    assert_eq!(report.message_id.unwrap().to_string(), delivered.message);
}

#[tokio::test]
async fn the_type_of_a_complaint_decides_what_follows_and_the_recipients_in_it_do_not() {
    let stage = InboundStage::start().await;
    for (feedback_type, effect) in [
        ("not-spam", ReportEffect::Reported),
        ("auth-failure", ReportEffect::Reported),
        ("opt-out", ReportEffect::Complained),
        ("dislike", ReportEffect::Complained),
    ] {
        let delivered = stage.deliver_one().await.0;
        let address = stage.address_of(TokenKind::Feedback, &delivered);
        let others: String = (0..7).map(|n| format!("\r\nOriginal-Rcpt-To: other{n}@b.test")).collect();
        let complaint = sign(&stage, "b.test", &arf(&format!("{feedback_type}{others}"), "Subject: hello"));
        stage.send_back("feedback@b.test", &address, &complaint).await.expect_code(250);
        assert_eq!(stage.all_reports().await[0].effect, effect, "{feedback_type}");
        let suppressed: Vec<_> = suppressions(&stage).await;
        let expected = usize::from(effect == ReportEffect::Complained);
        assert_eq!(suppressed.len(), expected, "{feedback_type}");
        for suppression in suppressed {
            assert_eq!(suppression["address"], "bob@b.test");
            let path = format!("/v1/suppressions/{}", suppression["id"].as_str().unwrap());
            stage.server.control.ok("DELETE", &path, Value::Null).await;
        }
    }
}

#[tokio::test]
async fn several_recipients_have_one_token_and_only_a_trusted_reporter_can_tell_who_complained() {
    let stage = InboundStage::start().await;
    let deliveries = stage.deliver(&["bob@b.test", "carol@b.test"]).await;
    let header = header_at_receiver(&stage);
    let address = format!("fbl+{}@{PLATFORM_HOST}", field(&header, "CFBL-Feedback-ID").unwrap());
    let token = Token::parse(address.split('@').next().unwrap()).unwrap();
    assert_eq!(format!("msg_{}", token.subject.id).to_lowercase(), deliveries[0].message.to_lowercase());
    let kind = "abuse\r\nOriginal-Rcpt-To: carol@b.test";
    let send = async |domain: &str| {
        let complaint = sign(&stage, domain, &arf_from(domain, kind, "Subject: hello"));
        stage.send_back("feedback@x.test", &address, &complaint).await.expect_code(250);
        stage.all_reports().await.swap_remove(0)
    };
    assert_eq!(send("b.test").await.effect, ReportEffect::Shared);
    assert_eq!(suppressions(&stage).await.len(), 0);
    let report = send("arf.mail.yahoo.com").await;
    assert_eq!(report.effect, ReportEffect::Complained);
    let carol = deliveries.iter().find(|delivery| delivery.recipient == "carol@b.test").unwrap();
    assert_eq!(report.delivery_id.unwrap().to_string(), carol.delivery);
    assert_eq!(suppressions(&stage).await[0]["address"], "carol@b.test");
}

#[tokio::test]
async fn a_complaint_about_list_mail_stops_the_lists_of_its_sender_and_a_password_reset_still_arrives() {
    let stage = unsubscribe::start().await;
    let (account, from) = (&stage.account, format!("alice@{DOMAIN}"));
    let news = list_message(account, "news", "news");
    let id = stage.server.submit(account, &["bob@b.test"], &news).await;
    stage.server.wait_for_status(&id, &["delivered"]).await;
    let token = field(&header_at_receiver(&stage), "CFBL-Feedback-ID").unwrap().to_owned();
    let complaint = sign(&stage, "b.test", &arf("abuse", "Subject: news"));
    let address = format!("fbl+{token}@{PLATFORM_HOST}");
    stage.send_back("feedback@b.test", &address, &complaint).await.expect_saying(250, "recorded as");

    let path = format!("/v1/reports?message_id={id}&effect=complained");
    let reports = stage.server.control.get(&path).await;
    let [report] = &reports["data"].as_array().unwrap()[..] else { panic!("one report: {reports}") };
    assert_eq!(report["kind"], "complaint");
    let [suppression] = &suppressions(&stage).await[..] else { panic!("one suppression") };
    for (name, expected) in
        [("address", "bob@b.test"), ("list", "*"), ("reason", "complaint"), ("message_id", &id)]
    {
        assert_eq!(suppression[name], expected, "{suppression}");
    }
    assert_eq!(suppression["report_id"], report["id"]);
    let [event] = &events_back(&stage, &id).await[..] else { panic!("one event") };
    assert_eq!((&event["type"], &event["data"]["list"]), (&"message.complained".into(), &"news".into()));

    let mut client = stage.server.log_in(account).await;
    for list in ["news", "offers"] {
        let octets = list_message(account, list, list);
        let reply = client.send(&from, &["bob@b.test"], &octets).await;
        reply.expect_saying(550, "5.7.1 [recipient_unsubscribed]");
        let refused = send_over_http(&stage, json!({"unsubscribe": {"list": list}})).await;
        refused.expect_error(422, "recipient_unsubscribed");
    }
    let reset = client.send(&from, &["bob@b.test"], &message(account, "Your code")).await;
    stage.server.wait_for_status(&message_id(&reset.expect_code(250)), &["delivered"]).await;
    assert_eq!(field(&header_at_receiver(&stage), "Subject"), Some("Your code"));
}

/// RFC 6376 §3.4.4: relaxed canonicalization ignores empty lines at the end, also those that become empty.
#[tokio::test]
async fn lines_of_white_space_at_the_end_of_a_complaint_do_not_break_its_signature() {
    let stage = InboundStage::start().await;
    let address = stage.address_of(TokenKind::Feedback, &stage.deliver_one().await.0);
    let complaint = [&arf("abuse", "Subject: hello")[..], b" \r\n\r\n"].concat();
    let complaint = sign(&stage, "b.test", &complaint);
    stage.send_back("feedback@b.test", &address, &complaint).await.expect_code(250);
    assert_eq!(stage.all_reports().await[0].effect, ReportEffect::Complained);
}

#[tokio::test]
async fn the_fields_are_signed_and_the_address_is_on_the_return_host_of_the_domain() {
    let stage = InboundStage::start().await;
    let domain = stage.account.domain_id.parse().unwrap();
    let check = DomainCheck {
        checked_at: Timestamp::now(),
        status: DomainStatus::Verified,
        failing_since: None,
        records: vec![RecordCheck {
            name: RETURN_HOST.into(),
            status: RecordStatus::Ok,
            found: Vec::new(),
            is_published: false,
        }],
        dkim_seen: Vec::new(),
        dkim_unseen: Vec::new(),
        return_path: Some(ReturnPathStatus::Active),
        return_path_of: Default::default(),
    };
    stage.server.running().store().record_domain_check(domain, check).await.unwrap();
    let delivered = stage.deliver_one().await.0;
    let header = header_at_receiver(&stage);
    let address = stage.address_of(TokenKind::Feedback, &delivered);
    let local = address.split('@').next().unwrap();
    assert_eq!(field(&header, "CFBL-Address"), Some(&*format!("{local}@{RETURN_HOST}; report=arf")));
    let unfolded = header.replace("\r\n\t", "").replace("\r\n ", "").to_lowercase();
    let signature = unfolded.lines().find(|line| line.starts_with("dkim-signature:")).unwrap();
    for name in ["cfbl-address", "cfbl-feedback-id"] {
        assert!(signature.contains(name), "{signature}");
    }
    let complaint = sign(&stage, "b.test", &arf("abuse", "Subject: hello"));
    let address = format!("{local}@{RETURN_HOST}");
    stage.send_back("feedback@b.test", &address, &complaint).await.expect_code(250);
    assert_eq!(stage.all_reports().await[0].effect, ReportEffect::Complained);
}

#[tokio::test]
async fn a_message_keeps_its_own_feedback_fields_and_a_server_without_a_listener_adds_none() {
    let stage = InboundStage::start().await;
    let own = [b"CFBL-Address: own@own.test; report=arf\r\n", &message(&stage.account, "own")[..]].concat();
    let id = stage.server.submit(&stage.account, &["bob@b.test"], &own).await;
    stage.server.wait_for_status(&id, &["delivered"]).await;
    let header = header_at_receiver(&stage);
    assert_eq!(field(&header, "CFBL-Address"), Some("own@own.test; report=arf"));
    assert_eq!(field(&header, "CFBL-Feedback-ID"), None);

    let stage = InboundStage::start_with(|config| config.inbound.listen.clear()).await;
    let mut client = stage.server.log_in(&stage.account).await;
    let sent = client.send(&format!("alice@{DOMAIN}"), &["bob@b.test"], &message(&stage.account, "hi")).await;
    stage.server.wait_for_status(&message_id(&sent.expect_code(250)), &["delivered"]).await;
    assert!(!header_at_receiver(&stage).contains("CFBL"));
}

#[tokio::test]
async fn a_complaint_longer_than_what_is_kept_of_a_bounce_is_kept_whole_because_its_signature_covers_it() {
    let stage = InboundStage::start().await;
    let address = stage.address_of(TokenKind::Feedback, &stage.deliver_one().await.0);
    let padding = [&[b'x'; 76][..], b"\r\n"].concat().repeat(8 * 1024);
    let complaint = sign(&stage, "b.test", &[&arf("abuse", "Subject: hello")[..], &padding].concat());
    stage.send_back("feedback@b.test", &address, &complaint).await.expect_code(250);
    assert_eq!(stage.all_reports().await[0].effect, ReportEffect::Complained);
}
