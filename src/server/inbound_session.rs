//! Decides the questions of a session of another server with the `returns` service and returns SMTP verdicts.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::session_services::Peer;
use super::{Server, refusal_replies};
use crate::feedback::{ReturnPeer, ReturnedMail};
use crate::limits::auth_limiter::AuthDecision;
use crate::mail::{Address, Envelope};
use crate::model::{Refusal, RefusalCode, Stage, TenantId};
use crate::returns::{Mailbox, ReturnsService};
use crate::smtp::server::replies;
use crate::smtp::{Question, Reply, Verdict};
use crate::telemetry::FLOOD;

/// One session with a server that sends reports.
pub struct InboundSession {
    server: Arc<Server>,
    returns: Arc<ReturnsService>,
    peer: Peer,
    stop: CancellationToken,
    /// The mailbox of the recipient of this transaction.
    mailbox: Option<Mailbox>,
    /// Whether a recipient was accepted.
    is_admitted: bool,
}

impl InboundSession {
    pub fn new(
        server: Arc<Server>,
        returns: Arc<ReturnsService>,
        peer: Peer,
        stop: CancellationToken,
    ) -> Self {
        Self { server, returns, peer, stop, mailbox: None, is_admitted: false }
    }

    /// Whether a recipient was accepted in this session.
    pub fn is_admitted(&self) -> bool {
        self.is_admitted
    }

    /// The tenant of the message that the next report is about; `None` if the recipient has no token.
    pub fn tenant_id(&self) -> Option<TenantId> {
        self.mailbox.as_ref().and_then(Mailbox::tenant_id)
    }

    /// How much of the next message is kept.
    pub fn keep_octets_max(&self) -> u64 {
        self.mailbox.as_ref().map_or(0, Mailbox::keep_octets_max)
    }

    /// Decides one question. `helo` is the EHLO name of the client.
    pub async fn handle(&mut self, question: Question, helo: &str) -> Verdict {
        match question {
            // Any sender may report: the recipient proves what the report is about.
            Question::AdmitSender(_) => {
                self.mailbox = None;
                self.check_ban()
            }
            Question::AdmitRecipient { address, .. } => self.admit_recipient(&address).await,
            Question::Accept { envelope, message, is_truncated, .. } => {
                let Envelope { reverse_path, mut recipients, .. } = *envelope;
                let (Some(mailbox), Some(recipient)) = (self.mailbox.take(), recipients.pop()) else {
                    return Verdict::Refused(replies::local_error_451());
                };
                let mail = ReturnedMail {
                    recipient: recipient.address,
                    sender: reverse_path,
                    octets: message,
                    is_truncated,
                    peer: Some(ReturnPeer { ip: self.peer.client, helo: helo.to_owned() }),
                };
                match self.returns.accept(mailbox, mail).await {
                    Ok(id) => Verdict::Recorded(id),
                    Err(refusal) => Verdict::Refused(log_refused(Stage::Data, &refusal)),
                }
            }
            Question::Refuse { stage, refusal } => {
                self.returns.count_refusal(refusal.code);
                Verdict::Refused(log_refused(stage, &refusal))
            }
            // The connection answers `StartData`, and the session has no AUTH.
            Question::StartData { .. }
            | Question::Authenticate(_)
            | Question::FindUser(_)
            | Question::CheckProof(_) => Verdict::Refused(replies::local_error_451()),
        }
    }

    /// A ban that began in another session of the network.
    fn check_ban(&self) -> Verdict {
        match self.server.bans.banned_until(self.peer.client, self.server.clock.now()) {
            Some(until) => Verdict::Refused(replies::banned_network_421(until)),
            None => Verdict::Granted,
        }
    }

    async fn admit_recipient(&mut self, address: &Address) -> Verdict {
        match self.returns.admit_recipient(address).await {
            Ok(mailbox) => {
                let is_letter = matches!(mailbox, Mailbox::Feedback | Mailbox::Postmaster);
                if is_letter && !self.server.letters.take(self.peer.client, self.server.clock.now()) {
                    return self.refuse_letter();
                }
                // Anyone can write to postmaster or to a feedback loop, so these keep no slot.
                if let Some(tenant) = mailbox.tenant_id()
                    && self.peer.slot.set_tenant(tenant).is_err()
                {
                    return Verdict::Refused(replies::too_many_connections_421());
                }
                self.is_admitted = true;
                self.mailbox = Some(mailbox);
                Verdict::Granted
            }
            Err(refusal) => {
                let reply = log_refused(Stage::Rcpt, &refusal);
                // These are refused only after the token was verified, so they are no guesses.
                let is_proved =
                    matches!(refusal.code, RefusalCode::ReportAddressExpired | RefusalCode::ReportsExhausted);
                let is_guess = reply.code >= 500 && !is_proved;
                Verdict::Refused(if is_guess { self.punish(address, reply).await } else { reply })
            }
        }
    }

    /// Each letter is a commit, and nothing proves its sender, so a network may send only some.
    fn refuse_letter(&self) -> Verdict {
        let refusal = Refusal::new(
            RefusalCode::TooManyReports,
            "too many messages came from your network to addresses without a token",
            "try again in a minute",
        );
        self.returns.count_refusal(refusal.code);
        Verdict::Refused(log_refused(Stage::Rcpt, &refusal))
    }

    /// Counts a recipient that is refused for good, and delays the reply: such recipients are guesses.
    async fn punish(&self, address: &Address, reply: Reply) -> Reply {
        let now = self.server.clock.now();
        match self.server.bans.record_failure(self.peer.client, &address.to_string(), now).decision {
            AuthDecision::Ban(until) => replies::banned_network_421(until),
            AuthDecision::Delay(delay) => {
                tokio::select! {
                    () = self.server.clock.sleep(delay) => {}
                    () = self.stop.cancelled() => {}
                }
                reply
            }
        }
    }
}

/// The reply to a refusal. The log has no address: it may contain a token.
fn log_refused(stage: Stage, refusal: &Refusal) -> Reply {
    let reply = refusal_replies::reply(refusal, None);
    tracing::info!(target: FLOOD, %stage, code = %refusal.code, reply = reply.code, "report refused");
    reply
}
