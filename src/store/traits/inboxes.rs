use crate::mail::Timestamp;
use crate::model::{InboxId, TenantId};
use crate::store::traits::store_trait;
use crate::store::{Inbox, InboxConfirmation, InboxFilter, NewInbox, Page, PageRequest, Result};

store_trait! {
    /// Inboxes of tenants, and what is counted for trial mail. A `scope` is that of the caller: `None` is the platform.
    pub trait Inboxes {
        /// Adds an inbox with a code for its confirmation mail. The same address again gets a new code, unless it is confirmed.
        /// Fails with [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::ConfirmationMails`](crate::store::Conflict::ConfirmationMails), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
        async fn add_inbox(&self, new: NewInbox, now: Timestamp) -> Result<Inbox>;
        /// One inbox.
        async fn inbox(&self, scope: Option<TenantId>, id: InboxId) -> Result<Option<Inbox>>;
        /// A page of inboxes, newest first.
        async fn list_inboxes(&self, filter: InboxFilter, page: PageRequest) -> Result<Page<Inbox>>;
        /// Confirms an inbox if this is its code. A wrong code counts as an attempt.
        async fn confirm_inbox(
            &self,
            scope: Option<TenantId>,
            id: InboxId,
            code: String,
            now: Timestamp,
        ) -> Result<Option<InboxConfirmation>>;
        /// Deletes an inbox. False if it did not exist.
        async fn delete_inbox(&self, scope: Option<TenantId>, id: InboxId) -> Result<bool>;
        /// The confirmed inboxes of a tenant, as [`Address::folded`](crate::mail::Address::folded).
        async fn confirmed_inboxes(&self, tenant: TenantId) -> Result<Vec<String>>;
        /// Counts a trial message of this day. False if the tenant has sent the maximum.
        async fn take_trial_message(&self, tenant: TenantId, now: Timestamp) -> Result<bool>;
    }
}
