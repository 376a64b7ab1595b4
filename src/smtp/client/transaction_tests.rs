//! The transaction, as dialogues and properties.

use proptest::prelude::*;

use super::*;
use crate::mail::{Address, EnhancedStatus, MailParameters, RcptParameters, ReturnContent, ReversePath};
use crate::smtp::client::Target;

const PIPELINING: Capabilities = Capabilities {
    pipelining: true,
    size_octets_max: None,
    eight_bit_mime: false,
    smtputf8: false,
    dsn: false,
    require_tls: false,
    starttls: false,
    auth_scram_plus: false,
    auth_scram: false,
    auth_plain: false,
    auth_login: false,
};

fn reply(code: u16) -> Reply {
    Reply { code, enhanced: None, lines: vec!["x".into()] }
}

fn start(capabilities: &Capabilities, recipients: &[&str], size_octets: u64, reset: bool) -> Transaction {
    let reverse_path = ReversePath::parse("s@a.example").unwrap();
    let addresses: Vec<Address> = recipients.iter().map(|r| Address::parse(r).unwrap()).collect();
    let parameters = RcptParameters {
        notify: "SUCCESS,FAILURE".parse().ok(),
        original_recipient: "rfc822;old@x.example".parse().ok(),
    };
    let recipients: Vec<Target<'_>> =
        addresses.iter().map(|address| Target { address, parameters: &parameters }).collect();
    let asked = MailParameters {
        return_content: Some(ReturnContent::Full),
        envelope_id: "id+2B1".parse().ok(),
        ..MailParameters::default()
    };
    let request = Request {
        reverse_path: &reverse_path,
        parameters: &asked,
        recipients: &recipients,
        size_octets,
        eight_bit: true,
        utf8_header: false,
        reset,
    };
    Transaction::new(capabilities, &request)
}

/// Feeds reply codes; records the output (`MESSAGE` for the content) between them.
fn play(transaction: &mut Transaction, codes: &[u16]) -> String {
    let mut seen = String::new();
    let mut codes = codes.iter();
    loop {
        let mut out = Vec::new();
        let next = transaction.advance(&mut out);
        seen.push_str(&String::from_utf8(out).unwrap().replace("\r\n", ";"));
        match next {
            Next::Content => {
                seen.push_str("MESSAGE;");
                transaction.content_sent();
            }
            Next::Reply(_) => match codes.next() {
                Some(&code) => {
                    seen.push_str(&format!("{code} "));
                    transaction.reply(reply(code));
                }
                None => return seen,
            },
            Next::Done => {
                assert_eq!(codes.next(), None, "replies left after {seen}");
                return seen;
            }
        }
    }
}

fn results(transaction: Transaction) -> Vec<Option<(Phase, u16)>> {
    transaction.into_outcomes().into_iter().map(|o| o.map(|o| (o.phase, o.reply.code))).collect()
}

#[test]
fn a_pipelined_group_is_sent_at_once_and_each_reply_counts() {
    let mut group = start(&PIPELINING, &["a@x.example", "b@x.example"], 1, false);
    assert_eq!(
        play(&mut group, &[250, 250, 550, 354, 250]),
        "MAIL FROM:<s@a.example>;RCPT TO:<a@x.example>;RCPT TO:<b@x.example>;DATA;250 250 550 354 MESSAGE;250 "
    );
    assert!(!group.is_unusable() && !group.needs_reset());
    assert_eq!(results(group), [Some((Phase::Content, 250)), Some((Phase::Rcpt, 550))]);
}

#[test]
fn without_pipelining_commands_are_sent_one_by_one_and_stop_early() {
    let slow = Capabilities::default();
    let mut all = start(&slow, &["a@x.example"], 1, false);
    assert_eq!(
        play(&mut all, &[250, 250, 354, 250]),
        "MAIL FROM:<s@a.example>;250 RCPT TO:<a@x.example>;250 DATA;354 MESSAGE;250 "
    );
    let mut no_sender = start(&slow, &["a@x.example"], 1, false);
    assert_eq!(play(&mut no_sender, &[550]), "MAIL FROM:<s@a.example>;550 ");
    assert!(!no_sender.is_unusable() && !no_sender.needs_reset());
    assert_eq!(results(no_sender), [Some((Phase::Mail, 550))]);
    let mut no_recipient = start(&slow, &["a@x.example"], 1, false);
    play(&mut no_recipient, &[250, 450]);
    assert!(!no_recipient.is_unusable() && no_recipient.needs_reset());
    assert_eq!(results(no_recipient), [Some((Phase::Rcpt, 450))]);
}

#[test]
fn data_accepted_without_recipients_gets_the_terminator_alone() {
    let mut nobody = start(&PIPELINING, &["a@x.example"], 1, false);
    let seen = play(&mut nobody, &[250, 550, 354, 250]);
    assert!(seen.ends_with("DATA;250 550 354 .;250 "), "{seen}");
    assert!(!nobody.needs_reset() && !nobody.is_unusable());
    assert_eq!(results(nobody), [Some((Phase::Rcpt, 550))]);
    let mut refused = start(&PIPELINING, &["a@x.example"], 1, false);
    play(&mut refused, &[250, 550, 554]);
    assert!(refused.needs_reset());
    assert_eq!(results(refused), [Some((Phase::Rcpt, 550))]);
    let mut no_sender = start(&PIPELINING, &["a@x.example"], 1, false);
    play(&mut no_sender, &[451, 503, 503]);
    assert_eq!(results(no_sender), [Some((Phase::Mail, 451))]);
}

