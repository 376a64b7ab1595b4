//! One tenant as a bundle of objects.
//!
//! `parts` has the tables and `fields` their columns, which the export reads and `import` writes. `messages` are exported only.

mod fields;
mod import;
mod messages;
mod parts;

use std::sync::Arc;

use rusqlite::{Connection, params};
use serde_json::json;

use self::parts::PartTable;
use super::SqliteStore;
use super::keyset::read_rows;
use super::sql_types::sql_limit;
use crate::mail::Timestamp;
use crate::store::traits::Bundles;
use crate::store::{
    BundleObject, BundlePart, BundleRequest, ImportOptions, ImportReport, PAGE_OBJECTS_MAX, Page, Result,
};

impl Bundles for SqliteStore {
    async fn bundle_page(&self, request: BundleRequest) -> Result<Page<BundleObject>> {
        let files = Arc::clone(&self.bodies);
        let query = move |connection: &Connection| match request.part {
            BundlePart::Messages => {
                let after = request.after.as_deref().unwrap_or_default();
                messages::page(connection, &files, request.tenant_id, after)
            }
            _ => page(connection, &request),
        };
        self.read_slow(query).await
    }

    async fn import_bundle(
        &self,
        objects: Vec<BundleObject>,
        options: ImportOptions,
        now: Timestamp,
    ) -> Result<ImportReport> {
        self.write(move |tx| import::run(tx, &objects, &options, now)).await
    }
}

fn page(connection: &Connection, request: &BundleRequest) -> Result<Page<BundleObject>> {
    let Some(table) = PartTable::of(request.part) else {
        return Ok(Page { items: Vec::new(), has_more: false });
    };
    let sql = format!(
        "SELECT {} FROM {} WHERE {} AND id > ?2 ORDER BY id LIMIT ?3",
        table.columns(),
        table.table,
        table.condition
    );
    let after = request.after.as_deref().unwrap_or_default();
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query(params![request.tenant_id, after, sql_limit(PAGE_OBJECTS_MAX + 1)])?;
    read_rows(rows, PAGE_OBJECTS_MAX, |row| {
        let mut object = BundleObject::from_iter([("object".to_owned(), json!(table.object))]);
        for (place, field) in table.fields.iter().enumerate() {
            object.insert(field.name.to_owned(), field.read(row, place)?);
        }
        Ok(object)
    })
}

#[cfg(test)]
mod tests {
    use super::parts::PARTS;
    use super::*;
    use crate::store::sqlite::schema;

    /// The owner, which is the tenant of the bundle; what follows from use; what refers to messages.
    const LEFT_OUT: &[&str] = &[
        "tenant.resumed_us",
        "domain.tenant_id",
        "domain.last_check",
        "domain.checked_us",
        "domain.failing_since_us",
        "domain.return_path_status",
        "dkim_key.has_signed",
        "dkim_key.retiring_since_us",
        "key.tenant_id",
        "key.last_used_us",
        "key.scram",
        "key.next_notice_us",
        "suppression.tenant_id",
        "suppression.report_id",
        "suppression.message_id",
        "template.tenant_id",
        "webhook.tenant_id",
        "webhook.disabled_reason",
        "webhook.failing_since_us",
        "inbox.tenant_id",
        "inbox.code_digest",
        "inbox.code_expires_us",
    ];

    #[test]
    fn every_column_is_in_a_bundle_or_left_out_on_purpose() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(schema::migrate(&mut connection).is_ok());
        let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)").unwrap();
        let mut columns = 0;
        for table in PARTS {
            for column in statement.query_map([table.table], |row| row.get::<_, String>(0)).unwrap() {
                let column = column.unwrap();
                let is_in_bundle = table.fields.iter().any(|field| field.column == column);
                let name = format!("{}.{column}", table.table);
                assert_ne!(is_in_bundle, LEFT_OUT.contains(&name.as_str()), "{name}");
                columns += 1;
            }
        }
        assert!(columns > 80, "{columns}");
    }
}
