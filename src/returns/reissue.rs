//! Writes a DSN to the reverse path that the tenant gave, because reports come to ours.

use super::{AdmittedToken, ReturnsService};
use crate::feedback::RecipientGroup;
use crate::store::NewMessage;

impl ReturnsService {
    /// The DSN about this recipient; `None` if the sender wants none.
    pub(super) async fn reissue(
        &self,
        _token: &AdmittedToken,
        _group: &RecipientGroup,
    ) -> Option<NewMessage> {
        None
    }
}
