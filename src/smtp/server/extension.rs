//! The EHLO response (RFC 5321 §4.1.1.1), and the `with` keyword of `Received`.

use super::settings::{Profile, SessionSettings};
use crate::mail::{SignedDuration, Timestamp};
use crate::smtp::parameters::{self, FUTURE_RELEASE_MAX_S, OfferedParameters};
use crate::smtp::sasl::{self, ChannelBinding};

/// The state of the session that decides which extensions are offered.
pub struct SessionState<'a> {
    pub tls: bool,
    pub authenticated: bool,
    pub channel: Option<&'a ChannelBinding>,
    /// The time, if known.
    pub now: Option<Timestamp>,
}

/// The lines of the EHLO response.
pub fn ehlo_lines(settings: &SessionSettings, state: &SessionState<'_>) -> Vec<String> {
    let mut lines = vec![
        settings.hostname.to_string(),
        // RFC 2920.
        "PIPELINING".into(),
        // RFC 1870.
        format!("SIZE {}", settings.data.message_octets_max),
        // RFC 6152.
        "8BITMIME".into(),
        // RFC 6531.
        "SMTPUTF8".into(),
        // RFC 3030.
        "CHUNKING".into(),
        // RFC 9422.
        format!("LIMITS RCPTMAX={}", settings.recipients_max),
        // RFC 2034.
        "ENHANCEDSTATUSCODES".into(),
    ];
    if settings.profile == Profile::Submission {
        add_submission_lines(&mut lines, state);
    }
    // RFC 3207 §4.2: not under TLS.
    if !state.tls && settings.starttls {
        lines.push("STARTTLS".into());
    }
    lines
}

/// Extensions of submission. A report is not relayed, so it has no use for them.
fn add_submission_lines(lines: &mut Vec<String>, state: &SessionState<'_>) {
    let &SessionState { tls, authenticated, channel, now } = state;
    // RFC 3461.
    lines.push("DSN".into());
    // RFC 3030.
    lines.push("BINARYMIME".into());
    // RFC 4865 §4: with the longest interval and the latest time.
    if let Some(latest) =
        now.and_then(|now| now.checked_add(SignedDuration::from_secs(FUTURE_RELEASE_MAX_S.into())).ok())
    {
        lines.push(format!("FUTURERELEASE {FUTURE_RELEASE_MAX_S} {}", latest.strftime("%Y-%m-%dT%H:%M:%SZ")));
    }
    // RFC 8689 §2: over TLS only.
    if tls {
        lines.push("REQUIRETLS".into());
    }
    // RFC 4954 §4, §6: only under TLS, and once per session.
    if tls && !authenticated {
        lines.push(format!("AUTH {}", sasl::mechanisms(channel)));
    }
}

/// The parameters of MAIL and RCPT that a session accepts: those of the offered extensions (RFC 5321 §4.1.1.11).
pub fn offered_parameters(profile: Profile) -> &'static OfferedParameters {
    match profile {
        Profile::Submission => &parameters::SUBMISSION,
        Profile::Inbound => &parameters::INBOUND,
    }
}

/// The `with` keyword of `Received` (RFC 3848, RFC 6531 §4.3).
pub fn transmission_type(extended: bool, utf8: bool, tls: bool, authenticated: bool) -> &'static str {
    match (extended, utf8, tls, authenticated) {
        (false, false, ..) => "SMTP",
        (true, false, false, false) => "ESMTP",
        (true, false, false, true) => "ESMTPA",
        (true, false, true, false) => "ESMTPS",
        (true, false, true, true) => "ESMTPSA",
        (_, true, false, false) => "UTF8SMTP",
        (_, true, false, true) => "UTF8SMTPA",
        (_, true, true, false) => "UTF8SMTPS",
        (_, true, true, true) => "UTF8SMTPSA",
    }
}
