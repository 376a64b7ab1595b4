//! Header, body and parts of a MIME entity (RFC 2045, RFC 2046), as they really come: with any line end.

/// The octet that ends a line of the text: LF, or CR if there is no LF in it.
pub fn line_end(text: &[u8]) -> u8 {
    if memchr::memchr(b'\n', text).is_some() { b'\n' } else { b'\r' }
}

/// The line without its end.
pub fn trim_line_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|octet| !matches!(octet, b'\r' | b'\n')).map_or(0, |at| at + 1);
    &line[..end]
}

/// The first octet after the header: after the empty line, or the end.
pub fn body_start(entity: &[u8]) -> usize {
    let end = line_end(entity);
    let mut at = 0;
    for line in entity.split_inclusive(|&octet| octet == end) {
        at += line.len();
        if trim_line_end(line).is_empty() {
            return at;
        }
    }
    entity.len()
}

/// The entities in the body of a multipart, with their positions. The line end before a delimiter belongs to the delimiter
/// (RFC 2046 §5.1.1). A missing last delimiter is the end of the text.
pub fn parts_of<'a>(body: &'a [u8], boundary: &[u8]) -> impl Iterator<Item = (&'a [u8], usize)> {
    let end = line_end(body);
    let mut at = 0;
    let mut part = None;
    let mut lines = body.split_inclusive(move |&octet| octet == end);
    let mut is_over = false;
    std::iter::from_fn(move || {
        while !is_over {
            let Some(line) = lines.next() else {
                is_over = true;
                return part.take().map(|from: usize| (&body[from..], from));
            };
            let line_at = at;
            at += line.len();
            let rest = line.strip_prefix(b"--").and_then(|rest| rest.strip_prefix(boundary));
            let Some(rest) = rest.map(<[u8]>::trim_ascii) else { continue };
            if rest != b"" && rest != b"--" {
                continue;
            }
            is_over = rest == b"--";
            let before = part.replace(at);
            if let Some(from) = before {
                return Some((without_last_line_end(&body[from..line_at]), from));
            }
        }
        None
    })
}

fn without_last_line_end(text: &[u8]) -> &[u8] {
    let ends: [&[u8]; 3] = [b"\r\n", b"\n", b"\r"];
    ends.iter().find_map(|end| text.strip_suffix(*end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_all_its_octets_and_not_the_line_end_before_the_delimiter() {
        for end in ["\r\n", "\n", "\r"] {
            let body = ["preamble", "--b", "", "one", "", "--b  ", "A: c", "", "two", "--b--", "--b", "no"]
                .join(end);
            let parts: Vec<_> = parts_of(body.as_bytes(), b"b").map(|(part, _)| part).collect();
            let expected = [["", "one", ""].join(end), ["A: c", "", "two"].join(end)];
            assert_eq!(parts, [expected[0].as_bytes(), expected[1].as_bytes()], "{end:?}");
            assert_eq!(&parts[1][body_start(parts[1])..], b"two");
        }
        assert_eq!(parts_of(b"--b\r\none\r\n", b"b").map(|(part, _)| part).collect::<Vec<_>>(), [b"one\r\n"]);
        assert_eq!(parts_of(b"--bc\r\none\r\n", b"b").count(), 0);
    }
}
