//! Faults of another server at every point of the dialogue, as tables: the result of the first attempt, the time of the
//! next one, how many copies the server gets, and whether the next message uses the same connection. The faults include
//! those of Postfix's `smtp-sink`. No attempt may take longer than its timeout, no message may be lost, and none may be
//! delivered twice unless a server accepts a message and does not say so.

use serde_json::json;

use crate::fake_mx::{Fault, Offer, Phase};
use crate::identity::Identity;
use crate::server::{RETRY_DELAY_MAX, message};
use crate::wait::until;

mod stage;

use Fault::{Counted, Drip, Endless, Hang, Octets, Reply, ReplyAndClose, ReplyAndHang, Reset, Split};
use stage::Again::{Later, Soon};
use stage::First::{Bounced, Deferred, Delivered};
use stage::Next::{Fresh, Same};
use stage::{Row, Stage, domain, hold, row};

const GARBAGE: Fault = Octets(b"\x00\xff\x1b[2J\x80\x81 not SMTP\r\n");
/// RFC 5246 §7.2: fatal, handshake_failure.
const TLS_ALERT: Fault = Octets(b"\x15\x03\x03\x00\x02\x02\x28");
/// A reply line of 8 KiB.
const LONG: Fault = Octets(&{
    let mut line = [b'x'; 8192];
    (line[0], line[1], line[2], line[3]) = (b'2', b'5', b'0', b' ');
    (line[8190], line[8191]) = (b'\r', b'\n');
    line
});

/// Faults that break a connection at any point.
fn broken(phase: Phase) -> Vec<Row> {
    // After the message is sent, it is unknown whether the server accepted it, so the retry is not hurried.
    let again = if phase == Phase::Dot { Later } else { Soon };
    let faults = [
        (Fault::Drop, "connection lost"),
        (Reset, "connection lost"),
        (Hang, "time-out"),
        (Drip, "time-out"),
        (Endless, "too long"),
        (LONG, "too long"),
        (GARBAGE, "not an SMTP reply"),
        (Reply("hello?"), "not an SMTP reply"),
        (Octets(b"250-one\r\n550 two\r\n"), "contradict"),
    ];
    let mut rows = Vec::new();
    for (fault, says) in faults {
        // A reply that cannot be parsed may have meant acceptance.
        let copies = if phase == Phase::Dot && fault.succeeds(phase) { 2 } else { 1 };
        rows.push(row([(phase, fault)], Deferred(again, says), copies, Fresh));
    }
    rows
}

#[tokio::test]
async fn faults_in_the_greeting() {
    use Phase::{Ehlo, Greeting};
    let mut rows = broken(Greeting);
    #[rustfmt::skip]
    rows.extend([
        row([(Greeting, ReplyAndClose("421 4.3.2 closed for lunch"))],      Deferred(Soon, "421"), 1, Fresh),
        row([(Greeting, Reply("421 4.3.2 closed for lunch"))],              Deferred(Soon, "421"), 1, Fresh),
        row([(Greeting, Reply("450 4.3.2 not now"))],                       Deferred(Soon, "450"), 1, Fresh),
        row([(Greeting, ReplyAndClose("554 5.7.1 you are listed"))],        Deferred(Soon, "554"), 1, Fresh),
        row([(Greeting, Reply("354 go"))],                                  Deferred(Soon, "354"), 1, Fresh),
        row([(Greeting, ReplyAndClose("220 and gone"))],                    Deferred(Soon, "connection lost"), 1, Fresh),
        row([(Greeting, Octets(b"220 one\r\n220 two\r\n"))],                Deferred(Soon, "220"), 1, Fresh),
        row([(Greeting, Split("220 fake.test ESMTP"))],                     Delivered, 1, Same),
        row([(Greeting, Reply("220-fake.test\r\n220 take your time"))],     Delivered, 1, Same),
        row([(Greeting, Octets(b"220 bare line feed\n"))],                  Delivered, 1, Same),
        row([(Greeting, Reply("220 ********")), (Ehlo, Reply("500 what?"))], Delivered, 1, Same),
    ]);
    hold(rows, &Offer::default(), "").await;
}

