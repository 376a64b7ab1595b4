//! The row of a body. Its octets are in the row; or elsewhere, in a file of the data directory or in pieces in PostgreSQL.

use std::io::{ErrorKind, Read};
use std::path::Path;

use super::tables::Table;
use crate::store::database::Value;

/// The table of these rows.
pub(super) const BODIES: &str = "body";
/// What a body has whose file is missing: a length that does not fit, so that the copy is damaged, too.
const MISSING_OCTETS: i64 = 1;

/// The values of a row of [`BODIES`].
pub(super) struct BodyRow {
    values: Vec<Value>,
    message_id: usize,
    prefix: usize,
    submitted: usize,
    file_prefix_octets: usize,
    octets: usize,
    crc32: usize,
}

impl BodyRow {
    /// `None` if the table has other columns.
    pub(super) fn of(table: &Table, values: Vec<Value>) -> Option<Self> {
        Some(Self {
            values,
            message_id: table.position("message_id")?,
            prefix: table.position("prefix")?,
            submitted: table.position("submitted")?,
            file_prefix_octets: table.position("file_prefix_octets")?,
            octets: table.position("octets")?,
            crc32: table.position("crc32")?,
        })
    }

    pub(super) fn into_values(self) -> Vec<Value> {
        self.values
    }

    /// The id of the message.
    pub(super) fn id(&self) -> String {
        match &self.values[self.message_id] {
            Value::Text(id) => id.clone(),
            _ => String::new(),
        }
    }

    /// The length of the prefix of octets that are elsewhere; `None` if they are in the row.
    pub(super) fn prefix_octets_elsewhere(&self) -> Option<usize> {
        match self.values[self.file_prefix_octets] {
            Value::Integer(octets) => usize::try_from(octets).ok(),
            _ => None,
        }
    }

    /// The octets in the row.
    pub(super) fn octets(&self) -> [&[u8]; 2] {
        [self.prefix, self.submitted].map(|column| match &self.values[column] {
            Value::Blob(octets) => &octets[..],
            _ => &[],
        })
    }

    /// The octets are in the row.
    pub(super) fn set_octets(&mut self, prefix: Vec<u8>, submitted: Vec<u8>) {
        self.values[self.prefix] = Value::Blob(prefix);
        self.values[self.submitted] = Value::Blob(submitted);
        self.values[self.file_prefix_octets] = Value::Null;
    }

    /// The octets are elsewhere.
    pub(super) fn set_elsewhere(&mut self) {
        let prefix_octets = i64::try_from(self.octets()[0].len()).unwrap_or(i64::MAX);
        self.values[self.prefix] = Value::Null;
        self.values[self.submitted] = Value::Null;
        self.values[self.file_prefix_octets] = Value::Integer(prefix_octets);
    }

    /// The octets are lost.
    pub(super) fn set_missing(&mut self) {
        self.set_octets(Vec::new(), Vec::new());
        if self.values[self.octets] == Value::Null {
            self.values[self.octets] = Value::Integer(MISSING_OCTETS);
            self.values[self.crc32] = Value::Integer(0);
        }
    }
}

/// The prefix and the rest of a file; `None` if it is missing or too short.
///
/// # Errors
/// Those of the file system.
pub(super) fn read_file(path: &Path, prefix_octets: usize) -> std::io::Result<Option<[Vec<u8>; 2]>> {
    let mut file = match std::fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut prefix = Vec::new();
    file.read_to_end(&mut prefix)?;
    if prefix_octets > prefix.len() {
        return Ok(None);
    }
    let submitted = prefix.split_off(prefix_octets);
    Ok(Some([prefix, submitted]))
}
