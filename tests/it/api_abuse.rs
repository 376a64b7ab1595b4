//! What clients may do to the API that nobody should: floods, sizes, depth, slowness. Each costs them their request or
//! their connection, and the server stays.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use pillarbox::model::Scope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api_stage::ApiStage;
use crate::http::{exchange, read_answer, request};
use crate::wait::{PATIENCE, until};

// Frames of HTTP/2 (RFC 9113 §6) and why a stream or a connection ended (§7).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A client that writes its frames itself.
struct Http2 {
    stream: TcpStream,
}

struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Http2 {
    async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        Self { stream }
    }

    /// What a server that has had enough does not read any more is lost.
    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        let _ = self.stream.write_all(&frame).await;
    }

    /// A request whose body is to follow (RFC 7541: POST, http, then literals).
    async fn begin_post(&mut self, stream: u32, key: &str) {
        let literal = |name: &str, value: &str| {
            let length = |text: &str| u8::try_from(text.len()).unwrap();
            [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
        };
        let fields = [
            vec![0x83, 0x86],
            literal(":path", "/v1/tenants"),
            literal(":authority", "a"),
            literal("authorization", &format!("Bearer {key}")),
        ];
        self.send(HEADERS, 0x4, stream, &fields.concat()).await;
    }

    /// The next frame; `None` when the connection has ended.
    async fn frame(&mut self) -> Option<Frame> {
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

    /// The number of the error in the next frame of a kind.
    async fn error_in(&mut self, kind: u8) -> (u32, u32) {
        loop {
            let frame = self.frame().await.expect("the frame before the end");
            if frame.kind == kind {
                let code = if kind == GOAWAY { &frame.payload[4..8] } else { &frame.payload[..4] };
                return (frame.stream, u32::from_be_bytes(code.try_into().unwrap()));
            }
        }
    }
}

async fn expect_alive(stage: &ApiStage) {
    request(stage.address, "GET", "/healthz", None, None).await.expect(200);
}

#[tokio::test]
async fn a_stream_too_many_is_refused_and_the_others_go_on() {
    let stage = ApiStage::start().await;
    let mut client = Http2::connect(stage.address).await;
    for number in 0..101 {
        client.begin_post(2 * number + 1, &stage.platform).await;
    }
    assert_eq!(client.error_in(RST_STREAM).await, (201, REFUSED_STREAM));
    client.send(DATA, 0x1, 1, b"").await;
    let answered = until("the first is answered", async || {
        let frame = client.frame().await.expect("the connection lives");
        (frame.kind == HEADERS).then_some(frame.stream)
    });
    assert_eq!(answered.await, 1);
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_end_the_connection() {
    let stage = ApiStage::start().await;
    let mut client = Http2::connect(stage.address).await;
    for number in 0..2000 {
        client.begin_post(2 * number + 1, &stage.platform).await;
        client.send(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes()).await;
    }
    assert_eq!(client.error_in(GOAWAY).await, (0, ENHANCE_YOUR_CALM));
    expect_alive(&stage).await;
}

#[tokio::test]
async fn what_a_client_may_send_ahead_is_small_and_the_same_for_all_its_streams() {
    let stage = ApiStage::start().await;
    let mut client = Http2::connect(stage.address).await;
    let (mut of_stream, mut of_connection) = (None, None);
    while of_stream.is_none() || of_connection.is_none() {
        let frame = client.frame().await.expect("settings and a window");
        let number = |octets: &[u8]| u32::from_be_bytes(octets.try_into().unwrap());
        match frame.kind {
            SETTINGS => {
                let window = frame.payload.chunks(6).find(|setting| setting[..2] == [0, 4]);
                of_stream = of_stream.or(window.map(|setting| number(&setting[2..])));
            }
            // Every connection begins with 65,535 octets (RFC 9113 §6.9.2).
            WINDOW_UPDATE => of_connection = Some(65_535 + number(&frame.payload)),
            _ => {}
        }
    }
    assert_eq!((of_stream, of_connection), (Some(256 * 1024), Some(256 * 1024)));
}

/// A request with a body of so many octets that is good JSON for a suppression.
fn padded(key: &str, octets: usize) -> String {
    format!(
        "POST /v1/suppressions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {octets}\r\n\r\n{:<octets$}",
        r#"{"address":"x@there.example"}"#
    )
}

#[tokio::test]
async fn a_tenant_whose_bodies_take_the_room_leaves_enough_for_others() {
    let stage = ApiStage::with(|api, _| api.inbound_buffer_max = ByteSize::kib(100)).await;
    let key = async |name| {
        let tenant = stage.tenant(name).await.id;
        stage.key(tenant, &[Scope::SuppressionsManage], |_| {}).await
    };
    let (greedy, other) = (key("greedy").await, key("other").await);
    let request = padded(&greedy, 45_000);
    let (begin, rest) = request.split_at(request.len() - 10_000);
    let mut held = until("the slow request is in the room before the probe", async || {
        let mut held = TcpStream::connect(stage.address).await.unwrap();
        held.write_all(begin.as_bytes()).await.unwrap();
        let answer = exchange(stage.address, padded(&greedy, 50_000).as_bytes()).await;
        if answer.status == 201 {
            return None;
        }
        answer.expect_error(503, "overloaded");
        Some(held)
    })
    .await;
    exchange(stage.address, padded(&other, 60_000).as_bytes()).await.expect(201);
    held.write_all(rest.as_bytes()).await.unwrap();
    let answer = read_answer(&mut held).await;
    assert!([200, 201].contains(&answer.status), "{answer}");
    let answer = exchange(stage.address, padded(&greedy, 60_000).as_bytes()).await;
    assert!([200, 201].contains(&answer.status), "its room is free again: {answer}");
}

#[tokio::test]
async fn json_that_is_too_deep_is_not_read() {
    let stage = ApiStage::start().await;
    for depth in [200, 100_000] {
        let nested = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let objects = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        for value in [nested, objects] {
            let body = format!("{{\"name\":\"deep\",\"metadata\":{{\"a\":{value}}}}}");
            let text = format!(
                "POST /v1/tenants HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                stage.platform,
                body.len()
            );
            exchange(stage.address, text.as_bytes()).await.expect_error(400, "invalid_json");
        }
    }
    expect_alive(&stage).await;
}

#[tokio::test]
async fn header_fields_are_limited_in_number_and_size() {
    let stage = ApiStage::start().await;
    let many: String = (0..100).map(|number| format!("X-{number}: a\r\n")).collect();
    let large = format!("X: {}\r\n", "a".repeat(100_000));
    for fields in [many, large] {
        let text = format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let answer = exchange(stage.address, text.as_bytes()).await;
        assert_eq!(answer.status, 431, "{answer}");
    }
    expect_alive(&stage).await;
}

#[tokio::test]
async fn a_header_that_drips_is_not_waited_for() {
    let stage = ApiStage::start().await;
    let mut client = TcpStream::connect(stage.address).await.unwrap();
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n").await.unwrap();
    let drip = async {
        // Any octet counts for the limit of silence; the limit of the header has to end it.
        while client.write_all(b"X: a\r\n").await.is_ok() {
            let mut octet = [0];
            if timeout(Duration::from_millis(200), client.read(&mut octet)).await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, drip).await.expect("the connection is ended");
}
