//! Parses commands (RFC 5321 §4.1). [`split`] finds the verb, which decides whether the session allows the command; the
//! other functions parse the arguments.

use super::command_error::CommandError;
use super::parameters::{self, MailOptions, OfferedParameters};
use crate::mail::{Address, Host, RcptParameters, ReversePath};

/// A verb that the server implements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    Ehlo,
    Helo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Help,
    Vrfy,
    Quit,
}

impl Verb {
    /// Every verb.
    pub const ALL: &'static [Self] = &[
        Self::Ehlo,
        Self::Helo,
        Self::StartTls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Bdat,
        Self::Rset,
        Self::Noop,
        Self::Help,
        Self::Vrfy,
        Self::Quit,
    ];

    /// The verb as written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ehlo => "EHLO",
            Self::Helo => "HELO",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Bdat => "BDAT",
            Self::Rset => "RSET",
            Self::Noop => "NOOP",
            Self::Help => "HELP",
            Self::Vrfy => "VRFY",
            Self::Quit => "QUIT",
        }
    }

    /// Maximum length of the command with CRLF: RFC 5321 §4.5.3.1.4, plus the octets that each extension adds.
    fn octets_max(self) -> usize {
        match self {
            // RFC 4954 §4.
            Self::Auth => super::LINE_OCTETS_MAX,
            // SIZE (RFC 1870 §3), BODY (RFC 6152 §2), SMTPUTF8 (RFC 6531 §3.1), AUTH (RFC 4954 §3), RET and
            // ENVID (RFC 3461 §4), REQUIRETLS (RFC 8689 §2), HOLDUNTIL (RFC 4865 §4).
            Self::Mail => 512 + 26 + 17 + 10 + 500 + 9 + 107 + 11 + 34,
            // NOTIFY and ORCPT (RFC 3461 §4).
            Self::Rcpt => 512 + 29 + 507,
            Self::Vrfy => 512 + 10,
            _ => 512,
        }
    }
}

/// Verbs of SMTP and its extensions that this server does not implement.
const NOT_OFFERED: &[&str] =
    &["EXPN", "ETRN", "ATRN", "TURN", "SEND", "SAML", "SOML", "BURL", "LHLO", "XCLIENT", "XFORWARD"];

const HTTP: &[&str] =
    &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI"];

/// Splits a line without CRLF into verb and arguments.
pub fn split(line: &[u8]) -> Result<(Verb, &str), CommandError> {
    let text = std::str::from_utf8(line).map_err(|_| CommandError::Malformed)?;
    if text.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
        return Err(CommandError::Malformed);
    }
    // RFC 5321 §4.1.1: white space before the CRLF is tolerated.
    let trimmed = text.trim_end_matches([' ', '\t']);
    let (word, arguments) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
    let is = |name: &&str| word.eq_ignore_ascii_case(name);
    match Verb::ALL.iter().find(|verb| is(&verb.as_str())) {
        Some(verb) if text.len() + 2 > verb.octets_max() => Err(CommandError::TooLong),
        Some(verb) => Ok((*verb, arguments.trim_start_matches(' '))),
        None if HTTP.iter().any(is) => Err(CommandError::Http),
        None if NOT_OFFERED.iter().any(is) => Err(CommandError::NotOffered),
        None => Err(CommandError::Unknown),
    }
}

/// The arguments of MAIL (RFC 5321 §4.1.1.2).
#[derive(Debug, PartialEq, Eq)]
pub struct MailArguments {
    pub path: ReversePath,
    pub options: MailOptions,
}

/// Parses the arguments of MAIL.
pub fn parse_mail(arguments: &str, offered: &OfferedParameters) -> Result<MailArguments, CommandError> {
    const SYNTAX: CommandError = CommandError::Argument("MAIL FROM:<address>");
    let (path, parameters) = split_path(arguments, "FROM:", SYNTAX)?;
    let path = match path {
        Path::Bracketed("") => ReversePath::Null,
        Path::Bracketed(text) => ReversePath::Mailbox(parse_mailbox(text)?),
        Path::Bare(text) => ReversePath::Mailbox(Address::parse(text).map_err(CommandError::Address)?),
    };
    Ok(MailArguments { path, options: parameters::parse_mail_options(parameters, offered)? })
}

/// The path of RCPT (RFC 5321 §4.1.1.3).
#[derive(Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// `<Postmaster>` without a domain: the postmaster of this server.
    Postmaster,
    /// An address.
    Mailbox(Address),
}