#[tokio::test]
async fn faults_at_ehlo_and_helo() {
    use Phase::{Ehlo, Helo};
    const NO_EHLO: (Phase, Fault) = (Ehlo, Reply("502 5.5.1 what?"));
    let mut rows = broken(Ehlo);
    #[rustfmt::skip]
    rows.extend([
        row([(Ehlo, ReplyAndClose("421 4.3.2 enough"))],            Deferred(Soon, "421"), 1, Fresh),
        row([(Ehlo, Reply("450 4.3.2 not now"))],                   Deferred(Soon, "450"), 1, Fresh),
        row([(Ehlo, Reply("354 go"))],                              Deferred(Soon, "354"), 1, Fresh),
        row([(Ehlo, ReplyAndClose("250 fake.test"))],               Deferred(Soon, "connection lost"), 1, Fresh),
        row([(Ehlo, Reply("250 fake.test"))],                       Delivered, 1, Same),
        row([(Ehlo, Split("250-fake.test\r\n250 PIPELINING"))],     Delivered, 1, Same),
        row([NO_EHLO],                                              Delivered, 1, Same),
        row([NO_EHLO, (Helo, Split("250 fake.test"))],              Delivered, 1, Same),
        row([NO_EHLO, (Helo, Reply("502 5.5.1 what?"))],            Deferred(Soon, "502"), 1, Fresh),
        row([NO_EHLO, (Helo, Reply("450 4.3.2 not now"))],          Deferred(Soon, "450"), 1, Fresh),
        row([NO_EHLO, (Helo, ReplyAndClose("421 4.3.2 enough"))],   Deferred(Soon, "421"), 1, Fresh),
        row([NO_EHLO, (Helo, Fault::Drop)],                         Deferred(Soon, "connection lost"), 1, Fresh),
        row([NO_EHLO, (Helo, Hang)],                                Deferred(Soon, "time-out"), 1, Fresh),
    ]);
    hold(rows, &Offer::default(), "").await;
}

fn at_mail() -> Vec<Row> {
    use Phase::Mail;
    let mut rows = broken(Mail);
    #[rustfmt::skip]
    rows.extend([
        row([(Mail, ReplyAndClose("421 4.3.2 enough"))],    Deferred(Soon, "421"), 1, Fresh),
        row([(Mail, Reply("450 4.2.0 not now"))],           Deferred(Soon, "450"), 1, Same),
        row([(Mail, Reply("452 4.3.1 disk full"))],         Deferred(Later, "452"), 1, Same),
        row([(Mail, Reply("354 go"))],                      Deferred(Later, "354"), 1, Fresh),
        row([(Mail, ReplyAndClose("250 2.1.0 ok"))],        Deferred(Soon, "connection lost"), 1, Fresh),
        row([(Mail, Octets(b"250 one\r\n250 two\r\n"))],    Deferred(Later, "250"), 1, Fresh),
        row([(Mail, Reply("550 5.7.1 not from you"))],      Bounced("550"), 0, Same),
        row([(Mail, Reply("552 5.3.4 too large"))],         Bounced("552"), 0, Same),
        row([(Mail, Split("250 2.1.0 ok"))],                Delivered, 1, Same),
    ]);
    rows
}

fn at_rcpt() -> Vec<Row> {
    use Phase::{Rcpt, Rset};
    const NOBODY: (Phase, Fault) = (Rcpt, Reply("550 5.1.1 nobody"));
    let mut rows = broken(Rcpt);
    #[rustfmt::skip]
    rows.extend([
        row([(Rcpt, ReplyAndClose("421 4.3.2 enough"))],    Deferred(Soon, "421"), 1, Fresh),
        row([(Rcpt, Reply("450 4.2.0 greylisted"))],        Deferred(Soon, "450"), 1, Same),
        row([(Rcpt, Reply("451 4.3.0 not now"))],           Deferred(Soon, "451"), 1, Same),
        row([(Rcpt, Reply("452 4.2.2 mailbox full"))],      Deferred(Later, "452"), 1, Same),
        row([(Rcpt, Reply("552 too many recipients"))],     Deferred(Later, "552"), 1, Same),
        row([(Rcpt, Reply("552 5.2.2 too many of them"))],  Deferred(Later, "552"), 1, Same),
        row([(Rcpt, Reply("354 go"))],                      Deferred(Later, "354"), 1, Fresh),
        row([(Rcpt, ReplyAndClose("250 2.1.5 ok"))],        Deferred(Soon, "connection lost"), 1, Fresh),
        row([(Rcpt, Octets(b"250 one\r\n250 two\r\n"))],    Deferred(Later, "250"), 1, Fresh),
        row([NOBODY],                                       Bounced("550 5.1.1"), 0, Same),
        row([(Rcpt, Reply("550 5.7.1 not from you"))],      Bounced("550 5.7.1"), 0, Same),
        row([(Rcpt, Split("250 2.1.5 ok"))],                Delivered, 1, Same),
        // RSET ends the open transaction before the next message; if RSET fails, the connection is closed.
        row([NOBODY, (Rset, Reply("500 5.5.1 what?"))],     Bounced("550 5.1.1"), 0, Fresh),
        row([NOBODY, (Rset, Reply("450 4.3.0 not now"))],   Bounced("550 5.1.1"), 0, Fresh),
        row([NOBODY, (Rset, ReplyAndClose("421 enough"))],  Bounced("550 5.1.1"), 0, Fresh),
        row([NOBODY, (Rset, Fault::Drop)],                  Bounced("550 5.1.1"), 0, Fresh),
        row([NOBODY, (Rset, Reset)],                        Bounced("550 5.1.1"), 0, Fresh),
        row([NOBODY, (Rset, Hang)],                         Bounced("550 5.1.1"), 0, Fresh),
        row([NOBODY, (Rset, GARBAGE)],                      Bounced("550 5.1.1"), 0, Fresh),
        row([NOBODY, (Rset, Split("250 2.0.0 flushed"))],   Bounced("550 5.1.1"), 0, Same),
    ]);
    rows
}

