//! The reverse path that mail leaves with.
