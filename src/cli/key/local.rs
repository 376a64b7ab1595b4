//! Keys directly in the data directory, so that a new server can get its first one.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::super::screen::print;
use super::super::table::relative;
use super::super::{CONFIG_FILE_DEFAULT, expiry};
use super::{Wanted, show_secret};
use crate::config::Config;
use crate::mail::{KeyId, KeySecret, Scope, TenantId, Timestamp};
use crate::store::{Access, Directory, Key, KeyFilter, NewKey, PageRequest, Store, StoreOptions};

/// Above these options in the help.
const HEADING: &str = "The data directory, instead of the server";

/// Where keys are, if it is not a running server that is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// Works in the data directory of the default configuration
    #[arg(long, help_heading = HEADING)]
    local: bool,
    /// The same with the data directory that this configuration file names
    #[arg(long, short, value_name = "FILE", help_heading = HEADING)]
    config: Option<PathBuf>,
    /// The same with this data directory
    #[arg(long, value_name = "DIR", conflicts_with = "config", help_heading = HEADING)]
    data_dir: Option<PathBuf>,
}

impl Place {
    /// Whether the data directory is meant.
    pub(super) fn is_local(&self) -> bool {
        self.local || self.config.is_some() || self.data_dir.is_some()
    }

    fn open(&self) -> anyhow::Result<Store> {
        let config = match (&self.data_dir, &self.config) {
            (Some(data_dir), _) => Config { data_dir: data_dir.clone(), ..Config::default() },
            (None, file) => Config::load(file.as_deref().unwrap_or(Path::new(CONFIG_FILE_DEFAULT)))
                .context("name the configuration with --config, or the data directory with --data-dir")?,
        };
        Ok(Store::open(StoreOptions::new(&config, Access::Manage))?)
    }
}

async fn find_tenant(store: &Store, name: &str) -> anyhow::Result<TenantId> {
    let found = match name.parse::<TenantId>() {
        Ok(id) => store.tenant(id).await?,
        Err(_) => store.tenant_by_slug(name).await?,
    };
    found.map(|tenant| tenant.id).with_context(|| format!("there is no tenant {name}"))
}

/// Makes a key and prints its secret.
pub(super) async fn create(place: &Place, new: Wanted) -> anyhow::Result<()> {
    if new.tenant.is_none() && !new.scopes.is_empty() {
        bail!("--scope is for keys of a tenant: name it with --tenant");
    }
    let store = place.open()?;
    let tenant_id = match &new.tenant {
        Some(name) => Some(find_tenant(&store, name).await?),
        None => None,
    };
    let secret = KeySecret::generate(new.environment);
    let scopes = if new.scopes.is_empty() { Scope::ALL.to_vec() } else { new.scopes };
    let expires_at = new.expires_in.map(expiry).transpose()?;
    let new = NewKey {
        tenant_id,
        name: new.name,
        environment: new.environment,
        scopes,
        allowed_domain_ids: Vec::new(),
        allowed_cidrs: new.cidrs,
        expires_at,
        imprint: secret.imprint(),
    };
    let key = store.create_key(new, Timestamp::now()).await?;
    store.close().await;
    show_secret(&key.id.to_string(), &describe_owner(&key), secret.expose())
}

fn describe_owner(key: &Key) -> String {
    key.tenant_id.map_or_else(|| "platform".to_owned(), |tenant| tenant.to_string())
}

/// Lists keys.
pub(super) async fn list(place: &Place, tenant: Option<String>) -> anyhow::Result<()> {
    let store = place.open()?;
    let tenant_id = match &tenant {
        Some(name) => Some(find_tenant(&store, name).await?),
        None => None,
    };
    let mut table = super::table();
    let mut page = PageRequest { limit: 100, ..PageRequest::default() };
    loop {
        let keys = store.list_keys(KeyFilter { tenant_id, environment: None }, page.clone()).await?;
        for key in &keys.items {
            let state = describe_state(key, Timestamp::now());
            table.add([
                key.id.to_string(),
                describe_owner(key),
                key.environment.to_string(),
                format!("…{}", key.last_four),
                state.to_owned(),
                key.last_used_at.map_or("-".to_owned(), |at| relative(at, Timestamp::now())),
                key.name.clone(),
            ]);
        }
        match keys.items.last() {
            Some(last) if keys.has_more => page.after = Some(last.id.to_string()),
            _ => break,
        }
    }
    store.close().await;
    print(&table.render())
}

fn describe_state(key: &Key, now: Timestamp) -> &'static str {
    match key {
        Key { revoked_at: Some(_), .. } => "revoked",
        Key { expires_at: Some(at), .. } if *at <= now => "expired",
        _ => "active",
    }
}

/// Revokes a key.
pub(super) async fn revoke(place: &Place, id: &str) -> anyhow::Result<()> {
    let id: KeyId = id.parse().with_context(|| format!("{id} is no id of a key"))?;
    let store = place.open()?;
    let was_there = store.revoke_key(id, Timestamp::now()).await?;
    store.close().await;
    if !was_there {
        bail!("there is no key {id}; `pillarbox key list` shows all");
    }
    print(&format!("{id} is revoked\n"))
}
