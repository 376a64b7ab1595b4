//! The table `[return_path]`.

use serde::Deserialize;

use super::error::InvalidOption;
use crate::mail::DomainName;
use crate::model::ReturnPathMode;

/// `[return_path]`: the reverse path that mail leaves with.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReturnPath {
    /// The mode of domains that have none of their own.
    pub mode: ReturnPathMode,
    /// The name of a return host under its domain.
    pub label: String,
}

/// The return hosts of a server that receives reports.
#[derive(Debug, Clone)]
pub struct ReturnHosts {
    /// The mode of domains that have none of their own, and the label of return hosts.
    pub defaults: ReturnPath,
    /// The platform's return host.
    pub host: DomainName,
}

impl Default for ReturnPath {
    fn default() -> Self {
        Self { mode: ReturnPathMode::Auto, label: "bounces".into() }
    }
}

impl ReturnPath {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        let is_label = !self.label.contains('.') && DomainName::parse(&self.label).is_ok();
        (!is_label).then(|| InvalidOption::new("return_path.label", "must be one label, like bounces"))
    }
}
