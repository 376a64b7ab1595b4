//! Addresses that are certainly not suppressed need no query.

use super::*;
use crate::store::sql::directory::suppressed_addresses::PAGE;
use crate::store::{BundlePart, BundleRequest, Bundles, ImportOptions};

async fn is_suppressed(store: &Store, tenant: TenantId, address: &str) -> bool {
    let at = |found: Result<Option<_>>| found.unwrap().is_some();
    let one = at(store.suppression_of(tenant, Environment::Live, address, now()).await);
    let several = vec!["nobody@none.example".to_owned(), address.to_owned()];
    let several = store.suppressions_of(tenant, Environment::Live, several, now()).await.unwrap();
    assert_eq!((several[0].is_some(), several[1].is_some()), (false, one));
    one
}

#[tokio::test]
async fn all_addresses_are_known_after_a_restart() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let first = bed.store.suppress(new_suppression(Some(tenant), "0@many.example"), now()).await.unwrap();
    let sql = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number LIMIT ?2)
               INSERT INTO suppression (id, tenant_id, address, reason, created_us, environment, list)
               SELECT printf('sup_%026d', n), tenant_id, printf('%08d@many.example', n), reason, created_us, environment, list
               FROM number JOIN suppression ON id = ?1";
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute(sql, rusqlite::params![first.id.to_string(), 2 * PAGE as i64]).unwrap();
    drop(database);
    let bed = bed.restart().await;
    wait_until_known(&bed.store).await;
    for number in [1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE] {
        assert!(is_suppressed(&bed.store, tenant, &format!("{number:08}@many.example")).await, "{number}");
    }
    assert!(is_suppressed(&bed.store, tenant, "0@many.example").await);
    assert!(!is_suppressed(&bed.store, tenant, "other@many.example").await);
}

#[tokio::test]
async fn an_address_is_suppressed_at_once() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    wait_until_known(&bed.store).await;
    assert!(!is_suppressed(&bed.store, tenant, "no@one.example").await);
    bed.store.suppress(new_suppression(Some(tenant), "no@one.example"), now()).await.unwrap();
    assert!(is_suppressed(&bed.store, tenant, "no@one.example").await);
}

#[tokio::test]
async fn a_recipient_that_is_not_suppressed_needs_no_connection() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    bed.store.suppress(new_suppression(None, "no@one.example"), now()).await.unwrap();
    wait_until_known(&bed.store).await;
    bed.store.readers.close();
    let ask = async |address| bed.store.suppression_of(tenant, Environment::Live, address, now()).await;
    assert!(matches!(ask("yes@one.example").await, Ok(None)));
    assert!(matches!(ask("no@one.example").await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn imported_suppressions_hold_at_once() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    bed.store.suppress(new_suppression(Some(tenant), "no@one.example"), now()).await.unwrap();
    let mut objects = Vec::new();
    for part in [BundlePart::Tenant, BundlePart::Suppressions] {
        let request = BundleRequest { tenant_id: tenant, part, after: None, has_secrets: false };
        objects.extend(bed.store.bundle_page(request).await.unwrap().items);
    }
    bed.store.remove_tenant(tenant, now()).await.unwrap().unwrap();
    // Its addresses are forgotten at the start only.
    let bed = bed.restart().await;
    wait_until_known(&bed.store).await;
    assert!(!is_suppressed(&bed.store, tenant, "no@one.example").await);
    bed.store.import_bundle(objects, ImportOptions::default(), now()).await.unwrap();
    assert!(is_suppressed(&bed.store, tenant, "no@one.example").await);
    wait_until_known(&bed.store).await;
    assert!(is_suppressed(&bed.store, tenant, "no@one.example").await);
}
