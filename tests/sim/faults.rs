//! What other servers and their networks do wrong.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::domains;
use crate::fake_mx::{Fault, Phase};
use crate::network::Reach;
use crate::sites::{self, SITES};
use crate::world::{self, TENANTS, World};

/// For how long a host or a name server fails.
const MEAN_LENGTH: Duration = Duration::from_secs(2400);

const PHASES: [Phase; 12] = [
    Phase::Greeting,
    Phase::Ehlo,
    Phase::Starttls,
    Phase::Handshake,
    Phase::Auth,
    Phase::Mail,
    Phase::Rcpt,
    Phase::Data,
    Phase::Body,
    Phase::Dot,
    Phase::Rset,
    Phase::Quit,
];

const FAULTS: [Fault; 18] = [
    Fault::Reply("421 4.3.2 closing"),
    Fault::ReplyAndClose("421 4.3.2 closing"),
    Fault::Reply("450 4.2.0 not now"),
    Fault::Reply("451 4.7.1 greylisted"),
    Fault::Reply("452 4.3.1 disk full"),
    Fault::Reply("550 5.7.1 not from you"),
    Fault::Reply("554 5.7.1 listed"),
    Fault::Reply("354 go"),
    Fault::Reply("hello?"),
    Fault::ReplyAndHang("250 2.0.0 ok"),
    Fault::Split("250 2.0.0 ok"),
    Fault::Late(Duration::from_secs(90), "250 2.0.0 ok"),
    Fault::Octets(b"\x00\xff\x1b[2J not SMTP\r\n"),
    Fault::Endless,
    Fault::Drop,
    Fault::Hang,
    Fault::Counted(&Fault::Drop),
    Fault::Counted(&Fault::Hang),
];

pub async fn run(world: Arc<World>) {
    loop {
        sleep(world.chance.interval(world.options.fault_pause)).await;
        if !world.is_active() {
            return;
        }
        let chance = &world.chance;
        let hosts: Vec<_> = world.network.hosts().collect();
        let host = *chance.choose(&hosts);
        match chance.below(11) {
            0 | 4 => {
                let reach = *chance.choose(&[Reach::Refuses, Reach::DoesNotAnswer]);
                world.note(format!("fault: {} {reach:?}", host.address));
                world.network.set_reach(host.address, reach);
                sleep(chance.interval(MEAN_LENGTH)).await;
                world.network.set_reach(host.address, Reach::Up);
            }
            1 => {
                let tenant = chance.below(TENANTS);
                domains::lose(&world, &world::tenant_domain(tenant)).await;
            }
            2 | 3 => {
                let domain = sites::site(chance.below(SITES));
                world.note(format!("fault: the name servers of {domain} fail"));
                world.network.set_failing(&domain, true);
                sleep(chance.interval(MEAN_LENGTH)).await;
                world.network.set_failing(&domain, false);
            }
            8 | 9 => {
                // A host in the middle may do so: mail that needs TLS must wait.
                let proved: Vec<_> = sites::proved_hosts().collect();
                for host in hosts.iter().filter(|host| proved.contains(&host.address)) {
                    world.note(format!("fault: {} refuses STARTTLS", host.address));
                    host.script(Phase::Starttls, "", 4, Fault::Reply("454 4.7.0 no TLS now"));
                }
            }
            10 => {
                for host in sites::proved_hosts() {
                    world.note(format!("fault: an impostor answers for {host}"));
                    world.network.set_impersonated(host, true);
                }
                sleep(chance.interval(MEAN_LENGTH)).await;
                sites::proved_hosts().for_each(|host| world.network.set_impersonated(host, false));
            }
            _ => {
                let (phase, fault) = (*chance.choose(&PHASES), chance.choose(&FAULTS).clone());
                // A server that says so without the message has lost it.
                if phase == Phase::Body && fault.succeeds(Phase::Dot) {
                    continue;
                }
                let times = 1 + chance.below(4);
                world.note(format!("fault: {} {phase:?} {fault:?} {times} times", host.address));
                host.script(phase, "", times, fault);
            }
        }
    }
}
