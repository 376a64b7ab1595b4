//! Sends one message to several recipients over an open connection; yields one reply for each.

use std::fmt::Write;

use super::{Capabilities, Phase};
use crate::mail::{Address, EnhancedStatus, MailParameters, RcptParameters, ReversePath};
use crate::smtp::Reply;

/// The message to send.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The path of MAIL.
    pub reverse_path: &'a ReversePath,
    /// The parameters of MAIL.
    pub parameters: &'a MailParameters,
    /// The recipients, at least one.
    pub recipients: &'a [Target<'a>],
    /// The size of the message.
    pub size_octets: u64,
    /// Whether the content has octets above 127 or was declared 8BITMIME.
    pub eight_bit: bool,
    /// Whether the header has octets above 127 (RFC 6531 §3.2).
    pub utf8_header: bool,
    /// Whether the connection has an open transaction, which RSET must end first.
    pub reset: bool,
}

/// One recipient.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The path of RCPT.
    pub address: &'a Address,
    /// The parameters of RCPT.
    pub parameters: &'a RcptParameters,
}

/// The result for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The command that the reply answers.
    pub phase: Phase,
    /// The server's reply, or our own if the server lacks an extension that the message needs.
    pub reply: Reply,
}

/// What the caller must do next, after writing the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Pass a reply to [`Transaction::reply`]. The phase decides the timeout.
    Reply(Phase),
    /// Write the message in wire form, then call [`Transaction::content_sent`].
    Content,
    /// Every recipient has its result.
    Done,
}

/// The state machine. Call [`Transaction::advance`] until it returns `Done`.
#[derive(Debug)]
pub struct Transaction {
    commands: Vec<Exchange>,
    /// Commands written.
    sent: usize,
    /// Commands answered.
    answered: usize,
    pipelining: bool,
    outcomes: Vec<Option<Outcome>>,
    /// Recipients that the server accepted.
    accepted: Vec<usize>,
    /// Whether the server has an open transaction.
    draft_open: bool,
    progressed: bool,
    state: State,
    unusable: bool,
}

#[derive(Debug)]
struct Exchange {
    verb: Verb,
    line: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Reset,
    Mail,
    Rcpt(usize),
    Data,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Envelope,
    Content,
    /// DATA was accepted without any accepted recipient: an empty message ends it.
    EmptyContent,
    FinalReply,
    EmptyReply,
    Done,
}

impl Transaction {
    /// Plans the commands. Recipients that need an extension which the server lacks get their result immediately.
    pub fn new(capabilities: &Capabilities, request: &Request<'_>) -> Self {
        let outcomes: Vec<Option<Outcome>> = request
            .recipients
            .iter()
            .map(|recipient| missing_capability(capabilities, request, recipient.address))
            .collect();
        let mut commands = Vec::with_capacity(request.recipients.len() + 3);
        if outcomes.iter().any(Option::is_none) {
            if request.reset {
                commands.push(Exchange { verb: Verb::Reset, line: "RSET\r\n".into() });
            }
            commands.push(Exchange { verb: Verb::Mail, line: mail_line(capabilities, request) });
            for (index, recipient) in request.recipients.iter().enumerate() {
                if outcomes[index].is_none() {
                    let line = rcpt_line(capabilities, recipient);
                    commands.push(Exchange { verb: Verb::Rcpt(index), line });
                }
            }
            commands.push(Exchange { verb: Verb::Data, line: "DATA\r\n".into() });
        }
        let state = if commands.is_empty() { State::Done } else { State::Envelope };
        Self {
            commands,
            sent: 0,
            answered: 0,
            pipelining: capabilities.pipelining,
            accepted: Vec::with_capacity(outcomes.len()),
            outcomes,
            draft_open: request.reset,
            progressed: false,
            state,
            unusable: false,
        }
    }

    /// Appends the output and returns what to do next.
    pub fn advance(&mut self, out: &mut Vec<u8>) -> Next {
        match self.state {
            State::Envelope => {
                // RFC 2920 §3.1: MAIL, RCPT and finally DATA may be pipelined.
                while self.sent < self.commands.len() && (self.pipelining || self.sent == self.answered) {
                    out.extend_from_slice(self.commands[self.sent].line.as_bytes());
                    self.sent += 1;
                }
                Next::Reply(self.commands.get(self.answered).map_or(Phase::Data, |next| next.verb.phase()))
            }
            State::Content => Next::Content,
            State::EmptyContent => {
                out.extend_from_slice(b".\r\n");
                self.state = State::EmptyReply;
                Next::Reply(Phase::Content)
            }
            State::FinalReply | State::EmptyReply => Next::Reply(Phase::Content),
            State::Done => Next::Done,
        }
    }

