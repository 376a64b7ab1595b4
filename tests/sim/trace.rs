//! What happened in a run, line by line. Two runs of a seed have the same trace.

use std::sync::Mutex;

use data_encoding::HEXLOWER;
use pillarbox::mail::Timestamp;
use sha2::{Digest, Sha256};

pub struct Trace {
    lines: Mutex<Lines>,
    /// Whether each line is printed at once.
    is_printed: bool,
}

#[derive(Default)]
struct Lines {
    digest: Sha256,
    kept: Vec<String>,
}

impl Trace {
    pub fn new(is_printed: bool) -> Self {
        Self { lines: Mutex::default(), is_printed }
    }

    pub fn note(&self, at: Timestamp, line: &str) {
        let line = format!("{at} {line}");
        if self.is_printed {
            println!("{line}");
        }
        let mut lines = self.lines.lock().unwrap();
        lines.digest.update(&line);
        lines.digest.update("\n");
        lines.kept.push(line);
    }

    /// A digest of all lines.
    pub fn digest(&self) -> String {
        HEXLOWER.encode(&self.lines.lock().unwrap().digest.clone().finalize()[..8])
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().kept.clone()
    }
}
