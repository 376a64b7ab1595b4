//! Lists of messages by filters. A page finds candidates by one condition, in the order of ids, and checks the others for
//! each. It examines a bounded number of messages, so each page is fast; a page that reached the bound before it was full
//! returns where the next one continues. A search in the index that takes too long is given up: the page is then found by
//! examining the messages themselves.

use std::time::Duration;

use super::full_text;
use super::index::{self, SubjectMatch};
use crate::model::{DeliveryState, Environment, MessageId, MessageKind};
use crate::store::database::query_threads::lower_priority;
use crate::store::database::time_limit::TimeLimit;
use crate::store::database::{Connection, Engine, Value, params, params_from_iter};
use crate::store::sql::bounds::Bounds;
use crate::store::sql::keyset::Range;
use crate::store::sql::slices::{ReadSlice, SliceEnd, Sliced};
use crate::store::sql::sql_types::{sql_limit, us};
use crate::store::sql::{delivery_rows, message_rows};
use crate::store::{
    Message, MessageFilter, MessagePage, MessageSummary, PAGE_OBJECTS_MAX, PageRequest, Result, StoreError,
};

const HAS_RECIPIENT: &str =
    "SELECT 1 FROM delivery INDEXED BY delivery_of_message WHERE message_id = ?1 AND recipient = ?2";

const HAS_RECIPIENT_DOMAIN: &str =
    "SELECT 1 FROM delivery INDEXED BY delivery_of_message WHERE message_id = ?1 AND destination = ?2";

/// The index of open deliveries.
const OPEN: &str = "delivery_due";

/// The processor time that a search in the index may take: it has to read the lists of all common words.
const INDEX_TIME_MAX: Duration = Duration::from_millis(250);

/// A page of messages that is being read.
pub(super) struct MessageSearch {
    filter: MessageFilter,
    /// The part of the page that is not read yet.
    rest: PageRequest,
    uses_index: bool,
    items: Vec<MessageSummary>,
    /// The last examined message.
    last: Option<MessageId>,
    examined: usize,
    bounds: Bounds,
}

/// Why reading ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// There are no more candidates.
    NoMore,
    /// The page is full, or examined as many messages as it may.
    Full,
    Slice,
}

impl MessageSearch {
    pub(super) fn new(filter: MessageFilter, page: PageRequest, bounds: Bounds) -> Self {
        Self { filter, rest: page, uses_index: true, items: Vec::new(), last: None, examined: 0, bounds }
    }

    fn page(mut self, next: Option<MessageId>, is_upwards: bool) -> MessagePage {
        if is_upwards {
            self.items.reverse();
        }
        MessagePage { items: self.items, next }
    }
}

impl Sliced for MessageSearch {
    type Page = MessagePage;

    fn read_slice(mut self, connection: &Connection) -> Result<ReadSlice<Self>> {
        let (filter, page) = (self.filter.clone(), self.rest.clone());
        let range = Range::of(MessageId::PREFIX, &page);
        let is_upwards = range.is_upwards;
        // One snapshot for all statements: the states that are compared are those that the page shows.
        let _snapshot = connection.snapshot()?;
        let Self { uses_index, bounds, .. } = self;
        let search = Search { connection, filter: &filter, page: &page, range, uses_index, bounds };
        let source = search.source()?;
        let ended = match source.kind {
            SourceKind::Index => {
                let _limit = TimeLimit::end_after(INDEX_TIME_MAX);
                if filter.subject.is_some() {
                    // The index reads all places of a word in one step, in which nothing looks at the clock.
                    lower_priority();
                }
                search.collect(&source, &mut self)
            }
            SourceKind::Messages | SourceKind::State => search.collect(&source, &mut self),
        };
        match ended {
            Ok(Ended::NoMore) => return Ok(ReadSlice::Complete(self.page(None, is_upwards))),
            Ok(Ended::Full) => {
                let next = self.last;
                return Ok(ReadSlice::Complete(self.page(next, is_upwards)));
            }
            Ok(Ended::Slice) => {}
            Err(StoreError::TooSlow) if source.kind == SourceKind::Index => self.uses_index = false,
            Err(error) => return Err(error),
        }
        if let Some(last) = self.last {
            let cursor = if is_upwards { &mut self.rest.before } else { &mut self.rest.after };
            *cursor = Some(last.to_string());
        }
        Ok(ReadSlice::Rest(self))
    }
}

