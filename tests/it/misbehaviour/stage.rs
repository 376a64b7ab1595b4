//! One relay and several faulty servers: each row of a table uses its own server, all at the same time.

use std::time::Duration;

use pillarbox::mail::Timestamp;
use pillarbox::model::QueueFilter;
use serde_json::Value;

use crate::client::Client;
use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::server::{Account, RETRY_DELAY_MAX, TestServer, message, message_id};
use crate::wait::until;

use Again::{Later, Soon};
use First::{Bounced, Deferred, Delivered};
use Next::Fresh;

/// The timeout of a step of the relay: far above the time that a step takes, far below the timeout of a test.
const STEP: Duration = Duration::from_secs(2);

/// The result of the first attempt, with a part of its text.
#[derive(Debug, Clone, Copy)]
pub enum First {
    Delivered,
    Deferred(Again, &'static str),
    Bounced(&'static str),
}

/// The time of the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// After one minute, because the cause is likely to be short.
    Soon,
    /// After five minutes.
    Later,
}

/// The connection of the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The connection that the first attempt has left open.
    Same,
    Fresh,
}

#[derive(Debug)]
pub struct Row {
    pub faults: Vec<(Phase, Fault)>,
    pub first: First,
    /// The number of copies that the server gets in the end.
    pub copies: usize,
    pub next: Next,
    /// Whether the message was delivered over TLS.
    pub tls: bool,
}

pub fn row<const N: usize>(faults: [(Phase, Fault); N], first: First, copies: usize, next: Next) -> Row {
    Row { faults: faults.into(), first, copies, next, tls: false }
}

/// A relay, and for each row a faulty server with its own domain.
pub struct Stage {
    pub server: TestServer,
    pub account: Account,
    pub theirs: Vec<FakeMx>,
    _dns: FakeDns,
}

impl Stage {
    pub async fn new(offers: Vec<Offer>) -> Self {
        let dns = FakeDns::start().await;
        let theirs = FakeMx::several(offers).await;
        for (number, mx) in theirs.iter().enumerate() {
            let host = format!("mx.{}", domain(number));
            dns.mx(&domain(number), &[(10, &host)]);
            dns.addresses(&host, &[mx.address.ip()]);
        }
        let server = TestServer::start_with(&dns, theirs[0].address.port(), |config| {
            let timeouts = &mut config.relay.timeouts;
            (timeouts.connect, timeouts.greeting, timeouts.command) = (STEP, STEP, STEP);
            (timeouts.starttls, timeouts.data, timeouts.block) = (STEP, STEP, STEP);
            (timeouts.final_dot, timeouts.quit) = (STEP, STEP / 2);
        })
        .await;
        let account = server.create_account("acme.test").await;
        Self { server, account, theirs, _dns: dns }
    }

    pub async fn submit(&self, client: &mut Client, to: &str, subject: &str, text: &str) -> String {
        let mut submitted = message(&self.account, subject);
        submitted.extend_from_slice(text.as_bytes());
        message_id(&client.send("alice@acme.test", &[to], &submitted).await.expect_code(250))
    }

    /// Sends one message to the server of each row. Returns the message ids.
    async fn submit_to_all(&self, client: &mut Client, subject: &str, text: &str) -> Vec<String> {
        let mut ids = Vec::new();
        for number in 0..self.theirs.len() {
            ids.push(self.submit(client, &format!("{subject}@{}", domain(number)), subject, text).await);
        }
        ids
    }

    /// The message after its second attempt, or after the first if none is needed.
    async fn settled(&self, id: &str) -> Value {
        until(&format!("{id} is tried again"), async || {
            let email = self.server.control.get(&format!("/v1/emails/{id}")).await;
            let delivery = &email["deliveries"][0];
            let again = delivery["attempts"].as_u64().is_some_and(|attempts| attempts > 1);
            (again || ["delivered", "bounced"].contains(&delivery["status"].as_str()?)).then_some(email)
        })
        .await
    }

    /// The number of connections that each server has seen.
    fn connections(&self) -> Vec<usize> {
        self.theirs.iter().map(|mx| mx.connections().len()).collect()
    }

