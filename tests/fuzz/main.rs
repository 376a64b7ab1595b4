//! Fuzzes one target, which `FUZZ_TARGET` names, with libFuzzer. `tests/fuzz/run` builds and runs this program.
#![no_main]

mod properties;

use std::sync::LazyLock;

use properties::{Property, find};

static TARGET: LazyLock<Property> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names the target");
    find(&name).unwrap_or_else(|| panic!("there is no target {name}"))
});

libfuzzer_sys::fuzz_target!(|octets: &[u8]| TARGET(octets));
