//! Accepts mail: authenticates the submitter, checks sender, recipients and header, then rewrites the header, signs
//! and stores the message in one transaction. Used by SMTP and the HTTP API. Imports `mail`, `model`, `policy`, `dkim`,
//! `store`, `limits`, `histogram` and `unsubscribe`.

mod acceptance;
mod authentication;
mod directory_cache;
mod feedback_fields;
mod header_rewrite;
mod list_message;
mod local_submission;
mod rejection_counters;
mod rejection_log_limit;
mod send_limit;
pub mod shared_window;
mod submission_key;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use bytes::Bytes;

use self::authentication::{check_network, check_validity};
use self::directory_cache::KeyAndTenant;
use self::rejection_counters::RejectionCounters;
use self::rejection_log_limit::RejectionLogLimit;
use self::send_limit::{QuotaRequest, SendLimits};
use crate::clock::{Clock, Instant};
use crate::config;
use crate::histogram::{Histogram, HistogramReading, UP_TO_SECONDS};
use crate::limits::tenant_semaphore::TenantSemaphore;
use crate::mail::{Address, DomainName, Envelope, Host, Recipient, ReversePath, Timestamp};
use crate::model::{
    Environment, ListName, MessageId, Refusal, RefusalCode, RequestId, Scope, SecretDigest, Stage,
};
use crate::policy::admission::{
    Sender, SendingDomain, SuppressionFacts, admit_from, admit_recipient, admit_sender, admit_tenant,
};
use crate::policy::fixed_window::QuotaStatus;
use crate::store::{
    Annotations, Conflict, Directory, Journal, Key, Rejection, Spool, Store, StoreError, SubmissionKey,
    Suppression, Tenant,
};
use crate::telemetry::FLOOD;

pub use self::acceptance::{CheckedSubmission, PreparedSubmission};
pub use self::authentication::{AuthenticationError, strip_login_domain};
pub use self::directory_cache::{DirectoryCache, KeyAndOwner};
pub use self::header_rewrite::{CheckedHeader, Summary, check as check_header};
pub use self::list_message::{LinkSender, refuse_several_recipients};
pub use self::local_submission::{KeyFileError, LocalSender, LocalSubmitter, read_key_file};
pub use self::trial::SANDBOX_LABEL;

/// Settings of submission.
#[derive(Debug, Clone)]
pub struct SubmissionSettings {
    /// The host name in `Received`.
    pub hostname: DomainName,
    /// The lifetime of messages, unless the tenant or the message has its own.
    pub message_lifetime: Duration,
    /// Upper bound of that lifetime.
    pub message_lifetime_max: Duration,
    /// Whether `MAIL FROM:<>` is accepted.
    pub allow_null_sender: bool,
    /// Whether a message may have several fields of which RFC 5322 §3.6 allows one.
    pub allow_duplicate_headers: bool,
    /// Whether `Received` includes the client's address.
    pub received_includes_client_address: bool,
    /// The platform's return host, if the server receives reports.
    pub inbound_host: Option<DomainName>,
    /// The defaults of return paths.
    pub return_path: config::ReturnPath,
    /// The address of the public pages, without a slash at its end; `None` if there are none.
    pub public_url: Option<String>,
}

/// The service that accepts mail.
pub struct SubmissionService {
    store: Arc<Store>,
    clock: Clock,
    directory: DirectoryCache,
    rejection_log: RejectionLogLimit,
    refusals: RejectionCounters,
    limits: SendLimits,
    settings: SubmissionSettings,
    /// One permit for each concurrent signature; as many as cores.
    signing: TenantSemaphore,
    /// Permits by the weight of the messages that are being stored.
    storing: TenantSemaphore,
    /// The time from the end of the data to the durable commit.
    accept_seconds: Histogram,
}

/// The submitter: a tenant, through one of its keys or a platform key.
#[derive(Debug, Clone)]
pub struct Submitter {
    /// The tenant at the time of the login; later checks load it again.
    pub tenant: Arc<Tenant>,
    /// The key at the time of the login; later checks load it again.
    pub key: Arc<Key>,
    /// The secret of the session's login; `None` if each request has its own.
    pub secret: Option<SecretDigest>,
    /// The client's address.
    pub client_address: IpAddr,
    /// The scope that the key needs for this kind of submission.
    pub scope: Scope,
}

