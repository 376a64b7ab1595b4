//! Tests the session with tables of commands and replies, and with properties.

use proptest::prelude::*;

use super::session::{Input, Session};
use super::settings::{Profile, SessionSettings};
use super::testing::{Conversation, KEPT_OCTETS, inbound_settings, settings};
use crate::smtp::{LINE_OCTETS_MAX, LineError, Reply, Verb};

const LOGIN: &str = "EHLO client.example\r\nAUTH PLAIN AHVzZXIAcGFzcw==\r\n";
const MAIL: &str = "MAIL FROM:<a@own.example>\r\n";
const RCPT: &str = "RCPT TO:<b@other.example>\r\n";

/// The dialogue that leads to each phase of the table, and whether TLS is implicit.
const PHASES: [(&str, bool, &str); 6] = [
    ("before EHLO", true, ""),
    ("in clear", false, "EHLO c.example\r\n"),
    ("not logged in", true, "EHLO c.example\r\n"),
    ("ready", true, LOGIN),
    ("no recipient", true, "EHLO c.example\r\nAUTH PLAIN AHVzZXIAcGFzcw==\r\nMAIL FROM:<a@own.example>\r\n"),
    (
        "recipient",
        true,
        "EHLO c.example\r\nAUTH PLAIN AHVzZXIAcGFzcw==\r\nMAIL FROM:<a@own.example>\r\nRCPT TO:<b@other.example>\r\n",
    ),
];

