//! Parses the addresses of a From field strictly (RFC 5322 §3.4, without RFC 6854).
//!
//! The author decides which domain is used, so a field is accepted only if every reader finds the same addresses in
//! it. Display names may contain any octets; addresses must not contain comments or folds.

use std::borrow::Cow;

use super::{Address, AddressError};

/// Why a field cannot be interpreted in exactly one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MailboxListError {
    /// No address.
    #[error("it has no address")]
    Empty,
    /// `Group: …;`
    #[error("it has a group")]
    Group,
    /// An unterminated quoted string, comment or address literal, or too deeply nested comments.
    #[error(
        "a quoted string, comment or address literal is not terminated, or comments are nested too deeply"
    )]
    Open,
    /// A name with unquoted special characters, or text after an address.
    #[error("a display name with special characters must be quoted, and nothing may follow an address")]
    Phrase,
    /// An invalid address.
    #[error("{0}")]
    Address(#[from] AddressError),
    /// More addresses than supported.
    #[error("it has more than {MAILBOXES_MAX} addresses")]
    TooMany,
}

const MAILBOXES_MAX: usize = 50;
const COMMENT_DEPTH_MAX: usize = 8;
/// With quotes and an address, such a name fits on a line (RFC 5322 §2.1.1).
const NAME_OCTETS_MAX: usize = 255;

/// A token of RFC 5322 §3.2, without white space and comments.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// Atoms with dots and `@`, or a domain literal.
    Word(String),
    /// A quoted string with its quotes.
    Quoted(String),
    /// `<`, `>`, `,`, `:` or `;`.
    Special(char),
}

struct PositionedToken {
    token: Token,
    /// Whether the token directly follows the previous one, without white space or a comment.
    joined: bool,
}

/// The addresses of a field value, in order. Invalid UTF-8 is accepted in display names.
pub fn parse_mailbox_list(value: &[u8]) -> Result<Vec<Address>, MailboxListError> {
    let text = String::from_utf8_lossy(value);
    let tokens = tokenize(&text)?;
    let mut mailboxes = Vec::new();
    for member in tokens.split(|positioned| positioned.token == Token::Special(',')) {
        // RFC 5322 §4.4: obsolete lists may have empty members.
        if member.is_empty() {
            continue;
        }
        let address = parse_mailbox(member)?;
        // The character stands for octets that are not UTF-8, unless the whole value is.
        if matches!(text, Cow::Owned(_)) && address.local().as_str().contains(char::REPLACEMENT_CHARACTER) {
            return Err(AddressError::LocalSyntax.into());
        }
        mailboxes.push(address);
        if mailboxes.len() > MAILBOXES_MAX {
            return Err(MailboxListError::TooMany);
        }
    }
    if mailboxes.is_empty() { Err(MailboxListError::Empty) } else { Ok(mailboxes) }
}

fn parse_mailbox(tokens: &[PositionedToken]) -> Result<Address, MailboxListError> {
    if tokens.iter().any(|p| matches!(p.token, Token::Special(':' | ';'))) {
        return Err(MailboxListError::Group);
    }
    let Some(open) = tokens.iter().position(|p| p.token == Token::Special('<')) else {
        return parse_spec(tokens);
    };
    let (name, rest) = tokens.split_at(open);
    // A lenient reader would take a bare `@` in a name as a second address.
    let is_phrase = name.iter().all(|p| match &p.token {
        Token::Word(word) => !word.contains(['@', '[', ']']),
        Token::Quoted(_) => true,
        Token::Special(_) => false,
    });
    match rest {
        [_, spec @ .., PositionedToken { token: Token::Special('>'), .. }] if is_phrase => parse_spec(spec),
        _ => Err(MailboxListError::Phrase),
    }
}

/// A mailbox whose display name must be quoted to be read in exactly one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnquotedName {
    /// The address in angle brackets.
    pub address: Address,
    /// The mailbox with its name quoted, on one line.
    pub quoted: String,
}

/// Reads a field value that [`parse_mailbox_list`] refuses only because of special characters in the display name: one
/// address in angle brackets after a text that names no other address.
pub fn quote_display_name(value: &[u8]) -> Option<UnquotedName> {
    let text = std::str::from_utf8(value).ok()?;
    let (name, spec) = text.split_at(text.find('<')?);
    let [address] = <[Address; 1]>::try_from(parse_mailbox_list(spec.as_bytes()).ok()?).ok()?;
    let name = name.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    // Mail clients do not agree on whether to decode an encoded word in a quoted string.
    let is_readable = !name.is_empty()
        && name.len() <= NAME_OCTETS_MAX
        && !name.contains(|c: char| c.is_control() || c == '>')
        && !name.contains("=?");
    if !is_readable || (name.contains('@') && !names_address(&name, &address)) {
        return None;
    }
    let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
    let quoted = format!("\"{escaped}\" <{address}>");
    Some(UnquotedName { address, quoted })
}

