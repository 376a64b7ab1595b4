//! The pages of unsubscribe links.
