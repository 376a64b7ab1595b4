//! The keys of report addresses and unsubscribe links. They are derived from the master key, one for each generation, and
//! never stored.

use std::sync::Arc;

use super::secret_encryption::Sealer;
use super::sql_types::{time, time_if_any, us};
use super::unit_of_work::Tx;
use crate::mail::{Timestamp, TokenKey, TokenKeys};
use crate::model::LinkKeys;
use crate::store::database::{self, Connection, Row, params};
use crate::store::{Conflict, Result, StoreError, TOKEN_OVERLAP, TokenGeneration};

/// One digit of a token names its generation.
const ACCEPTED_MAX: usize = 31;

/// The keys of the generations that are accepted at the time of their derivation.
pub(super) struct ReportKeys {
    pub(super) tokens: Arc<TokenKeys>,
    pub(super) links: Arc<LinkKeys>,
}

impl ReportKeys {
    /// Derives the keys of the generations that are not refused at `now`.
    fn derive(sealer: &Sealer, generations: &[TokenGeneration], now: Timestamp) -> Result<Self> {
        let is_accepted = |refused_at: Option<Timestamp>| refused_at.is_none_or(|at| at > now);
        let (mut tokens, mut links) = (Vec::new(), Vec::new());
        for TokenGeneration { generation, since, refused_at, links_refused_at } in generations {
            let number = generation.to_le_bytes();
            if is_accepted(*refused_at) {
                let key = sealer.derive(&[b"report token ", &number])?;
                tokens.push(TokenKey::new(*generation, *since, &key).refused_at(*refused_at));
            }
            // Recipients open links years later.
            if is_accepted(*links_refused_at) {
                links.push((*generation, sealer.derive(&[b"unsubscribe ", &number])?));
            }
        }
        let links = LinkKeys::new(links.iter().map(|(generation, key)| (*generation, &**key)));
        let links = links.map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(Self { tokens: Arc::new(TokenKeys::new(tokens)), links: Arc::new(links) })
    }
}

/// Derives the keys of the generations that are not refused at `now`.
pub(super) fn read(connection: &Connection, sealer: &Sealer, now: Timestamp) -> Result<ReportKeys> {
    ReportKeys::derive(sealer, &generations(connection)?, now)
}

/// All generations, the oldest first.
pub(super) fn generations(connection: &Connection) -> Result<Vec<TokenGeneration>> {
    let mut statement = connection.prepare_cached("SELECT * FROM token_generation ORDER BY generation")?;
    let rows = statement.query_map([], read_row)?;
    Ok(rows.collect::<database::Result<_>>()?)
}

/// Opens the next generation. Earlier ones are refused after the overlap, or at once.
pub(super) fn rotate(tx: &Tx<'_>, at_once: bool, now: Timestamp) -> Result<TokenGeneration> {
    let known = generations(tx)?;
    let accepted = known.iter().filter(|one| one.refused_at.is_none_or(|at| at > now)).count();
    if !at_once && accepted >= ACCEPTED_MAX {
        return Err(StoreError::Conflict(Conflict::TooManyGenerations));
    }
    let refused_at = if at_once { now } else { now.checked_add(TOKEN_OVERLAP).unwrap_or(Timestamp::MAX) };
    let sql = "UPDATE token_generation SET refused_us = min(coalesce(refused_us, ?1), ?1),
                   links_refused_us = coalesce(links_refused_us, ?2)";
    tx.prepare_cached(sql)?.execute(params![us(refused_at), at_once.then(|| us(now))])?;
    let generation = known.last().map_or(1, |last| last.generation + 1);
    let sql = "INSERT INTO token_generation (generation, since_us) VALUES (?1, ?2)";
    tx.prepare_cached(sql)?.execute(params![generation, us(now)])?;
    Ok(TokenGeneration { generation, since: now, refused_at: None, links_refused_at: None })
}

fn read_row(row: &Row<'_>) -> database::Result<TokenGeneration> {
    Ok(TokenGeneration {
        generation: row.get("generation")?,
        since: time(row, "since_us")?,
        refused_at: time_if_any(row, "refused_us")?,
        links_refused_at: time_if_any(row, "links_refused_us")?,
    })
}
