//! A server that receives reports, and one message that was delivered.

use std::net::SocketAddr;
use std::time::Duration;

use pillarbox::config::Config;
use pillarbox::mail::{TokenKind, TokenScope, TokenSubject};
use pillarbox::model::DeliveryId;
use pillarbox::store::{PageRequest, Report, ReportFilter, Reports};
use serde_json::Value;

use crate::client::{Client, Reply};
use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, own_address};
use crate::server::{Account, HOSTNAME, TestServer, message, text};
use crate::wait::until;

/// The sending domain, its return host, and the return host of the platform.
pub const DOMAIN: &str = "own.test";
pub const RETURN_HOST: &str = "bounces.own.test";
pub const PLATFORM_HOST: &str = "bounce.relay.test";

pub struct InboundStage {
    pub dns: FakeDns,
    pub mx: FakeMx,
    pub server: TestServer,
    pub account: Account,
}

/// A delivery.
pub struct Delivered {
    pub message: String,
    pub delivery: String,
    pub recipient: String,
}

impl InboundStage {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// The server receives at the port that it also delivers to, because an MX record has no port.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let (dns, mx) = (FakeDns::start().await, FakeMx::start().await);
        let inbound = SocketAddr::new(own_address(), mx.address.port());
        dns.mx("b.test", &[(10, "mx.b.test")]);
        dns.addresses("mx.b.test", &[mx.address.ip()]);
        dns.mx(PLATFORM_HOST, &[(10, HOSTNAME)]);
        dns.text(PLATFORM_HOST, &format!("v=spf1 include:{HOSTNAME} -all"));
        dns.addresses(HOSTNAME, &[inbound.ip()]);
        let server = TestServer::start_with(&dns, mx.address.port(), |config| {
            config.inbound.listen = vec![inbound];
            change(config);
        })
        .await;
        let account = server.create_account(DOMAIN).await;
        Self { dns, mx, server, account }
    }

    /// Submits a message and waits until it is delivered to each recipient.
    pub async fn deliver(&self, recipients: &[&str]) -> Vec<Delivered> {
        let id = self.server.submit(&self.account, recipients, &message(&self.account, "hello")).await;
        let email = self.server.wait_for_status(&id, &["delivered"]).await;
        let deliveries = email["deliveries"].as_array().unwrap().iter();
        let delivered = deliveries.map(|delivery| Delivered {
            message: id.clone(),
            delivery: text(&delivery["id"]),
            recipient: text(&delivery["recipient"]),
        });
        let delivered: Vec<_> = delivered.collect();
        // The queue manager learns of the commit a little later; until then reports are deferred.
        until("the queue manager has released the deliveries", async || {
            let is_held =
                |one: &Delivered| self.server.running().queue().is_in_flight(one.delivery.parse().unwrap());
            (!delivered.iter().any(is_held)).then_some(())
        })
        .await;
        delivered
    }

    /// The address that reports about a delivery come to, at the platform's host.
    pub fn address_of(&self, kind: TokenKind, delivered: &Delivered) -> String {
        let id: DeliveryId = delivered.delivery.parse().unwrap();
        let subject = TokenSubject { scope: TokenScope::Delivery, id: id.into() };
        let token = self.server.running().store().token_keys().issue(kind, subject).unwrap();
        format!("{token}@{PLATFORM_HOST}")
    }

    /// A connection to the inbound listener, after EHLO.
    pub async fn connect(&self) -> Client {
        let mut client = Client::connect(self.server.running().inbound_addresses[0], HOSTNAME).await;
        client.ehlo().await;
        client
    }

    /// Sends a message back. Returns the reply to RCPT if that is refused, else the reply to the message.
    pub async fn send_back(&self, sender: &str, recipient: &str, octets: &[u8]) -> Reply {
        let mut client = self.connect().await;
        client.command(&format!("MAIL FROM:<{sender}>")).await.expect_code(250);
        let admitted = client.command(&format!("RCPT TO:<{recipient}>")).await;
        if admitted.code != 250 { admitted } else { client.data(octets).await }
    }

    /// Delivers a message to bob. Returns it, and the address that bounces come to.
    pub async fn deliver_one(&self) -> (Delivered, String) {
        let delivered = self.deliver(&["bob@b.test"]).await.remove(0);
        let address = self.address_of(TokenKind::Bounce, &delivered);
        (delivered, address)
    }

    /// Moves the clock on until a reply comes that the server delays.
    pub async fn impatient<T>(&self, reply: impl Future<Output = T>) -> T {
        let hurry = async {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                self.server.clock.advance(Duration::from_millis(500));
            }
        };
        tokio::select! {
            reply = reply => reply,
            () = hurry => unreachable!(),
        }
    }

    /// The reports of all tenants and of none, the newest first.
    pub async fn all_reports(&self) -> Vec<Report> {
        let page = PageRequest { limit: 100, ..PageRequest::default() };
        self.server.running().store().list_reports(ReportFilter::default(), page).await.unwrap().items
    }

    /// How many messages were recorded; repetitions share a report.
    pub async fn times_recorded(&self) -> u64 {
        self.all_reports().await.iter().map(|report| report.times).sum()
    }

    /// The events of a message, the oldest first.
    pub async fn events_of(&self, message: &str) -> Vec<Value> {
        let page = self.server.control.get(&format!("/v1/events?message_id={message}")).await;
        page["data"].as_array().unwrap().iter().rev().cloned().collect()
    }
}

