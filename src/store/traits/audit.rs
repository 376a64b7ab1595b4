use crate::model::{AuditId, TenantId};
use crate::store::traits::store_trait;
use crate::store::{AuditEntry, AuditFilter, ObjectVersion, Page, PageRequest, Result};

store_trait! {
    /// The audit log. A `scope` is that of the caller: `None` is the platform and sees all entries.
    pub trait Audit {
        /// The version of an object, for [`Store::unless_changed`](crate::store::Store::unless_changed).
        async fn object_version(&self, object_id: String) -> Result<ObjectVersion>;
        /// Writes an entry, or completes the one with its id that the transaction of the change wrote.
        async fn complete_audit(&self, entry: AuditEntry) -> Result<()>;
        /// A page of entries, newest first.
        async fn list_audit(&self, filter: AuditFilter, page: PageRequest) -> Result<Page<AuditEntry>>;
        /// One entry.
        async fn audit_entry(&self, scope: Option<TenantId>, id: AuditId) -> Result<Option<AuditEntry>>;
    }
}
