//! The format of a bundle: one JSON object in a line, with sorted keys. The first line describes the bundle, the last one has the
//! counts and the digest of the lines before it.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::mail::Timestamp;
use crate::store::BundleObject;

const FORMAT: u64 = 1;

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is a file of another kind.
    #[error(
        "this is not a bundle: line {0} is not text; `pillarbox tenant export` makes bundles, which are lines of JSON"
    )]
    NotText(usize),
    /// A line is not an object with a type.
    #[error("line {0} is not an object of a bundle: {1}")]
    Line(usize, String),
    /// It does not begin with the description of a bundle.
    #[error("this is not a bundle: the first line must have \"object\": \"bundle\"")]
    NoHeader,
    /// It is of a newer program.
    #[error(
        "the bundle has format {0}, but this program knows formats up to {FORMAT}: use a newer pillarbox"
    )]
    Newer(u64),
    /// The last line is missing: the export did not finish.
    #[error("the bundle ends early: its last line must have \"object\": \"end\"; export it again")]
    NoEnd,
    /// A line was changed, added or removed.
    #[error("the bundle does not have the digest that its last line names; export it again")]
    Digest,
}

/// The text of a line: sorted keys, no spaces, and a line feed.
pub fn canonical(object: &Map<String, Value>) -> String {
    // Maps of serde_json are sorted; the test below fails if a crate of the tree changes that.
    let mut text = Value::Object(object.clone()).to_string();
    text.push('\n');
    text
}

/// The first line. `deliveries_in_progress` is `None` while the tenant sends.
pub fn header(
    slug: &str,
    version: &str,
    at: Timestamp,
    deliveries_in_progress: Option<u64>,
) -> Map<String, Value> {
    let header = json!({
        "object": "bundle", "format": FORMAT, "slug": slug, "version": version, "exported_at": at,
        "deliveries_in_progress": deliveries_in_progress,
    });
    header.as_object().cloned().unwrap_or_default()
}

/// Counts the lines and computes their digest.
#[derive(Default)]
pub struct BundleDigest {
    counts: BTreeMap<String, u64>,
    digest: Sha256,
}

impl BundleDigest {
    /// Takes the next line and returns its text.
    pub fn line(&mut self, object: &Map<String, Value>) -> String {
        let text = canonical(object);
        if let Some(kind) = object.get("object").and_then(Value::as_str).filter(|kind| *kind != "bundle") {
            *self.counts.entry(kind.to_owned()).or_default() += 1;
        }
        self.digest.update(&text);
        text
    }

    /// The last line.
    pub fn end(self) -> String {
        let end = json!({"object": "end", "counts": self.counts, "sha256": HEXLOWER.encode(&self.digest.finalize())});
        end.to_string() + "\n"
    }
}

/// The digest of these lines.
pub fn digest_of<'a>(objects: impl IntoIterator<Item = &'a Map<String, Value>>) -> String {
    let digest =
        objects.into_iter().fold(Sha256::new(), |digest, object| digest.chain_update(canonical(object)));
    HEXLOWER.encode(&digest.finalize())
}

/// A bundle that was read.
#[derive(Debug, Default)]
pub struct Bundle {
    /// Its first line.
    pub header: BundleObject,
    /// Its objects, without those that are not kept.
    pub objects: Vec<BundleObject>,
    /// The number of those that are not kept.
    pub left_out: u64,
}

/// Reads a bundle object by object, and checks its digest at the end.
pub struct BundleReader<R> {
    lines: io::Lines<R>,
    /// The number of lines so far.
    at: usize,
    digest: Sha256,
    header: BundleObject,
}

impl<R: BufRead> BundleReader<R> {
    /// A reader at the first line.
    pub fn new(input: R) -> Self {
        Self { lines: input.lines(), at: 0, digest: Sha256::new(), header: BundleObject::new() }
    }

