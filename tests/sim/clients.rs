//! Clients that submit mail over SMTP and HTTP, and repeat what got no answer.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pillarbox::mail::Timestamp;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::dialogue::{Dialogue, PATIENCE};
use crate::gates::Gates;
use crate::http::{self, Call};
use crate::ledger::Acknowledged;
use crate::tenants::text;
use crate::wire::Wire;
use crate::world::{Mail, Tenant, World};

/// Messages that a client sends one after the other, at most.
const BURST_MAX: usize = 3;
const REPETITIONS_MAX: usize = 4;
/// How often a client has still a key that was revoked.
const FORMER_PERCENT: f64 = 10.0;
/// How long a revoked key may be known.
const KEY_SECONDS: i64 = 5;

/// What a client knows of a submission.
enum Told {
    Acknowledged(String),
    Refused { reply: String, is_final: bool },
    Nothing,
}

/// A client of a tenant.
struct Client<'a> {
    world: &'a World,
    gates: &'a Gates,
    number: usize,
    tenant: Tenant,
    uses_http: bool,
    session: Option<Dialogue>,
    /// When its key was last read.
    since: Timestamp,
}

pub async fn run(world: Arc<World>, gates: Arc<Gates>, number: usize) {
    loop {
        sleep(world.chance.interval(world.options.client_pause)).await;
        if !world.is_active() {
            return;
        }
        let mut tenants = world.former.lock().unwrap().clone();
        if tenants.is_empty() || !world.chance.percent(FORMER_PERCENT) {
            tenants = world.tenants.lock().unwrap().clone();
        }
        if tenants.is_empty() {
            continue;
        }
        let mut client = Client {
            world: &world,
            gates: &gates,
            number,
            tenant: world.chance.choose(&tenants).clone(),
            uses_http: world.chance.percent(40.0),
            session: None,
            since: world.now(),
        };
        for _ in 0..=world.chance.below(BURST_MAX) {
            let mail = world.compose(&client.tenant);
            client.submit_until_told(&mail).await;
        }
        if let Some(mut session) = client.session {
            session.say("QUIT").await;
        }
    }
}

impl Client<'_> {
    async fn submit_until_told(&mut self, mail: &Mail) {
        let Self { world, number, .. } = *self;
        for _ in 0..REPETITIONS_MAX {
            let told = if self.uses_http {
                self.submit_by_http(mail).await
            } else {
                self.submit_by_smtp(mail).await.unwrap_or(Told::Nothing)
            };
            match told {
                Told::Acknowledged(id) => return self.acknowledge(mail, id),
                Told::Refused { reply, is_final } => {
                    world.note(format!("client {number}: {} refused: {reply}", mail.token));
                    world.ledger.lock().unwrap().refused += 1;
                    if is_final {
                        return;
                    }
                }
                Told::Nothing => world.note(format!("client {number}: {} got no answer", mail.token)),
            }
            self.session = None;
            sleep(world.chance.interval(Duration::from_secs(60))).await;
            self.since = world.now();
            let tenants = world.tenants.lock().unwrap();
            if let Some(now) = tenants.iter().find(|tenant| tenant.id == self.tenant.id) {
                self.tenant = now.clone();
            }
        }
    }

    fn acknowledge(&self, mail: &Mail, id: String) {
        let Self { world, tenant, .. } = self;
        world.note(format!("{} acknowledged as {id} to {}", mail.token, mail.recipients.join(" ")));
        let mut wrong = Vec::new();
        let mut ledger = world.ledger.lock().unwrap();
        if self.uses_http {
            let first = ledger.keys.entry(mail.token.clone()).or_insert_with(|| id.clone()).clone();
            if first != id {
                wrong.push(format!("one Idempotency-Key has two messages: {first} and {id}"));
            }
        }
        let is_late = |at: &Timestamp| self.since.duration_since(*at).as_secs() > KEY_SECONDS;
        if let Some(at) = ledger.revoked.get(&tenant.key_id).filter(|at| is_late(at)) {
            wrong.push(format!("{id} was accepted with a key that was revoked at {at}"));
        }
        let deleted = ledger.deleted.get(&tenant.id).copied().flatten();
        if let Some(at) = deleted.filter(is_late) {
            wrong.push(format!("{id} was accepted of a tenant that was deleted at {at}"));
        }
        let acknowledged = Acknowledged {
            tenant_id: tenant.id.clone(),
            recipients: mail.recipients.clone(),
            send_at: mail.send_at.filter(|_| self.uses_http),
        };
        ledger.acknowledged.insert(id, acknowledged);
        drop(ledger);
        wrong.into_iter().for_each(|wrong| world.violate(wrong));
    }

    async fn submit_by_http(&mut self, mail: &Mail) -> Told {
        let mut body = json!({
            "from": format!("app@{}", self.tenant.domain),
            "to": mail.recipients,
            "subject": mail.token,
            "text": mail.body,
        });
        if let Some(send_at) = mail.send_at {
            body["send_at"] = json!(send_at);
        }
        let call = Call::post("/v1/emails", body).with_key(&self.tenant.secret).repeatable(&mail.token);
        match http::ask(self.world, self.gates, call).await {
            Some((200..300, answer)) => Told::Acknowledged(text(&answer["id"])),
            Some((status, answer)) => {
                let is_final = (400..500).contains(&status) && status != 429 && status != 409;
                Told::Refused { reply: format!("{status} {}", answer["error"]["code"]), is_final }
            }
            None => Told::Nothing,
        }
    }

    /// `None` if the connection was lost.
    async fn submit_by_smtp(&mut self, mail: &Mail) -> Option<Told> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => match self.log_in().await? {
                Ok(session) => session,
                Err(reply) => return Some(refusal(reply)),
            },
        };
        let domain = &self.tenant.domain;
        let mut commands = vec![format!("MAIL FROM:<app@{domain}>")];
        commands.extend(mail.recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>")));
        commands.push("DATA".to_owned());
        if let Err(reply) = session.say_all(&commands).await? {
            return Some(refusal(reply));
        }
        let Mail { token, body, .. } = mail;
        let message_id = self.world.chance.number();
        let text = format!(
            "From: <app@{domain}>\r\nTo: undisclosed:;\r\nSubject: {token}\r\n\
             Message-ID: <{token}.{message_id}@{domain}>\r\n\r\n{body}"
        );
        let reply = session.send(&text).await?;
        if !reply.starts_with("250") {
            return Some(refusal(reply));
        }
        self.session = Some(session);
        let id = reply.split_whitespace().find(|word| word.starts_with("msg_"))?;
        Some(Told::Acknowledged(id.trim_end_matches(',').to_owned()))
    }

    async fn log_in(&mut self) -> Option<Result<Dialogue, String>> {
        let address = IpAddr::V4(Ipv4Addr::new(20, 3, 0, 1 + self.number as u8));
        let (near, far) = self.world.network.connect_client(address);
        self.gates.submit(far, address);
        let tls = timeout(PATIENCE, Wire::of(near).connect_tls(self.gates.tls(), "relay.example")).await;
        let mut session = Dialogue::begin(tls.ok()?.ok()?).await?;
        let Tenant { key_id, secret, .. } = &self.tenant;
        let login = BASE64_STANDARD.encode(format!("\0{key_id}\0{secret}"));
        let commands = ["EHLO client.example".to_owned(), format!("AUTH PLAIN {login}")];
        Some(session.say_all(&commands).await?.map(|()| session))
    }
}

fn refusal(reply: String) -> Told {
    Told::Refused { is_final: reply.starts_with('5'), reply }
}
