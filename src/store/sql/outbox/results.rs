//! Results of attempts to post events, and what follows for their webhooks.
//!
//! On PostgreSQL they are written beside the jobs of other lanes and nodes, unless they may disable the webhook, which is
//! announced. Lanes never wait for each other in a circle: the deliveries of a transaction are locked in the order of their
//! ids when it begins, and rows that another lane is changing are passed over.

use std::cell::RefCell;
use std::collections::HashMap;

use super::deliveries::TRIES_IN_ORDER;
use super::webhooks;
use crate::mail::Timestamp;
use crate::model::{DisabledReason, MessageId, WebhookDeliveryId, WebhookDeliveryState, WebhookId};
use crate::store::database::{self, Connection, Engine, OptionalExtension, WriterLock, params};
use crate::store::sql::sql_types::{shorten, to_json, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Result, WebhookAttempt, WebhookOutcome, WebhookVerdict};

/// Maximum of stored octets of a response or error.
const EVIDENCE_OCTETS_MAX: usize = 1024;

/// A pending delivery.
struct PendingDelivery {
    message: Option<MessageId>,
    attempts: u32,
}

/// In PostgreSQL, the pending deliveries whose results a transaction writes. They are locked.
#[derive(Default)]
pub(in crate::store::sql) struct WebhookResults {
    pending: RefCell<HashMap<WebhookDeliveryId, PendingDelivery>>,
    /// The webhooks that fail, as far as the transaction knows.
    failing: RefCell<HashMap<WebhookId, bool>>,
}

impl WebhookResults {
    /// Locks these deliveries.
    pub(in crate::store::sql) fn lock(
        &self,
        connection: &Connection,
        ids: &[WebhookDeliveryId],
    ) -> database::Result<()> {
        let sql = "SELECT d.id, d.message_id, d.attempts, w.id, w.failing_since_us IS NOT NULL
                   FROM webhook_delivery d JOIN webhook w ON w.id = d.webhook_id
                   WHERE d.id = ANY (string_to_array(?1, ',')) AND d.next_attempt_us IS NOT NULL
                   ORDER BY d.id FOR NO KEY UPDATE OF d";
        let list = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([list])?;
        while let Some(row) = rows.next()? {
            let pending = PendingDelivery { message: row.get(1)?, attempts: row.get(2)? };
            self.pending.borrow_mut().insert(row.get(0)?, pending);
            self.failing.borrow_mut().insert(row.get(3)?, row.get(4)?);
        }
        Ok(())
    }
}

/// Whether a result may disable its webhook, so that its job runs alone. Health is read before, and a job that runs beside
/// others leaves what it finds changed to the next result.
pub(super) fn may_disable(connection: &Connection, outcome: &WebhookOutcome) -> Result<bool> {
    match outcome.verdict {
        WebhookVerdict::Delivered => Ok(false),
        WebhookVerdict::Gone => Ok(true),
        WebhookVerdict::Retry(_) | WebhookVerdict::GivenUp => {
            let webhook = webhooks::find(connection, outcome.webhook_id)?;
            let since = webhook.and_then(|webhook| webhook.failing_since);
            Ok(since.is_some_and(|since| since <= outcome.failing_since_max))
        }
    }
}

/// Writes the result of an attempt and its consequence for the webhook.
pub(super) fn record(tx: &Tx<'_>, outcome: &WebhookOutcome) -> Result<()> {
    let (state, next_us) = match outcome.verdict {
        WebhookVerdict::Delivered => (WebhookDeliveryState::Delivered, None),
        WebhookVerdict::Retry(at) => (WebhookDeliveryState::Pending, Some(us(at))),
        WebhookVerdict::GivenUp | WebhookVerdict::Gone => (WebhookDeliveryState::Failed, None),
    };
    let Some(PendingDelivery { message, attempts }) = write(tx, outcome, state, next_us)? else {
        return Ok(());
    };
    if let Some(at_us) = next_us {
        if let Some(message) = message.filter(|_| attempts + 1 < TRIES_IN_ORDER) {
            postpone_successors(tx, outcome, message, at_us)?;
        }
        tx.touched_webhooks.touch(outcome.webhook_id, at_us);
    }
    match tx.lock {
        WriterLock::Exclusive => note_health_and_disable(tx, outcome),
        WriterLock::Shared => note_health(tx, outcome),
    }
}

