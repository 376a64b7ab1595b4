//! One-click unsubscribe (RFC 2369, RFC 8058): `fields` writes the link and the header fields of a message that names a
//! list, `visit` opens links and records who leaves. A link carries all that it needs, encrypted, so it works when every
//! row of its message is deleted. Imports `mail`, `model` and `store`.

mod fields;
mod visit;

pub use fields::{LINK_PATH, link_url, list_id_field, unsubscribe_fields};
pub use visit::UnsubscribeService;