/// The recipients of a message, after the decision on each.
#[derive(Debug, Default)]
pub struct AdmittedRecipients {
    /// Those that get the message.
    pub open: Vec<Recipient>,
    /// Those that are suppressed.
    pub suppressed: Vec<Address>,
}

/// A message with an admitted envelope.
#[derive(Debug)]
pub struct Submission {
    /// The submitter.
    pub submitter: Arc<Submitter>,
    /// The envelope.
    pub envelope: Envelope,
    /// Content with CRLF line ends, without NUL, bare CR or bare LF.
    pub message: Bytes,
    /// How it was submitted.
    pub trace: Trace,
    /// Data from the HTTP API besides the message.
    pub extras: SubmissionExtras,
    /// The time at which the end of the data, or of the request, was received.
    pub received_at: Instant,
}

/// Data that the HTTP API has besides the envelope.
#[derive(Debug, Default)]
pub struct SubmissionExtras {
    /// Metadata and tags from the sender.
    pub annotations: Annotations,
    /// Recipients that were removed because they are suppressed.
    pub suppressed: Vec<Address>,
    /// Identifies the submission; `None` if the Idempotency-Key field of the message does. The name begins with the
    /// protocol, so that names of different protocols never collide.
    pub submission_key: Option<SubmissionKey>,
    /// The list that the message belongs to; `None` if the X-Pillarbox-List field of the message names it.
    pub list: Option<ListName>,
    /// The id of the message, if its content has it already.
    pub id: Option<MessageId>,
}

/// How a message was submitted, for `Received` (RFC 5321 §4.4).
#[derive(Debug, Clone)]
pub struct Trace {
    /// The EHLO name; printable ASCII.
    pub helo: String,
    /// `ESMTPSA`, `SMTP`, `UTF8SMTPSA`, `HTTP` (RFC 3848, RFC 6531 §4.3).
    pub protocol: &'static str,
    /// TLS version and cipher, such as `TLSv1.3 with cipher TLS13_AES_256_GCM_SHA384`.
    pub tls: Option<String>,
}

/// Total weight of messages being stored at one time.
const STORING_WEIGHT_MAX: u32 = 512;
/// The share of one tenant: the amount that a commit writes in a few milliseconds, because all tenants wait for the
/// commit.
const STORING_WEIGHT_OF_TENANT_MAX: u32 = 64;
/// The share while other tenants submit too.
const STORING_WEIGHT_OF_TENANT_CONTENDED_MAX: u32 = 8;

