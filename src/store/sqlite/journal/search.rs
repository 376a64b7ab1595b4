//! Lists of messages by what people know of them. A page finds what may be meant by one condition, in the order of ids,
//! and holds it against the others. It looks at a bounded number of messages, so every page is quick; one that came to
//! the bound before it was full says where to go on.

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use ulid::Ulid;

use super::{index, messages};
use crate::mail::{DeliveryState, MessageId, Timestamp};
use crate::store::sqlite::rows::{sql_limit, us};
use crate::store::{Message, MessageFilter, MessagePage, PageRequest, Result};

const PAGE_MESSAGES_MAX: usize = 100;
/// Messages that one page looks at.
const LOOKED_AT_MAX: usize = if cfg!(test) { 20 } else { 5_000 };
/// As many are looked at one by one rather than by walking over something longer.
const FEW_MAX: usize = if cfg!(test) { 5 } else { 1_000 };

/// One page of messages.
pub(super) fn list(
    connection: &Connection,
    filter: &MessageFilter,
    page: &PageRequest,
) -> Result<MessagePage> {
    let search = Search { connection, filter, page, range: Range::of(page) };
    let source = search.source()?;
    let mut found = search.collect(&source)?;
    if search.range.is_upwards {
        found.items.reverse();
    }
    Ok(found)
}

/// The part of the list that a page may come from: ids between two, neither included.
struct Range {
    low: String,
    high: String,
    /// "The page next to it": going up from the cursor, then turned around.
    is_upwards: bool,
}

impl Range {
    fn of(page: &PageRequest) -> Self {
        let bound = |time: Timestamp, rest| {
            let milliseconds = u64::try_from(time.as_millisecond()).unwrap_or(0);
            MessageId::from(Ulid::from_parts(milliseconds, rest)).to_string()
        };
        let lowest = page.created_after.map(|time| bound(time, 0));
        let highest = page.created_before.map(|time| bound(time, u128::MAX));
        let highest = [page.after.clone(), highest].into_iter().flatten().min();
        Self {
            low: page.before.clone().max(lowest).unwrap_or_default(),
            high: highest.unwrap_or_else(|| MessageId::from(Ulid::from(u128::MAX)).to_string()),
            is_upwards: page.before.is_some() && page.after.is_none(),
        }
    }

    fn order(&self) -> &'static str {
        if self.is_upwards { "ASC" } else { "DESC" }
    }
}

/// Where the candidates of a page come from.
struct Source {
    kind: SourceKind,
    /// Answers ids of messages, the next of the list first.
    sql: String,
    parameters: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SourceKind {
    /// All messages, or all of the tenant or of the header's id.
    Messages,
    To,
    State,
    Index,
}

struct Search<'a> {
    connection: &'a Connection,
    filter: &'a MessageFilter,
    page: &'a PageRequest,
    range: Range,
}

