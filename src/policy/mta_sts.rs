//! MTA-STS (RFC 8461): parses the TXT record and the policy file, and matches hosts.

/// Maximum octets of a policy file (RFC 8461 §3.2 sets no limit, §3.3 suggests this one).
pub const POLICY_OCTETS_MAX: usize = 64 * 1024;
/// RFC 8461 §3.2: about a year.
const MAX_AGE_S_MAX: u64 = 31_557_600;

/// The policy of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StsPolicy {
    /// The mode.
    pub mode: StsMode,
    /// The MX host patterns, where `*.` matches one label. Not empty unless the mode is `none`.
    mx: Vec<String>,
    /// The lifetime in seconds.
    pub max_age_s: u64,
}

/// The policy mode (RFC 8461 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StsMode {
    /// Hosts that fail the policy get no mail.
    Enforce,
    /// Hosts that fail the policy get mail; failures are reported.
    Testing,
    /// No policy applies.
    None,
}

/// Why a policy file is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StsPolicyError {
    /// The first field is not `version: STSv1`.
    #[error("the policy does not begin with version: STSv1")]
    Version,
    /// A line without a colon, or with an invalid field name.
    #[error("the policy has a line that is not a field")]
    Syntax,
    /// The mode is missing or unknown.
    #[error("the policy mode is not enforce, testing or none")]
    Mode,
    /// `max_age` is missing or invalid.
    #[error("the policy has no valid max_age")]
    MaxAge,
    /// No `mx` field, or an invalid one.
    #[error("the policy has no valid mx field")]
    Mx,
}

impl StsPolicy {
    /// The names of mail hosts, where `*.` matches one label.
    pub fn mx(&self) -> &[String] {
        &self.mx
    }

    /// Parses a policy file.
    pub fn parse(text: &str) -> Result<Self, StsPolicyError> {
        let (mut version, mut mode, mut max_age, mut mx) = (None, None, None, Vec::new());
        for line in text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)) {
            if line.trim_matches([' ', '\t']).is_empty() {
                continue;
            }
            let (name, value) = line.split_once(':').ok_or(StsPolicyError::Syntax)?;
            let (name, value) = (name.trim_matches([' ', '\t']), value.trim_matches([' ', '\t']));
            if !is_field_name(name) {
                return Err(StsPolicyError::Syntax);
            }
            // RFC 8461 §3.2: of repeated fields the first counts; unknown fields are ignored.
            match name {
                _ if version.is_none() && name != "version" => return Err(StsPolicyError::Version),
                "version" => drop(version.get_or_insert(value)),
                "mode" => drop(mode.get_or_insert(value)),
                "max_age" => drop(max_age.get_or_insert(value)),
                "mx" => mx.push(read_pattern(value).ok_or(StsPolicyError::Mx)?),
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err(StsPolicyError::Version);
        }
        let mode = mode.and_then(StsMode::parse).ok_or(StsPolicyError::Mode)?;
        let max_age_s = max_age.and_then(read_max_age).ok_or(StsPolicyError::MaxAge)?;
        if mx.is_empty() && mode != StsMode::None {
            return Err(StsPolicyError::Mx);
        }
        Ok(Self { mode, mx, max_age_s })
    }

    /// Whether a pattern matches the host (RFC 8461 §4.1), given in lower-case A-labels without a final dot.
    pub fn names(&self, host: &str) -> bool {
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
            }
            None => pattern == host,
        })
    }
}

impl StsMode {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "enforce" => Some(Self::Enforce),
            "testing" => Some(Self::Testing),
            "none" => Some(Self::None),
            _ => None,
        }
    }

    /// The mode as in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Testing => "testing",
            Self::None => "none",
        }
    }
}

/// RFC 8461 §3.2, sts-policy-ext-name: at most 32 characters, the first a letter or digit.
fn is_field_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    name.len() <= 32 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(inner)
}

