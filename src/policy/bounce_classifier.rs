//! Classifies failure replies with a table of texts that real servers send.
//!
//! The text decides first, because the texts of large providers are more exact than their codes; then the enhanced
//! status (RFC 3463), then the code (RFC 5321 §4.2.3). To support a new reply, add a line here and one to the tests.

use std::ops::RangeInclusive;

use crate::model::BounceClass::{
    self, Authentication, Content, Dns, Expired, MailboxFull, Network, Policy, Protocol, RateLimited,
    RecipientInactive, RecipientUnknown, Reputation, Temporary, Tls, Unclassified,
};
use crate::smtp::Reply;
use crate::smtp::client::Phase;

/// Octets of a reply that are searched: a reply may have 64 KiB, but its meaning is at the beginning.
const TEXT_OCTETS_MAX: usize = 2048;

/// Patterns in lower case; `*` matches anything. The first match counts, so specific patterns come before general
/// ones.
const PATTERNS: &[(&str, BounceClass)] = &[
    // Texts that also match a more general pattern below.
    ("sender verify failed", Policy),
    ("sender address rejected", Policy),
    ("sender address*blocked using", Reputation),
    ("domain of sender address", Policy),
    ("recipient address rejected: unverified address", Temporary),
    ("recipient address rejected: undeliverable address", RecipientUnknown),
    ("recipient address rejected: access denied", RecipientUnknown),
    ("user*temporary locked", RecipientInactive),
    ("[ph01]", Content),
    ("uribl", Content),
    ("surbl", Content),
    // TLS and credentials.
    ("must issue a starttls", Tls),
    ("starttls is required", Tls),
    ("requires tls", Tls),
    ("encryption required", Tls),
    ("not received over a tls connection", Tls),
    ("maximum credits exceeded", RateLimited),
    ("authentication credentials invalid", Authentication),
    ("authentication failed", Authentication),
    ("username and password not accepted", Authentication),
    ("please log in", Authentication),
    // Rate limits. Gmail, Yahoo, Microsoft, Comcast, Orange, QQ, IronPort, Postfix, Exim, sendmail.
    ("unusual rate", RateLimited),
    ("unusual amount of mail", RateLimited),
    ("receiving mail at a rate", RateLimited),
    ("receiving mail too quickly", RateLimited),
    ("sending limit exceeded", RateLimited),
    ("limits for how many messages can be sent", RateLimited),
    ("rate limited due to ip reputation", Reputation),
    ("rate limit", RateLimited),
    ("rate-limit", RateLimited),
    ("ratelimit", RateLimited),
    ("connection rate", RateLimited),
    ("connection limit", RateLimited),
    ("concurrent connection", RateLimited),
    ("sending too fast", RateLimited),
    ("try again later from", RateLimited),
    ("frequency limited", RateLimited),
    ("server busy", RateLimited),
    ("throttl", RateLimited),
    ("slow down", RateLimited),
    ("thread limit exceeded", RateLimited),
    ("too many connections", RateLimited),
    ("too many concurrent", RateLimited),
    ("too many sessions", RateLimited),
    ("too many tls sessions", RateLimited),
    ("too many messages", RateLimited),
    ("too many recipients", RateLimited),
    ("too many invalid recipients", RateLimited),
    ("too many bad recipients", RateLimited),
    ("too much mail from", RateLimited),
    ("exceeded permitted limits", RateLimited),
    ("exceeded your messaging limits", RateLimited),
    ("maximum sending rate exceeded", RateLimited),
    // Mailbox full.
    ("over quota", MailboxFull),
    ("overquota", MailboxFull),
    ("over the quota", MailboxFull),
    ("quota exceeded", MailboxFull),
    ("exceeded quota", MailboxFull),
    ("exceeded its quota", MailboxFull),
    ("quota has been exceeded", MailboxFull),
    ("out of storage space", MailboxFull),
    ("mailbox full", MailboxFull),
    ("mailbox is full", MailboxFull),
    ("mailbox size limit exceeded", MailboxFull),
    ("mailbox exceeds allowed size", MailboxFull),
    ("mailbox exceeded the local limit", MailboxFull),
    ("mailfolder is full", MailboxFull),
    ("not enough storage space", MailboxFull),
    ("over disk quota", MailboxFull),
    ("exceeding their quota", MailboxFull),
    ("quota violation", MailboxFull),
    ("inbox is full", MailboxFull),
    ("exceeded storage allocation", MailboxFull),
    ("blocks limit exceeded", MailboxFull),
    ("inode limit exceeded", MailboxFull),
    ("boite du destinataire pleine", MailboxFull),
    // Reputation. Spamhaus and similar lists, Microsoft, Yahoo, Gmail, Apple, Comcast, AT&T, Free, T-Online.
    ("low reputation of the sending", Reputation),
    ("poor reputation", Reputation),
    ("bad reputation", Reputation),
    ("reputation database", Reputation),
    ("not authorized to send email directly", Reputation),
    ("[tss", Reputation),
    ("[ts0", Reputation),
    ("[bl2", Reputation),
    ("due to user complaints", Reputation),
    ("on our block list", Reputation),
    ("(s3140)", Reputation),
    ("(s3150)", Reputation),
    ("banned send", Reputation),
    ("traffic not accepted from this ip", Reputation),
    ("dynamic ip", Reputation),
    ("spamhaus", Reputation),
    ("spamcop", Reputation),
    ("blocked using", Reputation),
    ("is blocked by", Reputation),
    ("block for spam", Reputation),
    ("open relay", Reputation),
    ("unfortunately, messages from", Reputation),
    ("ofr_999", Reputation),
    ("block listed", Reputation),
    ("blocklisted", Reputation),
    ("blocklist", Reputation),
    ("blacklist", Reputation),
    ("dnsbl", Reputation),
    ("in an rbl", Reputation),
    ("ipcheck.proofpoint.com", Reputation),
    ("csi.cloudmark.com", Reputation),
    ("abuse-att.net", Reputation),
    ("ask your postmaster for help", Reputation),
    ("too many spams from your ip", Reputation),
    ("too many errors from your ip", Reputation),
    ("will not accept delivery of this message", Reputation),
    ("hl:rep", Reputation),
    ("your ip blocked", Reputation),
    // Policy: authentication of the sender first, then permission to send.
    ("unauthenticated", Policy),
    ("dmarc", Policy),
    ("mi:spf", Policy),
    ("spf fail", Policy),
    ("sender policy framework", Policy),
    ("does not have authentication information", Policy),
    ("required authentication level", Policy),
    ("ptr record", Policy),
    ("ptr resource record", Policy),
    ("reverse dns", Policy),
    ("no rdns", Policy),
    ("cannot find your", Policy),
    ("invalid helo", Policy),
    ("helo command rejected", Policy),
    ("my name was rejected", Policy),
    ("client host rejected", Policy),
    ("not accepting connections", Policy),
    ("invalid ip for sending", Policy),
    ("sender rejected", Policy),
    ("policy reasons", Policy),
    ("local policy", Policy),
    ("security policies", Policy),
    ("policy restrictions", Policy),
    ("rejected by policy", Policy),
    ("anti-spoofing", Policy),
    ("administrative prohibition", Policy),
    ("relay access denied", Policy),
    ("relaying denied", Policy),
    ("relay not permitted", Policy),
    ("not permitted to relay", Policy),
    ("unable to relay", Policy),
    ("allowed rcpthosts", Policy),
    ("smtp authentication in your mail client", Policy),
    ("address is not verified", Policy),
    ("sendernotauthenticatedforgroup", Policy),
    ("mailbox unavailable or access denied", Policy),
    ("rejected due to the sending mta", Reputation),
    ("access to submit messages*rejected", Policy),
    // Content.
    ("likely unsolicited mail", Content),
    ("potential security issue", Content),
    ("message size", Content),
    ("message too large", Content),
    ("message is too large", Content),
    ("message file too big", Content),
    ("databytes limit", Content),
    ("size limit", Content),
    ("message-id header", Content),
    ("rfc 5322", Content),
    ("considered spam", Content),
    ("spam detected", Content),
    ("spam message", Content),
    ("spam content", Content),
    ("spam score", Content),
    ("spam classification", Content),
    ("spam points", Content),
    ("suspected spam", Content),
    ("suspicion of spam", Content),
    ("rejected as spam", Content),
    ("looks like spam", Content),
    ("identified as spam", Content),
    ("classified as spam", Content),
    (" - spam", Content),
    (" - infected", Content),
    ("refused: spam", Content),
    ("dt:spm", Content),
    ("ofr_506", Content),
    ("virus", Content),
    ("malware", Content),
    ("content denied", Content),
    ("content rejected", Content),
    ("content filter", Content),
    ("message filtered", Content),
    ("permanent failure for one or more recipients*blocked", Content),
    // Disabled mailboxes.
    ("account that you tried to reach is disabled", RecipientInactive),
    ("account is disabled", RecipientInactive),
    ("account has been disabled", RecipientInactive),
    ("account has been suspended", RecipientInactive),
    ("account not available", RecipientInactive),
    ("account is not active", RecipientInactive),
    ("account inactive", RecipientInactive),
    ("account is locked", RecipientInactive),
    ("user account disabled", RecipientInactive),
    ("disabled recipient address", RecipientInactive),
    ("recipient account is blocked", RecipientInactive),
    ("mailbox is disabled", RecipientInactive),
    ("mailbox disabled", RecipientInactive),
    ("mailbox is inactive", RecipientInactive),
    ("mailbox is frozen", RecipientInactive),
    ("deactivated mailbox", RecipientInactive),
    ("user suspended", RecipientInactive),
    ("user is not active", RecipientInactive),
    ("no longer valid", RecipientInactive),
    ("no longer accepts mail", RecipientInactive),
    ("boite du destinataire archivee", RecipientInactive),
    // Unknown mailboxes. Yahoo, Microsoft, Apple, Orange, Mimecast, IronPort, mail.ru, QQ, 163 and common servers.
    ("does not exist here", RecipientUnknown),
    ("account that you tried to reach does not exist", RecipientUnknown),
    ("user doesn't have a", RecipientUnknown),
    ("mailbox not found", RecipientUnknown),
    ("mailbox does not exist", RecipientUnknown),
    ("mailbox unknown", RecipientUnknown),
    ("unknown mailbox", RecipientUnknown),
    ("invalid mailbox", RecipientUnknown),
    ("no such mailbox", RecipientUnknown),
    ("no mailbox here by that name", RecipientUnknown),
    ("requested action not taken: mailbox unavailable", RecipientUnknown),
    ("recipient address rejected: user unknown", RecipientUnknown),
    ("recipientnotfound", RecipientUnknown),
    ("recipient not found", RecipientUnknown),
    ("recipient unknown", RecipientUnknown),
    ("recipient does not exist", RecipientUnknown),
    ("unknown recipient", RecipientUnknown),
    ("invalid recipient", RecipientUnknown),
    ("no such recipient", RecipientUnknown),
    ("no such user", RecipientUnknown),
    ("no such address", RecipientUnknown),
    ("user unknown", RecipientUnknown),
    ("unknown user", RecipientUnknown),
    ("user not found", RecipientUnknown),
    ("user does not exist", RecipientUnknown),
    ("user not known", RecipientUnknown),
    ("account does not exist", RecipientUnknown),
    ("address does not exist", RecipientUnknown),
    ("address unknown", RecipientUnknown),
    ("unknown or illegal alias", RecipientUnknown),
    ("unrouteable address", RecipientUnknown),
    ("not our customer", RecipientUnknown),
    ("#5.1.0 address rejected", RecipientUnknown),
    ("(#5.1.1)", RecipientUnknown),
    // Words of reports, which stand in no dialogue: Domino, Google, IMail, mobile networks.
    ("not listed in domino directory", RecipientUnknown),
    ("not listed in public name", RecipientUnknown),
    ("ディレクトリのリストにありません", RecipientUnknown),
    ("ディレクトリには見つかりません", RecipientUnknown),
    ("address couldn't be found", RecipientUnknown),
    ("invalid final delivery userid", RecipientUnknown),
    ("user not exist", RecipientUnknown),
    ("no valid recipients for this mm", RecipientUnknown),
    // Routing and loops.
    ("mail loop", Dns),
    ("hop count exceeded", Dns),
    ("too many hops", Dns),
    ("domain does not exist", Dns),
    ("dns query failed", Dns),
    // Temporary conditions.
    ("greylist", Temporary),
    ("graylist", Temporary),
    ("[gl01]", Temporary),
    ("try again later", Temporary),
    ("temporarily deferred", Temporary),
    ("temporarily unavailable", Temporary),
];

