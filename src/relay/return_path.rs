//! The reverse path of transactions. Mail leaves under the return host of the domain that signs it, with a token that proves
//! which delivery a report is about. The host is chosen when an attempt begins: a message that waited must not leave under
//! a host whose record was removed meanwhile.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{self, ReturnHosts};
use crate::limits::versioned_cache::VersionedCache;
use crate::mail::{Address, DomainName, ReversePath, TokenKind, TokenScope, TokenSubject};
use crate::model::{DomainStatus, Environment, MessageKind, ReturnPathMode, TenantId};
use crate::store::{Batch, Directory, Domain, Message, Reports, Store, StoreError};

/// Domains change through this process only, which invalidates the cache immediately.
const LIFETIME: Duration = Duration::from_secs(60);
const DOMAINS_MAX: usize = 10_000;
/// A message goes to all recipients in one transaction if separate ones would transfer more octets.
const SEPARATE_OCTETS_MAX: u64 = 4 * 1024 * 1024;

/// Chooses reverse paths.
pub struct ReturnPaths {
    store: Arc<Store>,
    /// `None` if the server receives no reports.
    settings: Option<ReturnHosts>,
    hosts: VersionedCache<(TenantId, DomainName), Option<DomainName>>,
}

/// One transaction: a reverse path, and the recipients by their place in the batch.
pub struct PlannedTransaction {
    /// The path of MAIL.
    pub reverse_path: ReversePath,
    /// The recipients.
    pub recipients: Vec<usize>,
}

impl ReturnPaths {
    /// Without settings, messages keep their reverse paths.
    pub fn new(store: Arc<Store>, settings: Option<ReturnHosts>, clock: Clock) -> Self {
        Self { store, settings, hosts: VersionedCache::new(clock, LIFETIME, DOMAINS_MAX) }
    }

    /// The return host of a message; `None` if it leaves under the path that its sender gave.
    pub async fn choose(&self, message: &Message) -> Option<DomainName> {
        let settings = self.settings.as_ref()?;
        let name = message.dkim_domain.as_ref()?;
        let has_path = message.reverse_path != ReversePath::Null;
        if !has_path || message.kind != MessageKind::Message || message.environment == Environment::Test {
            return None;
        }
        let tenant = message.tenant_id;
        let load = async {
            let domains = self.store.domains_covering(tenant, name).await?;
            let own = domains.iter().find(|found| found.tenant_id == Some(tenant) && found.name == *name);
            Ok(own.and_then(|domain| return_host_of(domain, settings)))
        };
        let last_change = |_: &_| self.store.version_of_owner(Some(tenant));
        let version = self.store.directory_version();
        let found = self.hosts.get((tenant, name.clone()), version, last_change, load).await;
        found.unwrap_or_else(|error: StoreError| {
            tracing::warn!(%error, "cannot read the return host of a domain");
            None
        })
    }

    /// The transactions that carry a message to these recipients of a batch: one for each, so that a report is about one
    /// recipient; or one for all if its path is the sender's own or if separate ones would transfer too much.
    pub fn plan(
        &self,
        batch: &Batch,
        open: Vec<usize>,
        host: Option<&DomainName>,
        octets: u64,
    ) -> Vec<PlannedTransaction> {
        let as_given = |recipients| {
            vec![PlannedTransaction { reverse_path: batch.message.reverse_path.clone(), recipients }]
        };
        let Some(host) = host else { return as_given(open) };
        if is_shared(batch, octets) {
            let subject = TokenSubject { scope: TokenScope::Message, id: batch.message.id.into() };
            return match self.path(host, subject) {
                Some(reverse_path) => vec![PlannedTransaction { reverse_path, recipients: open }],
                None => as_given(open),
            };
        }
        let separate = |at: usize| {
            let subject = TokenSubject { scope: TokenScope::Delivery, id: batch.deliveries[at].id.into() };
            let given = || batch.message.reverse_path.clone();
            let reverse_path = self.path(host, subject).unwrap_or_else(given);
            PlannedTransaction { reverse_path, recipients: vec![at] }
        };
        open.into_iter().map(separate).collect()
    }

    fn path(&self, host: &DomainName, subject: TokenSubject) -> Option<ReversePath> {
        let token = self.store.token_keys().issue(TokenKind::Bounce, subject)?;
        Address::parse(&format!("{token}@{host}")).ok().map(ReversePath::Mailbox)
    }
}

fn return_host_of(domain: &Domain, hosts: &ReturnHosts) -> Option<DomainName> {
    let config::ReturnPath { mode, label } = &hosts.defaults;
    match domain.return_path.mode.unwrap_or(*mode) {
        ReturnPathMode::Off => None,
        ReturnPathMode::Auto => domain.active_return_host(*mode, label),
        ReturnPathMode::Platform => (domain.status == DomainStatus::Verified).then(|| hosts.host.clone()),
    }
}

/// Whether the recipients of a batch have one token, because a transaction for each would transfer too much.
pub fn is_shared(batch: &Batch, octets: u64) -> bool {
    let recipients = batch.deliveries.len();
    recipients > 1 && octets.saturating_mul(recipients as u64) > SEPARATE_OCTETS_MAX
}
