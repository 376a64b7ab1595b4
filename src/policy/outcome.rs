//! What a reply means for a recipient: delivered, to be tried again, refused, and whether the address is gone.

use crate::mail::EnhancedStatus;
use crate::smtp::Reply;
use crate::smtp::client::Phase;

/// What follows for one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server took the message for this recipient.
    Delivered,
    /// Another host, or another time, may do better.
    Deferred {
        /// Whether the cause is likely to pass within a minute: the connection, greylisting, load.
        brief: bool,
    },
    /// Refused for good.
    Bounced {
        /// Whether the address does not exist, so that mailing it again would harm the sender's name.
        suppress: bool,
    },
}

/// Judges the reply to `phase`. `alone`: whether it speaks of this recipient only.
pub fn judge(phase: Phase, reply: &Reply, alone: bool) -> Verdict {
    let brief = matches!(reply.code, 421 | 450 | 451);
    match (phase, reply.code / 100) {
        // Before MAIL a refusal is about us or the host and not about the message (RFC 5321 §3.1: 554 greeting).
        (Phase::Connect | Phase::Greeting | Phase::Hello | Phase::StartTls | Phase::Auth, _) => {
            Verdict::Deferred { brief: true }
        }
        (Phase::Content, 2) => Verdict::Delivered,
        (_, 4) => Verdict::Deferred { brief },
        // RFC 5321 §4.5.3.1.10: a client treats 552 to RCPT as 452, too many recipients.
        (Phase::Rcpt, _) if reply.code == 552 => Verdict::Deferred { brief: false },
        (Phase::Mail | Phase::Data, 5) => Verdict::Bounced { suppress: false },
        (Phase::Rcpt, 5) => Verdict::Bounced { suppress: is_address_gone(reply) },
        (Phase::Content, 5) => Verdict::Bounced { suppress: alone && is_address_gone(reply) },
        // Success where none was asked for, 3xx out of place: whatever it is, it is no answer.
        _ => Verdict::Deferred { brief: false },
    }
}

/// Whether a refusal says that there is no such mailbox. Only then is the address suppressed: never for policy
/// (5.7.x), content (5.6.x) or a full mailbox (5.2.2).
pub fn is_address_gone(reply: &Reply) -> bool {
    if reply.code / 100 != 5 {
        return false;
    }
    let text = reply.lines.join(" ").to_ascii_lowercase();
    match reply.enhanced.map(|status| (status.class, status.subject, status.detail)) {
        // RFC 3463 §3.2, RFC 7505 §4.2: no such mailbox, no mail at all.
        Some((5, 1, 1 | 10)) => true,
        // RFC 3463 §3.3: disabled. One provider says the same of a mailbox that receives too fast.
        Some((5, 2, 1)) => !text.contains("rate") && !text.contains("too quickly"),
        None | Some((5, 0 | 1 | 5, 0) | (5, 4, 1)) => says_no_such_user(reply.enhanced, &text),
        _ => false,
    }
}