/// Both classes, 4 and 5.
const ANY_CLASS: RangeInclusive<u8> = 4..=5;
const TEMPORARY_CLASS: RangeInclusive<u8> = 4..=4;
const PERMANENT_CLASS: RangeInclusive<u8> = 5..=5;

type Range = RangeInclusive<u16>;

/// Class, subject and details of enhanced codes (RFC 3463 and the IANA registry), with those of large providers. The
/// first match counts; codes not listed here fall back to the reply code.
const STATUSES: &[(RangeInclusive<u8>, u16, Range, BounceClass)] = &[
    (ANY_CLASS, 1, 1..=1, RecipientUnknown),
    (ANY_CLASS, 1, 2..=2, Dns),
    (ANY_CLASS, 1, 3..=5, Protocol),
    // RFC 3463 §3.2: was valid once and no longer accepts mail.
    (ANY_CLASS, 1, 6..=6, RecipientInactive),
    (ANY_CLASS, 1, 7..=8, Policy),
    (ANY_CLASS, 1, 9..=9, Protocol),
    // RFC 7505 §4.2: a null MX.
    (ANY_CLASS, 1, 10..=10, RecipientUnknown),
    (PERMANENT_CLASS, 2, 1..=1, RecipientInactive),
    (ANY_CLASS, 2, 2..=2, MailboxFull),
    (ANY_CLASS, 2, 3..=3, Content),
    (ANY_CLASS, 3, 1..=2, Temporary),
    (ANY_CLASS, 3, 3..=3, Protocol),
    (ANY_CLASS, 3, 4..=4, Content),
    (ANY_CLASS, 4, 1..=2, Network),
    (ANY_CLASS, 4, 3..=4, Dns),
    (ANY_CLASS, 4, 5..=5, Temporary),
    (ANY_CLASS, 4, 6..=6, Dns),
    (ANY_CLASS, 4, 7..=7, Expired),
    // Microsoft: names that do not resolve.
    (ANY_CLASS, 4, 310..=319, Dns),
    (ANY_CLASS, 5, 3..=3, RateLimited),
    (ANY_CLASS, 5, 1..=6, Protocol),
    // RFC 6531 §3.5: addresses or headers that are not ASCII.
    (ANY_CLASS, 6, 7..=10, Protocol),
    (ANY_CLASS, 6, 0..=999, Content),
    (PERMANENT_CLASS, 7, 8..=9, Authentication),
    // RFC 5248 §2.4, RFC 8689 §4.2.1, and Gmail for mail without TLS.
    (ANY_CLASS, 7, 10..=11, Tls),
    (ANY_CLASS, 7, 29..=30, Tls),
    (ANY_CLASS, 7, 20..=27, Policy),
    // RFC 7372 §3.4 registered it for mail floods; Gmail uses it so.
    (ANY_CLASS, 7, 28..=28, RateLimited),
    // Microsoft 365.
    (ANY_CLASS, 7, 320..=329, Tls),
    (PERMANENT_CLASS, 7, 501..=503, Reputation),
    (PERMANENT_CLASS, 7, 508..=508, RateLimited),
    (PERMANENT_CLASS, 7, 511..=511, Reputation),
    (PERMANENT_CLASS, 7, 512..=512, Content),
    (PERMANENT_CLASS, 7, 606..=649, Reputation),
    (PERMANENT_CLASS, 7, 700..=749, Reputation),
    (TEMPORARY_CLASS, 7, 500..=699, Reputation),
    (TEMPORARY_CLASS, 7, 850..=899, Reputation),
    // With class 4, servers that greylist or are busy send it.
    (PERMANENT_CLASS, 7, 0..=999, Policy),
];

