//! One tenant as a bundle of objects.
//!
//! `parts` and `messages` have the tables and `fields` their columns, which the export reads and `import` and `message_import`
//! write. `import_job` runs an import.

mod fields;
mod import;
mod import_job;
mod message_import;
mod messages;
mod parts;

use std::sync::Arc;

use serde_json::{Value, json};

use self::import_job::ImportJob;
use self::parts::PartTable;
use super::Store;
use super::keyset::read_rows;
use super::secret_encryption::{SealedColumn, Sealer};
use super::sql_types::sql_limit;
use crate::mail::Timestamp;
use crate::store::database::{Connection, OptionalExtension, params};
use crate::store::traits::Bundles;
use crate::store::{
    BundleObject, BundlePart, BundleRequest, ImportOptions, ImportReport, PAGE_OBJECTS_MAX, Page, Result,
    plain_value,
};

impl Bundles for Store {
    async fn bundle_page(&self, request: BundleRequest) -> Result<Page<BundleObject>> {
        let (files, sealer) = (Arc::clone(&self.bodies), Arc::clone(&self.sealer));
        let query = move |connection: &Connection| match request.part {
            BundlePart::Messages => {
                let after = request.after.as_deref().unwrap_or_default();
                messages::page(connection, &files, request.tenant_id, after)
            }
            _ => page(connection, &sealer, &request),
        };
        self.read_slow(query).await
    }

    async fn import_bundle(
        &self,
        objects: Vec<BundleObject>,
        options: ImportOptions,
        now: Timestamp,
    ) -> Result<ImportReport> {
        let files = Arc::clone(&self.bodies);
        if objects.iter().any(message_import::is_message) {
            self.free_space.check()?;
        }
        let prepare =
            move |connection: &Connection| ImportJob::prepare(connection, &files, (objects, options), now);
        let job = self.read_slow(prepare).await?;
        let feed = Arc::clone(&self.feed);
        self.write_with(job, ImportJob::run, move |job, imported| job.conclude(imported, &feed)).await
    }
}

fn page(connection: &Connection, sealer: &Sealer, request: &BundleRequest) -> Result<Page<BundleObject>> {
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
    let mut page = read_rows(rows, PAGE_OBJECTS_MAX, |row| {
        let mut object = BundleObject::from_iter([("object".to_owned(), json!(table.object))]);
        for (place, field) in table.fields.iter().enumerate() {
            object.insert(field.name.to_owned(), field.read(row, place)?);
        }
        Ok(object)
    })?;
    if request.has_secrets {
        page.items.iter_mut().try_for_each(|object| decrypt_secret(connection, sealer, table, object))?;
    }
    Ok(page)
}

/// Puts the secret of an object, if it has one, in place of the mark that it is left out.
fn decrypt_secret(
    connection: &Connection,
    sealer: &Sealer,
    table: &PartTable,
    object: &mut BundleObject,
) -> Result<()> {
    let (Some((field, column)), Some(id)) = (table.secret(), object.get("id").and_then(Value::as_str)) else {
        return Ok(());
    };
    let sql = format!("SELECT {} FROM {} WHERE id = ?1", field.column, table.table);
    let sealed = connection.prepare_cached(&sql)?.query_row([id], |row| row.get::<_, Option<Vec<u8>>>(0));
    if let Some(sealed) = sealed.optional()?.flatten() {
        let secret = sealer.open(SealedColumn { column, row: id }, &sealed)?;
        object.insert(field.name.to_owned(), plain_value(&secret));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::messages::{ATTEMPTS, DELIVERIES, EVENTS, MESSAGE};
    use super::parts::PARTS;
    use super::*;
    use crate::store::secret_field;
    use crate::store::sql::sqlite::schema;

    /// The owner, which is the tenant of the bundle; what follows from use or from another object; what refers to messages.
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
        "message.tenant_id",
        "delivery.message_id",
        "delivery.tenant_id",
        "delivery.position",
        "delivery.destination",
        "delivery.next_attempt_us",
        "attempt.message_id",
        "event.message_id",
        "event.tenant_id",
        "event.environment",
    ];

    #[test]
    fn the_secrets_of_the_tables_are_those_that_are_encrypted_in_a_bundle() {
        for table in PARTS {
            let object = BundleObject::from_iter([("object".to_owned(), json!(table.object))]);
            assert_eq!(
                table.secret().map(|(field, _)| field.name),
                secret_field(&object),
                "{}",
                table.object
            );
        }
    }

    #[test]
    fn every_column_is_in_a_bundle_or_left_out_on_purpose() {
        let mut connection = rusqlite::Connection::open_in_memory().unwrap();
        assert!(schema::migrate(&mut connection).is_ok());
        let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)").unwrap();
        let mut columns = 0;
        let of_messages = [DELIVERIES, ATTEMPTS, EVENTS].map(|part| (part.table, part.fields));
        let tables = PARTS.iter().map(|table| (table.table, table.fields));
        for (table, fields) in tables.chain(of_messages).chain([("message", MESSAGE)]) {
            for column in statement.query_map([table], |row| row.get::<_, String>(0)).unwrap() {
                let column = column.unwrap();
                let is_in_bundle = fields.iter().any(|field| field.column == column);
                let name = format!("{table}.{column}");
                assert_ne!(is_in_bundle, LEFT_OUT.contains(&name.as_str()), "{name}");
                columns += 1;
            }
        }
        assert!(columns > 80, "{columns}");
    }
}
