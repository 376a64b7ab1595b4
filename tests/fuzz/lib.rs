//! The code under test (the modules without I/O and the template language, compiled from their sources) and the fuzz
//! targets.

#[path = "../../src/mail/mod.rs"]
pub mod mail;
#[path = "../../src/model/mod.rs"]
pub mod model;
#[path = "../../src/smtp/mod.rs"]
pub mod smtp;

/// The modules that `feedback` uses.
#[path = "../../src/policy"]
pub mod policy {
    pub mod bounce_classifier;
    pub mod reply_verdict;
    pub mod retry_schedule;
}
#[path = "../../src/feedback/mod.rs"]
pub mod feedback;

#[path = "../../src/api/templates/language/mod.rs"]
pub mod template_language;

#[path = "properties/mod.rs"]
pub mod properties;
