//! The library that takes the place of the randomness of the system, built with the C compiler that the project needs anyway.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/entropy.c");

/// Builds the library in a directory.
pub fn build(directory: &Path) -> PathBuf {
    let library = directory.join("entropy.so");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(SOURCE).status();
    assert!(built.expect("there is a C compiler").success(), "{SOURCE} is not built");
    library
}