/// The source of candidates of a page.
struct Source {
    kind: SourceKind,
    /// A query of ids of messages in list order.
    sql: String,
    parameters: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SourceKind {
    /// Messages without a condition of the page, except tenant and environment.
    Messages,
    /// Messages with a delivery in [`Search::required_state`].
    State,
    Index,
}

struct Search<'a> {
    connection: &'a Connection,
    filter: &'a MessageFilter,
    page: &'a PageRequest,
    range: Range,
    uses_index: bool,
    bounds: Bounds,
}

impl Search<'_> {
    /// The condition with few candidates, else the most selective one.
    fn source(&self) -> Result<Source> {
        let rare_state = match self.rare_state() {
            Some(source) if self.has_few(&source.sql, &source.parameters)? => return Ok(source),
            rare_state => rare_state,
        };
        if self.filter.kind != MessageKind::Message {
            return Ok(self.generated());
        }
        if self.required_state() == Some(DeliveryState::Queued)
            && let Some(source) = self.waiting()?
        {
            return Ok(source);
        }
        if let Some(source) = self.indexed()? {
            return Ok(source);
        }
        Ok(rare_state.unwrap_or_else(|| self.messages()))
    }

    /// A state that at least one delivery of each found message has.
    fn required_state(&self) -> Option<DeliveryState> {
        self.filter.delivery_state.or(self.filter.status)
    }

    /// Messages that the server generates are few and have no events, which the full-text index follows.
    fn generated(&self) -> Source {
        let (index, condition, values) = match self.filter.tenant_id {
            Some(tenant) => ("report_by_tenant", "tenant_id = ?3 AND", vec![tenant.to_string().into()]),
            None => ("report_by_id", "", vec![]),
        };
        let order = self.range.order();
        let sql = format!(
            "SELECT id FROM message INDEXED BY {index}
             WHERE id > ?1 AND id < ?2 AND {condition} kind = '{}' AND kind <> 'message' ORDER BY id {order}",
            self.filter.kind
        );
        self.bound(SourceKind::Messages, sql, values)
    }

    /// All messages of the tenant, or of everybody. Those of the test environment have an index, because they may be few.
    fn messages(&self) -> Source {
        let is_test = self.filter.environment == Some(Environment::Test);
        let (condition, values) = match self.filter.tenant_id {
            Some(tenant) => ("tenant_id = ?3", vec![tenant.to_string().into()]),
            None => ("TRUE", vec![]),
        };
        let (index, environment) = match (is_test, self.filter.tenant_id) {
            (false, _) => ("", ""),
            (true, Some(_)) => ("INDEXED BY test_message_by_tenant", "AND environment = 'test'"),
            (true, None) => ("INDEXED BY test_message_by_id", "AND environment = 'test'"),
        };
        let order = self.range.order();
        let sql = format!(
            "SELECT id FROM message {index}
             WHERE id > ?1 AND id < ?2 AND {condition} {environment} ORDER BY id {order}"
        );
        self.bound(SourceKind::Messages, sql, values)
    }

    /// Names the index, because without statistics SQLite may choose one for the order and read every row.
    fn deliveries(&self, index: &str, condition: &str, values: Vec<Value>) -> Source {
        let order = self.range.order();
        let deliveries = self.relation(index);
        let sql = format!(
            "SELECT message_id FROM {deliveries}
             WHERE message_id > ?1 AND message_id < ?2 AND {condition} ORDER BY message_id {order}"
        );
        self.bound(SourceKind::State, sql, values)
    }

    /// What SQLite reads by an index is a relation of its own in PostgreSQL.
    fn relation(&self, index: &str) -> String {
        match (self.connection.engine(), index) {
            (Engine::Sqlite, _) => format!("delivery INDEXED BY {index}"),
            (Engine::Postgres, OPEN) => "(SELECT q.tenant_id, q.next_attempt_us, d.message_id, d.state
                                          FROM queue q JOIN delivery d ON d.id = q.id) AS delivery"
                .to_owned(),
            (Engine::Postgres, _) => "trouble".to_owned(),
        }
    }

    /// Between the ends of the range.
    fn bound(&self, kind: SourceKind, sql: String, values: Vec<Value>) -> Source {
        let ends = [&self.range.low, &self.range.high].map(|end| Value::from(end.clone()));
        Source { kind, sql, parameters: ends.into_iter().chain(values).collect() }
    }

    /// Deliveries in a rare state: nearly all are queued or delivered.
    fn rare_state(&self) -> Option<Source> {
        let state = self.required_state()?;
        if matches!(state, DeliveryState::Queued | DeliveryState::Delivered) {
            return None;
        }
        // The query must contain the condition of the partial index.
        let condition =
            format!("state = '{}' AND state <> 'queued' AND state <> 'delivered'", state.as_str());
        Some(match self.filter.tenant_id {
            Some(tenant) => {
                let condition = format!("tenant_id = ?3 AND {condition}");
                let values = vec![tenant.to_string().into()];
                self.deliveries("delivery_in_trouble", &condition, values)
            }
            None => self.deliveries("delivery_in_trouble_anywhere", &condition, vec![]),
        })
    }

    /// Queued deliveries, if few are open: their index is ordered by time, so they have to be sorted.
    fn waiting(&self) -> Result<Option<Source>> {
        let (condition, values) = match self.filter.tenant_id {
            Some(tenant) => {
                ("next_attempt_us IS NOT NULL AND tenant_id = ?3", vec![tenant.to_string().into()])
            }
            None => ("next_attempt_us IS NOT NULL", vec![]),
        };
        let queued = format!("state = 'queued' AND {condition}");
        let source = self.deliveries(OPEN, &queued, values);
        let waiting = format!("SELECT 1 FROM {} WHERE ?1 <> ?2 AND {condition}", self.relation(OPEN));
        Ok(if self.has_few(&waiting, &source.parameters)? { Some(source) } else { None })
    }

    /// The index of SQLite identifies messages by their places.
    fn indexed(&self) -> Result<Option<Source>> {
        let Some(query) = index::query(self.filter).filter(|_| self.uses_index) else { return Ok(None) };
        let engine = self.connection.engine();
        if engine == Engine::Postgres {
            let sql = format!(
                "SELECT s.message_id FROM message_search s
                 WHERE {} AND s.message_id > ?1 AND s.message_id < ?2 ORDER BY s.message_id {}",
                full_text::condition(engine, 3),
                self.range.order()
            );
            return Ok(Some(self.bound(SourceKind::Index, sql, vec![query.spell(engine).into()])));
        }
        let sql = format!(
            "SELECT p.message_id FROM message_search s JOIN search_place p ON p.place = s.rowid
             WHERE {} AND s.rowid > ?1 AND s.rowid < ?2 ORDER BY s.rowid {}",
            full_text::condition(engine, 3),
            self.range.order()
        );
        let low = self.place_below(&self.range.low)?;
        let high = self.place_above(&self.range.high)?;
        let parameters = vec![low.into(), high.into(), query.spell(engine).into()];
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
        let few = self.bounds.few_candidates_max;
        let sql = format!("SELECT count(*) FROM ({sql} LIMIT {}) AS few", few + 1);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let count: i64 = statement.query_row(params_from_iter(parameters), |row| row.get(0))?;
        Ok(count <= sql_limit(few))
    }

    fn collect(&self, source: &Source, found: &mut MessageSearch) -> Result<Ended> {
        let limit = self.page.limit.clamp(1, PAGE_OBJECTS_MAX);
        let words = match source.kind {
            SourceKind::Index => None,
            _ => SubjectMatch::of(self.filter)?,
        };
        let sql = format!("{} LIMIT {}", source.sql, self.bounds.slice_rows_max);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(&source.parameters))?;
        let (mut end, mut rows_read) = (SliceEnd::new(&self.bounds), 0);
        while let Some(row) = rows.next()? {
            rows_read += 1;
            let id: MessageId = row.get(0)?;
            // A message may have several matching deliveries.
            if found.last == Some(id) {
                continue;
            }
            if found.items.len() == limit || found.examined == self.bounds.page_messages_examined_max {
                return Ok(Ended::Full);
            }
            if end.is_reached() {
                return Ok(Ended::Slice);
            }
            let message = self.admit(source.kind, words.as_ref(), id)?;
            if let Some(message) = message {
                found.items.push(message_rows::summary(self.connection, message)?);
            }
            (found.last, found.examined) = (Some(id), found.examined + 1);
        }
        Ok(if rows_read == self.bounds.slice_rows_max { Ended::Slice } else { Ended::NoMore })
    }

    /// The message, if it meets the conditions that the source does not cover.
    fn admit(
        &self,
        source: SourceKind,
        words: Option<&SubjectMatch>,
        id: MessageId,
    ) -> Result<Option<Message>> {
        let MessageFilter { to, recipient_domain, status, delivery_state, .. } = self.filter;
        if let Some(to) = to
            && !self.connection.prepare_cached(HAS_RECIPIENT)?.exists(params![id, to])?
        {
            return Ok(None);
        }
        if let Some(domain) = recipient_domain
            && !self.connection.prepare_cached(HAS_RECIPIENT_DOMAIN)?.exists(params![id, domain])?
        {
            return Ok(None);
        }
        if let Some(state) = delivery_state.filter(|_| source != SourceKind::State) {
            let sql = "SELECT 1 FROM delivery WHERE message_id = ?1 AND state = ?2";
            if !self.connection.prepare_cached(sql)?.exists(params![id, state])? {
                return Ok(None);
            }
        }
        if let Some(status) = *status
            && delivery_rows::status(self.connection, id)? != status
        {
            return Ok(None);
        }
        let Some(message) = message_rows::find(self.connection, id)? else { return Ok(None) };
        if !self.is_meant(&message) {
            return Ok(None);
        }
        if let Some(words) = words
            && !words.matches(message.subject.as_deref())?
        {
            return Ok(None);
        }
        Ok(Some(message))
    }

    fn is_meant(&self, message: &Message) -> bool {
        fn is_wanted<T: PartialEq>(wanted: &Option<T>, value: &T) -> bool {
            wanted.as_ref().is_none_or(|wanted| wanted == value)
        }
        let MessageFilter {
            tenant_id,
            environment,
            from,
            tag,
            header_message_id,
            key_id,
            list,
            metadata,
            ..
        } = self.filter;
        self.filter.kind == message.kind
            && is_wanted(tenant_id, &message.tenant_id)
            && is_wanted(environment, &message.environment)
            && is_wanted(from, &message.reverse_path)
            && (key_id.is_none() || *key_id == message.key_id)
            && (list.is_none() || *list == message.list)
            && (metadata.is_empty() || has_all(&message.annotations.metadata.scalars(), metadata))
            && tag.as_ref().is_none_or(|tag| message.annotations.tags.contains(tag))
            && (header_message_id.is_none() || *header_message_id == message.header_message_id)
            && self.page.created_after.is_none_or(|time| us(message.created_at) >= us(time))
            && self.page.created_before.is_none_or(|time| us(message.created_at) < us(time))
    }
}