fn at_data() -> Vec<Row> {
    use Phase::Data;
    let mut rows = broken(Data);
    #[rustfmt::skip]
    rows.extend([
        row([(Data, ReplyAndClose("421 4.3.2 enough"))],    Deferred(Soon, "421"), 1, Fresh),
        row([(Data, Reply("451 4.3.0 not now"))],           Deferred(Soon, "451"), 1, Same),
        row([(Data, Reply("452 4.3.1 disk full"))],         Deferred(Later, "452"), 1, Same),
        row([(Data, Reply("250 ok"))],                      Deferred(Later, "250"), 1, Fresh),
        row([(Data, Octets(b"354 one\r\n354 two\r\n"))],    Deferred(Soon, "unsolicited"), 1, Fresh),
        row([(Data, ReplyAndClose("354 go"))],              Deferred(Later, "connection lost"), 1, Fresh),
        row([(Data, ReplyAndHang("354 go"))],               Deferred(Later, "time-out"), 1, Fresh),
        row([(Data, Reply("550 5.7.1 not that"))],          Bounced("550"), 0, Same),
        row([(Data, Reply("554 5.5.1 no"))],                Bounced("554"), 0, Same),
        row([(Data, Split("354 go"))],                      Delivered, 1, Same),
    ]);
    rows
}

/// With pipelining, all commands of an envelope are sent before the first reply.
async fn with_and_without_pipelining(rows: fn() -> Vec<Row>) {
    hold(rows(), &Offer::default(), "").await;
    hold(rows(), &Offer { extensions: vec!["8BITMIME"], ..Offer::default() }, "").await;
}

#[tokio::test]
async fn faults_at_mail() {
    with_and_without_pipelining(at_mail).await;
}

#[tokio::test]
async fn faults_at_rcpt_and_rset() {
    with_and_without_pipelining(at_rcpt).await;
}

#[tokio::test]
async fn faults_at_data() {
    with_and_without_pipelining(at_data).await;
}

