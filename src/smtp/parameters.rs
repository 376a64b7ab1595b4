//! Parameters of MAIL and RCPT (RFC 5321 §4.1.2 `esmtp-param`).

use super::command_error::CommandError;
use crate::mail::{BodyType, MailParameters, RcptParameters, SignedDuration, Timestamp, decode_xtext};

/// RFC 4954 §5: maximum octets of the `AUTH` value.
const AUTH_OCTETS_MAX: usize = 500;
/// RFC 4865 §4: the longest time that FUTURERELEASE offers.
pub const FUTURE_RELEASE_MAX_S: u32 = 30 * 24 * 60 * 60;

/// The parameters that a server offers (RFC 5321 §4.1.1.11), and the hints for others.
#[derive(Debug)]
pub struct OfferedParameters {
    mail: &'static [&'static str],
    mail_hint: &'static str,
    mail_forms: &'static str,
    /// Whether `BODY=BINARYMIME` is offered.
    binary: bool,
    body_hint: &'static str,
    rcpt: &'static [&'static str],
    rcpt_hint: &'static str,
}

/// Submission.
pub const SUBMISSION: OfferedParameters = OfferedParameters {
    mail: &["SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID", "REQUIRETLS", "HOLDFOR", "HOLDUNTIL"],
    mail_hint: "MAIL supports SIZE, BODY, SMTPUTF8, AUTH, RET, ENVID, REQUIRETLS, HOLDFOR and HOLDUNTIL",
    mail_forms: "SIZE=octets, BODY=type, SMTPUTF8, AUTH=mailbox, RET=FULL or HDRS, ENVID=xtext, REQUIRETLS, \
                 HOLDFOR=seconds, HOLDUNTIL=time",
    binary: true,
    body_hint: "BODY supports 7BIT, 8BITMIME or BINARYMIME",
    rcpt: &["NOTIFY", "ORCPT"],
    rcpt_hint: "RCPT supports NOTIFY and ORCPT",
};

/// Reports of other servers, which are not relayed.
pub const INBOUND: OfferedParameters = OfferedParameters {
    mail: &["SIZE", "BODY", "SMTPUTF8"],
    mail_hint: "MAIL supports SIZE, BODY and SMTPUTF8",
    mail_forms: "SIZE=octets, BODY=type, SMTPUTF8",
    binary: false,
    body_hint: "BODY supports 7BIT or 8BITMIME",
    rcpt: &[],
    rcpt_hint: "RCPT supports no parameters",
};

/// The parameters of MAIL.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MailOptions {
    /// `SIZE` (RFC 1870).
    pub octets: Option<u64>,
    /// `BODY` (RFC 6152).
    pub body: BodyType,
    /// `BODY=BINARYMIME` (RFC 3030). Accepted content is also valid 8BITMIME.
    pub binary: bool,
    /// `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// `HOLDFOR` or `HOLDUNTIL` (RFC 4865).
    pub future_release: Option<FutureRelease>,
    /// Parameters stored with the message.
    pub parameters: MailParameters,
}

/// When a message is to be released (RFC 4865).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FutureRelease {
    /// `HOLDFOR`: after this many seconds.
    Seconds(u32),
    /// `HOLDUNTIL`: at this time.
    Until(Timestamp),
}

impl FutureRelease {
    /// The seconds of `HOLDFOR`.
    pub fn seconds(self) -> Option<u32> {
        match self {
            Self::Seconds(seconds) => Some(seconds),
            Self::Until(_) => None,
        }
    }

    /// The time of release. A time in the past means immediately (RFC 4865 §4).
    ///
    /// # Errors
    /// [`CommandError::Argument`] if the time is later than the EHLO response allows.
    pub fn release_at(self, now: Timestamp) -> Result<Timestamp, CommandError> {
        let latest =
            now.checked_add(SignedDuration::from_secs(FUTURE_RELEASE_MAX_S.into())).unwrap_or(Timestamp::MAX);
        let release_at = match self {
            Self::Seconds(seconds) => {
                now.checked_add(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MAX)
            }
            Self::Until(time) => time.max(now),
        };
        let error = CommandError::Argument("HOLDFOR or HOLDUNTIL of at most 30 days");
        if release_at <= latest { Ok(release_at) } else { Err(error) }
    }
}

