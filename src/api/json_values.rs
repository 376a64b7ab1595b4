//! Counts the values of a JSON text as it arrives. The memory of a parsed text depends more on the number of its values
//! than on its octets. Pure.

use memchr::memchr2;

/// Counts the values of a text that arrives in pieces. For a text that is not JSON, the count is arbitrary.
#[derive(Debug, Default)]
pub struct ValueCounter {
    count: u64,
    is_in_string: bool,
    is_escaped: bool,
}

impl ValueCounter {
    /// Values so far. A member of an object counts as one value.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Reads the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        let mut at = 0;
        while let Some(&octet) = piece.get(at) {
            at += 1;
            if self.is_escaped {
                self.is_escaped = false;
            } else if self.is_in_string {
                // RFC 8259 §7: a string ends at a quotation mark that no backslash escapes.
                let Some(end) = memchr2(b'"', b'\\', &piece[at - 1..]) else { return };
                at += end;
                match piece[at - 1] {
                    b'"' => self.is_in_string = false,
                    _ => self.is_escaped = true,
                }
            } else {
                match octet {
                    b'"' => self.is_in_string = true,
                    // RFC 8259 §4, §5: a value follows each opening bracket and each comma.
                    b'[' | b'{' | b',' => self.count += 1,
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(text: &str) -> u64 {
        let mut counter = ValueCounter::default();
        counter.feed(text.as_bytes());
        counter.count()
    }

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (text, expected) in [
            ("1", 0),
            ("[1,2,3]", 3),
            (r#"{"a":1,"b":[2,3]}"#, 4),
            (r#"{"a":"x,y,[{","b":"\",,"}"#, 2),
            (r#"["\\",2]"#, 2),
            (r#"["a, \\\" b, c"]"#, 1),
        ] {
            assert_eq!(count(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_change_the_count(text in r#"[\[\]{},:"a\\]{0,60}"#, at in 0usize..60) {
            let at = at.min(text.len());
            let mut counter = ValueCounter::default();
            counter.feed(&text.as_bytes()[..at]);
            counter.feed(&text.as_bytes()[at..]);
            prop_assert_eq!(counter.count(), count(&text));
        }
    }
}
