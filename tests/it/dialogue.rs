//! Scripted SMTP dialogues in `tests/dialogues/*.txt`, written like an SMTP session.
//!
//! Each line is one step:
//!
//! ```text
//! # a comment that cites the section of the RFC
//! C: EHLO client.example      sends the text and CRLF; consecutive lines are sent together
//! C- .\r\n\0\xFF              sends the text without CRLF; these are the escapes, with \\
//! C*100: text                 sends the line this many times
//! S: 250 2.1.0 *              expects one line; `*` is any text
//! S+ 250 AUTH*                expects a reply with a line like this; the character after the code is ignored
//! S! 250 AUTH*                expects a reply without a line like this
//! T:                          performs a TLS handshake; as the first step, before the greeting
//! E:                          expects that the server has closed the connection
//! ```
//!
//! The caller replaces `${name}`: `hostname`, `auth` and `bad_auth` (PLAIN, base64), `user` and
//! `password` (base64), `sender` and `foreign_sender` (addresses of the tenant and of another domain), `recipient`,
//! `other_recipient`, `suppressed`, `size_max`, `size_over`. The server allows 5 recipients, 10 errors and 100 KiB
//! (102400 octets), and normalizes bare line ends.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One script.
#[derive(Debug, Clone)]
pub struct Dialogue {
    pub name: String,
    pub steps: Vec<(usize, Step)>,
}

/// One line of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Send(Vec<u8>),
    Line(String),
    ReplyWith(String),
    ReplyWithout(String),
    Tls,
    Closed,
}

/// Values for `${name}`.
pub type Variables<'a> = HashMap<&'a str, String>;

/// Every dialogue in a directory, by name.
pub fn load_all(directory: &Path) -> Vec<Dialogue> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .expect("the directory of dialogues can be read")
        .map(|entry| entry.expect("an entry can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    paths.iter().map(|path| load(path)).collect()
}

/// Reads one dialogue. Panics with file and line if a line is not a step.
pub fn load(path: &Path) -> Dialogue {
    let name = path.file_stem().expect("a dialogue has a name").to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).expect("a dialogue can be read");
    let mut steps = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let step = parse(line).unwrap_or_else(|| panic!("{name}:{number}: not a step: {line}"));
        steps.push((number, step));
    }
    Dialogue { name, steps }
}

fn parse(line: &str) -> Option<Step> {
    if line == "T:" {
        return Some(Step::Tls);
    }
    if line == "E:" {
        return Some(Step::Closed);
    }
    let (kind, text) = line.split_once(' ').unwrap_or((line, ""));
    match kind {
        "C:" => Some(Step::Send([unescape(text).as_slice(), b"\r\n"].concat())),
        "C-" => Some(Step::Send(unescape(text))),
        "S:" => Some(Step::Line(text.to_owned())),
        "S+" => Some(Step::ReplyWith(text.to_owned())),
        "S!" => Some(Step::ReplyWithout(text.to_owned())),
        _ => {
            let times: usize = kind.strip_prefix("C*")?.strip_suffix(':')?.parse().ok()?;
            Some(Step::Send([unescape(text).as_slice(), b"\r\n"].concat().repeat(times)))
        }
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = rest[at + 1..].chars().next().expect("something follows a backslash");
        let mut length = 2;
        match escape {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                length = 4;
                bytes.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).expect("two hex digits follow \\x"));
            }
            other => panic!("unknown escape \\{other}"),
        }
        rest = &rest[at + length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

impl Dialogue {
    /// Whether the TLS handshake comes before the greeting.
    pub fn starts_with_tls(&self) -> bool {
        self.steps.first().is_some_and(|(_, step)| *step == Step::Tls)
    }
}

/// Whether the reply continues after this line (RFC 5321 §4.2.1).
pub fn is_continued(line: &str) -> bool {
    line.as_bytes().get(3) == Some(&b'-')
}

/// Whether one of the lines matches the pattern, without regard to the character after the code.
pub fn contains(pattern: &str, lines: &[String]) -> bool {
    let level =
        |line: &str| line.chars().enumerate().map(|(i, c)| if i == 3 { ' ' } else { c }).collect::<String>();
    lines.iter().any(|line| matches(&level(pattern), &level(line)))
}

/// Whether a line matches a pattern in which `*` is any text.
pub fn matches(pattern: &str, line: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == line };
    let Some(rest) = line.strip_prefix(head) else { return false };
    (0..=rest.len()).filter(|&at| rest.is_char_boundary(at)).any(|at| matches(tail, &rest[at..]))
}

/// Replaces the variables.
pub fn fill(text: &str, variables: &Variables<'_>) -> String {
    variables.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
}

/// Replaces the variables, unless the octets are not UTF-8.
pub fn fill_bytes(bytes: &[u8], variables: &Variables<'_>) -> Vec<u8> {
    match std::str::from_utf8(bytes) {
        Ok(text) => fill(text, variables).into_bytes(),
        Err(_) => bytes.to_vec(),
    }
}
