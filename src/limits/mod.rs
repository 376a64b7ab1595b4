//! Budgets that many share, and what one of them may have of each: turns, memory, connections, logins; and a cache of what
//! the directory says. Imports `model`.

pub mod auth_limiter;
pub mod connection_limiter;
pub mod memory_budget;
pub mod tenant_semaphore;
pub mod versioned_cache;
