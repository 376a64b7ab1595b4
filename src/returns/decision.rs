//! What follows from a message that came back. Pure: the store applies it, and decides only what depends on the state of
//! the delivery at that time.
//!
//! The token says whom a report is about; the report says only what happened. Another address in it is never suppressed.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::AdmittedToken;
use crate::feedback::{
    Complaint, DeliveryStatus, FailedReply, Feedback, FeedbackContent, RecipientGroup, ReturnedMail,
};
use crate::mail::{Address, DomainName, ReversePath, Timestamp, TokenKind};
use crate::model::{
    FeedbackType, MessageKind, ReportAction, ReportEffect, ReportKind, SuppressedMail, SuppressionReason,
    UnsubscribeVia,
};
use crate::policy::reply_verdict::suppressed_until;
use crate::smtp::Reply;
use crate::store::{Consequence, Delivery, NewSuppression, Unsubscription};

/// Characters of the evidence of a suppression.
const EVIDENCE_CHARS_MAX: usize = 1000;

/// What follows.
#[derive(Debug, Clone)]
pub(super) struct Decision {
    /// What it is.
    pub(super) kind: ReportKind,
    /// What the store does.
    pub(super) consequence: Consequence,
    /// The effect, if the state of the delivery allows it.
    pub(super) effect: ReportEffect,
    /// The group of a DSN that is about the recipient.
    pub(super) group: Option<RecipientGroup>,
    /// Of what the report says, so that its repetition is recognised.
    pub(super) digest: [u8; 32],
}

/// What the decision depends on.
pub(super) struct Facts<'a> {
    /// What it is about; `None` if nothing proves it.
    pub(super) token: Option<&'a AdmittedToken>,
    /// What it says.
    pub(super) feedback: &'a Feedback,
    /// The message.
    pub(super) mail: &'a ReturnedMail,
    /// The domain of a valid and aligned signature; also that of the sandbox.
    pub(super) signer: Option<&'a DomainName>,
    /// The time.
    pub(super) now: Timestamp,
}

/// Decides what follows.
pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    let kind = kind_of(facts);
    let group = group_about_recipient(facts);
    let (consequence, effect) = match facts.token {
        None => (Consequence::None, ReportEffect::Unattributed),
        Some(token) if token.target.message.kind != MessageKind::Message => nothing(),
        Some(token) => follow(facts, token, group),
    };
    Decision {
        kind,
        consequence,
        effect,
        group: group.cloned(),
        digest: digest(facts, (kind, effect), group),
    }
}

fn nothing() -> (Consequence, ReportEffect) {
    (Consequence::None, ReportEffect::None)
}

fn event(effect: ReportEffect) -> (Consequence, ReportEffect) {
    (Consequence::Event(effect), effect)
}

fn kind_of(facts: &Facts<'_>) -> ReportKind {
    match facts.feedback.content {
        FeedbackContent::Dsn(_) => ReportKind::Dsn,
        FeedbackContent::Prose(_) => ReportKind::Prose,
        _ if is_wish_to_unsubscribe(facts) => ReportKind::Unsubscribe,
        FeedbackContent::Complaint(_) => ReportKind::Complaint,
        FeedbackContent::AutoReply => ReportKind::AutoReply,
        FeedbackContent::Receipt => ReportKind::Receipt,
        FeedbackContent::Other => ReportKind::Other,
    }
}

/// Any mail to the address is a wish, but a bounce or an automatic reply is none. The mail that Apple's programs write for
/// their users is read as a complaint of type `opt-out`.
fn is_wish_to_unsubscribe(facts: &Facts<'_>) -> bool {
    let is_by_a_person = match &facts.feedback.content {
        FeedbackContent::Other => true,
        FeedbackContent::Complaint(complaint) => complaint.feedback_type == FeedbackType::OptOut,
        _ => false,
    };
    is_by_a_person
        && facts.token.is_some_and(|token| token.kind == TokenKind::Unsubscribe)
        && facts.mail.sender != ReversePath::Null
        && !facts.feedback.is_automatic
}