/// Whether a name is the address itself. Some programs put it in apostrophes.
fn names_address(name: &str, address: &Address) -> bool {
    let bare = name.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(name);
    Address::parse(bare).is_ok_and(|named| named.folded() == address.folded())
}

/// Joins the tokens of `local@domain`.
fn parse_spec(tokens: &[PositionedToken]) -> Result<Address, MailboxListError> {
    let mut text = String::new();
    for (index, positioned) in tokens.iter().enumerate() {
        if index > 0 && !positioned.joined {
            return Err(MailboxListError::Phrase);
        }
        match &positioned.token {
            Token::Word(part) | Token::Quoted(part) => text.push_str(part),
            Token::Special(_) => return Err(MailboxListError::Phrase),
        }
    }
    Ok(Address::parse(&text)?)
}

fn tokenize(text: &str) -> Result<Vec<PositionedToken>, MailboxListError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut joined = false;
    while let Some(c) = rest.chars().next() {
        let (token, length) = match c {
            ' ' | '\t' | '\r' | '\n' => (None, 1),
            '(' => (None, comment_length(rest)?),
            '"' => {
                let length = quoted_length(rest)?;
                (Some(Token::Quoted(rest[..length].to_owned())), length)
            }
            '<' | '>' | ',' | ':' | ';' => (Some(Token::Special(c)), 1),
            '[' => {
                let length = rest.find(']').ok_or(MailboxListError::Open)? + 1;
                (Some(Token::Word(rest[..length].to_owned())), length)
            }
            _ => {
                let length = rest.find(|c| " \t\r\n()<>,:;\"[".contains(c)).unwrap_or(rest.len());
                (Some(Token::Word(rest[..length].to_owned())), length)
            }
        };
        let is_gap = token.is_none();
        if let Some(token) = token {
            if c == ')' || matches!(&token, Token::Word(w) if w.chars().any(char::is_control)) {
                return Err(MailboxListError::Phrase);
            }
            tokens.push(PositionedToken { token, joined });
        }
        joined = !is_gap;
        rest = &rest[length.max(1)..];
    }
    Ok(tokens)
}

fn quoted_length(text: &str) -> Result<usize, MailboxListError> {
    let mut escaped = false;
    for (i, b) in text.bytes().enumerate().skip(1) {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Ok(i + 1),
            _ => {}
        }
    }
    Err(MailboxListError::Open)
}

