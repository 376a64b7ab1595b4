use std::path::Path;

use pillarbox::config::{Config, ConfigError};

/// A configuration is valid, or the error says where it is not: a line, or an option and what it must be.
pub fn config(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    match Config::parse(text, Path::new("pillarbox.toml")) {
        // The same text gives the same configuration.
        Ok(config) => assert!(Config::parse(text, Path::new("other.toml")).is_ok_and(|again| again == config)),
        Err(ConfigError::Parse { message, .. }) => {
            assert!(message.starts_with("TOML parse error at line "), "{message}");
        }
        Err(ConfigError::Value { key, message, .. }) => {
            let is_option = key.split('.').all(|word| word.bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'_'));
            assert!(!key.is_empty() && is_option, "{key}");
            assert!(!message.is_empty(), "{key}");
        }
        Err(error) => panic!("{error}"),
    }
}
