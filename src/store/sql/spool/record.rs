//! Writes results of attempts: state, attempt, events, suppression and report.

use std::sync::Arc;

use serde::Serialize;

use super::enqueue::EnqueueJob;
use super::queue_rows::{self, HeldDelivery};
use crate::model::{AttemptId, BounceClass, DeliveryState, EventKind, MessageKind, ReportId};
use crate::store::database::{Engine, OptionalExtension, params};
use crate::store::memory::DeliveryResult;
use crate::store::sql::directory::suppress;
use crate::store::sql::events::Subject;
use crate::store::sql::job::{ResultsOfJob, RowsOfJob};
use crate::store::sql::sql_types::{shorten, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::sql::writer::HotJob;
use crate::store::{
    Attempt, AttemptRecord, RecordedDelivery, Result, SpoolChange, SpoolFeed, UsageCounts, UsedBy,
};

pub(in crate::store::sql) const REPLY_OCTETS_MAX: usize = 1024;

/// Results of attempts, to be written.
pub(super) struct RecordJob {
    pub(super) feed: Arc<SpoolFeed>,
    pub(super) records: Vec<AttemptRecord>,
    pub(super) report: Option<EnqueueJob>,
}

/// The data of the event of a delivery.
#[derive(Default, Serialize)]
pub(in crate::store::sql) struct DeliveryData<'a> {
    pub(in crate::store::sql) recipient: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store::sql) host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store::sql) code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store::sql) enhanced: Option<String>,
    pub(in crate::store::sql) reply: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store::sql) bounce_class: Option<BounceClass>,
    pub(in crate::store::sql) attempts: u32,
    /// Whether the delay is reported to the sender.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::store::sql) delayed: bool,
    /// Whether the delivery had succeeded, and the failure was reported later.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::store::sql) late: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store::sql) report_id: Option<ReportId>,
}

/// The last written transcript and its attempt.
struct StoredTranscript<'a> {
    attempt_id: AttemptId,
    transcript: &'a Arc<str>,
}

impl RecordJob {
    /// Returns whether any of the deliveries still existed.
    pub(super) fn write(&self, tx: &Tx<'_>) -> Result<bool> {
        let mut any_was_open = false;
        let mut stored = None;
        for record in &self.records {
            any_was_open |= write_one(tx, record, &mut stored)?;
        }
        // The tenant may have been deleted.
        if let Some(report) = self.report.as_ref().filter(|_| any_was_open) {
            report.write(tx)?;
        }
        Ok(any_was_open)
    }

    /// How its lane runs it; its results if it must run alone, because it suppresses an address or takes a submission key.
    pub(super) fn as_hot_job(&self) -> std::result::Result<HotJob, ResultsOfJob> {
        let attempts = self.records.iter().filter_map(|record| Some(record.attempt.as_ref()?.id));
        let results = ResultsOfJob {
            deliveries: self.records.iter().map(|record| record.delivery_id).collect(),
            attempts: attempts.collect(),
            ..ResultsOfJob::default()
        };
        let suppresses = self.records.iter().any(|record| record.suppress.is_some());
        let takes_key = self.report.as_ref().is_some_and(EnqueueJob::has_key);
        if suppresses || takes_key {
            return Err(results);
        }
        let octets = self.report.as_ref().map_or(0, EnqueueJob::octets);
        Ok(HotJob { octets, rows: RowsOfJob { results, shared_keys: None } })
    }

    /// After the synced commit.
    pub(super) fn conclude(self, any_was_open: bool) {
        let Self { feed, records, report } = self;
        let recorded = records.iter().map(|record| RecordedDelivery {
            delivery_id: record.delivery_id,
            tenant_id: record.tenant_id,
            next_attempt_at: record.next_attempt_at.filter(|_| record.state.is_open()),
        });
        feed.send(SpoolChange::Recorded(recorded.collect()));
        if let Some(report) = report.filter(|_| any_was_open) {
            let id = report.message_id();
            report.conclude(id);
        }
    }
}

fn next_attempt_us(record: &AttemptRecord) -> Option<i64> {
    record.next_attempt_at.filter(|_| record.state.is_open()).map(us)
}

/// Changes a delivery that is open.
macro_rules! update_delivery {
    () => {
        "UPDATE delivery SET state = ?2, attempts = attempts + ?3, next_attempt_us = ?4, last_reply = ?5,
             updated_us = COALESCE(?6, updated_us), bounce_class = ?7
         WHERE id = ?1 AND next_attempt_us IS NOT NULL"
    };
}

