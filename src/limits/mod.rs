//! Shared resources with a limit for each tenant or network: semaphore, memory, connections, failed logins, rates, places in
//! a map; quota that is shared with other processes; and a cache keyed by the version of the directory. Imports `mail`, `model` and `clock`.

pub mod auth_limiter;
pub mod connection_limiter;
pub mod eviction;
pub mod memory_budget;
pub mod network_limiter;
pub mod quota_blocks;
pub mod tenant_semaphore;
pub mod versioned_cache;
