//! What the sandbox sends back after a delivery: a late bounce, a complaint, an automatic reply. They are read as those of
//! other servers are.

use super::sandbox::SandboxScenario;
use crate::feedback::ReturnedMail;
use crate::mail::{
    Address, DomainName, EnhancedStatus, ReversePath, TokenKeys, TokenKind, TokenScope, TokenSubject,
};
use crate::store::Delivery;

/// What comes back about a delivery, if its scenario has such a message.
pub fn returned_mail(
    scenario: SandboxScenario,
    delivery: &Delivery,
    keys: &TokenKeys,
    host: &DomainName,
) -> Option<ReturnedMail> {
    let kind = match scenario {
        SandboxScenario::Complaint => TokenKind::Feedback,
        SandboxScenario::LateBounce(_) | SandboxScenario::AutoReply => TokenKind::Bounce,
        _ => return None,
    };
    let subject = TokenSubject { scope: TokenScope::Delivery, id: delivery.id.into() };
    let token = keys.issue(kind, subject)?;
    let recipient = Address::parse(&format!("{token}@{host}")).ok()?;
    let text = match scenario {
        SandboxScenario::LateBounce(status) => late_bounce(&recipient, &delivery.recipient, status, host),
        SandboxScenario::Complaint => complaint(&recipient, host, &token.bare()),
        _ => automatic_reply(&recipient, &delivery.recipient),
    };
    let sender = ReversePath::Null;
    Some(ReturnedMail { recipient, sender, octets: text.into(), is_truncated: false, peer: None })
}

/// A DSN (RFC 3464); its addresses may need RFC 6533.
fn late_bounce(to: &Address, about: &Address, status: EnhancedStatus, host: &DomainName) -> String {
    let (kind, address_type) = match about.needs_smtputf8() {
        true => ("message/global-delivery-status", "utf-8"),
        false => ("message/delivery-status", "rfc822"),
    };
    let code = if status.class == 4 { 450 } else { 550 };
    format!(
        "From: MAILER-DAEMON@{host}\r\nTo: {to}\r\nSubject: Undelivered mail\r\nAuto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=\"=sandbox\"\r\n\r\n\
         --=sandbox\r\nContent-Type: text/plain\r\n\r\nThe sandbox could not deliver the message.\r\n\
         --=sandbox\r\nContent-Type: {kind}\r\n\r\nReporting-MTA: dns; {host}\r\n\r\n\
         Final-Recipient: {address_type}; {about}\r\nAction: failed\r\nStatus: {status}\r\n\
         Diagnostic-Code: smtp; {code} {status} refused later by the sandbox, as the address requests\r\n\r\n\
         --=sandbox--\r\n"
    )
}

/// A complaint (RFC 5965) as large providers send it: only the returned header names the message.
fn complaint(to: &Address, host: &DomainName, feedback_id: &str) -> String {
    format!(
        "From: feedback@{host}\r\nTo: {to}\r\nSubject: Complaint\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=\"=sandbox\"\r\n\r\n\
         --=sandbox\r\nContent-Type: text/plain\r\n\r\nA recipient in the sandbox complains.\r\n\
         --=sandbox\r\nContent-Type: message/feedback-report\r\n\r\n\
         Feedback-Type: abuse\r\nUser-Agent: Pillarbox-Sandbox/1.0\r\nVersion: 1\r\n\r\n\
         --=sandbox\r\nContent-Type: text/rfc822-headers\r\n\r\nCFBL-Feedback-ID: {feedback_id}\r\n\r\n--=sandbox--\r\n"
    )
}

/// A vacation notice (RFC 3834).
fn automatic_reply(to: &Address, from: &Address) -> String {
    format!(
        "From: {from}\r\nTo: {to}\r\nSubject: Out of office\r\nAuto-Submitted: auto-replied (vacation)\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nThe recipient in the sandbox is on holiday.\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::{FeedbackContent, read};
    use crate::mail::{Timestamp, TokenKey};
    use crate::model::{DeliveryId, DeliveryState, FeedbackType, MessageId};

    fn sent_back(local: &str) -> Option<FeedbackContent> {
        let keys = TokenKeys::new(vec![TokenKey::new(1, Timestamp::UNIX_EPOCH, &[7; 32])]);
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let delivery = Delivery {
            id: DeliveryId::generate(now),
            message_id: MessageId::generate(now),
            recipient: Address::parse(&format!("{local}@x.example")).unwrap(),
            parameters: Default::default(),
            state: DeliveryState::Delivered,
            attempts: 1,
            next_attempt_at: None,
            last_reply: None,
            bounce_class: None,
            updated_at: now,
        };
        let host = DomainName::parse("relay.example").unwrap();
        let mail = returned_mail(SandboxScenario::of(&delivery.recipient), &delivery, &keys, &host)?;
        Some(read(&mail.octets, &mail.sender).content)
    }

    #[test]
    fn the_reader_reads_what_the_sandbox_writes() {
        for (local, status, suppress) in
            [("late-bounce", "5.1.1", true), ("late-bounce+5.2.2", "5.2.2", false)]
        {
            let Some(FeedbackContent::Dsn(read)) = sent_back(local) else { panic!("{local}") };
            let [group] = &read.groups[..] else { panic!("one group") };
            assert_eq!(group.final_recipient.as_ref().unwrap().to_string(), format!("{local}@x.example"));
            assert_eq!(group.reply.reply.enhanced.unwrap().to_string(), status);
            assert_eq!(group.reply.suppress, suppress, "{local}");
        }
        let Some(FeedbackContent::Complaint(complaint)) = sent_back("complaint") else { panic!("complaint") };
        assert_eq!(complaint.feedback_type, FeedbackType::Abuse);
        assert_eq!(sent_back("autoreply"), Some(FeedbackContent::AutoReply));
        assert_eq!(sent_back("bounce"), None);
    }
}