/// Parses the arguments of RCPT.
pub fn parse_rcpt(
    arguments: &str,
    offered: &OfferedParameters,
) -> Result<(ForwardPath, RcptParameters), CommandError> {
    let (path, parameters) = split_path(arguments, "TO:", CommandError::Argument("RCPT TO:<address>"))?;
    let parameters = parameters::parse_rcpt_parameters(parameters, offered)?;
    let (Path::Bracketed(text) | Path::Bare(text)) = path;
    if text.eq_ignore_ascii_case("postmaster") {
        return Ok((ForwardPath::Postmaster, parameters));
    }
    let mailbox = match path {
        Path::Bracketed(text) => parse_mailbox(text)?,
        Path::Bare(text) => Address::parse(text).map_err(CommandError::Address)?,
    };
    Ok((ForwardPath::Mailbox(mailbox), parameters))
}

/// A chunk announced by BDAT (RFC 3030 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub octets: u64,
    pub last: bool,
}

/// Parses the arguments of BDAT.
pub fn parse_bdat(arguments: &str) -> Result<Chunk, CommandError> {
    const SYNTAX: CommandError = CommandError::Argument("BDAT octets [LAST]");
    let mut words = arguments.split(' ').filter(|word| !word.is_empty());
    let size = words.next().filter(|size| size.bytes().all(|b| b.is_ascii_digit())).ok_or(SYNTAX)?;
    let octets = size.parse().map_err(|_| SYNTAX)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(SYNTAX),
    };
    if words.next().is_some() { Err(SYNTAX) } else { Ok(Chunk { octets, last }) }
}

/// Parses the arguments of AUTH: mechanism and initial response (RFC 4954 §4).
pub fn parse_auth(arguments: &str) -> Result<(&str, Option<&str>), CommandError> {
    let mut words = arguments.split(' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok((mechanism, initial)),
        _ => Err(CommandError::Argument("AUTH mechanism [initial-response]")),
    }
}

enum Path<'a> {
    Bracketed(&'a str),
    /// Without angle brackets, as some clients send it.
    Bare(&'a str),
}

/// Splits `KEYWORD:path parameters`. White space after the colon is tolerated.
fn split_path<'a>(
    arguments: &'a str,
    keyword: &str,
    syntax: CommandError,
) -> Result<(Path<'a>, &'a str), CommandError> {
    let rest = match arguments.get(..keyword.len()) {
        Some(front) if front.eq_ignore_ascii_case(keyword) => {
            arguments[keyword.len()..].trim_start_matches(' ')
        }
        _ => return Err(syntax),
    };
    let (path, rest) = match rest.strip_prefix('<') {
        Some(inner) => {
            let end = find_unquoted(inner, '>').ok_or(syntax.clone())?;
            (Path::Bracketed(&inner[..end]), &inner[end + 1..])
        }
        None if rest.is_empty() => return Err(syntax),
        None => {
            let end = find_unquoted(rest, ' ').unwrap_or(rest.len());
            (Path::Bare(&rest[..end]), &rest[end..])
        }
    };
    match rest.strip_prefix(' ') {
        Some(parameters) => Ok((path, parameters.trim_start_matches(' '))),
        None if rest.is_empty() => Ok((path, "")),
        None => Err(syntax),
    }
}

/// The position of the first `wanted` outside a quoted string.
fn find_unquoted(text: &str, wanted: char) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == wanted && !quoted => return Some(i),
            _ => {}
        }
    }
    None
}

/// Parses the text between the angle brackets: an address, with or without a source route. A source route must be
/// accepted and should be ignored (RFC 5321 §4.1.2, Appendix C).
fn parse_mailbox(text: &str) -> Result<Address, CommandError> {
    let mailbox = if text.starts_with('@') { drop_route(text)? } else { text };
    Address::parse(mailbox).map_err(CommandError::Address)
}

