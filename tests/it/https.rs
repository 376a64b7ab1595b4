//! Requests to web servers whose URL comes from others: addresses, limits, and errors.

use std::time::Duration;

use hyper::{HeaderMap, Method};
use pillarbox::dns::{DnsError, Resolver};
use pillarbox::http_client::{Client, Limits, OverflowPolicy, Request, Response, SendError};
use url::Url;

use crate::fake_dns::FakeDns;
use crate::identity::Identity;
use crate::receiver::{Reaction, Receiver};
use crate::wait::PATIENCE;

const LIMITS: Limits = Limits { timeout: PATIENCE, body_octets_max: 1000, overflow: OverflowPolicy::Refuse };

struct Stage {
    dns: FakeDns,
    identity: Identity,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Stage {
    /// A name server that knows `web.test`, and a client that trusts its certificate and may connect to `allowed`.
    async fn start(allowed: &[&str]) -> Self {
        let dns = FakeDns::start().await;
        dns.addresses("web.test", &["127.0.0.1".parse().unwrap()]);
        let identity = Identity::new(&["web.test"]);
        let dir = tempfile::tempdir().unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, &identity.certificate_pem).unwrap();
        let allowed: Vec<_> = allowed.iter().map(|network| network.parse().unwrap()).collect();
        let resolver = Resolver::new(&[dns.address]).unwrap();
        let client = Client::new(resolver, Some(&ca_file), &allowed).unwrap();
        Self { dns, identity, client, _dir: dir }
    }

    async fn get(&self, url: &str, limits: Limits) -> Result<Response, SendError> {
        self.client.send(get(url), limits).await
    }
}

fn get(url: &str) -> Request {
    Request {
        method: Method::GET,
        url: Url::parse(url).unwrap(),
        headers: HeaderMap::new(),
        body: Default::default(),
    }
}

#[tokio::test]
async fn a_request_arrives_unchanged_over_verified_tls() {
    let stage = Stage::start(&["127.0.0.0/8"]).await;
    let server = Receiver::with(Some(stage.identity.server_config())).await;
    server.script([Reaction::Write(
        b"HTTP/1.1 301 Moved\r\nLocation: https://elsewhere.test/\r\nTransfer-Encoding: chunked\r\n\r\n\
          3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            .to_vec(),
    )]);
    let port = server.address.port();
    let mut request = get(&format!("https://web.test:{port}/a%20b?c=d#e"));
    request.method = Method::POST;
    request.headers.insert("x-own", "1".parse().unwrap());
    request.body = "hello".into();
    let response = stage.client.send(request, LIMITS).await.unwrap();
    assert_eq!((response.status.as_u16(), &response.body[..]), (301, &b"abcde"[..]));
    assert_eq!(response.headers["location"], "https://elsewhere.test/");
    let received = &server.wait_for(1).await[0];
    assert!(received.head.starts_with("POST /a%20b?c=d HTTP/1.1\r\n"), "{}", received.head);
    assert_eq!(received.header("host"), format!("web.test:{port}"));
    assert_eq!((received.header("x-own"), &received.body[..]), ("1", &b"hello"[..]));
    assert_eq!(server.requests().len(), 1, "the redirect is not followed");
}

#[tokio::test]
async fn an_untrusted_certificate_or_one_for_another_name_ends_the_connection_before_the_request() {
    let stage = Stage::start(&["127.0.0.0/8"]).await;
    stage.dns.addresses("other.test", &["127.0.0.1".parse().unwrap()]);
    let right = Receiver::with(Some(stage.identity.server_config())).await;
    let stranger = Receiver::with(Some(Identity::new(&["web.test"]).server_config())).await;
    for (name, server) in [("other.test", &right), ("web.test", &stranger)] {
        let url = format!("https://{name}:{}/", server.address.port());
        let error = stage.get(&url, LIMITS).await.unwrap_err();
        assert!(matches!(error, SendError::Tls(_)), "{error:?}");
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(server.requests().is_empty());
    }
}

