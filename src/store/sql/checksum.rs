//! Length and CRC-32 of a message's content, stored with it. CRC-32 detects accidental damage by disks, file systems and
//! copies, at gigabytes per second. It does not protect against an attacker with write access to the data directory.

use std::fs::File;
use std::io::{ErrorKind, Read};

use crate::mail::Content;

/// Files are read in blocks of this size.
const PIECE_OCTETS: usize = 64 * 1024;

/// The length and the CRC-32 of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) octets: u64,
    pub(super) crc32: u32,
}

impl Checksum {
    pub(super) fn of(content: &Content) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&content.prefix);
        hasher.update(&content.submitted);
        Self { octets: content.len() as u64, crc32: hasher.finalize() }
    }

    /// Reads a file from its current position to its end.
    pub(super) fn of_file(mut file: &File) -> std::io::Result<Self> {
        let (mut hasher, mut octets) = (crc32fast::Hasher::new(), 0);
        let mut piece = vec![0; PIECE_OCTETS];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(Self { octets, crc32: hasher.finalize() }),
                Ok(read) => {
                    hasher.update(&piece[..read]);
                    octets += read as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The fault of content whose checksum is `found`.
    pub(super) fn fault_of(self, found: Self) -> Option<String> {
        if found.octets != self.octets {
            return Some(format!("it has {} octets instead of {}", found.octets, self.octets));
        }
        (found.crc32 != self.crc32).then(|| "it has the right length, but its checksum is wrong".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(prefix: &'static str, submitted: &'static str) -> Checksum {
        Checksum::of(&Content { prefix: prefix.into(), submitted: submitted.into() })
    }

    #[test]
    fn what_was_cut_or_altered_is_told_apart_from_what_is_whole() {
        let whole = checksum("Received: x\r\n", "Subject: y\r\n");
        assert_eq!(whole.fault_of(checksum("Received: x\r\nSubject: y", "\r\n")), None);
        let cut = whole.fault_of(checksum("Received: x\r\n", "Subject: y"));
        assert_eq!(cut.as_deref(), Some("it has 23 octets instead of 25"));
        let altered = whole.fault_of(checksum("Received: x\r\n", "Subject: z\r\n")).unwrap();
        assert!(altered.contains("checksum"), "{altered}");
    }

    /// Stored in existing databases, so it must not change.
    #[test]
    fn the_checksum_is_the_one_of_ieee_802_3() {
        assert_eq!(checksum("1234", "56789"), Checksum { octets: 9, crc32: 0xCBF4_3926 });
    }
}