fn has_all(members: &[(String, String)], wanted: &[(String, String)]) -> bool {
    wanted.iter().all(|one| members.contains(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::DomainName;
    use crate::model::{KeyId, TenantId};
    use crate::store::contract::{address, new_message, now};
    use crate::store::sql::tests::{Bed, plan_of};
    use crate::store::{Journal, Spool};

    /// The cost of a page is bounded only if its source returns the order of the list.
    #[tokio::test]
    async fn pages_come_from_an_index_in_its_order() {
        let bed = Bed::new().await;
        let tenant_id = Some(TenantId::generate(now()));
        let all = MessageFilter::default;
        let bounced = Some(DeliveryState::Bounced);
        for (filter, index) in [
            (all(), "SEARCH message USING PRIMARY KEY"),
            (MessageFilter { tenant_id, ..all() }, "message_by_tenant"),
            (MessageFilter { tenant_id, status: bounced, ..all() }, "delivery_in_trouble "),
            (MessageFilter { delivery_state: bounced, ..all() }, "delivery_in_trouble_anywhere"),
            (MessageFilter { kind: MessageKind::Report, ..all() }, "report_by_id"),
            (MessageFilter { tenant_id, kind: MessageKind::Report, ..all() }, "report_by_tenant"),
            (MessageFilter { to: Some(address("x@one.example")), ..all() }, "VIRTUAL TABLE INDEX"),
            (MessageFilter { header_message_id: Some("1@x".into()), ..all() }, "VIRTUAL TABLE INDEX"),
            (MessageFilter { key_id: Some(KeyId::generate(now())), ..all() }, "VIRTUAL TABLE INDEX"),
            (MessageFilter { list: "news".parse().ok(), ..all() }, "VIRTUAL TABLE INDEX"),
            (MessageFilter { metadata: vec![("a".into(), "b".into())], ..all() }, "VIRTUAL TABLE INDEX"),
            (
                MessageFilter { recipient_domain: DomainName::parse("one.example").ok(), ..all() },
                "VIRTUAL TABLE INDEX",
            ),
        ] {
            for before in [None, Some(String::new())] {
                let page = PageRequest { before, ..PageRequest::default() };
                let filter = filter.clone();
                let plan = bed.engine().read(move |connection| {
                    let range = Range::of(MessageId::PREFIX, &page);
                    let bounds = Bounds::default();
                    let search =
                        Search { connection, filter: &filter, page: &page, range, uses_index: true, bounds };
                    Ok(plan_of(connection, &search.source()?.sql))
                });
                let plan = plan.await.unwrap();
                assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{plan}");
            }
        }
    }

    /// The index may be given up in the middle of a page.
    #[tokio::test]
    async fn a_search_finds_the_same_messages_without_the_index() {
        let bed = Bed::new().await;
        let tenants = [bed.tenant("a").await.id, bed.tenant("b").await.id];
        for number in 0..12 {
            let recipient = ["x@one.example", "y@two.example"][number % 2];
            let mut new = new_message(tenants[number / 2 % 2], &[recipient], "body");
            if number % 3 == 0 {
                new.message.annotations.tags.push("third".into());
                new.message.list = Some(["news", "offers"][number % 2].parse().unwrap());
            }
            bed.store.enqueue(new).await.unwrap();
        }
        while bed.store.index_messages().await.unwrap() {}
        let all = MessageFilter::default;
        for filter in [
            MessageFilter { to: Some(address("x@one.example")), ..all() },
            MessageFilter { subject: Some("hello".parse().unwrap()), tenant_id: Some(tenants[0]), ..all() },
            MessageFilter { list: "news".parse().ok(), ..all() },
            MessageFilter { subject: Some("absent".parse().unwrap()), ..all() },
            MessageFilter { tag: Some("third".into()), ..all() },
        ] {
            for before in [None, Some(String::new())] {
                let page = PageRequest { before, limit: 5, ..PageRequest::default() };
                let ids = async |uses_index| {
                    let search = MessageSearch::new(filter.clone(), page.clone(), bed.engine().bounds);
                    let search = MessageSearch { uses_index, ..search };
                    let page = bed.engine().read_slices(search).await.unwrap();
                    (page.items.iter().map(|found| found.message.id).collect::<Vec<_>>(), page.next)
                };
                assert_eq!(ids(false).await, ids(true).await, "{filter:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_page_goes_on_behind_the_rows_of_a_slice() {
        let bed = Bed::new().await;
        let tenant = bed.tenant("a").await.id;
        for _ in 0..5 {
            bed.enqueue(tenant, &["x@one.example", "y@two.example"]).await;
        }
        for delivery_state in [None, Some(DeliveryState::Queued)] {
            let filter = MessageFilter { delivery_state, ..MessageFilter::default() };
            let ids = async |slice_rows_max| {
                let bounds = Bounds { slice_rows_max, few_candidates_max: 100, ..bed.engine().bounds };
                let page = PageRequest { limit: 10, ..PageRequest::default() };
                let search = MessageSearch::new(filter.clone(), page, bounds);
                let page = bed.engine().read_slices(search).await.unwrap();
                page.items.iter().map(|found| found.message.id).collect::<Vec<_>>()
            };
            let whole = ids(100).await;
            assert_eq!(whole.len(), 5);
            assert_eq!(ids(3).await, whole);
        }
    }

    #[tokio::test]
    async fn a_recipient_is_looked_for_among_those_of_the_message_only() {
        let bed = Bed::new().await;
        for sql in [HAS_RECIPIENT, HAS_RECIPIENT_DOMAIN] {
            let plan = bed.engine().read(move |connection| Ok(plan_of(connection, sql))).await.unwrap();
            assert!(plan.contains("delivery_of_message"), "{plan}");
        }
    }
}
