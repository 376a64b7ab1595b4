#![allow(missing_docs)]
//! Message templates.

use crate::mail::Timestamp;
use crate::model::{TemplateId, TenantId};

/// Selects templates.
#[derive(Debug, Clone, Default)]
pub struct TemplateFilter {
    pub tenant_id: Option<TenantId>,
    pub name: Option<String>,
}

/// Subject and bodies with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub id: TemplateId,
    pub tenant_id: TenantId,
    /// Unique within the tenant.
    pub name: String,
    pub subject: String,
    pub text: Option<String>,
    pub html: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A template without its bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSummary {
    pub id: TemplateId,
    pub tenant_id: TenantId,
    /// Unique within the tenant.
    pub name: String,
    pub subject: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A template to create.
#[derive(Debug, Clone)]
pub struct NewTemplate {
    pub tenant_id: TenantId,
    pub name: String,
    pub subject: String,
    pub text: Option<String>,
    pub html: Option<String>,
}

/// Changes to a template.
#[derive(Debug, Clone, Default)]
pub struct TemplatePatch {
    pub name: Option<String>,
    pub subject: Option<String>,
    pub text: Option<Option<String>>,
    pub html: Option<Option<String>>,
}
