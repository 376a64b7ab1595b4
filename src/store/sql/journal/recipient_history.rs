//! The last finished deliveries of a tenant to an address. The path of success writes nothing for it: the search index
//! finds the messages, and only when a delivery failed.

use std::time::Duration;

use ulid::Ulid;

use super::{full_text, index};
use crate::model::MessageId;
use crate::store::database::time_limit::TimeLimit;
use crate::store::database::{self, Connection, Engine, Value, params};
use crate::store::sql::sql_types::{sql_limit, time};
use crate::store::{FinishedDelivery, MessageFilter, RecipientHistory, Result};

/// The processor time that it may take.
const TIME_MAX: Duration = Duration::from_millis(250);

/// `CROSS JOIN` keeps the order of the tables: the index is read from its newest place on, as far as rows are wanted.
pub(in crate::store::sql) fn finished_to(engine: Engine) -> String {
    let (table, place) = match engine {
        Engine::Sqlite => ("message_search s CROSS JOIN search_place p ON p.place = s.rowid", "s.rowid"),
        Engine::Postgres => ("message_search s", "s.message_id"),
    };
    let message = if engine == Engine::Sqlite { "p.message_id" } else { place };
    format!(
        "SELECT d.message_id, d.state, d.bounce_class, d.attempts, d.updated_us
         FROM {table}
         CROSS JOIN delivery d INDEXED BY delivery_of_message ON d.message_id = {message}
         WHERE {} AND {place} < ?2
           AND d.recipient = ?3 AND d.tenant_id = ?4 AND d.next_attempt_us IS NULL
         ORDER BY {place} DESC LIMIT ?5",
        full_text::condition(engine, 1)
    )
}

/// Where to begin: a place of SQLite, or an id.
fn below(connection: &Connection, before: Option<MessageId>) -> Result<Value> {
    if connection.engine() == Engine::Postgres {
        let highest = || MessageId::from(Ulid::from(u128::MAX));
        return Ok(before.unwrap_or_else(highest).to_string().into());
    }
    let Some(id) = before else { return Ok(i64::MAX.into()) };
    Ok(index::place_of(connection, id)?.unwrap_or_else(|| index::home_of(id)).into())
}

pub(in crate::store::sql) fn read(
    connection: &Connection,
    history: &RecipientHistory,
) -> Result<Vec<FinishedDelivery>> {
    let filter = MessageFilter {
        tenant_id: Some(history.tenant_id),
        environment: Some(history.environment),
        to: Some(history.recipient.clone()),
        ..MessageFilter::default()
    };
    let Some(query) = index::query(&filter) else { return Ok(Vec::new()) };
    let below = below(connection, history.before)?;
    let engine = connection.engine();
    let _limit = TimeLimit::end_after(TIME_MAX);
    let mut statement = connection.prepare_cached(&finished_to(engine))?;
    let row =
        params![query.spell(engine), below, history.recipient, history.tenant_id, sql_limit(history.limit)];
    let found = statement.query_map(row, |row| {
        Ok(FinishedDelivery {
            message_id: row.get("message_id")?,
            state: row.get("state")?,
            bounce_class: row.get("bounce_class")?,
            attempts: row.get("attempts")?,
            ended_at: time(row, "updated_us")?,
        })
    })?;
    Ok(found.collect::<database::Result<_>>()?)
}
