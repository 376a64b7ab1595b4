//! What the commands read from files and from the standard input.

use std::io::stdin;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// The text of a file, or of the standard input for `-`.
pub(super) fn read_text(source: &str) -> anyhow::Result<String> {
    if source == "-" {
        return std::io::read_to_string(stdin()).context("cannot read the standard input");
    }
    read_file(Path::new(source))
}

/// The value of an option in JSON. Without this parser, clap makes a JSON string of any text.
pub(super) fn read_json(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

/// The text of a file.
pub(super) fn read_file(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
