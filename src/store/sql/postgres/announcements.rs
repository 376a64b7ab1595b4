//! The rows by which nodes announce changes to each other. They are written in the transaction of the change.

use std::iter;

use tokio_postgres::Row;

use crate::limits::auth_limiter::{BanChange, BanSubject};
use crate::mail::{DomainName, Host, Timestamp};
use crate::model::{DeliveryId, QueueFilter, TenantId};
use crate::store::database::{self, Connection, params};
use crate::store::memory::{Announcement, DirectoryChange, NodeLease};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{AnnouncedBackoff, AnnouncedCancellation};

/// In place of the number of a source pool.
const NO_POOL: &str = "-";

/// Rows of a page of [`READ`].
pub(super) const PAGE_ROWS: usize = 10_000;
/// The next ones after a number. Numbers are in the order of commits: jobs that announce changes run alone, in all processes.
pub(super) const READ: &str = "SELECT id, epoch, kind, tenant_id, name, at_us FROM announcement
    WHERE id > $1 ORDER BY id LIMIT 10000";
/// Where a process begins that has just read everything else.
pub(super) const BEGIN: &str = "SELECT coalesce(
    (SELECT min(id) - 1 FROM announcement WHERE created > clock_timestamp() - interval '5 minutes'),
    (SELECT max(id) FROM announcement), 0)";
pub(super) const PRUNE: &str =
    "DELETE FROM announcement WHERE created < clock_timestamp() - interval '1 day'";

/// Writes an announcement, if there may be other nodes.
pub(in crate::store::sql) fn post(tx: &Tx<'_>, announcement: &Announcement) -> database::Result<()> {
    let (mut tenant, mut name, mut at_us) = (None, None, None);
    let kind = match announcement {
        Announcement::Directory(DirectoryChange::Owner(owner)) => {
            tenant = *owner;
            "owner"
        }
        Announcement::Directory(DirectoryChange::Name(domain)) => {
            name = Some(domain.to_string());
            "name"
        }
        Announcement::Directory(DirectoryChange::Everything) => "everything",
        Announcement::Suspended(id) => {
            tenant = Some(*id);
            "suspended"
        }
        Announcement::Resumed { tenant_id, at } => {
            (tenant, at_us) = (Some(*tenant_id), Some(at.as_microsecond()));
            "resumed"
        }
        Announcement::Removed(id) => {
            tenant = Some(*id);
            "removed"
        }
        Announcement::Paused { part, until_us } => {
            (tenant, name, at_us) =
                (part.tenant_id, part.destination.as_ref().map(Host::to_string), Some(*until_us));
            "paused"
        }
        Announcement::PauseLifted { part, at } => {
            (tenant, name, at_us) =
                (part.tenant_id, part.destination.as_ref().map(Host::to_string), Some(at.as_microsecond()));
            "pause_lifted"
        }
        Announcement::Suppressed { owner, at } => {
            (tenant, at_us) = (*owner, Some(at.as_microsecond()));
            "suppressed"
        }
        Announcement::Webhooks => "webhooks",
        Announcement::ReportKeys => "report_keys",
        Announcement::Ban(BanChange { subject, until }) => {
            (name, at_us) = (Some(subject.to_string()), until.map(Timestamp::as_microsecond));
            "ban"
        }
        Announcement::Backoff(AnnouncedBackoff { site, pool, until, reason }) => {
            // Neither the name of the site nor the number has a space.
            let pool = pool.map_or_else(|| NO_POOL.to_owned(), |pool| pool.to_string());
            (name, at_us) = (Some(format!("{site} {pool} {reason}")), until.map(Timestamp::as_microsecond));
            "backoff"
        }
        Announcement::Cancel(AnnouncedCancellation { at, message_id, deliveries }) => {
            let ids = deliveries.iter().map(DeliveryId::to_string);
            at_us = Some(at.as_microsecond());
            name = Some(iter::once(message_id.to_string()).chain(ids).collect::<Vec<_>>().join(" "));
            "cancel"
        }
    };
    let sql = "INSERT INTO announcement (epoch, kind, tenant_id, name, at_us) VALUES (?1, ?2, ?3, ?4, ?5)";
    tx.prepare_cached(sql)?.post(params![tx.lease.epoch(), kind, tenant, name, at_us])
}

