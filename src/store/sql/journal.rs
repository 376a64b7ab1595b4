//! Messages, deliveries, attempts, events and rejections for the API, and their retention.

pub(super) mod commit_order;
pub(super) mod follow;
mod full_text;
pub(super) mod idempotent_responses;
pub(super) mod index;
mod index_rounds;
pub(super) mod recipient_history;
mod rejections;
pub(super) mod retention;
mod search;
mod whole_periods;

use std::ops::AddAssign;
use std::sync::Arc;

use tokio::sync::watch;

use self::commit_order::FilteredEvents;
use super::spool::submission_key;
use super::writer::HotJob;
use super::{
    Store, Tx, blob_store, body_pieces, delivery_rows, events, message_rows, outbox, sign_ins, usage,
};
use crate::mail::Timestamp;
use crate::model::{DeliveryId, EventId, KeyId, MessageId, RequestId, TenantId};
use crate::store::database::{Connection, Engine};
use crate::store::{
    Attempt, Delivery, Event, EventFilter, EventPage, IdempotentResponse, Journal, JournalCursor,
    JournalEntry, Message, MessageFilter, MessagePage, NewEvent, PAGE_OBJECTS_MAX, Page, PageRequest, Pruned,
    Rejection, RejectionFilter, Result, RetentionPolicy, StoreCounts, is_in_scope,
};

impl Journal for Store {
    async fn message(&self, scope: Option<TenantId>, id: MessageId) -> Result<Option<Message>> {
        let message = self.read(move |connection| Ok(message_rows::find(connection, id)?)).await?;
        Ok(message.filter(|message| is_in_scope(scope, Some(message.tenant_id))))
    }

    async fn list_messages(&self, filter: MessageFilter, page: PageRequest) -> Result<MessagePage> {
        if index::query(&filter).is_some() {
            self.index_messages().await?;
        }
        self.read_slices(search::MessageSearch::new(filter, page, self.bounds)).await
    }

    async fn index_messages(&self) -> Result<bool> {
        // Concurrent rounds would index the same messages.
        let _guard = self.indexing.lock().await;
        // Others wait for the guard, so this does not wait for the turn of a requester.
        let server = self.of_server();
        let end = server.end_of_journal().await?;
        let read = move |connection: &Connection| index_rounds::read_news(connection, end);
        let Some(news) = server.read_slow(read).await? else { return Ok(false) };
        let truncated = news.truncated;
        let hot = HotJob { octets: news.octets(), ..HotJob::default() };
        let is_written =
            server.write_hot(hot, news, |news, tx| index_rounds::write(tx, news), |_, done| done);
        let is_written = is_written.await?;
        Ok(is_written && truncated)
    }

    async fn deliveries(&self, message: MessageId) -> Result<Vec<Delivery>> {
        self.read_slow(move |connection| delivery_rows::of_message(connection, message)).await
    }

