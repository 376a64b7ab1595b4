//! In-memory state that every engine keeps beside its database, without SQL. An engine fills it when it is opened and
//! updates it after each commit.

mod announcement;
mod change_count;
mod commit_counters;
mod directory_versions;
mod due_floors;
mod event_clock;
mod journal_end;
mod key_uses;
mod minute_series;
mod node_lease;
mod spool_feed;
mod suppressed_addresses;
mod suppression_times;
mod usage_accumulator;
mod usage_parts;
mod webhook_due_index;
mod webhook_subscriptions;

pub(super) use announcement::{Announcement, AnnouncementTargets, Reload};
pub(super) use change_count::ChangeCount;
pub(super) use commit_counters::CommitCounters;
pub(super) use directory_versions::{DirectoryChange, DirectoryChanges, DirectoryVersions};
pub(super) use due_floors::DueFloors;
pub(super) use event_clock::EventClock;
pub(super) use journal_end::JournalEnd;
pub(super) use key_uses::KeyUses;
pub(super) use minute_series::MinuteSeries;
pub(super) use node_lease::{LEASE_TIME, NodeLease, uptime_ms};
pub use node_lease::{Lease, LeaseState, Nodes};
pub use spool_feed::{AcceptedMessage, HotQueuePermit, RecordedDelivery, SpoolChange, SpoolFeed};
pub(super) use suppressed_addresses::SuppressedAddresses;
pub(super) use suppression_times::SuppressionTimes;
pub(super) use usage_accumulator::{DeliveryResult, UsageAccumulator, UsagePartRow, UsageSums};
pub(super) use usage_parts::UsageParts;
pub(super) use webhook_due_index::WebhookDueIndex;
pub(super) use webhook_subscriptions::{TouchedWebhooks, WebhookSubscriptions};
