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
use crate::smtp::data::{BareNewline, ContentError, DataLimits, DataProgress, Decoder, Framing};
use crate::smtp::server::mail_transaction::{self, MailTransaction};
use crate::smtp::server::{extension, replies};

/// A message received after 354.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) transaction: Box<MailTransaction>,
    pub(super) decoder: Decoder,
    refused: Option<Reply>,
}

/// A chunk being received.
#[derive(Debug)]
pub(super) struct ReceivingChunk {
    chunk: Chunk,
    octets_left: u64,
    handling: ChunkHandling,
}

/// What the session does with the octets of a chunk.
#[derive(Debug)]
enum ChunkHandling {
    /// Adds them to this message.
    Append(Box<MailTransaction>),
    /// Discards them: BDAT is out of sequence.
    OutOfSequence(Reply),
    /// Discards them: the chunk is refused.
    Refused(Reply),
}

impl ReceivingChunk {
    pub(super) fn memory_octets(&self) -> usize {
        match &self.handling {
            ChunkHandling::Append(transaction) => transaction.memory_octets(),
            ChunkHandling::OutOfSequence(_) | ChunkHandling::Refused(_) => 0,
        }
    }
}

impl Session {
    /// Replies 354 and starts to receive content.
    pub(super) fn start_data(&mut self, transaction: Box<MailTransaction>, keep: Option<u64>) -> Step {
        let limits = DataLimits { keep_octets_max: keep, ..self.settings.data };
        let decoder = Decoder::new(limits, Framing::Dots, transaction.octets_expected(&limits));
        self.phase = Phase::Data(Box::new(Receiving { transaction, decoder, refused: None }));
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
            None => self.accept(receiving.transaction, receiving.decoder),
        };
        Step { consumed, ..step }
    }

    pub(super) fn refuse_body(&mut self, mut receiving: Box<Receiving>, reply: Reply) -> Step {
        receiving.decoder.discard();
        receiving.refused.get_or_insert(reply);
        self.phase = Phase::Data(receiving);
        Step::silent(Next::ReadBody)
    }

    /// Handles BDAT. If its length cannot be parsed, the end of the chunk is unknown, and content would be parsed as
    /// commands. The session then closes the connection (RFC 5321 §7.8), as Postfix does.
    pub(super) fn begin_chunk(&mut self, transaction: Option<Box<MailTransaction>>, arguments: &str) -> Step {
        let chunk = match command::parse_bdat(arguments) {
            Ok(chunk) => chunk,
            Err(error) => return Step::reply(replies::for_command(&error), Next::Close),
        };
        if let Some(refusal) = self.check_order(Verb::Bdat, arguments, transaction.as_deref()) {
            // A client that pipelines does not know yet that every recipient was refused (RFC 2920 §3.1). This is not
            // counted as an error.
            let handling = if transaction.is_some() {
                ChunkHandling::Refused(refusal)
            } else {
                ChunkHandling::OutOfSequence(refusal)
            };
            return self.read_chunk(chunk, handling);
        }
        // An empty chunk that is not the last makes no progress, so it counts as a command without a message.
        if chunk.octets == 0 && !chunk.last && !self.count_command() {
            return Step::reply(replies::too_many_commands_421(), Next::Close);
        }
        match transaction {
            Some(transaction) if transaction.content.is_some() => {
                self.read_chunk(chunk, ChunkHandling::Append(transaction))
            }
            Some(transaction) => {
                let octets_declared = Some(transaction.options.octets.unwrap_or(chunk.octets));
                self.ask(Pending::StartChunks(transaction, chunk), Question::StartData { octets_declared })
            }
            None => self.read_chunk(chunk, ChunkHandling::OutOfSequence(replies::mail_first_503())),
        }
    }

    /// Starts to receive the first chunk.
    pub(super) fn start_chunks(
        &mut self,
        mut transaction: Box<MailTransaction>,
        chunk: Chunk,
        keep: Option<u64>,
    ) -> Step {
        transaction.options.octets.get_or_insert(chunk.octets);
        let limits = DataLimits { keep_octets_max: keep, ..limits_for(&transaction, self.settings.data) };
        let octets_expected = transaction.octets_expected(&limits);
        transaction.content = Some(Decoder::new(limits, Framing::Chunks, octets_expected));
        self.read_chunk(chunk, ChunkHandling::Append(transaction))
    }

    /// Discards the first chunk, for which the caller has no memory.
    pub(super) fn refuse_chunks(&mut self, chunk: Chunk, reply: Reply) -> Step {
        self.read_chunk(chunk, ChunkHandling::Refused(reply))
    }

    fn read_chunk(&mut self, chunk: Chunk, handling: ChunkHandling) -> Step {
        self.continue_chunk(Box::new(ReceivingChunk { chunk, octets_left: chunk.octets, handling }))
    }

    pub(super) fn receive_chunk(&mut self, mut receiving: Box<ReceivingChunk>, octets: &[u8]) -> Step {
        let consumed = usize::try_from(receiving.octets_left).unwrap_or(usize::MAX).min(octets.len());
        receiving.octets_left -= consumed as u64;
        if let ChunkHandling::Append(transaction) = &mut receiving.handling
            && let Some(content) = &mut transaction.content
        {
            content.decode(&octets[..consumed]);
        }
        Step { consumed, ..self.continue_chunk(receiving) }
    }

    pub(super) fn refuse_chunk(&mut self, mut receiving: Box<ReceivingChunk>, reply: Reply) -> Step {
        if matches!(receiving.handling, ChunkHandling::Append(_)) {
            receiving.handling = ChunkHandling::Refused(reply);
        }
        self.continue_chunk(receiving)
    }

    /// Waits for the rest of a chunk, or replies to a complete one.
    fn continue_chunk(&mut self, receiving: Box<ReceivingChunk>) -> Step {
        if receiving.octets_left > 0 {
            self.phase = Phase::Chunk(receiving);
            return Step::silent(Next::ReadBody);
        }
        let ReceivingChunk { chunk, handling, .. } = *receiving;
        let mut transaction = match handling {
            ChunkHandling::OutOfSequence(reply) => return self.fail(None, reply),
            ChunkHandling::Refused(reply) => return self.ready(None, reply),
            ChunkHandling::Append(transaction) => transaction,
        };
        if !chunk.last {
            return match transaction.content.as_ref().and_then(Decoder::error) {
                Some(error) => self.refuse_content(&transaction, error),
                None => self.ready(Some(transaction), replies::chunk_received_250(chunk.octets)),
            };
        }
        match mem::take(&mut transaction.content) {
            Some(mut content) => {
                content.end();
                self.accept(transaction, content)
            }
            None => self.ready(None, replies::local_error_451()),
        }
    }

    /// Asks the caller to accept a complete message, or refuses its content.
    fn accept(&mut self, transaction: Box<MailTransaction>, decoder: Decoder) -> Step {
        let is_truncated = decoder.is_truncated();
        let message = match decoder.finish() {
            Ok(message) => message.into(),
            Err(error) => return self.refuse_content(&transaction, error),
        };
        let envelope = transaction.into_envelope();
        let extended = self.greeting.as_ref().is_some_and(|greeting| greeting.extended);
        let protocol =
            extension::transmission_type(extended, envelope.smtputf8, self.tls, self.authenticated);
        let envelope = Box::new(envelope);
        self.ask(Pending::Accept, Question::Accept { envelope, message, is_truncated, protocol })
    }

    fn refuse_content(&mut self, transaction: &MailTransaction, error: ContentError) -> Step {
        let refusal = match error {
            ContentError::Nul | ContentError::BareNewline | ContentError::LineTooLong
                if transaction.options.binary =>
            {
                mail_transaction::refuse_binary()
            }
            error => mail_transaction::refuse_content_error(error, &self.settings.data),
        };
        self.refuse(None, Stage::Data, refusal)
    }
}

/// The limits of the content. Binary content must not be changed (RFC 3030 §3), so a bare CR or LF in it is refused
/// instead of normalized.
fn limits_for(transaction: &MailTransaction, limits: DataLimits) -> DataLimits {
    match transaction.options.binary {
        true => DataLimits { bare_newline: BareNewline::Reject, ..limits },
        false => limits,
    }
}