#[tokio::test]
async fn the_client_never_connects_to_an_address_that_is_not_permitted() {
    let stage = Stage::start(&[]).await;
    let server = Receiver::start().await;
    let port = server.address.port();
    stage.dns.addresses("mapped.test", &["::ffff:127.0.0.1".parse().unwrap()]);
    for host in
        ["web.test", "mapped.test", "127.0.0.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"]
    {
        let error = stage.get(&format!("http://{host}:{port}/"), LIMITS).await.unwrap_err();
        assert!(matches!(error, SendError::Forbidden(_)), "{host}: {error:?}");
    }
    assert!(server.requests().is_empty());
    // Of a name with both kinds of addresses, only the permitted ones are used.
    let stage = Stage::start(&["127.0.0.1/32"]).await;
    stage.dns.addresses("web.test", &["127.0.0.9".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
    assert_eq!(stage.get(&format!("http://web.test:{port}/"), LIMITS).await.unwrap().status, 204);
}

#[tokio::test]
async fn the_error_names_the_stage_that_failed() {
    let stage = Stage::start(&["127.0.0.0/8"]).await;
    let server = Receiver::start().await;
    let url = |host: &str| format!("http://{host}:{}/", server.address.port());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    let error = stage.get(&url("absent.test"), LIMITS).await.unwrap_err();
    assert!(matches!(error, SendError::Dns(DnsError::NoSuchDomain)), "{error:?}");
    let error = stage.get(&format!("http://{closed}/"), LIMITS).await.unwrap_err();
    assert!(matches!(error, SendError::Connect { address, .. } if address == closed), "{error:?}");
    let error = stage.get(&url("web.test").replace("http:", "https:"), LIMITS).await.unwrap_err();
    assert!(matches!(error, SendError::Tls(_)), "{error:?}");
    for url in ["ftp://web.test/", "https://user@web.test/", "https://:secret@web.test/", "data:x"] {
        let error = stage.get(url, LIMITS).await.unwrap_err();
        assert!(matches!(error, SendError::Url(_)), "{url}: {error:?}");
        assert!(!error.to_string().contains("secret"));
    }
    server.script([
        Reaction::Write(b"220 mail.test ESMTP\r\n".to_vec()),
        Reaction::Write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc".to_vec()),
        Reaction::Write([b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'y'; 100_000]].concat()),
    ]);
    for fault in ["no HTTP", "a body that breaks off", "endless headers"] {
        let error = stage.get(&url("web.test"), LIMITS).await.unwrap_err();
        assert!(matches!(error, SendError::Http(_)), "{fault}: {error:?}");
    }
}

#[tokio::test]
async fn the_time_and_the_size_of_a_response_are_limited() {
    let stage = Stage::start(&["127.0.0.0/8"]).await;
    let server = Receiver::start().await;
    let url = format!("http://web.test:{}/", server.address.port());
    let long = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 1001]].concat();
    let just = long[..long.len() - 1].to_vec();
    server.script([Reaction::Write(just), Reaction::Write(long.clone()), Reaction::WriteAndHang(long)]);
    assert_eq!(stage.get(&url, LIMITS).await.unwrap().body.len(), 1000);
    let error = stage.get(&url, LIMITS).await.unwrap_err();
    assert!(matches!(error, SendError::TooLarge(1000)), "{error:?}");
    let cut = Limits { overflow: OverflowPolicy::Truncate, ..LIMITS };
    assert_eq!(stage.get(&url, cut).await.unwrap().body.len(), 1000);

    let quick = Limits { timeout: Duration::from_millis(50), ..LIMITS };
    for silence in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"] {
        server.script([Reaction::WriteAndHang(silence.into())]);
        let error = stage.get(&url, quick).await.unwrap_err();
        assert!(matches!(error, SendError::Timeout(_)), "{silence:?}: {error:?}");
    }
}
