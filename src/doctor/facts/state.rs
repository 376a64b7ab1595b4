//! The state of a running server: what waits, and what fails.

use std::collections::HashSet;
use std::time::Duration;

use super::{Failing, Gatherer, HeldSite, NO_SERVER, NOT_IN_SQLITE, Seen, StateFacts, blocking, unlimited};
use crate::archive::LastBackup;
use crate::config::Config;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{
    DisabledReason, DomainStatus, QueueFilter, TenantId, TenantStatus, WaitReason, WebhookStatus,
};
use crate::queue::QueueManager;
use crate::store::{
    DATABASE_FILE, Directory, Domain, DomainFilter, Outbox, PageRequest, QueueRequest, Store, TenantFilter,
    Webhook, WebhookFilter, quick_check,
};

/// The server that is asked.
pub struct Server<'a> {
    pub store: &'a Store,
    pub queue: &'a QueueManager,
}

const NO_DATABASE: &str = "there is no database yet";
const NO_BACKUPS: &str = "doctor.backup_age_max is zero";
/// Parts of the queue that are looked at, the largest first.
const GROUPS: usize = 100;
/// Pages of webhooks, of domains and of archived tenants that are read.
const PAGES_MAX: usize = 20;
const PAGE_ITEMS: usize = 100;

const NOT_DEEP: &str = "not asked for; --deep reads the whole database";
/// The time to read the whole database.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(60);