fn follow(
    facts: &Facts<'_>,
    token: &AdmittedToken,
    group: Option<&RecipientGroup>,
) -> (Consequence, ReportEffect) {
    let recipient = token.target.recipient();
    match (&facts.feedback.content, token.kind) {
        (FeedbackContent::Complaint(complaint), TokenKind::Bounce | TokenKind::Feedback) => {
            complain(facts, token, recipient, complaint)
        }
        (FeedbackContent::Dsn(_), TokenKind::Bounce) => match (group, recipient) {
            (Some(_), None) => event(ReportEffect::Shared),
            (Some(group), Some(recipient)) if !is_direct(facts, group, recipient) => {
                event(ReportEffect::Indirect)
            }
            (Some(group), Some(recipient)) if group.action == ReportAction::Failed => {
                fail(facts, token, recipient, &group.reply)
            }
            (Some(_), Some(_)) => event(ReportEffect::Reported),
            (None, _) => nothing(),
        },
        (FeedbackContent::Prose(failed), TokenKind::Bounce) => match recipient {
            Some(recipient) => fail(facts, token, recipient, failed),
            None => event(ReportEffect::Shared),
        },
        (_, TokenKind::Unsubscribe) if is_wish_to_unsubscribe(facts) => unsubscribe(facts, token, recipient),
        _ => nothing(),
    }
}

fn groups<'a>(facts: &Facts<'a>) -> &'a [RecipientGroup] {
    match &facts.feedback.content {
        FeedbackContent::Dsn(DeliveryStatus { groups, .. }) => groups,
        _ => &[],
    }
}

/// The group that names the recipient. Without one, the first failure: the report is about another address, names none, or
/// came to a shared token, of whose recipients only this one is reported.
fn group_about_recipient<'a>(facts: &Facts<'a>) -> Option<&'a RecipientGroup> {
    let groups = groups(facts);
    let own = facts.token.and_then(|token| token.target.recipient()).and_then(|recipient| {
        let is_own = |group: &&RecipientGroup| names(group, recipient);
        // A copy that arrived disproves the failure of another copy.
        let has_arrived =
            |group: &&RecipientGroup| !matches!(group.action, ReportAction::Failed | ReportAction::Delayed);
        let own = || groups.iter().filter(is_own);
        own().find(has_arrived).or_else(|| own().find(is_failed)).or_else(|| own().next())
    });
    own.or_else(|| groups.iter().find(is_failed)).or(groups.first())
}

fn is_failed(group: &&RecipientGroup) -> bool {
    group.action == ReportAction::Failed
}

/// Whether the final recipient is ours. The original one proves nothing: behind an alias it is ours too.
fn names(group: &RecipientGroup, recipient: &Delivery) -> bool {
    group.final_recipient.as_ref().is_some_and(|named| named.folded() == recipient.recipient.folded())
}

/// Whether the report is about the recipient itself: it says so, or it names nobody and says one thing only.
fn is_direct(facts: &Facts<'_>, group: &RecipientGroup, recipient: &Delivery) -> bool {
    let names_nobody =
        || groups(facts).iter().all(|each| each.final_recipient.is_none() && each.action == group.action);
    names(group, recipient) || names_nobody()
}

fn fail(
    facts: &Facts<'_>,
    token: &AdmittedToken,
    recipient: &Delivery,
    failed: &FailedReply,
) -> (Consequence, ReportEffect) {
    let FailedReply { class, suppress, .. } = *failed;
    let suppress = suppress.then(|| NewSuppression {
        evidence: Some(evidence(facts, &reply_text(&failed.reply))),
        expires_at: suppressed_until(class, facts.now),
        ..new_suppression(token, recipient, SuppressionReason::Bounce)
    });
    (Consequence::Failure { suppress }, ReportEffect::Bounced)
}

fn complain(
    facts: &Facts<'_>,
    token: &AdmittedToken,
    recipient: Option<&Delivery>,
    complaint: &Complaint,
) -> (Consequence, ReportEffect) {
    let Some(signer) = facts.signer else { return (Consequence::None, ReportEffect::Unverified) };
    let Some(recipient) = recipient else { return event(ReportEffect::Shared) };
    if !complaint.feedback_type.is_complaint() {
        return event(ReportEffect::Reported);
    }
    let list = token.target.message.list.clone();
    let kind = complaint.feedback_type;
    let suppress = NewSuppression {
        // People who complain about a newsletter still want to reset their password.
        mail: if list.is_some() { SuppressedMail::EveryList } else { SuppressedMail::All },
        evidence: Some(evidence(facts, &format!("complaint ({kind}), signed by {signer}"))),
        ..new_suppression(token, recipient, SuppressionReason::Complaint)
    };
    (Consequence::Complaint { suppress, list }, ReportEffect::Complained)
}

