use crate::mail::Timestamp;
use crate::store::traits::store_trait;
use crate::store::{BundleObject, BundleRequest, ImportOptions, ImportReport, Page, Result};

store_trait! {
    /// One tenant as a bundle of objects, to move it to another server.
    pub trait Bundles {
        /// The next objects of a part, in the order of their ids.
        async fn bundle_page(&self, request: BundleRequest) -> Result<Page<BundleObject>>;
        /// Imports objects of one tenant in one transaction, or nothing. The first one is the tenant. Ids stay, so what is
        /// already there is not imported again.
        async fn import_bundle(
            &self,
            objects: Vec<BundleObject>,
            options: ImportOptions,
            now: Timestamp,
        ) -> Result<ImportReport>;
    }
}
