#![allow(missing_docs)]
//! What tenants used, and what they are told of their limits.

use std::ops::AddAssign;

use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{Environment, LimitPeriod, TenantId};

/// How much was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageCounts {
    /// Recipients of accepted messages.
    pub sent: u64,
    /// Recipients whose server took the message.
    pub delivered: u64,
    /// Recipients that were refused for good, or given up when their time ended.
    pub bounced: u64,
    /// Recipients that complained.
    pub complained: u64,
    /// Recipients that were left out or refused because they are suppressed.
    pub suppressed: u64,
    /// Other refusals that were noted.
    pub rejected: u64,
    /// Requests to the API.
    pub api_requests: u64,
}

impl AddAssign for UsageCounts {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.bounced += other.bounced;
        self.complained += other.complained;
        self.suppressed += other.suppressed;
        self.rejected += other.rejected;
        self.api_requests += other.api_requests;
    }
}

/// What a tenant used in one environment in one hour or day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Its beginning.
    pub start: Timestamp,
    pub environment: Environment,
    pub counts: UsageCounts,
}

/// Whose usage something is, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UsedBy {
    pub tenant_id: TenantId,
    pub environment: Environment,
    pub at: Timestamp,
}

/// What a tenant is told of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitLevel {
    /// 80 % of it are used.
    Approaching,
    /// There is no room for what the tenant sends.
    Exceeded,
}

/// That a tenant nears its send limit or has reached it.
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
    /// When the period ends and counting begins anew.
    pub resets_at: Timestamp,
    #[serde(skip)]
    pub at: Timestamp,
}