    /// The next object; `None` at the end of a whole bundle.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn next_object(&mut self) -> Result<Option<BundleObject>, BundleError> {
        loop {
            self.at += 1;
            let line = self.lines.next().ok_or(BundleError::NoEnd)?.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => BundleError::NotText(self.at),
                _ => error.into(),
            })?;
            let object = parse_line(&line).map_err(|reason| BundleError::Line(self.at, reason))?;
            match (self.at, object.get("object").and_then(Value::as_str)) {
                (1, Some("bundle")) => check_format(&object)?,
                (1, _) => return Err(BundleError::NoHeader),
                (_, Some("end")) => return self.end(&object).map(|()| None),
                _ => {}
            }
            self.digest.update(&line);
            self.digest.update("\n");
            if self.at > 1 {
                return Ok(Some(object));
            }
            self.header = object;
        }
    }

    fn end(&mut self, end: &BundleObject) -> Result<(), BundleError> {
        if self.lines.next().transpose()?.is_some() {
            return Err(BundleError::Line(self.at + 1, "it follows the last one".into()));
        }
        let digest = HEXLOWER.encode(&std::mem::take(&mut self.digest).finalize());
        match end.get("sha256").and_then(Value::as_str) == Some(&digest) {
            true => Ok(()),
            false => Err(BundleError::Digest),
        }
    }
}

/// Reads a bundle, keeps the objects whose type `keeps` accepts, and checks the digest.
///
/// # Errors
/// [`BundleError`].
pub fn read(input: impl BufRead, keeps: impl Fn(&str) -> bool) -> Result<Bundle, BundleError> {
    let (mut reader, mut bundle) = (BundleReader::new(input), Bundle::default());
    while let Some(object) = reader.next_object()? {
        match keeps(object.get("object").and_then(Value::as_str).unwrap_or_default()) {
            true => bundle.objects.push(object),
            false => bundle.left_out += 1,
        }
    }
    Ok(Bundle { header: reader.header, ..bundle })
}

fn parse_line(line: &str) -> Result<BundleObject, String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) if object.get("object").is_some_and(Value::is_string) => Ok(object),
        Ok(_) => Err("it has no \"object\"".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn check_format(header: &BundleObject) -> Result<(), BundleError> {
    match header.get("format").and_then(Value::as_u64) {
        Some(format) if format <= FORMAT => Ok(()),
        format => Err(BundleError::Newer(format.unwrap_or(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> BundleObject {
        value.as_object().cloned().unwrap()
    }

    fn bundle() -> String {
        let mut digest = BundleDigest::default();
        let mut text = digest.line(&header("acme", "0.1.0", Timestamp::UNIX_EPOCH, None));
        text += &digest.line(&object(json!({"object": "tenant", "slug": "acme", "name": "Acme"})));
        text += &digest.line(&object(json!({"object": "message", "id": "msg_1"})));
        text + &digest.end()
    }

    #[test]
    fn the_keys_of_a_line_are_sorted() {
        assert_eq!(
            canonical(&object(json!({"b": 1, "a": {"d": 1, "c": 2}}))),
            "{\"a\":{\"c\":2,\"d\":1},\"b\":1}\n"
        );
    }

    #[test]
    fn a_bundle_is_read_whole_or_not_at_all() {
        let read_text = |text: &str| read(text.as_bytes(), |kind| kind != "message");
        let fault = |text: &str| read_text(text).unwrap_err().to_string();
        let binary = read(&b"\x7fELF\x02\xff\n"[..], |_| true).unwrap_err().to_string();
        assert_eq!(binary, BundleError::NotText(1).to_string());
        let text = bundle();
        let read = read_text(&text).unwrap();
        assert_eq!(
            (read.objects[0]["slug"].clone(), read.objects.len(), read.left_out),
            (json!("acme"), 1, 1)
        );
        let lines: Vec<_> = text.lines().map(|line| format!("{line}\n")).collect();
        assert_eq!(fault(&lines[..3].concat()), BundleError::NoEnd.to_string());
        assert_eq!(fault(&text.replace("Acme", "Acne")), BundleError::Digest.to_string());
        assert_eq!(fault(&text.replace("msg_1", "msg_2")), BundleError::Digest.to_string());
        assert_eq!(fault(&text.replace("\"format\":1", "\"format\":2")), BundleError::Newer(2).to_string());
        assert!(fault("{}\n").contains("line 1 is not an object of a bundle"));
        assert!(fault(&(text + &lines[1])).contains("line 5 is not an object of a bundle"));
        assert_eq!(fault("{\"object\":\"tenant\"}\n"), BundleError::NoHeader.to_string());
    }
}