/// Returns the delivery as it was; `None` if it is not pending.
fn write(
    tx: &Tx<'_>,
    outcome: &WebhookOutcome,
    state: WebhookDeliveryState,
    next_us: Option<i64>,
) -> Result<Option<PendingDelivery>> {
    let attempt = &outcome.attempt;
    let shown = to_json(&WebhookAttempt {
        response: shorten(&attempt.response, EVIDENCE_OCTETS_MAX).to_owned(),
        error: attempt.error.as_deref().map(|text| shorten(text, EVIDENCE_OCTETS_MAX).to_owned()),
        ..attempt.clone()
    })?;
    let row = params![outcome.delivery_id, state, next_us, shown];
    let sql = "UPDATE webhook_delivery SET state = ?2, attempts = attempts + 1, next_attempt_us = ?3, last_attempt = ?4
               WHERE id = ?1 AND next_attempt_us IS NOT NULL";
    match tx.engine() {
        Engine::Sqlite => {
            let sql = format!("{sql} RETURNING message_id, attempts - 1");
            let pending = tx
                .prepare_cached(&sql)?
                .query_row(row, |row| Ok(PendingDelivery { message: row.get(0)?, attempts: row.get(1)? }));
            Ok(pending.optional()?)
        }
        Engine::Postgres => {
            let pending = tx.webhook_results.pending.borrow_mut().remove(&outcome.delivery_id);
            if pending.is_some() {
                tx.prepare_cached(sql)?.post(row)?;
            }
            Ok(pending)
        }
    }
}

macro_rules! successors {
    () => {
        "webhook_id = ?1 AND message_id = ?2 AND id > ?3 AND next_attempt_us < ?4"
    };
}

/// Postpones the deliveries that wait for an event.
pub(in crate::store::sql) const POSTPONE_SUCCESSORS: &str =
    concat!("UPDATE webhook_delivery SET next_attempt_us = ?4 WHERE ", successors!());
const POSTPONE_SUCCESSORS_BESIDE_OTHERS: &str = concat!(
    "WITH waiting AS (SELECT id FROM webhook_delivery WHERE ",
    successors!(),
    " ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
     UPDATE webhook_delivery SET next_attempt_us = ?4 FROM waiting WHERE webhook_delivery.id = waiting.id"
);

/// Deliveries that wait for an event are not due before it.
fn postpone_successors(tx: &Tx<'_>, outcome: &WebhookOutcome, message: MessageId, at_us: i64) -> Result<()> {
    let sql = match tx.engine() {
        Engine::Sqlite => POSTPONE_SUCCESSORS,
        Engine::Postgres => POSTPONE_SUCCESSORS_BESIDE_OTHERS,
    };
    let row = params![outcome.webhook_id, message, outcome.delivery_id, at_us];
    Ok(tx.prepare_cached(sql)?.post(row)?)
}

fn note_health_and_disable(tx: &Tx<'_>, outcome: &WebhookOutcome) -> Result<()> {
    let WebhookOutcome { webhook_id: id, attempt, verdict, failing_since_max, .. } = outcome;
    let since = webhooks::note_health(tx, *id, failed_at(outcome))?;
    if *verdict == WebhookVerdict::Gone {
        webhooks::disable(tx, *id, DisabledReason::Gone, attempt.at)?;
    } else if since.is_some_and(|since| since <= *failing_since_max) {
        webhooks::disable(tx, *id, DisabledReason::Failing, attempt.at)?;
    }
    Ok(())
}

/// Beside other lanes: writes the row of the webhook only when its health changes, and not while another lane does so.
fn note_health(tx: &Tx<'_>, outcome: &WebhookOutcome) -> Result<()> {
    let failed_at = failed_at(outcome);
    let before = tx.webhook_results.failing.borrow_mut().insert(outcome.webhook_id, failed_at.is_some());
    if before == Some(failed_at.is_some()) {
        return Ok(());
    }
    let sql = "WITH changed AS (SELECT id FROM webhook WHERE id = ?1 AND (failing_since_us IS NULL) = (CAST(?2 AS BIGINT) IS NOT NULL)
                                FOR NO KEY UPDATE SKIP LOCKED)
               UPDATE webhook SET failing_since_us = CAST(?2 AS BIGINT) FROM changed WHERE webhook.id = changed.id";
    Ok(tx.prepare_cached(sql)?.post(params![outcome.webhook_id, failed_at.map(us)])?)
}

fn failed_at(outcome: &WebhookOutcome) -> Option<Timestamp> {
    (outcome.verdict != WebhookVerdict::Delivered).then_some(outcome.attempt.at)
}
