//! The line of a key with too many parts. The error of the TOML parser does not name it.

use toml_parser::Source;
use toml_parser::parser::{Event, EventKind, parse_document};

/// How many parts the TOML parser allows: `a.b.c = 1` and `[a.b.c]` have three.
pub(super) const PARTS_MAX: usize = 80;

/// The line, from 1, of the first key with more parts.
///
/// Arrays and inline tables in `text` must not be nested deeply: the parser calls itself for each level. `toml::from_str` refuses
/// such a text before it looks at the length of keys.
pub(super) fn find_long_key(text: &str) -> Option<usize> {
    let (mut parts, mut is_after_dot, mut offset) = (0, false, None);
    let mut count = |event: Event| match event.kind() {
        EventKind::SimpleKey => {
            parts = if is_after_dot { parts + 1 } else { 1 };
            is_after_dot = false;
            if parts > PARTS_MAX {
                offset.get_or_insert(event.span().start());
            }
        }
        EventKind::KeySep => is_after_dot = true,
        _ => {}
    };
    parse_document(&Source::new(text).lex().into_vec(), &mut count, &mut ());
    offset.map(|offset| text.as_bytes()[..offset].iter().filter(|octet| **octet == b'\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_with_more_than_80_parts_is_found() {
        let (most, longer) = (format!("a{}", " . \"a.b\"".repeat(79)), format!("a{}", ".a".repeat(80)));
        for (text, expected) in [
            (String::new(), None),
            (format!("{most} = 1\n[{most}]\n"), None),
            (format!("# {longer} = 1\na = \"{longer}\"\n"), None),
            (format!("a = [{}]\n", "1.5, ".repeat(100)), None),
            (format!("{longer} = 1\n{longer} = 1\n"), Some(1)),
            (format!("a = \"\"\"\n{longer} = 1\n\"\"\"\n{longer} = 1\n"), Some(4)),
            (format!("{most} = 1\n\n[[{longer}]]\n"), Some(3)),
            (format!("a = {{ b = 1,\n {longer} = 1 }}\n"), Some(2)),
        ] {
            assert_eq!(find_long_key(&text), expected, "{text}");
        }
    }
}
