//! Databases of earlier versions.

use super::*;

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused_untouched() {
    let bed = Bed::new().await;
    bed.store.close().await;
    let database = bed.path().join("pillarbox.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let opened = open(options(bed.path()));
    assert!(matches!(opened, Err(OpenError::Newer { found: 99, known }) if known < 99));
}

/// Makes version 21 of the database with `change`, and opens it with this program.
async fn upgraded(bed: Bed, change: &str) -> Bed {
    bed.store.close().await;
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute_batch(&without_migrations_after(21)).unwrap();
    database.execute_batch(change).unwrap();
    database.pragma_update(None, "user_version", 21).unwrap();
    bed.restart().await
}

/// The statements that take migrations back, the newest first, each with the version before them. A new migration adds its
/// inverse.
const INVERSES: &[(u32, &str)] = &[
    (52, "DROP TABLE response_usage;"),
    (51, "DROP TABLE sign_in;"),
    (50, "DROP VIEW queue;"),
    (49, "DROP TABLE erasure;"),
    (48, "ALTER TABLE tenant DROP COLUMN archived_us; ALTER TABLE tenant DROP COLUMN deletable_us;"),
    (47, "DROP TABLE acme_account;"),
    (46, INVERSE_OF_47),
    (45, "DROP INDEX event_without_message_by_type;"),
    (44, INVERSE_OF_45),
    (43, INVERSE_OF_44),
    (21, INVERSE_OF_22_TO_43),
];

/// The statements that take back what the migrations after `version` added.
fn without_migrations_after(version: u32) -> String {
    INVERSES.iter().filter(|(before, _)| *before >= version).map(|(_, statements)| *statements).collect()
}

const INVERSE_OF_47: &str = "
    ALTER TABLE seal_check DROP COLUMN fingerprint;
    DROP TABLE restoration;";

const INVERSE_OF_45: &str = "
    DROP TABLE audit;
    DROP INDEX usage_by_start;
    ALTER TABLE usage DROP COLUMN deferred;
    ALTER TABLE usage DROP COLUMN expired;
    ALTER TABLE usage_part DROP COLUMN deferred;
    ALTER TABLE usage_part DROP COLUMN expired;
    ALTER TABLE attempt DROP COLUMN source;";

const INVERSE_OF_44: &str = "
    DROP TRIGGER unattributed_report_added;
    DROP TRIGGER unattributed_report_removed;
    DROP TABLE unattributed_report_count;
    DROP INDEX domain_by_return_host;
    ALTER TABLE webhook ADD COLUMN previous_until_us BIGINT;
    ALTER TABLE ended_pause DROP COLUMN round;";

const INVERSE_OF_22_TO_43: &str = concat!(
    "DROP TABLE suspicious_site;
    DROP INDEX suppression_at_site;
    ALTER TABLE suppression DROP COLUMN provisional;
    ALTER TABLE suppression DROP COLUMN site;
    ALTER TABLE suppression DROP COLUMN refused_us;
    DROP TABLE ended_pause;
    ALTER TABLE pause ADD COLUMN is_lifted INTEGER NOT NULL DEFAULT 0;
    DROP INDEX test_message_by_tenant;
    DROP INDEX test_message_by_id;
    DROP TRIGGER webhook_added;
    DROP TRIGGER webhook_delivery_added;
    DROP TRIGGER webhook_delivery_finished;
    DROP TRIGGER webhook_delivery_replayed;
    DROP TRIGGER webhook_delivery_removed;
    DROP TABLE webhook_backlog;
    ALTER TABLE webhook_delivery DROP COLUMN octets;
    DROP TABLE webhook_secret;
    ALTER TABLE webhook ADD COLUMN previous_secret BLOB;
    DROP INDEX suppression_by_expiry;
    DROP INDEX tenant_with_brakes;
    DROP INDEX sts_policy_by_expiry;
    DROP INDEX tenant_by_external_ref;
    ALTER TABLE key DROP COLUMN restricted_to_domains;
    DROP INDEX domain_by_name;
    ALTER TABLE domain ADD COLUMN reversed_name TEXT NOT NULL DEFAULT '';
    CREATE INDEX domain_by_name ON domain (reversed_name, status);
    DROP TABLE inbox;
    DROP TABLE trial_usage;
    DROP INDEX key_notice_due;
    ALTER TABLE key DROP COLUMN next_notice_us;
    ALTER TABLE key DROP COLUMN rotated_us;
    DROP TABLE key_secret;
    ALTER TABLE event DROP COLUMN environment;
    ALTER TABLE webhook_delivery DROP COLUMN environment;
    ALTER TABLE webhook DROP COLUMN environments;
    DROP TABLE report_raw;
    DROP TABLE report_count;
    DROP TABLE report;
    DROP TABLE token_generation;
    ALTER TABLE message DROP COLUMN list;
    ALTER TABLE delivery DROP COLUMN complained_us;
    ALTER TABLE domain DROP COLUMN return_path_mode;
    ALTER TABLE domain DROP COLUMN return_path_host;
    ALTER TABLE domain DROP COLUMN return_path_status;
    ALTER TABLE usage DROP COLUMN bounced_late;
    ALTER TABLE usage DROP COLUMN unsubscribed;
    DROP TRIGGER suppression_added;
    DROP TRIGGER suppression_removed;
    DROP TABLE suppression_count;
    DROP INDEX suppression_of_tenant;
    DROP INDEX suppression_of_platform;
    ALTER TABLE suppression DROP COLUMN list;
    ALTER TABLE suppression DROP COLUMN report_id;
    ALTER TABLE suppression DROP COLUMN message_id;
    ALTER TABLE suppression DROP COLUMN environment;",
    include_str!("../sqlite/migrations/0019_suppression_count.sql"),
    "
    DROP TABLE default_tenant_ensured;
    DROP INDEX report_by_tenant;
    DROP INDEX report_by_id;
    ALTER TABLE message DROP COLUMN kind;
    DROP INDEX event_of_deleted_tenant;
    ALTER TABLE webhook_delivery DROP COLUMN external_ref;
    ALTER TABLE webhook_delivery DROP COLUMN tags;
    ALTER TABLE webhook_delivery DROP COLUMN metadata;
    DROP TABLE brake;
    DROP TABLE deleted_tenant;
    DROP TABLE usage_part;
    ALTER TABLE message DROP COLUMN sender_domain;"
);

#[tokio::test]
async fn the_search_of_an_older_database_is_filled_anew() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let (first, second) =
        (bed.enqueue(tenant, &["x@one.example"]).await, bed.enqueue(tenant, &["y@one.example"]).await);
    bed.store.index_messages().await.unwrap();
    bed.store.close().await;
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute_batch(&without_migrations_after(21)).unwrap();
    // As version 15 left it: it had indexes instead of words for recipients and Message-IDs.
    let older = "
        CREATE INDEX message_by_header_id ON message (header_message_id) WHERE header_message_id IS NOT NULL;
        CREATE INDEX delivery_to ON delivery (recipient, message_id);
        DELETE FROM message_search;
        INSERT INTO message_search (rowid, facets, subject) SELECT place, 'xother', 'hello' FROM search_place;
        ALTER TABLE body DROP COLUMN octets;
        ALTER TABLE body DROP COLUMN crc32;
        DROP TABLE released_body;
        DROP TABLE write_test;
        ALTER TABLE delivery RENAME COLUMN bounce_class TO last_class;
        ALTER TABLE attempt RENAME COLUMN bounce_class TO class;
        ALTER TABLE pause RENAME TO hold;
        ALTER TABLE idempotent_response RENAME TO kept_answer;
        DROP INDEX idempotent_response_by_age;
        CREATE INDEX kept_answer_by_age ON kept_answer (created_us);
        DROP TRIGGER suppression_added;
        DROP TRIGGER suppression_removed;
        DROP TABLE suppression_count;
        ALTER TABLE search_progress RENAME COLUMN cursor TO up_to;
        UPDATE tenant SET settings = replace(settings, 'message_lifetime_hours', 'expiry_hours');
        PRAGMA user_version = 15;";
    database.execute_batch(older).unwrap();
    let bed = bed.restart().await;
    assert!(bed.store.tenant(tenant).await.unwrap().is_some(), "its settings have the present names");
    let found = async |filter| {
        let page = bed.store.list_messages(filter, PageRequest { limit: 10, ..PageRequest::default() }).await;
        page.unwrap().items.iter().map(|found| found.message.id).collect::<Vec<_>>()
    };
    let all = MessageFilter::default;
    let to = Some(second.recipients[0].1.address.clone());
    assert_eq!(found(MessageFilter { to, ..all() }).await, [second.message.id]);
    let header_message_id = first.message.header_message_id.clone();
    assert_eq!(found(MessageFilter { header_message_id, ..all() }).await, [first.message.id]);
    let words = "SELECT count(*) FROM message_search ('xother')";
    assert_eq!(database.query_row(words, [], |row| row.get::<_, u32>(0)).unwrap(), 0);
    let indexes = "SELECT count(*) FROM sqlite_schema WHERE name IN ('message_by_header_id', 'delivery_to')";
    assert_eq!(database.query_row(indexes, [], |row| row.get::<_, u32>(0)).unwrap(), 0);
}

