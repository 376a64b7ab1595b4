//! Clients that submit mail over SMTP and HTTP, and repeat what got no answer.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pillarbox::server::Security;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::gates::Gates;
use crate::http::{self, Call};
use crate::wire::Wire;
use crate::world::{Mail, Tenant, World};

const MEAN_PAUSE: Duration = Duration::from_secs(600);
const REPETITIONS_MAX: usize = 4;
/// How long a client waits for a reply.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a client knows of a submission.
enum Told {
    Acknowledged(String),
    Refused { reply: String, is_final: bool },
    Nothing,
}

pub async fn run(world: Arc<World>, gates: Arc<Gates>, number: usize) {
    loop {
        sleep(world.chance.interval(MEAN_PAUSE)).await;
        if !world.is_active() {
            return;
        }
        let tenants = world.tenants.lock().unwrap().clone();
        if tenants.is_empty() {
            continue;
        }
        let tenant = world.chance.choose(&tenants).clone();
        let mail = world.compose(&tenant);
        let uses_http = world.chance.percent(40.0);
        for _ in 0..REPETITIONS_MAX {
            let told = if uses_http {
                submit_by_http(&world, &gates, &tenant, &mail).await
            } else {
                submit_by_smtp(&world, &gates, &tenant, &mail, number).await.unwrap_or(Told::Nothing)
            };
            match told {
                Told::Acknowledged(id) => {
                    acknowledge(&world, &tenant, &mail, id, uses_http);
                    break;
                }
                Told::Refused { reply, is_final } => {
                    world.note(format!("client {number}: {} refused: {reply}", mail.token));
                    world.ledger.lock().unwrap().refused += 1;
                    if is_final {
                        break;
                    }
                }
                Told::Nothing => world.note(format!("client {number}: {} got no answer", mail.token)),
            }
            sleep(world.chance.interval(Duration::from_secs(60))).await;
        }
    }
}

fn acknowledge(world: &World, tenant: &Tenant, mail: &Mail, id: String, has_key: bool) {
    world.note(format!("{} acknowledged as {id} to {}", mail.token, mail.recipients.join(" ")));
    let mut ledger = world.ledger.lock().unwrap();
    if has_key {
        let first = ledger.keys.entry(mail.token.clone()).or_insert_with(|| id.clone()).clone();
        if first != id {
            drop(ledger);
            return world.violate(format!("one Idempotency-Key has two messages: {first} and {id}"));
        }
    }
    ledger.acknowledged.insert(id, (tenant.number, mail.recipients.clone()));
}

async fn submit_by_http(world: &World, gates: &Gates, tenant: &Tenant, mail: &Mail) -> Told {
    let body = json!({
        "from": format!("app@{}", tenant.domain),
        "to": mail.recipients,
        "subject": mail.token,
        "text": mail.body,
    });
    let call = Call::post("/v1/emails", body).with_key(&tenant.secret).repeatable(&mail.token);
    match http::ask(world, gates, call).await {
        Some((200..300, answer)) => Told::Acknowledged(answer["id"].as_str().unwrap_or_default().to_owned()),
        Some((status, answer)) => {
            let is_final = (400..500).contains(&status) && status != 429 && status != 409;
            Told::Refused { reply: format!("{status} {}", answer["error"]["code"]), is_final }
        }
        None => Told::Nothing,
    }
}

/// `None` if the connection was lost.
async fn submit_by_smtp(
    world: &World,
    gates: &Gates,
    tenant: &Tenant,
    mail: &Mail,
    number: usize,
) -> Option<Told> {
    let address = IpAddr::V4(Ipv4Addr::new(20, 3, 0, 1 + number as u8));
    let (near, far) = world.network.connect_client(address);
    gates.submit(far, address, Security::Implicit);
    let tls = timeout(PATIENCE, Wire::of(near).connect_tls(gates.tls(), "relay.example")).await;
    let mut client = Client(tls.ok()?.ok()?);
    client.expect("2").await?;
    let login = BASE64_STANDARD.encode(format!("\0{}\0{}", tenant.key_id, tenant.secret));
    let mut commands = vec![
        "EHLO client.example".to_owned(),
        format!("AUTH PLAIN {login}"),
        format!("MAIL FROM:<app@{}>", tenant.domain),
    ];
    commands.extend(mail.recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>")));
    commands.push("DATA".to_owned());
    for command in commands {
        let reply = client.command(&command).await?;
        if reply.starts_with(['4', '5']) {
            return Some(refusal(reply));
        }
    }
    let text = format!(
        "From: <app@{}>\r\nTo: undisclosed:;\r\nSubject: {}\r\nMessage-ID: <{}.{}@{}>\r\n\r\n{}",
        tenant.domain,
        mail.token,
        mail.token,
        world.chance.number(),
        tenant.domain,
        mail.body.replace("\r\n.", "\r\n..")
    );
    let reply = client.command(&format!("{text}\r\n.")).await?;
    if !reply.starts_with("250") {
        return Some(refusal(reply));
    }
    let id = reply.split_whitespace().find(|word| word.starts_with("msg_"))?.trim_end_matches(',').to_owned();
    let _ = client.command("QUIT").await;
    Some(Told::Acknowledged(id))
}

fn refusal(reply: String) -> Told {
    Told::Refused { is_final: reply.starts_with('5'), reply }
}

struct Client(Wire);

impl Client {
    async fn command(&mut self, line: &str) -> Option<String> {
        timeout(PATIENCE, self.0.write(format!("{line}\r\n").as_bytes())).await.ok()?.ok()?;
        self.reply().await
    }

    /// The last line of a reply.
    async fn reply(&mut self) -> Option<String> {
        loop {
            let line = timeout(PATIENCE, self.0.read_line()).await.ok()?.ok()??;
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(line);
            }
        }
    }

    async fn expect(&mut self, begin: &str) -> Option<String> {
        self.reply().await.filter(|reply| reply.starts_with(begin))
    }
}
