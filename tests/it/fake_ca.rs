//! A certificate authority over HTTPS: ACME (RFC 8555) with http-01 and dns-persist-01, and renewal windows (RFC 9773). It really
//! verifies signatures, nonces and challenges.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use pillarbox::clock::Clock;
use pillarbox::config;
use pillarbox::dns::Resolver;
use pillarbox::mail::Timestamp;
use pillarbox::rng::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SignatureAlgorithm, date_time_ymd,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::fake_dns::FakeDns;
use crate::http::read_answer;
use crate::identity::Identity;

const HOST: &str = "ca.test";
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

pub struct FakeCa {
    pub directory: String,
    /// The certificate that its certificates lead to.
    pub root_pem: String,
    trusted: NamedTempFile,
    desk: Arc<Desk>,
    _serving: JoinSet<()>,
}

/// How it behaves. A test changes it at any time.
pub struct Behaviour {
    /// The challenges that it offers.
    pub challenges: Vec<&'static str>,
    /// Where it looks for http-01, in place of port 80.
    pub http_port: u16,
    /// The time of its certificates.
    pub clock: Clock,
    pub life: Duration,
    /// When it wants its certificates to be renewed, the first one first.
    pub windows: Vec<(Timestamp, Timestamp)>,
    /// How many nonces it refuses before it accepts one.
    pub refused_nonces: usize,
    /// The beginning of the paths where it refuses requests, the type of the problem, and `Retry-After`.
    pub problem: Option<(&'static str, &'static str, Option<&'static str>)>,
    pub is_down: bool,
    /// The URL for nonces in its directory, in place of its own.
    pub nonce_url: Option<&'static str>,
    /// `Retry-After` of its orders.
    pub order_pause: Option<&'static str>,
    /// `Retry-After` of its windows.
    pub window_pause: Option<&'static str>,
    /// It decides when somebody has looked at the order so often; 0: at once.
    pub looks_before_decision: usize,
    /// Whether it still knows that the names are of the account.
    pub knows_names: bool,
    /// Whether it does not see records in the DNS.
    pub sees_no_records: bool,
    /// How it refuses orders that name the certificate that they replace.
    pub replacing_problem: Option<&'static str>,
    /// Authorizations of an order besides those of its names.
    pub more_authorizations: usize,
}

/// What it has done.
#[derive(Default)]
struct Book {
    nonces: HashSet<String>,
    refused_in_a_row: usize,
    made: u64,
    /// Public keys as points of the curve; `None` for a forgotten one.
    accounts: Vec<Option<Vec<u8>>>,
    orders: Vec<Order>,
    issued: usize,
    /// The paths of all requests.
    asked: Vec<String>,
}

struct Order {
    account: usize,
    names: Vec<Authorization>,
    /// What the client has asked for.
    request: Value,
    looks: usize,
    chain: Option<String>,
}

struct Authorization {
    name: String,
    token: String,
    status: &'static str,
    error: Option<Value>,
    /// The challenge that was begun, with the key of the account.
    begun: Option<(String, Vec<u8>)>,
}

struct Desk {
    base: String,
    behaviour: Mutex<Behaviour>,
    held: watch::Sender<Option<&'static str>>,
    book: Mutex<Book>,
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
    resolver: Resolver,
}

/// A public key of somebody else.
struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Reply {
    fn json(status: u16, body: &Value) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string() }
    }

    fn problem(kind: &str, detail: &str) -> Self {
        let body = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail});
        Self::json(if kind == "rateLimited" { 429 } else { 400 }, &body)
    }

    fn asking(self, pause: Option<&str>) -> Self {
        if let Some(pause) = pause { self.with("Retry-After", pause) } else { self }
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

impl FakeCa {
    /// Its name is in this DNS, where it also looks for records.
    pub async fn start(dns: &FakeDns) -> Self {
        dns.addresses(HOST, &[Ipv4Addr::LOCALHOST.into()]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let base = format!("https://{HOST}:{}", listener.local_addr().unwrap().port());
        let identity = Identity::new(&[HOST]);
        let key = KeyPair::generate().unwrap();
        let mut root = CertificateParams::new(Vec::new()).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_pem = root.self_signed(&key).unwrap().pem();
        let behaviour = Behaviour {
            challenges: vec!["http-01", "dns-01", "tls-alpn-01"],
            http_port: 80,
            clock: Clock::system(),
            life: 90 * DAY,
            windows: Vec::new(),
            refused_nonces: 0,
            problem: None,
            is_down: false,
            nonce_url: None,
            order_pause: None,
            window_pause: Some("21600"),
            looks_before_decision: 0,
            knows_names: false,
            sees_no_records: false,
            replacing_problem: None,
            more_authorizations: 0,
        };
        let desk = Arc::new(Desk {
            base: base.clone(),
            behaviour: Mutex::new(behaviour),
            held: watch::Sender::new(None),
            book: Mutex::default(),
            issuer: Issuer::new(root, key),
            root_pem: root_pem.clone(),
            resolver: Resolver::new(&[dns.address], Rng::system()).unwrap().without_cache(),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, TlsAcceptor::from(identity.server_config()), desk.clone()));
        Self {
            directory: format!("{base}/directory"),
            root_pem,
            trusted: identity.certificate_file(),
            desk,
            _serving: serving,
        }
    }

    /// The settings of a server that uses this authority, with a listener for http-01 where it looks.
    pub fn settings(&self) -> config::Acme {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, quiet_port()));
        self.set(|behaviour| behaviour.http_port = http.port());
        config::Acme {
            enabled: true,
            directory: self.directory.parse().unwrap(),
            http_listen: vec![http],
            ca_file: Some(self.trusted.path().to_owned()),
            ..config::Acme::default()
        }
    }

    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.desk.behaviour.lock().unwrap());
    }

    /// Holds back the answers of paths that begin so; `None`: of none any more.
    pub fn hold(&self, path: Option<&'static str>) {
        self.desk.held.send_replace(path);
    }

    /// The number of certificates that it has issued.
    pub fn issued(&self) -> usize {
        self.desk.book.lock().unwrap().issued
    }

    /// The number of accounts that were made.
    pub fn accounts(&self) -> usize {
        self.desk.book.lock().unwrap().accounts.len()
    }

    /// The number of requests whose path begins so.
    pub fn asked(&self, path: &str) -> usize {
        self.desk.book.lock().unwrap().asked.iter().filter(|asked| asked.starts_with(path)).count()
    }

    /// The number of orders that were asked for.
    pub fn ordered(&self) -> usize {
        self.desk.book.lock().unwrap().asked.iter().filter(|asked| *asked == "/order").count()
    }

    /// What the last order asked for.
    pub fn last_order(&self) -> Value {
        self.desk.book.lock().unwrap().orders.last().unwrap().request.clone()
    }

    pub fn forget_accounts(&self) {
        self.desk.book.lock().unwrap().accounts.iter_mut().for_each(|account| *account = None);
    }
}

