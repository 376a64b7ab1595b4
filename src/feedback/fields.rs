//! Header fields and fields of status parts, read as they really come: any line end, invalid lines, no empty line.

use crate::mail::{DomainName, body_start, line_end, trim_line_end};

/// Octets of a header that are looked at.
const HEADER_OCTETS_MAX: usize = 64 * 1024;
/// Octets of a field that are looked at.
const FIELD_OCTETS_MAX: usize = 8 * 1024;

/// The lines of a text without their ends: CRLF or LF, or CR if there is no LF in it.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = line_end(text);
    text.split_inclusive(move |&octet| octet == end).map(trim_line_end)
}

/// The fields of a header or of a status part, in order. Lines that belong to no field are left out.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    fields: Vec<Field<'a>>,
}

/// A field as it stands.
#[derive(Debug)]
struct Field<'a> {
    name: &'a [u8],
    /// Its lines after the colon.
    lines: Vec<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// The fields before the first empty line.
    pub(super) fn of_header(entity: &'a [u8]) -> Self {
        let header = &entity[..body_start(entity).min(HEADER_OCTETS_MAX)];
        let mut fields = Self::default();
        // The line "From " at the beginning of an mbox file is no field, and is left out.
        lines(header).for_each(|line| fields.add(line));
        fields
    }

    /// Reads one more line.
    pub(super) fn add(&mut self, line: &'a [u8]) {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            if let Some(field) = self.fields.last_mut() {
                field.lines.push(line);
            }
        } else if let Some((name, value)) = split_field(line) {
            self.fields.push(Field { name, lines: vec![value] });
        }
    }

    /// Whether there is a field of the name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    /// The values of all fields of a name, unfolded.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = String> {
        self.named(name).map(Field::value)
    }

    /// The value of the first field of a name that is not empty, unfolded.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.all(name).find(|value| !value.is_empty())
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Field<'a>> {
        self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The domain of the only author in the only From field.
    pub(super) fn author_domain(&self) -> Option<DomainName> {
        let mut fields = self.all("From");
        let (Some(from), None) = (fields.next(), fields.next()) else { return None };
        let authors = crate::mail::parse_mailbox_list(from.as_bytes()).ok()?;
        let [author] = &authors[..] else { return None };
        author.domain().cloned()
    }
}

impl Field<'_> {
    /// The value in one line. Octets that are not UTF-8 are replaced.
    fn value(&self) -> String {
        let mut value = String::new();
        for line in &self.lines {
            let line = line.trim_ascii();
            if !value.is_empty() && !line.is_empty() {
                value.push(' ');
            }
            value.push_str(&String::from_utf8_lossy(&line[..line.len().min(FIELD_OCTETS_MAX)]));
            if value.len() >= FIELD_OCTETS_MAX {
                value.truncate(value.floor_char_boundary(FIELD_OCTETS_MAX));
                break;
            }
        }
        value
    }
}

/// Name and value; white space before the colon is obsolete and still seen (RFC 5322 §4.5).
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    is_name.then(|| (name, &line[colon + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_with_each_line_end_and_invalid_lines_are_left_out() {
        for end in ["\r\n", "\n", "\r"] {
            let text =
                ["From x@y Mon", " lost", "A: b", "\tc", "no field", "D : e", "f: ", "", "G: h"].join(end);
            let fields = Fields::of_header(text.as_bytes());
            assert_eq!(fields.get("a").as_deref(), Some("b c"), "{end:?}");
            assert_eq!(fields.get("D").as_deref(), Some("e"), "{end:?}");
            assert_eq!(fields.get("F"), None);
            assert!(fields.has("F") && !fields.has("G"));
            assert_eq!(&text[body_start(text.as_bytes())..], "G: h");
        }
    }

    #[test]
    fn long_headers_and_fields_are_cut() {
        let text = format!("A: {}\r\n{}\r\nB: c\r\n\r\nbody", "a".repeat(10_000), "X: y\r\n".repeat(20_000));
        let fields = Fields::of_header(text.as_bytes());
        assert_eq!(fields.get("A").unwrap().len(), FIELD_OCTETS_MAX);
        assert!(!fields.has("B"));
        let text = format!("A: {}", "\u{e9}\r\n ".repeat(10_000));
        assert!(Fields::of_header(text.as_bytes()).get("A").unwrap().len() <= FIELD_OCTETS_MAX);
    }

    #[test]
    fn the_author_is_certain_only_if_there_is_one() {
        let domain =
            |text: &str| Fields::of_header(text.as_bytes()).author_domain().map(|name| name.to_string());
        assert_eq!(domain("From: Mail Delivery <a@b.example>\r\n").as_deref(), Some("b.example"));
        for text in
            ["", "From: a@b.c\r\nfrom: d@e.f\r\n", "From: a@b.c, d@e.f\r\n", "From: MAILER-DAEMON\r\n"]
        {
            assert_eq!(domain(text), None, "{text}");
        }
    }
}