fn comment_length(text: &str) -> Result<usize, MailboxListError> {
    let (mut depth, mut escaped) = (0, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' if depth == COMMENT_DEPTH_MAX => return Err(MailboxListError::Open),
            b'(' => depth += 1,
            b')' if depth == 1 => return Ok(i + 1),
            b')' => depth -= 1,
            _ => {}
        }
    }
    Err(MailboxListError::Open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(value: &str) -> Result<Vec<String>, MailboxListError> {
        Ok(parse_mailbox_list(value.as_bytes())?.iter().map(Address::to_string).collect())
    }

    #[test]
    fn common_forms_are_read() {
        for (value, addresses) in [
            (" a@b.c\r\n", vec!["a@b.c"]),
            (" Alice <a@b.c>\r\n", vec!["a@b.c"]),
            (" \"Alice, of b@evil.com\" <a@b.c>", vec!["a@b.c"]),
            (" Alice B. Smith (home) <a@b.c> (work)", vec!["a@b.c"]),
            (" a@b.c (Alice (x) \\) )", vec!["a@b.c"]),
            (" =?utf-8?q?J=C3=BCrgen?=\r\n <a@b.c>,\r\n B <d@e.f>", vec!["a@b.c", "d@e.f"]),
            (" Jürgen <jürgen@bücher.example>", vec!["jürgen@xn--bcher-kva.example"]),
            (" \"a b\"@b.c", vec!["\"a b\"@b.c"]),
            (" <a@[127.0.0.1]>", vec!["a@[127.0.0.1]"]),
            (" ,a@b.c,,", vec!["a@b.c"]),
        ] {
            assert_eq!(read(value), Ok(addresses.into_iter().map(String::from).collect()), "{value}");
        }
        assert_eq!(parse_mailbox_list(b"J\xfcrgen <a@b.c>").unwrap().len(), 1);
    }

    #[test]
    fn ambiguous_fields_are_refused() {
        for value in [
            "",
            " \r\n",
            "Alice",
            "b@evil.com <a@b.c>",
            "<a@b.c> b@evil.com",
            "<a@b.c> <b@evil.com>",
            "a@b.c b@evil.com",
            "Team: a@b.c, b@evil.com;",
            "undisclosed:;",
            "a@b.c (open",
            "\"open <a@b.c>",
            "a@evil.com(x)@b.c",
            "a @ b.c",
            "a@b .c",
            "<@evil.com:a@b.c>",
            "<a@b.c",
            "a@b.c>",
            "<<a@b.c>>",
            "Alice) <a@b.c>",
            "[x] <a@b.c>",
            "=?utf-8?q?a=40b.c?=",
            "a\0@b.c",
            "a\r\n @b.c",
        ] {
            assert!(read(value).is_err(), "{value:?}: {:?}", read(value));
        }
        assert!(parse_mailbox_list(b"<a\xfc@b.c>").is_err());
        assert!(parse_mailbox_list(b"<a@b\xfc.c>").is_err());
        assert!(read("<a\u{fffd}@b.c>").is_ok(), "the character itself is UTF-8");
        assert_eq!(read(&"a@b.c,".repeat(51)), Err(MailboxListError::TooMany));
        assert_eq!(read(&"(".repeat(100)), Err(MailboxListError::Open));
    }

    #[test]
    fn a_display_name_is_quoted_if_it_names_no_other_address() {
        for (value, quoted) in [
            (" a@b.c <a@b.c>\r\n", "\"a@b.c\" <a@b.c>"),
            ("'a@b.c' <a@b.c>", "\"'a@b.c'\" <a@b.c>"),
            ("A@B.C <a@b.c>", "\"A@B.C\" <a@b.c>"),
            (" Doe, Alice <a@b.c>", "\"Doe, Alice\" <a@b.c>"),
            (" [Shop]\r\n\tAlice  <a@b.c> (work)\r\n", "\"[Shop] Alice\" <a@b.c>"),
            ("Shop: Müller; Söhne <a@b.c>", "\"Shop: Müller; Söhne\" <a@b.c>"),
            ("Alice) <a@b.c>", "\"Alice)\" <a@b.c>"),
            ("Bob \"The B\\\" Smith, Jr. <a@b.c>", "\"Bob \\\"The B\\\\\\\" Smith, Jr.\" <a@b.c>"),
        ] {
            let name = quote_display_name(value.as_bytes()).expect(value);
            assert_eq!(name.quoted, quoted);
            assert_eq!(parse_mailbox_list(quoted.as_bytes()), Ok(vec![name.address]), "{quoted}");
        }
        for value in [
            "b@evil.com <a@b.c>",
            "a@b.c.evil.com <a@b.c>",
            "a@b.c, b@evil.com <a@b.c>",
            "a@b.c a@b.c <a@b.c>",
            "Doe, b@evil.com <a@b.c>",
            "<b@evil.com> <a@b.c>",
            "b@evil.com> <a@b.c>",
            "Doe, Alice <a@b.c> x",
            "Doe, Alice <a@b.c>, d@e.f",
            "Doe, Alice <a@b.c> <d@e.f>",
            "Doe, Alice <@evil.com:a@b.c>",
            "Doe, Alice <a@b.c",
            "Doe, Alice",
            "Doe, \u{7}Alice <a@b.c>",
            "=?utf-8?q?Doe?=, Alice <a@b.c>",
            "<a@b.c>",
        ] {
            assert_eq!(quote_display_name(value.as_bytes()), None, "{value}");
        }
        assert_eq!(quote_display_name(b"Doe, J\xfcrgen <a@b.c>"), None);
        let long = format!("{}, x <a@b.c>", "x".repeat(NAME_OCTETS_MAX));
        assert_eq!(quote_display_name(long.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn a_quoted_name_is_read_in_one_way(name in "[a-c@,;:.()\\[\\]\"\\\\'é \r\n\t>]{0,30}") {
            if let Some(name) = quote_display_name(format!("{name}<a@b.c>").as_bytes()) {
                prop_assert_eq!(parse_mailbox_list(name.quoted.as_bytes()), Ok(vec![name.address]));
            }
        }

        #[test]
        fn no_value_makes_the_parser_panic(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (parse_mailbox_list(&value), quote_display_name(&value));
        }
    }

    #[test]
    fn endless_nesting_and_repetition_are_refused() {
        for unit in [
            "(",
            "(a)",
            "\"",
            "\"a\"",
            "<",
            "<a@b.example>",
            "[",
            "a:",
            ";",
            ",",
            "@",
            "a@",
            "a.",
            "\\",
            "(\\",
        ] {
            let field = unit.repeat(200_000 / unit.len());
            assert!(parse_mailbox_list(field.as_bytes()).is_err(), "{unit}");
        }
    }
}
