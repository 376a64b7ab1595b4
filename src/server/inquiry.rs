//! The session's questions, put to intake, and its answers in words of SMTP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::answers;
use crate::intake::{AuthenticationError, Intake, Submission, Submitter, Trace};
use crate::mail::{KeyId, Refusal, RequestId, Stage};
use crate::smtp::{Credentials, Question, Reply, Verdict, replies};

/// What a failed login costs the client.
const FAILED_LOGIN_DELAY: Duration = Duration::from_millis(500);

/// What is known of the client of one connection.
pub struct Inquiry {
    intake: Arc<Intake>,
    client: IpAddr,
    tls: Option<String>,
    submitter: Option<Arc<Submitter>>,
}

impl Inquiry {
    pub fn new(intake: Arc<Intake>, client: IpAddr) -> Self {
        Self { intake, client, tls: None, submitter: None }
    }

    /// The connection is secured; RFC 3207 §4.2: whoever it was before, it is nobody now.
    pub fn set_tls(&mut self, agreed: String) {
        self.tls = Some(agreed);
        self.submitter = None;
    }

    /// Answers one question. `helo` is the client's name for itself.
    pub async fn put(&mut self, question: Question, helo: &str) -> Verdict {
        if let Question::Authenticate(credentials) = question {
            return self.authenticate(&credentials).await;
        }
        // The session asks nothing else before a login.
        let Some(submitter) = self.submitter.clone() else {
            return Verdict::Refused(replies::authentication_required_530());
        };
        let (stage, outcome) = match question {
            Question::Authenticate(_) | Question::StartData { .. } => return Verdict::Granted,
            Question::AdmitSender(path) => (Stage::Mail, self.intake.admit_sender(&submitter, &path).await),
            Question::AdmitRecipient { address, smtputf8 } => {
                (Stage::Rcpt, self.intake.admit_recipient(&submitter, &address, smtputf8).await)
            }
            Question::Accept { envelope, message, protocol } => {
                let trace = Trace { helo: helo.to_owned(), protocol, tls: self.tls.clone() };
                let submission = Submission { submitter: submitter.clone(), envelope, message, trace };
                match self.intake.accept(submission).await {
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
        let Credentials { username, password } = credentials;
        let refused = match self.intake.authenticate(username, password, self.client).await {
            Ok(submitter) => {
                tracing::debug!(key = %submitter.key.id, "logged in");
                self.submitter = Some(Arc::new(submitter));
                return Verdict::Granted;
            }
            Err(AuthenticationError::Unavailable) => replies::authentication_unavailable_454(),
            Err(AuthenticationError::Rejected) => replies::bad_credentials_535(),
            Err(AuthenticationError::Refused(refusal)) => answers::login_reply(&refusal),
        };
        // People type passwords into the wrong field, so only what is surely a name is logged.
        let username =
            username.parse::<KeyId>().map_or_else(|_| "(not a key id)".to_owned(), |id| id.to_string());
        tracing::warn!(username, code = refused.code, "login failed");
        tokio::time::sleep(FAILED_LOGIN_DELAY).await;
        Verdict::Refused(refused)
    }

    /// Words a refusal, and notes it for the tenant unless the fault is ours.
    fn refuse(&self, submitter: &Submitter, stage: Stage, refusal: &Refusal) -> Reply {
        let reference: Option<RequestId> = answers::concerns_tenant(refusal.code)
            .then(|| self.intake.note_rejection(submitter, stage, refusal))
            .flatten();
        let reply = answers::reply(refusal, reference);
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
