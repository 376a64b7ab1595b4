//! Committed changes that other processes must learn of, because they keep what was changed in memory.

use tokio::sync::mpsc;

use super::{DirectoryChange, DirectoryVersions, SpoolChange, SpoolFeed, SuppressionTimes};
use crate::limits::auth_limiter::BanChange;
use crate::mail::Timestamp;
use crate::model::{QueueFilter, TenantId};
use crate::store::{AnnouncedBackoff, AnnouncedCancellation};

/// A change, as it is announced to the other nodes of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Announcement {
    /// What is cached of the directory.
    Directory(DirectoryChange),
    /// A tenant must not send any more.
    Suspended(TenantId),
    /// It sends again.
    Resumed {
        tenant_id: TenantId,
        at: Timestamp,
    },
    /// It was deleted.
    Removed(TenantId),
    /// A part of the queue is paused until a time, in microseconds.
    Paused {
        part: QueueFilter,
        until_us: i64,
    },
    PauseLifted {
        part: QueueFilter,
        at: Timestamp,
    },
    /// An address of a tenant, or of the platform, was suppressed at a time.
    Suppressed {
        owner: Option<TenantId>,
        at: Timestamp,
    },
    /// Webhooks or their subscriptions.
    Webhooks,
    /// The keys of report addresses and unsubscribe links.
    ReportKeys,
    /// A client or key is banned from logins, or not any more.
    Ban(BanChange),
    /// A site backs off, or does not any more.
    Backoff(AnnouncedBackoff),
    /// The node that has these deliveries is to cancel them.
    Cancel(AnnouncedCancellation),
}

impl Announcement {
    /// Whether it says which mail may be delivered. The last of such changes counts.
    pub(in crate::store) fn is_of_queue(&self) -> bool {
        match self {
            Self::Suspended(_)
            | Self::Resumed { .. }
            | Self::Removed(_)
            | Self::Paused { .. }
            | Self::PauseLifted { .. } => true,
            Self::Directory(_)
            | Self::Suppressed { .. }
            | Self::Webhooks
            | Self::ReportKeys
            | Self::Ban(_)
            | Self::Backoff(_)
            | Self::Cancel(_) => false,
        }
    }
}

/// What is kept in memory and changed by announcements of other nodes.
#[derive(Clone)]
pub(in crate::store) struct AnnouncementTargets {
    pub(in crate::store) feed: std::sync::Arc<SpoolFeed>,
    pub(in crate::store) directory_versions: DirectoryVersions,
    pub(in crate::store) suppression_times: SuppressionTimes,
    pub(in crate::store) bans: mpsc::Sender<BanChange>,
    pub(in crate::store) backoffs: mpsc::Sender<AnnouncedBackoff>,
    pub(in crate::store) cancellations: mpsc::Sender<AnnouncedCancellation>,
}

impl AnnouncementTargets {
    /// Applies a change that another node has committed. What has to be read from the database again is returned.
    pub(in crate::store) fn apply(&self, announcement: Announcement) -> Option<Reload> {
        let change = match announcement {
            Announcement::Directory(change) => {
                self.directory_versions.note(vec![change]);
                return None;
            }
            Announcement::Suppressed { owner, at } => {
                self.suppression_times.note(owner, at);
                return None;
            }
            Announcement::Ban(change) => {
                // More bans than fit are not of use.
                let _ = self.bans.try_send(change);
                return None;
            }
            Announcement::Backoff(backoff) => {
                let _ = self.backoffs.try_send(backoff);
                return None;
            }
            Announcement::Cancel(asked) => {
                // The node that asked reports it as in flight.
                let _ = self.cancellations.try_send(asked);
                return None;
            }
            Announcement::Webhooks => return Some(Reload::Webhooks),
            Announcement::ReportKeys => return Some(Reload::ReportKeys),
            Announcement::Suspended(tenant) => SpoolChange::TenantSuspended(tenant),
            Announcement::Resumed { tenant_id, at } => SpoolChange::TenantResumed { tenant_id, at },
            Announcement::Removed(tenant) => SpoolChange::TenantRemoved(tenant),
            Announcement::Paused { part, until_us } => SpoolChange::Paused { part, until_us },
            Announcement::PauseLifted { part, at } => SpoolChange::PauseLifted { part, at },
        };
        self.feed.send(change);
        None
    }

    /// Announcements may have been missed: nothing that is cached counts.
    pub(in crate::store) fn forget_all(&self) {
        self.directory_versions.note(vec![DirectoryChange::Everything]);
    }
}

/// What is in memory and has to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Reload {
    Webhooks,
    ReportKeys,
}
