//! What comes back about messages.

pub(super) mod record;

use std::cell::RefCell;
use std::sync::Arc;

use self::record::ReportJob;
use super::journal::recipient_history;
use super::keyset::List;
use super::report_keys::{self, ReportKeys};
use super::sql_types::{count, json, sql_limit, time, us};
use super::unit_of_work::Tx;
use super::{Store, delivery_rows, directory, message_rows, suspicious_sites};
use crate::mail::{DomainName, Timestamp, TokenKeys, TokenScope, TokenSubject};
use crate::model::{
    DeliveryId, DomainStatus, LimitPeriod, LinkKeys, MessageId, ReportEffect, ReportId, TenantId,
};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::is_in_scope;
use crate::store::memory::Announcement;
use crate::store::{
    FinishedDelivery, NewReport, Page, PageRequest, RecipientHistory, RecordedReport, Report, ReportFilter,
    ReportTarget, Reports, Requester, Result, SuspiciousSite, TokenGeneration, Unsubscription,
};

impl Store {
    /// Reads the keys again that another process has changed.
    pub(super) async fn reload_report_keys(&self) -> Result<()> {
        let sealer = Arc::clone(&self.sealer);
        let keys =
            self.read(move |connection| report_keys::read(connection, &sealer, Timestamp::now())).await?;
        self.report_keys.store(Arc::new(keys));
        Ok(())
    }
}

impl Reports for Store {
    fn token_keys(&self) -> Arc<TokenKeys> {
        Arc::clone(&self.report_keys.load().tokens)
    }

    fn link_keys(&self) -> Arc<LinkKeys> {
        Arc::clone(&self.report_keys.load().links)
    }

    async fn token_generations(&self) -> Result<Vec<TokenGeneration>> {
        let mut generations = self.read(report_keys::generations).await?;
        generations.reverse();
        Ok(generations)
    }

    async fn rotate_tokens(&self, at_once: bool, now: Timestamp) -> Result<TokenGeneration> {
        // Not the database: a job must not keep the writer alive that runs it.
        let current = Arc::clone(&self.report_keys);
        let rotate = move |keys: &RefCell<Option<ReportKeys>>, tx: &Tx<'_>| {
            let rotated = report_keys::rotate(tx, at_once, now)?;
            keys.replace(Some(report_keys::read(tx, tx.sealer, now)?));
            tx.announce(&Announcement::ReportKeys)?;
            Ok(rotated)
        };
        // In the order of the commits, so that no older keys replace newer ones.
        let publish = move |keys: RefCell<Option<ReportKeys>>, rotated| {
            if let Some(keys) = keys.into_inner() {
                current.store(Arc::new(keys));
            }
            rotated
        };
        self.write_with(RefCell::new(None), rotate, publish).await
    }

    async fn report_target(&self, subject: TokenSubject, now: Timestamp) -> Result<Option<ReportTarget>> {
        self.read(move |connection| find_target(connection, subject, now)).await
    }

    async fn is_return_host(&self, host: &DomainName, label: &str) -> Result<bool> {
        let (host, label) = (host.clone(), label.to_owned());
        self.read(move |connection| is_return_host(connection, &host, &label)).await
    }

    async fn record_report(&self, mut new: NewReport) -> Result<RecordedReport> {
        self.refuse_unless_serving()?;
        self.free_space.check()?;
        let dsn = self.prepare_dsn(new.dsn.take()).await?;
        self.write_with(ReportJob { new, dsn }, ReportJob::write, ReportJob::conclude).await
    }

    async fn unsubscribe(&self, wish: Unsubscription) -> Result<bool> {
        self.write(move |tx| record::unsubscribe(tx, &wish, None)).await
    }

    async fn finished_deliveries_to(&self, history: RecipientHistory) -> Result<Vec<FinishedDelivery>> {
        let of_tenant = self.for_requester(Requester::Tenant(history.tenant_id));
        of_tenant.read(move |connection| recipient_history::read(connection, &history)).await
    }

    async fn suspect_site(&self, suspicious: SuspiciousSite) -> Result<()> {
        let (first, rest) = (suspicious.clone(), suspicious);
        let mut changed = self.write(move |tx| suspicious_sites::suspect(tx, &first)).await?;
        // In small jobs, so that other commits do not wait for a long one.
        while changed == suspicious_sites::JOB_ROWS_MAX {
            let site = rest.clone();
            changed = self.write(move |tx| suspicious_sites::limit_suppressions(tx, &site)).await?;
        }
        Ok(())
    }

    async fn list_reports(&self, filter: ReportFilter, page: PageRequest) -> Result<Page<Report>> {
        self.read_slow(move |connection| list(connection, &filter, &page)).await
    }

    async fn report(&self, scope: Option<TenantId>, id: ReportId) -> Result<Option<Report>> {
        self.read(move |connection| find(connection, scope, id)).await
    }

    async fn report_raw(&self, scope: Option<TenantId>, id: ReportId) -> Result<Option<Vec<u8>>> {
        self.read(move |connection| {
            if find(connection, scope, id)?.is_none() {
                return Ok(None);
            }
            let mut statement =
                connection.prepare_cached("SELECT octets FROM report_raw WHERE report_id = ?1")?;
            Ok(statement.query_row([id], |row| row.get(0)).optional()?)
        })
        .await
    }

    async fn reports_without_event(
        &self,
        message: MessageId,
        delivery: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Page<Report>> {
        self.read_slow(move |connection| without_event(connection, message, delivery, limit)).await
    }
}

