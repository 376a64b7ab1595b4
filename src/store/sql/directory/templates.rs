//! Templates.

use super::{row_limits, tenants};
use crate::mail::Timestamp;
use crate::model::{TemplateId, TenantId};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::sql::keyset::List;
use crate::store::sql::sql_types::{time, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{
    Conflict, Limited, NewTemplate, Page, PageRequest, Result, StoreError, Template, TemplateFilter,
    TemplatePatch, TemplateSummary, is_in_scope,
};

fn read_row(row: &Row<'_>) -> database::Result<Template> {
    Ok(Template {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        name: row.get("name")?,
        subject: row.get("subject")?,
        text: row.get("text")?,
        html: row.get("html")?,
        created_at: time(row, "created_us")?,
        updated_at: time(row, "updated_us")?,
    })
}

pub(super) fn create(tx: &Tx<'_>, new: &NewTemplate, now: Timestamp) -> Result<Template> {
    tenants::require(tx, Some(new.tenant_id))?;
    row_limits::require(tx, Limited::Templates, Some(new.tenant_id), 1)?;
    let template = Template {
        id: TemplateId::generate(now),
        tenant_id: new.tenant_id,
        name: new.name.clone(),
        subject: new.subject.clone(),
        text: new.text.clone(),
        html: new.html.clone(),
        created_at: now,
        updated_at: now,
    };
    write(tx, &template)?;
    Ok(template)
}

fn write(tx: &Tx<'_>, template: &Template) -> Result<()> {
    let in_use = tx
        .prepare_cached("SELECT 1 FROM template WHERE tenant_id = ?1 AND name = ?2 AND id <> ?3")?
        .exists(params![template.tenant_id, template.name, template.id])?;
    if in_use {
        return Err(StoreError::Conflict(Conflict::TemplateName));
    }
    let sql = "INSERT INTO template (id, tenant_id, name, subject, text, html, created_us, updated_us)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
               ON CONFLICT (id) DO UPDATE SET
                   name = excluded.name, subject = excluded.subject, text = excluded.text,
                   html = excluded.html, updated_us = excluded.updated_us";
    tx.prepare_cached(sql)?.execute(params![
        template.id,
        template.tenant_id,
        template.name,
        template.subject,
        template.text,
        template.html,
        us(template.created_at),
        us(template.updated_at),
    ])?;
    Ok(())
}

pub(super) fn find_in_scope(
    connection: &Connection,
    scope: Option<TenantId>,
    id: TemplateId,
) -> Result<Option<Template>> {
    let mut statement = connection.prepare_cached("SELECT * FROM template WHERE id = ?1")?;
    let found = statement.query_row([id], read_row).optional()?;
    Ok(found.filter(|template| is_in_scope(scope, Some(template.tenant_id))))
}

pub(super) fn list(
    connection: &Connection,
    filter: &TemplateFilter,
    page: &PageRequest,
) -> Result<Page<TemplateSummary>> {
    // Without the bodies, which are much larger than the rest.
    let columns = "id, tenant_id, name, subject, created_us, updated_us";
    let mut list = List::of("template", TemplateId::PREFIX).columns(columns);
    list.only_if("tenant_id = ?", &filter.tenant_id)?;
    list.only_if("name = ?", &filter.name)?;
    list.read(connection, page, |row| {
        Ok(TemplateSummary {
            id: row.get("id")?,
            tenant_id: row.get("tenant_id")?,
            name: row.get("name")?,
            subject: row.get("subject")?,
            created_at: time(row, "created_us")?,
            updated_at: time(row, "updated_us")?,
        })
    })
}

pub(super) fn update(
    tx: &Tx<'_>,
    id: TemplateId,
    patch: &TemplatePatch,
    now: Timestamp,
) -> Result<Option<Template>> {
    let Some(before) = find_in_scope(tx, None, id)? else { return Ok(None) };
    let patch = patch.clone();
    let template = Template {
        name: patch.name.unwrap_or(before.name),
        subject: patch.subject.unwrap_or(before.subject),
        text: patch.text.unwrap_or(before.text),
        html: patch.html.unwrap_or(before.html),
        updated_at: now,
        ..before
    };
    write(tx, &template)?;
    Ok(Some(template))
}

pub(super) fn delete(tx: &Tx<'_>, scope: Option<TenantId>, id: TemplateId) -> Result<bool> {
    let sql = "DELETE FROM template WHERE id = ?1 AND (tenant_id = ?2 OR ?2 IS NULL)";
    Ok(tx.prepare_cached(sql)?.execute(params![id, scope])? > 0)
}
