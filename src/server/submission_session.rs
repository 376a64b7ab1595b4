//! Decides the questions of a session of submission with the `submission` service and returns SMTP verdicts.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use tokio_util::sync::CancellationToken;

use super::session_services::Peer;
use super::{Server, refusal_replies};
use crate::limits::auth_limiter::AuthDecision;
use crate::model::{KeyId, Refusal, RequestId, Stage, TenantId};
use crate::smtp::server::replies;
use crate::smtp::{Credentials, Question, Reply, ScramParameters, ScramProof, Verdict};
use crate::store::ScramCredential;
use crate::submission::{
    AuthenticationError, Submission, SubmissionExtras, SubmissionService, Submitter, Trace,
    strip_login_domain,
};
use crate::telemetry::FLOOD;

/// Octets of the SCRAM server nonce.
const NONCE_OCTETS: usize = 24;

/// One session of submission, and the state of its client.
pub struct SubmissionSession {
    server: Arc<Server>,
    submission: Arc<SubmissionService>,
    peer: Peer,
    stop: CancellationToken,
    tls: Option<String>,
    submitter: Option<Arc<Submitter>>,
    /// The user whose SCRAM proof is expected next.
    scram: Option<Box<ScramExchange>>,
}

/// A user, and the credential to verify its proof.
struct ScramExchange {
    username: String,
    credential: ScramCredential,
}

impl SubmissionSession {
    pub fn new(
        server: Arc<Server>,
        submission: Arc<SubmissionService>,
        peer: Peer,
        stop: CancellationToken,
    ) -> Self {
        Self { server, submission, peer, stop, tls: None, submitter: None, scram: None }
    }

    /// Call after a TLS handshake. Discards an earlier authentication (RFC 3207 §4.2).
    pub fn set_tls(&mut self, secured: String) {
        self.tls = Some(secured);
        self.submitter = None;
    }

    /// Decides one question. `helo` is the EHLO name of the client.
    pub async fn handle(&mut self, question: Question, helo: &str) -> Verdict {
        let question = match question {
            Question::Authenticate(credentials) => return self.authenticate(&credentials).await,
            Question::FindUser(username) => return self.find_user(&username).await,
            Question::CheckProof(proof) => return self.check_proof(&proof).await,
            question => question,
        };
        // The session asks nothing else before authentication.
        let Some(submitter) = self.submitter.clone() else {
            return Verdict::Refused(replies::authentication_required_530());
        };
        let (stage, outcome) = match question {
            Question::StartData { .. } => return Verdict::Granted,
            Question::Authenticate(_) | Question::FindUser(_) | Question::CheckProof(_) => {
                return Verdict::Refused(replies::local_error_451());
            }
            Question::AdmitSender(path) => {
                (Stage::Mail, self.submission.admit_sender(&submitter, &path, false).await)
            }
            Question::AdmitRecipient { address, smtputf8, earlier } => {
                let admitted = self.submission.admit_recipient(&submitter, &address, smtputf8, Some(earlier));
                (Stage::Rcpt, admitted.await)
            }
            Question::Accept { envelope, message, protocol, .. } => {
                let trace = Trace { helo: helo.to_owned(), protocol, tls: self.tls.clone() };
                let submission = Submission {
                    submitter: submitter.clone(),
                    envelope: *envelope,
                    message,
                    trace,
                    extras: SubmissionExtras::default(),
                    received_at: self.server.clock.instant(),
                };
                match self.submission.accept(submission).await {
                    Ok(id) => return Verdict::Queued(id),
                    Err(refusal) => (Stage::Data, Err(refusal)),
                }
            }
            Question::Refuse { stage, refusal } => (stage, Err(refusal)),
        };
        match outcome {
            Ok(()) => Verdict::Granted,
            Err(refusal) => Verdict::Refused(self.refuse(&submitter, stage, &refusal)),
        }
    }

    async fn authenticate(&mut self, credentials: &Credentials) -> Verdict {
        if let Some(banned) = self.check_ban() {
            return banned;
        }
        let Credentials { username, password } = credentials;
        let username = strip_login_domain(username);
        match self.submission.authenticate(username, password, self.peer.client).await {
            Ok(submitter) => self.log_in(submitter, Verdict::Granted),
            Err(error) => self.refuse_login(username, error).await,
        }
    }

