//! Damage: the event of a message whose stored content differs from the accepted content, and deliveries whose rows cannot
//! be read.

use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{DeliveryId, Environment, EventKind, MessageId, TenantId};
use crate::store::database::{self, DatabaseError, OptionalExtension, params};
use crate::store::sql::events::Subject;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{OPEN_ENDED_PAUSE_US, Result};

/// A due delivery whose row, or the row of its message, cannot be read.
#[derive(Debug, Clone)]
pub(super) struct DamagedDelivery {
    /// The octets of its id, which may be damaged too.
    pub(super) id: Vec<u8>,
    pub(super) fault: String,
}

impl DamagedDelivery {
    /// Fails with the error if that is not about the row, but about the database.
    pub(super) fn new(id: Vec<u8>, error: DatabaseError) -> database::Result<Self> {
        if error.is_damage() { Ok(Self { id, fault: error.to_string() }) } else { Err(error) }
    }
}

/// The next attempt of a damaged delivery. It is no pause, so that a flush of the queue makes a repaired delivery due.
const SET_APART_UNTIL_US: i64 = OPEN_ENDED_PAUSE_US - 1;

/// Moves the next attempt of a damaged delivery so far away that no scan finds it, and appends an event.
pub(super) fn quarantine(tx: &Tx<'_>, damaged: &DamagedDelivery, at: Timestamp) -> Result<()> {
    let sql = "UPDATE delivery SET next_attempt_us = ?2
               WHERE id = CAST(?1 AS TEXT) AND next_attempt_us < ?2";
    if tx.prepare_cached(sql)?.execute(params![damaged.id, SET_APART_UNTIL_US])? == 0 {
        return Ok(());
    }
    let sql = "SELECT id, message_id, tenant_id,
                      (SELECT environment FROM message WHERE message.id = delivery.message_id)
               FROM delivery WHERE id = CAST(?1 AS TEXT)";
    // The damaged ones of them are left out.
    let subject = tx.prepare_cached(sql)?.query_row([&damaged.id], |row| {
        Ok(Subject {
            delivery_id: row.get::<_, DeliveryId>(0).ok(),
            message_id: row.get::<_, MessageId>(1).ok(),
            tenant_id: row.get::<_, TenantId>(2).ok(),
            environment: Some(row.get(3).unwrap_or(Environment::Live)),
        })
    })?;
    tx.append(EventKind::MessageContentDamaged, subject, &DamageData { fault: &damaged.fault }, at)
}

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
    let owner = "SELECT tenant_id, environment FROM message WHERE id = ?1";
    let owner = tx.prepare_cached(owner)?.query_row([id], |row| {
        Ok(Subject { tenant_id: row.get(0)?, environment: row.get(1)?, ..Subject::default() })
    });
    let Some(owner) = owner.optional()? else { return Ok(()) };
    let subject = Subject { message_id: Some(id), ..owner };
    tx.append(kind, subject, &DamageData { fault }, at)
}
