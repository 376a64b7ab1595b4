//! Compares the state of each delivery with the one that follows from its events.

use rusqlite::{Connection, Row};

use super::BackupError;
use super::check::DatabaseReport;
use crate::model::{DeliveryState, EventKind};

/// A delivery, as far as the comparison needs it.
struct DeliveryRow {
    message_id: String,
    id: String,
    state: DeliveryState,
    has_next_attempt: bool,
}

impl DeliveryRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            message_id: row.get(0)?,
            id: row.get(1)?,
            state: row.get(2)?,
            has_next_attempt: row.get(3)?,
        })
    }
}

/// An event of a message.
struct EventRow {
    message_id: String,
    delivery_id: Option<String>,
    kind: EventKind,
}

impl EventRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { message_id: row.get(0)?, delivery_id: row.get(1)?, kind: row.get(2)? })
    }
}

/// The state after an event; `None` if the event changes none. An open delivery is `Queued`: a back-off without an attempt
/// defers it without an event.
fn state_after(kind: EventKind) -> Option<DeliveryState> {
    match kind {
        EventKind::MessageAccepted | EventKind::MessageDeferred => Some(DeliveryState::Queued),
        EventKind::MessageDelivered => Some(DeliveryState::Delivered),
        // Also the late one, after a delivery.
        EventKind::MessageBounced => Some(DeliveryState::Bounced),
        EventKind::MessageExpired => Some(DeliveryState::Expired),
        EventKind::MessageCancelled => Some(DeliveryState::Cancelled),
        _ => None,
    }
}

/// Reads deliveries and events side by side in the order of messages, so that memory does not grow with the database. Reports
/// of the server have no events.
pub(in crate::store::sql) fn check_states(
    connection: &Connection,
    report: &mut DatabaseReport,
) -> Result<(), BackupError> {
    let sql = "SELECT delivery.message_id, delivery.id, delivery.state, delivery.next_attempt_us IS NOT NULL
               FROM delivery JOIN message ON message.id = delivery.message_id
               WHERE message.kind = 'message' ORDER BY delivery.message_id";
    let mut deliveries = connection.prepare(sql)?;
    let deliveries = deliveries.query_map([], DeliveryRow::read)?;
    let sql = "SELECT message_id, delivery_id, kind FROM event WHERE message_id IS NOT NULL ORDER BY message_id, id";
    let mut events = connection.prepare(sql)?;
    let mut events = events.query_map([], EventRow::read)?.peekable();
    // The events of the present message.
    let mut of_message: Vec<EventRow> = Vec::new();
    for delivery in deliveries {
        let delivery = delivery?;
        let is_same = of_message.first().is_some_and(|event| event.message_id == delivery.message_id);
        if !is_same {
            of_message.clear();
            // An error is taken too, and returned.
            while let Some(event) = events
                .next_if(|event| event.as_ref().map_or(true, |event| event.message_id <= delivery.message_id))
            {
                let event = event?;
                if event.message_id == delivery.message_id {
                    of_message.push(event);
                }
            }
        }
        compare(&delivery, &of_message, report);
    }
    Ok(())
}

fn compare(delivery: &DeliveryRow, events: &[EventRow], report: &mut DatabaseReport) {
    report.folded += 1;
    let of_delivery = |event: &&EventRow| event.delivery_id.as_ref().is_none_or(|id| *id == delivery.id);
    let folded = events.iter().rev().filter(of_delivery).find_map(|event| state_after(event.kind));
    let state = if delivery.state.is_open() { DeliveryState::Queued } else { delivery.state };
    match folded {
        None => report.fault(&delivery.id, "its message has no event message.accepted"),
        Some(folded) if folded != state => {
            let text = format!("its state is {}, but from its events follows {folded}", delivery.state);
            report.fault(&delivery.id, text);
        }
        Some(_) if delivery.state.is_open() != delivery.has_next_attempt => {
            let text = match delivery.has_next_attempt {
                true => format!("it is {}, but has a next attempt", delivery.state),
                false => format!("it is {}, but has no next attempt", delivery.state),
            };
            report.fault(&delivery.id, text);
        }
        Some(_) => {}
    }
}