/// Parses the parameters of MAIL.
pub fn parse_mail_options(text: &str, offered: &OfferedParameters) -> Result<MailOptions, CommandError> {
    let mut options = MailOptions::default();
    for_each(text, |keyword, value| match offered.mail.contains(&keyword) {
        true => options.set(keyword, value, offered),
        false => Err(CommandError::Parameter(offered.mail_hint)),
    })?;
    Ok(options)
}

/// Parses the parameters of RCPT.
pub fn parse_rcpt_parameters(
    text: &str,
    offered: &OfferedParameters,
) -> Result<RcptParameters, CommandError> {
    let mut parameters = RcptParameters::default();
    for_each(text, |keyword, value| match (keyword, value) {
        _ if !offered.rcpt.contains(&keyword) => Err(CommandError::Parameter(offered.rcpt_hint)),
        ("NOTIFY", Some(value)) => {
            let error = CommandError::Argument(
                "NOTIFY=NEVER, or a comma-separated list of SUCCESS, FAILURE and DELAY",
            );
            parameters.notify = Some(value.parse().map_err(|_| error)?);
            Ok(())
        }
        ("ORCPT", Some(value)) => {
            let error = CommandError::Argument("ORCPT=type;xtext of at most 500 octets");
            parameters.original_recipient = Some(value.parse().map_err(|_| error)?);
            Ok(())
        }
        _ => Err(CommandError::Argument("NOTIFY=list, ORCPT=type;xtext")),
    })?;
    Ok(parameters)
}

/// Calls `set` with each keyword in upper case and its value; a repeated keyword is an error.
fn for_each(
    text: &str,
    mut set: impl FnMut(&str, Option<&str>) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut seen: Vec<String> = Vec::new();
    for parameter in text.split(' ').filter(|p| !p.is_empty()) {
        let (keyword, value) = match parameter.split_once('=') {
            Some((keyword, value)) => (keyword.to_ascii_uppercase(), Some(value)),
            None => (parameter.to_ascii_uppercase(), None),
        };
        if seen.contains(&keyword) {
            return Err(CommandError::Argument("each parameter at most once"));
        }
        set(&keyword, value)?;
        seen.push(keyword);
    }
    Ok(())
}

impl MailOptions {
    fn set(
        &mut self,
        keyword: &str,
        value: Option<&str>,
        offered: &OfferedParameters,
    ) -> Result<(), CommandError> {
        match (keyword, value) {
            ("SIZE", Some(digits)) => self.octets = Some(parse_size(digits)?),
            ("BODY", Some(kind)) => (self.body, self.binary) = parse_body(kind, offered)?,
            ("SMTPUTF8", None) => self.smtputf8 = true,
            ("AUTH", Some(value)) => check_auth(value)?,
            ("RET", Some(value)) => {
                let error = CommandError::Argument("RET=FULL or RET=HDRS");
                self.parameters.return_content = Some(value.parse().map_err(|_| error)?);
            }
            ("ENVID", Some(value)) => {
                let error = CommandError::Argument("ENVID=xtext of at most 100 octets");
                self.parameters.envelope_id = Some(value.parse().map_err(|_| error)?);
            }
            // RFC 8689 §2: REQUIRETLS has no value.
            ("REQUIRETLS", None) => self.parameters.require_tls = true,
            // RFC 4865 §4: HOLDFOR and HOLDUNTIL exclude each other.
            ("HOLDFOR" | "HOLDUNTIL", Some(_)) if self.future_release.is_some() => {
                return Err(CommandError::Argument("HOLDFOR or HOLDUNTIL, not both"));
            }
            ("HOLDFOR", Some(seconds)) => self.future_release = Some(parse_interval(seconds)?),
            ("HOLDUNTIL", Some(time)) => self.future_release = Some(parse_time(time)?),
            _ => return Err(CommandError::Argument(offered.mail_forms)),
        }
        Ok(())
    }
}

