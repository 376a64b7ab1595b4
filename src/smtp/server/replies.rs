//! The replies that the SMTP session writes itself, named by meaning and code. RFC 5321 §4.2.3 defines the codes, RFC
//! 3463 and RFC 5248 the enhanced ones. `server/refusal_replies.rs` writes the replies to refusals by policy.

use crate::mail::{AddressError, DomainName, EnhancedStatus, Timestamp};
use crate::model::{MessageId, ReportId};
use crate::smtp::Reply;
use crate::smtp::command_error::CommandError;
use crate::smtp::line::LineError;
use crate::smtp::sasl::SaslError;

macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident = $code:literal $class:literal . $subject:literal . $detail:literal $text:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name() -> Reply {
            const { assert!($code / 100 == $class, "the first digits must agree (RFC 2034 §4)") };
            Reply::new($code, Some(EnhancedStatus::new($class, $subject, $detail)), $text)
        }
    )*};
}

replies! {
    /// QUIT.
    bye_221 = 221 2 . 0 . 0 "Bye";
    /// HELP.
    help_214 = 214 2 . 0 . 0 "EHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP QUIT; log in with a key id and its secret";
    /// HELP for other servers.
    inbound_help_214 = 214 2 . 0 . 0 "EHLO STARTTLS MAIL RCPT DATA BDAT RSET NOOP QUIT; for reports about mail of this server; to submit mail, use port 587 or 465";
    /// STARTTLS.
    ready_for_tls_220 = 220 2 . 0 . 0 "Ready to start TLS";
    /// AUTH.
    authenticated_235 = 235 2 . 7 . 0 "Authentication succeeded";
    /// RSET and NOOP.
    ok_250 = 250 2 . 0 . 0 "Ok";
    /// MAIL.
    sender_ok_250 = 250 2 . 1 . 0 "Ok";
    /// RCPT.
    recipient_ok_250 = 250 2 . 1 . 5 "Ok";
    /// VRFY (RFC 5321 §7.3: mailboxes are not disclosed).
    cannot_verify_252 = 252 2 . 0 . 0 "Cannot VRFY; send mail to find out";
    /// The client sent nothing for `idle_timeout` (RFC 5321 §4.5.3.2.7).
    idle_421 = 421 4 . 4 . 2 "Idle for too long, closing";
    /// The client did not log in for `login_timeout`.
    no_login_421 = 421 4 . 4 . 2 "No login in time, closing; connect again and log in at once";
    /// The client named no accepted recipient within a minute.
    no_recipient_421 = 421 4 . 4 . 2 "No recipient in time, closing";
    /// The server is shutting down (RFC 5321 §3.8).
    shutting_down_421 = 421 4 . 3 . 2 "Shutting down, try again later";
    /// `smtp.connections_max` or `inbound.connections_max` is reached, for a new connection or for the oldest one without a login.
    too_many_connections_421 = 421 4 . 3 . 2 "Too many connections, try again later";
    /// `connections_per_address_max` of `smtp` or `inbound` is reached.
    too_many_from_address_421 = 421 4 . 7 . 0 "Too many connections from your address; close some or try again later";
    /// The session has made too many errors.
    too_many_errors_421 = 421 4 . 7 . 0 "Too many errors, closing";
    /// `smtp.connections_per_tenant_max` is reached.
    too_many_of_tenant_421 = 421 4 . 7 . 0 "Too many connections for your account; close some or try again later";
    /// The session has used up its rejected recipients without sending a message (RFC 5321 §7.8).
    too_many_refused_421 = 421 4 . 7 . 0 "Too many rejected recipients without a message, closing";
    /// `smtp.commands_without_message_max` is exceeded.
    too_many_commands_421 = 421 4 . 7 . 0 "Too many commands without a message, closing";
    /// The client sends below the minimum rate. RFC 5321 §4.5.3.2 sets timeouts for each block only.
    too_slow_421 = 421 4 . 4 . 2 "Message data arrives too slowly, closing";
    /// The client speaks HTTP, or TLS on a port with STARTTLS.
    not_smtp_421 = 421 4 . 7 . 0 "This is an SMTP server, closing";
    /// Internal error: the session received no verdict that fits its question.
    local_error_451 = 451 4 . 3 . 0 "Local error, try again later";
    /// The credential store is unavailable (RFC 4954 §4).
    authentication_unavailable_454 = 454 4 . 7 . 0 "Temporary authentication failure, try again later";
    /// The server has no certificate (RFC 3207 §4).
    tls_unavailable_454 = 454 4 . 7 . 0 "TLS is not available, try again later";
    /// RFC 5321 §4.5.3.1.10.
    line_too_long_500 = 500 5 . 5 . 2 "Line too long";
    /// RFC 4954 §4.
    response_too_long_500 = 500 5 . 5 . 6 "Authentication response too long";
    /// RFC 5321 §2.3.8.
    bare_line_feed_500 = 500 5 . 5 . 2 "Bare LF: a line must end with CRLF, closing";
    /// The command has control characters or is not UTF-8.
    malformed_500 = 500 5 . 5 . 2 "Command contains control characters or is not UTF-8";
    /// RFC 5321 §4.2.4.
    unknown_500 = 500 5 . 5 . 1 "Unknown command";
    /// Argument after a command that has none.
    no_argument_501 = 501 5 . 5 . 4 "This command takes no argument";
    /// EHLO or HELO without a name.
    name_missing_501 = 501 5 . 5 . 4 "EHLO and HELO need a host name or address literal";
    /// VRFY without a mailbox.
    mailbox_missing_501 = 501 5 . 5 . 4 "VRFY needs an address";
    /// RFC 4954 §4.
    base64_501 = 501 5 . 5 . 2 "Cannot decode the response; send what the mechanism requires, in base64";
    /// RFC 4954 §4.
    cancelled_501 = 501 5 . 7 . 0 "Authentication cancelled";
    /// RFC 5321 §4.2.4.
    not_offered_502 = 502 5 . 5 . 1 "Command not implemented";
    /// No EHLO or HELO yet.
    hello_first_503 = 503 5 . 5 . 1 "Send EHLO first";
    /// RCPT, DATA and BDAT need MAIL first.
    mail_first_503 = 503 5 . 5 . 1 "Send MAIL first";
    /// RFC 3030 §2: after a first BDAT, only BDAT or RSET.
    between_chunks_503 = 503 5 . 5 . 1 "Not allowed between chunks; continue with BDAT or send RSET";
    /// RFC 3030 §3.
    binary_needs_chunks_503 = 503 5 . 5 . 1 "BODY=BINARYMIME needs BDAT instead of DATA";
    /// MAIL, AUTH and STARTTLS within a transaction.
    in_transaction_503 = 503 5 . 5 . 1 "Not allowed within a transaction; send RSET first";
    /// RFC 4954 §4.
    already_authenticated_503 = 503 5 . 5 . 1 "Already authenticated";
    /// RFC 3207 §4.
    already_secure_503 = 503 5 . 5 . 1 "TLS is already active";
    /// RFC 4954 §4.
    mechanism_504 = 504 5 . 5 . 4 "Mechanism not supported; use one listed in the EHLO response";
    /// RFC 3207 §4.
    tls_required_530 = 530 5 . 7 . 0 "[tls_required] mail is accepted over TLS only; send STARTTLS first";
    /// RFC 4954 §6.
    authentication_required_530 = 530 5 . 7 . 0 "[authentication_required] this session is not logged in; send AUTH with a key id and its secret";
    /// RFC 4954 §6.
    bad_credentials_535 = 535 5 . 7 . 8 "[invalid_api_key] user name or secret is wrong; log in with a key id and its secret";
    /// RFC 4954 §4: passwords only over TLS.
    encryption_required_538 = 538 5 . 7 . 11 "[tls_required] login is accepted over TLS only; send STARTTLS first";
    /// RFC 6531 §3.5.
    sender_needs_utf8_553 = 553 5 . 6 . 7 "Sender address is not ASCII; MAIL needs the SMTPUTF8 parameter";
    /// RFC 2920 §3.1.
    no_recipients_554 = 554 5 . 5 . 1 "No valid recipients";
}

