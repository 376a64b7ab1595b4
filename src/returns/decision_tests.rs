//! Which report has which effect.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::feedback::ReturnedHeader;
use crate::mail::{Address, BodyType, SignedDuration};
use crate::model::{
    BounceClass, DeliveryId, DeliveryReports, DeliveryState, Environment, FeedbackType, ListName, MessageId,
    TenantId,
};
use crate::policy::bounce_classifier::classify;
use crate::policy::reply_verdict::{Verdict, verdict_on_own_refusal};
use crate::smtp::client::Phase;
use crate::store::{Message, ReportTarget};

const OURS: &str = "Team@b.test";

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn target(kind: MessageKind, list: Option<&str>) -> ReportTarget {
    let at = now();
    let message = Message {
        id: MessageId::generate(at),
        tenant_id: TenantId::generate(at),
        key_id: None,
        kind,
        environment: Environment::Live,
        reverse_path: ReversePath::Mailbox(address("from@own.test")),
        body: BodyType::SevenBit,
        smtputf8: false,
        annotations: Default::default(),
        parameters: Default::default(),
        size: 1,
        subject: None,
        header_from: None,
        header_message_id: None,
        dkim_domain: None,
        sender_domain: None,
        list: list.map(|name| name.parse::<ListName>().unwrap()),
        created_at: at,
        expires_at: at,
    };
    let delivery = Delivery {
        id: DeliveryId::generate(at),
        message_id: message.id,
        recipient: address(OURS),
        parameters: Default::default(),
        state: DeliveryState::Delivered,
        attempts: 1,
        next_attempt_at: None,
        last_reply: None,
        bounce_class: None,
        updated_at: at,
    };
    ReportTarget {
        message: Arc::new(message),
        delivery: Some(delivery),
        only_recipient: None,
        reports_of_day: 0,
        reports_total: 0,
        delivery_reports: DeliveryReports::default(),
    }
}

fn token(kind: TokenKind) -> AdmittedToken {
    AdmittedToken { kind, target: target(MessageKind::Message, Some("news")) }
}

/// A message with several recipients.
fn shared(kind: TokenKind) -> AdmittedToken {
    let mut token = token(kind);
    token.target.delivery = None;
    token
}

fn failed(text: &str) -> FailedReply {
    let (code, rest) = text.split_once(' ').unwrap();
    let status = rest.split(' ').next().and_then(|word| word.parse().ok());
    let reply = Reply { code: code.parse().unwrap(), enhanced: status, lines: vec![rest.to_owned()] };
    let verdict = verdict_on_own_refusal(&reply);
    let suppress = matches!(verdict, Verdict::Bounced { suppress: true, .. });
    FailedReply { class: classify(Phase::Rcpt, &reply), reply, suppress }
}

fn group(recipient: Option<&str>, action: ReportAction, reply: &str) -> RecipientGroup {
    RecipientGroup {
        final_recipient: recipient.map(address),
        // If the recipient is an alias, this field names the alias, whichever address behind it failed.
        original_recipient: Some(address(OURS)),
        action,
        reply: failed(reply),
        remote_mta: None,
    }
}

fn dsn(groups: Vec<RecipientGroup>) -> FeedbackContent {
    FeedbackContent::Dsn(DeliveryStatus { reporting_mta: Some("mx.b.test".to_owned()), groups })
}

/// A message with these octets about the token.
fn decide_octets(token: Option<&AdmittedToken>, content: FeedbackContent, mail: &str) -> Decision {
    let signer = DomainName::parse("fbl.test").ok();
    decide_signed(token, content, mail, signer.as_ref())
}

fn decide_signed(
    token: Option<&AdmittedToken>,
    content: FeedbackContent,
    mail: &str,
    signer: Option<&DomainName>,
) -> Decision {
    let is_automatic = mail.contains("Auto-Submitted");
    let returned = ReturnedHeader::default();
    let feedback = Feedback { content, rule: "test", is_automatic, returned, from_domain: None };
    let sender =
        if mail.contains("<>") { ReversePath::Null } else { ReversePath::Mailbox(address("a@b.test")) };
    let octets = Bytes::from(mail.to_owned());
    let mail =
        ReturnedMail { recipient: address("x@y.test"), sender, octets, is_truncated: false, peer: None };
    decide(&Facts { token, feedback: &feedback, mail: &mail, signer, now: now() })
}