#[tokio::test]
async fn the_reports_of_an_older_database_are_marked() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let report = new_report(tenant, "x@one.example");
    let mut bounce_of_a_client = new_message(tenant, &["x@one.example"], "null reverse path");
    bounce_of_a_client.message.reverse_path = ReversePath::Null;
    let mut without_key = new_message(tenant, &["x@one.example"], "no key");
    without_key.message.key_id = None;
    for new in [&report, &bounce_of_a_client, &without_key] {
        bed.store.enqueue(new.clone()).await.unwrap();
    }
    bed.store.close().await;
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute_batch(&without_migrations_after(21)).unwrap();
    database.pragma_update(None, "user_version", 21).unwrap();
    let bed = bed.restart().await;
    let found = async |kind| {
        let filter = MessageFilter { kind, ..MessageFilter::default() };
        let page = PageRequest { limit: 10, ..PageRequest::default() };
        let page = bed.store.list_messages(filter, page).await.unwrap();
        page.items.iter().map(|found| found.message.id).collect::<Vec<_>>()
    };
    assert_eq!(found(MessageKind::Report).await, [report.message.id]);
    assert_eq!(found(MessageKind::Message).await, [without_key.message.id, bounce_of_a_client.message.id]);
}

#[tokio::test]
async fn the_suppressions_of_an_older_database_are_counted() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let suppression = |number: usize| new_suppression(Some(tenant), &format!("u{number}@one.example"));
    let most = SUPPRESSIONS_MAX;
    bed.store.suppress_all((1..most).map(suppression).collect(), now()).await.unwrap();
    bed.store.close().await;
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute_batch(&without_migrations_after(21)).unwrap();
    let older = "
        DROP TRIGGER suppression_added;
        DROP TRIGGER suppression_removed;
        DROP TABLE suppression_count;
        PRAGMA user_version = 18;";
    database.execute_batch(older).unwrap();
    let bed = bed.restart().await;
    bed.store.suppress(suppression(most), now()).await.unwrap();
    assert!(bed.store.suppress(suppression(most + 1), now()).await.is_err());
}

