//! Four nodes that claim one deep backlog at the same time.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pillarbox::clock::Clock;
use pillarbox::config;
use pillarbox::mail::{Host, Timestamp};
use pillarbox::queue::{ClaimCounts, ClaimLimits, QueueManager};
use pillarbox::rng::Rng;
use pillarbox::store::{RecordBatch, Spool, Store};
use serde_json::json;
use tokio_postgres::Client;

use super::mail::{BODY_OCTETS, Sender, delivered, make_senders, messages};
use super::server::MeasuredServer;
use super::{copy_of_key, options};

const NODES: usize = 4;
/// Deliveries of a claim.
const CLAIM: usize = 100;
/// Claims of each node.
const CLAIMS: usize = 100;

/// Makes copies of a message that waits, accepted one millisecond after the other until now.
const FILL: &str = "
    CREATE FUNCTION pg_temp.ulid(n BIGINT) RETURNS TEXT LANGUAGE sql AS $$
        SELECT string_agg(substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (n >> (45 - 5 * place) & 31)::int + 1, 1), '' ORDER BY place)
               || substr(translate(upper(md5(n::text)), 'O', '0'), 1, 16) FROM generate_series(0, 9) place $$;
    CREATE TEMPORARY TABLE made AS SELECT n, pg_temp.ulid($first + n) AS ulid FROM generate_series(1, $count) n;
    CREATE TEMPORARY TABLE model AS SELECT * FROM message LIMIT 1;
    CREATE TEMPORARY TABLE model_delivery AS SELECT * FROM delivery WHERE message_id = (SELECT id FROM model);
";

/// Measures claims of a backlog of so many deliveries.
pub async fn measure(server: &MeasuredServer, client: &Client, count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = vec![open(server, dir.path(), 0).await];
    let senders = make_senders(&stores[0]).await;
    fill(client, &stores[0], &senders, count).await;
    for number in 1..NODES {
        stores.push(open(server, dir.path(), number).await);
    }
    while stores.iter().any(|store| store.nodes().count < NODES as u32) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.query("SELECT pg_stat_statements_reset()", &[]).await.unwrap();
    let begun = Instant::now();
    let nodes: Vec<_> = stores.iter().map(|store| tokio::spawn(claim(Arc::clone(store)))).collect();
    let mut sum = ClaimCounts::default();
    for node in nodes {
        let counts = node.await.unwrap();
        sum.claimed += counts.claimed;
        sum.gone += counts.gone;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let statement = async |text: &str| {
        let sql = "SELECT coalesce(sum(total_exec_time) / sum(calls), 0)::float8 FROM pg_stat_statements WHERE query LIKE $1";
        client.query_one(sql, &[&text]).await.unwrap().get::<_, f64>(0)
    };
    println!(
        "{}",
        json!({
            "phase": "claims",
            "backlog": count,
            "nodes": NODES,
            "claimed": sum.claimed,
            "claimed_of_chosen": sum.claimed as f64 / (sum.claimed + sum.gone).max(1) as f64,
            "page_ms": statement("%FROM queue%ORDER BY next_attempt_us, id LIMIT%").await,
            "claim_ms": statement("UPDATE queue SET owner%SKIP LOCKED%").await,
            "claims_per_s": sum.claimed as f64 / seconds,
        })
    );
    for store in stores {
        store.close().await;
    }
}

async fn open(server: &MeasuredServer, dir: &Path, number: usize) -> Arc<Store> {
    let mut options = options(server.config(), &dir.join(number.to_string()), copy_of_key(dir), 2);
    options.hot_queue_bytes_max = 0;
    Arc::new(Store::open(options).await.unwrap())
}

async fn fill(client: &Client, store: &Store, senders: &[Sender], count: usize) {
    let model = messages(senders, 1, BODY_OCTETS);
    store.enqueue_all(model).await.unwrap();
    let first = Timestamp::now().as_millisecond() - count as i64 - 1000;
    let fill = FILL.replace("$first", &first.to_string()).replace("$count", &count.to_string());
    client.batch_execute(&fill).await.unwrap();
    let tenants = senders.iter().map(|sender| format!("'{}'", sender.0)).collect::<Vec<_>>().join(",");
    let copies = "
        UPDATE model SET tenant_id = '';
        INSERT INTO message SELECT (jsonb_populate_record(m, jsonb_build_object('id', 'msg_' || ulid,
            'tenant_id', (ARRAY[$tenants])[1 + n % 20]))).* FROM made, model m;
        INSERT INTO delivery SELECT (jsonb_populate_record(d, jsonb_build_object('id', 'dlv_' || ulid, 'message_id', 'msg_' || ulid,
            'tenant_id', (ARRAY[$tenants])[1 + n % 20], 'next_attempt_us', ($first + n) * 1000))).* FROM made, model_delivery d;
        INSERT INTO queue (id, tenant_id, destination, next_attempt_us, owner)
        SELECT id, tenant_id, destination, next_attempt_us, 0 FROM delivery WHERE id NOT IN (SELECT id FROM queue);
        ANALYZE; VACUUM queue, delivery, message";
    let copies = copies.replace("$tenants", &tenants).replace("$first", &first.to_string());
    for statement in copies.split(';') {
        client.batch_execute(statement).await.unwrap();
    }
}

/// Claims and records as delivered.
async fn claim(store: Arc<Store>) -> ClaimCounts {
    let relay = config::Relay::default();
    let queue = QueueManager::new(Arc::clone(&store), &relay, Clock::system(), Rng::system());
    let limits =
        ClaimLimits { deliveries_max: CLAIM, per_tenant_max: CLAIM, admits: Arc::new(|_: &Host| true) };
    for _ in 0..CLAIMS {
        let claimed = queue.claim_due(Timestamp::now(), &limits).await.unwrap();
        let records = claimed
            .batches
            .iter()
            .flat_map(|batch| batch.deliveries.iter().map(|delivery| delivered(&batch.message, delivery.id)));
        let records: Vec<_> = records.collect();
        if records.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        } else {
            store.record(RecordBatch { records, report: None }).await.unwrap();
        }
    }
    queue.claim_counts()
}