fn decide_about(token: &AdmittedToken, content: FeedbackContent) -> Decision {
    decide_octets(Some(token), content, "Subject: x\r\n\r\nbody\r\n")
}

/// The suppression that a failure makes.
fn suppression(decision: &Decision) -> Option<NewSuppression> {
    match &decision.consequence {
        Consequence::Failure { suppress } => suppress.clone(),
        Consequence::Complaint { suppress, .. } => Some(suppress.clone()),
        _ => None,
    }
}

fn effect_of(decision: &Decision) -> ReportEffect {
    // The effect that the row shows must be that of the consequence.
    let of_consequence = match decision.consequence {
        Consequence::None => None,
        Consequence::Event(effect) => Some(effect),
        Consequence::Failure { .. } => Some(ReportEffect::Bounced),
        Consequence::Complaint { .. } => Some(ReportEffect::Complained),
        Consequence::Unsubscribe(_) => Some(ReportEffect::Unsubscribed),
    };
    assert!(of_consequence.is_none_or(|effect| effect == decision.effect), "{decision:?}");
    decision.effect
}

#[test]
fn a_late_bounce_suppresses_only_an_address_that_is_gone() {
    for (reply, class, suppresses) in [
        ("550 5.1.1 no such user", BounceClass::RecipientUnknown, true),
        ("550 5.2.2 mailbox full", BounceClass::MailboxFull, false),
        ("550 5.7.1 rejected by policy", BounceClass::Policy, false),
        ("550 5.4.1 Recipient address rejected: Access denied", BounceClass::RecipientUnknown, true),
    ] {
        let content = dsn(vec![group(Some("team@B.test"), ReportAction::Failed, reply)]);
        let decision = decide_about(&token(TokenKind::Bounce), content);
        assert_eq!(effect_of(&decision), ReportEffect::Bounced, "{reply}");
        let found = suppression(&decision);
        assert_eq!(found.is_some(), suppresses, "{reply}");
        assert_eq!(decision.group.map(|group| group.reply.class), Some(class), "{reply}");
        if let Some(found) = found {
            let evidence = found.evidence.unwrap();
            assert!(evidence.starts_with("reported by mx.b.test: 550 5."), "{evidence}");
            assert_eq!((found.address.folded(), found.expires_at), (address(OURS).folded(), None));
        }
    }
    for reply in ["550 5.7.1 user unknown", "554 5.6.0 unknown user", "550 5.4.7 expired"] {
        let content = dsn(vec![group(Some(OURS), ReportAction::Failed, reply)]);
        let decision = decide_about(&token(TokenKind::Bounce), content);
        assert!(matches!(decision.consequence, Consequence::Failure { suppress: None }), "{reply}");
    }
    let inactive = dsn(vec![group(Some(OURS), ReportAction::Failed, "550 5.2.1 mailbox disabled")]);
    let found = suppression(&decide_about(&token(TokenKind::Bounce), inactive)).unwrap();
    assert_eq!(found.expires_at, Some(now() + SignedDuration::from_hours(90 * 24)));
}

#[test]
fn the_group_that_names_the_recipient_decides() {
    use ReportAction::{Delayed, Delivered, Expanded, Failed, Relayed};
    const GONE: &str = "550 5.1.1 no such user";
    let own = |action| group(Some("TEAM@b.test"), action, GONE);
    let other = |action| group(Some("left@b.test"), action, GONE);
    let unnamed = |action| group(None, action, GONE);
    for (groups, effect) in [
        (vec![own(Failed), other(Delivered)], ReportEffect::Bounced),
        (vec![other(Delivered), own(Failed)], ReportEffect::Bounced),
        (vec![other(Failed), own(Delivered)], ReportEffect::Reported),
        (vec![own(Failed), own(Delivered)], ReportEffect::Reported),
        (vec![own(Delayed), own(Failed)], ReportEffect::Bounced),
        (vec![other(Failed), other(Delivered)], ReportEffect::Indirect),
        (vec![other(Failed)], ReportEffect::Indirect),
        (vec![other(Delivered)], ReportEffect::Indirect),
        (vec![unnamed(Failed)], ReportEffect::Bounced),
        (vec![unnamed(Failed), other(Failed)], ReportEffect::Indirect),
        (vec![unnamed(Failed), unnamed(Delivered)], ReportEffect::Indirect),
        (vec![own(Delayed)], ReportEffect::Reported),
        (vec![own(Relayed)], ReportEffect::Reported),
        (vec![own(Expanded)], ReportEffect::Reported),
        (vec![own(Delivered)], ReportEffect::Reported),
        (vec![], ReportEffect::None),
    ] {
        let text = format!("{groups:?}");
        let decision = decide_about(&token(TokenKind::Bounce), dsn(groups.clone()));
        assert_eq!(effect_of(&decision), effect, "{text}");
        assert_eq!(suppression(&decision).is_some(), effect == ReportEffect::Bounced, "{text}");
        let shared = decide_about(&shared(TokenKind::Bounce), dsn(groups.clone()));
        let expected = if groups.is_empty() { ReportEffect::None } else { ReportEffect::Shared };
        assert_eq!(effect_of(&shared), expected, "{text}");
    }
}

