//! The hand-over to a new process without an outage.
//!
//! The old process starts the new one with one end of a socket as its standard input, and sends its listeners over it. From
//! then on both have them, so the kernel goes on taking connections whatever happens to one of the two. The new process
//! prepares everything but the store, and says so. Then the old one stops, closes the store and says so, and the new one
//! opens it. Until the new process is prepared, the old one goes on as before if the new one fails.
//!
//! | old process | new process |
//! |---|---|
//! | starts the new process, `Listener`… `Listeners` | reads the configuration, the certificate and the keys, binds what is new |
//! | | `Prepared`, or `Refused` with the reason |
//! | `Stopping`, or `Refused` | waits |
//! | finishes the work in progress, closes the store, `Released` | opens the store, serves |

mod control;
mod message;
mod predecessor;
mod successor;
mod upgrades;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

pub use control::{AnnouncedUpgrade, Version, ask_for_upgrade, ask_for_version};
pub use message::HandoverError;
pub use predecessor::Predecessor;
pub use successor::{SUDDEN_PAUSE_SECONDS_MAX, Successor};
pub use upgrades::{Handover, SERVER_STOPS, Upgrades};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Another handle of a listener, for the process that takes it over.
#[derive(Debug)]
pub struct HeldListener {
    /// Like `smtp.submission`.
    pub option: String,
    /// As the configuration has it.
    pub address: SocketAddr,
    /// The socket.
    pub socket: OwnedFd,
}

/// Takes the listener of an option and an address out of those that were received. Several with port 0 are in order.
pub fn take(listeners: &mut Vec<HeldListener>, option: &str, address: SocketAddr) -> Option<OwnedFd> {
    let at = listeners.iter().position(|held| held.option == option && held.address == address)?;
    Some(listeners.remove(at).socket)
}
