//! An HTTP/2 client that writes its frames itself and may leave responses unread.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wait::PATIENCE;

// Frame types (RFC 9113 §6) and error codes (§7) of HTTP/2.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const REFUSED_STREAM: u32 = 7;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One connection. It never enlarges the initial flow-control window (RFC 9113 §6.9.2), so large responses do not
/// finish.
pub struct Http2 {
    stream: TcpStream,
}

pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Http2 {
    pub async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        Self { stream }
    }

    /// Writes octets. They are lost if the server has stopped reading.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        let _ = self.stream.write_all(&frame).await;
    }

    /// The HEADERS frame of a request with a body (RFC 7541: POST, http, then literals).
    pub async fn begin_post(&mut self, stream: u32, path: &str, key: &str) {
        let fields = [
            vec![0x83, 0x86],
            literal(":path", path),
            literal(":authority", "a"),
            literal("authorization", &format!("Bearer {key}")),
        ];
        self.send(HEADERS, 0x4, stream, &fields.concat()).await;
    }

    /// A request without a body.
    pub async fn get(&mut self, stream: u32, path: &str, key: &str) {
        let fields = [
            vec![0x82, 0x86],
            literal(":path", path),
            literal(":authority", "a"),
            literal("authorization", &format!("Bearer {key}")),
        ];
        self.send(HEADERS, 0x5, stream, &fields.concat()).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Some(Frame { kind: head[3], stream, payload })
        };
        timeout(PATIENCE, read).await.expect("a frame in time")
    }

    /// The error code in the next frame of this type.
    pub async fn error_in(&mut self, kind: u8) -> (u32, u32) {
        loop {
            let frame = self.frame().await.expect("the frame before the end");
            if frame.kind == kind {
                let code = if kind == GOAWAY { &frame.payload[4..8] } else { &frame.payload[..4] };
                return (frame.stream, u32::from_be_bytes(code.try_into().unwrap()));
            }
        }
    }
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}