#[test]
fn the_only_recipient_of_a_message_is_proved_by_its_token_too() {
    let mut token = token(TokenKind::Bounce);
    token.target.only_recipient = token.target.delivery.take();
    let content = || dsn(vec![group(Some(OURS), ReportAction::Failed, "550 5.1.1 no such user")]);
    assert_eq!(effect_of(&decide_about(&token, content())), ReportEffect::Bounced);
    let decision = decide_octets(None, content(), "\r\n");
    assert_eq!(effect_of(&decision), ReportEffect::Unattributed);
    let own_report = AdmittedToken { kind: TokenKind::Bounce, target: target(MessageKind::Report, None) };
    assert_eq!(effect_of(&decide_about(&own_report, content())), ReportEffect::None, "a bounce of our DSN");
}

#[test]
fn an_address_takes_only_what_it_is_for() {
    let bounce = || dsn(vec![group(Some(OURS), ReportAction::Failed, "550 5.1.1 no such user")]);
    let prose = || FeedbackContent::Prose(failed("550 5.1.1 no such user"));
    let complaint = || FeedbackContent::Complaint(Complaint::default());
    let opt_out = Complaint { feedback_type: FeedbackType::OptOut, ..Complaint::default() };
    for (kind, content, effect) in [
        (TokenKind::Bounce, bounce(), ReportEffect::Bounced),
        (TokenKind::Bounce, prose(), ReportEffect::Bounced),
        (TokenKind::Bounce, complaint(), ReportEffect::Complained),
        (TokenKind::Feedback, bounce(), ReportEffect::None),
        (TokenKind::Feedback, prose(), ReportEffect::None),
        (TokenKind::Feedback, complaint(), ReportEffect::Complained),
        (TokenKind::Unsubscribe, bounce(), ReportEffect::None),
        (TokenKind::Unsubscribe, prose(), ReportEffect::None),
        (TokenKind::Unsubscribe, complaint(), ReportEffect::None),
        (TokenKind::Bounce, FeedbackContent::AutoReply, ReportEffect::None),
        (TokenKind::Bounce, FeedbackContent::Receipt, ReportEffect::None),
        (TokenKind::Bounce, FeedbackContent::Other, ReportEffect::None),
        (TokenKind::Unsubscribe, FeedbackContent::Other, ReportEffect::Unsubscribed),
        // What Apple's mail programs write.
        (TokenKind::Unsubscribe, FeedbackContent::Complaint(opt_out), ReportEffect::Unsubscribed),
        (TokenKind::Unsubscribe, FeedbackContent::AutoReply, ReportEffect::None),
    ] {
        let text = format!("{kind:?} {content:?}");
        assert_eq!(effect_of(&decide_about(&token(kind), content)), effect, "{text}");
    }
    for mail in ["Subject: <>\r\n\r\n", "Auto-Submitted: auto-replied\r\n\r\n"] {
        let decision = decide_octets(Some(&token(TokenKind::Unsubscribe)), FeedbackContent::Other, mail);
        assert_eq!((effect_of(&decision), decision.kind), (ReportEffect::None, ReportKind::Other), "{mail}");
    }
}

