//! What follows when a recipient opens a link or presses its button.

use std::sync::Arc;

use crate::clock::Clock;
use crate::model::{SuppressedMail, UnsubscribeLink, UnsubscribeVia};
use crate::store::{Directory, Reports, Store, StoreError, Unsubscription};

/// Opens links.
pub struct UnsubscribeService {
    store: Arc<Store>,
    clock: Clock,
}

impl UnsubscribeService {
    /// A service on `store`.
    pub fn new(store: Arc<Store>, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// What the sealed part of a link says; `None` if this server did not make it, or refuses its key.
    pub fn open(&self, sealed: &str) -> Option<UnsubscribeLink> {
        self.store.link_keys().open(sealed)
    }

    /// The name of the tenant that sent the message; `None` if the tenant is deleted.
    ///
    /// # Errors
    /// The store failed.
    pub async fn sender_name(&self, link: &UnsubscribeLink) -> Result<Option<String>, StoreError> {
        Ok(self.store.tenant(link.tenant_id).await?.map(|tenant| tenant.name))
    }

    /// The recipient leaves the list of the link, or every list of its sender. Repetitions change nothing.
    ///
    /// # Errors
    /// The store failed, and nothing has changed.
    pub async fn leave(
        &self,
        link: UnsubscribeLink,
        every_list: bool,
        via: UnsubscribeVia,
    ) -> Result<(), StoreError> {
        let UnsubscribeLink { tenant_id, environment, message_id, list, address } = link;
        let mail = if every_list { SuppressedMail::EveryList } else { SuppressedMail::List(list) };
        let (message_id, at) = (Some(message_id), self.clock.now());
        let wish = Unsubscription { tenant_id, environment, address, mail, via, message_id, at };
        let is_new = self.store.unsubscribe(wish).await?;
        tracing::info!(tenant = %tenant_id, %environment, %via, is_new, "unsubscribed");
        Ok(())
    }
}
