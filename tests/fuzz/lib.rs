//! The fuzzed code, compiled from the sources of Pillarbox (the layers without I/O, and the template language), and the
//! fuzz targets.

#[path = "../../src/mail/mod.rs"]
pub mod mail;
#[path = "../../src/model/mod.rs"]
pub mod model;
#[path = "../../src/smtp/mod.rs"]
pub mod smtp;

#[path = "../../src/api/templates/language/mod.rs"]
pub mod template_language;

#[path = "targets/mod.rs"]
pub mod targets;