#[tokio::test]
async fn faults_in_the_reply_to_the_message() {
    use Phase::Dot;
    let mut rows = broken(Dot);
    #[rustfmt::skip]
    rows.extend([
        row([(Dot, ReplyAndClose("421 4.3.2 enough"))],                     Deferred(Soon, "421"), 1, Fresh),
        row([(Dot, Reply("450 4.2.0 not now"))],                            Deferred(Soon, "450"), 1, Same),
        row([(Dot, Reply("452 4.3.1 disk full"))],                          Deferred(Later, "452"), 1, Same),
        row([(Dot, Reply("354 more"))],                                     Deferred(Later, "354"), 1, Fresh),
        row([(Dot, Reply("550 5.7.1 spam"))],                               Bounced("550"), 0, Same),
        row([(Dot, Reply("552 5.3.4 too large"))],                          Bounced("552"), 0, Same),
        row([(Dot, Split("250 2.0.0 taken"))],                              Delivered, 1, Same),
        row([(Dot, Reply("250-2.0.0 taken\r\n250 2.0.0 as 1"))],            Delivered, 1, Same),
        row([(Dot, ReplyAndClose("250 2.0.0 taken"))],                      Delivered, 1, Fresh),
        row([(Dot, ReplyAndHang("250 2.0.0 taken"))],                       Delivered, 1, Fresh),
        row([(Dot, Octets(b"250 2.0.0 taken\r\n250 2.0.0 twice\r\n"))],     Delivered, 1, Fresh),
        row([(Dot, Octets(b"250 2.0.0 taken\r\n421 4.4.2 bye\r\n"))],       Delivered, 1, Fresh),
        row([(Dot, Octets(b"250 2.0.0 taken\r\n2"))],                       Delivered, 1, Fresh),
        // The server accepts the message and does not say so. Only here may a message arrive twice.
        row([(Dot, Counted(&Fault::Drop))],                                 Deferred(Later, "connection lost"), 2, Fresh),
        row([(Dot, Counted(&Reset))],                                       Deferred(Later, "connection lost"), 2, Fresh),
        row([(Dot, Counted(&Hang))],                                        Deferred(Later, "time-out"), 2, Fresh),
        row([(Dot, Counted(&Drip))],                                        Deferred(Later, "time-out"), 2, Fresh),
        row([(Dot, Counted(&Endless))],                                     Deferred(Later, "too long"), 2, Fresh),
        row([(Dot, Counted(&GARBAGE))],                                     Deferred(Later, "not an SMTP reply"), 2, Fresh),
        row([(Dot, Counted(&Reply("354 more")))],                           Deferred(Later, "354"), 2, Fresh),
    ]);
    hold(rows, &Offer::default(), "").await;
}

#[tokio::test]
async fn faults_while_the_message_is_sent() {
    use Phase::Body;
    // Larger than the socket buffers for a server that does not read: 4 MiB to send by default.
    let text = "a line of a message that does not fit into the buffers of a socket\r\n".repeat(72_000);
    #[rustfmt::skip]
    let rows = vec![
        row([(Body, Fault::Drop)],                          Deferred(Later, "connection lost"), 1, Fresh),
        row([(Body, Reset)],                                Deferred(Later, "connection lost"), 1, Fresh),
        row([(Body, Hang)],                                 Deferred(Later, "time-out"), 1, Fresh),
        row([(Body, ReplyAndHang("451 4.3.0 not now"))],    Deferred(Soon, "451"), 1, Fresh),
        row([(Body, ReplyAndHang("550 5.3.0 no more"))],    Bounced("550"), 0, Fresh),
        // The server cannot have received what was not sent.
        row([(Body, ReplyAndHang("250 2.0.0 taken"))],      Deferred(Later, "time-out"), 1, Fresh),
    ];
    hold(rows, &Offer::default(), &text).await;
    // A small message is sent completely before the fault.
    #[rustfmt::skip]
    let rows = vec![
        row([(Body, Fault::Drop)],                          Deferred(Later, "connection lost"), 1, Fresh),
        row([(Body, Reset)],                                Deferred(Later, "connection lost"), 1, Fresh),
        row([(Body, Hang)],                                 Deferred(Later, "time-out"), 1, Fresh),
        row([(Body, ReplyAndHang("550 5.3.0 no more"))],    Bounced("550"), 0, Fresh),
    ];
    hold(rows, &Offer::default(), "").await;
}

#[tokio::test]
async fn faults_of_opportunistic_tls() {
    use Phase::{Handshake, Starttls};
    let over_tls = |row: Row| Row { tls: true, ..row };
    #[rustfmt::skip]
    let rows = vec![
        // Only the certificate is wrong, as in each of these rows.
        over_tls(row([],                                                    Delivered, 1, Same)),
        over_tls(row([(Starttls, Split("220 go ahead"))],                   Delivered, 1, Same)),
        over_tls(row([(Starttls, ReplyAndClose("421 4.3.2 enough"))],       Deferred(Soon, "421"), 1, Fresh)),
        over_tls(row([(Starttls, Fault::Drop)],                             Deferred(Soon, "connection lost"), 1, Fresh)),
        over_tls(row([(Starttls, Reset)],                                   Deferred(Soon, "connection lost"), 1, Fresh)),
        over_tls(row([(Starttls, Hang)],                                    Deferred(Soon, "time-out"), 1, Fresh)),
        over_tls(row([(Starttls, GARBAGE)],                                 Deferred(Soon, "not an SMTP reply"), 1, Fresh)),
        over_tls(row([(Starttls, Octets(b"220 go\r\n250 injected\r\n"))],   Deferred(Soon, "plain-text data"), 1, Fresh)),
        row([(Starttls, Reply("454 4.7.0 not available"))],                 Delivered, 1, Same),
        row([(Starttls, Reply("502 5.5.1 what?"))],                         Delivered, 1, Same),
        row([(Starttls, Reply("250 ok"))],                                  Delivered, 1, Same),
        row([(Handshake, TLS_ALERT)],                                       Delivered, 1, Same),
        row([(Handshake, GARBAGE)],                                         Delivered, 1, Same),
        row([(Handshake, Fault::Drop)],                                     Delivered, 1, Same),
        row([(Handshake, Reset)],                                           Delivered, 1, Same),
        row([(Handshake, Hang)],                                            Delivered, 1, Same),
    ];
    let stranger = Identity::new(&["stranger.test"]);
    hold(rows, &Offer { tls: Some(stranger.server_config()), ..Offer::default() }, "").await;
    // STARTTLS is removed from the EHLO response; this cannot be detected.
    hold(vec![row([], Delivered, 1, Same)], &Offer::default(), "").await;
}

