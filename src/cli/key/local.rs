//! Keys directly in the data directory, so that a new server can get its first one.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::super::listing::{self, Extent};
use super::super::screen::Audience;
use super::super::{CONFIG_FILE_DEFAULT, expiry};
use super::{Wanted, row, table, tell_new};
use crate::api::KeyView;
use crate::config::Config;
use crate::mail::Timestamp;
use crate::model::{KeyId, KeySecret, TenantId};
use crate::store::{Access, Directory, Key, KeyFilter, NewKey, PageRequest, Store, StoreOptions};

/// Above these options in the help.
const HEADING: &str = "The data directory, instead of the server";

/// The data directory with the keys, if no server is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
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

impl Place {
    /// Whether the data directory is meant.
    pub(super) fn is_local(&self) -> bool {
        self.local || self.config.is_some() || self.data_dir.is_some()
    }

    /// For what works on keys that are there.
    async fn open(&self) -> anyhow::Result<Store> {
        let config = self.config()?;
        let data_dir = &config.data_dir;
        if !data_dir.try_exists().with_context(|| format!("cannot look at {}", data_dir.display()))? {
            bail!(
                "the data directory {} does not exist; name the right one with --config or --data-dir",
                data_dir.display()
            );
        }
        Ok(Store::open(StoreOptions::new(&config, Access::Manage)).await?)
    }

    /// The first key may come before the first start of the server.
    async fn open_or_make(&self) -> anyhow::Result<Store> {
        Ok(Store::open(StoreOptions::new(&self.config()?, Access::Manage)).await?)
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

/// A key as the API has it.
fn view(key: Key) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(KeyView::from(key))?)
}

/// Makes a key and prints its secret.
pub(super) async fn create(place: &Place, new: Wanted, audience: Audience) -> anyhow::Result<()> {
    if new.tenant.is_none() && !new.scopes.is_empty() {
        bail!("only keys of a tenant have scopes; name the tenant with --tenant");
    }
    let store = place.open_or_make().await?;
    let tenant_id = find_tenant(&store, new.tenant.as_deref()).await?;
    let secret = KeySecret::generate(new.environment);
    let mut key = NewKey {
        allowed_cidrs: new.cidrs,
        expires_at: new.expires_in.map(expiry).transpose()?,
        ..NewKey::unrestricted(tenant_id, &new.name, new.environment, &secret)
    };
    if !new.scopes.is_empty() {
        key.scopes = new.scopes;
    }
    let mut made = view(store.create_key(key, Timestamp::now()).await?)?;
    store.close().await;
    made["secret"] = secret.expose().into();
    audience.show(&made, tell_new)
}

/// Lists keys.
pub(super) async fn list(
    place: &Place,
    tenant: Option<&str>,
    extent: &Extent,
    audience: Audience,
) -> anyhow::Result<()> {
    let store = place.open().await?;
    let filter = KeyFilter { tenant_id: find_tenant(&store, tenant).await?, environment: None };
    let page = async |limit, after| {
        let request = PageRequest { limit, after, ..PageRequest::default() };
        let keys = store.list_keys(filter.clone(), request).await?;
        let next = keys.items.last().filter(|_| keys.has_more).map(|key| key.id.to_string());
        let views: anyhow::Result<Vec<Value>> = keys.items.into_iter().map(view).collect();
        Ok(json!({"data": views?, "next_cursor": next}))
    };
    let list = extent.fetch(page).await?;
    store.close().await;
    audience.show(&list, |list| listing::tell(list, table(), row))
}

/// Revokes a key.
pub(super) async fn revoke(place: &Place, id: &str, audience: Audience) -> anyhow::Result<()> {
    let key: KeyId = id.parse().with_context(|| format!("{id} is not the id of a key"))?;
    let store = place.open().await?;
    store.revoke_key(key, Timestamp::now()).await?;
    let revoked = store.key(None, key).await?;
    store.close().await;
    let revoked =
        revoked.with_context(|| format!("there is no key {id}; `pillarbox key list` shows all keys"))?;
    audience.show(&view(revoked)?, |_| format!("{id} is revoked\n"))
}