impl SubmissionService {
    /// A service that stores into `store`.
    pub fn new(store: Arc<Store>, settings: SubmissionSettings, clock: Clock) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        Self {
            directory: DirectoryCache::new(
                store.clone(),
                settings.inbound_host.is_some().then(|| settings.return_path.clone()),
                &clock,
            ),
            clock,
            rejection_log: RejectionLogLimit::default(),
            refusals: RejectionCounters::new(),
            limits: SendLimits::new(store.clone()),
            store,
            settings,
            signing: TenantSemaphore::new(cores, cores).with_contended_max((cores / 2).max(1)),
            storing: TenantSemaphore::new(STORING_WEIGHT_MAX, STORING_WEIGHT_OF_TENANT_MAX)
                .with_contended_max(STORING_WEIGHT_OF_TENANT_CONTENDED_MAX),
            accept_seconds: Histogram::new(UP_TO_SECONDS),
        }
    }

    /// The cached keys, domains and signers.
    pub fn directory(&self) -> &DirectoryCache {
        &self.directory
    }

    /// Whether the submitter may send from this path. `already_counted`: the message was counted against the send limit
    /// before, so no quota is needed.
    pub async fn admit_sender(
        &self,
        submitter: &Submitter,
        path: &ReversePath,
        already_counted: bool,
    ) -> Result<(), Refusal> {
        let current = self.refresh(submitter).await?;
        let sender = describe(&current);
        let covering = match path.mailbox() {
            Some(address) => self.covering(submitter, address).await?,
            None => Arc::default(),
        };
        admit_sender(&sender, path, &covering, self.settings.allow_null_sender)?;
        if already_counted { Ok(()) } else { self.admit_count(submitter, &current.1, 1).await }
    }

    /// Whether the submitter may send to this address. `earlier` is the number of recipients before it in the
    /// message; `None` if the message was counted before.
    pub async fn admit_recipient(
        &self,
        submitter: &Submitter,
        recipient: &Address,
        smtputf8: bool,
        earlier: Option<usize>,
    ) -> Result<(), Refusal> {
        let (tenant, environment, now) = (submitter.tenant.id, submitter.key.environment, self.clock.now());
        let found = self.store.suppression_of(tenant, environment, &recipient.folded(), now).await;
        let suppression = found.map_err(storage_refusal)?.map(describe_suppression);
        admit_recipient(recipient, smtputf8, suppression.as_ref())?;
        self.admit_recipient_count(submitter, earlier).await
    }

    /// Decides on all recipients of one message, in their order, with one query. Leaves out suppressed ones. Fails with the
    /// first other refusal, or if all are suppressed. `earlier` is as for [`Self::admit_recipient`].
    pub async fn admit_recipients(
        &self,
        submitter: &Submitter,
        recipients: Vec<Address>,
        earlier: Option<usize>,
    ) -> Result<AdmittedRecipients, Refusal> {
        let (tenant, environment, now) = (submitter.tenant.id, submitter.key.environment, self.clock.now());
        let folded = recipients.iter().map(Address::folded).collect();
        let found = self.store.suppressions_of(tenant, environment, folded, now).await;
        let found = found.map_err(storage_refusal)?.into_iter();
        let mut admitted = AdmittedRecipients::default();
        let mut last_refusal = None;
        for (recipient, suppression) in recipients.into_iter().zip(found) {
            let suppression = suppression.map(describe_suppression);
            match admit_recipient(&recipient, true, suppression.as_ref()) {
                Err(refusal) if refusal.code == RefusalCode::RecipientSuppressed => {
                    admitted.suppressed.push(recipient);
                    last_refusal = Some(refusal);
                    continue;
                }
                decided => decided?,
            }
            let earlier = earlier.map(|earlier| earlier + admitted.open.len());
            self.admit_recipient_count(submitter, earlier).await?;
            admitted.open.push(recipient.into());
        }
        match last_refusal.filter(|_| admitted.open.is_empty()) {
            Some(refusal) => Err(refusal),
            None => Ok(admitted),
        }
    }

    async fn admit_recipient_count(
        &self,
        submitter: &Submitter,
        earlier: Option<usize>,
    ) -> Result<(), Refusal> {
        match earlier {
            Some(earlier) => {
                let current = self.refresh(submitter).await?;
                self.admit_count(submitter, &current.1, earlier as u64 + 1).await
            }
            None => Ok(()),
        }
    }

    /// The clock by which messages are accepted.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether the send limit of the submitter's current tenant allows this many recipients.
    async fn admit_count(
        &self,
        submitter: &Submitter,
        tenant: &Tenant,
        recipients: u64,
    ) -> Result<(), Refusal> {
        let request = QuotaRequest::new(tenant, submitter.key.environment, self.clock.now());
        self.limits.check(&request, recipients).await.map_err(storage_refusal)?
    }

    /// Shares the send limits with other nodes until `stop`; see [`SendLimits::share_until`].
    pub async fn share_send_limits(self: Arc<Self>, stop: CancellationToken) {
        self.limits.share_until(&self.clock, stop).await;
    }

    /// The tenant's send limit with the least remaining quota; `None` without a limit.
    pub async fn send_limit_status(
        &self,
        tenant: &Tenant,
        environment: Environment,
        now: Timestamp,
    ) -> Result<Option<QuotaStatus>, StoreError> {
        self.limits.status(&QuotaRequest::new(tenant, environment, now)).await
    }

    /// How long messages took from the end of their data to the durable commit.
    pub fn accept_seconds(&self) -> HistogramReading {
        self.accept_seconds.read()
    }

    /// Refusals since the start, by code.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.refusals.read()
    }

    /// Records a refusal for the tenant under this id; `None` if the tenant had too many recently.
    pub fn record_rejection(
        &self,
        id: RequestId,
        submitter: &Submitter,
        stage: Stage,
        refusal: &Refusal,
    ) -> Option<RequestId> {
        self.refusals.increment(refusal.code);
        let now = self.clock.now();
        let account = (submitter.tenant.id, submitter.key.environment);
        if !self.rejection_log.take(account, self.store.nodes().count, now) {
            return None;
        }
        self.store.reject(Rejection {
            id,
            tenant_id: submitter.tenant.id,
            key_id: Some(submitter.key.id),
            environment: submitter.key.environment,
            stage,
            code: refusal.code,
            message: refusal.message.clone(),
            client_address: Some(submitter.client_address),
            created_at: now,
        });
        Some(id)
    }

    /// The submitter's current key and tenant: during a session a key may be revoked, expire or be restricted to
    /// other networks or scopes, and a tenant may be suspended. Each command loads them once, and so does [`Self::enqueue`].
    async fn refresh(&self, submitter: &Submitter) -> Result<KeyAndTenant, Refusal> {
        let current = self.directory.key(submitter.key.id, Some(submitter.tenant.id)).await;
        let current = current.map_err(storage_refusal)?;
        let current = current.ok_or_else(|| {
            Refusal::new(
                RefusalCode::RevokedApiKey,
                "the key of this session was deleted",
                "log in with another key",
            )
        })?;
        check_validity(&current.0, self.clock.now())?;
        self.check_secret(submitter, &current.0).await?;
        check_network(&current.0, submitter.client_address)?;
        admit_tenant(&describe(&current), submitter.scope)?;
        Ok(current)
    }

    /// Whether the session may go on with the secret of its login, after a rotation of the key.
    async fn check_secret(&self, submitter: &Submitter, current: &Key) -> Result<(), Refusal> {
        let now = self.clock.now();
        let Some(secret) = submitter.secret else { return Ok(()) };
        if current.rotated_at == submitter.key.rotated_at {
            return check_validity(&submitter.key, now);
        }
        let found = self.directory.key_of_secret(secret).await.map_err(storage_refusal)?;
        let found = found.ok_or_else(|| {
            Refusal::new(
                RefusalCode::ExpiredApiKey,
                "the secret of this session was replaced",
                "log in with the new secret of the key",
            )
        })?;
        check_validity(&found.0, now)
    }

    async fn covering(
        &self,
        submitter: &Submitter,
        address: &Address,
    ) -> Result<Arc<Vec<SendingDomain>>, Refusal> {
        match address.host() {
            Host::Domain(name) => {
                self.directory.covering(submitter.tenant.id, name).await.map_err(storage_refusal)
            }
            Host::Literal(_) => Ok(Arc::default()),
        }
    }

    /// The domains of From addresses, all of which must belong to the tenant.
    async fn admit_from(
        &self,
        submitter: &Submitter,
        current: &KeyAndTenant,
        from: &[Address],
    ) -> Result<Vec<SendingDomain>, Refusal> {
        let sender = describe(current);
        let mut domains = Vec::with_capacity(from.len());
        for address in from {
            let covering = self.covering(submitter, address).await?;
            domains.push(admit_from(&sender, address, &covering)?.clone());
        }
        Ok(domains)
    }
}

