//! Sends one message to several recipients over an open connection; yields one reply for each.

use super::request::{Outcome, Request};
use super::{Capabilities, Phase};
use crate::smtp::Reply;

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
            .map(|recipient| request.missing_capability(capabilities, recipient.address))
            .collect();
        let mut commands = Vec::with_capacity(request.recipients.len() + 3);
        if outcomes.iter().any(Option::is_none) {
            if request.reset {
                commands.push(Exchange { verb: Verb::Reset, line: "RSET\r\n".into() });
            }
            commands.push(Exchange { verb: Verb::Mail, line: request.mail_line(capabilities) });
            for (index, recipient) in request.recipients.iter().enumerate() {
                if outcomes[index].is_none() {
                    let line = recipient.rcpt_line(capabilities);
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

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
