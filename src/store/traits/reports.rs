use std::sync::Arc;

use crate::mail::{DomainName, Timestamp, TokenKeys, TokenSubject};
use crate::model::{DeliveryId, LinkKeys, MessageId, ReportId, TenantId};
use crate::store::traits::store_trait;
use crate::store::{
    FinishedDelivery, NewReport, Page, PageRequest, RecipientHistory, RecordedReport, Report, ReportFilter,
    ReportTarget, Result, SuspiciousSite, TokenGeneration, Unsubscription,
};

store_trait! {
    /// What comes back about messages, and the keys of the addresses that it comes to. A `scope` is that of the caller.
    pub trait Reports {
        /// The keys of report addresses. Changes with [`Reports::rotate_tokens`].
        fn token_keys(&self) -> Arc<TokenKeys>;
        /// The keys of unsubscribe links.
        fn link_keys(&self) -> Arc<LinkKeys>;
        /// The generations of both, the newest first.
        async fn token_generations(&self) -> Result<Vec<TokenGeneration>>;
        /// Opens the next generation. Earlier ones are refused after [`TOKEN_OVERLAP`](crate::store::TOKEN_OVERLAP), or at once.
        /// Fails with [`Conflict::TooManyGenerations`](crate::store::Conflict::TooManyGenerations) while 31 earlier ones are accepted:
        /// then wait until one expires, or rotate at once.
        async fn rotate_tokens(&self, at_once: bool, now: Timestamp) -> Result<TokenGeneration>;
        /// The delivery or message that a verified token names; `None` if its row is gone.
        async fn report_target(&self, subject: TokenSubject, now: Timestamp) -> Result<Option<ReportTarget>>;
        /// Whether a verified domain has this return host: its own, or `label` under its name. Also with mode `off`, because
        /// reports about earlier mail still come.
        async fn is_return_host(&self, host: &DomainName, label: &str) -> Result<bool>;
        /// Records a report with everything that follows from it, in one transaction.
        async fn record_report(&self, new: NewReport) -> Result<RecordedReport>;
        /// Suppresses an address for a list and appends the event, unless the address has left it. True if it is new.
        async fn unsubscribe(&self, wish: Unsubscription) -> Result<bool>;
        /// The last finished deliveries to an address, from the search index: the newest message first. Fails with
        /// [`StoreError::TooSlow`](crate::store::StoreError::TooSlow) if the index has to be read for too long.
        async fn finished_deliveries_to(&self, history: RecipientHistory) -> Result<Vec<FinishedDelivery>>;
        /// Suppressions that the site caused since `since`, and that it causes until `until`, are provisional. Appends the event
        /// of the platform, unless the site was suspicious already.
        async fn suspect_site(&self, suspicious: SuspiciousSite) -> Result<()>;
        /// A page of reports, newest first.
        async fn list_reports(&self, filter: ReportFilter, page: PageRequest) -> Result<Page<Report>>;
        /// One report.
        async fn report(&self, scope: Option<TenantId>, id: ReportId) -> Result<Option<Report>>;
        /// The text of a report; `None` after its retention.
        async fn report_raw(&self, scope: Option<TenantId>, id: ReportId) -> Result<Option<Vec<u8>>>;
        /// Reports about a message from which nothing followed, so that they have no event, the oldest first. With
        /// `delivery`, those of that delivery, and those of no delivery in particular.
        async fn reports_without_event(
            &self,
            message: MessageId,
            delivery: Option<DeliveryId>,
            limit: usize,
        ) -> Result<Page<Report>>;
    }
}