impl Search<'_> {
    /// What few messages answer to; else what asks for most at once.
    fn source(&self) -> Result<Source> {
        let MessageFilter { tenant_id, to, header_message_id, .. } = self.filter;
        if let Some(id) = header_message_id {
            return Ok(self.messages("header_message_id = ?3", vec![id.clone().into()]));
        }
        let to = to.as_ref().map(|to| {
            let condition = "recipient = ?3";
            self.deliveries(SourceKind::To, "delivery_to", condition, vec![to.to_string().into()])
        });
        let mut long = Vec::new();
        for source in to.into_iter().chain(self.in_trouble()) {
            if self.has_few(&source.sql, &source.parameters)? {
                return Ok(source);
            }
            long.push(source);
        }
        if self.filter.state == Some(DeliveryState::Queued)
            && let Some(source) = self.waiting()?
        {
            return Ok(source);
        }
        if let Some(source) = self.indexed()? {
            return Ok(source);
        }
        Ok(match (long.pop(), tenant_id) {
            (Some(source), _) => source,
            (None, Some(tenant)) => self.messages("tenant_id = ?3", vec![tenant.to_string().into()]),
            (None, None) => self.messages("TRUE", vec![]),
        })
    }

    fn messages(&self, condition: &str, values: Vec<Value>) -> Source {
        let order = self.range.order();
        let sql =
            format!("SELECT id FROM message WHERE id > ?1 AND id < ?2 AND {condition} ORDER BY id {order}");
        self.bound(SourceKind::Messages, sql, values)
    }

    /// The index is named, for without statistics SQLite may take one that has the order and read every row of it.
    fn deliveries(&self, kind: SourceKind, index: &str, condition: &str, values: Vec<Value>) -> Source {
        let order = self.range.order();
        let sql = format!(
            "SELECT message_id FROM delivery INDEXED BY {index}
             WHERE message_id > ?1 AND message_id < ?2 AND {condition} ORDER BY message_id {order}"
        );
        self.bound(kind, sql, values)
    }

    /// Between the ends of the range.
    fn bound(&self, kind: SourceKind, sql: String, values: Vec<Value>) -> Source {
        let ends = [&self.range.low, &self.range.high].map(|end| Value::from(end.clone()));
        Source { kind, sql, parameters: ends.into_iter().chain(values).collect() }
    }

    /// Deliveries in a state that few are in. Nearly all are queued once and delivered one day.
    fn in_trouble(&self) -> Option<Source> {
        let state = self
            .filter
            .state
            .filter(|state| !matches!(state, DeliveryState::Queued | DeliveryState::Delivered))?;
        // The words of a partial index have to stand in the query.
        let condition =
            format!("state = '{}' AND state <> 'queued' AND state <> 'delivered'", state.as_str());
        Some(match self.filter.tenant_id {
            Some(tenant) => {
                let condition = format!("tenant_id = ?3 AND {condition}");
                let values = vec![tenant.to_string().into()];
                self.deliveries(SourceKind::State, "delivery_in_trouble", &condition, values)
            }
            None => self.deliveries(SourceKind::State, "delivery_in_trouble_anywhere", &condition, vec![]),
        })
    }

    /// What waits for its first try, if only little waits at all: it stands by its time and has to be sorted.
    fn waiting(&self) -> Result<Option<Source>> {
        let (condition, values) = match self.filter.tenant_id {
            Some(tenant) => {
                ("next_attempt_us IS NOT NULL AND tenant_id = ?3", vec![tenant.to_string().into()])
            }
            None => ("next_attempt_us IS NOT NULL", vec![]),
        };
        let queued = format!("state = 'queued' AND {condition}");
        let source = self.deliveries(SourceKind::State, "delivery_due", &queued, values);
        let waiting =
            format!("SELECT 1 FROM delivery INDEXED BY delivery_due WHERE ?1 <> ?2 AND {condition}");
        Ok(if self.has_few(&waiting, &source.parameters)? { Some(source) } else { None })
    }

    /// The index of senders and subjects knows messages by places.
    fn indexed(&self) -> Result<Option<Source>> {
        let Some(expression) = index::expression(self.filter) else { return Ok(None) };
        let sql = format!(
            "SELECT p.message_id FROM message_search s JOIN search_place p ON p.place = s.rowid
             WHERE message_search MATCH ?3 AND s.rowid > ?1 AND s.rowid < ?2 ORDER BY s.rowid {}",
            self.range.order()
        );
        let low = self.place_below(&self.range.low)?;
        let high = self.place_above(&self.range.high)?;
        let parameters = vec![low.into(), high.into(), expression.into()];
        Ok(Some(Source { kind: SourceKind::Index, sql, parameters }))
    }

    fn place_below(&self, id: &str) -> Result<i64> {
        let Ok(id) = id.parse() else { return Ok(i64::MIN) };
        Ok(index::place_of(self.connection, id)?.unwrap_or_else(|| index::home_of(id) - 1))
    }

    fn place_above(&self, id: &str) -> Result<i64> {
        let Ok(id) = id.parse() else { return Ok(i64::MAX) };
        Ok(index::place_of(self.connection, id)?.unwrap_or_else(|| index::home_of(id).saturating_add(1)))
    }

    fn has_few(&self, sql: &str, parameters: &[Value]) -> Result<bool> {
        let sql = format!("SELECT count(*) FROM ({sql} LIMIT {})", FEW_MAX + 1);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let count: i64 = statement.query_row(params_from_iter(parameters), |row| row.get(0))?;
        Ok(count <= sql_limit(FEW_MAX))
    }

    fn collect(&self, source: &Source) -> Result<MessagePage> {
        let limit = self.page.limit.clamp(1, PAGE_MESSAGES_MAX);
        let mut statement = self.connection.prepare_cached(&source.sql)?;
        let mut rows = statement.query(params_from_iter(&source.parameters))?;
        let mut items = Vec::new();
        let (mut last, mut looked_at) = (None, 0);
        while let Some(row) = rows.next()? {
            let id: MessageId = row.get(0)?;
            // A message may have several deliveries of the kind.
            if last == Some(id) {
                continue;
            }
            if items.len() == limit || looked_at == LOOKED_AT_MAX {
                return Ok(MessagePage { items, next: last });
            }
            (last, looked_at) = (Some(id), looked_at + 1);
            if let Some(message) = self.admit(source.kind, id)? {
                items.push(messages::summary(self.connection, message)?);
            }
        }
        Ok(MessagePage { items, next: None })
    }

    /// The message, if all conditions hold that its source has not seen to.
    fn admit(&self, source: SourceKind, id: MessageId) -> Result<Option<Message>> {
        let MessageFilter { to, state, .. } = self.filter;
        if let Some(to) = to.as_ref().filter(|_| source != SourceKind::To) {
            let sql = "SELECT 1 FROM delivery WHERE recipient = ?1 AND message_id = ?2";
            if !self.connection.prepare_cached(sql)?.exists(params![to, id])? {
                return Ok(None);
            }
        }
        if let Some(state) = state.filter(|_| source != SourceKind::State) {
            let sql = "SELECT 1 FROM delivery WHERE message_id = ?1 AND state = ?2";
            if !self.connection.prepare_cached(sql)?.exists(params![id, state])? {
                return Ok(None);
            }
        }
        let Some(message) = messages::find(self.connection, id)? else { return Ok(None) };
        if !self.is_meant(&message) {
            return Ok(None);
        }
        if source != SourceKind::Index
            && let Some(expression) = index::subject_expression(self.filter)
        {
            let sql = "SELECT 1 FROM message_search WHERE message_search MATCH ?1 AND rowid = ?2";
            let place = index::place_of(self.connection, id)?;
            if !self.connection.prepare_cached(sql)?.exists(params![expression, place])? {
                return Ok(None);
            }
        }
        Ok(Some(message))
    }

    fn is_meant(&self, message: &Message) -> bool {
        fn is_wanted<T: PartialEq>(wanted: &Option<T>, value: &T) -> bool {
            wanted.as_ref().is_none_or(|wanted| wanted == value)
        }
        let MessageFilter { tenant_id, environment, from, tag, header_message_id, .. } = self.filter;
        is_wanted(tenant_id, &message.tenant_id)
            && is_wanted(environment, &message.environment)
            && is_wanted(from, &message.reverse_path)
            && tag.as_ref().is_none_or(|tag| message.annotations.tags.contains(tag))
            && (header_message_id.is_none() || *header_message_id == message.header_message_id)
            && self.page.created_after.is_none_or(|time| us(message.created_at) >= us(time))
            && self.page.created_before.is_none_or(|time| us(message.created_at) < us(time))
    }
}
