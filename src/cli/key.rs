//! `pillarbox key`: keys directly on the data directory, so that a new server can get its first one.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;

use super::serve::runtime;
use crate::config::Config;
use crate::mail::{Environment, KeyId, KeySecret, Scope, SignedDuration, TenantId, Timestamp};
use crate::store::{Access, Directory, Key, KeyFilter, NewKey, PageRequest, Store, StoreOptions};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Which data directory.
#[derive(Debug, clap::Args)]
struct Place {
    /// The configuration file that names the data directory
    #[arg(long, short, value_name = "FILE", default_value = "/etc/pillarbox/pillarbox.toml")]
    config: PathBuf,
    /// The data directory itself, instead of a configuration
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a key and prints its secret, once
    Create(Create),
    /// Lists keys, newest first, without their secrets
    List {
        #[command(flatten)]
        place: Place,
        /// Only keys of this tenant (slug or id)
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
    },
    /// Revokes a key, for good
    Revoke {
        #[command(flatten)]
        place: Place,
        /// The key's id: key_…
        id: KeyId,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    #[command(flatten)]
    place: Place,
    /// What people call the key
    #[arg(long)]
    name: String,
    /// The tenant (slug or id) that the key belongs to; without it, the key is the platform's and may do everything
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// `live` relays, `test` delivers to the sandbox
    #[arg(long, default_value = "live", value_parser = str::parse::<Environment>)]
    environment: Environment,
    /// What a tenant's key may do, like smtp:send; repeat for more. All of it by default
    #[arg(long = "scope", value_name = "SCOPE", value_parser = str::parse::<Scope>, requires = "tenant")]
    scopes: Vec<Scope>,
    /// How long the key is good, like 72h; for ever by default
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<SignedDuration>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        match arguments.command {
            Command::Create(create) => create.run().await,
            Command::List { place, tenant } => list(&place, tenant).await,
            Command::Revoke { place, id } => revoke(&place, id).await,
        }
    })
}

impl Place {
    fn open(&self) -> anyhow::Result<Store> {
        let config = match &self.data_dir {
            Some(data_dir) => Config { data_dir: data_dir.clone(), ..Config::default() },
            None => Config::load(&self.config)
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

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let store = self.place.open()?;
        let tenant_id = match &self.tenant {
            Some(name) => Some(find_tenant(&store, name).await?),
            None => None,
        };
        let now = Timestamp::now();
        let secret = KeySecret::generate(self.environment);
        let scopes = if self.scopes.is_empty() { Scope::ALL.to_vec() } else { self.scopes };
        let new = NewKey {
            tenant_id,
            name: self.name,
            environment: self.environment,
            scopes,
            allowed_domain_ids: Vec::new(),
            allowed_cidrs: Vec::new(),
            expires_at: self.expires_in.map(|span| expiry_of(now, span)).transpose()?,
            imprint: secret.imprint(),
        };
        let key = store.create_key(new, now).await?;
        store.close().await;
        eprintln!("{} ({}). The secret is shown only now:", key.id, describe_owner(&key));
        println!("{}", secret.expose());
        Ok(())
    }
}

fn expiry_of(now: Timestamp, span: SignedDuration) -> anyhow::Result<Timestamp> {
    let expiry = now.checked_add(span).ok().filter(|at| *at > now);
    expiry.with_context(|| {
        format!("--expires-in {span}: the key has to end in the future, before the year 9999")
    })
}

fn describe_owner(key: &Key) -> String {
    key.tenant_id.map_or_else(|| "platform".to_owned(), |tenant| tenant.to_string())
}

async fn list(place: &Place, tenant: Option<String>) -> anyhow::Result<()> {
    let store = place.open()?;
    let tenant_id = match &tenant {
        Some(name) => Some(find_tenant(&store, name).await?),
        None => None,
    };
    println!("{:<30}  {:<30}  {:<4}  {:<5}  {:<8}  NAME", "ID", "OWNER", "ENV", "ENDS", "STATE");
    let mut page = PageRequest { limit: 100, ..PageRequest::default() };
    loop {
        let keys = store.list_keys(KeyFilter { tenant_id, environment: None }, page.clone()).await?;
        for key in &keys.items {
            let state = describe_state(key, Timestamp::now());
            println!(
                "{:<30}  {:<30}  {:<4}  …{}  {:<8}  {}",
                key.id.to_string(),
                describe_owner(key),
                key.environment,
                key.last_four,
                state,
                key.name
            );
        }
        match keys.items.last() {
            Some(last) if keys.has_more => page.after = Some(last.id.to_string()),
            _ => break,
        }
    }
    store.close().await;
    Ok(())
}

fn describe_state(key: &Key, now: Timestamp) -> &'static str {
    match key {
        Key { revoked_at: Some(_), .. } => "revoked",
        Key { expires_at: Some(at), .. } if *at <= now => "expired",
        _ => "active",
    }
}

async fn revoke(place: &Place, id: KeyId) -> anyhow::Result<()> {
    let store = place.open()?;
    let was_there = store.revoke_key(id, Timestamp::now()).await?;
    store.close().await;
    if !was_there {
        bail!("there is no key {id}; `pillarbox key list` shows all");
    }
    println!("{id} is revoked");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_in_the_future_and_within_the_calendar() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(expiry_of(now, SignedDuration::from_hours(72)).unwrap().as_second(), 72 * 3600);
        for wrong in [SignedDuration::ZERO, SignedDuration::from_hours(-1), SignedDuration::MAX] {
            assert!(expiry_of(now, wrong).unwrap_err().to_string().contains("--expires-in"));
        }
    }
}