/// The class by reply code alone.
fn by_code(code: u16) -> BounceClass {
    match code {
        421 | 450..=452 => Temporary,
        // RFC 4954 §6.
        432 | 530 | 534 | 535 | 538 => Authentication,
        454 => Temporary,
        552 => MailboxFull,
        // RFC 5321 §4.2.4.
        500..=504 | 555 => Protocol,
        400..=499 => Temporary,
        500..=599 => Unclassified,
        // 2xx or 3xx out of sequence.
        _ => Protocol,
    }
}

/// The class of a reply to `phase` that is no success.
pub fn classify(phase: Phase, reply: &Reply) -> BounceClass {
    match (phase, reply.code) {
        (Phase::StartTls, _) => return Tls,
        (Phase::Auth, 432 | 500..=599) => return Authentication,
        _ => {}
    }
    let text = search_text(reply);
    let said = PATTERNS.iter().find(|(words, _)| matches_pattern(&text, words)).map(|(_, class)| *class);
    said.or_else(|| by_status(reply)).unwrap_or_else(|| by_code(reply.code))
}

fn by_status(reply: &Reply) -> Option<BounceClass> {
    let status = reply.enhanced?;
    let fits = |(class, subject, details, _): &&(RangeInclusive<u8>, u16, Range, BounceClass)| {
        class.contains(&status.class) && *subject == status.subject && details.contains(&status.detail)
    };
    STATUSES.iter().find(fits).map(|(.., class)| *class)
}

