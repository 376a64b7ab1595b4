//! Other servers that report about mail which they have accepted: failures, delays, complaints, and forged reports.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tokio::time::sleep;

use crate::dialogue::Dialogue;
use crate::fake_mx::Transaction;
use crate::gates::Gates;
use crate::ledger::{FailureReport, Suppressed};
use crate::sites::RETURN_HOST;
use crate::wire::Wire;
use crate::world::World;
use crate::{checks, erasures};

const REPETITIONS_MAX: usize = 3;
/// Between two tries of a report.
const RETRY_SECONDS: u64 = 300;

/// What a report says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failure,
    Delay,
    /// The failure of an address that the message was forwarded to.
    FailureElsewhere,
    /// A complaint without a signature.
    Complaint,
    /// A failure to an address that the server has not made.
    Forged,
}

const KINDS: [Kind; 6] =
    [Kind::Failure, Kind::Failure, Kind::Delay, Kind::FailureElsewhere, Kind::Complaint, Kind::Forged];

/// A message that another server has.
struct Accepted {
    message_id: String,
    /// The address that reports about it come to.
    reverse_path: String,
    recipient: String,
    tenant_id: String,
}

pub async fn run(world: Arc<World>, gates: Arc<Gates>) {
    loop {
        sleep(world.chance.interval(world.options.report_pause)).await;
        if !world.is_active() {
            return;
        }
        let Some(accepted) = choose(&world) else { continue };
        let kind = *world.chance.choose(&KINDS);
        for _ in 0..REPETITIONS_MAX {
            if report(&world, &gates, &accepted, kind).await {
                break;
            }
            sleep(std::time::Duration::from_secs(RETRY_SECONDS)).await;
        }
    }
}

/// One of the messages that other servers have.
fn choose(world: &World) -> Option<Accepted> {
    let hosts: Vec<_> = world.network.hosts().collect();
    let taken = world.chance.choose(&hosts).transactions();
    let reportable: Vec<&Transaction> =
        taken.iter().filter(|taken| taken.reverse_path.ends_with(RETURN_HOST)).collect();
    if reportable.is_empty() {
        return None;
    }
    let chosen = world.chance.choose(&reportable);
    let content = String::from_utf8_lossy(&chosen.content);
    let ledger = world.ledger.lock().unwrap();
    let tenant_id = ledger.owner_of(&content)?.to_owned();
    Some(Accepted {
        message_id: checks::id_of(&content)?,
        reverse_path: chosen.reverse_path.clone(),
        recipient: chosen.recipients.first().filter(|recipient| !erasures::is_erasable(recipient))?.clone(),
        tenant_id,
    })
}

/// True if the server need not be told again.
async fn report(world: &World, gates: &Gates, accepted: &Accepted, kind: Kind) -> bool {
    let Accepted { reverse_path, recipient, tenant_id, .. } = accepted;
    let failure = FailureReport { tenant_id: tenant_id.clone(), address: recipient.clone() };
    if kind == Kind::Failure {
        world.ledger.lock().unwrap().reported.entry(failure.clone()).or_insert(false);
    }
    let to = if kind == Kind::Forged { forged(reverse_path) } else { reverse_path.clone() };
    let told = send(world, gates, &to, &text(kind, &to, recipient), kind).await;
    world.note(format!("{kind:?} of {recipient} reported to {to}: {told:?}"));
    match told {
        Some(Ok(())) if kind == Kind::Forged => {
            world.violate(format!("a report to the forged address {to} was taken"));
            true
        }
        Some(Ok(())) => {
            if kind == Kind::Failure {
                let mut ledger = world.ledger.lock().unwrap();
                ledger.reported.insert(failure, true);
                let since = world.now();
                let (tenant_id, address) = (tenant_id.clone(), recipient.clone());
                let reported = Some(accepted.message_id.clone());
                ledger.suppressed.push(Suppressed { tenant_id, address, since, reported });
            }
            true
        }
        Some(Err(reply)) => reply.starts_with('5'),
        None => false,
    }
}

async fn send(world: &World, gates: &Gates, to: &str, text: &str, kind: Kind) -> Option<Result<(), String>> {
    // Those who guess addresses are refused for a time.
    let network = if kind == Kind::Forged { 5 } else { 4 };
    let address = IpAddr::V4(Ipv4Addr::new(20, network, 0, 1));
    let (near, far) = world.network.connect_client(address);
    gates.report(far, address);
    let mut session = Dialogue::begin(Wire::of(near)).await?;
    let commands = ["EHLO mx.site0.example", "MAIL FROM:<>", &format!("RCPT TO:<{to}>"), "DATA"];
    if let Err(reply) = session.say_all(&commands.map(str::to_owned)).await? {
        return Some(Err(reply));
    }
    let reply = session.send(text).await?;
    if !reply.starts_with('2') {
        return Some(Err(reply));
    }
    session.say("QUIT").await;
    Some(Ok(()))
}

/// The address with another token.
fn forged(address: &str) -> String {
    let at = address.find('@').map_or(0, |end| end.saturating_sub(5));
    let other = if address[at..].starts_with('a') { "b" } else { "a" };
    format!("{}{other}{}", &address[..at], &address[at + 1..])
}

fn text(kind: Kind, to: &str, recipient: &str) -> String {
    let header = format!(
        "From: MAILER-DAEMON@mx.site0.example\r\nTo: <{to}>\r\nSubject: About your message\r\n\
         Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"
    );
    if kind == Kind::Complaint {
        return format!(
            "{header}Content-Type: multipart/report; report-type=feedback-report; boundary=\"=x\"\r\n\r\n\
             --=x\r\nContent-Type: text/plain\r\n\r\nA complaint.\r\n\
             --=x\r\nContent-Type: message/feedback-report\r\n\r\n\
             Feedback-Type: abuse\r\nUser-Agent: Simulation/1.0\r\nVersion: 1\r\n\r\n--=x--\r\n"
        );
    }
    let (action, status) = if kind == Kind::Delay { ("delayed", "4.4.1") } else { ("failed", "5.1.1") };
    let reply = if kind == Kind::Delay { "451 4.4.1 later" } else { "550 5.1.1 no such user" };
    let about = if kind == Kind::FailureElsewhere { "somebody@elsewhere.example" } else { recipient };
    format!(
        "{header}Content-Type: multipart/report; report-type=delivery-status; boundary=\"=x\"\r\n\r\n\
         --=x\r\nContent-Type: text/plain\r\n\r\nAbout your message.\r\n\
         --=x\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.site0.example\r\n\r\n\
         Final-Recipient: rfc822; {about}\r\nAction: {action}\r\nStatus: {status}\r\n\
         Diagnostic-Code: smtp; {reply}\r\n\r\n--=x--\r\n"
    )
}
