//! Failures told in prose. Only the words above the returned message count, because the rest is the sender's.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::mail::{Address, EnhancedStatus, line_end};
use crate::model::{BounceClass, ReportAction};

use super::FailedReply;
use super::diagnostic::{find_code, find_status, is_about_client, judge, reply_of};
use super::fields::Fields;

/// Replies that are compared.
const REPLIES_MAX: usize = 32;

/// What `config/openers.toml` says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Openers {
    delayed: Vec<String>,
    ruled: Vec<String>,
    announced: Vec<String>,
    opener: Vec<Opener>,
}

/// How one kind of server begins.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Opener {
    rule: String,
    /// A header field that only it has.
    field: Option<String>,
    /// How the value of the field begins.
    #[serde(default)]
    value: String,
    /// Any of these.
    #[serde(default)]
    words: Vec<String>,
}

static OPENERS: LazyLock<Openers> = LazyLock::new(|| {
    // A test parses the file.
    toml::from_str(include_str!("../../config/openers.toml")).unwrap_or_default()
});

/// The words of a server above the returned message.
#[derive(Debug)]
pub(super) struct OwnWords {
    /// Without quoted lines, the commands of a transcript, and the subject, which is the sender's.
    paragraphs: Vec<String>,
    /// With the announcement of the returned message, in lower case, with single spaces.
    searchable: String,
    /// As they stand.
    text: String,
}

impl OwnWords {
    pub(super) fn of(text: &str) -> Self {
        let returned = returned_message(text.as_bytes());
        let (own, announcement) =
            returned.map_or((text, ""), |at| (&text[..at.marker], &text[at.marker..at.header]));
        let mut paragraphs = vec![String::new()];
        for line in own.lines().map(str::trim).filter(|line| !is_of_sender(line)) {
            match paragraphs.last_mut() {
                Some(last) if line.is_empty() && !last.is_empty() => paragraphs.push(String::new()),
                Some(last) => {
                    last.push_str(line.trim_start_matches("<<<").trim_start());
                    last.push('\n');
                }
                None => {}
            }
        }
        let searchable = searchable(paragraphs.iter().map(String::as_str).chain([announcement]));
        Self { paragraphs, searchable, text: own.to_owned() }
    }

    /// The rule of the server that begins so.
    pub(super) fn rule(&self, header: &Fields<'_>) -> Option<&'static str> {
        let is_open = |opener: &&Opener| {
            let has_field = opener.field.as_ref().is_some_and(|name| {
                header.all(name).any(|value| value.to_lowercase().starts_with(&opener.value))
            });
            has_field || opener.words.iter().any(|words| self.searchable.contains(words))
        };
        OPENERS.opener.iter().find(is_open).map(|opener| &*opener.rule)
    }

    /// Whether the server goes on trying.
    pub(super) fn is_delay(&self) -> bool {
        OPENERS.delayed.iter().any(|words| self.searchable.contains(words))
    }

    /// The failure: the first reply tells the class. It suppresses only if no other reply says something else, for then
    /// it is not certain which one is about the recipient.
    pub(super) fn failure(&self) -> FailedReply {
        let replies = self.replies();
        let first = replies.first().cloned().unwrap_or_else(|| self.paragraphs.concat());
        let is_certain = replies.iter().all(|words| judge_words(words).suppress);
        let mut failure = judge_words(&first);
        failure.suppress &= is_certain;
        failure
    }

    /// Whether they say that the mailbox is full.
    pub(super) fn is_about_quota(&self) -> bool {
        let is_full = judge_words(&self.paragraphs.concat()).class == BounceClass::MailboxFull;
        is_full || self.searchable.contains("not enough disk space")
    }

    /// Whether the server refused the client, not the recipient.
    pub(super) fn is_about_client(&self) -> bool {
        is_about_client(&self.searchable)
    }

    /// What is said about one recipient: all if it is the only one, else the lines that name it.
    pub(super) fn about(&self, recipient: Option<&Address>) -> String {
        let Some(recipient) = recipient else {
            return self.replies().into_iter().next().unwrap_or_else(|| self.paragraphs.concat());
        };
        let recipient = recipient.to_string().to_lowercase();
        let lines = self.paragraphs.iter().flat_map(|text| text.lines());
        lines.filter(|line| line.to_lowercase().contains(&recipient)).collect::<Vec<_>>().join("\n")
    }

    /// The texts with a code or a status: each with the lines after it, and the first of a paragraph with those before it.
    fn replies(&self) -> Vec<String> {
        let mut replies = Vec::new();
        for paragraph in &self.paragraphs {
            let mut known = Numbers::default();
            let mut current = String::new();
            for line in paragraph.lines() {
                let here = Numbers::of(line);
                if here.contradicts(&known) {
                    replies.push(std::mem::take(&mut current));
                    known = Numbers::default();
                }
                known = Numbers { code: here.code.or(known.code), status: here.status.or(known.status) };
                current.push_str(line);
                current.push('\n');
            }
            if known != Numbers::default() {
                replies.push(current);
            }
        }
        replies.truncate(REPLIES_MAX);
        replies
    }

    /// A status part that stands in the text: its first line and all lines after it.
    pub(super) fn status_lines(&self) -> Option<String> {
        let is_field = |line: &&str| {
            ["reporting-mta:", "final-recipient:", "original-recipient:", "action:"]
                .iter()
                .any(|name| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)))
        };
        let lines: Vec<_> = self.text.lines().skip_while(|line| !is_field(line)).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

/// The numbers of a reply.
#[derive(Debug, Default, PartialEq, Eq)]
struct Numbers {
    code: Option<u16>,
    status: Option<EnhancedStatus>,
}

impl Numbers {
    fn of(line: &str) -> Self {
        Self {
            code: find_code(line).map(|(_, code)| code),
            status: find_status(line).map(|(_, status)| status),
        }
    }