#[test]
fn a_complaint_stops_the_lists_of_list_mail_and_needs_a_signature() {
    let complaint =
        |feedback_type| FeedbackContent::Complaint(Complaint { feedback_type, ..Complaint::default() });
    let of_list = token(TokenKind::Feedback);
    let other = AdmittedToken { kind: TokenKind::Feedback, target: target(MessageKind::Message, None) };
    for kind in [FeedbackType::Abuse, FeedbackType::OptOut, FeedbackType::Unknown] {
        let found = suppression(&decide_about(&of_list, complaint(kind))).unwrap();
        assert_eq!(found.mail, SuppressedMail::EveryList);
        let found = suppression(&decide_about(&other, complaint(kind))).unwrap();
        assert_eq!((found.mail, found.reason), (SuppressedMail::All, SuppressionReason::Complaint));
    }
    for kind in [FeedbackType::NotSpam, FeedbackType::AuthFailure] {
        assert_eq!(effect_of(&decide_about(&of_list, complaint(kind))), ReportEffect::Reported);
    }
    let unsigned = decide_signed(Some(&of_list), complaint(FeedbackType::Abuse), "\r\n", None);
    assert_eq!(effect_of(&unsigned), ReportEffect::Unverified);
    let signed = decide_about(&of_list, complaint(FeedbackType::Abuse));
    assert_ne!(unsigned.digest, signed.digest, "an unsigned one must not hide the one with a signature");
    let several = decide_about(&shared(TokenKind::Feedback), complaint(FeedbackType::Abuse));
    assert_eq!(effect_of(&several), ReportEffect::Shared);
}

#[test]
fn the_digest_is_of_what_a_report_says() {
    let digest = |mail: &str, content| decide_octets(Some(&token(TokenKind::Bounce)), content, mail).digest;
    let gone = |status: &str, recipient| {
        let reply = format!("550 {status} words {recipient:?}");
        dsn(vec![group(recipient, ReportAction::Failed, &reply)])
    };
    let first = digest("Message-ID: <1>\r\n\r\n", gone("5.1.1", Some(OURS)));
    assert_eq!(digest("Message-ID: <2>\r\n\r\n", gone("5.1.1", Some("team@B.TEST"))), first);
    assert_ne!(digest("\r\n\r\n", gone("5.2.2", Some(OURS))), first);
    assert_ne!(digest("\r\n\r\n", gone("5.1.1", Some("left@b.test"))), first);
    let auto = digest("Message-ID: <1>\r\n\r\naway", FeedbackContent::AutoReply);
    assert_eq!(digest("Message-ID: <2>\r\n\r\naway", FeedbackContent::AutoReply), auto);
    assert_ne!(digest("Message-ID: <1>\r\n\r\nback", FeedbackContent::AutoReply), auto);
}

#[test]
fn a_reply_without_words_has_no_code_that_no_server_gave() {
    let text = |status: Option<&str>, words: &str| {
        let enhanced = status.map(|status| status.parse().unwrap());
        reply_text(&Reply { code: 550, enhanced, lines: vec![words.to_owned()] })
    };
    assert_eq!(text(None, ""), "");
    assert_eq!(text(Some("5.1.1"), ""), "5.1.1");
    assert_eq!(text(Some("5.1.1"), "nobody"), "550 5.1.1 nobody");
    assert_eq!(text(None, "nobody"), "550 nobody");
    assert_eq!(text(Some("5.1.1"), "550 5.1.1 nobody"), "550 5.1.1 nobody");
}

/// Without their recipients, the second one would count as a repetition of the first.
#[test]
fn complaints_of_different_recipients_of_a_shared_token_do_not_say_the_same() {
    let digest = |recipients: &[&str]| {
        let complaint = Complaint {
            feedback_type: FeedbackType::Abuse,
            original_recipients: recipients.iter().copied().map(address).collect(),
            ..Complaint::default()
        };
        decide_about(&shared(TokenKind::Feedback), FeedbackContent::Complaint(complaint)).digest
    };
    assert_eq!(digest(&["a@b.test", "c@b.test"]), digest(&["C@b.test", "a@b.test"]));
    assert_ne!(digest(&["a@b.test"]), digest(&["c@b.test"]));
    assert_ne!(digest(&["a@b.test"]), digest(&[]));
}

/// Mail may be held for 30 days before its first attempt.
#[test]
fn reports_about_the_only_recipient_are_taken_until_45_days_after_its_last_change() {
    let day = SignedDuration::from_hours(24);
    let mut only = target(MessageKind::Message, None);
    only.only_recipient = only.delivery.take();
    only.only_recipient.as_mut().unwrap().updated_at = now() + 30 * day;
    let is_taken = |days| super::super::recipient::admit_age(&only, now() + days * day).is_ok();
    assert!(is_taken(50) && is_taken(75));
    assert!(!is_taken(76));
}
