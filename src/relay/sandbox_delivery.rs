//! Delivers batches of the test environment in the sandbox.

use super::outcomes::Outcomes;
use super::result_record::{CompletedAttempt, RetryConditions};
use super::sandbox::{self, SandboxScenario};
use super::sandbox_reports;
use super::worker::{Worker, jitter};
use crate::feedback::ReturnedMail;
use crate::mail::Timestamp;
use crate::queue::Claim;
use crate::store::{Batch, Reports};

impl Worker {
    /// Simulates delivery in the test environment.
    pub(super) async fn deliver_in_sandbox(&self, mut claim: Claim) {
        let slow_claim =
            claim.split_off(|delivery| SandboxScenario::of(&delivery.recipient) == SandboxScenario::Slow);
        let started_at = self.context.clock.now();
        self.record_sandbox_results(claim, started_at).await;
        if slow_claim.batch.deliveries.is_empty() {
            return;
        }
        tokio::select! {
            () = self.context.clock.sleep(sandbox::SLOW_DELAY) => self.record_sandbox_results(slow_claim, started_at).await,
            // Dropping the claim releases it.
            () = self.context.tasks.stop.cancelled() => {}
        }
    }

    async fn record_sandbox_results(&self, claim: Claim, started_at: Timestamp) {
        if claim.batch.deliveries.is_empty() {
            return;
        }
        let now = self.context.clock.now();
        let mut outcomes = Outcomes::default();
        for delivery in &claim.batch.deliveries {
            let scenario = SandboxScenario::of(&delivery.recipient);
            let transcript =
                sandbox::dialogue(&claim.batch, delivery, &scenario.outcome(delivery.attempts)).into();
            let duration_ms = u64::try_from(now.duration_since(started_at).as_millis()).unwrap_or(0);
            let completed = CompletedAttempt {
                batch: &claim.batch,
                started_at,
                now,
                duration_ms,
                transcript: &transcript,
            };
            let retry = RetryConditions { jitter: jitter(&self.context.rng), give_up_at: None };
            let mut record = completed.record(delivery, &sandbox::result_of(scenario, delivery), retry);
            scenario.adjust(&mut record, delivery, now);
            outcomes.add(&claim.batch.message, delivery, record, false);
        }
        let content = claim.batch.content.clone();
        let returned = self.returned_by_sandbox(&claim.batch);
        if !self.send_to_writer(claim, content.as_ref(), outcomes).await {
            return;
        }
        let Some(returns) = &self.context.sandbox_returns else { return };
        for mail in returned {
            // The reader ends with the server, and what waits is lost.
            let _ = returns.send(mail).await;
        }
    }

    fn returned_by_sandbox(&self, batch: &Batch) -> Vec<ReturnedMail> {
        let keys = self.context.store.token_keys();
        let host = &self.context.settings.hostname;
        let returned = batch.deliveries.iter().filter_map(|delivery| {
            let scenario = SandboxScenario::of(&delivery.recipient);
            sandbox_reports::returned_mail(scenario, delivery, &keys, host)
        });
        returned.collect()
    }
}
