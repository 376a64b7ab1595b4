use pillarbox::feedback::{self, FailedReply, FeedbackContent};
use pillarbox::mail::{Address, ReversePath};

/// No report makes the reader panic or exceed its limits. Only a permanent reply about a missing address suppresses, and
/// prose is believed from servers only. What is stored is the beginning of the report.
pub fn feedback(octets: &[u8]) {
    check(octets, &ReversePath::Null);

    let Ok(person) = Address::parse("person@example.com") else { return };
    let from_person = feedback::read(octets, &ReversePath::Mailbox(person));
    assert!(!matches!(from_person.content, FeedbackContent::Prose(_)));
}

/// Checks what is read from one report.
pub fn check(octets: &[u8], sender: &ReversePath) {
    let read = feedback::read(octets, sender);
    match &read.content {
        FeedbackContent::Dsn(status) => {
            assert!((1..=32).contains(&status.groups.len()));
            status.groups.iter().for_each(|group| check_reply(&group.reply));
        }
        FeedbackContent::Prose(reply) => check_reply(reply),
        FeedbackContent::Complaint(complaint) => assert!(complaint.original_recipients.len() <= 32),
        FeedbackContent::AutoReply | FeedbackContent::Receipt | FeedbackContent::Other => {}
    }
    assert!(read.returned.tokens.len() <= 8 && read.returned.message_ids.len() <= 8);

    let kept = feedback::excerpt(octets, 100);
    assert!(kept.len() <= 100 && octets.starts_with(kept));
}

fn check_reply(judged: &FailedReply) {
    let reply = &judged.reply;
    assert!(!reply.lines.is_empty());
    assert!(reply.lines.iter().flat_map(|line| line.bytes()).all(|octet| (b' '..=b'~').contains(&octet)));
    if judged.suppress {
        assert!(judged.class.is_address_gone());
        assert!(reply.code >= 500 && reply.enhanced.is_none_or(|status| status.class == 5));
    }
}
