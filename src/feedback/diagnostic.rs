//! The reply of a server within other words.

use crate::mail::{EnhancedStatus, without_macs};
use crate::model::{BounceClass, ReportAction};
use crate::policy::bounce_classifier::classify;
use crate::policy::reply_verdict::{Verdict, verdict_on_own_refusal};
use crate::smtp::Reply;
use crate::smtp::client::Phase;

use super::FailedReply;

/// Octets of a reply that are kept.
const REPLY_OCTETS_MAX: usize = 2048;

/// The code of the first reply in a text, and where it stands. A reply code is no part of a number or name, and a text
/// or an enhanced status follows.
pub(super) fn find_code(text: &str) -> Option<(usize, u16)> {
    let octets = text.as_bytes();
    let is_part = |octet: &u8| octet.is_ascii_alphanumeric() || b".-_@/+=".contains(octet);
    (0..octets.len().saturating_sub(2)).find_map(|at| {
        let digits = &octets[at..at + 3];
        let is_code = matches!(digits, [b'4' | b'5', b'0'..=b'7', b'0'..=b'9']);
        let before = at.checked_sub(1).map(|before| &octets[before]);
        let after = octets.get(at + 3).copied().unwrap_or(b' ');
        let stands_alone = !before.is_some_and(is_part) && b" -\t\r\n#:(,;]".contains(&after);
        let code = || digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        (is_code && stands_alone).then(|| (at, code()))
    })
}

/// The first enhanced status of class 4 or 5 in a text, and where it stands.
pub(super) fn find_status(text: &str) -> Option<(usize, EnhancedStatus)> {
    let octets = text.as_bytes();
    let is_part = |octet: &u8| octet.is_ascii_alphanumeric() || b".@_".contains(octet);
    (0..octets.len()).find_map(|at| {
        let is_start = matches!(octets[at], b'4' | b'5') && octets.get(at + 1) == Some(&b'.');
        if !is_start || at.checked_sub(1).is_some_and(|before| is_part(&octets[before])) {
            return None;
        }
        let length =
            octets[at..].iter().take_while(|octet| octet.is_ascii_digit() || **octet == b'.').count();
        let word = text[at..at + length].trim_end_matches('.');
        let goes_on = octets.get(at + word.len()).is_some_and(|octet| octet.is_ascii_alphanumeric());
        word.parse().ok().filter(|_| !goes_on).map(|status| (at, status))
    })
}

/// The reply in the words of a server about an action, completed by the status that the report gives beside them.
pub(super) fn reply_of(text: &str, status: Option<EnhancedStatus>, action: ReportAction) -> Reply {
    let text = &text[..text.floor_char_boundary(REPLY_OCTETS_MAX)];
    let code = find_code(text).map(|(_, code)| code);
    let said = find_status(text).map(|(_, status)| status);
    let is_exact = |status: &EnhancedStatus| (status.subject, status.detail) != (0, 0);
    let enhanced = said.filter(is_exact).or(status.filter(is_exact)).or(said).or(status);
    let code = code.unwrap_or(match (enhanced.map(|status| status.class), action) {
        (Some(2), _) | (None, ReportAction::Delivered | ReportAction::Relayed | ReportAction::Expanded) => {
            250
        }
        (Some(4), _) | (None, ReportAction::Delayed) => 450,
        _ => 550,
    });
    Reply { code, enhanced, lines: lines_of(text) }
}

/// The lines that are not empty, without MACs of our tokens, which servers quote; at least one.
fn lines_of(text: &str) -> Vec<String> {
    let lines: Vec<_> = text
        .lines()
        .map(|line| without_macs(line.trim()).into_owned())
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() { vec![String::new()] } else { lines }
}

/// Printable ASCII, as in a [`Reply`] from a connection: other characters become `?`.
fn printable(mut reply: Reply) -> Reply {
    let is_printable = |c: char| c == ' ' || c.is_ascii_graphic();
    for line in &mut reply.lines {
        *line = line.chars().map(|c| if is_printable(c) { c } else { '?' }).collect();
    }
    reply
}

