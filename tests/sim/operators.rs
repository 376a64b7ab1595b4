//! People who operate the server, and tenants who look at their mail.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::gates::Gates;
use crate::http::{self, Call};
use crate::ledger::{Acknowledged, Suppressed};
use crate::sites::{self, SITES};
use crate::tenants::{self, until_done};
use crate::world::{Tenant, World};
use crate::{domains, erasures, queue_view};

/// For how long something is paused or suspended.
const MEAN_LENGTH: Duration = Duration::from_secs(1800);
const LENGTH_MAX: Duration = Duration::from_secs(3600);

/// Messages whose recipients a tenant may suppress: some still wait.
const RECENT: usize = 6;

pub async fn run(world: Arc<World>, gates: Arc<Gates>) {
    loop {
        sleep(world.chance.interval(world.options.operator_pause)).await;
        if !world.is_active() {
            return;
        }
        let tenants = world.tenants.lock().unwrap().clone();
        if tenants.is_empty() {
            continue;
        }
        let tenant = world.chance.choose(&tenants).clone();
        match world.chance.below(16) {
            0 | 1 => pause(&world, &gates).await,
            2 => suspend(&world, &gates, &tenant).await,
            3..6 => suppress(&world, &gates, &tenant).await,
            6 | 7 => cancel(&world, &gates, &tenant).await,
            8 => domains::rotate(&world, &gates, &tenant).await,
            9 => tenants::change_key(&world, &gates, &tenant).await,
            10 => tenants::replace(&world, &gates, &tenant).await,
            11 | 12 => erasures::erase(&world, &gates, &tenant).await,
            13 | 14 => queue_view::look(&world, &gates).await,
            _ => look(&world, &gates, &tenant).await,
        }
    }
}

/// Undoes what a life before this one has left: mail must not wait forever.
pub async fn restore(world: &World, gates: &Gates) {
    for number in 0..SITES {
        let destination = json!({"destination": sites::site(number)});
        let call = Call::post("/v1/queue/resume", destination).with_key(&world.platform_secret);
        until_done(world, gates, call).await;
    }
    let tenants = world.tenants.lock().unwrap().clone();
    for tenant in tenants {
        set_status(world, gates, &tenant, "active").await;
    }
}

async fn pause(world: &World, gates: &Gates) {
    let destination = json!({"destination": sites::site(world.chance.below(SITES))});
    let call = |verb: &str| {
        Call::post(&format!("/v1/queue/{verb}"), destination.clone()).with_key(&world.platform_secret)
    };
    let told = http::ask(world, gates, call("pause")).await;
    world.note(format!("operator: pause {destination}: {:?}", told.map(|told| told.0)));
    sleep(world.chance.interval(MEAN_LENGTH).min(LENGTH_MAX)).await;
    until_done(world, gates, call("resume")).await;
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
    until_done(world, gates, call).await;
}

async fn suppress(world: &World, gates: &Gates, tenant: &Tenant) {
    let (waiting, recent) = recipients_of(world, tenant);
    // What waits is most interesting: the suppression must stop it.
    let from = if waiting.is_empty() || world.chance.percent(20.0) { recent } else { waiting };
    if from.is_empty() {
        return;
    }
    let address = world.chance.choose(&from).clone();
    let call = Call::post("/v1/suppressions", json!({"address": address})).with_key(&tenant.secret);
    let told = http::ask(world, gates, call).await;
    world.note(format!(
        "tenant {}: suppress {address}: {:?}",
        tenant.number,
        told.as_ref().map(|told| told.0)
    ));
    if let Some((200 | 201, _)) = told {
        let suppressed =
            Suppressed { tenant_id: tenant.id.clone(), address, since: world.now(), reported: None };
        world.ledger.lock().unwrap().suppressed.push(suppressed);
    }
}

/// The recipients of a tenant's last messages: those that no server has taken the message for, and all.
fn recipients_of(world: &World, tenant: &Tenant) -> (Vec<String>, Vec<String>) {
    let recent: Vec<(String, String)> = {
        let ledger = world.ledger.lock().unwrap();
        let own = ledger.acknowledged.iter().rev().filter(|(_, mail)| mail.tenant_id == tenant.id);
        let of_message = |(id, mail): (&String, &Acknowledged)| {
            let id = id.clone();
            let kept = mail.recipients.iter().filter(|recipient| !erasures::is_erasable(recipient)).cloned();
            kept.map(move |recipient| (id.clone(), recipient)).collect::<Vec<_>>()
        };
        own.take(RECENT).flat_map(of_message).collect()
    };
    let waiting = recent.iter().filter(|(id, recipient)| !world.network.has_taken(id, recipient));
    let waiting = waiting.map(|(_, recipient)| recipient.clone()).collect();
    (waiting, recent.into_iter().map(|(_, recipient)| recipient).collect())
}

async fn cancel(world: &World, gates: &Gates, tenant: &Tenant) {
    let found = {
        let ledger = world.ledger.lock().unwrap();
        let own: Vec<_> =
            ledger.acknowledged.iter().filter(|(_, mail)| mail.tenant_id == tenant.id).collect();
        own.last().map(|(id, _)| (*id).clone())
    };
    let Some(id) = found else { return };
    let call = Call::post(&format!("/v1/emails/{id}/cancel"), json!({})).with_key(&tenant.secret);
    let told = http::ask(world, gates, call).await;
    world.note(format!("tenant {}: cancel {id}: {:?}", tenant.number, told.map(|told| told.0)));
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
        if let Some(foreign) = world.foreign_word(&text, tenant) {
            world.violate(format!("tenant {} sees {foreign} in {target}", tenant.number));
        }
    }
}
