//! Failures told in prose. Only the words above the returned message count, because the rest is the sender's.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::model::ReportAction;

use super::FailedReply;
use super::diagnostic::{find_code, find_status, judge, reply_of};
use super::fields::{Fields, line_end};

/// What `config/openers.toml` says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Openers {
    delayed: Vec<String>,
    returned: Vec<String>,
    opener: Vec<Opener>,
}

/// How one kind of server begins.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Opener {
    rule: String,
    /// A header field that only it has.
    field: Option<String>,
    /// Any of these.
    #[serde(default)]
    words: Vec<String>,
}

static OPENERS: LazyLock<Openers> = LazyLock::new(|| {
    // A test parses the file.
    toml::from_str(include_str!("../../config/openers.toml")).unwrap_or_default()
});

/// What a text says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Prose {
    /// The server gave up.
    Failure(FailedReply),
    /// The server goes on trying.
    Delay,
}

/// Reads the words above the returned message; `None` without a known opener.
pub(super) fn read(header: &Fields<'_>, text: &str) -> Option<(Prose, &'static str)> {
    let paragraphs = paragraphs(text);
    let words = searchable(&paragraphs);
    let opener = OPENERS.opener.iter().find(|opener| {
        let has_field = opener.field.as_ref().is_some_and(|name| header.has(name));
        has_field || opener.words.iter().any(|opening| words.contains(opening))
    })?;
    if OPENERS.delayed.iter().any(|warning| words.contains(warning)) {
        return Some((Prose::Delay, &opener.rule));
    }
    let reply = reply_of(&said(&paragraphs), None);
    Some((Prose::Failure(judge(reply, ReportAction::Failed)), &opener.rule))
}

/// The words that tell the reason: the paragraph with the first reply or status, else all.
fn said(paragraphs: &[String]) -> String {
    let with_code = paragraphs.iter().find(|text| find_code(text).is_some());
    let found = with_code.or_else(|| paragraphs.iter().find(|text| find_status(text).is_some()));
    found.cloned().unwrap_or_else(|| paragraphs.join("\n"))
}

/// The paragraphs above the returned message, without quoted lines and commands of a transcript (`>>>`).
fn paragraphs(text: &str) -> Vec<String> {
    let own = returned_message(text.as_bytes()).map_or(text, |returned| &text[..returned.marker]);
    let mut paragraphs = vec![String::new()];
    for line in own.lines().map(str::trim) {
        match paragraphs.last_mut() {
            Some(last) if line.is_empty() && !last.is_empty() => paragraphs.push(String::new()),
            Some(last) if !line.starts_with('>') => {
                last.push_str(line.trim_start_matches("<<<").trim_start());
                last.push('\n');
            }
            _ => {}
        }
    }
    paragraphs
}

/// In lower case, with single spaces.
fn searchable(paragraphs: &[String]) -> String {
    let words: Vec<_> = paragraphs.iter().flat_map(|text| text.split_whitespace()).collect();
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
    let is_short = (1..200).contains(&line.len());
    let is_rule = line.starts_with(b"--")
        || line.starts_with(b"==")
        || line.starts_with(b"**")
        || line.starts_with(b"__");
    if !is_short || !(is_rule || line.ends_with(b":") || line.ends_with(b".")) {
        return false;
    }
    let words = String::from_utf8_lossy(line).to_lowercase();
    OPENERS.returned.iter().any(|announcement| words.contains(announcement))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read_and_is_in_the_form_in_which_texts_are_searched() {
        let openers: Openers = toml::from_str(include_str!("../../config/openers.toml")).unwrap();
        assert!(openers.opener.len() > 10);
        let words = openers.opener.iter().flat_map(|opener| &opener.words);
        for words in words.chain(&openers.delayed).chain(&openers.returned) {
            assert_eq!(searchable(&[words.clone()]), *words);
            assert!(words.len() > 8, "{words}");
        }
    }
}