fn describe_suppression(found: Suppression) -> SuppressionFacts {
    SuppressionFacts {
        reason: found.reason,
        created_at: found.created_at,
        is_platform: found.tenant_id.is_none(),
    }
}

fn describe((key, tenant): &KeyAndTenant) -> Sender<'_> {
    Sender {
        tenant_slug: &tenant.slug,
        tenant_status: tenant.status,
        // A platform key has all scopes, also those that are newer than it.
        scopes: if key.tenant_id.is_none() { Scope::ALL } else { &key.scopes },
        restricted_to_domains: key.restricted_to_domains,
        allowed_domain_ids: &key.allowed_domain_ids,
    }
}

fn storage_refusal(error: StoreError) -> Refusal {
    if !matches!(error, StoreError::Conflict(_)) {
        tracing::error!(target: FLOOD, "the store failed: {error}");
    }
    match error {
        StoreError::Conflict(Conflict::SubmissionKey) => Refusal::new(
            RefusalCode::IdempotencyKeyReused,
            "the Idempotency-Key of this message was used for a different submission within the last day",
            "use a new key for every message; a repetition has the same sender, recipients and parameters",
        ),
        StoreError::DiskFull => Refusal::new(
            RefusalCode::DiskLow,
            "the server is low on disk space",
            "try again later; the operator must free disk space",
        ),
        StoreError::Busy => Refusal::new(
            RefusalCode::Overloaded,
            "too many queries wait for the database",
            "try again in a minute",
        ),
        _ => Refusal::new(
            RefusalCode::StorageUnavailable,
            "the message cannot be stored because the database is unavailable",
            "try again later",
        ),
    }
}