fn unsubscribe(
    facts: &Facts<'_>,
    token: &AdmittedToken,
    recipient: Option<&Delivery>,
) -> (Consequence, ReportEffect) {
    let message = &token.target.message;
    let (Some(recipient), Some(list)) = (recipient, message.list.clone()) else { return nothing() };
    let wish = Unsubscription {
        tenant_id: message.tenant_id,
        environment: message.environment,
        address: recipient.recipient.clone(),
        mail: SuppressedMail::List(list),
        via: UnsubscribeVia::Mail,
        message_id: Some(message.id),
        at: facts.now,
    };
    (Consequence::Unsubscribe(wish), ReportEffect::Unsubscribed)
}

fn new_suppression(token: &AdmittedToken, recipient: &Delivery, reason: SuppressionReason) -> NewSuppression {
    let message = &token.target.message;
    let address = recipient.recipient.clone();
    NewSuppression::of_all_mail(Some(message.tenant_id), message.environment, address, reason)
}

/// It outlives the report.
fn evidence(facts: &Facts<'_>, what: &str) -> String {
    let mta = match &facts.feedback.content {
        FeedbackContent::Dsn(status) => status.reporting_mta.as_deref(),
        _ => None,
    };
    let from = mta.or(facts.mail.peer.as_ref().map(|peer| peer.helo.as_str()));
    let text = match from {
        Some(from) => format!("reported by {from}: {what}"),
        None => what.to_owned(),
    };
    text.chars().take(EVIDENCE_CHARS_MAX).collect()
}

/// Reports with the same digest say the same. Ids and times in a report differ at each repetition, so they do not count.
fn digest(
    facts: &Facts<'_>,
    (kind, effect): (ReportKind, ReportEffect),
    group: Option<&RecipientGroup>,
) -> [u8; 32] {
    let mut digest = Sha256::new();
    let mut add = |part: &str| {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    };
    add(kind.as_str());
    // A complaint without a signature does not hide the one with it.
    add(effect.as_str());
    match &facts.feedback.content {
        FeedbackContent::Dsn(_) => {
            add(group.map_or("", |group| group.action.as_str()));
            let final_recipient = group.and_then(|group| group.final_recipient.as_ref());
            add(&final_recipient.map(|address| address.folded()).unwrap_or_default());
            add_reply(&mut add, group.map(|group| &group.reply));
        }
        FeedbackContent::Prose(failed) => add_reply(&mut add, Some(failed)),
        FeedbackContent::Complaint(Complaint { feedback_type, original_recipients, .. }) => {
            add(feedback_type.as_str());
            // Several recipients may have the token.
            let recipients: BTreeSet<_> = original_recipients.iter().map(Address::folded).collect();
            recipients.iter().for_each(|recipient| add(recipient));
        }
        FeedbackContent::AutoReply | FeedbackContent::Receipt | FeedbackContent::Other => {
            digest.update(body(&facts.mail.octets));
        }
    }
    digest.finalize().into()
}

/// Code, status and text, in one line. The words of a report often have code and status already. Without words there is only
/// the status: no server gave the code.
pub(super) fn reply_text(reply: &Reply) -> String {
    let text = reply.lines.join(" ");
    if text.is_empty() {
        return reply.enhanced.map(|status| status.to_string()).unwrap_or_default();
    }
    if text.starts_with(&reply.code.to_string()) {
        return text;
    }
    match reply.enhanced {
        Some(status) => format!("{} {status} {text}", reply.code),
        None => format!("{} {text}", reply.code),
    }
}

fn add_reply(add: &mut impl FnMut(&str), failed: Option<&FailedReply>) {
    let Some(FailedReply { reply, class, .. }) = failed else { return };
    add(&reply.enhanced.map_or_else(|| reply.code.to_string(), |status| status.to_string()));
    add(class.as_str());
}

fn body(octets: &[u8]) -> &[u8] {
    let end = octets.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or(octets, |end| &octets[end..])
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
