//! The faults of a fake MX: those of Postfix's `smtp-sink`, and others.

use std::time::Duration;

use tokio::time::sleep;

use super::{Over, Step, say};
use crate::wire::Wire;

/// The time between two octets of a slow reply.
const DRIP_INTERVAL: Duration = Duration::from_millis(50);

/// The point of a session at which a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Greeting,
    Ehlo,
    Helo,
    Starttls,
    /// In place of the TLS handshake; the session ends after it.
    Handshake,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// After the first octets of the message, of which no more are read.
    Body,
    Dot,
    Rset,
    Quit,
}

impl Phase {
    /// Whether this reply lets the client continue.
    pub fn succeeds(self, reply: &[u8]) -> bool {
        reply.starts_with(match self {
            Self::Data => b"3".as_slice(),
            Self::Starttls => b"220",
            _ => b"2",
        })
    }
}

/// The behaviour in place of the usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Sends this reply; a message is then recorded only after a 2xx.
    Reply(&'static str),
    /// Sends this reply and closes the connection.
    ReplyAndClose(&'static str),
    /// Sends this reply, and then reads and sends nothing more.
    ReplyAndHang(&'static str),
    /// Sends this reply, octet by octet.
    Split(&'static str),
    /// Sends this reply after a delay.
    Late(Duration, &'static str),
    /// Sends these octets unchanged.
    Octets(&'static [u8]),
    /// Sends an endless reply slowly.
    Drip,
    /// Sends an endless reply fast.
    Endless,
    /// Closes the connection without a reply.
    Drop,
    /// Resets the connection without a reply.
    Reset,
    /// Reads and sends nothing more.
    Hang,
    /// Records the message as received, and then does this.
    Counted(&'static Fault),
}

impl Fault {
    /// Whether the reply lets the client continue, or accepts the message.
    pub fn succeeds(&self, phase: Phase) -> bool {
        match self {
            Self::Reply(reply)
            | Self::ReplyAndClose(reply)
            | Self::ReplyAndHang(reply)
            | Self::Late(_, reply)
            | Self::Split(reply) => phase.succeeds(reply.as_bytes()),
            Self::Octets(octets) => phase.succeeds(octets),
            Self::Counted(_) => true,
            Self::Drip | Self::Endless | Self::Drop | Self::Reset | Self::Hang => false,
        }
    }

    /// Executes the fault. An error ends the session.
    pub(super) async fn commit(&self, wire: &mut Wire) -> Step<()> {
        match self {
            Self::Reply(reply) => say(wire, reply).await,
            Self::ReplyAndClose(reply) => {
                say(wire, reply).await?;
                Err(Over)
            }
            Self::ReplyAndHang(reply) => {
                say(wire, reply).await?;
                std::future::pending().await
            }
            Self::Split(reply) => {
                for octet in format!("{reply}\r\n").bytes() {
                    wire.write(&[octet]).await.map_err(|_| Over)?;
                    sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            }
            Self::Late(time, reply) => {
                sleep(*time).await;
                say(wire, reply).await
            }
            Self::Octets(octets) => wire.write(octets).await.map_err(|_| Over),
            Self::Drip => {
                wire.write(b"250-").await.map_err(|_| Over)?;
                loop {
                    sleep(DRIP_INTERVAL).await;
                    wire.write(b"x").await.map_err(|_| Over)?;
                }
            }
            Self::Endless => loop {
                say(wire, "250-and so on").await?;
            },
            Self::Drop => Err(Over),
            Self::Reset => {
                wire.reset_when_closed();
                Err(Over)
            }
            Self::Hang => std::future::pending().await,
            Self::Counted(then) => Box::pin(then.commit(wire)).await,
        }
    }
}

/// A fault that has not happened yet.
pub struct Rule {
    pub phase: Phase,
    /// The text that the line must contain; empty matches all lines.
    pub part: String,
    pub times: usize,
    pub fault: Fault,
}

impl Rule {
    pub fn fits(&self, phase: Phase, line: &str) -> bool {
        self.times > 0 && self.phase == phase && line.contains(&self.part)
    }
}