/// Words of large providers whose status is absent or says nothing.
fn says_no_such_user(status: Option<EnhancedStatus>, text: &str) -> bool {
    /// With no status, or one that is as good as none.
    const VAGUE: &[&str] = &[
        // Yahoo, AOL
        "user doesn't have a",
        "mailbox not found",
        "this mailbox is disabled",
        // Microsoft's consumer mail: 5.5.0
        "requested action not taken: mailbox unavailable",
        // mail.ru, qq.com, 163.com and the defaults of common servers
        "no such user",
        "user unknown",
        "unknown user",
        "user not found",
        "recipient not found",
        "no such recipient",
        "invalid mailbox",
        "mailbox does not exist",
        "account does not exist",
        "user does not exist",
        "does not exist here",
        "no mailbox here by that name",
        "not our customer",
        "account has been disabled",
    ];
    /// Microsoft 365 with directory-based blocking.
    const BLOCKED: &str = "recipient address rejected: access denied";
    match status.map(|status| (status.subject, status.detail)) {
        Some((4, 1)) => text.contains(BLOCKED),
        _ => VAGUE.iter().any(|words| text.contains(words)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Reply {
        let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
        let status = rest.split(' ').next().and_then(|word| word.parse().ok());
        Reply { code: code.parse().unwrap(), enhanced: status, lines: vec![rest.to_owned()] }
    }

    #[test]
    fn replies_and_phases_give_verdicts() {
        const LATER: Verdict = Verdict::Deferred { brief: false };
        const SOON: Verdict = Verdict::Deferred { brief: true };
        const NO: Verdict = Verdict::Bounced { suppress: false };
        for (phase, text, verdict) in [
            (Phase::Content, "250 2.0.0 ok", Verdict::Delivered),
            (Phase::Content, "252 maybe", Verdict::Delivered),
            (Phase::Data, "250 what", LATER),
            (Phase::Rcpt, "354 what", LATER),
            (Phase::Mail, "354 what", LATER),
            (Phase::Content, "354 what", LATER),
            (Phase::Rcpt, "450 4.2.0 greylisted", SOON),
            (Phase::Rcpt, "451 later", SOON),
            (Phase::Mail, "421 busy", SOON),
            (Phase::Rcpt, "452 4.2.2 full", LATER),
            (Phase::Content, "452 4.3.1 disk", LATER),
            (Phase::Rcpt, "552 5.5.3 too many", LATER),
            (Phase::Content, "552 5.3.4 too big", NO),
            (Phase::Mail, "552 5.3.4 too big", NO),
            (Phase::Mail, "550 5.7.1 no", NO),
            (Phase::Data, "554 5.5.1 no", NO),
            (Phase::Rcpt, "550 5.7.1 no", NO),
            (Phase::Greeting, "554 5.7.1 you are listed", SOON),
            (Phase::Greeting, "421 busy", SOON),
            (Phase::Hello, "550 bad name", SOON),
            (Phase::Auth, "535 5.7.8 no", SOON),
            (Phase::StartTls, "454 no", SOON),
        ] {
            assert_eq!(judge(phase, &reply(text), true), verdict, "{phase:?} {text}");
        }
    }

    #[test]
    fn only_what_says_that_the_mailbox_is_gone_suppresses() {
        for (text, gone) in [
            ("550 5.1.1 no", true),
            ("556 5.1.10 null MX", true),
            ("550 5.2.1 disabled", true),
            ("550 5.2.1 The user is receiving mail at a rate that prevents more", false),
            ("550 5.2.2 over quota; user unknown", false),
            ("550 5.7.1 no such user", false),
            ("550 5.6.0 user unknown", false),
            ("550 5.1.2 no such domain", false),
            ("450 4.1.1 user unknown", false),
            ("550 No such user here", true),
            ("554 delivery error: dd This user doesn't have a yahoo.com account", true),
            ("550 5.5.0 Requested action not taken: mailbox unavailable", true),
            ("550 5.4.1 Recipient address rejected: Access denied. AS(1)", true),
            ("550 5.4.1 no answer from host", false),
            ("550 rejected for spam", false),
            ("554 5.0.0 service unavailable", false),
        ] {
            let verdict = judge(Phase::Rcpt, &reply(text), false);
            assert_eq!(verdict == Verdict::Bounced { suppress: true }, gone, "{text}");
        }
    }

    #[test]
    fn a_refusal_of_the_message_suppresses_only_a_recipient_who_was_alone() {
        let gone = reply("550 5.1.1 no");
        assert_eq!(judge(Phase::Content, &gone, true), Verdict::Bounced { suppress: true });
        assert_eq!(judge(Phase::Content, &gone, false), Verdict::Bounced { suppress: false });
        assert_eq!(judge(Phase::Mail, &gone, true), Verdict::Bounced { suppress: false });
    }
}
