//! The queue manager: what is decided in memory about mail that waits. Imports `model`.

pub mod wait_reasons;
