//! The part `message/delivery-status` (RFC 3464 §2) or `message/global-delivery-status` (RFC 6533 §5).

use crate::mail::{Address, EnhancedStatus};
use crate::model::{BounceClass, ReportAction};

use super::diagnostic::{find_code, find_status, judge, judge_of_client, reply_of};
use super::fields::{Fields, lines};
use super::prose::OwnWords;
use super::{DeliveryStatus, RecipientGroup};

/// Recipients that are looked at.
const GROUPS_MAX: usize = 32;
/// Fields that begin the group of a recipient.
const RECIPIENTS: [&str; 2] = ["Original-Recipient", "Final-Recipient"];

/// Reads the part. A group without anything that tells what happened is left out.
pub(super) fn read(text: &str) -> DeliveryStatus {
    let mut status = DeliveryStatus::default();
    let mut current = Fields::default();
    let mut after_blank = false;
    for line in lines(text.as_bytes()) {
        if line.trim_ascii().is_empty() {
            after_blank = true;
            continue;
        }
        if begins_group(&current, line, after_blank) {
            status.add(&current);
            current = Fields::default();
        }
        if status.groups.len() == GROUPS_MAX {
            return status;
        }
        after_blank = false;
        current.add(line);
    }
    status.add(&current);
    status
}

/// Whether a line begins the group of another recipient: not every empty line does, and some groups have none between
/// them.
fn begins_group(current: &Fields<'_>, line: &[u8], after_blank: bool) -> bool {
    let mut next = Fields::default();
    next.add(line);
    let begins_recipient = RECIPIENTS.iter().any(|name| next.has(name));
    let tells_result = || current.has("Action") || current.has("Status");
    let repeats = |name: &&str| next.has(name) && current.has(name);
    (after_blank && begins_recipient && tells_result())
        || RECIPIENTS.iter().chain(&["Action", "Status"]).any(repeats)
}

impl DeliveryStatus {
    /// Takes what the part leaves open from the words for people: the reason, and whether the client was refused.
    pub(super) fn complete(&mut self, words: &OwnWords) {
        let is_only_one = self.groups.len() == 1;
        for group in self.groups.iter_mut().filter(|group| group.action == ReportAction::Failed) {
            let has_words = group.reply.reply.lines.iter().any(|line| !line.is_empty());
            let recipient = group.final_recipient.as_ref().filter(|_| !is_only_one);
            if !has_words
                && group.reply.class == BounceClass::Unclassified
                && (is_only_one || recipient.is_some())
            {
                let reply = reply_of(&words.about(recipient), group.reply.reply.enhanced, group.action);
                group.reply = judge(reply, group.action);
            }
            if is_only_one && words.is_about_client() {
                group.reply = judge_of_client(group.reply.clone());
            }
            group.reply.suppress &= !(is_only_one && words.is_about_quota());
        }
    }

    fn add(&mut self, fields: &Fields<'_>) {
        if self.reporting_mta.is_none() {
            self.reporting_mta = fields.get("Reporting-MTA").map(|value| without_type(&value).1.to_owned());
        }
        if self.groups.len() < GROUPS_MAX {
            self.groups.extend(group_of(fields));
        }
    }
}

fn group_of(fields: &Fields<'_>) -> Option<RecipientGroup> {
    let status = fields.get("Status").and_then(|value| read_status(&value));
    let diagnostic = fields.get("Diagnostic-Code").unwrap_or_default();
    let words = without_type(&diagnostic).1;
    let action = fields.get("Action").and_then(|value| read_action(&value));
    let action = action.or_else(|| action_of(status, words))?;
    let recipient = |name| fields.get(name).and_then(|value| read_recipient(&value));
    Some(RecipientGroup {
        final_recipient: recipient("Final-Recipient"),
        original_recipient: recipient("Original-Recipient"),
        action,
        reply: judge(reply_of(words, status, action), action),
        remote_mta: fields.get("Remote-MTA").map(|value| without_type(&value).1.to_owned()),
    })
}

/// The first status of the value: some write a comment before or after it.
fn read_status(value: &str) -> Option<EnhancedStatus> {
    let mut words = value.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    words.find_map(|word| word.trim_matches('.').parse().ok())
}

