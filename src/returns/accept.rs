//! Takes a message that came back: reads it, finds what it is about, decides what follows, and records all of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::decision::{Decision, Facts, decide, reply_text};
use super::{Mailbox, ReturnsService, attribution, storage_refusal};
use crate::feedback::{self, Complaint, FeedbackContent, ReturnedMail};
use crate::mail::ReversePath;
use crate::model::{Refusal, RefusalCode, ReportEffect, ReportId};
use crate::store::{NewReport, REPORT_RAW_OCTETS_MAX, Report, ReportTarget, Reporter, Reports};

/// How long the sandbox waits until a delivery is recorded.
const SANDBOX_RETRY: Duration = Duration::from_millis(100);

impl ReturnsService {
    /// Records a message with everything that follows from it. After `Ok` all of it is on disk.
    ///
    /// # Errors
    /// The refusal.
    pub async fn accept(&self, mailbox: Mailbox, mail: ReturnedMail) -> Result<ReportId, Refusal> {
        let recorded = self.record(mailbox, mail).await;
        if let Err(refusal) = &recorded {
            self.counters.count_refusal(refusal.code);
        }
        recorded
    }

    async fn record(&self, mailbox: Mailbox, mail: ReturnedMail) -> Result<ReportId, Refusal> {
        if matches!(mailbox, Mailbox::Probe) {
            return Err(Refusal::new(
                RefusalCode::MailboxUnknown,
                "this address takes no messages",
                "it is for probes of this server",
            ));
        }
        let is_letter = matches!(mailbox, Mailbox::Postmaster);
        let is_of_loop = matches!(mailbox, Mailbox::Feedback);
        let feedback = feedback::read(&mail.octets, &mail.sender);
        let signer = self.check_signature(&feedback, &mail, mailbox.tenant_id()).await?;
        let token = attribution::attribute(self, mailbox, &feedback, signer.as_ref()).await;
        let token = token.map_err(storage_refusal)?;
        let now = self.clock.now();
        let facts =
            Facts { token: token.as_ref(), feedback: &feedback, mail: &mail, signer: signer.as_ref(), now };
        let mut decision = decide(&facts);
        let site = match &token {
            Some(token) => self.complete_failure(token, &feedback, &mut decision, now).await,
            None => None,
        };
        let is_for_people = is_letter || is_of_loop && decision.effect == ReportEffect::Unattributed;
        let dsn = match &token {
            Some(token) => self.reissue(token, &feedback, &decision).await,
            None => None,
        };
        let new = NewReport {
            report: self.describe(&facts, &decision),
            digest: decision.digest,
            raw: feedback::excerpt(&mail.octets, REPORT_RAW_OCTETS_MAX).to_vec(),
            consequence: decision.consequence,
            dsn,
            at: now,
        };
        let recorded = self.store.record_report(new).await.map_err(storage_refusal)?;
        self.counters.count_report(decision.kind, recorded.effect);
        if let (Some((site, results)), true) = (site, recorded.is_new) {
            self.queue.note_results(&site, results).await;
        }
        tracing::info!(report = %recorded.id, kind = %decision.kind, effect = %recorded.effect, "report recorded");
        if let Some(forwarder) = self.forwarder.as_ref().filter(|_| is_for_people) {
            forwarder.forward(&mail, recorded.id, now).await;
        }
        Ok(recorded.id)
    }

    /// Takes the messages that the sandbox sends back, until `stop`.
    pub async fn run_sandbox(
        self: Arc<Self>,
        mut mail: mpsc::Receiver<ReturnedMail>,
        stop: CancellationToken,
    ) {
        while let Some(Some(mail)) = stop.run_until_cancelled(mail.recv()).await {
            let mailbox = loop {
                match self.find_mailbox(&mail.recipient).await {
                    // The delivery is being recorded.
                    Err(refusal) if refusal.code == RefusalCode::ReportEarly => {
                        if stop.run_until_cancelled(self.clock.sleep(SANDBOX_RETRY)).await.is_none() {
                            return;
                        }
                    }
                    admitted => break admitted,
                }
            };
            let recorded = match mailbox {
                Ok(mailbox) => self.accept(mailbox, mail).await,
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = recorded {
                tracing::warn!(code = %refusal.code, "a report of the sandbox was not recorded");
            }
        }
    }

    fn describe(&self, facts: &Facts<'_>, decision: &Decision) -> Report {
        let target = facts.token.map(|token| &token.target);
        let delivery = target.and_then(ReportTarget::recipient);
        let group = decision.group.as_ref();
        let failed = facts.feedback.content.failure(group);
        let complaint = match &facts.feedback.content {
            FeedbackContent::Complaint(complaint) => Some(complaint),
            _ => None,
        };
        Report {
            id: ReportId::generate(facts.now),
            tenant_id: target.map(|target| target.message.tenant_id),
            environment: target.map(|target| target.message.environment),
            message_id: target.map(|target| target.message.id),
            delivery_id: delivery.map(|delivery| delivery.id),
            kind: decision.kind,
            rule: facts.feedback.rule.to_owned(),
            effect: decision.effect,
            action: group.map(|group| group.action),
            status: failed.and_then(|failed| failed.reply.enhanced),
            bounce_class: failed.map(|failed| failed.class),
            feedback_type: complaint.map(|complaint| complaint.feedback_type),
            recipient: group.and_then(|group| group.final_recipient.as_ref()).map(ToString::to_string),
            reply: failed.map(|failed| reply_text(&failed.reply)).filter(|text| !text.is_empty()),
            reporter: reporter(facts, complaint),
            times: 1,
            has_raw: true,
            created_at: facts.now,
            last_at: facts.now,
        }
    }
}

fn reporter(facts: &Facts<'_>, complaint: Option<&Complaint>) -> Reporter {
    let Facts { feedback, mail, signer, .. } = *facts;
    let reporting_mta = match &feedback.content {
        FeedbackContent::Dsn(status) => status.reporting_mta.clone(),
        _ => complaint.and_then(|complaint| complaint.user_agent.clone()),
    };
    let sender = match &mail.sender {
        ReversePath::Null => None,
        sender => Some(sender.to_string()),
    };
    Reporter {
        ip: mail.peer.as_ref().map(|peer| peer.ip),
        helo: mail.peer.as_ref().map(|peer| peer.helo.clone()),
        dkim: signer.cloned(),
        mta: reporting_mta,
        sender,
    }
}