#[tokio::test]
async fn the_suppressions_of_an_older_database_are_folded_and_the_longest_of_equal_ones_stays() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut ids = Vec::new();
    for number in 0..4 {
        let mut new = new_suppression(Some(tenant), &format!("u{number}@one.example"));
        new.expires_at = (number == 0).then(|| later(1000));
        ids.push(bed.store.suppress(new, now()).await.unwrap().id);
    }
    bed.store.close().await;
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    let stored = [
        "jos\u{e9}@one.example",
        "jose\u{301}@one.example",
        "stra\u{df}e@one.example",
        "strasse@one.example",
    ];
    for (id, address) in ids.iter().zip(stored) {
        database
            .execute("UPDATE suppression SET address = ?2 WHERE id = ?1", rusqlite::params![id, address])
            .unwrap();
    }
    database.execute_batch(&without_migrations_after(21)).unwrap();
    database.pragma_update(None, "user_version", 20).unwrap();
    let bed = bed.restart().await;
    let stops = async |text: &str| {
        let key = crate::mail::fold_address(text);
        bed.store.suppression_of(tenant, Environment::Live, &key, now()).await.unwrap().map(|found| found.id)
    };
    assert_eq!(stops("JOS\u{c9}@one.example").await, Some(ids[1]));
    assert!(stops("STRASSE@one.example").await.is_some());
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    let left = bed.store.list_suppressions(Default::default(), page).await.unwrap().items;
    assert_eq!(left.len(), 2);
    let count = "SELECT suppressions FROM suppression_count";
    assert_eq!(database.query_row(count, [], |row| row.get::<_, u32>(0)).unwrap(), 2);
}

