//! The rows by which nodes announce changes to each other. They are written in the transaction of the change.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::Row;

use crate::limits::auth_limiter::{BanChange, BanSubject};
use crate::mail::{DomainName, Host, Timestamp};
use crate::model::{QueueFilter, TenantId};
use crate::store::database::{self, Connection, params};
use crate::store::memory::{Announcement, DirectoryChange};
use crate::store::sql::unit_of_work::Tx;

/// Those after a number, in the order of commits: jobs that announce changes run alone, in all processes.
pub(super) const READ: &str =
    "SELECT id, epoch, kind, tenant_id, name, at_us FROM announcement WHERE id > $1 ORDER BY id";
/// Where a process begins that has just read everything else.
pub(super) const BEGIN: &str = "SELECT coalesce(
    (SELECT min(id) - 1 FROM announcement WHERE created > clock_timestamp() - interval '5 minutes'),
    (SELECT max(id) FROM announcement), 0)";
pub(super) const PRUNE: &str =
    "DELETE FROM announcement WHERE created < clock_timestamp() - interval '1 day'";
/// Transactions that began before others may commit after them, with smaller numbers; not later than this.
const OVERTAKEN_TIME_MAX: Duration = Duration::from_secs(60);

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
    };
    let sql = "INSERT INTO announcement (epoch, kind, tenant_id, name, at_us) VALUES (?1, ?2, ?3, ?4, ?5)";
    tx.prepare_cached(sql)?.post(params![tx.lease.epoch(), kind, tenant, name, at_us])
}

/// The bans that were announced in the last hour, the oldest first.
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
        _ => return None,
    })
}

/// Which announcements a node has applied.
pub(super) struct AnnouncementReader {
    /// All up to this number were applied, or are too old to matter.
    applied: i64,
    /// Those above it that were applied, and when.
    seen: HashMap<i64, Instant>,
}

impl AnnouncementReader {
    pub(super) fn behind(applied: i64) -> Self {
        Self { applied, seen: HashMap::new() }
    }

    /// The parameter of [`READ`].
    pub(super) fn applied(&self) -> i64 {
        self.applied
    }

    /// The announcements among the rows of [`READ`] that were not applied before. Those of this node are left out, except for
    /// changes of the queue: applied again in the order of commits, they end the effect of older ones of other nodes.
    pub(super) fn take_new(&mut self, rows: &[Row], own_epoch: i64) -> Vec<Announcement> {
        let now = Instant::now();
        let mut new = Vec::new();
        for row in rows {
            let (id, epoch): (i64, i64) = (row.get(0), row.get(1));
            if self.seen.insert(id, now).is_none() {
                let read = read(row).unwrap_or(Announcement::Directory(DirectoryChange::Everything));
                new.extend(Some(read).filter(|read| epoch != own_epoch || read.is_of_queue()));
            }
        }
        self.seen.retain(|id, at| {
            let is_old = now.duration_since(*at) > OVERTAKEN_TIME_MAX;
            if is_old {
                self.applied = self.applied.max(*id);
            }
            !is_old
        });
        new
    }
}
