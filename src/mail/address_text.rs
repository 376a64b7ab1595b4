//! Finds addresses within other text: replies of servers, transcripts, URLs.

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::percent_decode_str;

use super::{Address, decode_xtext};

/// An `@` in a URL.
const ENCODED_AT: &str = "%40";
/// RFC 5321 §4.5.3.1.1, each octet encoded.
const LOCAL_OCTETS_MAX: usize = 3 * 64;
/// RFC 5321 §4.5.3.1.2, each character of four octets. A longer host is none.
const HOST_OCTETS_MAX: usize = 4 * 255;
/// An address begins after one of these, although an address may contain them: `to=bob@b.example`, `'bob@b.example'`.
const SEPARATORS: &[char] = &['=', '/', '?', '&', '!', '|', '*', '\'', '`', '{', '}'];

/// The text with each address for which `replace` returns another text replaced by that. `None` if there is none.
pub fn replace_addresses(text: &str, mut replace: impl FnMut(&Address) -> Option<String>) -> Option<String> {
    let (mut written, mut copied, mut from) = (String::new(), 0, 0);
    while let Some(sign) = next_sign(text, from) {
        from = sign.end;
        let Some((range, with)) = replace_at(text, copied, sign, &mut replace) else { continue };
        written.push_str(&text[copied..range.start]);
        written.push_str(&with);
        (copied, from) = (range.end, range.end);
    }
    (copied > 0).then(|| written + &text[copied..])
}

/// The next `@`, plain or encoded.
fn next_sign(text: &str, from: usize) -> Option<Range<usize>> {
    let rest = &text[from..];
    let signs = rest.match_indices(['@', '%']).find_map(|(at, sign)| match sign {
        "@" => Some(at..at + 1),
        _ => rest[at..].starts_with(ENCODED_AT).then_some(at..at + ENCODED_AT.len()),
    });
    signs.map(|range| from + range.start..from + range.end)
}

/// The address around a sign, if it is replaced. It begins at `floor` or later.
fn replace_at(
    text: &str,
    floor: usize,
    sign: Range<usize>,
    replace: &mut impl FnMut(&Address) -> Option<String>,
) -> Option<(Range<usize>, String)> {
    let floor = floor.max(text.floor_char_boundary(sign.start.saturating_sub(LOCAL_OCTETS_MAX)));
    let end = sign.end + host_octets(&text[sign.end..]);
    let starts = local_starts(&text[floor..sign.start]);
    starts.into_iter().map(|start| floor + start).find_map(|start| {
        let forms = forms(&text[start..end]);
        let with = forms.iter().find_map(|form| replace(&Address::parse(form).ok()?))?;
        Some((start..end, with))
    })
}

/// An address as it is written, and as it is meant in a URL or in the parameter ORCPT (RFC 3461 §4.2).
fn forms(found: &str) -> Vec<Cow<'_, str>> {
    let mut forms = vec![Cow::Borrowed(found)];
    if found.contains('%') {
        forms.extend(percent_decode_str(found).decode_utf8().ok());
    }
    if found.contains('+') {
        let decoded = decode_xtext(found).ok().and_then(|octets| String::from_utf8(octets).ok());
        forms.extend(decoded.map(Cow::Owned));
    }
    forms
}

/// The octets of the host at the beginning, without the punctuation of a sentence.
fn host_octets(text: &str) -> usize {
    // Otherwise a text of many `@[` would be read to its end for each of them.
    let text = &text[..text.floor_char_boundary(HOST_OCTETS_MAX)];
    if text.starts_with('[') {
        return text.find(']').map_or(0, |end| end + 1);
    }
    let is_of_host = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    let end = text.find(|c: char| !is_of_host(c)).unwrap_or(text.len());
    text[..end].trim_end_matches(['.', '-', '_']).len()
}