#[tokio::test]
async fn the_events_of_an_older_database_get_their_environments_and_its_webhooks_both() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let webhook = bed.store.create_webhook(new_webhook(Some(tenant)), now()).await.unwrap().id;
    bed.enqueue(tenant, &["x@one.example"]).await;
    let mut new = new_message(tenant, &["y@one.example"], "body");
    new.message.environment = Environment::Test;
    bed.store.enqueue(new).await.unwrap();
    bed.store.suppress(new_suppression(Some(tenant), "z@one.example"), now()).await.unwrap();
    bed.store.reject(Rejection {
        id: RequestId::generate(now()),
        tenant_id: tenant,
        key_id: None,
        environment: Environment::Test,
        stage: Stage::Rcpt,
        code: RefusalCode::RecipientInvalid,
        message: "no".to_owned(),
        client_address: None,
        created_at: now(),
    });
    let (kind, data, at) = (EventKind::DomainVerified, serde_json::json!({}), now());
    bed.store.append(NewEvent { kind, tenant_id: Some(tenant), environment: None, data, at }).await.unwrap();
    let events = async |bed: &Bed| {
        let page = PageRequest { limit: 10, ..PageRequest::default() };
        let listed = bed.store.list_events(EventFilter::default(), page.clone()).await.unwrap().items;
        let sent = bed.store.list_webhook_deliveries(webhook, None, page).await.unwrap().items;
        let all = listed.into_iter().chain(sent.into_iter().map(|delivery| delivery.event));
        all.map(|event| (event.kind, event.environment)).collect::<Vec<_>>()
    };
    let before = events(&bed).await;
    // The creation of the tenant is the first.
    assert_eq!(before.len(), 6 + 3);
    bed.store.close().await;
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute_batch(&without_migrations_after(21)).unwrap();
    database.pragma_update(None, "user_version", 21).unwrap();
    let bed = bed.restart().await;
    assert_eq!(events(&bed).await, before);
    let webhook = bed.store.webhook(None, webhook).await.unwrap().unwrap();
    assert_eq!(webhook.environments, [Environment::Live, Environment::Test]);
}

#[tokio::test]
async fn the_keys_of_an_older_database_stay_restricted_and_forget_domains_that_are_gone() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let domain = new_domain(Some(tenant), "example.com", Verification::Manual);
    let domain = bed.store.create_domain(domain, now()).await.unwrap().id;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let key = new_key(Some(tenant), &KeySecret::generate(Environment::Live));
        ids.push(bed.store.create_key(key, now()).await.unwrap().id);
    }
    let gone = crate::model::DomainId::generate(now());
    let change = format!(
        r#"UPDATE key SET allowed_domain_ids = '["{domain}", "{gone}"]' WHERE id = '{}';
           UPDATE key SET allowed_domain_ids = '["{gone}"]' WHERE id = '{}';"#,
        ids[0], ids[1]
    );
    let bed = upgraded(bed, &change).await;
    for (id, restricted, allowed) in
        [(ids[0], true, vec![domain]), (ids[1], true, vec![]), (ids[2], false, vec![])]
    {
        let key = bed.store.key(None, id).await.unwrap().unwrap();
        assert_eq!((key.restricted_to_domains, key.allowed_domain_ids), (restricted, allowed));
    }
}

#[tokio::test]
async fn the_external_refs_of_an_older_database_stay_and_are_found_by_an_index() {
    let bed = Bed::new().await;
    let ids = [bed.tenant("a").await.id, bed.tenant("b").await.id];
    // Earlier versions accepted a value twice.
    let bed = upgraded(bed, "UPDATE tenant SET external_ref = 'crm-1';").await;
    for id in ids {
        assert_eq!(bed.store.tenant(id).await.unwrap().unwrap().external_ref.as_deref(), Some("crm-1"));
    }
    let third = crate::store::NewTenant { external_ref: Some("crm-1".into()), ..new_tenant("c") };
    let refused = bed.store.create_tenant(third, now()).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::ExternalRef))), "{refused:?}");
    let sql = "SELECT 1 FROM tenant WHERE external_ref = ?1";
    let plan = bed.engine().read(move |connection| Ok(plan_of(connection, sql))).await.unwrap();
    assert!(plan.contains("tenant_by_external_ref"), "{plan}");
}