/// The bans that were announced since the last [`PRUNE`], of a day at least, the oldest first.
pub(in crate::store::sql) fn read_bans(connection: &Connection) -> database::Result<Vec<BanChange>> {
    let sql = "SELECT name, at_us FROM announcement WHERE kind = 'ban' ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| {
        let (name, until_us): (String, Option<i64>) = (row.get(0)?, row.get(1)?);
        let until = until_us.map(Timestamp::from_microsecond).transpose().ok();
        Ok(BanSubject::parse(&name).zip(until).map(|(subject, until)| BanChange { subject, until }))
    })?;
    Ok(rows.collect::<database::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// An announcement by its row; `None` if a newer program wrote it: then everything may have changed.
fn read(row: &Row) -> Option<Announcement> {
    let tenant: Option<TenantId> = row.get::<_, Option<&str>>(3).map(str::parse).transpose().ok()?;
    let name: Option<&str> = row.get(4);
    let at_us: Option<i64> = row.get(5);
    let at = || Timestamp::from_microsecond(at_us?).ok();
    let part = || {
        let destination = name.map(Host::parse).transpose().ok()?;
        Some(QueueFilter { tenant_id: tenant, destination })
    };
    Some(match row.get(2) {
        "owner" => Announcement::Directory(DirectoryChange::Owner(tenant)),
        "name" => Announcement::Directory(DirectoryChange::Name(DomainName::parse(name?).ok()?)),
        "suspended" => Announcement::Suspended(tenant?),
        "resumed" => Announcement::Resumed { tenant_id: tenant?, at: at()? },
        "removed" => Announcement::Removed(tenant?),
        "paused" => Announcement::Paused { part: part()?, until_us: at_us? },
        "pause_lifted" => Announcement::PauseLifted { part: part()?, at: at()? },
        "suppressed" => Announcement::Suppressed { owner: tenant, at: at()? },
        "webhooks" => Announcement::Webhooks,
        "report_keys" => Announcement::ReportKeys,
        "ban" => {
            let until = at_us.map(Timestamp::from_microsecond).transpose().ok()?;
            Announcement::Ban(BanChange { subject: BanSubject::parse(name?)?, until })
        }
        "backoff" => Announcement::Backoff(read_backoff(name?, at_us)?),
        "cancel" => {
            let mut ids = name?.split(' ');
            let message_id = ids.next()?.parse().ok()?;
            let deliveries = ids.map(str::parse).collect::<Result<_, _>>().ok()?;
            Announcement::Cancel(AnnouncedCancellation { at: at()?, message_id, deliveries })
        }
        _ => return None,
    })
}

fn read_backoff(name: &str, until_us: Option<i64>) -> Option<AnnouncedBackoff> {
    let mut parts = name.splitn(3, ' ');
    let (site, pool, reason) = (parts.next()?, parts.next()?, parts.next()?);
    let pool = if pool == NO_POOL { None } else { Some(pool.parse().ok()?) };
    let until = until_us.map(Timestamp::from_microsecond).transpose().ok()?;
    Some(AnnouncedBackoff { site: site.to_owned(), pool, until, reason: reason.to_owned() })
}

/// What a node does not know yet of the announcement in a row of [`READ`]. Its own are left out, except for changes of the
/// queue: applied again in the order of commits, they end the effect of older ones of other nodes. After a commit of this node
/// whose outcome was not known, those of what it has read before that commit are applied, too.
pub(super) fn news_in(row: &Row, lease: &NodeLease) -> Option<Announcement> {
    let read = read(row).unwrap_or(Announcement::Directory(DirectoryChange::Everything));
    let is_foreign = row.get::<_, i64>(1) != lease.epoch();
    let is_read_again = matches!(read, Announcement::Directory(_) | Announcement::ReportKeys);
    let is_unknown = is_read_again && lease.had_unknown_outcome();
    Some(read).filter(|read| is_foreign || is_unknown || read.is_of_queue())
}