/// The action, if the value begins with one (RFC 3464 §2.3.3).
fn read_action(value: &str) -> Option<ReportAction> {
    let word = value.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty())?;
    let word = word.to_ascii_lowercase();
    match &*word {
        "fail" | "failure" | "expired" => Some(ReportAction::Failed),
        "delay" => Some(ReportAction::Delayed),
        "deliverable" | "delivery" => Some(ReportAction::Delivered),
        _ => word.parse().ok(),
    }
}

/// What happened, if no action says it.
fn action_of(status: Option<EnhancedStatus>, words: &str) -> Option<ReportAction> {
    let class = status.map(|status| u16::from(status.class)).or(find_code(words).map(|(_, code)| code / 100));
    match class.or(find_status(words).map(|(_, status)| u16::from(status.class)))? {
        2 => Some(ReportAction::Delivered),
        4 => Some(ReportAction::Delayed),
        _ => Some(ReportAction::Failed),
    }
}

/// The type before the semicolon, in lower case, and the value after it. Some leave the type out.
fn without_type(value: &str) -> (String, &str) {
    let is_type = |text: &str| {
        text.len() <= 32 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    match value.split_once(';') {
        Some((kind, rest)) if is_type(kind.trim()) => (kind.trim().to_ascii_lowercase(), rest.trim()),
        _ => (String::new(), value.trim()),
    }
}

/// The address of a recipient field; `None` if it has none, as `rfc822; unknown`.
pub(super) fn read_recipient(value: &str) -> Option<Address> {
    let (kind, text) = without_type(value);
    let text = match kind.as_str() {
        "utf-8" => unescape(text),
        _ => text.to_owned(),
    };
    let text = text.trim();
    let text =
        text.rsplit_once('<').map_or(text, |(_, rest)| rest.split_once('>').map_or(rest, |(inner, _)| inner));
    let first = text.split_whitespace().next()?;
    Address::parse(text).or_else(|_| Address::parse(first)).ok()
}

/// Undoes `\x{HEX}` (RFC 6533 §3, utf-8-addr-xtext and -unitext).
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x{") {
        out.push_str(before);
        let decoded = after.split_once('}').and_then(|(digits, left)| {
            let code = u32::from_str_radix(digits, 16).ok()?;
            Some((char::from_u32(code)?, left))
        });
        rest = match decoded {
            Some((c, left)) => {
                out.push(c);
                left
            }
            None => {
                out.push_str("\\x{");
                after
            }
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recipient, action, status and class of each group.
    fn groups(text: &str) -> Vec<String> {
        let describe = |group: &RecipientGroup| {
            let recipient = group.final_recipient.as_ref().map_or("-".to_owned(), ToString::to_string);
            let status = group.reply.reply.enhanced.map_or("-".to_owned(), |status| status.to_string());
            format!("{recipient} {} {status} {} {}", group.action, group.reply.class, group.reply.suppress)
        };
        read(text).groups.iter().map(describe).collect()
    }

    const GONE: &str = "a@b.example failed 5.1.1 recipient_unknown true";

    #[test]
    fn a_group_is_read_in_each_of_its_forms() {
        for text in [
            "Reporting-MTA: dns; mx\r\n\r\nFinal-Recipient: rfc822; a@b.example\r\nAction: failed\r\nStatus: 5.1.1\r\n",
            "final-recipient: RFC822;<A@B.example>\nACTION: Failed\nstatus: 5.1.1 (no such user)\n",
            "\n\n\nFinal-Recipient: a@b.example\nAction: failure\nStatus: (permanent) 5.1.1\n",
            "Final-Recipient: rfc822; a@b.example\nStatus: 5.1.1\n",
            "Final-Recipient: rfc822; a@b.example\nAction: failed\nDiagnostic-Code: smtp; 550 5.1.1 no\n",
            "Final-Recipient: rfc822; a@b.example\nAction: expired\nStatus: 5.0.0\nDiagnostic-Code: smtp; 550 5.1.1 no\n",
            "Final-Recipient: rfc822;\r\n a@b.example\r\nAction: failed\r\n\r\nStatus: 5.1.1\r\n",
            "Final-Recipient: rfc822; a@b.example\rAction: failed\rStatus: 5.1.1\r",
        ] {
            let found = groups(text).join("; ");
            assert_eq!(found.replace("A@B", "a@b").replace("A@b", "a@b"), GONE, "{text}");
        }
    }

    #[test]
    fn groups_are_told_apart_with_and_without_empty_lines() {
        let one = |name: &str| {
            format!(
                "Original-Recipient: rfc822; x@b.example\nFinal-Recipient: rfc822; {name}@b.example\nAction: failed\nStatus: 5.1.1\n"
            )
        };
        let turned = |name: &str| {
            format!(
                "Final-Recipient: rfc822; {name}@b.example\nOriginal-Recipient: x@b.example\nAction: failed\nStatus: 5.1.1\n"
            )
        };
        for text in [
            one("a") + &one("c"),
            one("a") + "\n" + &one("c"),
            turned("a") + &turned("c"),
            "Reporting-MTA: dns; mx\n".to_owned() + &one("a") + " \n\n" + &turned("c"),
        ] {
            let second = GONE.replace("a@", "c@");
            assert_eq!(groups(&text), [GONE, &second], "{text}");
        }
        assert_eq!(groups(&one("a").repeat(1000)).len(), 32);
        let only_second =
            format!("Final-Recipient: rfc822; a@b.example\nAction: failed\nStatus: 5.1.1\n\n{}", one("c"));
        let originals: Vec<_> =
            read(&only_second).groups.iter().map(|group| group.original_recipient.is_some()).collect();
        assert_eq!(originals, [false, true]);
    }

    #[test]
    fn only_a_permanent_failure_of_the_address_suppresses() {
        for (fields, expected) in [
            ("Status: 5.2.2", "failed 5.2.2 mailbox_full false"),
            (
                "Status: 5.7.1\nDiagnostic-Code: smtp; 550 5.7.1 user unknown",
                "failed 5.7.1 recipient_unknown false",
            ),
            (
                "Status: 5.4.1\nDiagnostic-Code: smtp; 550 5.4.1 Recipient address rejected: Access denied",
                "failed 5.4.1 recipient_unknown true",
            ),
            ("Status: 4.4.7\nAction: failed", "failed 4.4.7 expired false"),
            (
                "Status: 4.1.1\nAction: failed\nDiagnostic-Code: smtp; 450 4.1.1 user unknown",
                "failed 4.1.1 recipient_unknown false",
            ),
            ("Status: 5.6.0", "failed 5.6.0 content false"),
            ("Status: 4.2.0", "delayed 4.2.0 temporary false"),
            ("Status: 2.0.0", "delivered 2.0.0 unclassified false"),
            ("Action: relayed", "relayed - unclassified false"),
        ] {
            assert_eq!(groups(&format!("{fields}\n")), [format!("- {expected}")], "{fields}");
        }
        for nothing in
            ["", "\n\n", "Final-Recipient: rfc822; a@b.example\n", "Action: \n", "Reporting-MTA: dns; mx\n"]
        {
            assert_eq!(groups(nothing), <[String; 0]>::default(), "{nothing}");
        }
    }

    #[test]
    fn the_code_of_a_reply_without_one_fits_the_action() {
        for (action, code) in
            [("failed", 550), ("delayed", 450), ("delivered", 250), ("relayed", 250), ("expanded", 250)]
        {
            let status = read(&format!("Action: {action}\nDiagnostic-Code: x-other; some words\n"));
            assert_eq!(status.groups[0].reply.reply.code, code, "{action}");
        }
    }

    #[test]
    fn a_recipient_without_an_address_is_none() {
        for (value, expected) in [
            ("rfc822; a@b.example", Some("a@b.example")),
            ("utf-8; \\x{E9}@b.example", Some("\u{e9}@b.example")),
            ("utf-8; \u{e9}@b.example", Some("\u{e9}@b.example")),
            ("utf-8; \\x{zz}@b.example", None),
            ("rfc822; \"a b\"@b.example", Some("\"a b\"@b.example")),
            ("rfc822; Bob <a@b.example>", Some("a@b.example")),
            ("rfc822; a@b.example (Bob)", Some("a@b.example")),
            ("rfc822; unknown", None),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(
                read_recipient(value).map(|address| address.to_string()).as_deref(),
                expected,
                "{value}"
            );
        }
    }
}