#[tokio::test]
async fn the_rejections_of_an_older_database_have_the_present_code() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    for code in
        [RefusalCode::RecipientInvalid, RefusalCode::RecipientInvalid, RefusalCode::RecipientSuppressed]
    {
        bed.store.reject(Rejection {
            id: RequestId::generate(now()),
            tenant_id: tenant,
            key_id: None,
            environment: Environment::Live,
            stage: Stage::Mail,
            code,
            message: "no".to_owned(),
            client_address: None,
            created_at: now(),
        });
    }
    let change = "
        UPDATE rejection SET code = 'sender_domain_not_owned' WHERE id = (SELECT min(id) FROM rejection);
        UPDATE rejection SET code = 'from_domain_not_owned' WHERE code = 'recipient_invalid';";
    let bed = upgraded(bed, change).await;
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    let found = bed.store.list_rejections(Default::default(), page).await.unwrap().items;
    let codes: Vec<_> = found.iter().rev().map(|rejection| rejection.code).collect();
    let renamed = RefusalCode::DomainNotAllowedForKey;
    assert_eq!(codes, [renamed, renamed, RefusalCode::RecipientSuppressed]);
}

#[tokio::test]
async fn the_usage_of_an_older_database_stays_and_outlives_its_tenant() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    bed.enqueue(tenant, &["x@one.example", "y@one.example"]).await;
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    let usage = async |bed: &Bed| {
        let days = crate::model::UsageInterval::Day;
        bed.store.usage(tenant, days, Timestamp::UNIX_EPOCH, later(7 * 24 * 3600)).await.unwrap()
    };
    let before = usage(&bed).await;
    assert_eq!((before[0].counts.sent, before[0].counts.delivered), (2, 2));
    // As version 11 made it: its rows went with the tenant.
    let table = include_str!("../sqlite/migrations/0011_usage.sql").split_inclusive(';').next().unwrap();
    let change = format!(
        "ALTER TABLE usage RENAME TO other; {table} INSERT INTO usage SELECT * FROM other; DROP TABLE other;"
    );
    let bed = upgraded(bed, &change).await;
    assert_eq!(usage(&bed).await, before);
    bed.store.remove_tenant(tenant, now()).await.unwrap().unwrap();
    assert_eq!(usage(&bed).await, before);
}

#[tokio::test]
async fn the_keys_of_an_older_database_have_an_event_14_days_before_they_expire() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut ids = Vec::new();
    let end = later(30 * 24 * 3600);
    for expires_at in [Some(end), Some(end), None] {
        let new = new_key(Some(tenant), &KeySecret::generate(Environment::Live));
        let new = crate::store::NewKey { expires_at, ..new };
        ids.push(bed.store.create_key(new, now()).await.unwrap().id);
    }
    assert!(bed.store.revoke_key(ids[1], now()).await.unwrap());
    let bed = upgraded(bed, "").await;
    let mut notices = Vec::new();
    for id in ids {
        let sql = "SELECT next_notice_us FROM key WHERE id = ?1";
        let read = move |connection: &database::Connection| {
            Ok(connection.query_row(sql, [id], |row| row.get::<_, Option<i64>>(0))?)
        };
        notices.push(bed.engine().read(read).await.unwrap());
    }
    let two_weeks_before = end - crate::mail::SignedDuration::from_hours(14 * 24);
    assert_eq!(notices, [Some(two_weeks_before.as_microsecond()), None, None]);
}

#[tokio::test]
async fn reports_of_an_older_database_that_belong_to_no_message_are_counted() {
    let bed = Bed::new().await;
    let mut ids = Vec::new();
    for digest in 0..3 {
        ids.push(
            bed.store
                .record_report(returned(ReportKind::Other, None, digest, Consequence::None))
                .await
                .unwrap()
                .id,
        );
    }
    bed.store.close().await;
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    database.execute_batch(&without_migrations_after(43)).unwrap();
    database.pragma_update(None, "user_version", 43).unwrap();
    let bed = bed.restart().await;
    ids.push(
        bed.store.record_report(returned(ReportKind::Other, None, 3, Consequence::None)).await.unwrap().id,
    );
    assert_eq!(reports_left(&bed).await, ids[1..]);
}
