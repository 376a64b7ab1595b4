//! What runs beside mail: retention, and the index that messages are searched by. Imports `store`.

pub mod retention;
pub mod search_indexer;