/// A DSN with these recipients: final recipient, action, status, diagnostic.
pub fn dsn(groups: &[(&str, &str, &str, &str)]) -> Vec<u8> {
    let mut status = "Reporting-MTA: dns; mx.b.test\r\n".to_owned();
    for (recipient, action, code, diagnostic) in groups {
        status += &format!(
            "\r\nFinal-Recipient: rfc822; {recipient}\r\nAction: {action}\r\nStatus: {code}\r\n\
             Remote-MTA: dns; mx.b.test\r\nDiagnostic-Code: smtp; {diagnostic}\r\n"
        );
    }
    format!(
        "From: MAILER-DAEMON@b.test\r\nTo: someone@{DOMAIN}\r\nSubject: Undelivered Mail\r\nMIME-Version: 1.0\r\n\
         Message-ID: <1@b.test>\r\nAuto-Submitted: auto-replied\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"=b\"\r\n\r\n\
         --=b\r\nContent-Type: text/plain\r\n\r\nIt could not be delivered.\r\n\
         --=b\r\nContent-Type: message/delivery-status\r\n\r\n{status}\r\n\
         --=b\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: hello\r\n\r\n--=b--\r\n"
    )
    .into_bytes()
}

/// A failure of bob's mailbox.
pub fn bounce() -> Vec<u8> {
    dsn(&[("bob@b.test", "failed", "5.1.1", "550 5.1.1 no such user")])
}

/// A complaint with this type about a message with this header.
pub fn arf(feedback_type: &str, returned_header: &str) -> Vec<u8> {
    format!(
        "From: feedback@b.test\r\nTo: fbl@{PLATFORM_HOST}\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n\
         Message-ID: <2@b.test>\r\nContent-Type: multipart/report; report-type=feedback-report; boundary=\"=b\"\r\n\r\n\
         --=b\r\nContent-Type: text/plain\r\n\r\nA complaint.\r\n\
         --=b\r\nContent-Type: message/feedback-report\r\n\r\n\
         Feedback-Type: {feedback_type}\r\nUser-Agent: JMRP/1.0\r\nVersion: 1\r\n\r\n\
         --=b\r\nContent-Type: message/rfc822\r\n\r\n{returned_header}\r\n\r\nbody\r\n--=b--\r\n"
    )
    .into_bytes()
}