    async fn find_user(&mut self, username: &str) -> Verdict {
        if let Some(banned) = self.check_ban() {
            return banned;
        }
        let username = strip_login_domain(username).to_owned();
        let credential = match self.submission.scram_credential(&username).await {
            Ok(credential) => credential,
            Err(error) => return self.refuse_login(&username, error).await,
        };
        let verifier = &credential.verifier;
        let nonce: [u8; NONCE_OCTETS] = rand::random();
        let parameters = ScramParameters {
            salt: verifier.salt().to_vec(),
            iterations: verifier.iterations(),
            nonce: STANDARD_NO_PAD.encode(nonce),
        };
        self.scram = Some(Box::new(ScramExchange { username, credential }));
        Verdict::Scram(parameters)
    }

    async fn check_proof(&mut self, proof: &ScramProof) -> Verdict {
        // The session passes a proof only after `FindUser`.
        let Some(exchange) = self.scram.take() else { return Verdict::Refused(replies::local_error_451()) };
        let checked = self
            .submission
            .authenticate_by_proof(&exchange.credential, &proof.auth_message, &proof.octets, self.peer.client)
            .await;
        match checked {
            Ok((submitter, signature)) => self.log_in(submitter, Verdict::Proven(signature)),
            Err(error) => self.refuse_login(&exchange.username, error).await,
        }
    }

    /// The authenticated tenant.
    pub fn tenant_id(&self) -> Option<TenantId> {
        self.submitter.as_ref().map(|submitter| submitter.tenant.id)
    }

    /// The refusal of a banned address, before any look-up.
    fn check_ban(&self) -> Option<Verdict> {
        let until = self.server.bans.banned_until(self.peer.client, self.server.clock.now())?;
        Some(Verdict::Refused(replies::banned_421(until)))
    }

    fn log_in(&mut self, submitter: Submitter, granted: Verdict) -> Verdict {
        self.server.bans.record_success(self.peer.client, submitter.key.id);
        if self.peer.slot.evicted().is_cancelled() {
            return Verdict::Refused(replies::too_many_connections_421());
        }
        if self.peer.slot.set_tenant(submitter.tenant.id).is_err() {
            tracing::warn!(target: FLOOD, "too many connections of tenant {}", submitter.tenant.slug);
            return Verdict::Refused(replies::too_many_of_tenant_421());
        }
        tracing::debug!(key = %submitter.key.id, "logged in");
        self.submitter = Some(Arc::new(submitter));
        granted
    }

    async fn refuse_login(&self, username: &str, error: AuthenticationError) -> Verdict {
        let (reply, reason) = match error {
            AuthenticationError::Unavailable => {
                (replies::authentication_unavailable_454(), "the store is unavailable")
            }
            AuthenticationError::Refused(refusal) => {
                (refusal_replies::login_reply(&refusal), refusal.code.as_str())
            }
            AuthenticationError::Rejected(reason) => (self.fail_login(username).await, reason),
        };
        // Users type passwords into the wrong field, so only a valid key id is logged.
        let username = if username.parse::<KeyId>().is_ok() { username } else { "(not a key id)" };
        tracing::warn!(username, reply = reply.code, reason, "login failed");
        Verdict::Refused(reply)
    }

    /// The reply to wrong credentials, after the delay imposed by the limiter.
    async fn fail_login(&self, username: &str) -> Reply {
        let failure = self.server.bans.record_failure(self.peer.client, username, self.server.clock.now());
        for ban in &failure.new_bans {
            self.submission.record_ban(ban).await;
        }
        match failure.decision {
            AuthDecision::Ban(until) => replies::banned_421(until),
            AuthDecision::Delay(delay) => {
                tokio::select! {
                    () = self.server.clock.sleep(delay) => {}
                    () = self.stop.cancelled() => {}
                }
                replies::bad_credentials_535()
            }
        }
    }

    /// The reply to a refusal, which is recorded for the tenant unless it is a fault of the server.
    fn refuse(&self, submitter: &Submitter, stage: Stage, refusal: &Refusal) -> Reply {
        let reference: Option<RequestId> = refusal_replies::is_recorded(refusal.code)
            .then(|| {
                let id = RequestId::generate(self.server.clock.now());
                self.submission.record_rejection(id, submitter, stage, refusal)
            })
            .flatten();
        let reply = refusal_replies::reply(refusal, reference);
        if !refusal_replies::is_recorded(refusal.code) {
            // A fault of the server concerns every message for a while.
            tracing::warn!(target: FLOOD, key = %submitter.key.id, %stage, reply = reply.code, "refused: {}", refusal.code);
            return reply;
        }
        tracing::info!(
            key = %submitter.key.id,
            tenant = %submitter.tenant.slug,
            %stage,
            code = %refusal.code,
            reply = reply.code,
            reference = reference.map(tracing::field::display),
            "refused"
        );
        reply
    }
}