#[rustfmt::skip]
const TABLE: &[(&str, [&str; 6])] = &[
    //                                  before EHLO   in clear      not logged in  ready        no recipient  recipient
    ("EHLO d.example",                 ["250",        "250",        "250",        "250",        "250",        "250"]),
    ("EHLO",                           ["501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"]),
    ("HELO d.example",                 ["250",        "250",        "250",        "250",        "250",        "250"]),
    ("STARTTLS",                       ["503 5.5.1",  "220 2.0.0",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("STARTTLS now",                   ["503 5.5.1",  "501 5.5.4",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("AUTH PLAIN AHVzZXIAcGFzcw==",    ["503 5.5.1",  "538 5.7.11", "235 2.7.0",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("AUTH PLAIN AHVzZXIAd3Jvbmc=",    ["503 5.5.1",  "538 5.7.11", "535 5.7.8",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("AUTH PLAIN AGRvd24AcGFzcw==",    ["503 5.5.1",  "538 5.7.11", "454 4.7.0",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("AUTH PLAIN",                     ["503 5.5.1",  "538 5.7.11", "334",        "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("AUTH LOGIN",                     ["503 5.5.1",  "538 5.7.11", "334",        "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("AUTH SCRAM-SHA-256",             ["503 5.5.1",  "538 5.7.11", "334",        "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("AUTH SCRAM-SHA-256 biws",        ["503 5.5.1",  "538 5.7.11", "501 5.5.2",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("AUTH SCRAM-SHA-256-PLUS",        ["503 5.5.1",  "538 5.7.11", "504 5.5.4",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("AUTH GSSAPI",                    ["503 5.5.1",  "538 5.7.11", "504 5.5.4",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("AUTH",                           ["503 5.5.1",  "538 5.7.11", "501 5.5.4",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("AUTH PLAIN !!!",                 ["503 5.5.1",  "538 5.7.11", "501 5.5.2",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<a@own.example>",      ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "250 2.1.0",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<a@foreign.example>",  ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "550 5.7.1",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<>",                   ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "250 2.1.0",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<nobody>",             ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "501 5.1.7",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<é@own.example>",      ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "553 5.6.7",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL a@own.example",             ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "501 5.5.4",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<a@own.example> X=1",  ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "555 5.5.4",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<> SIZE=1001",         ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "552 5.3.4",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<> SIZE=1000",         ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "250 2.1.0",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<> RET=FULL ENVID=a",  ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "250 2.1.0",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<> RET=ALL",           ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "501 5.5.4",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<> ENVID=a+0D+0A",     ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "501 5.5.4",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<> REQUIRETLS",        ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "250 2.1.0",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<> REQUIRETLS=1",      ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "501 5.5.4",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<> HOLDFOR=2592001",   ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "501 5.5.4",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<> HOLDFOR=60",        ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "250 2.1.0",  "503 5.5.1",  "503 5.5.1"]),
    ("MAIL FROM:<> AUTH=a=b",          ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "501 5.5.4",  "503 5.5.1",  "503 5.5.1"]),
    ("RCPT TO:<c@d.example> NOTIFY=SUCCESS ORCPT=rfc822;x", ["503 5.5.1", "503 5.5.1", "503 5.5.1", "503 5.5.1", "250 2.1.5", "250 2.1.5"]),
    ("RCPT TO:<c@d.example> NOTIFY=NEVER,DELAY", ["503 5.5.1", "503 5.5.1", "503 5.5.1", "503 5.5.1", "501 5.5.4", "501 5.5.4"]),
    ("RCPT TO:<c@d.example> ORCPT=x",  ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "501 5.5.4",  "501 5.5.4"]),
    ("RCPT TO:<b@other.example>",      ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "250 2.1.5",  "250 2.1.5"]),
    ("RCPT TO:<suppressed@b.example>", ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "550 5.7.1",  "550 5.7.1"]),
    ("RCPT TO:<nobody>",               ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "553 5.1.3",  "553 5.1.3"]),
    ("RCPT TO:<é@other.example>",      ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "553 5.6.7",  "553 5.6.7"]),
    ("RCPT TO:<Postmaster>",           ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "250 2.1.5",  "250 2.1.5"]),
    ("RCPT TO:<b@c.example> N=1",      ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "555 5.5.4",  "555 5.5.4"]),
    ("DATA",                           ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "554 5.5.1",  "354"]),
    ("DATA now",                       ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "501 5.5.4",  "501 5.5.4"]),
    ("RSET",                           ["250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0"]),
    ("RSET now",                       ["501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"]),
    ("NOOP",                           ["250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0"]),
    ("NOOP x",                         ["250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0",  "250 2.0.0"]),
    ("HELP",                           ["214 2.0.0",  "214 2.0.0",  "214 2.0.0",  "214 2.0.0",  "214 2.0.0",  "214 2.0.0"]),
    ("VRFY b",                         ["252 2.0.0",  "252 2.0.0",  "252 2.0.0",  "252 2.0.0",  "252 2.0.0",  "252 2.0.0"]),
    ("VRFY",                           ["501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"]),
    ("QUIT",                           ["221 2.0.0",  "221 2.0.0",  "221 2.0.0",  "221 2.0.0",  "221 2.0.0",  "221 2.0.0"]),
    ("QUIT now",                       ["501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"]),
    ("EXPN list",                      ["502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1",  "502 5.5.1"]),
    ("BDAT 0 LAST",                    ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "554 5.5.1",  "250 2.0.0"]),
    ("BDAT 6\r\nQUIT",                 ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "554 5.5.1",  "250 2.0.0"]),
    ("BDAT 6 LAST\r\nQUIT",            ["503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "503 5.5.1",  "554 5.5.1",  "250 2.0.0"]),
    ("BDAT",                           ["501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"]),
    ("BDAT x LAST",                    ["501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4",  "501 5.5.4"]),
    ("MAIL FROM:<> BODY=BINARYMIME",   ["503 5.5.1",  "530 5.7.0",  "530 5.7.0",  "250 2.1.0",  "503 5.5.1",  "503 5.5.1"]),
    ("XYZZY",                          ["500 5.5.1",  "500 5.5.1",  "500 5.5.1",  "500 5.5.1",  "500 5.5.1",  "500 5.5.1"]),
    ("",                               ["500 5.5.1",  "500 5.5.1",  "500 5.5.1",  "500 5.5.1",  "500 5.5.1",  "500 5.5.1"]),
    ("NOOP \x01",                      ["500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2",  "500 5.5.2"]),
    ("GET / HTTP/1.1",                 ["421 4.7.0",  "421 4.7.0",  "421 4.7.0",  "421 4.7.0",  "421 4.7.0",  "421 4.7.0"]),
    ("\x16\x03\x01",                   ["421 4.7.0",  "421 4.7.0",  "421 4.7.0",  "421 4.7.0",  "421 4.7.0",  "421 4.7.0"]),
];

/// The length of these chunks is unknown.
const UNREADABLE_CHUNKS: [&str; 2] = ["BDAT", "BDAT x LAST"];

fn status(reply: &Reply) -> String {
    reply.enhanced.map_or(reply.code.to_string(), |enhanced| format!("{} {enhanced}", reply.code))
}

#[test]
fn every_command_has_its_reply_in_every_phase() {
    for (command, expected) in TABLE {
        for ((phase, tls, before), expected) in PHASES.iter().zip(expected) {
            let mut it = Conversation::new(settings(), *tls);
            it.say(before);
            let earlier = it.replies.len();
            it.say(&format!("{command}\r\n"));
            let statuses: Vec<String> = it.replies[earlier..].iter().map(status).collect();
            assert_eq!(statuses, [*expected], "{command} {phase}");
            let closes = ["221", "421"].contains(&&expected[..3]) || UNREADABLE_CHUNKS.contains(command);
            assert_eq!(it.closed, closes, "{command} {phase}");
        }
    }
    let covered =
        |verb: &Verb| TABLE.iter().any(|(command, _)| command.split(' ').next() == Some(verb.as_str()));
    assert!(Verb::ALL.iter().all(covered));
}

#[test]
fn an_error_leaves_the_transaction_open() {
    for error in
        ["XYZZY", "MAIL FROM:<a@own.example>", "RCPT TO:<nobody>", "DATA now", "RSET now", "NOOP \x01"]
    {
        let mut it = Conversation::logged_in();
        it.say(MAIL);
        it.say(RCPT);
        assert!(it.say(&format!("{error}\r\n")).starts_with('5'), "{error}");
        assert!(it.say("DATA\r\n").starts_with("354 "), "{error}");
    }
}

#[test]
fn the_ehlo_response_changes_with_tls_and_login() {
    let mut it = Conversation::new(settings(), false);
    let plain = it.say("EHLO c.example\r\n");
    assert_eq!(
        plain,
        "250-mx.pillarbox.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
         250-CHUNKING\r\n250-LIMITS RCPTMAX=3\r\n250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250-BINARYMIME\r\n250-FUTURERELEASE 2592000 1970-01-31T00:00:00Z\r\n250 STARTTLS\r\n"
    );
    it.say("STARTTLS\r\n");
    let secured = it.say("EHLO c.example\r\n");
    assert!(secured.ends_with("250 AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n") && !secured.contains("STARTTLS"));
    it.say("AUTH PLAIN AHVzZXIAcGFzcw==\r\n");
    assert!(!it.say("EHLO c.example\r\n").contains("AUTH"));
    assert_eq!(it.say("HELO c.example\r\n"), "250 mx.pillarbox.example\r\n");
}

#[test]
fn future_release_and_requiretls_are_part_of_the_envelope() {
    let mut it = Conversation::logged_in();
    it.say("MAIL FROM:<a@own.example> HOLDFOR=3600 REQUIRETLS\r\n");
    it.say(RCPT);
    it.say("DATA\r\n");
    it.say("A: b\r\n.\r\n");
    let parameters = &it.accepted[0].0.parameters;
    assert_eq!(parameters.release_at.map(|at| at.as_second()), Some(3600));
    assert!(parameters.require_tls);
}

#[test]
fn without_a_certificate_starttls_is_neither_offered_nor_accepted() {
    let mut it = Conversation::new(crate::smtp::SessionSettings { starttls: false, ..settings() }, false);
    assert!(!it.say("EHLO c.example\r\n").contains("STARTTLS"));
    assert!(it.say("STARTTLS\r\n").starts_with("454 4.7.0 "));
}

#[test]
fn starttls_discards_the_ehlo_and_all_earlier_input() {
    let mut it = Conversation::new(settings(), false);
    it.say("EHLO c.example\r\n");
    it.say("STARTTLS\r\nEHLO injected.example\r\nNOOP\r\n");
    assert_eq!(it.codes(), [220, 250, 220]);
    assert_eq!(it.session().helo(), "");
    assert!(it.say("AUTH PLAIN AHVzZXIAcGFzcw==\r\n").starts_with("503 5.5.1 "));
}

#[test]
fn each_form_of_auth_gets_its_reply() {
    for (lines, code) in [
        (&["AUTH PLAIN", "AHVzZXIAcGFzcw=="][..], "235"),
        (&["auth plain AHVzZXIAcGFzcw=="], "235"),
        (&["AUTH LOGIN", "dXNlcg==", "cGFzcw=="], "235"),
        (&["AUTH LOGIN dXNlcg==", "cGFzcw=="], "235"),
        (&["AUTH LOGIN", "dXNlcg==", "d3Jvbmc="], "535"),
        (&["AUTH LOGIN", "*"], "501 5.7.0"),
        (&["AUTH PLAIN", "*"], "501 5.7.0"),
        (&["AUTH PLAIN", ""], "501 5.5.2"),
        (&["AUTH PLAIN", "QUIT"], "501 5.5.2"),
        (&["AUTH LOGIN", "dXNlcg==", "====="], "501 5.5.2"),
    ] {
        let mut it = Conversation::new(settings(), true);
        it.say("EHLO c.example\r\n");
        let last = lines.iter().map(|line| it.say(&format!("{line}\r\n"))).last().unwrap();
        assert!(last.starts_with(code), "{lines:?} {last}");
        // The session continues in each case.
        assert!(it.say("NOOP\r\n").starts_with("250"), "{lines:?}");
    }
}

#[test]
fn an_auth_response_has_the_maximum_length_of_rfc_4954() {
    let mut it = Conversation::new(settings(), true);
    it.say("EHLO c.example\r\nAUTH PLAIN\r\n");
    let longest = "QUFB".repeat((LINE_OCTETS_MAX - 4) / 4);
    assert!(it.say(&format!("{longest}\r\n")).starts_with("501 5.5.2"));
    it.say("AUTH PLAIN\r\n");
    assert!(it.say(&format!("{longest}QUFBQUFB\r\n")).starts_with("500 5.5.6"));
    assert!(it.say("NOOP\r\n").starts_with("250"));
}

#[test]
fn a_message_is_accepted_with_its_envelope_and_the_next_can_follow() {
    let mut it = Conversation::logged_in();
    it.say("MAIL FROM:<a@own.example> BODY=8BITMIME SMTPUTF8\r\n");
    it.say(RCPT);
    it.say("RCPT TO:<B@OTHER.example>\r\nRCPT TO:<b@OTHER.EXAMPLE>\r\nRCPT TO:<postmaster>\r\nDATA\r\n");
    let done = it.say("Subject: x\r\n\r\n..dot\r\n.\r\n");
    assert!(done.starts_with("250 2.0.0 Ok: queued as msg_"), "{done}");
    let (envelope, message, protocol) = &it.accepted[0];
    let recipients: Vec<String> = envelope.recipients.iter().map(|to| to.address.to_string()).collect();
    assert_eq!(recipients, ["b@other.example", "B@other.example", "postmaster@mx.pillarbox.example"]);
    assert_eq!((envelope.reverse_path.to_string().as_str(), envelope.smtputf8), ("a@own.example", true));
    assert_eq!(message, b"Subject: x\r\n\r\n.dot\r\n");
    assert_eq!(*protocol, "UTF8SMTPSA");
    it.say(MAIL);
    it.say(RCPT);
    it.say("DATA\r\nX: 1\r\n.\r\n");
    assert_eq!(it.accepted[1].2, "ESMTPSA");
}

#[test]
fn a_refused_message_ends_its_transaction_and_not_the_session() {
    let mut it = Conversation::logged_in();
    for (body, code) in [("Refuse\r\n.\r\n", "550 5.7.1"), ("a\0b\r\n.\r\n", "554 5.6.0")] {
        it.say(MAIL);
        it.say(RCPT);
        it.say("DATA\r\n");
        assert!(it.say(body).starts_with(code), "{body:?}");
        assert!(it.say(RCPT).starts_with("503"), "{body:?}");
    }
    assert_eq!(it.refused, ["nul_in_content"]);
}

#[test]
fn an_oversized_message_is_read_to_its_end() {
    let mut it = Conversation::logged_in();
    it.say(MAIL);
    it.say(RCPT);
    it.say("DATA\r\n");
    let body = "0123456789\r\n".repeat(100);
    assert_eq!(it.say(&body), "");
    assert_eq!(it.say("QUIT\r\nRSET\r\n"), "");
    assert!(it.say(".\r\nNOOP\r\n").starts_with("552 5.3.4 [message_too_large] "));
    assert_eq!(it.codes()[3..], [552, 250]);
    assert!(it.accepted.is_empty() && !it.closed);
}

#[test]
fn a_message_beyond_the_memory_budget_is_read_to_its_end_and_refused() {
    let mut it = Conversation::logged_in();
    it.say(MAIL);
    it.say(RCPT);
    it.say("DATA\r\nabc");
    assert!(it.session().body_memory_octets() > 0);
    it.input(Input::BodyRefused(Reply::new(451, None, "No room")));
    assert_eq!(it.session().body_memory_octets(), 0);
    assert_eq!(it.say("QUIT\r\n.\r\nNOOP\r\n"), "451 No room\r\n250 2.0.0 Ok\r\n");
    // Before any content: the client may retry within the transaction.
    it.say("MAIL FROM:<a@own.example> SIZE=777\r\n");
    it.say(RCPT);
    assert!(it.say("DATA\r\n").starts_with("451 4.3.2"));
    assert!(it.say(RCPT).starts_with("250"));
}

#[test]
fn recipients_over_the_limit_are_refused_and_the_others_get_the_message() {
    let mut it = Conversation::logged_in();
    it.say(MAIL);
    for local in ["a", "b", "c"] {
        assert!(it.say(&format!("RCPT TO:<{local}@d.example>\r\n")).starts_with("250"));
    }
    assert!(it.say("RCPT TO:<e@d.example>\r\n").starts_with("452 4.5.3 [too_many_recipients] "));
    assert!(
        it.say("RCPT TO:<a@d.example>\r\n").starts_with("250"),
        "a repeated recipient is no additional one"
    );
    it.say("DATA\r\n");
    it.say(".\r\n");
    assert_eq!(it.accepted[0].0.recipients.len(), 3);
}

#[test]
fn too_many_errors_close_the_session_and_refused_recipients_are_not_errors() {
    let mut it = Conversation::new(
        crate::smtp::SessionSettings { recipients_max: 60, refused_recipients_max: 120, ..settings() },
        true,
    );
    it.say(LOGIN);
    it.say(MAIL);
    for _ in 0..50 {
        assert!(it.say("RCPT TO:<suppressed@d.example>\r\nRCPT TO:<nobody>\r\n").starts_with("550"));
    }
    assert!(
        it.say(&"DATA\r\n".repeat(20)).ends_with("554 5.5.1 No valid recipients\r\n"),
        "a DATA after refused recipients is not an error either"
    );
    for _ in 0..10 {
        assert!(it.say("XYZZY\r\n").starts_with("500"));
    }
    assert!(it.say("NOOP\r\n").starts_with("250"));
    assert!(it.say("XYZZY\r\nNOOP\r\n").starts_with("421 4.7.0 "));
    assert!(it.closed && it.replies.last().unwrap().code == 421);
}

#[test]
fn too_many_rejected_recipients_without_a_message_close_the_session() {
    const REFUSED: &str = "RCPT TO:<suppressed@d.example>\r\n";
    // Six rejected recipients are allowed.
    for rejected in [
        REFUSED,
        "RCPT TO:<nobody>\r\n",
        "DATA\r\n",
        "RCPT TO:<b@d.example>\r\n",
        "RCPT TO:<\u{e9}@d.example>\r\n",
    ] {
        let mut it = Conversation::logged_in();
        it.say(MAIL);
        // The first RCPT of a repeated recipient is accepted.
        let first = if rejected.contains("<b@") { rejected } else { "" };
        it.say(&format!("{first}{}", rejected.repeat(4)));
        it.say("RSET\r\n");
        it.say(MAIL);
        it.say(first);
        assert!(!it.say(&rejected.repeat(2)).contains("421") && !it.closed, "{rejected}");
        assert!(it.say(rejected).starts_with("421 4.7.0 Too many rejected recipients"), "{rejected}");
        assert!(it.closed, "{rejected}");
    }
    let mut it = Conversation::logged_in();
    for _ in 0..5 {
        it.say(&format!("{MAIL}{RCPT}{}DATA\r\n", REFUSED.repeat(5)));
        assert!(it.say("Subject: x\r\n\r\n.\r\n").starts_with("250 2.0.0 Ok: queued"));
    }
}

#[test]
fn twice_the_recipient_limit_in_rejections_does_not_close_the_session() {
    let mut it = Conversation::logged_in();
    let list: String = (0..9).map(|n| format!("RCPT TO:<r{n}@d.example>\r\n")).collect();
    it.say(&format!("{MAIL}{list}DATA\r\n"));
    assert_eq!(it.codes()[1..], [250, 250, 250, 452, 452, 452, 452, 452, 452, 354]);
    assert!(it.say(".\r\n").starts_with("250 2.0.0 Ok: queued"));
}

#[test]
fn an_unknown_chunk_length_closes_the_session() {
    for length in ["", " ", " x", " -1", " 5 FIRST", " 5 LAST LAST", " 99999999999999999999", " 0x5", " 5,"] {
        let mut it = Conversation::logged_in();
        it.say(MAIL);
        it.say(RCPT);
        let smuggled = format!("BDAT{length}\r\n{MAIL}{RCPT}DATA\r\nSubject: smuggled\r\n\r\n.\r\n");
        let said = it.say(&smuggled);
        assert!(said.starts_with("501 5.5.4 ") && said.matches("\r\n").count() == 1, "{length} {said}");
        assert!(it.closed && it.accepted.is_empty(), "{length}");
    }
}

#[test]
fn empty_chunks_count_as_commands_without_a_message() {
    let mut it = Conversation::logged_in();
    it.say(MAIL);
    it.say(RCPT);
    // EHLO, AUTH and MAIL are three of the thirty allowed commands.
    let said = it.say(&"BDAT 0\r\n".repeat(27));
    assert!(!it.closed && said.ends_with("250 2.0.0 Ok: 0 octets received\r\n"), "{said}");
    assert!(it.say("BDAT 0\r\n").starts_with("421 4.7.0 Too many commands"));
}

#[test]
fn shutdown_and_idle_timeout_get_421_and_a_message_being_received_may_finish() {
    for (input, code) in
        [(Input::Idle, 421), (Input::NoLogin, 421), (Input::Evicted, 421), (Input::ShuttingDown, 421)]
    {
        let mut it = Conversation::logged_in();
        it.input(input);
        assert_eq!(it.codes(), [code]);
    }
    let mut it = Conversation::logged_in();
    it.say(MAIL);
    it.say(RCPT);
    it.say("DATA\r\nX: 1\r\n");
    it.input(Input::ShuttingDown);
    assert!(it.say(".\r\n").starts_with("250 2.0.0"));
    it.input(Input::ShuttingDown);
    assert_eq!(it.codes().last(), Some(&421));
}

#[test]
fn a_421_verdict_closes_the_session() {
    let mut it = Conversation::logged_in();
    it.say(MAIL);
    it.say(RCPT);
    it.say("DATA\r\n");
    it.say("Stop\r\n.\r\nNOOP\r\n");
    assert!(it.closed);
    assert_eq!(it.codes().last(), Some(&421));
}

#[test]
fn the_refusal_of_a_sender_names_the_fault_of_its_address() {
    let mut it = Conversation::logged_in();
    for (sender, fault) in [
        ("nobody".to_owned(), "an address must have the form local@domain"),
        (format!("{}@own.example", "x".repeat(65)), "the part before the @ is longer than 64 octets"),
        ("a@own..example".to_owned(), "the domain is not valid: a domain name cannot have an empty label"),
    ] {
        let expected = format!("501 5.1.7 Sender address is not valid: {fault}\r\n");
        assert_eq!(it.say(&format!("MAIL FROM:<{sender}>\r\n")), expected);
    }
}

#[test]
fn the_ehlo_name_is_sanitized() {
    let mut it = Conversation::new(settings(), true);
    it.say("EHLO a(b)\"c é;d [IPv6:::1]\r\n");
    assert_eq!(it.session().helo(), "a?b??c???d?[IPv6:::1]");
}

#[test]
fn chunks_are_joined_to_one_message_and_dots_have_no_meaning() {
    let mut it = Conversation::logged_in();
    it.say(MAIL);
    it.say(RCPT);
    assert_eq!(it.say("BDAT 7\r\nA: b\r\n\r"), "250 2.0.0 Ok: 7 octets received\r\n");
    assert!(it.session().body_memory_octets() > 0);
    assert!(it.say("NOOP\r\n").starts_with("250"));
    for between in ["DATA\r\n", RCPT, MAIL] {
        assert!(it.say(between).starts_with("503 5.5.1"), "{between}");
    }
    let done = it.say("BDAT 11\r\n\n.\r\n..x\r\n.\rBDAT 0 LAST\r\nNOOP\r\n");
    assert!(done.starts_with("250 2.0.0 Ok: 11 octets received\r\n250 2.0.0 Ok: queued as msg_"), "{done}");
    assert_eq!(it.accepted[0].1, b"A: b\r\n\r\n.\r\n..x\r\n. \r\n");
    assert_eq!(it.codes().last(), Some(&250));
    assert_eq!(it.session().body_memory_octets(), 0);
}

#[test]
fn a_refused_chunk_is_read_to_its_end_and_ends_its_transaction() {
    let big = "x".repeat(600) + "\r\n";
    for (chunks, replies) in [
        (vec!["BDAT 7\r\nRefuse\n".to_owned(), "BDAT 2 LAST\r\nQU".into()], &["250 2.0.0", "550 5.7.1"][..]),
        (vec!["BDAT 6\r\nQUI\0\r\n".into(), "BDAT 6 LAST\r\nQUIT\r\n".into()], &["554 5.6.0", "503 5.5.1"]),
        (
            vec![
                format!("BDAT 602\r\n{big}"),
                format!("BDAT 602\r\n{big}"),
                "BDAT 6 LAST\r\nQUIT\r\n".into(),
            ],
            &["554 5.6.0", "503 5.5.1", "503 5.5.1"],
        ),
        (vec![format!("BDAT 2000\r\n{}", "QUIT\r\n.\r\n\r\n".repeat(181) + "QUIT\r\nx\r\n")], &["552 5.3.4"]),
    ] {
        let mut it = Conversation::logged_in();
        it.say(MAIL);
        it.say(RCPT);
        for (chunk, reply) in chunks.iter().zip(replies) {
            let said = it.say(chunk);
            assert!(said.starts_with(reply) && said.matches("\r\n").count() == 1, "{chunk:.20} {said}");
        }
        assert!(!it.closed && it.accepted.is_empty());
        assert!(it.say(MAIL).starts_with("250 2.1.0"));
    }
}

#[test]
fn a_chunk_beyond_the_memory_budget_is_read_to_its_end() {
    let mut it = Conversation::logged_in();
    it.say("MAIL FROM:<a@own.example> SIZE=777\r\n");
    it.say(RCPT);
    assert!(it.say("BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\n").starts_with("451 4.3.2"));
    assert_eq!(it.codes()[2..], [451, 503]);
    it.say(MAIL);
    it.say(RCPT);
    it.say("BDAT 6\r\nQU");
    it.input(Input::BodyRefused(Reply::new(451, None, "No room")));
    assert_eq!(it.session().body_memory_octets(), 0);
    assert_eq!(it.say("IT\r\nNOOP\r\n"), "451 No room\r\n250 2.0.0 Ok\r\n");
    assert!(it.say(RCPT).starts_with("503"));
    it.say(MAIL);
    it.say(RCPT);
    it.say("BDAT 6\r\nabcd\r\n");
    it.input(Input::BodyRefused(Reply::new(451, None, "No room")));
    assert_eq!(it.codes().last(), Some(&451));
    assert!(it.say(RCPT).starts_with("503"));
}

#[test]
fn a_last_chunk_being_received_at_shutdown_may_finish() {
    let mut it = Conversation::logged_in();
    it.say(MAIL);
    it.say(RCPT);
    it.say("BDAT 6 LAST\r\nabc");
    it.input(Input::ShuttingDown);
    assert!(it.say("d\r\n").starts_with("250 2.0.0 Ok: queued"));
}

#[test]
fn binary_content_is_accepted_only_in_chunks_and_if_it_is_crlf_text() {
    const BINARY: &str = "MAIL FROM:<a@own.example> BODY=BINARYMIME\r\n";
    let mut it = Conversation::logged_in();
    it.say(BINARY);
    it.say(RCPT);
    assert!(it.say("DATA\r\n").starts_with("503 5.5.1"));
    assert!(
        it.say("BDAT 12 LAST\r\nA: b\r\n\r\nc\r\n\r").starts_with("554"),
        "a bare CR at the end of the message"
    );
    for (content, code) in
        [("A: b\r\n\r\nc\r\n.", "250"), ("A: b\nc\r\n\r\nd", "554"), ("A: b\r\n\r\nc\0\r\n", "554")]
    {
        it.say(BINARY);
        it.say(RCPT);
        let said = it.say(&format!("BDAT {} LAST\r\n{content}", content.len()));
        assert!(said.starts_with(code), "{content:?} {said}");
    }
    assert_eq!(it.refused, ["conversion_required"; 3]);
    assert_eq!(it.accepted[0].0.body, crate::mail::BodyType::EightBitMime);
    assert_eq!(it.accepted[0].1, b"A: b\r\n\r\nc\r\n.\r\n");
}

/// Valid and invalid client input, in pieces that make long dialogues likely.
fn traffic() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        LOGIN,
        MAIL,
        RCPT,
        "EHLO c.example\r\n",
        "STARTTLS\r\n",
        "AUTH LOGIN\r\n",
        "dXNlcg==\r\n",
        "cGFzcw==\r\n",
        "MAIL FROM:<>\r\n",
        "MAIL FROM:<> SIZE=5000\r\n",
        "RCPT TO:<suppressed@d.example>\r\n",
        "DATA\r\n",
        "Subject: x\r\n\r\n",
        "text\r\n",
        "..dots\r\n",
        ".\r\n",
        "\n.\r\n",
        "\r.\r\n",
        "\r\n.\n",
        "\0",
        "MAIL FROM:<a@own.example> BODY=BINARYMIME\r\n",
        "BDAT 6\r\nabcd\r\n",
        "BDAT 5\r\nab\r\nc",
        "BDAT 8 LAST\r\nd\r\n.\r\ne\r",
        "BDAT 12 LAST\r\n",
        "BDAT 0 LAST\r\n",
        "BDAT 0\r\n",
        "BDAT 900\r\n",
        "BDAT x\r\n",
        "RSET\r\n",
        "NOOP\r\n",
        "HELP\r\n",
        "XYZZY\r\n",
        "QUIT\r\n",
        "no end",
        "0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    ]);
    (any::<bool>(), prop::collection::vec(token, 0..40))
        .prop_map(|(login, tokens)| if login { LOGIN.to_owned() } else { String::new() } + &tokens.concat())
}

fn run(profile: Profile, tls: bool, pieces: &[&[u8]]) -> Conversation {
    let settings = if profile == Profile::Inbound { inbound_settings() } else { settings() };
    let mut it = Conversation::new(settings, tls);
    for piece in pieces {
        it.feed(piece);
    }
    it
}

fn profiles() -> impl Strategy<Value = Profile> {
    prop::sample::select(vec![Profile::Submission, Profile::Inbound])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Without STARTTLS: a split after it would change what was received before the handshake.
    #[test]
    fn any_split_of_the_same_octets_gives_the_same_replies_and_messages(
        text in traffic(),
        profile in profiles(),
        splits in prop::collection::vec(0usize..2000, 0..8),
    ) {
        let bytes = text.as_bytes();
        let mut at: Vec<usize> = splits.into_iter().map(|s| s.min(bytes.len())).collect();
        at.push(bytes.len());
        at.sort_unstable();
        let mut from = 0;
        let pieces: Vec<&[u8]> = at.iter().map(|&to| { let piece = &bytes[from..to]; from = to; piece }).collect();
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let whole = run(profile, true, &[bytes]);
        for other in [run(profile, true, &pieces), run(profile, true, &single)] {
            prop_assert_eq!(other.codes(), whole.codes());
            prop_assert_eq!(&other.refused, &whole.refused);
            prop_assert_eq!(&other.accepted, &whole.accepted);
            prop_assert_eq!(other.truncated, whole.truncated);
        }
    }

    #[test]
    fn each_command_gets_one_reply_in_its_order(commands in prop::collection::vec(0..TABLE.len(), 0..9)) {
        let mut it = Conversation::logged_in();
        let mut expected = Vec::new();
        let (mut mail, mut recipient) = (false, false);
        for (command, replies) in commands.into_iter().map(|i| TABLE[i]) {
            // Commands that start content are followed by further replies.
            if it.closed || ["DATA", "BDAT 6\r\nQUIT", "MAIL FROM:<> BODY=BINARYMIME"].contains(&command) {
                continue;
            }
            let status = replies[if recipient { 5 } else if mail { 4 } else { 3 }];
            it.say(&format!("{command}\r\n"));
            expected.push(status.to_owned());
            if command.starts_with("BDAT") {
                (mail, recipient) = (false, false);
            } else if status.starts_with("250") {
                mail |= command.starts_with("MAIL");
                recipient |= command.starts_with("RCPT");
                if ["EHLO", "HELO", "RSET"].contains(&command.split(' ').next().unwrap()) {
                    (mail, recipient) = (false, false);
                }
            }
        }
        let statuses: Vec<String> = it.replies.iter().map(status).collect();
        prop_assert_eq!(statuses, expected);
    }

    #[test]
    fn octets_before_a_handshake_are_never_executed_after_it(text in traffic(), profile in profiles()) {
        let mut it = run(profile, false, &[]);
        it.say("EHLO c.example\r\n");
        it.say(&format!("STARTTLS\r\n{text}"));
        prop_assert_eq!(it.codes(), [220, 250, 220]);
        prop_assert_eq!(it.session().helo(), "");
    }

    #[test]
    fn no_octets_make_the_session_panic(text in traffic(), noise in prop::collection::vec(any::<u8>(), 0..200), tls in any::<bool>(), profile in profiles()) {
        let at = text.len() / 2;
        let bytes = [&text.as_bytes()[..at], &noise, &text.as_bytes()[at..]].concat();
        let it = run(profile, tls, &[&bytes]);
        prop_assert!(it.output.is_ascii());
    }

    #[test]
    fn no_order_of_inputs_makes_the_session_panic(inputs in prop::collection::vec(0..12, 0..30), profile in profiles()) {
        let settings = SessionSettings { profile, ..settings() };
        let mut session = Session::new(std::sync::Arc::new(settings), true);
        for input in inputs {
            session.step(match input {
                0 => Input::Start,
                1 => Input::Line(b"EHLO c.example"),
                2 => Input::Line(b"AUTH LOGIN"),
                3 => Input::LineError(LineError::TooLong),
                4 => Input::Body(b"x\r\n.\r\n"),
                5 => Input::Answer(crate::smtp::Verdict::Granted),
                6 => Input::TlsDone,
                7 => Input::BodyRefused(super::replies::local_error_451()),
                8 => Input::Line(b"BDAT 9"),
                9 => Input::Line(b"MAIL FROM:<>"),
                10 => Input::Answer(crate::smtp::Verdict::GrantedKeeping(1)),
                _ => Input::ShuttingDown,
            });
        }
    }
}

#[test]
fn commands_count_until_a_message_is_accepted() {
    let mut it = Conversation::logged_in();
    let send = format!("{MAIL}{RCPT}DATA\r\nSubject: x\r\n\r\n.\r\n");
    for _ in 0..5 {
        it.say(&"NOOP\r\n".repeat(20));
        assert!(it.say(&send).contains("250 2.0.0 Ok: queued"));
    }
    // Rejected recipients are counted separately.
    it.say(MAIL);
    it.say(&"RCPT TO:<suppressed@b.example>\r\n".repeat(6));
    let said = it.say(&"RSET\r\n".repeat(29));
    assert!(!it.closed && said.ends_with("250 2.0.0 Ok\r\n"), "{said}");
    assert_eq!(it.say("VRFY b\r\n"), "421 4.7.0 Too many commands without a message, closing\r\n");
    assert!(it.closed);
}

/// A session with another server, after EHLO and RCPT.
fn receiving() -> Conversation {
    let mut it = Conversation::new(inbound_settings(), false);
    it.say("EHLO mx.example\r\nMAIL FROM:<>\r\nRCPT TO:<bounce@b.example>\r\n");
    assert_eq!(it.codes(), [220, 250, 250, 250]);
    it
}

#[test]
fn the_beginning_of_a_report_is_kept_and_all_of_it_is_read() {
    let text = format!("Subject: x\r\n\r\n{}\r\n", "y".repeat(150));
    let mut it = receiving();
    let said = it.say(&format!("DATA\r\n{text}.\r\nNOOP\r\n"));
    assert!(said.contains("recorded as rpt_") && said.ends_with("250 2.0.0 Ok\r\n"), "{said}");
    assert_eq!(it.accepted[0].1, &text.as_bytes()[..KEPT_OCTETS as usize]);
    let mut it = receiving();
    let (front, back) = text.split_at(70);
    it.say(&format!("BDAT 70\r\n{front}BDAT {} LAST\r\n{back}", back.len()));
    assert_eq!((it.accepted[0].1.len(), it.truncated), (KEPT_OCTETS as usize, 1));
    assert!(it.session().body_memory_octets() == 0);
    let mut it = receiving();
    let said = it.say("DATA\r\nSubject: short\r\n\r\n.\r\n");
    assert!(said.contains("recorded as rpt_") && it.truncated == 0, "{said}");
    let mut it = receiving();
    let long = format!("{}\r\n", "y".repeat(98)).repeat(11);
    let said = it.say(&format!("DATA\r\n{long}.\r\n"));
    assert!(said.contains("552 5.3.4") && it.accepted.is_empty(), "{said}");
}

#[test]
fn a_server_without_a_recipient_in_time_is_told_so() {
    let mut it = Conversation::new(inbound_settings(), false);
    it.input(Input::NoLogin);
    assert!(String::from_utf8_lossy(&it.output).contains("421 4.4.2 No recipient in time"));
}