    /// For each copy of the message with this subject at the server of a row, whether it came over TLS.
    pub fn copies(&self, number: usize, subject: &str) -> Vec<bool> {
        let field = format!("\r\nSubject: {subject}\r\n");
        let all = self.theirs[number].transactions();
        let came = all.iter().filter(|one| one.content.windows(field.len()).any(|w| w == field.as_bytes()));
        came.map(|one| one.tls).collect()
    }
}

pub fn domain(number: usize) -> String {
    format!("row{number}.test")
}

/// Plays all rows at the same time. `text` makes the messages longer.
pub async fn hold(rows: Vec<Row>, offer: &Offer, text: &str) {
    let stage = Stage::new(vec![offer.clone(); rows.len()]).await;
    for (row, mx) in rows.iter().zip(&stage.theirs) {
        row.faults.iter().for_each(|(phase, fault)| mx.script(*phase, "", 1, fault.clone()));
    }
    // Collects the failures of all rows, so that one run shows all of them.
    let mut wrong = Vec::new();
    let mut client = stage.server.log_in(&stage.account).await;
    let ids = stage.submit_to_all(&mut client, "first", text).await;
    for (row, id) in rows.iter().zip(&ids) {
        let email = stage.server.wait_for_status(id, &["delivered", "deferred", "bounced"]).await;
        wrong.extend(row.judge_first(&email));
    }
    // The next message is delivered once, whatever happened to the first, and over the expected connection.
    let before: Vec<usize> = stage.connections();
    // A site that has asked for a back-off would not get another message yet.
    stage.server.running().queue().end_backoffs(&QueueFilter::default());
    let next_ids = stage.submit_to_all(&mut client, "next", "").await;
    for (row, id) in rows.iter().zip(&next_ids) {
        let email = stage.server.wait_for_status(id, &["delivered", "deferred", "bounced"]).await;
        let status = &email["deliveries"][0]["status"];
        wrong.extend((status != "delivered").then(|| format!("{row:?}: the next message: {email}")));
    }
    for (number, (row, after)) in rows.iter().zip(stage.connections()).enumerate() {
        let (copies, fresh) = (stage.copies(number, "next").len(), after - before[number]);
        let right = (copies, fresh) == (1, usize::from(row.next == Fresh));
        wrong
            .extend((!right).then(|| format!("{row:?}: next message: {copies} copies, {fresh} connections")));
    }
    if rows.iter().any(|row| matches!(row.first, Deferred(..))) {
        stage.server.clock.advance(RETRY_DELAY_MAX);
    }
    for (number, (row, id)) in rows.iter().zip(&ids).enumerate() {
        let last = if matches!(row.first, Bounced(_)) { "bounced" } else { "delivered" };
        let email = stage.settled(id).await;
        let came = stage.copies(number, "first");
        let right = email["deliveries"][0]["status"] == last && came == vec![row.tls; row.copies];
        wrong.extend((!right).then(|| format!("{row:?}: in the end over TLS {came:?}: {email}")));
    }
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

impl Row {
    /// The difference between the result of the first attempt and the expected one.
    fn judge_first(&self, email: &Value) -> Option<String> {
        let delivery = &email["deliveries"][0];
        let (status, says) = match self.first {
            Delivered => ("delivered", ""),
            Deferred(_, says) => ("deferred", says),
            Bounced(says) => ("bounced", says),
        };
        let reply = delivery["last_reply"].as_str().unwrap_or_default();
        let right = delivery["status"] == status && delivery["attempts"] == 1 && reply.contains(says);
        let in_time = match self.first {
            Deferred(again, _) => delivery["next_attempt_at"].as_str().is_some_and(|at| {
                let at: Timestamp = at.parse().expect("times are RFC 3339");
                // One or five minutes and at most a tenth more, minus the time since the attempt.
                let wait_s = at.as_second() - Timestamp::now().as_second();
                again == if wait_s <= 70 { Soon } else { Later }
            }),
            Delivered | Bounced(_) => delivery["next_attempt_at"].is_null(),
        };
        (!right || !in_time).then(|| format!("{self:?}: the first try: {delivery}"))
    }
}
