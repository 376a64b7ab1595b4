//! The event of a message whose stored content differs from the accepted content.

use rusqlite::{OptionalExtension, params};
use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{EventKind, MessageId, TenantId};
use crate::store::Result;
use crate::store::sqlite::events::Subject;
use crate::store::sqlite::unit_of_work::Tx;

/// The data of the event.
#[derive(Serialize)]
struct DamageData<'a> {
    fault: &'a str,
}

/// Appends the event unless the message has one, because each attempt finds the damage again.
pub(super) fn append_event(tx: &Tx<'_>, id: MessageId, fault: &str, at: Timestamp) -> Result<()> {
    let kind = EventKind::MessageContentDamaged;
    let known = "SELECT 1 FROM event WHERE message_id = ?1 AND kind = ?2";
    if tx.prepare_cached(known)?.exists(params![id, kind])? {
        return Ok(());
    }
    let owner = "SELECT tenant_id FROM message WHERE id = ?1";
    let owner: Option<TenantId> = tx.prepare_cached(owner)?.query_row([id], |row| row.get(0)).optional()?;
    let Some(tenant_id) = owner else { return Ok(()) };
    let subject = Subject { tenant_id: Some(tenant_id), message_id: Some(id), ..Subject::default() };
    tx.append(kind, subject, &DamageData { fault }, at)
}
