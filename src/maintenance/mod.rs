//! Background maintenance: retention, the search index and the brakes of tenants. Imports `store` and `policy`.

pub mod brakes;
pub mod retention;
pub mod search_indexer;