    /// Call after the message and its terminator were written.
    pub fn content_sent(&mut self) {
        if self.state == State::Content {
            self.state = State::FinalReply;
        }
    }

    /// Processes the reply that [`Transaction::advance`] asked for.
    pub fn reply(&mut self, reply: Reply) {
        // RFC 5321 §3.8: the server closes the connection after 421; later replies may not arrive.
        let closing = reply.code == 421;
        self.unusable |= closing;
        self.progressed |= !closing && !self.awaits_reset();
        let mut phase = Phase::Content;
        match self.state {
            State::Envelope => {
                if let Some(verb) = self.commands.get(self.answered).map(|command| command.verb) {
                    self.answered += 1;
                    phase = verb.phase();
                    self.handle_envelope_reply(verb, reply.clone());
                }
            }
            State::FinalReply | State::EmptyReply => {
                // After another 3yz, the server would take the next commands for content.
                self.unusable |= reply.code / 100 == 3;
                if self.state == State::FinalReply {
                    self.finish_accepted(Phase::Content, &reply);
                }
                self.draft_open = false;
                self.state = State::Done;
            }
            State::Content | State::EmptyContent | State::Done => self.unusable = true,
        }
        if closing && self.state != State::Done {
            self.fail_remaining(phase, &reply);
            self.state = State::Done;
        }
    }

    /// Whether the next reply belongs to RSET.
    fn awaits_reset(&self) -> bool {
        self.commands.get(self.answered).is_some_and(|command| command.verb == Verb::Reset)
    }

    fn handle_envelope_reply(&mut self, verb: Verb, reply: Reply) {
        let class = reply.code / 100;
        // The reply cannot belong to this command: commands and replies are out of sync.
        let out_of_sync = class == 3 && verb != Verb::Data || class == 2 && verb == Verb::Data;
        if out_of_sync || (verb == Verb::Reset && class != 2) {
            self.unusable = true;
            self.fail_remaining(verb.phase(), &reply);
            self.state = State::Done;
            return;
        }
        match verb {
            Verb::Reset => self.draft_open = false,
            Verb::Mail if class == 2 => self.draft_open = true,
            Verb::Mail => {
                self.fail_remaining(Phase::Mail, &reply);
                self.stop_unless_pipelined();
            }
            Verb::Rcpt(index) => {
                if self.outcomes[index].is_none() {
                    if class == 2 {
                        self.accepted.push(index);
                    } else {
                        self.outcomes[index] = Some(Outcome { phase: Phase::Rcpt, reply });
                    }
                }
                let rcpts_end = self.commands.len() - 1;
                if self.answered == rcpts_end && self.accepted.is_empty() {
                    self.stop_unless_pipelined();
                }
            }
            Verb::Data => {
                self.state = match (class, self.accepted.is_empty()) {
                    (3, false) => State::Content,
                    // RFC 2920 §3.1: the client must then send the terminator alone.
                    (3, true) => State::EmptyContent,
                    _ => {
                        self.finish_accepted(Phase::Data, &reply);
                        State::Done
                    }
                };
            }
        }
    }

    /// With pipelining, replies to commands already written must be read; without it, the transaction ends here.
    fn stop_unless_pipelined(&mut self) {
        if !self.pipelining {
            self.state = State::Done;
        }
    }

    fn finish_accepted(&mut self, phase: Phase, reply: &Reply) {
        for &index in &self.accepted {
            self.outcomes[index] = Some(Outcome { phase, reply: reply.clone() });
        }
    }

    fn fail_remaining(&mut self, phase: Phase, reply: &Reply) {
        for outcome in self.outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
            *outcome = Some(Outcome { phase, reply: reply.clone() });
        }
    }

    /// Whether the server has answered a command for this message with anything but 421. If not, a reused connection
    /// was already closed.
    pub fn has_progressed(&self) -> bool {
        self.progressed
    }

    /// Whether the message was written completely: if the connection closes now, the server may have accepted it.
    pub fn awaits_final_reply(&self) -> bool {
        self.state == State::FinalReply
    }

    /// Whether the connection cannot carry another transaction.
    pub fn is_unusable(&self) -> bool {
        self.unusable || !matches!(self.state, State::Done)
    }

    /// Whether the server still has an open transaction, which RSET must end.
    pub fn needs_reset(&self) -> bool {
        self.draft_open
    }

    /// One result for each recipient, in order; `None` where the dialogue ended early.
    pub fn into_outcomes(self) -> Vec<Option<Outcome>> {
        self.outcomes
    }
}