#[test]
fn a_refused_message_fails_those_that_were_accepted() {
    for (codes, phase) in
        [(&[250, 250, 550, 451][..], Phase::Data), (&[250, 250, 550, 354, 552], Phase::Content)]
    {
        let mut transaction = start(&PIPELINING, &["a@x.example", "b@x.example"], 1, false);
        play(&mut transaction, codes);
        assert_eq!(results(transaction), [Some((phase, codes[codes.len() - 1])), Some((Phase::Rcpt, 550))]);
    }
}

#[test]
fn a_transaction_left_open_is_reset_within_the_group() {
    let mut transaction = start(&PIPELINING, &["a@x.example"], 1, true);
    assert!(play(&mut transaction, &[250, 250, 250, 354, 250]).starts_with("RSET;MAIL FROM"));
    assert_eq!(results(transaction), [Some((Phase::Content, 250))]);
    let mut failed = start(&PIPELINING, &["a@x.example"], 1, true);
    play(&mut failed, &[502]);
    assert!(failed.is_unusable());
    // No reply concerns the message: no recipient is bounced, and another connection may be used.
    assert!(!failed.has_progressed());
    assert_eq!(results(failed), [Some((Phase::Hello, 502))]);
}

#[test]
fn a_421_or_a_reply_out_of_sync_ends_the_connection() {
    const CODES: [&[u16]; 7] =
        [&[421], &[250, 421], &[250, 250, 421], &[354], &[250, 354], &[250, 250, 250], &[250, 250, 354, 354]];
    for codes in CODES {
        let mut transaction = start(&PIPELINING, &["a@x.example"], 1, false);
        play(&mut transaction, codes);
        assert!(transaction.is_unusable(), "{codes:?}");
        assert_eq!(transaction.has_progressed(), codes[0] != 421);
        assert!(results(transaction)[0].is_some(), "{codes:?}");
    }
}

#[test]
fn parameters_go_only_to_servers_that_offer_them() {
    let all = Capabilities { size_octets_max: Some(0), eight_bit_mime: true, smtputf8: true, ..PIPELINING };
    let mut utf8 = start(&all, &["é@x.example"], 7, false);
    assert!(play(&mut utf8, &[]).starts_with("MAIL FROM:<s@a.example> SIZE=7 BODY=8BITMIME SMTPUTF8;"));
    let mut ascii = start(&all, &["e@x.example"], 7, false);
    assert!(play(&mut ascii, &[]).starts_with("MAIL FROM:<s@a.example> SIZE=7 BODY=8BITMIME;"));
}

#[test]
fn dsn_parameters_are_passed_to_servers_that_support_them() {
    let mut passed_on = start(&Capabilities { dsn: true, ..PIPELINING }, &["a@x.example"], 7, false);
    assert_eq!(
        play(&mut passed_on, &[]),
        "MAIL FROM:<s@a.example> RET=FULL ENVID=id+2B1;\
         RCPT TO:<a@x.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;old@x.example;DATA;"
    );
}

#[test]
fn requiretls_is_passed_to_servers_that_support_it() {
    let reverse_path = ReversePath::Null;
    let required = MailParameters { require_tls: true, ..MailParameters::default() };
    let line = |require_tls| {
        let request = Request {
            reverse_path: &reverse_path,
            parameters: &required,
            recipients: &[],
            size_octets: 1,
            eight_bit: false,
            utf8_header: false,
            reset: false,
        };
        request.mail_line(&Capabilities { require_tls, ..PIPELINING })
    };
    assert_eq!(
        (line(true).as_str(), line(false).as_str()),
        ("MAIL FROM:<> REQUIRETLS\r\n", "MAIL FROM:<>\r\n")
    );
}

#[test]
fn a_message_beyond_the_servers_capabilities_fails_without_dialogue() {
    let mut mixed = start(&PIPELINING, &["é@x.example", "e@x.example"], 7, false);
    assert!(!play(&mut mixed, &[250, 250, 354, 250]).contains('é'));
    assert_eq!(results(mixed), [Some((Phase::Mail, 550)), Some((Phase::Content, 250))]);
    let small = Capabilities { size_octets_max: Some(6), ..PIPELINING };
    let mut large = start(&small, &["e@x.example"], 7, false);
    assert_eq!(play(&mut large, &[]), "");
    assert!(!large.is_unusable());
    let outcome = large.into_outcomes().remove(0).unwrap();
    assert_eq!(outcome.reply.enhanced, Some(EnhancedStatus::new(5, 3, 4)));
}

proptest! {
    #[test]
    fn no_replies_hang_or_panic_and_success_is_never_invented(
        pipelining: bool,
        reset: bool,
        recipients in 1usize..4,
        codes in prop::collection::vec(prop::sample::select(vec![250, 354, 421, 451, 550, 552]), 30),
    ) {
        let names: Vec<String> = (0..recipients).map(|n| format!("r{n}@x.example")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let capabilities = Capabilities { pipelining, ..PIPELINING };
        let mut transaction = start(&capabilities, &names, 1, reset);
        let (mut used, mut content) = (0, false);
        loop {
            match transaction.advance(&mut Vec::new()) {
                Next::Done => break,
                Next::Content => {
                    content = true;
                    transaction.content_sent();
                }
                Next::Reply(_) => {
                    prop_assert!(used < recipients + 4, "asks for more replies than commands");
                    transaction.reply(reply(codes[used]));
                    used += 1;
                }
            }
        }
        let unusable = transaction.is_unusable();
        for result in results(transaction) {
            let (phase, code) = result.unwrap();
            if code / 100 == 2 {
                prop_assert!(phase == Phase::Content && content || unusable);
            }
        }
    }
}
