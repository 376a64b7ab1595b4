//! Background maintenance: retention, the search index, the brakes of tenants, the events of keys that expire, and
//! erasures of recipients. Imports `queue`, `store` and `policy`.

pub mod brakes;
pub mod erasures;
pub mod key_expiry;
pub mod retention;
pub mod search_indexer;