/// The client is banned after too many failed logins.
pub fn banned_421(until: Timestamp) -> Reply {
    let text =
        format!("Too many failed logins; login is blocked until {until:.0}; check user name and password");
    Reply::new(421, Some(EnhancedStatus::new(4, 7, 0)), &text)
}

/// The network of the client is banned after too many refused recipients.
pub fn banned_network_421(until: Timestamp) -> Reply {
    let text = format!(
        "Too many unknown recipients from your network; nothing is accepted until {until:.0}; send reports only to the \
         address that the message came from"
    );
    Reply::new(421, Some(EnhancedStatus::new(4, 7, 0)), &text)
}

/// The greeting. RFC 5321 §4.2: the host name comes first. RFC 2034 §4: no enhanced code.
pub fn greeting_220(hostname: &DomainName) -> Reply {
    Reply::new(220, None, &format!("{hostname} ESMTP Pillarbox"))
}

/// The response to EHLO (RFC 2034 §4: no enhanced code).
pub fn hello_250(lines: Vec<String>) -> Reply {
    Reply { code: 250, enhanced: None, lines }
}

/// RFC 4954 §4: the text of a challenge is base64 only.
pub fn challenge_334(challenge: &str) -> Reply {
    Reply::new(334, None, challenge)
}

/// DATA.
pub fn start_input_354() -> Reply {
    Reply::new(354, None, "Send the message; end with <CRLF>.<CRLF>")
}

