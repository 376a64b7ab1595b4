//! SQLite behind the three roles.

use super::*;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Made if absent.
    pub data_dir: std::path::PathBuf,
    /// The file with the key that seals secrets; `master.key` in the data directory, made if absent, by default.
    pub master_key_file: Option<std::path::PathBuf>,
    /// Connections that read.
    pub readers: u32,
    /// Octets above which a body goes to a file of its own.
    pub inline_body_bytes_max: u64,
    /// Octets that the file system must have free for anything to be accepted.
    pub free_disk_bytes_min: u64,
    /// Octets of accepted messages kept in memory for immediate delivery.
    pub handover_bytes_max: u64,
    /// Whether this process serves the spool.
    pub access: Access,
}

/// Who else may have the data directory open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody else serves it: the server.
    Serve,
    /// A server may be running: the key commands. Nothing may be enqueued or claimed.
    Manage,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process serves the data directory.
    #[error("{0} is in use by another process")]
    InUse(std::path::PathBuf),
    /// The database is newer than the program.
    #[error("the database has schema {found}, this program knows up to {known}: use a newer pillarbox")]
    Newer {
        /// In the file.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The master key is missing, unreadable or another one than the database was sealed with.
    #[error("master key {path}: {message}")]
    MasterKey {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Anything else.
    #[error("cannot open the store in {path}: {message}")]
    Failed {
        /// The data directory.
        path: std::path::PathBuf,
        /// What SQLite or the system says.
        message: String,
    },
}

/// The store: one writer, several readers, what is claimed in memory.
pub struct Store;

impl Store {
    /// Opens the data directory, making or migrating it as needed.
    pub fn open(_options: StoreOptions) -> std::result::Result<Self, OpenError> {
        todo!()
    }

    /// Writes what waits, moves the log into the database and closes.
    pub async fn close(&self) {
        todo!()
    }
}

impl Directory for Store {
    fn directory_version(&self) -> u64 {
        todo!()
    }
    async fn create_tenant(&self, _new: NewTenant, _now: Timestamp) -> Result<Tenant> {
        todo!()
    }
    async fn tenant(&self, _id: TenantId) -> Result<Option<Tenant>> {
        todo!()
    }
    async fn tenant_by_slug(&self, _slug: &str) -> Result<Option<Tenant>> {
        todo!()
    }
    async fn list_tenants(&self, _page: PageRequest) -> Result<Page<Tenant>> {
        todo!()
    }
    async fn update_tenant(
        &self,
        _id: TenantId,
        _patch: TenantPatch,
        _now: Timestamp,
    ) -> Result<Option<Tenant>> {
        todo!()
    }
    async fn smart_host_password(&self, _id: TenantId) -> Result<Option<String>> {
        todo!()
    }
    async fn remove_tenant(&self, _id: TenantId, _delete: bool) -> Result<Option<TenantCounts>> {
        todo!()
    }
    async fn create_domain(&self, _new: NewDomain, _now: Timestamp) -> Result<Domain> {
        todo!()
    }
    async fn domain(&self, _scope: Option<TenantId>, _id: DomainId) -> Result<Option<Domain>> {
        todo!()
    }
    async fn list_domains(&self, _filter: DomainFilter, _page: PageRequest) -> Result<Page<Domain>> {
        todo!()
    }
    async fn domains_covering(
        &self,
        _tenant: TenantId,
        _environment: Environment,
        _name: &DomainName,
    ) -> Result<Vec<Domain>> {
        todo!()
    }
    async fn update_domain(
        &self,
        _id: DomainId,
        _patch: DomainPatch,
        _now: Timestamp,
    ) -> Result<Option<Domain>> {
        todo!()
    }
    async fn record_domain_check(&self, _id: DomainId, _check: DomainCheck) -> Result<Option<Domain>> {
        todo!()
    }
    async fn domains_to_check(&self, _before: Timestamp, _limit: usize) -> Result<Vec<Domain>> {
        todo!()
    }
    async fn delete_domain(&self, _id: DomainId) -> Result<bool> {
        todo!()
    }
    async fn sandbox_domain(&self, _name: &DomainName) -> Result<Option<Domain>> {
        todo!()
    }
    async fn ensure_sandbox_domain(&self, _new: NewDomain, _now: Timestamp) -> Result<Domain> {
        todo!()
    }
    async fn add_dkim_key(&self, _domain: DomainId, _new: NewDkimKey, _now: Timestamp) -> Result<DkimKey> {
        todo!()
    }
    async fn dkim_keys(&self, _domain: DomainId) -> Result<Vec<DkimKey>> {
        todo!()
    }
    async fn dkim_private_key(&self, _id: DkimKeyId) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>> {
        todo!()
    }
    async fn create_key(&self, _new: NewKey, _now: Timestamp) -> Result<Key> {
        todo!()
    }
    async fn key(&self, _scope: Option<TenantId>, _id: KeyId) -> Result<Option<Key>> {
        todo!()
    }
    async fn key_by_digest(&self, _digest: SecretDigest) -> Result<Option<(Key, Option<Tenant>)>> {
        todo!()
    }
    async fn list_keys(&self, _filter: KeyFilter, _page: PageRequest) -> Result<Page<Key>> {
        todo!()
    }
    async fn update_key(&self, _id: KeyId, _patch: KeyPatch) -> Result<Option<Key>> {
        todo!()
    }
    async fn revoke_key(&self, _id: KeyId, _now: Timestamp) -> Result<bool> {
        todo!()
    }
    async fn touch_key(&self, _id: KeyId, _now: Timestamp) -> Result<()> {
        todo!()
    }
    async fn suppress(&self, _new: NewSuppression, _now: Timestamp) -> Result<Suppression> {
        todo!()
    }
    async fn suppression_of(
        &self,
        _tenant: TenantId,
        _folded: &str,
        _now: Timestamp,
    ) -> Result<Option<Suppression>> {
        todo!()
    }
    async fn list_suppressions(
        &self,
        _filter: SuppressionFilter,
        _page: PageRequest,
    ) -> Result<Page<Suppression>> {
        todo!()
    }
    async fn suppression(&self, _scope: Option<TenantId>, _id: SuppressionId) -> Result<Option<Suppression>> {
        todo!()
    }
    async fn lift_suppression(
        &self,
        _scope: Option<TenantId>,
        _id: SuppressionId,
        _now: Timestamp,
    ) -> Result<bool> {
        todo!()
    }
}

impl Spool for Store {
    async fn enqueue(&self, _new: NewMessage) -> Result<()> {
        todo!()
    }
    async fn claim_due(&self, _now: Timestamp, _room: &ClaimRoom) -> Result<Claimed> {
        todo!()
    }
    async fn wait_for_work(&self) {
        todo!()
    }
    async fn content(&self, _id: MessageId) -> Result<Option<Content>> {
        todo!()
    }
    async fn record(&self, _records: RecordBatch) -> Result<()> {
        todo!()
    }
    fn release(&self, _ids: &[DeliveryId]) {
        todo!()
    }
    async fn depth(&self) -> Result<QueueDepth> {
        todo!()
    }
}

impl Journal for Store {
    async fn message(&self, _scope: Option<TenantId>, _id: MessageId) -> Result<Option<Message>> {
        todo!()
    }
    async fn list_messages(
        &self,
        _filter: MessageFilter,
        _page: PageRequest,
    ) -> Result<Page<(Message, Vec<Delivery>)>> {
        todo!()
    }
    async fn deliveries(&self, _message: MessageId) -> Result<Vec<Delivery>> {
        todo!()
    }
    async fn attempts(&self, _message: MessageId) -> Result<Vec<Attempt>> {
        todo!()
    }
    async fn message_events(&self, _message: MessageId) -> Result<Vec<Event>> {
        todo!()
    }
    fn reject(&self, _rejection: Rejection) {
        todo!()
    }
    async fn list_rejections(&self, _scope: Option<TenantId>, _page: PageRequest) -> Result<Page<Rejection>> {
        todo!()
    }
    async fn prune(&self, _policy: RetentionPolicy, _now: Timestamp, _limit: usize) -> Result<Pruned> {
        todo!()
    }
    async fn checkpoint(&self) -> Result<()> {
        todo!()
    }
    async fn probe(&self) -> Result<()> {
        todo!()
    }
}
