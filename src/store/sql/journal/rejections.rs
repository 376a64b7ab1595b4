//! Refused submissions.

use serde::Serialize;

use crate::model::{EventKind, RefusalCode, RequestId, Stage, TenantId};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::sql::events::Subject;
use crate::store::sql::keyset::List;
use crate::store::sql::sql_types::{parsed_if_any, shorten, time, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Page, PageRequest, Rejection, RejectionFilter, Result, UsageCounts, UsedBy};

const MESSAGE_OCTETS_MAX: usize = 1024;

pub(super) fn insert(tx: &Tx<'_>, rejection: &Rejection) -> Result<()> {
    let sql =
        "INSERT INTO rejection (id, tenant_id, key_id, stage, code, message, client_address, created_us, environment)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    tx.prepare_cached(sql)?.execute(params![
        rejection.id,
        rejection.tenant_id,
        rejection.key_id,
        rejection.stage,
        rejection.code,
        shorten(&rejection.message, MESSAGE_OCTETS_MAX),
        rejection.client_address.map(|address| address.to_string()),
        us(rejection.created_at),
        rejection.environment,
    ])?;
    let Rejection { tenant_id, key_id, environment, created_at: at, .. } = *rejection;
    tx.count(UsedBy { tenant_id, key_id, environment, at }, None, counts_of(rejection));
    append_event(tx, rejection)
}

/// The data of the event of a refused submission.
#[derive(Serialize)]
struct RejectionData<'a> {
    rejection_id: RequestId,
    stage: Stage,
    code: &'static str,
    message: &'a str,
}

/// A suppressed recipient has its own kind of event, because the submission itself has no error.
fn append_event(tx: &Tx<'_>, rejection: &Rejection) -> Result<()> {
    let kind = match rejection.code {
        RefusalCode::RecipientSuppressed => EventKind::MessageSuppressed,
        _ => EventKind::MessageRejected,
    };
    let subject = Subject {
        tenant_id: Some(rejection.tenant_id),
        environment: Some(rejection.environment),
        ..Subject::default()
    };
    let Rejection { id, stage, code, message, .. } = rejection;
    let message = shorten(message, MESSAGE_OCTETS_MAX);
    let data = RejectionData { rejection_id: *id, stage: *stage, code: code.as_str(), message };
    tx.append(kind, subject, &data, rejection.created_at)
}

fn counts_of(rejection: &Rejection) -> UsageCounts {
    match rejection.code {
        RefusalCode::RecipientSuppressed => UsageCounts { suppressed: 1, ..UsageCounts::default() },
        _ => UsageCounts { rejected: 1, ..UsageCounts::default() },
    }
}

pub(super) fn list(
    connection: &Connection,
    filter: RejectionFilter,
    page: &PageRequest,
) -> Result<Page<Rejection>> {
    let mut list = List::of("rejection", RequestId::PREFIX);
    list.only_if("tenant_id = ?", &filter.tenant_id)?;
    list.only_if("environment = ?", &filter.environment)?;
    list.read(connection, page, read_row)
}

pub(super) fn find(
    connection: &Connection,
    scope: Option<TenantId>,
    id: RequestId,
) -> Result<Option<Rejection>> {
    let sql = "SELECT * FROM rejection WHERE id = ?1 AND (tenant_id = ?2 OR ?2 IS NULL)";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row(params![id, scope], read_row).optional()?)
}

fn read_row(row: &Row<'_>) -> database::Result<Rejection> {
    Ok(Rejection {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        key_id: row.get("key_id")?,
        environment: row.get("environment")?,
        stage: row.get("stage")?,
        code: row.get("code")?,
        message: row.get("message")?,
        client_address: parsed_if_any(row, "client_address")?,
        created_at: time(row, "created_us")?,
    })
}
