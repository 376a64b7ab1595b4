//! The author of a message: From is refused, or names only addresses in the tenant's domains, however it is written.

use crate::client::Client;
use crate::submission_stage::{HOSTNAME, SubmissionStage};

const MISSING: &str = "550 5.7.1 [from_header_missing]";
const AMBIGUOUS: &str = "550 5.7.1 [from_header_ambiguous]";
const FOREIGN: &str = "550 5.7.1 [domain_not_allowed_for_key]";
const MALFORMED: &str = "554 5.6.0 [header_malformed]";
const DUPLICATE: &str = "550 5.6.0 [header_duplicate]";
const TAKEN: &str = "250 2.0.0";

/// A header without its last CRLF, and the expected reply. The tenant has `own.example`.
const HEADERS: &[(&str, &str)] = &[
    ("From: a@own.example", TAKEN),
    ("FROM: a@own.example", TAKEN),
    ("from:a@own.example", TAKEN),
    ("From: A <a@own.example>, B <b@own.example>", TAKEN),
    ("From: a@sub.own.example", TAKEN),
    ("From: a@OWN.EXAMPLE", TAKEN),
    ("From:\r\n a@own.example", TAKEN),
    ("From: A\r\n <a@own.example>", TAKEN),
    ("From: \"a, b\" <a@own.example>", TAKEN),
    ("From: A (comment) <a@own.example> (another)", TAKEN),
    // A display name may look like an address.
    ("From: \"ceo@bank.example\" <a@own.example>", TAKEN),
    ("From: =?utf-8?q?ceo=40bank.example?= <a@own.example>", TAKEN),
    ("From: =?utf-8?q?=3Cceo=40bank.example=3E?= <a@own.example>", TAKEN),
    ("From: \"\\\"<ceo@bank.example>\" <a@own.example>", TAKEN),
    ("From: ceo@bank.example <a@own.example>", AMBIGUOUS),
    ("From: Ann, ceo@bank.example <a@own.example>", AMBIGUOUS),
    ("From: ceo@bank.example, Ann, Bob <a@own.example>", AMBIGUOUS),
    // A display name that must be quoted.
    ("From: a@own.example <a@own.example>", TAKEN),
    ("From: a@own.example <b@own.example>", AMBIGUOUS),
    ("From: Doe, Ann <a@own.example>", TAKEN),
    ("From: [Shop] Ann <a@own.example>", TAKEN),
    ("From: Shop: Ann <a@own.example>", TAKEN),
    ("From: Doe, Ann <ceo@bank.example>", FOREIGN),
    ("From: a@own.example\r\nSender: Doe, Bob <b@own.example>", TAKEN),
    ("From: a@own.example\r\nSender: Doe, Bob <ceo@bank.example>", FOREIGN),
    ("From: <ceo@bank.example> <a@own.example>", AMBIGUOUS),
    ("From: a@own.example <ceo@bank.example>", AMBIGUOUS),
    // Several addresses or fields.
    ("Subject: x", MISSING),
    ("From:", AMBIGUOUS),
    ("From: a@own.example\r\nFrom: b@own.example", AMBIGUOUS),
    ("From: a@own.example\r\nfrom: ceo@bank.example", AMBIGUOUS),
    ("From: ceo@bank.example\r\nX: y\r\nFROM: a@own.example", AMBIGUOUS),
    ("From: a@own.example, ceo@bank.example", FOREIGN),
    ("From: ceo@bank.example, a@own.example", FOREIGN),
    ("From: a@own.example,\r\n ceo@bank.example", FOREIGN),
    ("From: a@own.example ceo@bank.example", AMBIGUOUS),
    ("From: a@own.example; ceo@bank.example", AMBIGUOUS),
    // Addresses of other domains.
    ("From: a@bank.example", FOREIGN),
    ("From: a@evilown.example", FOREIGN),
    ("From: a@own.example.bank.example", FOREIGN),
    ("From: a@example", FOREIGN),
    ("From: a@[192.0.2.1]", FOREIGN),
    // Other fields with an author.
    ("From: a@own.example\r\nSender: b@own.example", TAKEN),
    ("From: a@own.example\r\nSender: ceo@bank.example", FOREIGN),
    ("From: a@own.example\r\nSender: b@own.example\r\nSender: ceo@bank.example", DUPLICATE),
    ("From: a@own.example\r\nSender: b@own.example <ceo@bank.example>", AMBIGUOUS),
    ("From: a@own.example\r\nResent-From: ceo@bank.example", FOREIGN),
    ("From: a@own.example\r\nResent-Sender: ceo@bank.example", FOREIGN),
    ("From: a@own.example\r\nResent-From: a@own.example, b@sub.own.example", TAKEN),
    // White space before the colon, or no colon.
    ("From : a@own.example", MALFORMED),
    ("From\t: a@own.example", MALFORMED),
    ("From\r\n : a@own.example", MALFORMED),
    ("From : ceo@bank.example\r\nFrom: a@own.example", MALFORMED),
    (" From: ceo@bank.example\r\nFrom: a@own.example", MALFORMED),
    ("From: a@own.example\r\nFr\u{f6}m: ceo@bank.example", MALFORMED),
    ("From: a@own.example\r\nFrom ceo@bank.example", MALFORMED),
    ("From\u{a0}: a@own.example", MALFORMED),
    // White space at the start, which would continue the fields that we add before it.
    (" injected: yes\r\nFrom: a@own.example", MALFORMED),
    ("\tX: y\r\nFrom: a@own.example", MALFORMED),
    ("\r\nFrom: a@own.example", MISSING),
    ("From: a@own.example\r\n : x\r\nFrom : ceo@bank.example", MALFORMED),
    // Unusual spelling.
    ("From: =?utf-8?q?a=40own.example?=", AMBIGUOUS),
    ("From: <=?utf-8?q?ceo=40bank.example?=@own.example>", TAKEN),
    ("From: <=?utf-8?b?Y2VvQGJhbmsuZXhhbXBsZQ==?=>", AMBIGUOUS),
    ("From: <@bank.example:a@own.example>", AMBIGUOUS),
    ("From: <a@own.example:ceo@bank.example>", AMBIGUOUS),
    ("From: a(x)@own.example", AMBIGUOUS),
    ("From: a@own.example(.bank.example)", TAKEN),
    ("From: a@(own.example)bank.example", AMBIGUOUS),
    ("From: a@own .example", AMBIGUOUS),
    ("From: a@own.\r\n example", AMBIGUOUS),
    ("From: \"ceo@bank.example\"@own.example", TAKEN),
    ("From: ceo@bank.example@own.example", AMBIGUOUS),
    ("From: <a@own.example", AMBIGUOUS),
    ("From: a@own.example>", AMBIGUOUS),
    ("From: (<ceo@bank.example>", FOREIGN),
    ("From: \"<ceo@bank.example>", FOREIGN),
    ("From: Staff: a@own.example;", AMBIGUOUS),
    ("From: undisclosed:;", AMBIGUOUS),
    ("From: a@own.example\\", AMBIGUOUS),
    ("From: <>", AMBIGUOUS),
    ("From: a@own.example,,", TAKEN),
];

#[tokio::test]
async fn from_is_refused_or_names_only_addresses_in_the_tenants_domains() {
    let stage = SubmissionStage::start().await;
    let trust = stage.identity.client_config();
    let mut client = Client::connect_implicit(stage.submissions, HOSTNAME, trust).await;
    client.ehlo().await;
    client.auth_plain(&stage.user, &stage.password).await.expect_code(235);
    let mut wrong = Vec::new();
    for (header, expected) in HEADERS {
        let message = format!("{header}\r\n\r\ntext\r\n");
        let said = client.send("app@own.example", &["b@other.example"], message.as_bytes()).await.text();
        if !said.starts_with(expected) {
            wrong.push(format!("{header:?} wants {expected}, got {said}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
