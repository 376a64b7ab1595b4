//! Names of sites: destinations with the same mail hosts share limits, whatever their domain names.

use std::collections::BTreeSet;

/// A name for a set of hosts: sorted, with differing labels grouped. The hosts of Google Workspace are
/// `(alt1|alt2|alt3|alt4)?.aspmx.l.google.com`. Order and preferences do not matter. For display only: other sets may
/// have the same name.
pub fn name_of<S: AsRef<str>>(hosts: &[S]) -> String {
    let hosts: Vec<Vec<&str>> = hosts.iter().map(|host| host.as_ref().rsplit('.').collect()).collect();
    let depth = hosts.iter().map(Vec::len).max().unwrap_or(0);
    let label = |place: usize| {
        let labels: BTreeSet<&str> = hosts.iter().filter_map(|host| host.get(place).copied()).collect();
        let everywhere = hosts.iter().all(|host| host.len() > place);
        let labels: Vec<&str> = labels.into_iter().collect();
        match (labels.as_slice(), everywhere) {
            ([one], true) => (*one).to_owned(),
            (several, true) => format!("({})", several.join("|")),
            (several, false) => format!("({})?", several.join("|")),
        }
    };
    (0..depth).rev().map(label).collect::<Vec<_>>().join(".")
}

/// Whether a host equals a suffix or is below it: `mx.microsoft`, `.mx.microsoft`.
pub fn is_under(host: &str, suffix: &str) -> bool {
    let suffix = suffix.trim_start_matches('.');
    let Some(rest) =
        host.len().checked_sub(suffix.len()).and_then(|at| Some((host.get(..at)?, host.get(at..)?)))
    else {
        return false;
    };
    rest.1.eq_ignore_ascii_case(suffix) && (rest.0.is_empty() || rest.0.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_named_after_all_its_hosts() {
        for (hosts, name) in [
            (vec!["mx.example.com"], "mx.example.com"),
            (vec!["mx2.example.com", "mx1.example.com"], "(mx1|mx2).example.com"),
            (
                vec!["aspmx.l.google.com", "alt2.aspmx.l.google.com", "alt1.aspmx.l.google.com"],
                "(alt1|alt2)?.aspmx.l.google.com",
            ),
            (vec!["alt1.l.google.com", "aspmx.l.google.com"], "(alt1|aspmx).l.google.com"),
            (vec!["mx.a.example", "mx.b.test"], "mx.(a|b).(example|test)"),
            (vec!["mx.a.example", "a.example"], "(mx)?.a.example"),
            (vec![], ""),
        ] {
            assert_eq!(name_of(&hosts), name);
        }
        assert_eq!(name_of(&["b.x", "a.x"]), name_of(&["a.x", "b.x"]));
    }

    #[test]
    fn a_suffix_ends_at_a_label() {
        assert!(is_under("a.mx.microsoft", ".mx.microsoft") && is_under("mx.microsoft", "mx.microsoft"));
        assert!(is_under("A.MX.Microsoft", "mx.microsoft"));
        assert!(!is_under("evilmx.microsoft", "mx.microsoft") && !is_under("soft", "mx.microsoft"));
        assert!(!is_under("é", "x"));
    }
}
