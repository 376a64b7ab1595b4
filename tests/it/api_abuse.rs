//! Clients that abuse the API: floods, sizes, depth, slowness. Each of them loses its request or its connection, and
//! the server keeps serving the others.

use std::time::Duration;

use bytesize::ByteSize;
use pillarbox::model::{Environment, KeySecret, Scope};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api_stage::ApiStage;
use crate::http::{exchange, read_answer, request};
use crate::http2::{
    DATA, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, Http2, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::wait::{PATIENCE, until};

async fn expect_alive(stage: &ApiStage) {
    request(stage.address, "GET", "/healthz", None, None).await.expect(200);
}

#[tokio::test]
async fn a_stream_over_the_limit_is_refused_and_the_others_continue() {
    let stage = ApiStage::start().await;
    let mut client = Http2::connect(stage.address).await;
    for number in 0..33 {
        client.begin_post(2 * number + 1, "/v1/tenants", &stage.platform).await;
    }
    assert_eq!(client.error_in(RST_STREAM).await, (65, REFUSED_STREAM));
    client.send(DATA, 0x1, 1, b"").await;
    let answered = until("the first is answered", async || {
        let frame = client.frame().await.expect("the connection lives");
        (frame.kind == HEADERS).then_some(frame.stream)
    });
    assert_eq!(answered.await, 1);
}

#[tokio::test]
async fn a_client_that_guesses_keys_is_refused_for_a_while_and_known_keys_continue() {
    let stage = ApiStage::start().await;
    stage.get(&stage.platform, "/v1/me").await.expect(200);
    let mut unknown = 0;
    let refused = loop {
        let guess = KeySecret::generate(Environment::Live);
        let answer = stage.get(guess.expose(), "/v1/me").await;
        if answer.status == 429 {
            break answer;
        }
        answer.expect_error(401, "invalid_api_key");
        unknown += 1;
        assert!(unknown < 1000, "no guess is refused");
    };
    assert!(unknown >= 120, "refused after {unknown}");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    refused.expect_error(429, "rate_limited");
    stage.get(&stage.platform, "/v1/me").await.expect(200);
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_immediately_end_the_connection() {
    let stage = ApiStage::start().await;
    let mut client = Http2::connect(stage.address).await;
    for number in 0..2000 {
        client.begin_post(2 * number + 1, "/v1/tenants", &stage.platform).await;
        client.send(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes()).await;
    }
    assert_eq!(client.error_in(GOAWAY).await, (0, ENHANCE_YOUR_CALM));
    expect_alive(&stage).await;
}

#[tokio::test]
async fn the_flow_control_window_is_small_and_shared_by_all_streams() {
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

/// A request whose body has this many octets and is valid JSON for a suppression.
fn padded(key: &str, octets: usize) -> String {
    format!(
        "POST /v1/suppressions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {octets}\r\n\r\n{:<octets$}",
        r#"{"address":"x@there.example"}"#
    )
}

#[tokio::test]
async fn a_tenant_whose_bodies_use_up_the_memory_leaves_enough_for_others() {
    let stage = ApiStage::with(|api, _| api.inbound_buffer_max = ByteSize::kib(100)).await;
    let key = async |name| {
        let tenant = stage.tenant(name).await.id;
        stage.key(tenant, &[Scope::SuppressionsManage], |_| {}).await
    };
    let (greedy, other) = (key("greedy").await, key("other").await);
    let request = padded(&greedy, 45_000);
    let (begin, rest) = request.split_at(request.len() - 10_000);
    let mut held = until("the slow request has reserved memory before the probe", async || {
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
async fn json_that_is_nested_too_deeply_is_refused() {
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

/// In memory, each value takes many times more than the two octets that it has here.
#[tokio::test]
async fn a_body_with_millions_of_values_is_refused_and_commas_in_a_string_do_not_count() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let numbers = format!("{{\"metadata\":{{\"a\":[{}0]}}}}", "0,".repeat(1_000_000));
    let text = json!({"from": "a@own.example", "text": "0,".repeat(1_000_000)}).to_string();
    for (body, status, code) in [(numbers, 413, "payload_too_large"), (text, 422, "required")] {
        let request = format!(
            "POST /v1/emails HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            tenant.key,
            body.len()
        );
        let answer = exchange(stage.address, request.as_bytes()).await;
        assert!(answer.status == status && answer.to_string().contains(code), "{answer}");
    }
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
async fn a_header_that_arrives_octet_by_octet_times_out() {
    let stage = ApiStage::start().await;
    let mut client = TcpStream::connect(stage.address).await.unwrap();
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n").await.unwrap();
    let drip = async {
        // Each octet resets the idle timeout, so the timeout of the header must end the request.
        while client.write_all(b"X: a\r\n").await.is_ok() {
            let mut octet = [0];
            if timeout(Duration::from_millis(200), client.read(&mut octet)).await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, drip).await.expect("the connection is ended");
}
