//! What a fake MX does instead of the usual: everything that Postfix's `smtp-sink` can be told to do, and worse.

use std::time::Duration;

use tokio::time::sleep;

use super::{Over, Step, say};
use crate::wire::Wire;

/// Between two octets of what comes slowly.
const DRIP_INTERVAL: Duration = Duration::from_millis(50);

/// Where in a session a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Greeting,
    Ehlo,
    Helo,
    Starttls,
    /// In the place of the TLS handshake; the session ends with it.
    Handshake,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// The first octets of the message were read, and no more will be.
    Body,
    Dot,
    Rset,
    Quit,
}

impl Phase {
    /// Whether this reply is the one that goes on.
    pub fn succeeds(self, reply: &[u8]) -> bool {
        reply.starts_with(match self {
            Self::Data => b"3".as_slice(),
            Self::Starttls => b"220",
            _ => b"2",
        })
    }
}

/// What happens there instead of the usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This reply; a message is then not counted unless it is 2xx.
    Reply(&'static str),
    /// This reply, then the connection closes.
    ReplyAndClose(&'static str),
    /// This reply, then nothing more is ever read or said.
    ReplyAndHang(&'static str),
    /// This reply, octet by octet.
    Split(&'static str),
    /// This reply, after a time.
    Late(Duration, &'static str),
    /// These octets as they stand.
    Octets(&'static [u8]),
    /// A reply that comes slowly and never ends.
    Drip,
    /// A reply that comes fast and never ends.
    Endless,
    /// The connection closes without a word.
    Drop,
    /// The connection is reset without a word.
    Reset,
    /// Nothing more is ever read or said.
    Hang,
    /// The message is counted as received, then this.
    Counted(&'static Fault),
}

impl Fault {
    /// Whether the client hears that it may go on, or that the message is taken.
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

    /// Does it. An error ends the session.
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

/// A fault that waits for its time.
pub struct Rule {
    pub phase: Phase,
    /// Must be part of the line; empty fits all.
    pub part: String,
    pub times: usize,
    pub fault: Fault,
}

impl Rule {
    pub fn fits(&self, phase: Phase, line: &str) -> bool {
        self.times > 0 && self.phase == phase && line.contains(&self.part)
    }
}
