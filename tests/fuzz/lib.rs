//! What is fuzzed: the layers that see no socket and the language of templates, built from their own sources, and the
//! targets that drive them.

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
