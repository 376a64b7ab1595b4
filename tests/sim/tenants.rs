//! Tenants: they are created, get other keys, are deleted and created again. A crash may come at any moment, so each step is
//! repeated until it is done.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::domains;
use crate::gates::Gates;
use crate::http::{self, Call};
use crate::sites::{self, ROUTED_TENANT};
use crate::world::{self, TENANTS, Tenant, World};

const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Creates the tenants that do not exist, after those before them are deleted.
pub async fn furnish(world: &World, gates: &Gates) {
    let _one_at_a_time = world.furnishing.lock().await;
    finish_deletions(world, gates).await;
    for number in 0..TENANTS {
        let is_there = world.tenants.lock().unwrap().iter().any(|tenant| tenant.number == number);
        if !is_there {
            create(world, gates, number).await;
        }
    }
}

async fn create(world: &World, gates: &Gates, number: usize) {
    let generation = world.generations.lock().unwrap()[number];
    let name = |what: &str| format!("{what}-{number}-{generation}");
    let domain = world::tenant_domain(number);
    let slug = format!("tenant{number}");
    let mut tenant = json!({"name": slug, "slug": slug});
    if number == ROUTED_TENANT {
        tenant["smtp"] = sites::smart_host_settings();
    }
    let tenant = insist(world, gates, &name("tenant"), "/v1/tenants", tenant).await;
    let id = text(&tenant["id"]);
    let mark = world::mark(number, generation);
    world.ledger.lock().unwrap().ids.insert(mark, id.clone());
    let owned = json!({"name": domain, "tenant_id": id, "verification": domains::verification(number)});
    let owned = insist(world, gates, &name("domain"), "/v1/domains", owned).await;
    let webhook = json!({"url": format!("http://{}/", sites::hook(number)), "tenant_id": id});
    insist(world, gates, &name("webhook"), "/v1/webhooks", webhook).await;
    let (key_id, secret) = create_key(world, gates, &id).await;
    let domain_id = text(&owned["id"]);
    let tenant = Tenant { number, generation, id, domain, domain_id, key_id, secret };
    domains::verify(world, gates, &tenant).await;
    world.note(format!("tenant {number} is {}", tenant.id));
    world.tenants.lock().unwrap().push(tenant);
}

/// A lost answer would have the only copy of the secret, so a new key is made each time.
async fn create_key(world: &World, gates: &Gates, tenant_id: &str) -> (String, String) {
    let key = json!({
        "name": "app", "tenant_id": tenant_id, "environment": "live",
        "scopes": ["smtp:send", "emails:send", "emails:read", "suppressions:manage"],
    });
    loop {
        let call = Call::post("/v1/keys", key.clone()).with_key(&world.platform_secret);
        if let Some((201, key)) = http::ask(world, gates, call).await {
            return (text(&key["id"]), text(&key["secret"]));
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Gives a tenant another key, and revokes the one that it has.
pub async fn change_key(world: &World, gates: &Gates, tenant: &Tenant) {
    let Some((key_id, secret)) = while_it_exists(world, tenant, create_key(world, gates, &tenant.id)).await
    else {
        return;
    };
    {
        let mut tenants = world.tenants.lock().unwrap();
        let Some(own) = tenants.iter_mut().find(|own| own.id == tenant.id) else { return };
        (own.key_id, own.secret) = (key_id, secret);
    }
    let revoke = Call::delete(&format!("/v1/keys/{}", tenant.key_id)).with_key(&world.platform_secret);
    until_done(world, gates, revoke).await;
    world.note(format!("operator: tenant {} has another key", tenant.number));
    world.ledger.lock().unwrap().revoked.insert(tenant.key_id.clone(), world.now());
    world.former.lock().unwrap().push(tenant.clone());
}

/// `None` if the tenant is deleted meanwhile.
async fn while_it_exists<T>(world: &World, tenant: &Tenant, work: impl Future<Output = T>) -> Option<T> {
    let gone = async {
        while !world.ledger.lock().unwrap().is_deleted(&tenant.id) {
            sleep(RETRY_PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = gone => None,
    }
}

/// Deletes a tenant, and creates another one in its place.
pub async fn replace(world: &World, gates: &Gates, tenant: &Tenant) {
    {
        let mut tenants = world.tenants.lock().unwrap();
        let before = tenants.len();
        tenants.retain(|own| own.id != tenant.id);
        if tenants.len() == before {
            return;
        }
        world.generations.lock().unwrap()[tenant.number] += 1;
    }
    world.note(format!("operator: delete tenant {}", tenant.number));
    world.ledger.lock().unwrap().deleted.insert(tenant.id.clone(), None);
    furnish(world, gates).await;
}

async fn finish_deletions(world: &World, gates: &Gates) {
    let asked: Vec<String> = {
        let ledger = world.ledger.lock().unwrap();
        let unconfirmed = ledger.deleted.iter().filter(|(_, since)| since.is_none());
        unconfirmed.map(|(id, _)| id.clone()).collect()
    };
    for id in asked {
        let call = Call::delete(&format!("/v1/tenants/{id}")).with_key(&world.platform_secret);
        until_done(world, gates, call).await;
        world.note(format!("operator: {id} is deleted"));
        world.ledger.lock().unwrap().deleted.insert(id, Some(world.now()));
    }
}

/// Repeats a request until it is done, or what it is about is gone.
pub async fn until_done(world: &World, gates: &Gates, call: Call) {
    while !matches!(http::ask(world, gates, call.clone()).await, Some((200..300 | 404, _))) {
        sleep(RETRY_PAUSE).await;
    }
}

async fn insist(world: &World, gates: &Gates, name: &str, target: &str, body: Value) -> Value {
    loop {
        let call = Call::post(target, body.clone()).with_key(&world.platform_secret).repeatable(name);
        match http::ask(world, gates, call).await {
            Some((201, answer)) => return answer,
            told => world.note(format!("operator: {target} {told:?}")),
        }
        sleep(RETRY_PAUSE).await;
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