fn read_max_age(text: &str) -> Option<u64> {
    let is_number = (1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let seconds: u64 = is_number.then(|| text.parse().ok()).flatten()?;
    // A larger value than allowed means the maximum.
    Some(seconds.min(MAX_AGE_S_MAX))
}

fn read_pattern(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let name = text.strip_prefix("*.").unwrap_or(&text);
    crate::mail::DomainName::parse(name).ok()?;
    Some(text)
}

/// The id of the `_mta-sts` record among the TXT records. RFC 8461 §3.1: other records are ignored, and several
/// records count as none.
pub fn read_record<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<String> {
    use mail_auth::common::parse::TxtRecordParser;
    let is_ours = |text: &&str| {
        text.strip_prefix("v=STSv1").is_some_and(|rest| rest.trim_start_matches([' ', '\t']).starts_with(';'))
    };
    let mut ours = texts.into_iter().filter(is_ours);
    let (Some(record), None) = (ours.next(), ours.next()) else { return None };
    let id = mail_auth::mta_sts::MtaSts::parse(record.as_bytes()).ok()?.id;
    ((1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str =
        "version: STSv1\r\nmode: enforce\r\nmx: mx1.example.com\r\nmx: *.Example.net\r\nmax_age: 604800\r\n";

    #[test]
    fn a_policy_file_is_read() {
        let policy = StsPolicy::parse(GOOD).unwrap();
        assert_eq!((policy.mode, policy.max_age_s), (StsMode::Enforce, 604_800));
        assert_eq!(policy.mx, ["mx1.example.com", "*.example.net"]);
        for same in [
            GOOD.replace("\r\n", "\n"),
            GOOD.replace(": ", ":"),
            GOOD.replace(": ", ":  \t"),
            GOOD.replace("\r\n", " \r\n"),
            GOOD.trim_end().to_owned(),
            format!("{GOOD}mode: none\r\nmax_age: 1\r\nx-new_field: yes\r\n\r\n"),
        ] {
            assert_eq!(StsPolicy::parse(&same).unwrap(), policy, "{same:?}");
        }
        assert_eq!(StsPolicy::parse("version: STSv1\nmode: none\nmax_age: 1\n").unwrap().mode, StsMode::None);
        assert_eq!(StsPolicy::parse(&GOOD.replace("604800", "9999999999")).unwrap().max_age_s, MAX_AGE_S_MAX);
    }

    #[test]
    fn an_invalid_policy_is_refused_with_the_reason() {
        for (text, error) in [
            ("".to_owned(), StsPolicyError::Version),
            ("<html>\n<body>x: y</body>".to_owned(), StsPolicyError::Syntax),
            (GOOD.replace("STSv1", "STSv2"), StsPolicyError::Version),
            (GOOD.replace("version: STSv1\r\n", ""), StsPolicyError::Version),
            (GOOD.replace("enforce", "enforced"), StsPolicyError::Mode),
            (GOOD.replace("mode: enforce\r\n", ""), StsPolicyError::Mode),
            (GOOD.replace("604800", "-1"), StsPolicyError::MaxAge),
            (GOOD.replace("604800", "12345678901"), StsPolicyError::MaxAge),
            (GOOD.replace("604800", ""), StsPolicyError::MaxAge),
            (GOOD.replace("mx1.example.com", "mx 1"), StsPolicyError::Mx),
            (GOOD.replace("*.Example.net", "*.*.net"), StsPolicyError::Mx),
            (GOOD.replace("*.Example.net", "mx*.example.net"), StsPolicyError::Mx),
            ("version: STSv1\nmode: testing\nmax_age: 1\n".to_owned(), StsPolicyError::Mx),
            (format!("{GOOD}nonsense\r\n"), StsPolicyError::Syntax),
        ] {
            assert_eq!(StsPolicy::parse(&text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let policy = StsPolicy::parse(GOOD).unwrap();
        for (host, named) in [
            ("mx1.example.com", true),
            ("a.mx1.example.com", false),
            ("mx2.example.com", false),
            ("a.example.net", true),
            ("a.b.example.net", false),
            ("example.net", false),
            (".example.net", false),
            ("aexample.net", false),
        ] {
            assert_eq!(policy.names(host), named, "{host}");
        }
    }

    #[test]
    fn the_record_counts_if_it_is_the_only_one() {
        for (texts, id) in [
            (vec!["v=STSv1; id=20160831085700Z;"], Some("20160831085700Z")),
            (vec!["v=STSv1;id=a", "v=spf1 -all"], Some("a")),
            (vec!["v=STSv1 ; id=a; future=x"], Some("a")),
            (vec!["v=STSv1; id=a", "v=STSv1; id=b"], None),
            (vec!["v=STSv1; id="], None),
            (vec!["v=STSv1; id=a-b"], None),
            (vec!["v=STSv1"], None),
            (vec!["id=a; v=STSv1"], None),
            (vec!["v=STSv11; id=a"], None),
            (vec![], None),
        ] {
            assert_eq!(read_record(texts.iter().copied()).as_deref(), id, "{texts:?}");
        }
        let long = format!("v=STSv1; id={}", "a".repeat(33));
        assert_eq!(read_record([long.as_str()]), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_and_parsed_policies_are_complete(text in "(?s)(version: STSv1\n)?.{0,200}") {
            if let Ok(policy) = StsPolicy::parse(&text) {
                prop_assert!(policy.mode == StsMode::None || !policy.mx.is_empty());
                prop_assert!(policy.max_age_s <= MAX_AGE_S_MAX);
            }
        }

        #[test]
        fn every_rendered_policy_is_parsed(
            mode in prop_oneof![Just("enforce"), Just("testing")],
            hosts in prop::collection::vec("[a-z]{1,8}\\.[a-z]{2,8}", 1..5),
            age in 0..MAX_AGE_S_MAX,
        ) {
            let mx: String = hosts.iter().map(|host| format!("mx: {host}\r\n")).collect();
            let policy = StsPolicy::parse(&format!("version: STSv1\r\nmode: {mode}\r\n{mx}max_age: {age}\r\n")).unwrap();
            prop_assert_eq!(policy.mode.as_str(), mode);
            prop_assert_eq!(policy.max_age_s, age);
            prop_assert!(hosts.iter().all(|host| policy.names(host)));
        }
    }
}
