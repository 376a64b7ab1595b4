//! Messages that name a list.