fn drop_route(text: &str) -> Result<&str, CommandError> {
    const SYNTAX: CommandError = CommandError::Argument("a source route of the form @host,@host:address");
    let mut rest = text;
    loop {
        let hop = rest.strip_prefix('@').ok_or(SYNTAX)?;
        // Colons inside an IPv6 literal do not end the route.
        let literal = if hop.starts_with('[') { hop.find(']').ok_or(SYNTAX)? } else { 0 };
        let end = literal + hop[literal..].find([',', ':']).ok_or(SYNTAX)?;
        Host::parse(&hop[..end]).map_err(|_| SYNTAX)?;
        rest = &hop[end + 1..];
        if hop[end..].starts_with(':') {
            return Ok(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::AddressError;
    use crate::smtp::parameters::SUBMISSION;
    use proptest::prelude::*;

    fn sender(arguments: &str) -> String {
        parse_mail(arguments, &SUBMISSION).unwrap().path.to_string()
    }

    #[test]
    fn verbs_are_read_in_any_case_and_trailing_white_space_is_tolerated() {
        assert_eq!(split(b"eHlO a.example \t"), Ok((Verb::Ehlo, "a.example")));
        assert_eq!(split(b"QUIT"), Ok((Verb::Quit, "")));
        assert_eq!(split(b"MAIL FROM:<a@b.c>"), Ok((Verb::Mail, "FROM:<a@b.c>")));
        for (line, error) in [
            (&b""[..], CommandError::Unknown),
            (b" QUIT", CommandError::Unknown),
            (b"QUITS", CommandError::Unknown),
            (b"expn all", CommandError::NotOffered),
            (b"BURL x LAST", CommandError::NotOffered),
            (b"GET / HTTP/1.1", CommandError::Http),
            (b"NOOP \0", CommandError::Malformed),
            (b"NOOP a\rb", CommandError::Malformed),
            (b"NOOP \xff", CommandError::Malformed),
        ] {
            assert_eq!(split(line), Err(error), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn each_verb_has_the_maximum_length_that_its_rfcs_define() {
        let line = |verb: &str, octets: usize| format!("{verb} {}", "x".repeat(octets - 2 - verb.len() - 1));
        for (verb, octets_max) in [("RCPT", 1048), ("NOOP", 512), ("MAIL", 1226), ("AUTH", 12_288)] {
            assert!(split(line(verb, octets_max).as_bytes()).is_ok(), "{verb}");
            assert_eq!(split(line(verb, octets_max + 1).as_bytes()), Err(CommandError::TooLong), "{verb}");
        }
    }

    #[test]
    fn reverse_paths_are_read_in_all_their_forms() {
        for (arguments, path) in [
            ("FROM:<a@b.example>", "a@b.example"),
            ("from:<a@b.example>", "a@b.example"),
            ("FROM: <a@b.example>", "a@b.example"),
            ("FROM:a@b.example", "a@b.example"),
            ("FROM:<>", ""),
            ("FROM:<@x.example,@y.example:a@b.example>", "a@b.example"),
            ("FROM:<@[IPv6:::1]:a@b.example>", "a@b.example"),
            (r#"FROM:<"a > b"@c.example>"#, r#""a > b"@c.example"#),
            (r#"FROM:<"a\" > b"@c.example> SIZE=1"#, r#""a\" > b"@c.example"#),
            (r#"FROM:"a b"@c.example SIZE=1"#, r#""a b"@c.example"#),
            ("FROM:<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        ] {
            assert_eq!(sender(arguments), path, "{arguments}");
        }
    }

    #[test]
    fn invalid_paths_are_refused() {
        for bad in [
            "",
            "FROM",
            "FROM:",
            "FROM: ",
            "TO:<a@b.c>",
            "FROM:<a@b.c",
            "FROM:<a@b.c>x",
            "FROM:<a@b.c>SIZE=1",
            "FROM:<a@b.c> <d@e.f>",
            "FROM:<a@b.c,d@e.f>",
            "FROM:<<a@b.c>>",
            "FROM:<@x:>",
            "FROM:<@x,a@b.c>",
            "FROM:<@-:a@b.c>",
            "FROM:a@b.c>",
            "FROM :<a@b.c>",
            "é",
        ] {
            assert!(parse_mail(bad, &SUBMISSION).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn forward_paths_are_mailboxes_or_the_postmaster() {
        let path = |arguments: &str| parse_rcpt(arguments, &SUBMISSION).map(|(path, _)| path);
        assert_eq!(path("TO:<PostMaster> NOTIFY=NEVER"), Ok(ForwardPath::Postmaster));
        let mailbox = Address::parse("a@b.example").unwrap();
        assert_eq!(path("to: a@b.example"), Ok(ForwardPath::Mailbox(mailbox)));
        assert_eq!(parse_rcpt("TO:<>", &SUBMISSION), Err(CommandError::Address(AddressError::Shape)));
        assert_eq!(parse_rcpt("TO:<a>", &SUBMISSION), Err(CommandError::Address(AddressError::Shape)));
    }

    #[test]
    fn a_chunk_has_a_length_and_may_be_the_last() {
        assert_eq!(parse_bdat("0"), Ok(Chunk { octets: 0, last: false }));
        assert_eq!(parse_bdat("86  last"), Ok(Chunk { octets: 86, last: true }));
        for bad in ["", "LAST", "-1", "+1", "1 FIRST", "1 LAST LAST", "0x10", "18446744073709551616"] {
            assert!(matches!(parse_bdat(bad), Err(CommandError::Argument(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in "((?i)(mail from:|rcpt to:|auth |ehlo |bdat ))?\\PC{0,60}") {
            if let Ok((_, arguments)) = split(line.as_bytes()) {
                let _ = (parse_mail(arguments, &SUBMISSION), parse_rcpt(arguments, &SUBMISSION), parse_auth(arguments), parse_bdat(arguments));
            }
        }

        #[test]
        fn the_path_of_a_parsed_mail_command_parses_to_the_same_path(text in "[@<>\",:\\[\\]a. \\\\]{0,24}") {
            if let Ok(mail) = parse_mail(&format!("FROM:<{text}>"), &SUBMISSION) {
                prop_assert_eq!(ReversePath::parse(&mail.path.to_string()), Ok(mail.path));
            }
        }
    }
}