/// Where a local part at the end may begin, the longest first.
fn local_starts(text: &str) -> Vec<usize> {
    if let Some(quoted) = text.strip_suffix('"') {
        return opening_quote(quoted).into_iter().collect();
    }
    let is_local = |c: char| {
        c.is_ascii_alphanumeric()
            || "!#$%&'*+-/=?^_`{|}~.".contains(c)
            || !(c.is_ascii() || c.is_control() || c.is_whitespace())
    };
    let before = text.rfind(|c: char| !is_local(c));
    let start = before.map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
    let after_separators = text[start..].match_indices(SEPARATORS).map(|(at, _)| start + at + 1);
    [start].into_iter().chain(after_separators).collect()
}

/// The quote that begins a quoted string, of which the end is cut off.
fn opening_quote(text: &str) -> Option<usize> {
    let is_escaped =
        |at: usize| text[..at].bytes().rev().take_while(|octet| *octet == b'\\').count() % 2 == 1;
    text.rmatch_indices('"').map(|(at, _)| at).find(|at| !is_escaped(*at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_every_text_around_it_and_no_other_address_is() {
        let erased = [
            "bob@b.example",
            "bob+x=y@b.example",
            "\"b. o\"@b.example",
            "é@xn--bcher-kva.example",
            "bob@[192.0.2.1]",
        ];
        let replace = |address: &Address| erased.contains(&address.folded().as_str()).then(|| "X".to_owned());
        for (text, expected) in [
            ("bob@b.example", "X"),
            ("<bob@b.example>", "<X>"),
            ("RCPT TO:<Bob@B.Example> NOTIFY=NEVER", "RCPT TO:<X> NOTIFY=NEVER"),
            ("550 5.1.1 <bob@b.example>: no such user", "550 5.1.1 <X>: no such user"),
            ("bob@b.example, carl@b.example; bob@b.example", "X, carl@b.example; X"),
            ("ask bob@b.example.", "ask X."),
            ("rfc822;bob@b.example", "rfc822;X"),
            ("mailto:bob@b.example?subject=x", "mailto:X?subject=x"),
            ("'bob@b.example'", "'X'"),
            ("to=bob@b.example", "to=X"),
            ("https://x.example/?to=bob%40b.example&y=1", "https://x.example/?to=X&y=1"),
            ("/v1/recipients/BOB%40b.example", "/v1/recipients/X"),
            ("(bob@b.example)", "(X)"),
            ("[bob@b.example]", "[X]"),
            ("{\"to\":\"bob@b.example\"}", "{\"to\":\"X\"}"),
            ("line\nbob@b.example\r\nline", "line\nX\r\nline"),
            ("\"b. o\"@b.example is quoted", "X is quoted"),
            ("é@bücher.example", "X"),
            ("bob@[192.0.2.1] literally", "X literally"),
            ("@bob@b.example", "@X"),
            ("50% of bob@b.example", "50% of X"),
            ("TO:<bob+x=y@b.example> ORCPT=rfc822;bob+2Bx+3Dy@b.example", "TO:<X> ORCPT=rfc822;X"),
        ] {
            assert_eq!(replace_addresses(text, replace).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "@",
            "bob",
            "bob@",
            "@b.example",
            "carl@b.example",
            "x-bob@b.example",
            "x+bob@b.example",
            "bobbob@b.example",
            "bob@b.example.org",
            "bob@sub.b.example",
            "bob @b.example",
            "bob%b.example",
            "\"x\"bob",
            "\\\"@b.example",
        ] {
            assert_eq!(replace_addresses(text, replace), None, "{text}");
        }
    }

    #[test]
    fn a_host_is_not_looked_for_further_than_a_host_can_reach() {
        let literal = |octets: usize| format!("[{}]", "x".repeat(octets));
        assert_eq!(host_octets(&literal(20)), 22);
        assert_eq!(host_octets(&literal(HOST_OCTETS_MAX)), 0);
        assert!(host_octets(&"x".repeat(2 * HOST_OCTETS_MAX)) <= HOST_OCTETS_MAX);
    }
}
