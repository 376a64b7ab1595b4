//! How a new process takes over from a running one (`serve --take-over`).

use anyhow::{Context, ensure};
use tokio::task::spawn_blocking;

use super::describe;
use super::serve::StopSignals;
use crate::app::handover::Predecessor;
use crate::app::{self, Listeners};
use crate::config::Config;
use crate::store::{Access, StoreOptions, pending_migrations};

/// Prepares everything but the store, and waits until the old process has closed it. `None` if a signal ends this process
/// first.
pub(super) async fn take_over(
    mut predecessor: Predecessor,
    config: &Config,
    signals: &mut StopSignals,
) -> anyhow::Result<Option<Listeners>> {
    let listeners = match prepare(&mut predecessor, config).await {
        Ok(listeners) => listeners,
        Err(error) => {
            predecessor.refuse(&describe(&error));
            return Err(error);
        }
    };
    let waiting = spawn_blocking(move || predecessor.wait_for_store());
    tokio::select! {
        () = signals.wait() => Ok(None),
        waited = waiting => {
            waited?.context("this process does not take over")?;
            Ok(Some(listeners))
        }
    }
}

async fn prepare(predecessor: &mut Predecessor, config: &Config) -> anyhow::Result<Listeners> {
    ensure!(
        predecessor.serves(&config.data_dir),
        "data_dir is {} now, so the server must be restarted",
        config.data_dir.display()
    );
    app::check(config)?;
    let pending = pending_migrations(StoreOptions::new(config, Access::Manage)?).await?;
    let listeners = Listeners::bind(config, predecessor.take_listeners())?;
    predecessor.announce_readiness(pending.map_or(0, |pending| pending.seconds))?;
    Ok(listeners)
}