#[tokio::test]
async fn faults_at_quit() {
    let faults = [Fault::Drop, Reset, Hang, Drip, Endless, GARBAGE, Reply("421 no"), Reply("550 stay")];
    let mut stage = Stage::new(vec![Offer::default(); faults.len()]).await;
    let mut client = stage.server.log_in(&stage.account).await;
    for (number, fault) in faults.into_iter().enumerate() {
        stage.theirs[number].script(Phase::Quit, "", 1, fault);
        let id = stage.submit(&mut client, &format!("first@{}", domain(number)), "first", "").await;
        stage.server.wait_for_status(&id, &["delivered"]).await;
    }
    drop(client);
    tokio::time::timeout(crate::wait::PATIENCE, stage.server.stop()).await.expect("a stop in time");
    for (number, mx) in stage.theirs.iter().enumerate() {
        let commands = until("QUIT has come", async || {
            let commands = mx.connections()[0].commands.clone();
            commands.iter().any(|line| line == "QUIT").then_some(commands)
        })
        .await;
        assert_eq!(stage.copies(number, "first").len(), 1, "{commands:?}");
    }
}

#[tokio::test]
async fn servers_with_few_extensions_or_none() {
    let offers = [
        vec![],
        vec!["PIPELINING"],
        vec!["8BITMIME"],
        vec!["SIZE 52428800", "ENHANCEDSTATUSCODES", "DSN"],
        vec!["PIPELINING", "PIPELINING", "SIZE", "SIZE x", "", "250", "AUTH", "AUTH=", "X-\u{7}"],
    ];
    let offers = offers.map(|extensions| Offer { extensions, ..Offer::default() });
    let stage = Stage::new(offers.into()).await;
    let mut client = stage.server.log_in(&stage.account).await;
    for number in 0..stage.theirs.len() {
        let id = stage.submit(&mut client, &format!("first@{}", domain(number)), "first", "").await;
        stage.server.wait_for_status(&id, &["delivered"]).await;
        stage.theirs[number].wait_for(1).await[0].prefix_before(&message(&stage.account, "first"));
    }
}

#[tokio::test]
async fn servers_with_a_size_limit_below_the_message() {
    let offer = Offer { extensions: vec!["SIZE 10"], ..Offer::default() };
    let stage = Stage::new(vec![offer]).await;
    let mut client = stage.server.log_in(&stage.account).await;
    let id = stage.submit(&mut client, "first@row0.test", "first", "").await;
    let email = stage.server.wait_for_status(&id, &["bounced"]).await;
    assert!(email.to_string().contains("552 5.3.4"), "{email}");
    let said = stage.theirs[0].connections()[0].commands.clone();
    assert!(!said.iter().any(|line| line.starts_with("MAIL")), "{said:?}");
}

