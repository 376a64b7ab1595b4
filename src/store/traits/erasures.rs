use crate::mail::Timestamp;
use crate::model::{DeliveryId, ErasureId, MessageId, TenantId};
use crate::store::traits::store_trait;
use crate::store::{Erasure, ErasureCounts, NewErasure, Page, PageRequest, RecipientRows, Result};

store_trait! {
    /// What is stored about one recipient, and its erasure. All of them read every row of the store in steps.
    pub trait Erasures {
        /// The rows about an address ([`Address::folded`](crate::mail::Address::folded)), of one tenant or of all.
        async fn recipient_rows(&self, tenant: Option<TenantId>, folded: String) -> Result<RecipientRows>;
        /// Counts what an erasure would change.
        async fn count_erasure(&self, new: NewErasure) -> Result<ErasureCounts>;
        /// Notes an erasure, without the address. [`Erasures::apply_erasures`] applies it. Fails with
        /// [`Conflict::LimitReached`](crate::store::Conflict::LimitReached).
        async fn note_erasure(&self, new: NewErasure, now: Timestamp) -> Result<Erasure>;
        /// The open deliveries to recipients whose erasure is not complete: they are cancelled first.
        async fn deliveries_to_cancel(&self) -> Result<Vec<(MessageId, Vec<DeliveryId>)>>;
        /// Applies all erasures that are not complete, in steps between which others commit. Those with an open delivery from
        /// before their request stay incomplete. Returns the number of the others.
        async fn apply_erasures(&self, now: Timestamp) -> Result<usize>;
        /// One erasure.
        async fn erasure(&self, id: ErasureId) -> Result<Option<Erasure>>;
        /// A page of erasures, newest first.
        async fn list_erasures(&self, page: PageRequest) -> Result<Page<Erasure>>;
    }
}
