//! Keys directly in the data directory, so that a new server can get its first key.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::super::local_change::{LocalChange, user};
use super::super::output::OutputFormat;
use super::super::pagination::{PageArguments, list_text};
use super::super::{CONFIG_FILE_DEFAULT, expiry};
use super::{NewKeyArguments, print_new, read_scopes, row, table};
use crate::api::KeyView;
use crate::config::Config;
use crate::mail::Timestamp;
use crate::model::{KeyId, KeySecret, TenantId};
use crate::store::{Access, Directory, Key, KeyFilter, NewKey, PageRequest, Store, StoreOptions};

/// The heading of these options in the help.
pub(super) const HEADING: &str = "The data directory, instead of the server";

/// The data directory to use instead of a running server.
#[derive(Debug, clap::Args)]
pub(super) struct DataDirArguments {
    /// Uses the data directory of the default configuration
    #[arg(long, conflicts_with_all = ["url", "ca_file"], help_heading = HEADING)]
    local: bool,
    /// Uses the data directory that this configuration file names
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["url", "ca_file"], help_heading = HEADING)]
    config: Option<PathBuf>,
    /// Uses this data directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "url", "ca_file"], help_heading = HEADING)]
    data_dir: Option<PathBuf>,
}

impl DataDirArguments {
    /// Whether one of these options is given.
    pub(super) fn is_local(&self) -> bool {
        self.local || self.config.is_some() || self.data_dir.is_some()
    }

    async fn open(&self, access: Access) -> anyhow::Result<Store> {
        Ok(Store::open(StoreOptions::new(&self.config()?, access)?).await?)
    }

    fn config(&self) -> anyhow::Result<Config> {
        Ok(match (&self.data_dir, &self.config) {
            (Some(data_dir), _) => Config { data_dir: data_dir.clone(), ..Config::default() },
            (None, file) => Config::load(file.as_deref().unwrap_or(Path::new(CONFIG_FILE_DEFAULT))).context(
                "name the configuration file with --config, or the data directory with --data-dir",
            )?,
        })
    }
}

async fn find_tenant(store: &Store, name: Option<&str>) -> anyhow::Result<Option<TenantId>> {
    let Some(name) = name else { return Ok(None) };
    let found = match name.parse::<TenantId>() {
        Ok(id) => store.tenant(id).await?,
        Err(_) => store.tenant_by_slug(name).await?,
    };
    Ok(Some(found.with_context(|| format!("there is no tenant {name}"))?.id))
}

/// A key as the API shows it.
fn view(key: Key) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(KeyView::new(key, Timestamp::now()))?)
}

/// A key as the API shows it; for people, with the slug of its tenant.
async fn view_with_slug(store: &Store, key: Key, output: OutputFormat) -> anyhow::Result<Value> {
    let tenant = match key.tenant_id.filter(|_| output == OutputFormat::Text) {
        Some(id) => store.tenant(id).await?,
        None => None,
    };
    let mut view = view(key)?;
    if let Some(tenant) = tenant {
        view["tenant"] = tenant.slug.into();
    }
    Ok(view)
}

/// Creates a key and prints its secret. With `init`, creates the store too: a key may be created before the first start of
/// the server.
pub(super) async fn create(
    directory: &DataDirArguments,
    init: bool,
    new: NewKeyArguments,
    output: OutputFormat,
) -> anyhow::Result<()> {
    if new.tenant.is_none() && !new.scopes.is_empty() {
        bail!("only keys of a tenant have scopes; name the tenant with --tenant");
    }
    new.snippet.check(None)?;
    let access = if init { Access::Initialize } else { Access::Manage };
    let store = directory.open(access).await?;
    let tenant_id = find_tenant(&store, new.tenant.as_deref()).await?;
    let secret = KeySecret::generate(new.environment);
    let mut key = NewKey {
        allowed_cidrs: new.cidrs,
        expires_at: new.expires_in.map(expiry).transpose()?,
        ..NewKey::unrestricted(tenant_id, &new.name, new.environment, &secret)
    };
    if !new.scopes.is_empty() {
        key.scopes = read_scopes(&new.scopes)?;
    }
    let change = LocalChange::begin(&store, "create_key", user(), None);
    let created = change.store.create_key(key, Timestamp::now()).await?;
    change.end(&view(created.clone())?).await?;
    let mut created = view_with_slug(&store, created, output).await?;
    store.close().await;
    created["secret"] = secret.expose().into();
    let snippet = new.snippet.fill(&created, None)?;
    print_new(output, created, snippet)
}

/// Lists keys.
pub(super) async fn list(
    directory: &DataDirArguments,
    tenant: Option<&str>,
    page: &PageArguments,
    output: OutputFormat,
) -> anyhow::Result<()> {
    let store = directory.open(Access::Manage).await?;
    let filter = KeyFilter { tenant_id: find_tenant(&store, tenant).await?, ..KeyFilter::default() };
    let get_page = async |limit, after| {
        let request = PageRequest { limit, after, ..PageRequest::default() };
        let keys = store.list_keys(filter.clone(), request).await?;
        let next = keys.items.last().filter(|_| keys.has_more).map(|key| key.id.to_string());
        let mut views = Vec::with_capacity(keys.items.len());
        for key in keys.items {
            views.push(view_with_slug(&store, key, output).await?);
        }
        Ok(json!({"data": views, "next_cursor": next}))
    };
    let list = page.fetch(get_page).await?;
    store.close().await;
    output.print(&list, |list| list_text(list, table(), row))
}

/// Revokes a key.
pub(super) async fn revoke(
    directory: &DataDirArguments,
    id: &str,
    output: OutputFormat,
) -> anyhow::Result<()> {
    let key: KeyId = id.parse().with_context(|| format!("{id} is not the id of a key"))?;
    let store = directory.open(Access::Manage).await?;
    let find = async || {
        let found = store.key(None, key).await?;
        view(found.with_context(|| format!("there is no key {id}; `pillarbox key list` shows all keys"))?)
    };
    let change = LocalChange::begin(&store, "revoke_key", user(), Some(find().await?));
    change.store.revoke_key(key, Timestamp::now()).await?;
    let revoked = find().await?;
    change.end(&revoked).await?;
    store.close().await;
    output.print(&revoked, |_| format!("{id} is revoked\n"))
}