/// The text in lower case without addresses, lines joined: servers break sentences anywhere, and repeat addresses
/// that tenants choose.
fn search_text(reply: &Reply) -> String {
    let mut text = String::new();
    for line in &reply.lines {
        text.push_str(line.trim());
        text.push(' ');
        if text.len() > TEXT_OCTETS_MAX {
            text.truncate(text.floor_char_boundary(TEXT_OCTETS_MAX));
            break;
        }
    }
    text.make_ascii_lowercase();
    remove_addresses(&text)
}

/// Removes addresses, with or without angle brackets. A quoted local part may contain anything (RFC 5321 §4.1.2), so
/// one ends at the last bracket, or at the last quote before an `@`.
fn remove_addresses(text: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
    let mut remaining = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '"', '@']) {
        let (before, from) = rest.split_at(at);
        remaining.push_str(before);
        let length = match &from[..1] {
            "@" => {
                remaining.truncate(remaining.trim_end_matches(is_part).len());
                from[1..].find(|c| !is_part(c)).map_or(from.len(), |end| end + 1)
            }
            "<" if from.starts_with("<\"") => from.rfind('>').map_or(1, |end| end + 1),
            "<" => from.find(['>', ' ']).filter(|&end| from[end..].starts_with('>')).map_or(1, |end| end + 1),
            // The text after the last quote starts with `@`.
            _ => from.rfind("\"@").map_or(1, |end| end + 1),
        };
        rest = &from[length..];
        remaining.push(' ');
    }
    remaining.push_str(rest);
    remaining
}

fn matches_pattern(text: &str, words: &str) -> bool {
    words.split('*').try_fold(text, |rest, part| rest.split_once(part).map(|(_, after)| after)).is_some()
}

#[cfg(test)]
#[path = "bounce_classifier_tests.rs"]
mod tests;
