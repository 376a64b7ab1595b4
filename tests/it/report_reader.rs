//! The reader of reports: what it makes of fixtures, with each line end, in the library and over the command line; and
//! of hostile input.

use std::path::{Path, PathBuf};
use std::process::Command;

use pillarbox::feedback::{self, Feedback, FeedbackContent, RecipientGroup};
use pillarbox::mail::{Address, ReversePath};
use serde_json::Value;

/// File, kind and rule, and what it says: of each recipient the address, action, status, class and whether it is
/// suppressed; or of a complaint the type and recipients.
const EXPECTED: &[(&str, &str, &str)] = &[
    ("apple-unsubscribe", "complaint apple-unsubscribe", "opt-out "),
    ("arf-abuse", "complaint arf", "abuse bob@far.example"),
    ("arf-auth-failure", "complaint arf", "auth-failure "),
    ("arf-few-fields", "complaint arf", "abuse bob@far.example"),
    (
        "arf-many-recipients",
        "complaint arf",
        "unknown r0@far.example,r1@far.example,r2@far.example,r3@far.example,r4@far.example,r5@far.example,r6@far.example",
    ),
    ("arf-not-spam", "complaint arf", "not-spam "),
    ("arf-opt-out", "complaint arf", "opt-out bob@far.example"),
    ("challenge", "auto_reply challenge", ""),
    ("courier", "prose courier", "- failed 5.1.1 recipient_unknown suppress"),
    ("delay-warning", "other delay", ""),
    ("domino", "prose domino", "- failed - recipient_unknown suppress"),
    ("dsn-access-denied", "dsn rfc3464", "bob@far.example failed 5.4.1 recipient_unknown suppress"),
    ("dsn-another-recipient", "dsn rfc3464", "left@inside.example failed 5.1.1 recipient_unknown suppress"),
    ("dsn-base64", "dsn rfc3464", "bob@far.example failed 5.1.1 recipient_unknown suppress"),
    ("dsn-client-refused", "dsn rfc3464", "bob@far.example failed 5.0.0 policy keep"),
    ("dsn-content", "dsn rfc3464", "bob@far.example failed 5.6.0 content keep"),
    ("dsn-delayed", "dsn rfc3464", "bob@far.example delayed 4.4.1 network keep"),
    ("dsn-delivered", "dsn rfc3464", "bob@far.example delivered 2.1.5 unclassified keep"),
    ("dsn-empty-status", "other other", ""),
    ("dsn-expanded", "dsn rfc3464", "bob@far.example expanded 2.1.5 unclassified keep"),
    ("dsn-expired-without-words", "dsn rfc3464", "bob@far.example failed 4.4.7 expired keep"),
    ("dsn-expired", "dsn rfc3464", "bob@far.example failed 4.1.1 recipient_unknown keep"),
    ("dsn-failed", "dsn rfc3464", "bob@far.example failed 5.1.1 recipient_unknown suppress"),
    (
        "dsn-groups-run-together",
        "dsn rfc3464",
        "ann@far.example delivered 2.1.5 unclassified keep; bob@far.example failed 5.1.1 recipient_unknown suppress",
    ),
    ("dsn-loose-forms", "dsn rfc3464", "BOB@far.example failed 5.1.1 recipient_unknown suppress"),
    ("dsn-mailbox-full", "dsn rfc3464", "bob@far.example failed 5.2.2 mailbox_full keep"),
    ("dsn-policy", "dsn rfc3464", "bob@far.example failed 5.7.1 recipient_unknown keep"),
    ("dsn-quoted-printable", "dsn rfc3464", "bob@far.example failed 5.1.1 recipient_unknown suppress"),
    ("dsn-reason-in-text", "dsn rfc3464", "bob@far.example failed 5.0.0 mailbox_full keep"),
    ("dsn-recipient-unknown-word", "dsn rfc3464", "- failed 5.1.1 recipient_unknown suppress"),
    ("dsn-relayed", "dsn rfc3464", "bob@far.example relayed 2.0.0 unclassified keep"),
    ("dsn-sender-not-null", "dsn rfc3464", "bob@far.example failed 5.1.1 recipient_unknown suppress"),
    ("dsn-status-only", "dsn rfc3464", "- failed 5.1.1 recipient_unknown suppress"),
    ("dsn-text-says-full", "dsn rfc3464", "bob@far.example failed 5.1.1 recipient_unknown keep"),
    (
        "dsn-two-recipients",
        "dsn rfc3464",
        "bob@far.example failed 5.1.1 recipient_unknown suppress; ann@far.example delivered 2.1.5 unclassified keep",
    ),
    ("dsn-utf8", "dsn rfc3464", "jörg@far.example failed 5.1.1 recipient_unknown suppress"),
    ("dsn-without-end", "dsn rfc3464", "bob@far.example failed 5.1.1 recipient_unknown suppress"),
    ("dsn-wrong-boundary", "dsn rfc3464-in-text", "bob@far.example failed 5.1.1 recipient_unknown suppress"),
    ("exchange-5", "prose exchange-5", "- failed - unclassified keep"),
    ("exchange", "prose exchange", "- failed 5.1.1 recipient_unknown suppress"),
    ("exim", "prose exim", "- failed 5.1.1 recipient_unknown suppress"),
    ("failure-in-returned-only", "other other", ""),
    ("gmail", "prose gmail", "- failed 5.1.1 recipient_unknown suppress"),
    ("gmx", "prose exim", "- failed 5.2.2 mailbox_full keep"),
    ("groupwise", "prose groupwise", "- failed - recipient_unknown suppress"),
    ("hotmail-complaint", "complaint hotmail", "abuse bob@far.example"),
    ("imail", "prose imail", "- failed - mailbox_full keep"),
    ("kddi", "prose kddi", "- failed 5.1.1 recipient_unknown suppress"),
    ("mail-ru", "prose mail.ru", "- failed 5.1.1 recipient_unknown suppress"),
    ("mdaemon", "prose mdaemon", "- failed 5.1.1 recipient_unknown suppress"),
    ("mimecast", "prose mimecast", "- failed 5.4.1 recipient_unknown suppress"),
    ("nothing", "other other", ""),
    ("opensmtpd", "prose opensmtpd", "- failed 5.1.1 recipient_unknown suppress"),
    ("person-forwards-failure", "other other", ""),
    ("person", "other other", ""),
    ("postfix-client-refused", "prose postfix", "- failed 5.7.1 policy keep"),
    ("postfix", "prose postfix", "- failed - recipient_unknown suppress"),
    ("qmail-full", "prose qmail", "- failed 5.2.2 mailbox_full keep"),
    ("qmail-replies-disagree", "prose qmail", "- failed 5.1.1 recipient_unknown keep"),
    ("qmail", "prose qmail", "- failed 5.1.1 recipient_unknown suppress"),
    ("receipt", "receipt rfc8098", ""),
    ("sendmail", "prose sendmail", "- failed 5.1.1 recipient_unknown suppress"),
    ("sun", "prose sun", "- failed 5.1.1 recipient_unknown suppress"),
    ("vacation-quoting", "auto_reply auto-submitted", ""),
    ("vacation-subject", "auto_reply subject", ""),
    ("vacation-with-dsn", "auto_reply subject", ""),
    ("verizon", "prose verizon", "- failed - recipient_unknown suppress"),
    ("yahoo", "prose yahoo", "- failed - recipient_unknown suppress"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/report_reader")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(format!("{name}.eml"))).unwrap()
}

fn read(octets: &[u8]) -> Feedback {
    let path = feedback::return_path(octets).and_then(|path| Address::parse(&path).ok());
    feedback::read(octets, &path.map_or(ReversePath::Null, ReversePath::Mailbox))
}

/// Kind and rule, and the details, as in the table.
fn describe(feedback: &Feedback) -> (String, String) {
    let group = |recipient: Option<&Address>, action: &str, reply: &feedback::FailedReply| {
        let recipient = recipient.map_or("-".to_owned(), ToString::to_string);
        let status = reply.reply.enhanced.map_or("-".to_owned(), |status| status.to_string());
        let effect = if reply.suppress { "suppress" } else { "keep" };
        format!("{recipient} {action} {status} {} {effect}", reply.class)
    };
    let of_group =
        |one: &RecipientGroup| group(one.final_recipient.as_ref(), one.action.as_str(), &one.reply);
    let details = match &feedback.content {
        FeedbackContent::Dsn(status) => status.groups.iter().map(of_group).collect::<Vec<_>>().join("; "),
        FeedbackContent::Prose(reply) => group(None, "failed", reply),
        FeedbackContent::Complaint(complaint) => {
            let recipients: Vec<_> = complaint.original_recipients.iter().map(ToString::to_string).collect();
            format!("{} {}", complaint.feedback_type, recipients.join(","))
        }
        FeedbackContent::AutoReply | FeedbackContent::Receipt | FeedbackContent::Other => String::new(),
    };
    (format!("{} {}", feedback.content.kind(), feedback.rule), details)
}

fn with_line_ends(octets: &[u8], end: &[u8]) -> Vec<u8> {
    octets.split(|&octet| octet == b'\n').collect::<Vec<_>>().join(end)
}

#[test]
fn each_fixture_is_read_as_the_table_says_with_each_line_end() {
    let mut wrong = Vec::new();
    for (name, kind, details) in EXPECTED {
        for end in ["\r\n", "\n", "\r"] {
            let found = describe(&read(&with_line_ends(&fixture(name), end.as_bytes())));
            if (found.0.as_str(), found.1.as_str()) != (kind, details) {
                wrong.push(format!("{name} {end:?}: {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_fixture_is_in_the_table() {
    let mut found: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort();
    let mut known: Vec<_> = EXPECTED.iter().map(|(name, ..)| (*name).to_owned()).collect();
    known.sort();
    assert_eq!(found, known);
}

#[test]
fn the_returned_message_is_identified_and_its_body_is_not_stored() {
    for name in
        ["dsn-failed", "dsn-sender-not-null", "exim", "qmail", "opensmtpd", "arf-abuse", "arf-few-fields"]
    {
        let octets = with_line_ends(&fixture(name), b"\r\n");
        let returned = read(&octets).returned;
        assert_eq!(returned.header_message_id.as_deref(), Some("order-1@own.test"), "{name}");
        assert_eq!(returned.message_ids.len(), 1, "{name}");
        let kept = String::from_utf8(feedback::excerpt(&octets, 64 * 1024).to_vec()).unwrap();
        assert!(kept.contains("Message-ID: <order-1@own.test>"), "{name}: {kept}");
        assert!(!kept.contains("Thank you"), "{name}: {kept}");
    }
}

#[test]
fn a_wish_to_unsubscribe_is_no_automatic_reply() {
    assert!(!read(&fixture("apple-unsubscribe")).is_automatic);
    assert!(read(&fixture("vacation-quoting")).is_automatic);
    assert!(read(&fixture("dsn-failed")).is_automatic);
    assert!(!read(&fixture("person")).is_automatic);
}

fn parse(arguments: &[&str]) -> std::process::Output {
    let binary = env!("CARGO_BIN_EXE_pillarbox");
    Command::new(binary).args(["report", "parse"]).args(arguments).current_dir(folder()).output().unwrap()
}

#[test]
fn the_command_line_prints_what_the_reader_found_without_a_server() {
    let files: Vec<_> = EXPECTED.iter().map(|(name, ..)| format!("{name}.eml")).collect();
    let mut arguments = vec!["--json"];
    arguments.extend(files.iter().map(String::as_str));
    let output = parse(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let views: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(views.len(), EXPECTED.len());
    for ((name, kind, details), view) in EXPECTED.iter().zip(&views) {
        assert_eq!(view["file"], format!("{name}.eml"));
        assert_eq!(format!("{} {}", text(&view["kind"]), text(&view["rule"])), *kind, "{view}");
        let groups = view["groups"].as_array().unwrap().iter().map(|group| {
            let effect = if group["suppress"] == true { "suppress" } else { "keep" };
            let [recipient, action, status, class] =
                ["recipient", "action", "status", "bounce_class"].map(|field| text(&group[field]));
            format!("{recipient} {action} {status} {class} {effect}")
        });
        if view["complaint"].is_null() {
            assert_eq!(groups.collect::<Vec<_>>().join("; "), *details, "{view}");
        } else {
            assert!(details.starts_with(&text(&view["complaint"]["feedback_type"])), "{view}");
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

#[test]
fn the_command_line_takes_the_sender_and_tells_people_what_follows() {
    let told = |arguments: &[&str]| String::from_utf8(parse(arguments).stdout).unwrap();
    let failed = told(&["dsn-failed.eml"]);
    for words in
        ["dsn (rule rfc3464)", "bob@far.example: failed, recipient_unknown; the address is suppressed"]
    {
        assert!(failed.contains(words), "{failed}");
    }
    assert!(told(&["arf-abuse.eml"]).contains("abuse, about bob@far.example"));
    assert!(told(&["arf-not-spam.eml"]).contains("not-spam, about a recipient that it does not name"));
    assert!(told(&["qmail.eml", "--sender", "bob@far.example"]).contains("other (rule other)"));
    assert!(told(&["person-forwards-failure.eml", "--sender", "<>"]).contains("prose (rule qmail)"));
    let refused = parse(&["qmail.eml", "--sender", "bob"]);
    assert!(!refused.status.success());
    let missing = parse(&["missing.eml"]);
    assert!(String::from_utf8(missing.stderr).unwrap().contains("cannot read missing.eml"));
}

/// The reader looks at a bounded part of each report.
#[test]
fn hostile_reports_are_read_within_the_limits() {
    let multipart = "Content-Type: multipart/report; boundary=b\r\n";
    let status = "--b\r\nContent-Type: message/delivery-status\r\n\r\nFinal-Recipient: rfc822; a@b.example\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n";
    let depths: String = (0..1000)
        .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
        .collect();
    let pieces: String = (0..200_000).map(|n| format!(" x*{n}=y;\r\n")).collect();
    for (name, octets, kind) in [
        (
            "parts after the status",
            format!("{multipart}\r\n{status}{}", "--b\r\n\r\nx\r\n".repeat(10_000)),
            "dsn",
        ),
        (
            "parts before the status",
            format!("{multipart}\r\n{}{status}", "--b\r\n\r\nx\r\n".repeat(10_000)),
            "other",
        ),
        ("depth", format!("{depths}{status}"), "dsn"),
        (
            "pieces of a parameter",
            format!("Content-Type: multipart/report;{pieces} boundary=b\r\n\r\n{status}"),
            "dsn",
        ),
        ("header", format!("{}{multipart}\r\n{status}", "X: y\r\n".repeat(200_000)), "dsn"),
        (
            "recipients",
            format!("{multipart}\r\n{}", status.replace("Final", &"Final-Recipient: x\r\nFinal".repeat(9))),
            "dsn",
        ),
        ("fields", format!("{multipart}\r\n{status}{}", "a:\r\n".repeat(100_000)), "dsn"),
        ("groups", format!("{multipart}\r\n{}{}", status, "Action: failed\r\n\r\n".repeat(100_000)), "dsn"),
        ("one line", "a".repeat(4_000_000), "other"),
        ("colons", ":".repeat(1_000_000), "other"),
        (
            "codes",
            format!("\r\nHi. This is the qmail-send program\r\n{}", "550 5.1.1 4.2.2\r\n".repeat(100_000)),
            "prose",
        ),
        (
            "digits",
            format!("\r\nHi. This is the qmail-send program\r\n{}", "5.5.5.5.5.5.".repeat(100_000)),
            "prose",
        ),
        (
            "brackets",
            format!("\r\nHi. This is the qmail-send program\r\n550 {}", "<\"@".repeat(300_000)),
            "prose",
        ),
    ] {
        let read = read(octets.as_bytes());
        let found = read.content.kind().as_str();
        // What is nested too deeply, or has too long a header for its Content-Type to be found, is a text; the status is
        // found in it.
        assert_eq!(found, kind, "{name}");
        assert!(feedback::excerpt(octets.as_bytes(), 1000).len() <= 1000);
        if let FeedbackContent::Dsn(status) = read.content {
            assert!(status.groups.len() <= 32, "{name}");
        }
    }
}