#[tokio::test]
async fn faults_of_required_tls_to_a_smart_host() {
    use Phase::{Handshake, Starttls};
    // The certificate is wrong in each of these rows.
    let faults = [
        None,
        Some((Starttls, Reply("454 4.7.0 not available"))),
        Some((Starttls, Reply("502 5.5.1 what?"))),
        Some((Starttls, Octets(b"220 go\r\n250 injected\r\n"))),
        Some((Starttls, Fault::Drop)),
        Some((Handshake, TLS_ALERT)),
        Some((Handshake, GARBAGE)),
        Some((Handshake, Reset)),
        Some((Handshake, Hang)),
    ];
    let stranger = Identity::new(&["stranger.test"]);
    let account = Some(("user", "secret"));
    let offer = Offer { tls: Some(stranger.server_config()), account, ..Offer::default() };
    let mut offers = vec![offer; faults.len()];
    // In the last row, STARTTLS is removed from the EHLO response.
    offers.push(Offer { account, ..Offer::default() });
    let stage = Stage::new(offers).await;
    let mut ids = Vec::new();
    for (number, mx) in stage.theirs.iter().enumerate() {
        if let Some(Some((phase, fault))) = faults.get(number) {
            mx.script(*phase, "", 99, fault.clone());
        }
        let account = stage.server.create_account(&format!("tenant{number}.test")).await;
        let smtp = json!({"smtp": {
            "host": format!("mx.{}", domain(number)), "port": mx.address.port(),
            "user": "user", "pass": "secret", "tls": "starttls",
        }});
        stage.server.control.ok("PATCH", &format!("/v1/tenants/{}", account.tenant_id), smtp).await;
        let submitted = message(&account, "first");
        ids.push(stage.server.submit(&account, &["first@elsewhere.test"], &submitted).await);
    }
    for attempts in 1..=2 {
        for (number, id) in ids.iter().enumerate() {
            until(&format!("try {attempts} of row {number} has failed"), async || {
                let email = stage.server.control.get(&format!("/v1/emails/{id}")).await;
                let delivery = &email["deliveries"][0];
                (delivery["status"] == "deferred" && delivery["attempts"] == attempts).then_some(())
            })
            .await;
        }
        if attempts == 1 {
            stage.server.clock.advance(RETRY_DELAY_MAX);
        }
    }
    for mx in &stage.theirs {
        assert!(mx.transactions().is_empty());
        let said: Vec<String> = mx.connections().into_iter().flat_map(|one| one.commands).collect();
        let tells = |line: &String| line.starts_with("AUTH") || line.starts_with("MAIL");
        assert!(!said.iter().any(tells), "{said:?}");
    }
}

/// Twenty recipients of one message at one server; `fault` affects some of them. `kept` is the number of recipients
/// that get the message in the end, each of them `copies` times.
async fn hold_many(faults: &[(Phase, &str, Fault)], kept: usize, copies: usize) {
    let stage = Stage::new(vec![Offer::default()]).await;
    for (phase, part, fault) in faults {
        stage.theirs[0].script(*phase, part, 1, fault.clone());
    }
    let names: Vec<String> = (0..20).map(|number| format!("r{number}@{}", domain(0))).collect();
    let recipients: Vec<&str> = names.iter().map(String::as_str).collect();
    let submitted = message(&stage.account, "first");
    let id = stage.server.submit(&stage.account, &recipients, &submitted).await;
    stage.server.wait_for_status(&id, &["delivered", "deferred", "bounced"]).await;
    stage.server.clock.advance(RETRY_DELAY_MAX);
    let email = stage.server.wait_for_status(&id, &["delivered", "bounced"]).await;
    let all = stage.theirs[0].transactions();
    let deliveries = email["deliveries"].as_array().unwrap();
    for delivery in deliveries {
        let came =
            all.iter().flat_map(|one| &one.recipients).filter(|to| **to == delivery["recipient"]).count();
        let wanted = if delivery["status"] == "delivered" { 1..=copies } else { 0..=0 };
        assert!(wanted.contains(&came), "{came} copies, {delivery}, {faults:?}");
    }
    let delivered = deliveries.iter().filter(|delivery| delivery["status"] == "delivered").count();
    assert_eq!((delivered, deliveries.len()), (kept, 20), "{faults:?}");
}

#[tokio::test]
async fn faults_for_some_of_many_recipients() {
    use Phase::{Dot, Rcpt};
    const GONE: (Phase, &str, Fault) = (Rcpt, "<r3@", Reply("550 5.1.1 nobody"));
    const LATER: (Phase, &str, Fault) = (Rcpt, "<r7@", Reply("450 4.2.0 greylisted"));
    hold_many(&[GONE, LATER], 19, 1).await;
    hold_many(&[GONE, (Rcpt, "<r9@", Fault::Drop)], 19, 1).await;
    hold_many(&[GONE, (Rcpt, "<r9@", ReplyAndClose("421 4.3.2 enough"))], 19, 1).await;
    hold_many(&[LATER, (Rcpt, "<r9@", GARBAGE)], 20, 1).await;
    hold_many(&[LATER, (Dot, "", Reply("451 4.3.0 not now"))], 20, 1).await;
    hold_many(&[GONE, LATER, (Dot, "", Counted(&Fault::Drop))], 19, 2).await;
}
