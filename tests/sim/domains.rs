//! The DNS records of the tenants' domains: they are published, get lost and come back.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::gates::Gates;
use crate::http::{self, Call};
use crate::tenants::text;
use crate::world::{Tenant, World};

const RETRY_PAUSE: Duration = Duration::from_secs(30);
/// How long records are away.
const MEAN_LENGTH: Duration = Duration::from_secs(2 * 3600);

/// The domain of the first tenant needs no records.
pub fn verification(tenant: usize) -> &'static str {
    if tenant == 0 { "manual" } else { "dns" }
}

/// Publishes the records of a tenant's domain, and has them checked until the tenant may send.
pub async fn verify(world: &World, gates: &Gates, tenant: &Tenant) {
    loop {
        let target = format!("/v1/domains/{}", tenant.domain_id);
        let shown = http::ask(world, gates, Call::get(&target).with_key(&world.platform_secret)).await;
        if let Some((200, domain)) = shown {
            publish(world, &domain["dns_records"]);
        }
        let call = Call::post(&format!("{target}/verify"), json!({}));
        let checked = http::ask(world, gates, call.with_key(&world.platform_secret)).await;
        match checked {
            Some((200, domain)) if domain["status"] == "verified" => return,
            // A crash may come between the creation of the domain and that of the next object.
            Some((404, _)) => return,
            _ => sleep(RETRY_PAUSE).await,
        }
    }
}

fn publish(world: &World, records: &Value) {
    for record in records.as_array().into_iter().flatten().filter(|record| record["type"] == "TXT") {
        world.network.publish(&text(&record["name"]), &text(&record["value"]));
    }
}

/// Replaces the DKIM keys of a domain. Its owner publishes the new records a while later.
pub async fn rotate(world: &World, gates: &Gates, tenant: &Tenant) {
    let target = format!("/v1/domains/{}/dkim/rotate", tenant.domain_id);
    // Making a key of RSA takes long.
    let algorithm = json!({"algorithm": "ed25519-sha256"});
    let call = Call::post(&target, algorithm).with_key(&world.platform_secret);
    let told = http::ask(world, gates, call).await;
    world.note(format!("operator: rotate the keys of {}: {:?}", tenant.domain, told.map(|told| told.0)));
    sleep(world.chance.interval(MEAN_LENGTH)).await;
    let target = format!("/v1/domains/{}", tenant.domain_id);
    let shown = http::ask(world, gates, Call::get(&target).with_key(&world.platform_secret)).await;
    if let Some((200, domain)) = shown {
        publish(world, &domain["dns_records"]);
    }
}

/// The records of a domain are away for a time.
pub async fn lose(world: &World, domain: &str) {
    world.note(format!("fault: the records of {domain} are gone"));
    world.network.hide(domain, true);
    sleep(world.chance.interval(MEAN_LENGTH)).await;
    world.network.hide(domain, false);
}
