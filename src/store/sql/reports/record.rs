//! Records what came back with everything that follows from it, in one transaction.

use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{
    BounceClass, DeliveryState, EventKind, FeedbackType, LimitPeriod, ListName, MessageId, ReportAction,
    ReportEffect, ReportId, ReportKind, SuppressionReason, UnsubscribeVia,
};
use crate::store::database::{OptionalExtension, ToSql, params};
use crate::store::sql::directory::suppressions;
use crate::store::sql::events::Subject;
use crate::store::sql::spool::enqueue::EnqueueJob;
use crate::store::sql::spool::record::{DeliveryData, REPLY_OCTETS_MAX};
use crate::store::sql::sql_types::{shorten, sql_limit, to_json, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{
    Conflict, Consequence, NewReport, NewSuppression, REPORTS_OF_DAY_MAX, REPORTS_TOTAL_MAX, RecordedReport,
    Report, Result, StoreError, Unsubscription, UsageCounts, UsedBy,
};

/// A report to record.
pub(super) struct ReportJob {
    pub(super) new: NewReport,
    /// The DSN of `new`, prepared.
    pub(super) dsn: Option<EnqueueJob>,
}

/// What was written.
pub(super) struct Written {
    recorded: RecordedReport,
    with_dsn: bool,
}

/// The data of the event of a report that changes no state.
#[derive(Serialize)]
struct ReportedData<'a> {
    /// The recipient of the delivery; without a delivery, the one that the report names.
    recipient: Option<&'a str>,
    effect: ReportEffect,
    kind: ReportKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<ReportAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bounce_class: Option<BounceClass>,
    #[serde(skip_serializing_if = "Option::is_none")]
    feedback_type: Option<FeedbackType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<&'a str>,
    /// The recipient that the report names.
    #[serde(skip_serializing_if = "Option::is_none")]
    reported_recipient: Option<&'a str>,
    report_id: ReportId,
}

/// The data of the event of a complaint.
#[derive(Serialize)]
struct ComplainedData<'a> {
    recipient: String,
    feedback_type: Option<FeedbackType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<&'a ListName>,
    report_id: ReportId,
}

/// The data of the event of a recipient who left a list.
#[derive(Serialize)]
struct UnsubscribedData<'a> {
    recipient: String,
    /// `*` is every list.
    list: &'a str,
    via: UnsubscribeVia,
    #[serde(skip_serializing_if = "Option::is_none")]
    report_id: Option<ReportId>,
}

impl ReportJob {
    /// Fails with [`Conflict::NoMessage`] or [`Conflict::TooManyReports`].
    pub(super) fn write(&self, tx: &Tx<'_>) -> Result<Written> {
        let report = &self.new.report;
        if let Some(message) = report.message_id {
            if !exists(tx, message)? {
                return Err(StoreError::Conflict(Conflict::NoMessage));
            }
            count(tx, report, message, self.new.at)?;
        }
        let (recorded, with_dsn) = match self.find_earlier(tx)? {
            Some((id, before)) => {
                let is_bounced = self.repeat(tx, id)?;
                let effect = if is_bounced { ReportEffect::Bounced } else { before };
                (RecordedReport { id, effect, is_new: false }, is_bounced)
            }
            None => {
                let effect = self.follow(tx)?;
                insert(tx, &self.new, effect)?;
                if report.tenant_id.is_none() {
                    remove_oldest_unattributed(tx)?;
                }
                let is_news = effect == ReportEffect::Bounced || self.is_of_success(effect);
                (RecordedReport { id: report.id, effect, is_new: true }, is_news)
            }
        };
        if let Some(dsn) = self.dsn.as_ref().filter(|_| with_dsn) {
            dsn.write(tx)?;
        }
        Ok(Written { recorded, with_dsn })
    }

    fn is_of_success(&self, effect: ReportEffect) -> bool {
        let action = self.new.report.action;
        effect == ReportEffect::Reported
            && matches!(
                action,
                Some(ReportAction::Delivered | ReportAction::Relayed | ReportAction::Expanded)
            )
    }