/// Response to a BDAT chunk that is not the last.
pub fn chunk_received_250(octets: u64) -> Reply {
    Reply::new(250, Some(EnhancedStatus::new(2, 0, 0)), &format!("Ok: {octets} octets received"))
}

/// The message is stored durably.
pub fn queued_250(id: MessageId) -> Reply {
    Reply::new(250, Some(EnhancedStatus::new(2, 0, 0)), &format!("Ok: queued as {id}"))
}

/// The message is recorded durably, with everything that follows from it.
pub fn recorded_250(id: ReportId) -> Reply {
    Reply::new(250, Some(EnhancedStatus::new(2, 0, 0)), &format!("Ok: recorded as {id}"))
}

/// The arguments do not match the syntax of the command.
pub fn argument_501(expected: &str) -> Reply {
    Reply::new(501, Some(EnhancedStatus::new(5, 5, 4)), &format!("Syntax: {expected}"))
}

/// The address in MAIL is not valid.
pub fn sender_invalid_501(error: AddressError) -> Reply {
    let text = format!("Sender address is not valid: {error}");
    Reply::new(501, Some(EnhancedStatus::new(5, 1, 7)), &text)
}

/// RFC 5321 §4.1.1.11.
pub fn parameter_555(known: &str) -> Reply {
    Reply::new(555, Some(EnhancedStatus::new(5, 5, 4)), &format!("Parameter not supported: {known}"))
}

/// The reply to a command that cannot be parsed.
pub fn for_command(error: &CommandError) -> Reply {
    match error {
        CommandError::Malformed => malformed_500(),
        CommandError::TooLong => line_too_long_500(),
        CommandError::Unknown => unknown_500(),
        CommandError::NotOffered => not_offered_502(),
        CommandError::Http => not_smtp_421(),
        CommandError::Argument(expected) => argument_501(expected),
        CommandError::Parameter(known) => parameter_555(known),
        CommandError::Address(error) => sender_invalid_501(*error),
    }
}

/// The reply to input that is not a line.
pub fn for_line(error: LineError) -> Reply {
    match error {
        LineError::TooLong => line_too_long_500(),
        LineError::BareLineFeed => bare_line_feed_500(),
        LineError::TlsHello => not_smtp_421(),
    }
}

/// The reply to a SASL exchange that failed before credentials were checked.
pub fn for_sasl(error: SaslError) -> Reply {
    match error {
        SaslError::Mechanism => mechanism_504(),
        SaslError::Cancelled => cancelled_501(),
        SaslError::Malformed => base64_501(),
        SaslError::Authorization | SaslError::Binding => bad_credentials_535(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RefusalCode;

    #[test]
    fn replies_about_logins_have_the_code_of_a_refusal() {
        for reply in [
            tls_required_530(),
            authentication_required_530(),
            bad_credentials_535(),
            encryption_required_538(),
            for_sasl(SaslError::Authorization),
            for_sasl(SaslError::Binding),
        ] {
            let text = reply.lines.concat();
            let code = text.strip_prefix('[').and_then(|text| text.split_once("] ")).map(|(code, _)| code);
            assert!(RefusalCode::ALL.iter().any(|known| Some(known.as_str()) == code), "{text}");
            assert!(text.contains("; "), "{text} says what to do");
        }
    }
}
