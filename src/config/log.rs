//! The table `[log]`.

use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

/// `[log]`: logging.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A level, or directives such as `info,pillarbox::relay=debug`; see [`LogLevel`].
    pub level: LogLevel,
    /// The output format.
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Plain text.
    #[default]
    Text,
    /// JSON, one object per line.
    Json,
}

/// A valid filter: directives separated by commas. A level without a target is the level of our own lines. Libraries write
/// warnings at most, because their debug lines are dumps; a directive with their target shows more.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLevel(String);

/// The directive of a library whose warnings tell an operator nothing.
const QUIET_LIBRARY: &str = "hickory_net::dnssec=error";

/// A directive is not valid.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{directive}` is neither a level (error, warn, info, debug, trace, off) nor a directive with one, such as \
     pillarbox::relay=debug"
)]
pub struct LogLevelError {
    directive: String,
}

impl LogLevel {
    /// The filter for the log.
    pub fn filter(&self) -> EnvFilter {
        let (levels, targets): (Vec<&str>, _) =
            self.0.split(',').partition(|directive| directive.parse::<LevelFilter>().is_ok());
        let own = levels.iter().map(|level| format!("pillarbox={level}"));
        // Of several levels, the last is valid.
        let of_libraries = levels.last().and_then(|level| level.parse::<LevelFilter>().ok());
        let of_libraries = of_libraries.map(|level| level.min(LevelFilter::WARN));
        // It warns of each answer without a signature, which most of them lack.
        let quiet =
            of_libraries.filter(|level| *level == LevelFilter::WARN).map(|_| QUIET_LIBRARY.to_owned());
        let of_libraries = of_libraries.map(|level| level.to_string());
        // Of two directives with the same target, the last is valid.
        let targets = targets.into_iter().map(str::to_owned);
        let directives: Vec<String> =
            of_libraries.into_iter().chain(quiet).chain(own).chain(targets).collect();
        EnvFilter::builder().parse_lossy(directives.join(","))
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".into())
    }
}

impl FromStr for LogLevel {
    type Err = LogLevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let directives: Vec<&str> = text.split(',').map(str::trim).collect();
        match directives.iter().find(|directive| !is_valid(directive)) {
            Some(&directive) => Err(LogLevelError { directive: directive.to_owned() }),
            None => Ok(Self(directives.join(","))),
        }
    }
}

/// `tracing` reads a word that is not a level as a target, shows all events of that target and no others, and takes a
/// missing level for `trace`. So a typing error would silence the server.
fn is_valid(directive: &str) -> bool {
    let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
    !level.is_empty() && level.parse::<LevelFilter>().is_ok() && directive.parse::<Directive>().is_ok()
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_valid_and_spaces_around_them_have_no_effect() {
        for (text, most) in [
            ("warn", LevelFilter::WARN),
            ("WARN", LevelFilter::WARN),
            ("off", LevelFilter::OFF),
            (" info , pillarbox::relay=debug ", LevelFilter::DEBUG),
            ("pillarbox::relay=error", LevelFilter::ERROR),
        ] {
            let level: LogLevel = text.parse().unwrap();
            assert_eq!(level.filter().max_level_hint(), Some(most), "{text}");
            assert!(!level.0.contains(' '), "{level:?}");
        }
        assert!("info,[smtp]=debug".parse::<LogLevel>().is_ok());
    }

    #[test]
    fn a_level_is_for_our_own_lines_and_libraries_write_warnings_at_most() {
        for (text, filter) in [
            ("trace", "hickory_net::dnssec=error,pillarbox=trace,warn"),
            ("error", "pillarbox=error,error"),
            ("OFF", "pillarbox=off,off"),
            ("debug,off", "pillarbox=off,off"),
            ("info,debug", "hickory_net::dnssec=error,pillarbox=debug,warn"),
            ("pillarbox=warn,info", "hickory_net::dnssec=error,pillarbox=warn,warn"),
            (
                "debug,hickory_proto=trace",
                "hickory_net::dnssec=error,hickory_proto=trace,pillarbox=debug,warn",
            ),
            ("pillarbox::relay=debug", "pillarbox::relay=debug"),
        ] {
            assert_eq!(text.parse::<LogLevel>().unwrap().filter().to_string(), filter, "{text}");
        }
    }

    #[test]
    fn a_directive_without_a_valid_level_is_an_error() {
        for text in [
            "wran",
            "",
            ",",
            "info,",
            "info,wran",
            "info,pillarbox",
            "pillarbox=",
            "pillarbox=wran",
            "[smtp]",
            "7",
            "info;debug",
            "a b=info=debug",
        ] {
            assert!(text.parse::<LogLevel>().is_err(), "{text:?} is valid");
        }
        let error = "info, pillarbox::relay=dbug".parse::<LogLevel>().unwrap_err().to_string();
        assert!(error.starts_with("`pillarbox::relay=dbug` is neither"), "{error}");
    }
}
