//! One file for each page.

pub mod audit;
pub mod bans;
pub mod doctor;
mod domain_records;
pub mod domains;
pub mod events;
mod key_settings;
pub mod keys;
pub mod message;
pub mod messages;
pub mod overview;
pub mod queue;
pub mod rejections;
pub mod reports;
pub mod sandbox;
pub mod settings;
pub mod suppressions;
pub mod templates;
mod tenant_forms;
pub mod tenants;
pub mod webhooks;
