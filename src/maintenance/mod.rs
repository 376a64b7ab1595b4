//! Background maintenance: retention and the search index. Imports `store`.

pub mod retention;
pub mod search_indexer;