/// What servers write about a refusal before any recipient was named (Exim, Postfix, qmail, sendmail).
const BEFORE_RECIPIENT: &[&str] = &[
    "after initial connection",
    "after ehlo",
    "after helo",
    "after mail from",
    "after pipelined mail from",
    "refused to talk to me",
    "in reply to ehlo command",
    "in reply to helo command",
    "in reply to mail from command",
    "in reply to initial server greeting",
    "my name was rejected",
    "does not like sender",
];

/// Whether words in lower case tell of a refusal of the client or the sender.
pub(super) fn is_about_client(words: &str) -> bool {
    BEFORE_RECIPIENT.iter().any(|stage| words.contains(stage))
}

/// What a refusal of the client means: nothing about the recipient.
pub(super) fn judge_of_client(mut judged: FailedReply) -> FailedReply {
    let is_unclear = judged.class == BounceClass::Unclassified || judged.class.is_address_gone();
    if is_unclear {
        judged.class = BounceClass::Policy;
    }
    judged.suppress = false;
    judged
}

/// What a reply means. A failure is classified as a refusal in a dialogue, except that a temporary reply does not suppress:
/// the other server only stopped retrying.
pub(super) fn judge(reply: Reply, action: ReportAction) -> FailedReply {
    if action != ReportAction::Failed {
        let is_delay = action == ReportAction::Delayed;
        let class = if is_delay { classify(Phase::Rcpt, &reply) } else { BounceClass::Unclassified };
        return FailedReply { reply: printable(reply), class, suppress: false };
    }
    let about_client = is_about_client(&reply.lines.join(" ").to_lowercase());
    let is_permanent = reply.code >= 500 && reply.enhanced.is_none_or(|status| status.class == 5);
    let verdict = verdict_on_own_refusal(&reply);
    let suppress = is_permanent && matches!(verdict, Verdict::Bounced { suppress: true, .. });
    let class = verdict.class().unwrap_or(BounceClass::Unclassified);
    let judged = FailedReply { reply: printable(reply), class, suppress };
    if about_client { judge_of_client(judged) } else { judged }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_and_a_status_are_no_parts_of_other_words() {
        for (text, code, status) in [
            ("550 5.1.1 no", Some(550), Some("5.1.1")),
            ("smtp; 550-5.1.1 no", Some(550), Some("5.1.1")),
            ("host mx[192.0.2.1] said: 450 4.2.0 later", Some(450), Some("4.2.0")),
            ("#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##", Some(550), Some("5.1.1")),
            ("(#5.1.1)", None, Some("5.1.1")),
            ("#<mx #5.1.1 smtp; 550 5.1.1 unknown>", Some(550), Some("5.1.1")),
            ("192.0.2.550 x550 5500 a-550 550x 550@b", None, None),
            ("5.1 5.1.1.1 v5.1.1 5.1.1a 3.1.1", None, None),
            ("delivered 250 2.0.0 then 5.7.1.", None, Some("5.7.1")),
            ("", None, None),
            ("55", None, None),
            ("550", Some(550), None),
        ] {
            assert_eq!(find_code(text).map(|(_, code)| code), code, "{text}");
            assert_eq!(find_status(text).map(|(_, status)| status.to_string()).as_deref(), status, "{text}");
        }
    }

    #[test]
    fn the_status_beside_the_words_completes_them() {
        for (text, status, expected) in [
            ("550 5.1.1 no", Some("5.0.0"), "550 5.1.1"),
            ("550 no", Some("5.1.1"), "550 5.1.1"),
            ("550 5.0.0 no", Some("5.2.2"), "550 5.2.2"),
            ("", Some("5.1.1"), "550 5.1.1"),
            ("", Some("4.4.7"), "450 4.4.7"),
            ("no such user", None, "550"),
        ] {
            let status = status.map(|status| status.parse().unwrap());
            let reply = reply_of(text, status, ReportAction::Failed);
            let status = reply.enhanced.map(|status| format!(" {status}")).unwrap_or_default();
            assert_eq!(format!("{}{status}", reply.code), expected, "{text} {status:?}");
        }
    }
}
