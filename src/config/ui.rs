//! The table `[ui]`.

use std::time::Duration;

use serde::Deserialize;

use super::duration;
use super::error::{InvalidOption, require_positive_durations};

/// The longest session that an API request may ask for.
const SESSION_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// `[ui]`: the pages at `/ui` of the API's listeners.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ui {
    /// Whether the pages are served.
    pub enabled: bool,
    /// A session ends after this time without a page.
    #[serde(with = "duration")]
    pub session_idle: Duration,
    /// The longest session.
    #[serde(with = "duration")]
    pub session_max: Duration,
}

impl Default for Ui {
    fn default() -> Self {
        Self { enabled: true, session_idle: Duration::from_secs(60 * 60), session_max: SESSION_MAX }
    }
}

impl Ui {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        if self.session_max > SESSION_MAX {
            return Some(InvalidOption::new("ui.session_max", "must be at most 12h"));
        }
        require_positive_durations(&[
            ("ui.session_idle", self.session_idle),
            ("ui.session_max", self.session_max),
        ])
    }
}
