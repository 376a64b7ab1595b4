//! People who operate the server, and tenants who look at their mail.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::gates::Gates;
use crate::http::{self, Call};
use crate::world::{self, SITES, Suppressed, TENANTS, Tenant, World};

const MEAN_PAUSE: Duration = Duration::from_secs(1200);
/// For how long something is paused or suspended.
const MEAN_LENGTH: Duration = Duration::from_secs(1800);
const LENGTH_MAX: Duration = Duration::from_secs(3600);

/// Messages whose recipients a tenant may suppress: some still wait.
const RECENT: usize = 6;

/// Creates the tenants that do not exist yet. A crash may come at any moment, so each step is repeated until it is done.
pub async fn furnish(world: &World, gates: &Gates) {
    let known = world.tenants.lock().unwrap().len();
    for number in known..TENANTS {
        let domain = world::tenant_domain(number);
        let slug = format!("tenant{number}");
        let tenant = json!({"name": slug, "slug": slug});
        let tenant = insist(world, gates, &format!("tenant-{number}"), "/v1/tenants", tenant).await;
        let owned = json!({"name": domain, "tenant_id": tenant["id"], "verification": "manual"});
        insist(world, gates, &format!("domain-{number}"), "/v1/domains", owned).await;
        let key = json!({
            "name": "app", "tenant_id": tenant["id"], "environment": "live",
            "scopes": ["smtp:send", "emails:send", "emails:read", "suppressions:manage"],
        });
        let webhook = json!({"url": format!("http://{}/", world::hook(number)), "tenant_id": tenant["id"]});
        insist(world, gates, &format!("webhook-{number}"), "/v1/webhooks", webhook).await;
        // A lost answer would have the only copy of the secret, so a new key is made each time.
        let key = loop {
            let call = Call::post("/v1/keys", key.clone()).with_key(&world.platform_secret);
            if let Some((201, key)) = http::ask(world, gates, call).await {
                break key;
            }
            sleep(Duration::from_secs(5)).await;
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let tenant = Tenant {
            number,
            id: text(&tenant["id"]),
            domain,
            key_id: text(&key["id"]),
            secret: text(&key["secret"]),
        };
        world.note(format!("tenant {number} is {}", tenant.id));
        world.tenants.lock().unwrap().push(tenant);
    }
}

async fn insist(world: &World, gates: &Gates, name: &str, target: &str, body: Value) -> Value {
    loop {
        let call = Call::post(target, body.clone()).with_key(&world.platform_secret).repeatable(name);
        match http::ask(world, gates, call).await {
            Some((201, answer)) => return answer,
            told => world.note(format!("operator: {target} {told:?}")),
        }
        sleep(Duration::from_secs(5)).await;
    }
}

pub async fn run(world: Arc<World>, gates: Arc<Gates>) {
    loop {
        sleep(world.chance.interval(MEAN_PAUSE)).await;
        if !world.is_active() {
            return;
        }
        let tenant = world.chance.choose(&world.tenants.lock().unwrap()).clone();
        match world.chance.below(6) {
            0 => pause(&world, &gates).await,
            1 => suspend(&world, &gates, &tenant).await,
            2 => suppress(&world, &gates, &tenant).await,
            3 => cancel(&world, &gates, &tenant).await,
            4 => rotate(&world, &gates, &tenant).await,
            _ => look(&world, &gates, &tenant).await,
        }
    }
}

/// Undoes what a life before this one has left: mail must not wait forever.
pub async fn restore(world: &World, gates: &Gates) {
    for number in 0..SITES {
        let destination = json!({"destination": world::site(number)});
        let call = Call::post("/v1/queue/resume", destination).with_key(&world.platform_secret);
        while !matches!(http::ask(world, gates, call.clone()).await, Some((200 | 404, _))) {
            sleep(Duration::from_secs(5)).await;
        }
    }
    let tenants = world.tenants.lock().unwrap().clone();
    for tenant in tenants {
        set_status(world, gates, &tenant, "active").await;
    }
}

async fn pause(world: &World, gates: &Gates) {
    let destination = json!({"destination": world::site(world.chance.below(SITES))});
    let call = |verb: &str| {
        Call::post(&format!("/v1/queue/{verb}"), destination.clone()).with_key(&world.platform_secret)
    };
    let told = http::ask(world, gates, call("pause")).await;
    world.note(format!("operator: pause {destination}: {:?}", told.map(|told| told.0)));
    sleep(world.chance.interval(MEAN_LENGTH).min(LENGTH_MAX)).await;
    while !matches!(http::ask(world, gates, call("resume")).await, Some((200 | 404, _))) {
        sleep(Duration::from_secs(5)).await;
    }
}

async fn suspend(world: &World, gates: &Gates, tenant: &Tenant) {
    world.note(format!("operator: suspend tenant {}", tenant.number));
    set_status(world, gates, tenant, "suspended").await;
    sleep(world.chance.interval(MEAN_LENGTH).min(LENGTH_MAX)).await;
    set_status(world, gates, tenant, "active").await;
}

async fn set_status(world: &World, gates: &Gates, tenant: &Tenant, status: &str) {
    let call = Call::patch(&format!("/v1/tenants/{}", tenant.id), json!({"status": status}))
        .with_key(&world.platform_secret);
    while !matches!(http::ask(world, gates, call.clone()).await, Some((200, _))) {
        sleep(Duration::from_secs(5)).await;
    }
}

async fn suppress(world: &World, gates: &Gates, tenant: &Tenant) {
    let recent: Vec<String> = {
        let ledger = world.ledger.lock().unwrap();
        let own = ledger.acknowledged.iter().rev().filter(|(_, (of, _))| *of == tenant.number);
        own.take(RECENT).flat_map(|(_, (_, recipients))| recipients.clone()).collect()
    };
    if recent.is_empty() {
        return;
    }
    let address = world.chance.choose(&recent).clone();
    let call = Call::post("/v1/suppressions", json!({"address": address})).with_key(&tenant.secret);
    let told = http::ask(world, gates, call).await;
    world.note(format!(
        "tenant {}: suppress {address}: {:?}",
        tenant.number,
        told.as_ref().map(|told| told.0)
    ));
    if let Some((200 | 201, _)) = told {
        let suppressed = Suppressed { tenant: tenant.number, address, since: world.now() };
        world.ledger.lock().unwrap().suppressed.push(suppressed);
    }
}

async fn cancel(world: &World, gates: &Gates, tenant: &Tenant) {
    let found = {
        let ledger = world.ledger.lock().unwrap();
        let own: Vec<_> = ledger.acknowledged.iter().filter(|(_, (of, _))| *of == tenant.number).collect();
        own.last().map(|(id, _)| (*id).clone())
    };
    let Some(id) = found else { return };
    let call = Call::post(&format!("/v1/emails/{id}/cancel"), json!({})).with_key(&tenant.secret);
    let told = http::ask(world, gates, call).await;
    world.note(format!("tenant {}: cancel {id}: {:?}", tenant.number, told.map(|told| told.0)));
}

async fn rotate(world: &World, gates: &Gates, tenant: &Tenant) {
    let domains = Call::get("/v1/domains").with_key(&world.platform_secret);
    let Some((200, domains)) = http::ask(world, gates, domains).await else { return };
    let all = domains["data"].as_array().cloned().unwrap_or_default();
    let Some(own) = all.iter().find(|domain| domain["tenant_id"] == tenant.id.as_str()) else { return };
    let target = format!("/v1/domains/{}/dkim/rotate", own["id"].as_str().unwrap_or_default());
    let told = http::ask(world, gates, Call::post(&target, json!({})).with_key(&world.platform_secret)).await;
    world.note(format!("operator: rotate the key of {}: {:?}", tenant.domain, told.map(|told| told.0)));
}

/// A tenant sees nothing of another one.
async fn look(world: &World, gates: &Gates, tenant: &Tenant) {
    for target in
        ["/v1/emails?limit=100", "/v1/events?limit=100", "/v1/suppressions", "/v1/rejections?limit=100"]
    {
        let call = Call::get(target).with_key(&tenant.secret);
        let Some((status, answer)) = http::ask(world, gates, call).await else { continue };
        let text = answer.to_string();
        world.note(format!("tenant {}: {target}: {status}, {} octets", tenant.number, text.len()));
        for other in (0..TENANTS).filter(|other| *other != tenant.number) {
            if text.contains(&world::mark(other)) || text.contains(&world::tenant_domain(other)) {
                world.violate(format!("tenant {} sees mail of tenant {other} in {target}", tenant.number));
            }
        }
    }
}