    /// After the synced commit.
    pub(super) fn conclude(self, written: Written) -> RecordedReport {
        if let Some(dsn) = self.dsn.filter(|_| written.with_dsn) {
            let id = dsn.message_id();
            dsn.conclude(id);
        }
        written.recorded
    }

    /// The report that says the same, and its effect.
    fn find_earlier(&self, tx: &Tx<'_>) -> Result<Option<(ReportId, ReportEffect)>> {
        let Report { message_id, delivery_id, .. } = &self.new.report;
        let (of, id): (_, &dyn ToSql) = match (delivery_id, message_id) {
            (Some(delivery), _) => ("delivery_id = ?1", delivery),
            (None, Some(message)) => ("message_id = ?1 AND delivery_id IS NULL", message),
            (None, None) => return Ok(None),
        };
        let sql = format!("SELECT id, effect FROM report WHERE {of} AND digest = ?2");
        let row = params![id, self.new.digest.as_slice()];
        let mut statement = tx.prepare_cached(&sql)?;
        Ok(statement.query_row(row, |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    /// Counts a repetition. A failure follows only if the delivery succeeded after the first report: then the message was
    /// sent again, and failed again. A wish to unsubscribe always holds, because the tenant may have lifted the suppression.
    /// Returns whether the delivery is bounced now.
    fn repeat(&self, tx: &Tx<'_>, id: ReportId) -> Result<bool> {
        let sql = "UPDATE report SET times = times + 1, last_us = ?2 WHERE id = ?1";
        tx.prepare_cached(sql)?.execute(params![id, us(self.new.at)])?;
        match &self.new.consequence {
            Consequence::Failure { suppress } => self.repeat_failure(tx, suppress.as_ref(), id),
            Consequence::Unsubscribe(wish) => {
                let report = Report { id, ..self.new.report.clone() };
                unsubscribe(tx, wish, Some(&report))?;
                Ok(false)
            }
            // A complaint counts once.
            Consequence::None | Consequence::Event(_) | Consequence::Complaint { .. } => Ok(false),
        }
    }

    fn repeat_failure(&self, tx: &Tx<'_>, suppress: Option<&NewSuppression>, id: ReportId) -> Result<bool> {
        if !self.bounce(tx, id)? {
            return Ok(false);
        }
        suppress.map_or(Ok(()), |new| self.suppress(tx, new, id))?;
        let sql = "UPDATE report SET effect = ?2 WHERE id = ?1";
        tx.prepare_cached(sql)?.execute(params![id, ReportEffect::Bounced])?;
        Ok(true)
    }

    /// Writes what follows from a new report.
    fn follow(&self, tx: &Tx<'_>) -> Result<ReportEffect> {
        let Report { id, effect, .. } = self.new.report;
        match &self.new.consequence {
            Consequence::None => Ok(effect),
            Consequence::Event(effect) => self.append_reported(tx, *effect),
            Consequence::Failure { suppress } => {
                let effect = match self.bounce(tx, id)? {
                    true => ReportEffect::Bounced,
                    false => self.append_reported(tx, ReportEffect::Reported)?,
                };
                suppress.as_ref().map_or(Ok(()), |new| self.suppress(tx, new, id))?;
                Ok(effect)
            }
            Consequence::Complaint { suppress, list } => {
                self.complain(tx, list.as_ref())?;
                self.suppress(tx, suppress, id)?;
                Ok(ReportEffect::Complained)
            }
            Consequence::Unsubscribe(wish) => {
                unsubscribe(tx, wish, Some(&self.new.report))?;
                Ok(ReportEffect::Unsubscribed)
            }
        }
    }

    /// The present state decides: only a delivery that succeeded becomes bounced. False for another one.
    fn bounce(&self, tx: &Tx<'_>, id: ReportId) -> Result<bool> {
        let Report { delivery_id, message_id, bounce_class, status, .. } = self.new.report;
        let (Some(delivery), Some(message)) = (delivery_id, message_id) else { return Ok(false) };
        let reply = self.reply();
        let sql = "UPDATE delivery SET state = ?2, bounce_class = ?3, last_reply = ?4, updated_us = ?5
                   WHERE id = ?1 AND state = ?6 RETURNING recipient, attempts";
        let row = params![
            delivery,
            DeliveryState::Bounced,
            bounce_class,
            reply,
            us(self.new.at),
            DeliveryState::Delivered
        ];
        let changed: Option<(String, u32)> =
            tx.prepare_cached(sql)?.query_row(row, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((recipient, attempts)) = changed else { return Ok(false) };
        let data = DeliveryData {
            recipient: &recipient,
            enhanced: status.map(|status| status.to_string()),
            reply,
            bounce_class,
            attempts,
            late: true,
            report_id: Some(id),
            ..DeliveryData::default()
        };
        tx.append(EventKind::MessageBounced, self.subject(), &data, self.new.at)?;
        tx.count_delivery(message, self.new.at, UsageCounts { bounced_late: 1, ..UsageCounts::default() })?;
        Ok(true)
    }

    fn append_reported(&self, tx: &Tx<'_>, effect: ReportEffect) -> Result<ReportEffect> {
        let report = &self.new.report;
        let sql = "SELECT recipient FROM delivery WHERE id = ?1";
        let of_delivery: Option<String> =
            tx.prepare_cached(sql)?.query_row([report.delivery_id], |row| row.get(0)).optional()?;
        let data = ReportedData {
            recipient: of_delivery.as_deref().or(report.recipient.as_deref()),
            effect,
            kind: report.kind,
            action: report.action,
            status: report.status.map(|status| status.to_string()),
            bounce_class: report.bounce_class,
            feedback_type: report.feedback_type,
            reply: report.reply.as_deref().map(|reply| shorten(reply, REPLY_OCTETS_MAX)),
            reported_recipient: report.recipient.as_deref(),
            report_id: report.id,
        };
        tx.append(EventKind::MessageReported, self.subject(), &data, self.new.at)?;
        Ok(effect)
    }

    /// A recipient complains once about a delivery; usage counts the event.
    fn complain(&self, tx: &Tx<'_>, list: Option<&ListName>) -> Result<()> {
        let report = &self.new.report;
        let sql = "UPDATE delivery SET complained_us = ?2
                   WHERE id = ?1 AND complained_us IS NULL RETURNING recipient";
        let row = params![report.delivery_id, us(self.new.at)];
        let complained = tx.prepare_cached(sql)?.query_row(row, |row| row.get(0)).optional()?;
        let Some(recipient) = complained else { return Ok(()) };
        let data =
            ComplainedData { recipient, feedback_type: report.feedback_type, list, report_id: report.id };
        tx.append(EventKind::MessageComplained, self.subject(), &data, self.new.at)
    }

    fn suppress(&self, tx: &Tx<'_>, new: &NewSuppression, id: ReportId) -> Result<()> {
        let message_id = self.new.report.message_id;
        let new = NewSuppression { report_id: Some(id), message_id, ..new.clone() };
        suppressions::suppress(tx, &new, self.subject(), self.new.at)?;
        Ok(())
    }

    fn reply(&self) -> &str {
        shorten(self.new.report.reply.as_deref().unwrap_or_default(), REPLY_OCTETS_MAX)
    }

    fn subject(&self) -> Subject {
        let Report { tenant_id, environment, message_id, delivery_id, .. } = self.new.report;
        Subject { tenant_id, environment, message_id, delivery_id }
    }
}

/// Suppresses an address for a list and appends the event. False if the address had left the list before, or if
/// the tenant is gone.
pub(super) fn unsubscribe(tx: &Tx<'_>, wish: &Unsubscription, report: Option<&Report>) -> Result<bool> {
    let Unsubscription { tenant_id, environment, ref address, ref mail, via, message_id, at } = *wish;
    let is_known = tx.prepare_cached("SELECT 1 FROM tenant WHERE id = ?1")?.exists([tenant_id])?;
    if !is_known || suppressions::is_suppressed_for_ever(tx, (tenant_id, environment), address, mail)? {
        return Ok(false);
    }
    // An event goes with its message, so it belongs to none that is gone.
    let message = match message_id {
        Some(message) if exists(tx, message)? => Some(message),
        _ => None,
    };
    let subject = Subject {
        tenant_id: Some(tenant_id),
        environment: Some(environment),
        message_id: message,
        delivery_id: report.and_then(|report| report.delivery_id),
    };
    let report_id = report.map(|report| report.id);
    let data = UnsubscribedData { recipient: address.to_string(), list: mail.as_str(), via, report_id };
    tx.append(EventKind::MessageUnsubscribed, subject, &data, at)?;
    let new = NewSuppression {
        mail: mail.clone(),
        evidence: Some(format!("the recipient unsubscribed by {via}")),
        report_id,
        message_id,
        ..NewSuppression::of_all_mail(
            Some(tenant_id),
            environment,
            address.clone(),
            SuppressionReason::Unsubscribe,
        )
    };
    suppressions::suppress(tx, &new, subject, at)?;
    let counts = UsageCounts { unsubscribed: 1, ..UsageCounts::default() };
    match message {
        Some(message) => tx.count_delivery(message, at, counts)?,
        None => tx.count(UsedBy { tenant_id, key_id: None, environment, at }, None, counts),
    }
    Ok(true)
}

fn exists(tx: &Tx<'_>, message: MessageId) -> Result<bool> {
    Ok(tx.prepare_cached("SELECT 1 FROM message WHERE id = ?1")?.exists([message])?)
}

/// Counts a report about a delivery or a message. RCPT checked the limits, but other sessions may have been faster.
fn count(tx: &Tx<'_>, report: &Report, message: MessageId, at: Timestamp) -> Result<()> {
    let subject = report.delivery_id.map_or_else(|| message.to_string(), |delivery| delivery.to_string());
    let sql =
        "INSERT INTO report_count (subject, message_id, day_us, of_day, total) VALUES (?1, ?2, ?3, 1, 1)
               ON CONFLICT (subject) DO UPDATE SET
                   of_day = CASE WHEN report_count.day_us = excluded.day_us THEN report_count.of_day + 1 ELSE 1 END,
                   day_us = excluded.day_us, total = report_count.total + 1
               WHERE report_count.total < ?4
                 AND (report_count.day_us <> excluded.day_us OR report_count.of_day < ?5)";
    let day_us = us(LimitPeriod::Day.start_of(at));
    let limits = (REPORTS_TOTAL_MAX as i64, REPORTS_OF_DAY_MAX as i64);
    let counted = tx.prepare_cached(sql)?.execute(params![subject, message, day_us, limits.0, limits.1])?;
    if counted == 0 { Err(StoreError::Conflict(Conflict::TooManyReports)) } else { Ok(()) }
}

fn insert(tx: &Tx<'_>, new: &NewReport, effect: ReportEffect) -> Result<()> {
    let sql = "INSERT INTO report (id, tenant_id, environment, message_id, delivery_id, kind, rule, effect, action, status,
                                   bounce_class, feedback_type, recipient, reply, reporter, digest, times, created_us, last_us)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, 1, ?17, ?17)";
    let report = &new.report;
    tx.prepare_cached(sql)?.execute(params![
        report.id,
        report.tenant_id,
        report.environment,
        report.message_id,
        report.delivery_id,
        report.kind,
        report.rule,
        effect,
        report.action,
        report.status,
        report.bounce_class,
        report.feedback_type,
        report.recipient,
        report.reply,
        to_json(&report.reporter)?,
        new.digest.as_slice(),
        us(new.at),
    ])?;
    if !new.raw.is_empty() {
        let sql = "INSERT INTO report_raw (report_id, octets) VALUES (?1, ?2)";
        tx.prepare_cached(sql)?.execute(params![report.id, new.raw])?;
    }
    Ok(())
}

pub(in crate::store::sql) const OLDEST_UNATTRIBUTED: &str =
    "SELECT id FROM report WHERE tenant_id IS NULL ORDER BY id LIMIT 1";

/// Anybody can send reports that belong to no message, so their number is limited. Triggers count them.
fn remove_oldest_unattributed(tx: &Tx<'_>) -> Result<()> {
    let sql = format!(
        "DELETE FROM report WHERE id = ({OLDEST_UNATTRIBUTED})
             AND (SELECT reports FROM unattributed_report_count) > ?1"
    );
    tx.prepare_cached(&sql)?.execute([sql_limit(tx.bounds.unattributed_reports_max)])?;
    Ok(())
}
