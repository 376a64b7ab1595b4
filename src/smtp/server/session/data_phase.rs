//! The phase in which a session receives content: after 354 up to the final dot (RFC 5321 §4.1.1.4), or in chunks
//! with the lengths that BDAT announces (RFC 3030).
//!
//! A chunk is always read to its end, so that its octets are never parsed as commands. A refused chunk ends the
//! transaction: a later chunk would complete a message with a gap.

use std::mem;

use super::{Next, Pending, Phase, Question, Session, Step};
use crate::model::Stage;
use crate::smtp::Reply;
use crate::smtp::command::{self, Chunk, Verb};
use crate::smtp::data::{BareNewline, DataLimits, DataProgress, Decoder, Fault, Framing};
use crate::smtp::server::mail_transaction::{self, Draft};
use crate::smtp::server::{extension, replies};

/// A message received after 354.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) draft: Box<Draft>,
    pub(super) decoder: Decoder,
    refused: Option<Reply>,
}

/// A chunk being received.
#[derive(Debug)]
pub(super) struct ReceivingChunk {
    chunk: Chunk,
    octets_left: u64,
    fate: Fate,
}

/// What the session does with the octets of a chunk.
#[derive(Debug)]
enum Fate {
    /// Adds them to this message.
    Kept(Box<Draft>),
    /// Discards them: BDAT is out of sequence.
    Misplaced(Reply),
    /// Discards them: the chunk is refused.
    Refused(Reply),
}

impl ReceivingChunk {
    pub(super) fn memory_octets(&self) -> usize {
        match &self.fate {
            Fate::Kept(draft) => draft.memory_octets(),
            Fate::Misplaced(_) | Fate::Refused(_) => 0,
        }
    }
}

impl Session {
    /// Replies 354 and starts to receive.
    pub(super) fn start_data(&mut self, draft: Box<Draft>) -> Step {
        let octets_expected = draft.octets_expected(&self.settings.data);
        let decoder = Decoder::new(self.settings.data, Framing::Dots, octets_expected);
        self.phase = Phase::Data(Box::new(Receiving { draft, decoder, refused: None }));
        Step::reply(replies::start_input_354(), Next::ReadBody)
    }

    pub(super) fn receive(&mut self, mut receiving: Box<Receiving>, octets: &[u8]) -> Step {
        let consumed = match receiving.decoder.decode(octets) {
            DataProgress::Partial => {
                self.phase = Phase::Data(receiving);
                return Step { consumed: octets.len(), ..Step::silent(Next::ReadBody) };
            }
            DataProgress::Complete { consumed } => consumed,
        };
        let step = match receiving.refused {
            Some(reply) => self.ready(None, reply),
            None => self.accept(receiving.draft, receiving.decoder),
        };
        Step { consumed, ..step }
    }

    pub(super) fn refuse_body(&mut self, mut receiving: Box<Receiving>, reply: Reply) -> Step {
        receiving.decoder.discard();
        receiving.refused.get_or_insert(reply);
        self.phase = Phase::Data(receiving);
        Step::silent(Next::ReadBody)
    }

    /// BDAT. If the length cannot be parsed, the end of the chunk is unknown, and content would be read as commands.
    /// The server then closes the connection (RFC 5321 §7.8), as Postfix does.
    pub(super) fn begin_chunk(&mut self, draft: Option<Box<Draft>>, arguments: &str) -> Step {
        let chunk = match command::parse_bdat(arguments) {
            Ok(chunk) => chunk,
            Err(error) => return Step::reply(replies::for_command(&error), Next::Close),
        };
        if let Some(obstacle) = self.find_obstacle(Verb::Bdat, arguments, draft.as_deref()) {
            // In a pipelined group the client cannot know yet that every recipient was refused (RFC 2920 §3.1).
            let fate = if draft.is_some() { Fate::Refused(obstacle) } else { Fate::Misplaced(obstacle) };
            return self.read_chunk(chunk, fate);
        }
        // An empty chunk that is not the last makes no progress, so it counts as a command without a message.
        if chunk.octets == 0 && !chunk.last && !self.has_patience() {
            return Step::reply(replies::too_many_commands_421(), Next::Close);
        }
        match draft {
            Some(draft) if draft.content.is_some() => self.read_chunk(chunk, Fate::Kept(draft)),
            Some(draft) => {
                let octets_declared = Some(draft.options.octets.unwrap_or(chunk.octets));
                self.ask(Pending::StartChunks(draft, chunk), Question::StartData { octets_declared })
            }
            None => self.read_chunk(chunk, Fate::Misplaced(replies::mail_first_503())),
        }
    }