/// What is wrong with the database.
pub async fn database(gatherer: &Gatherer<'_>) -> Seen<Vec<String>> {
    if gatherer.config.store.url.is_some() {
        return Seen::NotAsked(NOT_IN_SQLITE);
    }
    if !gatherer.extra.deep {
        return Seen::NotAsked(NOT_DEEP);
    }
    let data_dir = gatherer.config.data_dir.clone();
    unlimited(move || quick_check(&data_dir, DATABASE_TIMEOUT).map_or_else(Seen::Failed, Seen::Value)).await
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// Nobody asks a server that does not run; its data directory is there.
pub async fn gather(server: Option<&Server<'_>>, config: &Config, now: Timestamp) -> StateFacts {
    let last_backup = match (&config.store.url, config.doctor.backup_age_max.is_zero()) {
        (Some(_), _) => Seen::NotAsked(NOT_IN_SQLITE),
        (None, true) => Seen::NotAsked(NO_BACKUPS),
        (None, false) => last_backup(config).await,
    };
    let backup_age_max =
        SignedDuration::try_from(config.doctor.backup_age_max).unwrap_or(SignedDuration::MAX);
    let Some(Server { store, queue }) = server else {
        return StateFacts::not_asked(NO_SERVER, last_backup, backup_age_max);
    };
    let archived = archived_tenants(store).await;
    let (oldest_due, failing_webhooks, failing_domains) =
        tokio::join!(oldest_due(queue, now), failing_webhooks(store), failing_domains(store, &archived));
    let sites = queue.snapshot(now).sites.into_iter();
    let held = sites.filter_map(|site| {
        let domain = site.domains.into_iter().next();
        let reply = site.reason.unwrap_or_default();
        Some(HeldSite { name: site.name, domain, until: site.backoff_until?, reply })
    });
    let refused = queue.wait_reasons().records(now).into_iter();
    let refused = refused.filter(|(_, record)| record.reason == WaitReason::SmartHostAuthFailed);
    let name_of = |part: &QueueFilter| match (&part.tenant_id, &part.destination) {
        (Some(tenant), _) => tenant.to_string(),
        (None, Some(destination)) => destination.to_string(),
        (None, None) => "the platform".to_owned(),
    };
    let mut refused_smart_hosts: Vec<Failing> = refused
        .map(|(part, record)| {
            let reason = format!("has a smart host that refuses the login: {}", record.detail);
            Failing { name: name_of(&part), id: name_of(&part), reason }
        })
        .collect();
    refused_smart_hosts.sort_by(|one, other| one.name.cmp(&other.name));
    refused_smart_hosts.dedup_by(|one, other| one.name == other.name);
    StateFacts {
        oldest_due,
        held_sites: Seen::Value(held.collect()),
        failing_webhooks,
        failing_domains,
        refused_smart_hosts: Seen::Value(refused_smart_hosts),
        last_backup,
        backup_age_max,
    }
}

/// The time of the last backup.
async fn last_backup(config: &Config) -> Seen<Timestamp> {
    let data_dir = config.data_dir.clone();
    blocking(move || match LastBackup::read(&data_dir) {
        Ok(Some(last)) => Seen::Value(last.taken_at),
        Ok(None) if !data_dir.join(DATABASE_FILE).exists() => Seen::NotAsked(NO_DATABASE),
        Ok(None) => Seen::Nothing,
        Err(error) => Seen::Failed(error.to_string()),
    })
    .await
}

/// Archived tenants, whose domains are not checked. If the list cannot be read, domains of archived tenants are reported too.
async fn archived_tenants(store: &Store) -> HashSet<TenantId> {
    let filter = TenantFilter { status: Some(TenantStatus::Archived), ..TenantFilter::default() };
    let (mut archived, mut request) = (HashSet::new(), first_page());
    for _ in 0..PAGES_MAX {
        let Ok(page) = store.list_tenants(filter.clone(), request).await else { break };
        request = PageRequest { after: page.items.last().map(|last| last.id.to_string()), ..first_page() };
        archived.extend(page.items.into_iter().map(|tenant| tenant.id));
        if !page.has_more {
            break;
        }
    }
    archived
}

/// When the oldest due delivery was due, and the last reply to such.
async fn oldest_due(queue: &QueueManager, now: Timestamp) -> Seen<(Timestamp, String)> {
    let request = QueueRequest { part: QueueFilter::default(), limit: GROUPS, after: None };
    let overview = match queue.overview(request, now).await {
        Ok(overview) => overview,
        Err(error) => return Seen::Failed(error.to_string()),
    };
    let due = overview.groups.into_iter().filter(|group| group.counts.due > 0);
    let oldest = due.filter_map(|group| Some((group.next_due_at?, group))).min_by_key(|(at, _)| *at);
    match oldest {
        Some((at, group)) => {
            let reply = group.deferral_causes.last_reply.unwrap_or_else(|| group.destination.to_string());
            Seen::Value((at, reply))
        }
        None => Seen::Nothing,
    }
}

async fn failing_webhooks(store: &Store) -> Seen<Vec<Failing>> {
    let mut failing = Vec::new();
    let mut request = first_page();
    for _ in 0..PAGES_MAX {
        let page = match store.list_webhooks(WebhookFilter::default(), request).await {
            Ok(page) => page,
            Err(error) => return Seen::Failed(error.to_string()),
        };
        request = PageRequest { after: page.items.last().map(|last| last.id.to_string()), ..first_page() };
        failing.extend(page.items.into_iter().filter_map(fault_of));
        if !page.has_more {
            return Seen::Value(failing);
        }
    }
    match failing.is_empty() {
        true => Seen::Failed(format!("there are more than {} webhooks", PAGES_MAX * PAGE_ITEMS)),
        false => Seen::Value(failing),
    }
}

fn first_page() -> PageRequest {
    PageRequest { limit: PAGE_ITEMS, ..PageRequest::default() }
}

/// Why a webhook gets no events; `None` if it gets them, or if a user has disabled it.
fn fault_of(webhook: Webhook) -> Option<Failing> {
    let reason = match (webhook.status, webhook.disabled_reason, webhook.failing_since) {
        (WebhookStatus::Disabled, Some(reason), _) if reason != DisabledReason::Manual => {
            format!("was disabled: {reason}")
        }
        (WebhookStatus::Enabled, _, Some(since)) => format!("has failed since {}", minute(since)),
        _ => return None,
    };
    // The URL may be the secret of the endpoint, and findings are logged.
    let id = webhook.id.to_string();
    Some(Failing { name: format!("webhook {id}"), id, reason })
}

async fn failing_domains(store: &Store, archived: &HashSet<TenantId>) -> Seen<Vec<Failing>> {
    let filter = DomainFilter { status: Some(DomainStatus::Failing), ..DomainFilter::default() };
    let (mut failing, mut request) = (Vec::new(), first_page());
    for _ in 0..PAGES_MAX {
        let page = match store.list_domains(filter.clone(), request).await {
            Ok(page) => page,
            Err(error) => return Seen::Failed(error.to_string()),
        };
        request = PageRequest { after: page.items.last().map(|last| last.id.to_string()), ..first_page() };
        let of_others = |domain: &Domain| domain.tenant_id.is_none_or(|id| !archived.contains(&id));
        failing.extend(page.items.into_iter().filter(of_others).map(|domain| {
            let since =
                domain.failing_since.map(|since| format!(" since {}", minute(since))).unwrap_or_default();
            let reason = format!("has wrong records{since}");
            Failing { name: domain.name.to_string(), id: domain.id.to_string(), reason }
        }));
        if !page.has_more {
            break;
        }
    }
    Seen::Value(failing)
}