impl Verb {
    fn phase(self) -> Phase {
        match self {
            // A refusal of RSET concerns the connection, not the message.
            Self::Reset => Phase::Hello,
            Self::Mail => Phase::Mail,
            Self::Rcpt(_) => Phase::Rcpt,
            Self::Data => Phase::Data,
        }
    }
}

fn mail_line(capabilities: &Capabilities, request: &Request<'_>) -> String {
    let mut line = format!("MAIL FROM:<{}>", request.reverse_path);
    // Writing to a String cannot fail.
    if capabilities.size_octets_max.is_some() {
        let _ = write!(line, " SIZE={}", request.size_octets);
    }
    if request.eight_bit && capabilities.eight_bit_mime {
        line.push_str(" BODY=8BITMIME");
    }
    if capabilities.smtputf8 && needs_smtputf8(request) {
        line.push_str(" SMTPUTF8");
    }
    // RFC 8689 §4.2.1: the next server must require TLS too.
    if capabilities.require_tls && request.parameters.require_tls {
        line.push_str(" REQUIRETLS");
    }
    // RFC 3461 §5.2.1: passed on unchanged, never added.
    if capabilities.dsn {
        if let Some(wanted) = request.parameters.return_content {
            let _ = write!(line, " RET={}", wanted.as_str());
        }
        if let Some(id) = &request.parameters.envelope_id {
            let _ = write!(line, " ENVID={id}");
        }
    }
    line.push_str("\r\n");
    line
}

fn rcpt_line(capabilities: &Capabilities, recipient: &Target<'_>) -> String {
    let mut line = format!("RCPT TO:<{}>", recipient.address);
    if capabilities.dsn {
        if let Some(notify) = recipient.parameters.notify {
            let _ = write!(line, " NOTIFY={notify}");
        }
        if let Some(original) = &recipient.parameters.original_recipient {
            let _ = write!(line, " ORCPT={original}");
        }
    }
    line.push_str("\r\n");
    line
}

fn needs_smtputf8(request: &Request<'_>) -> bool {
    request.utf8_header
        || request.reverse_path.mailbox().is_some_and(Address::needs_smtputf8)
        || request.recipients.iter().any(|recipient| recipient.address.needs_smtputf8())
}

/// The result of a recipient that the server's capabilities already exclude.
fn missing_capability(
    capabilities: &Capabilities,
    request: &Request<'_>,
    recipient: &Address,
) -> Option<Outcome> {
    // RFC 1870 §6.1: the client need not send a message above the declared limit.
    if let Some(octets_max @ 1..) = capabilities.size_octets_max
        && request.size_octets > octets_max
    {
        let text = format!(
            "the message has {} octets, the server accepts at most {octets_max}",
            request.size_octets
        );
        return Some(refuse(Phase::Mail, 552, EnhancedStatus::new(5, 3, 4), text));
    }
    let for_all = request.utf8_header || request.reverse_path.mailbox().is_some_and(Address::needs_smtputf8);
    if !capabilities.smtputf8 && (for_all || recipient.needs_smtputf8()) {
        // RFC 6531 §3.2: such a message must not be sent; §3.5 gives the code.
        let text = "the server does not offer SMTPUTF8, which this message needs".into();
        return Some(refuse(Phase::Mail, 550, EnhancedStatus::new(5, 6, 7), text));
    }
    None
}

fn refuse(phase: Phase, code: u16, enhanced: EnhancedStatus, text: String) -> Outcome {
    Outcome { phase, reply: Reply { code, enhanced: Some(enhanced), lines: vec![text] } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            return_content: Some(crate::mail::ReturnContent::Full),
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
            assert_eq!(
                results(transaction),
                [Some((phase, codes[codes.len() - 1])), Some((Phase::Rcpt, 550))]
            );
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
        const CODES: [&[u16]; 7] = [
            &[421],
            &[250, 421],
            &[250, 250, 421],
            &[354],
            &[250, 354],
            &[250, 250, 250],
            &[250, 250, 354, 354],
        ];
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
        let all =
            Capabilities { size_octets_max: Some(0), eight_bit_mime: true, smtputf8: true, ..PIPELINING };
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
            mail_line(&Capabilities { require_tls, ..PIPELINING }, &request)
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
}