/// False if the delivery was deleted or is already finished, another node has claimed it, or the result was written before.
fn write_one<'a>(
    tx: &Tx<'_>,
    record: &'a AttemptRecord,
    stored: &mut Option<StoredTranscript<'a>>,
) -> Result<bool> {
    let reply = shorten(&record.reply, REPLY_OCTETS_MAX);
    // An open delivery that was not attempted has not changed: reports of delays and of the last attempt read this time.
    let is_change = record.attempt.is_some() || !record.state.is_open();
    let changed_us = is_change.then(|| us(record.at));
    let row = params![
        record.delivery_id,
        record.state,
        i64::from(record.attempt.is_some()),
        next_attempt_us(record),
        reply,
        changed_us,
        record.bounce_class,
    ];
    let held = match tx.engine() {
        Engine::Sqlite => {
            let mut statement =
                tx.prepare_cached(concat!(update_delivery!(), " RETURNING recipient, attempts"))?;
            statement.query_row(row, |row| Ok((row.get(0)?, row.get(1)?))).optional()?
        }
        Engine::Postgres => match tx.held.borrow_mut().remove(&record.delivery_id) {
            None => None,
            Some(HeldDelivery { recipient, attempts }) => {
                tx.prepare_cached(update_delivery!())?.post(row)?;
                if let Some(next_us) = next_attempt_us(record) {
                    queue_rows::put_back(tx, record.delivery_id, next_us)?;
                }
                Some((recipient, attempts + u32::from(record.attempt.is_some())))
            }
        },
    };
    let Some((recipient, attempts)): Option<(String, u32)> = held else { return Ok(false) };
    if let Some(attempt) = &record.attempt {
        insert_attempt(tx, attempt, stored)?;
    }
    if record.kind != MessageKind::Message {
        return Ok(true);
    }
    let attempt = record.attempt.as_ref();
    let data = DeliveryData {
        recipient: &recipient,
        host: attempt.map(|attempt| attempt.host.as_str()),
        code: attempt.and_then(|attempt| attempt.code),
        enhanced: attempt.and_then(|attempt| attempt.enhanced).map(|status| status.to_string()),
        reply,
        bounce_class: record.bounce_class,
        attempts,
        delayed: record.delayed,
        ..DeliveryData::default()
    };
    write_events(tx, record, &data)?;
    tx.usage.note_result(DeliveryResult {
        state: record.state,
        class: record.bounce_class,
        was_attempted: record.attempt.is_some(),
        age: record.at.duration_since(record.message_id.created_at()).try_into().unwrap_or_default(),
    });
    let counts = counts_of(record);
    if counts != UsageCounts::default() {
        let AttemptRecord { tenant_id, key_id, environment, at, .. } = *record;
        tx.count(UsedBy { tenant_id, key_id, environment, at }, record.sender_domain.as_ref(), counts);
    }
    Ok(true)
}

fn counts_of(record: &AttemptRecord) -> UsageCounts {
    let is_bounced = matches!(record.state, DeliveryState::Bounced | DeliveryState::Expired);
    // No server refused it, so brakes must not count it.
    let is_suppressed = record.is_suppressed();
    UsageCounts {
        delivered: (record.state == DeliveryState::Delivered).into(),
        deferred: (record.state == DeliveryState::Deferred && record.attempt.is_some()).into(),
        bounced: (is_bounced && !is_suppressed).into(),
        expired: (record.state == DeliveryState::Expired).into(),
        suppressed: is_suppressed.into(),
        ..UsageCounts::default()
    }
}

fn write_events(tx: &Tx<'_>, record: &AttemptRecord, data: &DeliveryData<'_>) -> Result<()> {
    let subject = Subject {
        tenant_id: Some(record.tenant_id),
        environment: Some(record.environment),
        message_id: Some(record.message_id),
        delivery_id: Some(record.delivery_id),
    };
    // An open delivery without an attempt has no event.
    let has_news = record.attempt.is_some() || !record.state.is_open();
    if let Some(kind) = kind_of(record.state).filter(|_| has_news) {
        tx.append(kind, subject, data, record.at)?;
    }
    if let Some(new) = &record.suppress {
        suppress(tx, new, subject, record.at)?;
    }
    Ok(())
}

fn kind_of(state: DeliveryState) -> Option<EventKind> {
    match state {
        DeliveryState::Queued => None,
        DeliveryState::Deferred => Some(EventKind::MessageDeferred),
        DeliveryState::Delivered => Some(EventKind::MessageDelivered),
        DeliveryState::Bounced => Some(EventKind::MessageBounced),
        DeliveryState::Expired => Some(EventKind::MessageExpired),
        DeliveryState::Cancelled => Some(EventKind::MessageCancelled),
    }
}

fn insert_attempt<'a>(
    tx: &Tx<'_>,
    attempt: &'a Attempt,
    stored: &mut Option<StoredTranscript<'a>>,
) -> Result<()> {
    let shared = stored.as_ref().filter(|stored| Arc::ptr_eq(stored.transcript, &attempt.transcript));
    let transcript_of = shared.map(|stored| stored.attempt_id);
    let transcript = match transcript_of {
        Some(_) => "",
        None => shorten(&attempt.transcript, Attempt::TRANSCRIPT_OCTETS_MAX),
    };
    let sql = "INSERT INTO attempt (id, message_id, delivery_id, started_us, duration_ms, host, address, tls,
                                    code, enhanced, text, transcript, outcome, reason, bounce_class, transcript_of,
                                    tls_policy, source)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
    tx.inserted_row.note("attempt", attempt.id);
    tx.prepare_cached(sql)?.post(params![
        attempt.id,
        attempt.message_id,
        attempt.delivery_id,
        us(attempt.started_at),
        attempt.duration_ms as i64,
        attempt.host,
        attempt.address.map(|address| address.to_string()),
        attempt.tls,
        attempt.code,
        attempt.enhanced,
        shorten(&attempt.text, REPLY_OCTETS_MAX),
        transcript,
        attempt.outcome,
        attempt.reason,
        attempt.bounce_class,
        transcript_of,
        attempt.tls_policy.as_deref().map(|policy| shorten(policy, REPLY_OCTETS_MAX)),
        attempt.source.map(|address| address.to_string()),
    ])?;
    if transcript_of.is_none() {
        *stored = Some(StoredTranscript { attempt_id: attempt.id, transcript: &attempt.transcript });
    }
    Ok(())
}
