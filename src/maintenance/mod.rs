//! Background maintenance: retention, the search index, the brakes of tenants and the events of keys that expire. Imports
//! `store` and `policy`.

pub mod brakes;
pub mod key_expiry;
pub mod retention;
pub mod search_indexer;
