//! The interface of the store, one trait for each role.

mod acme_accounts;
mod audit;
mod bundles;
mod directory;
mod erasures;
mod inboxes;
mod journal;
mod ledger;
mod outbox;
mod queue;
mod reports;
mod sign_ins;
mod spool;
mod store_trait;
mod sts_policies;
mod tls_results;

pub use acme_accounts::AcmeAccounts;
pub use audit::Audit;
pub use bundles::Bundles;
pub use directory::Directory;
pub use erasures::Erasures;
pub use inboxes::Inboxes;
pub use journal::Journal;
pub use ledger::Ledger;
pub use outbox::Outbox;
pub use queue::Queue;
pub use reports::Reports;
pub use sign_ins::SignIns;
pub use spool::Spool;
pub(in crate::store) use store_trait::store_trait;
pub use sts_policies::StsPolicies;
pub use tls_results::TlsResults;