    fn contradicts(&self, other: &Self) -> bool {
        let other_code = self.code.zip(other.code).is_some_and(|(one, other)| one != other);
        other_code || self.status.zip(other.status).is_some_and(|(one, other)| one != other)
    }
}

fn judge_words(words: &str) -> FailedReply {
    judge(reply_of(words, None, ReportAction::Failed), ReportAction::Failed)
}

/// Whether a line repeats what the sender wrote.
fn is_of_sender(line: &str) -> bool {
    line.starts_with('>') || line.to_lowercase().contains("subject")
}

/// In lower case, with single spaces.
fn searchable<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = texts.into_iter().flat_map(str::split_whitespace).collect();
    words.join(" ").to_lowercase()
}

/// Where a returned message begins in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Returned {
    /// The line that announces it.
    pub(super) marker: usize,
    /// Its header.
    pub(super) header: usize,
}

/// The first sign of a returned message.
pub(super) fn returned_message(text: &[u8]) -> Option<Returned> {
    let end = line_end(text);
    let mut at = 0;
    let mut marker = None;
    for line in text.split_inclusive(|&octet| octet == end) {
        let start = at;
        at += line.len();
        let line = line.trim_ascii_end();
        match marker {
            Some(_) if line.is_empty() => {}
            Some(marker) => return Some(Returned { marker, header: start }),
            None if is_field_of_transport(line) => return Some(Returned { marker: start, header: start }),
            None if announces(line) => marker = Some(start),
            None => {}
        }
    }
    marker.map(|marker| Returned { marker, header: text.len() })
}

/// Whether a line begins a field that only the header of a message has.
fn is_field_of_transport(line: &[u8]) -> bool {
    ["Received:", "Return-Path:", "DKIM-Signature:", "Message-ID:", "MIME-Version:"]
        .iter()
        .any(|name| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes())))
}

/// Whether a line says that the returned message follows.
fn announces(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let is_ruled = [&b"--"[..], b"==", b"**", b"__", b"|-"].iter().any(|rule| line.starts_with(rule));
    let is_sentence = line.ends_with(b":") || line.ends_with(b".");
    if line.len() > 200 || !(is_ruled || is_sentence) {
        return false;
    }
    let words = String::from_utf8_lossy(line).to_lowercase();
    let has =
        |announcements: &[String]| announcements.iter().any(|announcement| words.contains(announcement));
    (is_ruled && has(&OPENERS.ruled)) || (is_sentence && has(&OPENERS.announced))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read_and_is_in_the_form_in_which_texts_are_searched() {
        let openers: Openers = toml::from_str(include_str!("../../config/openers.toml")).unwrap();
        assert!(openers.opener.len() > 10);
        let words = openers.opener.iter().flat_map(|opener| &opener.words);
        for words in words.chain(&openers.delayed).chain(&openers.ruled).chain(&openers.announced) {
            assert_eq!(searchable([words.as_str()]), *words);
            assert!(words.len() > 5, "{words}");
        }
        for list in [&openers.delayed, &openers.ruled, &openers.announced] {
            for words in list {
                let others = list.iter().filter(|other| *other != words);
                let decides = others.clone().all(|other| !words.contains(other.as_str()));
                assert!(decides, "{words} contains another entry of its list");
            }
        }
    }
}