    /// Starts to receive the first chunk.
    pub(super) fn start_chunks(&mut self, mut draft: Box<Draft>, chunk: Chunk) -> Step {
        draft.options.octets.get_or_insert(chunk.octets);
        let octets_expected = draft.octets_expected(&self.settings.data);
        let limits = limits_for(&draft, self.settings.data);
        draft.content = Some(Decoder::new(limits, Framing::Chunks, octets_expected));
        self.read_chunk(chunk, Fate::Kept(draft))
    }

    /// Discards the first chunk: there is no memory for the message.
    pub(super) fn refuse_chunks(&mut self, chunk: Chunk, reply: Reply) -> Step {
        self.read_chunk(chunk, Fate::Refused(reply))
    }

    fn read_chunk(&mut self, chunk: Chunk, fate: Fate) -> Step {
        self.go_on(Box::new(ReceivingChunk { chunk, octets_left: chunk.octets, fate }))
    }

    pub(super) fn receive_chunk(&mut self, mut receiving: Box<ReceivingChunk>, octets: &[u8]) -> Step {
        let consumed = usize::try_from(receiving.octets_left).unwrap_or(usize::MAX).min(octets.len());
        receiving.octets_left -= consumed as u64;
        if let Fate::Kept(draft) = &mut receiving.fate
            && let Some(content) = &mut draft.content
        {
            content.decode(&octets[..consumed]);
        }
        Step { consumed, ..self.go_on(receiving) }
    }

    pub(super) fn refuse_chunk(&mut self, mut receiving: Box<ReceivingChunk>, reply: Reply) -> Step {
        if matches!(receiving.fate, Fate::Kept(_)) {
            receiving.fate = Fate::Refused(reply);
        }
        self.go_on(receiving)
    }

    /// Waits for the rest of a chunk, or replies to a complete one.
    fn go_on(&mut self, receiving: Box<ReceivingChunk>) -> Step {
        if receiving.octets_left > 0 {
            self.phase = Phase::Chunk(receiving);
            return Step::silent(Next::ReadBody);
        }
        let ReceivingChunk { chunk, fate, .. } = *receiving;
        let mut draft = match fate {
            Fate::Misplaced(reply) => return self.fail(None, reply),
            Fate::Refused(reply) => return self.ready(None, reply),
            Fate::Kept(draft) => draft,
        };
        if !chunk.last {
            return match draft.content.as_ref().and_then(Decoder::fault) {
                Some(fault) => self.refuse_content(&draft, fault),
                None => self.ready(Some(draft), replies::chunk_received_250(chunk.octets)),
            };
        }
        match mem::take(&mut draft.content) {
            Some(mut content) => {
                content.end();
                self.accept(draft, content)
            }
            None => self.ready(None, replies::local_error_451()),
        }
    }

    /// The content is complete: asks to accept the message, or refuses it.
    fn accept(&mut self, draft: Box<Draft>, decoder: Decoder) -> Step {
        let message = match decoder.finish() {
            Ok(message) => message.into(),
            Err(fault) => return self.refuse_content(&draft, fault),
        };
        let envelope = draft.into_envelope();
        let extended = self.hello.as_ref().is_some_and(|hello| hello.extended);
        let protocol =
            extension::transmission_type(extended, envelope.smtputf8, self.tls, self.authenticated);
        self.ask(Pending::Accept, Question::Accept { envelope: Box::new(envelope), message, protocol })
    }

    fn refuse_content(&mut self, draft: &Draft, fault: Fault) -> Step {
        let refusal = match fault {
            Fault::Nul | Fault::BareNewline | Fault::LineTooLong if draft.options.binary => {
                mail_transaction::not_convertible()
            }
            fault => mail_transaction::faulty_message(fault, &self.settings.data),
        };
        self.refuse(None, Stage::Data, refusal)
    }
}

/// RFC 3030 §3: binary content must not be changed, so a bare CR or LF is refused, not normalized.
fn limits_for(draft: &Draft, limits: DataLimits) -> DataLimits {
    match draft.options.binary {
        true => DataLimits { bare_newline: BareNewline::Reject, ..limits },
        false => limits,
    }
}
