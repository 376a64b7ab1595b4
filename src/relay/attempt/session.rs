//! One session of an attempt: transaction after transaction over one connection.

use std::sync::Arc;

use super::{Attempt, is_open};
use crate::mail::{BodyType, Content};
use crate::model::BounceClass;
use crate::policy::reply_verdict::Verdict;
use crate::relay::connection::{Connection, SendResult};
use crate::relay::delivery_error::DeliveryError;
use crate::relay::peer::Peer;
use crate::relay::recipient_result::RecipientResult;
use crate::relay::return_path::PlannedTransaction;
use crate::smtp::client::{Phase, Request, Target};

/// What the next step with a connection is after a session.
pub(super) enum ConnectionFate {
    /// It is kept, if it is usable.
    Kept,
    /// The server had closed it while it was idle. It does not count as a session.
    ClosedWhileIdle,
    /// The server's limit for one session, or ours for one connection, was reached. The rest goes over a new connection.
    UsedUp,
}

impl Attempt<'_> {
    /// Sends the message to the recipients without a conclusive result, in as many transactions as their reverse paths need.
    pub(super) async fn send(&mut self, connection: &mut Connection, was_idle: bool) -> ConnectionFate {
        connection.set_deadline(self.deadline);
        let was_of_use = connection.messages > 0;
        let mut has_delivered = false;
        let mut transactions = self.plan(connection).into_iter();
        let mut is_first = true;
        for transaction in transactions.by_ref() {
            if !is_first && self.is_full(connection) {
                // A server that deferred all others already is not dialled again for them.
                if transaction.recipients.iter().all(|&at| self.was_answered_by(&connection.peer, at)) {
                    break;
                }
                self.continued_sessions += 1;
                self.continued_at = Some(connection.address);
                return ConnectionFate::UsedUp;
            }
            let sent = self.transact(connection, &transaction).await;
            let is_usable = connection.is_usable();
            if is_first && was_idle && !sent.server_replied && !is_usable {
                self.transcript.remark("the connection was closed while it was idle");
                return ConnectionFate::ClosedWhileIdle;
            }
            self.sessions += usize::from(is_first);
            self.transactions += 1;
            is_first = false;
            if let Some(error) = &sent.error {
                self.transcript.remark(&error.text);
            }
            let was_interrupted = sent.error.is_some() && sent.server_replied;
            let (mut is_limited, mut is_throttled) = (false, false);
            for result in self.record_sent(&transaction, sent, &connection.peer) {
                has_delivered |= result.verdict == Verdict::Delivered;
                is_limited |= result.is_session_limit();
                is_throttled |= is_throttling(&result);
            }
            is_limited &= was_of_use || has_delivered;
            // Some servers take one message over a connection and close it, with 421 or without a word.
            // One that asks for less mail is left alone.
            is_limited |= !is_usable && !was_interrupted && has_delivered && !is_throttled;
            if is_limited && self.may_continue_at(&connection.peer) {
                self.continued_sessions += 1;
                self.continued_at = Some(connection.address);
                self.transcript
                    .remark("the server accepts no more in this session: again, over a new connection");
                return ConnectionFate::UsedUp;
            }
            // What was accepted must be recorded, or it is delivered again.
            if self.context.tasks.stop.is_cancelled() {
                break;
            }
            if !is_usable {
                self.record_unsent(transactions, &connection.peer);
                break;
            }
        }
        ConnectionFate::Kept
    }

    /// The transactions of a session with a server, those to recipients without a reply of this server first.
    fn plan(&self, connection: &Connection) -> Vec<PlannedTransaction> {
        let peer = &connection.peer;
        let is_continued = self.continued_at == Some(connection.address);
        let mut open: Vec<usize> = match is_continued {
            true => self.open_at(peer).collect(),
            false => (0..self.results.len()).filter(|&at| is_open(&self.results[at])).collect(),
        };
        open.sort_by_key(|&at| self.was_answered_by(peer, at));
        let octets = self.content.len() as u64;
        self.context.return_paths.plan(self.batch, open, self.return_host.as_ref(), octets)
    }

    /// Whether the last reply for a recipient came from this server.
    fn was_answered_by(&self, peer: &Peer, at: usize) -> bool {
        let result = self.results[at].as_ref();
        result.is_some_and(|result| result.code.is_some() && result.peer.address == peer.address)
    }

    /// The recipients without a conclusive result that this server did not defer in this attempt, except by the end of a
    /// session.
    fn open_at(&self, peer: &Peer) -> impl Iterator<Item = usize> {
        let was_deferred_here = |result: &RecipientResult| {
            let ended_session = result.is_session_limit() || result.code == Some(421);
            result.code.is_some() && !ended_session && result.peer.address == peer.address
        };
        let results = self.results.iter().enumerate();
        let open = results
            .filter(move |(_, result)| is_open(result) && !result.as_ref().is_some_and(was_deferred_here));
        open.map(|(at, _)| at)
    }

    /// Whether a new connection to the server has a use. Each session that is continued delivered something, or was over an
    /// idle connection, so there is an end.
    fn may_continue_at(&self, peer: &Peer) -> bool {
        self.open_at(peer).next().is_some() && !self.context.tasks.stop.is_cancelled()
    }

    /// Records that the connection ended before these transactions.
    fn record_unsent(&mut self, unsent: impl Iterator<Item = PlannedTransaction>, peer: &Arc<Peer>) {
        let text = "the server ended the connection after another recipient";
        let result = RecipientResult::from_error(&DeliveryError::new(Phase::Mail, text), peer);
        self.record_for(unsent.flat_map(|transaction| transaction.recipients), &result);
    }

    async fn transact(
        &mut self,
        connection: &mut Connection,
        transaction: &PlannedTransaction,
    ) -> SendResult {
        let PlannedTransaction { reverse_path, recipients } = transaction;
        // The first one was counted with the claim.
        if self.transactions > 0 {
            self.context.queue.begin_message(self.queue);
        }
        let deliveries = recipients.iter().map(|&at| &self.batch.deliveries[at]);
        let recipients: Vec<Target<'_>> = deliveries
            .map(|delivery| Target { address: &delivery.recipient, parameters: &delivery.parameters })
            .collect();
        let message = &self.batch.message;
        let request = Request {
            reverse_path,
            parameters: &message.parameters,
            recipients: &recipients,
            size_octets: self.content.len() as u64,
            eight_bit: message.body == BodyType::EightBitMime || !is_ascii(self.content),
            utf8_header: message.smtputf8 && self.content.has_utf8_header(),
            reset: false,
        };
        connection.send(&request, self.content, &mut self.transcript).await
    }

    /// Sets the results of one transaction, and returns them.
    fn record_sent(
        &mut self,
        transaction: &PlannedTransaction,
        sent: SendResult,
        peer: &Arc<Peer>,
    ) -> Vec<RecipientResult> {
        let only_recipient = transaction.recipients.len() == 1;
        let result_of = |outcome| match (outcome, &sent.error) {
            (Some(outcome), _) => RecipientResult::from_outcome(outcome, only_recipient, peer),
            (None, Some(error)) => RecipientResult {
                // The server may have accepted the message, so another host could deliver a duplicate.
                conclusive: sent.in_doubt,
                ..RecipientResult::from_error(error, peer)
            },
            (None, None) => {
                RecipientResult::from_error(&DeliveryError::new(Phase::Content, "no reply"), peer)
            }
        };
        let results: Vec<_> = sent.outcomes.into_iter().map(result_of).collect();
        for (&at, result) in transaction.recipients.iter().zip(&results) {
            self.results[at] = Some(result.clone());
        }
        results
    }

    /// Whether the connection carried as many messages as it may.
    fn is_full(&self, connection: &Connection) -> bool {
        connection.messages >= self.context.queue.messages_per_connection_max(self.queue)
    }
}

/// Whether the server wants less mail, not another session.
fn is_throttling(result: &RecipientResult) -> bool {
    matches!(result.verdict.class(), Some(BounceClass::RateLimited | BounceClass::Reputation))
}

fn is_ascii(content: &Content) -> bool {
    content.submitted.is_ascii() && content.prefix.is_ascii()
}
