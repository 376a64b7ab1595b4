//! A connection in memory: octets arrive after a latency, and it breaks when its fate says so.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pillarbox::net::SimulatedStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// A writer waits while more octets are not read.
const UNREAD_MAX: usize = 64 * 1024;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Whole,
    /// Both ends get an error after so many writes.
    Reset(u32),
    /// After so many writes, nothing arrives any more, and neither end learns of it.
    Silence(u32),
}

/// Octets on their way.
enum Parcel {
    Octets(Vec<u8>),
    End,
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// Each with the time of its arrival.
    parcels: VecDeque<(Instant, Parcel)>,
    /// Octets that were written and not read.
    unread: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
    has_no_reader: bool,
}

struct Link {
    directions: [Direction; 2],
    writes: u32,
    fate: Fate,
    latency: Duration,
    broken: Arc<AtomicBool>,
    is_reset: bool,
}

impl Link {
    /// Counts a write; false if it does not arrive.
    fn carries(&mut self) -> io::Result<bool> {
        if self.is_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.writes += 1;
        match self.fate {
            Fate::Reset(after) if self.writes > after => {
                self.is_reset = true;
                self.broken.store(true, Ordering::Relaxed);
                for direction in &mut self.directions {
                    wake(&mut direction.reader);
                    wake(&mut direction.writer);
                }
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Fate::Silence(after) if self.writes > after => {
                self.broken.store(true, Ordering::Relaxed);
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    fn send(&mut self, towards: usize, parcel: Parcel) {
        let direction = &mut self.directions[towards];
        direction.parcels.push_back((Instant::now() + self.latency, parcel));
        wake(&mut direction.reader);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// One end of a connection.
pub struct End {
    link: Arc<Mutex<Link>>,
    /// The direction towards this end.
    side: usize,
    local: SocketAddr,
    timer: Option<Pin<Box<Sleep>>>,
    has_ended: bool,
}

/// The two ends of a new connection, and whether it breaks.
pub fn connect(
    client: SocketAddr,
    server: SocketAddr,
    fate: Fate,
    latency: Duration,
) -> (End, End, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let link = Link {
        directions: Default::default(),
        writes: 0,
        fate,
        latency,
        broken: Arc::clone(&broken),
        is_reset: false,
    };
    let link = Arc::new(Mutex::new(link));
    let end = |side, local| End { link: Arc::clone(&link), side, local, timer: None, has_ended: false };
    (end(0, client), end(1, server), broken)
}

impl End {
    fn finish(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            let mut link = self.link.lock().unwrap();
            if matches!(link.carries(), Ok(true)) {
                link.send(1 - self.side, Parcel::End);
            }
        }
    }
}

impl SimulatedStream for End {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.finish();
        let mut link = self.link.lock().unwrap();
        let inwards = &mut link.directions[self.side];
        inwards.has_no_reader = true;
        wake(&mut inwards.writer);
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let end = self.get_mut();
        loop {
            let arrival = {
                let mut link = end.link.lock().unwrap();
                if link.is_reset {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                let direction = &mut link.directions[end.side];
                let Some((arrival, parcel)) = direction.parcels.front_mut() else {
                    direction.reader = Some(context.waker().clone());
                    return Poll::Pending;
                };
                if *arrival <= Instant::now() {
                    let Parcel::Octets(octets) = parcel else { return Poll::Ready(Ok(())) };
                    let taken = octets.len().min(buffer.remaining());
                    buffer.put_slice(&octets[..taken]);
                    octets.drain(..taken);
                    if octets.is_empty() {
                        direction.parcels.pop_front();
                    }
                    direction.unread -= taken;
                    wake(&mut direction.writer);
                    return Poll::Ready(Ok(()));
                }
                direction.reader = Some(context.waker().clone());
                *arrival
            };
            let timer = end.timer.insert(Box::pin(sleep_until(arrival)));
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let outwards = 1 - self.side;
        let mut link = self.link.lock().unwrap();
        let direction = &mut link.directions[outwards];
        if direction.has_no_reader || self.has_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if direction.unread > UNREAD_MAX {
            direction.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        direction.unread += octets.len();
        if link.carries()? {
            link.send(outwards, Parcel::Octets(octets.to_vec()));
        }
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().finish();
        Poll::Ready(Ok(()))
    }
}
