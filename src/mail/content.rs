//! The bytes of a message: what we put in front, and what the client sent.

use bytes::Bytes;

use super::header::find_end;
use super::{DkimAlgorithm, DkimPolicy, Field, HeaderBlock};

/// A message as it goes on the wire: our header fields, then the submitted message, CRLF throughout.
/// The two are kept apart so that the client's bytes are never copied to make room for ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Whole header fields, each ending in CRLF; may be empty.
    pub prefix: Bytes,
    /// The message as submitted, less the fields that are removed.
    pub submitted: Bytes,
}

impl Content {
    /// Octets of the whole message.
    pub fn len(&self) -> usize {
        self.prefix.len() + self.submitted.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message with those of our signatures that go along. None signs another (RFC 6376 §5.4: `DKIM-Signature` is
    /// not among the signed fields), so each that stays holds without the others. What the client signed stays.
    pub fn carrying(&self, policy: DkimPolicy) -> Self {
        let is_dropped = |field: &Field| {
            field.name.eq_ignore_ascii_case("DKIM-Signature")
                && match policy {
                    DkimPolicy::Dual => false,
                    DkimPolicy::Rsa => !is_by(&self.prefix[field.value.clone()], DkimAlgorithm::Rsa),
                    DkimPolicy::None => true,
                }
        };
        // What we put in front is well formed.
        let block = HeaderBlock::scan(&self.prefix, usize::MAX);
        let fields = block.map(|block| block.fields).unwrap_or_default();
        if !fields.iter().any(is_dropped) {
            return self.clone();
        }
        let kept = fields.iter().filter(|field| !is_dropped(field));
        let prefix = kept.flat_map(|field| &self.prefix[field.span.clone()]).copied().collect::<Vec<u8>>();
        Self { prefix: prefix.into(), submitted: self.submitted.clone() }
    }

    /// The header of the message as submitted, up to the empty line.
    pub fn header(&self) -> &[u8] {
        &self.submitted[..find_end(&self.submitted)]
    }

    /// The message in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        [&self.prefix[..], &self.submitted[..]].concat()
    }
}

/// Whether the tags of a signature name this algorithm (RFC 6376 §3.5, `a=`).
fn is_by(tags: &[u8], algorithm: DkimAlgorithm) -> bool {
    let tags = String::from_utf8_lossy(tags);
    let mut tags = tags.split(';').filter_map(|tag| tag.split_once('='));
    tags.any(|(name, value)| name.trim() == "a" && value.trim() == algorithm.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_ends_before_the_first_empty_line() {
        for (submitted, header) in [
            ("A: b\r\n\r\nbody\r\n\r\n", "A: b\r\n"),
            ("A: b\r\n", "A: b\r\n"),
            ("\r\nbody\r\n\r\n", ""),
            ("", ""),
        ] {
            let content = Content { prefix: "X: y\r\n".into(), submitted: submitted.into() };
            assert_eq!(content.header(), header.as_bytes(), "{submitted:?}");
        }
    }

    #[test]
    fn our_signatures_are_left_out_and_nothing_else() {
        let ed = "DKIM-Signature: v=1; a=ed25519-sha256; d=a.b;\r\n\tb=AAAA\r\n";
        let rsa = "DKIM-Signature: v=1;\r\n a=rsa-sha256; d=a.b; b=BBBB;\r\n c=relaxed\r\n";
        let rest = "Received: by us\r\n\tfor DKIM-Signature: a=x\r\nDate: now\r\n";
        let submitted = "DKIM-Signature: a=ed25519-sha256; b=theirs\r\n\r\nbody\r\n";
        let content = Content {
            prefix: format!("{ed}{rsa}{rest}").into(),
            submitted: Bytes::from_static(submitted.as_bytes()),
        };
        for (policy, prefix) in [
            (DkimPolicy::Dual, format!("{ed}{rsa}{rest}")),
            (DkimPolicy::Rsa, format!("{rsa}{rest}")),
            (DkimPolicy::None, rest.to_owned()),
        ] {
            let carried = content.carrying(policy);
            assert_eq!(carried.to_vec(), format!("{prefix}{submitted}").into_bytes(), "{policy}");
        }
        assert_eq!(Content::default().carrying(DkimPolicy::None), Content::default());
    }
}
