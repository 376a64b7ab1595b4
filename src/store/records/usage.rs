#![allow(missing_docs)]
//! Usage of tenants and warnings about their limits.

use std::ops::AddAssign;

use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{
    BrakeAction, BrakeMetric, BrakeWindow, Brakes, Environment, KeyId, LimitPeriod, Ratio, TenantId,
    UsageGroup,
};

/// Makes [`UsageCounts`], so that each count is listed once.
macro_rules! usage_counts {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Amounts of usage.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct UsageCounts {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl UsageCounts {
            /// The names of the counts.
            pub(in crate::store) const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            /// The counts in the order of their names.
            pub(in crate::store) fn values(self) -> [u64; Self::NAMES.len()] {
                [$(self.$name,)*]
            }

            /// Reads each count by its name.
            pub(in crate::store) fn read<E>(mut read: impl FnMut(&str) -> Result<u64, E>) -> Result<Self, E> {
                Ok(Self { $($name: read(stringify!($name))?,)* })
            }
        }

        impl AddAssign for UsageCounts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

usage_counts! {
    /// Recipients of accepted messages.
    sent,
    /// Recipients whose server accepted the message.
    delivered,
    /// Attempts that are repeated later.
    deferred,
    /// Recipients with a permanent failure or an expired message.
    bounced,
    /// Those of `bounced` for whom the time ran out.
    expired,
    /// Delivered recipients whose failure was reported later.
    bounced_late,
    /// Recipients that complained.
    complained,
    /// Recipients that left a list.
    unsubscribed,
    /// Recipients that were skipped or rejected because they are suppressed.
    suppressed,
    /// Other rejected submissions.
    rejected,
    /// API requests.
    api_requests,
}

/// Usage of a tenant in one environment in one hour or day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The start of the hour or day.
    pub start: Timestamp,
    pub environment: Environment,
    pub counts: UsageCounts,
}

/// The tenant, key, environment and time of some usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UsedBy {
    pub tenant_id: TenantId,
    pub key_id: Option<KeyId>,
    pub environment: Environment,
    pub at: Timestamp,
}

/// Selects usage of all tenants in a range of days.
#[derive(Debug, Clone)]
pub struct UsageFilter {
    pub tenant_id: Option<TenantId>,
    /// The days that begin at this time or later,
    pub from: Timestamp,
    /// and before this time.
    pub to: Timestamp,
    /// The environment of [`UsageSum::counts`], except API requests, which are those of both.
    pub environment: Environment,
    /// Counts nothing of the other environment.
    pub only: Option<Environment>,
    pub group: UsageGroup,
    /// Only sums after this one.
    pub after: Option<UsageCursor>,
    pub limit: usize,
}

/// A position in sums of usage: the tenant and the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageCursor {
    pub tenant_id: TenantId,
    pub group: String,
}

/// Usage of a tenant, or of one of its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageSum {
    pub tenant_id: TenantId,
    pub tenant_name: String,
    pub tenant_slug: String,
    pub external_ref: Option<String>,
    /// The tenant was deleted. Its usage of the last [`DELETED_USAGE_LIFETIME`](crate::store::DELETED_USAGE_LIFETIME) is kept.
    pub is_deleted: bool,
    /// The id of the key, the name of the domain, or the microsecond at which the day begins; empty for none.
    pub group: String,
    pub counts: UsageCounts,
    /// Recipients of test messages, whatever the environment.
    pub test_sent: u64,
}

/// How close a tenant is to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitLevel {
    /// 80 % of the limit is used.
    Approaching,
    /// A message exceeded the limit.
    Exceeded,
}

/// A tenant approaches its send limit or has reached it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LimitWarning {
    #[serde(skip)]
    pub tenant_id: TenantId,
    #[serde(skip)]
    pub level: LimitLevel,
    pub environment: Environment,
    pub period: LimitPeriod,
    /// Recipients in the period.
    pub limit: u64,
    /// Recipients so far.
    pub used: u64,
    /// The end of the period.
    pub resets_at: Timestamp,
    #[serde(skip)]
    pub at: Timestamp,
}

/// A tenant with brakes, and its live usage in their window since they were last applied.
#[derive(Debug, Clone, Copy)]
pub struct BrakeReading {
    pub tenant_id: TenantId,
    pub brakes: Brakes,
    pub counts: UsageCounts,
}

/// A rate of the brakes is exceeded.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AppliedBrake {
    #[serde(skip)]
    pub tenant_id: TenantId,
    pub metric: BrakeMetric,
    pub rate: Ratio,
    pub limit: Ratio,
    /// The recipients of which the rate is a share.
    pub recipients: u64,
    pub window: BrakeWindow,
    pub action: BrakeAction,
    #[serde(skip)]
    pub at: Timestamp,
}