/// RFC 1870 §4: 1*20DIGIT. A number too large for `u64` exceeds every limit, so it counts as the largest one.
fn parse_size(digits: &str) -> Result<u64, CommandError> {
    if !(1..=20).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(CommandError::Argument("SIZE=octets"));
    }
    Ok(digits.parse().unwrap_or(u64::MAX))
}

fn parse_body(kind: &str, offered: &OfferedParameters) -> Result<(BodyType, bool), CommandError> {
    match kind.to_ascii_uppercase().as_str() {
        "7BIT" => Ok((BodyType::SevenBit, false)),
        "8BITMIME" => Ok((BodyType::EightBitMime, false)),
        "BINARYMIME" if offered.binary => Ok((BodyType::EightBitMime, true)),
        _ => Err(CommandError::Parameter(offered.body_hint)),
    }
}

/// RFC 4865 §4: 1*9DIGIT.
fn parse_interval(digits: &str) -> Result<FutureRelease, CommandError> {
    let is_valid = (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let seconds = digits.parse().ok().filter(|_| is_valid);
    seconds.map(FutureRelease::Seconds).ok_or(CommandError::Argument("HOLDFOR=seconds"))
}

/// RFC 4865 §4: an RFC 3339 time in UTC, with upper-case letters.
fn parse_time(text: &str) -> Result<FutureRelease, CommandError> {
    let is_well_formed = text.len() >= 20
        && text.ends_with('Z')
        && text.as_bytes().get(10) == Some(&b'T')
        && text.bytes().all(|b| b.is_ascii_digit() || b"-:.TZ".contains(&b));
    let time = text.parse().ok().filter(|_| is_well_formed);
    time.map(FutureRelease::Until).ok_or(CommandError::Argument("HOLDUNTIL=2026-12-31T23:59:59Z"))
}

/// RFC 4954 §5: `<>`, or an address as xtext. The client is not trusted to name another submitter, so the value is
/// validated and then ignored, as if it were `<>`.
fn check_auth(value: &str) -> Result<(), CommandError> {
    let is_xtext = (1..=AUTH_OCTETS_MAX).contains(&value.len()) && decode_xtext(value).is_ok();
    if is_xtext { Ok(()) } else { Err(CommandError::Argument("AUTH=<> or AUTH=xtext of at most 500 octets")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_mail_options(text: &str) -> Result<MailOptions, CommandError> {
        super::parse_mail_options(text, &SUBMISSION)
    }

    fn parse_rcpt_parameters(text: &str) -> Result<RcptParameters, CommandError> {
        super::parse_rcpt_parameters(text, &SUBMISSION)
    }

    fn is_argument_error<T: std::fmt::Debug>(parsed: Result<T, CommandError>) -> bool {
        matches!(parsed, Err(CommandError::Argument(_)))
    }

    #[test]
    fn mail_accepts_the_parameters_of_offered_extensions() {
        let options =
            parse_mail_options("size=20 BODY=8bitmime SMTPUTF8 AUTH=<>  RET=hdrs ENVID=a+2Bb ").unwrap();
        assert_eq!(
            (options.octets, options.body, options.smtputf8),
            (Some(20), BodyType::EightBitMime, true)
        );
        assert_eq!(options.parameters.return_content, Some(crate::mail::ReturnContent::Headers));
        assert_eq!(options.parameters.envelope_id.unwrap().decoded(), "a+b");
        assert_eq!(parse_mail_options(""), Ok(MailOptions::default()));
    }

    #[test]
    fn size_values_are_at_most_twenty_digits() {
        let octets = |value: &str| parse_mail_options(&format!("SIZE={value}")).map(|options| options.octets);
        assert_eq!(octets("99999999999999999999"), Ok(Some(u64::MAX)));
        for bad in ["", "-1", "+1", "1k", "999999999999999999999"] {
            assert!(is_argument_error(octets(bad)), "{bad}");
        }
    }

    #[test]
    fn a_malformed_parameter_is_an_argument_error() {
        let long = format!("ENVID={}", "x".repeat(101));
        let long_auth = format!("AUTH={}", "x".repeat(501));
        for bad in [
            "SMTPUTF8=1",
            "SIZE",
            "BODY",
            "AUTH",
            "AUTH=",
            "AUTH=a=b",
            "AUTH=+",
            "AUTH=é",
            &long_auth,
            "SIZE=1 size=2",
            "RET",
            "RET=",
            "RET=ALL",
            "RET=FULL RET=HDRS",
            "ENVID",
            "ENVID=",
            "ENVID=a+0A",
            "ENVID=a=b",
            "ENVID=+2b",
            &long,
        ] {
            assert!(is_argument_error(parse_mail_options(bad)), "{bad}");
        }
        for bad in ["BODY=9BIT", "X", "=1", "NOTIFY=NEVER"] {
            assert!(matches!(parse_mail_options(bad), Err(CommandError::Parameter(_))), "{bad}");
        }
    }

    #[test]
    fn holdfor_and_holduntil_set_a_release_time_within_the_limit() {
        let now: Timestamp = "2026-11-22T02:00:00Z".parse().unwrap();
        let release = |text: &str| {
            let hold = parse_mail_options(text)?.future_release.unwrap();
            hold.release_at(now).map(|at| format!("{at:.0}"))
        };
        assert_eq!(release("HOLDFOR=60").as_deref(), Ok("2026-11-22T02:01:00Z"));
        assert_eq!(release("HOLDFOR=2592000").as_deref(), Ok("2026-12-22T02:00:00Z"));
        assert_eq!(release("holduntil=2026-12-22T02:00:00Z").as_deref(), Ok("2026-12-22T02:00:00Z"));
        assert_eq!(release("HOLDUNTIL=2020-01-01T00:00:00Z").as_deref(), Ok("2026-11-22T02:00:00Z"));
        for bad in [
            "HOLDFOR=2592001",
            "HOLDUNTIL=2026-12-22T02:00:01Z",
            "HOLDFOR",
            "HOLDFOR=",
            "HOLDFOR=-1",
            "HOLDFOR=1h",
            "HOLDFOR=1234567890",
            "HOLDUNTIL=tomorrow",
            "HOLDUNTIL=2026-12-01",
            "HOLDUNTIL=2026-12-01T00:00:00",
            "HOLDUNTIL=2026-12-01T00:00:00+01:00",
            "HOLDUNTIL=2026-13-01T00:00:00Z",
            "HOLDFOR=1 HOLDUNTIL=2026-12-01T00:00:00Z",
            "REQUIRETLS=1",
        ] {
            assert!(is_argument_error(release(bad)), "{bad}");
        }
        assert!(parse_mail_options("requiretls").unwrap().parameters.require_tls);
    }

    #[test]
    fn rcpt_accepts_dsn_parameters() {
        let parameters = parse_rcpt_parameters("notify=success,delay ORCPT=rfc822;a+2Bb@c.example").unwrap();
        assert_eq!(parameters.notify.unwrap().to_string(), "SUCCESS,DELAY");
        assert_eq!(parameters.original_recipient.unwrap().decoded(), "rfc822;a+b@c.example");
        let long = format!("ORCPT=rfc822;{}", "x".repeat(500));
        for bad in [
            "NOTIFY",
            "NOTIFY=",
            "NOTIFY=NEVER,FAILURE",
            "NOTIFY=OFTEN",
            "NOTIFY=DELAY NOTIFY=DELAY",
            "ORCPT",
            "ORCPT=a@b",
            "ORCPT=rfc822;a+0D",
            &long,
        ] {
            assert!(is_argument_error(parse_rcpt_parameters(bad)), "{bad}");
        }
        assert!(matches!(parse_rcpt_parameters("RET=FULL"), Err(CommandError::Parameter(_))));
    }
}