const COLUMNS: &str = "*, EXISTS (SELECT 1 FROM report_raw WHERE report_id = report.id) AS has_raw";

fn list(connection: &Connection, filter: &ReportFilter, page: &PageRequest) -> Result<Page<Report>> {
    let mut list = List::of("report", ReportId::PREFIX).columns(COLUMNS);
    list.only_owned_by(filter.tenant_id, filter.unattributed)?;
    list.only_if("environment = ?", &filter.environment)?;
    list.only_if("message_id = ?", &filter.message_id)?;
    list.only_if("kind = ?", &filter.kind)?;
    list.only_if("effect = ?", &filter.effect)?;
    list.read(connection, page, read_row)
}

fn without_event(
    connection: &Connection,
    message: MessageId,
    delivery: Option<DeliveryId>,
    limit: usize,
) -> Result<Page<Report>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM report WHERE message_id = ?1
         AND (delivery_id IS NULL OR delivery_id = ?2 OR ?2 IS NULL) AND effect IN (?3, ?4) ORDER BY id LIMIT ?5"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let [nothing, unverified] = [ReportEffect::None, ReportEffect::Unverified];
    let row = params![message, delivery, nothing, unverified, sql_limit(limit + 1)];
    let mut items: Vec<Report> = statement.query_map(row, read_row)?.collect::<database::Result<_>>()?;
    let has_more = items.len() > limit;
    items.truncate(limit);
    Ok(Page { items, has_more })
}

fn find(connection: &Connection, scope: Option<TenantId>, id: ReportId) -> Result<Option<Report>> {
    let sql = format!("SELECT {COLUMNS} FROM report WHERE id = ?1");
    let found = connection.prepare_cached(&sql)?.query_row([id], read_row).optional()?;
    Ok(found.filter(|report| is_in_scope(scope, report.tenant_id)))
}

pub(super) const WITH_RETURN_HOST: &str = "SELECT 1 FROM domain WHERE status = ?1
     AND (return_path_host = ?2 OR (return_path_host IS NULL AND name = ?3)) LIMIT 1";

fn is_return_host(connection: &Connection, host: &DomainName, label: &str) -> Result<bool> {
    let parent = host.as_str().strip_prefix(label).and_then(|rest| rest.strip_prefix('.'));
    let mut statement = connection.prepare_cached(WITH_RETURN_HOST)?;
    Ok(statement.exists(params![DomainStatus::Verified, host, parent])?)
}

fn find_target(
    connection: &Connection,
    subject: TokenSubject,
    now: Timestamp,
) -> Result<Option<ReportTarget>> {
    let (message_id, delivery) = match subject.scope {
        TokenScope::Probe => return Ok(None),
        TokenScope::Message => (MessageId::from(subject.id), None),
        TokenScope::Delivery => match delivery_rows::find(connection, DeliveryId::from(subject.id))? {
            Some(delivery) => (delivery.message_id, Some(delivery)),
            None => return Ok(None),
        },
    };
    let Some(message) = message_rows::find(connection, message_id)? else { return Ok(None) };
    let only_recipient = match &delivery {
        Some(_) => None,
        None => delivery_rows::only_of(connection, message_id)?,
    };
    let name = match delivery.as_ref().or(only_recipient.as_ref()) {
        Some(delivery) => delivery.id.to_string(),
        None => message_id.to_string(),
    };
    let day_us = us(LimitPeriod::Day.start_of(now));
    let sql = "SELECT total, CASE WHEN day_us = ?2 THEN of_day ELSE 0 END AS of_day FROM report_count WHERE subject = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let counted =
        statement.query_row(params![name, day_us], |row| Ok((count(row, "of_day")?, count(row, "total")?)));
    let (reports_of_day, reports_total) = counted.optional()?.unwrap_or_default();
    let tenant = directory::tenants::find(connection, message.tenant_id)?;
    let Some(tenant) = tenant else { return Ok(None) };
    Ok(Some(ReportTarget {
        message: Arc::new(message),
        delivery,
        only_recipient,
        reports_of_day,
        reports_total,
        delivery_reports: tenant.settings.delivery_reports,
    }))
}

fn read_row(row: &Row<'_>) -> database::Result<Report> {
    Ok(Report {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        environment: row.get("environment")?,
        message_id: row.get("message_id")?,
        delivery_id: row.get("delivery_id")?,
        kind: row.get("kind")?,
        rule: row.get("rule")?,
        effect: row.get("effect")?,
        action: row.get("action")?,
        status: row.get("status")?,
        bounce_class: row.get("bounce_class")?,
        feedback_type: row.get("feedback_type")?,
        recipient: row.get("recipient")?,
        reply: row.get("reply")?,
        reporter: json(row, "reporter")?,
        times: count(row, "times")?,
        has_raw: row.get("has_raw")?,
        created_at: time(row, "created_us")?,
        last_at: time(row, "last_us")?,
    })
}
