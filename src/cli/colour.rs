//! Colours, for people at a terminal only.

use std::io::{IsTerminal, stdout};

use comfy_table::Color;

/// Whether the output is coloured: it is a terminal, and neither `NO_COLOR` (<https://no-color.org>) nor `TERM` forbids it.
pub(super) fn is_on() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stdout().is_terminal()
        && !is_set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether a column or field has a status.
pub(super) fn is_status(name: &str) -> bool {
    ["STATUS", "STATE"].iter().any(|status| name.eq_ignore_ascii_case(status))
}

/// The colour of a status: green is as it should be, yellow waits, red needs somebody.
pub(super) fn of_status(status: &str) -> Option<Color> {
    match status {
        "active" | "verified" | "confirmed" | "delivered" | "enabled" | "ok" => Some(Color::DarkGreen),
        "pending" | "queued" | "deferred" | "retiring" => Some(Color::DarkYellow),
        "suspended" | "failing" | "taken" | "missing" | "mismatch" | "bounced" | "expired" | "failed"
        | "disabled" | "revoked" => Some(Color::DarkRed),
        _ => None,
    }
}