    async fn attempts(
        &self,
        message: MessageId,
        delivery: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Page<Attempt>> {
        self.read_slow(move |connection| delivery_rows::attempts(connection, message, delivery, limit)).await
    }

    async fn message_events(
        &self,
        message: MessageId,
        delivery: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Page<Event>> {
        self.read_slow(move |connection| events::of_message(connection, message, delivery, limit)).await
    }

    async fn append(&self, event: NewEvent) -> Result<()> {
        self.write(move |tx| {
            let NewEvent { kind, tenant_id, environment, data, at } = &event;
            let (tenant_id, environment) = (*tenant_id, *environment);
            let subject = events::Subject { tenant_id, environment, ..events::Subject::default() };
            tx.append(*kind, subject, data, *at)
        })
        .await
    }

    async fn list_events(&self, filter: EventFilter, page: PageRequest) -> Result<EventPage> {
        self.read_slices(events::EventSearch::new(filter, page, self.bounds)).await
    }

    async fn events_after(&self, after: JournalCursor, limit: usize) -> Result<Page<JournalEntry>> {
        let end = self.journal_end.position();
        let query = move |connection: &Connection| match connection.engine() {
            Engine::Sqlite => events::after(connection, after, limit),
            Engine::Postgres => commit_order::events_after(connection, after, end, limit),
        };
        self.read_slow(query).await
    }

    async fn filtered_events_after(
        &self,
        filter: EventFilter,
        after: JournalCursor,
    ) -> Result<(Vec<JournalEntry>, Option<JournalCursor>)> {
        if self.engine == Engine::Postgres {
            let end = self.journal_end.position();
            return self.read_slices(FilteredEvents::new(filter, after, end, self.bounds)).await;
        }
        let before = Some(events::last_before(after).to_string());
        let page = PageRequest { limit: PAGE_OBJECTS_MAX, before, ..PageRequest::default() };
        let EventPage { items, next } = self.list_events(filter, page).await?;
        let entry = |event: Event| JournalEntry { cursor: events::cursor_after(event.id), event };
        Ok((items.into_iter().rev().map(entry).collect(), next.map(events::cursor_after)))
    }

    async fn cursor_of(&self, event: EventId) -> Result<JournalCursor> {
        if self.engine == Engine::Sqlite {
            return Ok(events::cursor_after(event));
        }
        let end = self.journal_end.position();
        self.read(move |connection| commit_order::cursor_after(connection, event, end)).await
    }

    async fn end_of_journal(&self) -> Result<JournalCursor> {
        if self.engine == Engine::Postgres {
            self.journal_end.advance(self.of_server().read(commit_order::end).await?);
        }
        Ok(self.journal_end.position())
    }

    fn watch_events(&self) -> watch::Receiver<JournalCursor> {
        self.journal_end.watch()
    }

    fn counts(&self) -> StoreCounts {
        StoreCounts { free_disk_bytes: self.free_space.available(), ..self.counters.read() }
    }

    fn reject(&self, rejection: Rejection) {
        if !self.writer.leave(move |tx| rejections::insert(tx, &rejection)) {
            tracing::warn!(target: "pillarbox::flood", "a rejection was not recorded: too many writes are pending");
        }
    }

    async fn list_rejections(&self, filter: RejectionFilter, page: PageRequest) -> Result<Page<Rejection>> {
        self.read_slow(move |connection| rejections::list(connection, filter, &page)).await
    }

    async fn rejection(&self, scope: Option<TenantId>, id: RequestId) -> Result<Option<Rejection>> {
        self.read(move |connection| rejections::find(connection, scope, id)).await
    }

    async fn idempotent_response(
        &self,
        key: KeyId,
        name: &str,
        now: Timestamp,
    ) -> Result<Option<IdempotentResponse>> {
        let sealer = Arc::clone(&self.sealer);
        let name = name.to_owned();
        self.read(move |connection| idempotent_responses::find(connection, &sealer, key, &name, now)).await
    }

    async fn response_octets_of_day(&self, tenant: TenantId, now: Timestamp) -> Result<u64> {
        self.read(move |connection| idempotent_responses::octets_of_day(connection, tenant, now)).await
    }

    async fn store_idempotent_response(
        &self,
        key: KeyId,
        name: &str,
        response: IdempotentResponse,
        now: Timestamp,
    ) -> Result<()> {
        let name = name.to_owned();
        self.write(move |tx| idempotent_responses::insert(tx, key, &name, &response, now)).await?;
        Ok(())
    }

    async fn extend_partitions(&self, now: Timestamp) -> Result<()> {
        self.extend_all_partitions(now).await
    }

    async fn prune(&self, policy: RetentionPolicy, now: Timestamp, limit: usize) -> Result<Pruned> {
        self.prune_expired(policy, now, limit).await
    }

    async fn checkpoint(&self) -> Result<()> {
        self.writer.checkpoint().await
    }

    async fn probe(&self) -> Result<()> {
        self.test_storage().await
    }
}

impl Store {
    async fn prune_expired(&self, policy: RetentionPolicy, now: Timestamp, limit: usize) -> Result<Pruned> {
        self.drop_partitions(policy, now).await?;
        let mut progress = self.retention.lock().clone();
        let rows_examined_max = self.bounds.retention_rows_examined_max;
        let step = retention::PruneStep { policy, now, limit, rows_examined_max };
        let find = move |connection: &Connection| {
            let due = retention::find_due(connection, &step, &mut progress)?;
            Ok((due, progress))
        };
        let (due, progress) = self.read_slow(find).await?;
        *self.retention.lock() = progress;
        let mut pruned = Pruned { truncated: due.truncated, ..Pruned::default() };
        pruned.bodies = self.remove_in_jobs(&due.bodies, retention::remove_bodies).await?;
        pruned.transcripts = self.remove_in_jobs(&due.transcripts, retention::remove_transcripts).await?;
        let removed = self.remove_in_jobs(&due.messages, retention::remove_messages).await?;
        (pruned.messages, pruned.events) = (removed.messages, removed.events);
        self.remove_released_files().await?;
        pruned.events += self.remove_in_jobs(&due.events, retention::remove_events).await?;
        pruned.rejections = self.remove_in_jobs(&due.rejections, retention::remove_rejections).await?;
        pruned.audit_entries =
            self.remove_in_jobs(&due.audit_entries, retention::remove_audit_entries).await?;
        self.write(move |tx| usage::fold_slots(tx, now, retention::JOB_ROWS_MAX)).await?;
        self.write(move |tx| sign_ins::delete_ended(tx, now)).await?;
        self.write(move |tx| body_pieces::delete_orphans(tx, now, retention::JOB_ROWS_MAX)).await?;
        for (tenant, is_deleted) in due.usage {
            let rows_max = retention::JOB_ROWS_MAX;
            let work = move |tx: &Tx<'_>| usage::remove_expired(tx, tenant, is_deleted, now, rows_max);
            let removed = self.write(work).await?;
            pruned.usage_rows += removed;
            pruned.truncated |= removed >= rows_max as u64;
        }
        pruned.webhook_deliveries = self.remove_in_jobs(&due.webhook_deliveries, outbox::remove).await?;
        pruned.suppressions = self.remove_in_jobs(&due.suppressions, retention::remove_suppressions).await?;
        pruned.reports = self.remove_in_jobs(&due.report_texts, retention::remove_report_texts).await?;
        pruned.reports += self.remove_in_jobs(&due.reports, retention::remove_reports).await?;
        pruned.erasures = self.remove_in_jobs(&due.erasures, retention::remove_erasures).await?;
        pruned.submission_keys = self.write(move |tx| submission_key::delete_expired(tx, now, limit)).await?;
        pruned.idempotent_responses =
            self.write(move |tx| idempotent_responses::delete_expired(tx, now, limit)).await?;
        pruned.truncated |= pruned.submission_keys.max(pruned.idempotent_responses) == limit as u64;
        // Reads directories, so only when nothing else is left to do.
        if !pruned.truncated {
            self.look_for_strays().await?;
        }
        Ok(pruned)
    }

    /// Deletes objects in small jobs, so that other commits do not wait for a long deletion.
    async fn remove_in_jobs<I, T>(&self, ids: &[I], remove: fn(&Tx<'_>, &[I]) -> Result<T>) -> Result<T>
    where
        I: Clone + Send + 'static,
        T: Default + AddAssign + Send + 'static,
    {
        let mut removed = T::default();
        for ids in ids.chunks(retention::JOB_ROWS_MAX) {
            let ids = ids.to_vec();
            removed += self.write(move |tx| remove(tx, &ids)).await?;
        }
        Ok(removed)
    }

    /// Deletes released body files, including those that an earlier process left.
    pub(super) async fn remove_released_files(&self) -> Result<()> {
        let mut after = None;
        loop {
            let files = Arc::clone(&self.bodies);
            let remove = move |connection: &Connection| {
                let released = blob_store::released(connection, after, retention::JOB_ROWS_MAX)?;
                Ok((files.remove(&released), released.last().copied()))
            };
            let (removed, last) = self.read(remove).await?;
            if last.is_none() {
                return Ok(());
            }
            after = last;
            self.write(move |tx| blob_store::delete_released(tx, &removed)).await?;
        }
    }

    async fn look_for_strays(&self) -> Result<()> {
        let files = Arc::clone(&self.bodies);
        let mut progress = self.retention.lock().clone();
        let directories_max = self.bounds.body_directories_examined_max;
        let (found, progress) = self
            .read_slow(move |connection| {
                let found = retention::count_strays(connection, &files, &mut progress, directories_max)?;
                Ok((found, progress))
            })
            .await?;
        *self.retention.lock() = progress;
        let Some(retention::Strays { files, octets }) = found else { return Ok(()) };
        self.counters.note_stray_files(files);
        if files > 0 {
            tracing::warn!(
                files,
                octets,
                directory = %self.bodies.directory().display(),
                "body files without a message in this database are not deleted: \
                 if the database was restored from a backup, they may be the only copies of newer mail; \
                 else a crash interrupted their submissions and they can be deleted"
            );
        }
        Ok(())
    }
}