/// A port on which nobody listens, and that the system gives to nobody who asks for any.
pub fn quiet_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Another run of the tests on this machine begins elsewhere.
    let first = 20_000 + std::process::id() % 10_000;
    let ports = std::iter::repeat_with(|| first as u16 + NEXT.fetch_add(1, Ordering::Relaxed));
    let is_free = |port: &u16| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.take(2_000).find(is_free).expect("a free port")
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, desk) = (tls.clone(), desk.clone());
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(async |request: Request<Incoming>| {
                let reply = desk.respond(request).await;
                let mut response = Response::builder().status(reply.status);
                for (name, value) in reply.headers {
                    response = response.header(name, value);
                }
                Ok::<_, Infallible>(response.body(Full::new(Bytes::from(reply.body))).unwrap())
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Desk {
    async fn respond(&self, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        self.book.lock().unwrap().asked.push(path.clone());
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held.is_some_and(|held| path.starts_with(held))).await.unwrap();
        if self.behaviour.lock().unwrap().is_down {
            return Reply { status: 503, headers: Vec::new(), body: "under maintenance".into() };
        }
        let reply = match (head.method.clone(), path.as_str()) {
            (Method::GET, "/directory") => self.directory(),
            (Method::GET, path) if path.starts_with("/renewal/") => self.renewal(path),
            (Method::HEAD, "/nonce") => Reply::json(200, &Value::Null),
            (Method::POST, _) => self.post(&path, &body).await,
            _ => Reply::problem("malformed", "no such resource"),
        };
        match head.method {
            Method::GET => reply,
            _ => reply.with("Replay-Nonce", self.nonce()),
        }
    }

    fn directory(&self) -> Reply {
        let url = |path: &str| format!("{}{path}", self.base);
        let mut directory = json!({
            "newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order"),
            "meta": {"caaIdentities": [HOST]},
        });
        let behaviour = self.behaviour.lock().unwrap();
        if !behaviour.windows.is_empty() {
            directory["renewalInfo"] = url("/renewal").into();
        }
        if let Some(url) = behaviour.nonce_url {
            directory["newNonce"] = url.into();
        }
        Reply::json(200, &directory)
    }

    /// RFC 9773 §4.1: the path ends with the serial number.
    fn renewal(&self, path: &str) -> Reply {
        let serial = BASE64.decode(path.rsplit('.').next().unwrap()).unwrap();
        let place = usize::from(*serial.last().unwrap()) - 1;
        let (window, pause) = {
            let behaviour = self.behaviour.lock().unwrap();
            (behaviour.windows.get(place).copied(), behaviour.window_pause)
        };
        let Some((start, end)) = window else { return Reply::problem("malformed", "no such certificate") };
        let window = json!({"suggestedWindow": {"start": start, "end": end}});
        Reply::json(200, &window).asking(pause)
    }

    fn nonce(&self) -> String {
        let mut book = self.book.lock().unwrap();
        book.made += 1;
        let nonce = format!("nonce-{}", book.made);
        book.nonces.insert(nonce.clone());
        nonce
    }

    /// Verifies a request, and does what it says.
    async fn post(&self, path: &str, body: &[u8]) -> Reply {
        let request: Value = serde_json::from_slice(body).unwrap();
        let part = |name: &str| request[name].as_str().unwrap().to_owned();
        let decoded = |name: &str| BASE64.decode(part(name)).unwrap();
        let protected: Value = serde_json::from_slice(&decoded("protected")).unwrap();
        if !self.accepts_nonce(protected["nonce"].as_str().unwrap()) {
            return Reply::problem("badNonce", "the nonce is not valid");
        }
        let account = protected["kid"].as_str().and_then(|url| url.rsplit('/').next()?.parse::<usize>().ok());
        let known = |index: usize| self.book.lock().unwrap().accounts.get(index).cloned().flatten();
        let key = match account {
            Some(index) => known(index),
            None => Some(point_of(&protected["jwk"])),
        };
        let Some(key) = key else { return Reply::problem("accountDoesNotExist", "no such account") };
        let signed = format!("{}.{}", part("protected"), part("payload"));
        let verified = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key)
            .verify(signed.as_bytes(), &decoded("signature"));
        if verified.is_err() || protected["url"] != format!("{}{path}", self.base) {
            return Reply::problem("unauthorized", "the signature does not fit");
        }
        let problem = self.behaviour.lock().unwrap().problem;
        if let Some((_, kind, after)) = problem.filter(|(prefix, ..)| path.starts_with(prefix)) {
            return Reply::problem(kind, "not today").asking(after);
        }
        let payload = serde_json::from_slice(&decoded("payload")).unwrap_or(Value::Null);
        self.dispatch(path, account.unwrap_or_default(), key, &payload).await
    }

    fn accepts_nonce(&self, nonce: &str) -> bool {
        let refused = self.behaviour.lock().unwrap().refused_nonces;
        let mut book = self.book.lock().unwrap();
        let is_known = book.nonces.remove(nonce);
        if book.refused_in_a_row < refused {
            book.refused_in_a_row += 1;
            return false;
        }
        book.refused_in_a_row = 0;
        is_known
    }

    async fn dispatch(&self, path: &str, account: usize, key: Vec<u8>, payload: &Value) -> Reply {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let number = |at: usize| parts[at].parse::<usize>().unwrap();
        match parts[..] {
            ["account"] => {
                assert_eq!(payload["termsOfServiceAgreed"], true);
                let mut book = self.book.lock().unwrap();
                book.accounts.push(Some(key));
                let location = format!("{}/account/{}", self.base, book.accounts.len() - 1);
                Reply::json(201, &json!({"status": "valid"})).with("Location", location)
            }
            ["order"] => {
                let problem = self.behaviour.lock().unwrap().replacing_problem;
                if let Some(kind) = problem.filter(|_| !payload["replaces"].is_null()) {
                    return Reply::problem(kind, "not that one");
                }
                let index = self.take_order(account, payload);
                Reply::json(201, &self.order(index)).with("Location", format!("{}/order/{index}", self.base))
            }
            ["order", _] => {
                self.decide(number(1)).await;
                let pause = self.behaviour.lock().unwrap().order_pause;
                Reply::json(200, &self.order(number(1))).asking(pause)
            }
            ["authorization", _, _] => Reply::json(200, &self.authorization(number(1), number(2))),
            ["challenge", kind, _, _] => {
                let (order, index) = (number(2), number(3));
                self.book.lock().unwrap().orders[order].names[index].begun = Some((kind.to_owned(), key));
                if self.behaviour.lock().unwrap().looks_before_decision == 0 {
                    self.validate(order, index).await;
                }
                let authorization = self.authorization(order, index);
                let challenges = authorization["challenges"].as_array().unwrap();
                Reply::json(200, challenges.iter().find(|one| one["type"] == kind).unwrap())
            }
            ["finalize", _] => {
                self.issue(number(1), payload);
                Reply::json(200, &self.order(number(1)))
            }
            ["certificate", _] => {
                let chain = self.book.lock().unwrap().orders[number(1)].chain.clone().unwrap();
                Reply { status: 200, headers: Vec::new(), body: chain }
            }
            _ => Reply::problem("malformed", "no such resource"),
        }
    }

    /// Decides about the challenges of an order, if it is time.
    async fn decide(&self, order: usize) {
        let (is_time, count) = {
            let order = &mut self.book.lock().unwrap().orders[order];
            order.looks += 1;
            (order.looks >= self.behaviour.lock().unwrap().looks_before_decision, order.names.len())
        };
        for index in (0..count).filter(|_| is_time) {
            self.validate(order, index).await;
        }
    }

    fn take_order(&self, account: usize, payload: &Value) -> usize {
        let status = if self.behaviour.lock().unwrap().knows_names { "valid" } else { "pending" };
        let mut book = self.book.lock().unwrap();
        let index = book.orders.len();
        let names = payload["identifiers"].as_array().unwrap().iter().enumerate().map(|(at, name)| {
            assert_eq!(name["type"], "dns");
            Authorization {
                name: name["value"].as_str().unwrap().to_owned(),
                token: format!("token-{index}-{at}"),
                status,
                error: None,
                begun: None,
            }
        });
        let names = names.collect();
        book.orders.push(Order { account, names, request: payload.clone(), looks: 0, chain: None });
        index
    }

    fn order(&self, index: usize) -> Value {
        let more = self.behaviour.lock().unwrap().more_authorizations;
        let book = self.book.lock().unwrap();
        let order = &book.orders[index];
        let has = |status: &str| order.names.iter().any(|name| name.status == status);
        let status = match &order.chain {
            Some(_) => "valid",
            None if has("invalid") => "invalid",
            None if has("pending") => "pending",
            None => "ready",
        };
        let authorizations: Vec<_> = (0..order.names.len() + more)
            .map(|at| format!("{}/authorization/{index}/{at}", self.base))
            .collect();
        let mut view = json!({
            "status": status, "authorizations": authorizations, "finalize": format!("{}/finalize/{index}", self.base),
        });
        if status == "valid" {
            view["certificate"] = format!("{}/certificate/{index}", self.base).into();
        }
        let replaces = &order.request["replaces"];
        if !replaces.is_null() {
            view["replaces"] = replaces.clone();
        }
        view
    }

    fn authorization(&self, order: usize, index: usize) -> Value {
        let offered = self.behaviour.lock().unwrap().challenges.clone();
        let book = self.book.lock().unwrap();
        let account = book.orders[order].account;
        let Authorization { name, token, status, error, .. } = &book.orders[order].names[index];
        let challenge = |kind: &&str| {
            let url = format!("{}/challenge/{kind}/{order}/{index}", self.base);
            let mut view = json!({"type": kind, "url": url, "status": status});
            if *kind == "dns-persist-01" {
                view["issuer-domain-names"] = json!([HOST]);
                view["accounturi"] = format!("{}/account/{account}", self.base).into();
            } else {
                view["token"] = json!(token);
            }
            if let Some(error) = error {
                view["error"] = error.clone();
            }
            view
        };
        let challenges: Vec<Value> = offered.iter().map(challenge).collect();
        json!({"identifier": {"type": "dns", "value": name}, "status": status, "challenges": challenges})
    }

    /// Decides about the challenge that was begun for a name, if there is one.
    async fn validate(&self, order: usize, index: usize) {
        let (name, token, account, begun) = {
            let order = &mut self.book.lock().unwrap().orders[order];
            let name = &mut order.names[index];
            (name.name.clone(), name.token.clone(), order.account, name.begun.take())
        };
        let Some((kind, key)) = begun else { return };
        let (port, sees_no_records) = {
            let behaviour = self.behaviour.lock().unwrap();
            (behaviour.http_port, behaviour.sees_no_records)
        };
        let result = match kind.as_str() {
            "http-01" => get_answer(port, &name, &token, &thumbprint(&key)).await,
            "dns-persist-01" if sees_no_records => Err("there is no record here".to_owned()),
            "dns-persist-01" => {
                let wanted = format!("{HOST}; accounturi={}/account/{account}", self.base);
                let texts = self.resolver.texts(&format!("_validation-persist.{name}")).await;
                match texts.is_ok_and(|texts| texts.contains(&wanted)) {
                    true => Ok(()),
                    false => Err("there is no such record".to_owned()),
                }
            }
            _ => Err("it is not tested here".to_owned()),
        };
        let mut book = self.book.lock().unwrap();
        let authorization = &mut book.orders[order].names[index];
        authorization.status = if result.is_ok() { "valid" } else { "invalid" };
        authorization.error = result
            .err()
            .map(|detail| json!({"type": "urn:ietf:params:acme:error:unauthorized", "detail": detail}));
    }

    fn issue(&self, index: usize, payload: &Value) {
        let (clock, life) = {
            let behaviour = self.behaviour.lock().unwrap();
            (behaviour.clock.clone(), behaviour.life)
        };
        let request = BASE64.decode(payload["csr"].as_str().unwrap()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&request).unwrap();
        let key = request.certification_request_info.subject_pki.subject_public_key.data.to_vec();
        let mut book = self.book.lock().unwrap();
        book.issued += 1;
        let serial = book.issued as u64;
        let order = &mut book.orders[index];
        let names: Vec<String> = order.names.iter().map(|name| name.name.clone()).collect();
        let mut leaf = CertificateParams::new(names).unwrap();
        let now =
            date_time_ymd(1970, 1, 1) + Duration::from_secs(clock.now().as_second().try_into().unwrap());
        // The clocks of others may be behind.
        leaf.not_before = now - CLOCKS_DIFFER;
        leaf.not_after = now + life;
        leaf.serial_number = Some(serial.into());
        leaf.use_authority_key_identifier_extension = true;
        let leaf = leaf.signed_by(&Point(key), &self.issuer).unwrap().pem();
        order.chain = Some(leaf + &self.root_pem);
    }
}

/// Asks the listener for http-01 as RFC 8555 §8.3 says.
async fn get_answer(port: u16, name: &str, token: &str, thumbprint: &str) -> Result<(), String> {
    let mut stream =
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| error.to_string())?;
    let request = format!("GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {name}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let answer = read_answer(&mut stream).await;
    let wanted = format!("{token}.{thumbprint}");
    match answer.status == 200 && answer.body == wanted.as_bytes() {
        true => Ok(()),
        false => Err(format!("{answer} is not {wanted}")),
    }
}

/// The point of a key on the curve P-256, uncompressed.
fn point_of(jwk: &Value) -> Vec<u8> {
    let coordinate = |name: &str| BASE64.decode(jwk[name].as_str().unwrap()).unwrap();
    [vec![4], coordinate("x"), coordinate("y")].concat()
}

/// RFC 7638.
fn thumbprint(point: &[u8]) -> String {
    let (x, y) = point[1..].split_at(32);
    let (x, y) = (BASE64.encode(x), BASE64.encode(y));
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    BASE64.encode(Sha256::digest(canonical))
}
