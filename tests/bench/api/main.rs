//! Measures the request rate of the API, and how it affects the acceptance of mail.
//!   cargo run --release --example api_bench -- DIR [PILLARBOX]
//! DIR must be new. Sends `GET /v1/emails?limit=1` over persistent connections. The clients share the machine with the
//! server, so the output also has the rate that the CPU time of the server would allow on two cores. Acceptance is
//! measured over TLS with a test key, alternately alone and with requests: 1,000 a second, then as many as possible.
//! Targets: 10,000 requests/s on two cores; acceptance with 1,000 requests/s at 90 % or more of that without.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const HOSTNAME: &str = "relay.test";
const API_CONNECTIONS: usize = 16;
const SMTP_CONNECTIONS: usize = 32;
const PACED_PER_S: u64 = 1_000;
const ROUND: Duration = Duration::from_secs(4);
const ROUNDS: usize = 5;
/// Ticks a second of the CPU times in /proc.
const TICKS_PER_S: f64 = 100.0;

struct Server {
    child: Child,
    api: SocketAddr,
    smtp: SocketAddr,
    ca: PathBuf,
    platform: String,
}

impl Server {
    async fn start(program: &Path, dir: &Path) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (api, smtp) = (free(), free());
        let data_dir = dir.join("data");
        let text = format!(
            "hostname = \"{HOSTNAME}\"\ndata_dir = {data_dir:?}\n[log]\nlevel = \"warn\"\n[smtp]\nsubmission = []\n\
             submissions = [\"{smtp}\"]\nconnections_per_address_max = 1000\nconnections_per_tenant_max = 1000\n\
             [api]\nlisten = [\"{api}\"]\nrequests_per_minute = 0\nkey_requests_per_minute = 0\n"
        );
        let config = dir.join("pillarbox.toml");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        let made = command
            .args(["key", "create", "--init", "--name", "bench", "--data-dir"])
            .arg(&data_dir)
            .output()
            .unwrap();
        let words = String::from_utf8(made.stdout).unwrap();
        let platform = words.split_whitespace().find(|word| word.starts_with("pb_live_")).unwrap().to_owned();
        let mut command = Command::new(program);
        let child = command.args(["serve", "--config"]).arg(&config).stdout(Stdio::null()).spawn().unwrap();
        let server = Self { child, api, smtp, ca: data_dir.join("self-signed.crt"), platform };
        while TcpStream::connect(smtp).await.is_err() || TcpStream::connect(api).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let mut stream = TcpStream::connect(self.api).await.unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.platform,
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        let (status, body) = read_answer(&mut stream, &mut Vec::new()).await;
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// CPU time so far.
    fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS_PER_S
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads status and body; octets behind them stay in `unread`.
async fn read_answer(stream: &mut TcpStream, unread: &mut Vec<u8>) -> (u16, Vec<u8>) {
    loop {
        if let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = std::str::from_utf8(&unread[..end]).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let whole = end + 4 + length.parse::<usize>().unwrap();
            if unread.len() >= whole {
                let status = head[9..12].parse().unwrap();
                let body = unread[end + 4..whole].to_vec();
                unread.drain(..whole);
                return (status, body);
            }
        }
        let count = stream.read_buf(unread).await.unwrap();
        assert!(count > 0, "the API closed a connection");
    }
}

/// Sends requests until `stop`, at the given rate over all connections, or without limit. Counts the responses.
fn ask(server: &Server, key: &str, per_s: Option<u64>, count: &Arc<AtomicU64>, stop: &CancellationToken) {
    let request =
        format!("GET /v1/emails?limit=1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n");
    for _ in 0..API_CONNECTIONS {
        let (api, request, count, stop) = (server.api, request.clone(), count.clone(), stop.clone());
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(api).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let pause = per_s.map(|rate| Duration::from_secs(1) * API_CONNECTIONS as u32 / rate as u32);
            let mut ticks = pause.map(tokio::time::interval);
            let mut unread = Vec::new();
            while !stop.is_cancelled() {
                if let Some(ticks) = &mut ticks {
                    ticks.tick().await;
                }
                stream.write_all(request.as_bytes()).await.unwrap();
                let (status, body) = read_answer(&mut stream, &mut unread).await;
                assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

struct Smtp<S> {
    stream: S,
    unread: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Smtp<S> {
    async fn send(&mut self, octets: &[u8], replies: usize) {
        self.stream.write_all(octets).await.unwrap();
        self.stream.flush().await.unwrap();
        for _ in 0..replies {
            self.reply().await;
        }
    }

    async fn reply(&mut self) {
        loop {
            let Some(end) = self.unread.windows(2).position(|two| two == b"\r\n") else {
                assert!(
                    self.stream.read_buf(&mut self.unread).await.unwrap() > 0,
                    "the server closed a session"
                );
                continue;
            };
            let line: Vec<u8> = self.unread.drain(..end + 2).collect();
            assert!(line[0] == b'2', "{}", String::from_utf8_lossy(&line));
            if line[3] == b' ' {
                return;
            }
        }
    }
}

/// Sends messages until `stop`, one at a time on each connection. Counts the 250 replies.
async fn submit(
    server: &Server,
    user: &str,
    secret: &str,
    sender: &str,
    count: &Arc<AtomicU64>,
    stop: &CancellationToken,
) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&server.ca).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let content = format!(
        "From: <{sender}>\r\nTo: <somebody@else.test>\r\nSubject: bench\r\n\r\n{}",
        format!("{}\r\n", "x".repeat(76)).repeat(26)
    );
    let one = format!(
        "MAIL FROM:<{sender}>\r\nRCPT TO:<somebody@else.test>\r\nBDAT {} LAST\r\n{content}",
        content.len()
    );
    let login =
        format!("EHLO bench.example\r\nAUTH PLAIN {}\r\n", BASE64.encode(format!("\0{user}\0{secret}")));
    for _ in 0..SMTP_CONNECTIONS {
        let stream = TcpStream::connect(server.smtp).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = connector.connect(ServerName::try_from(HOSTNAME).unwrap(), stream).await.unwrap();
        let mut session = Smtp { stream, unread: Vec::new() };
        session.reply().await;
        let (ehlo, auth) = login.split_once("\r\n").unwrap();
        session.send(format!("{ehlo}\r\n").as_bytes(), 1).await;
        session.send(auth.as_bytes(), 1).await;
        let (one, count, stop) = (one.clone(), count.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                session.send(one.as_bytes(), 3).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// The growth of each counter in a second.
async fn rates<const N: usize>(counts: [&Arc<AtomicU64>; N]) -> [f64; N] {
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = counts.map(|count| count.load(Ordering::Relaxed));
    let started = Instant::now();
    tokio::time::sleep(ROUND).await;
    let seconds = started.elapsed().as_secs_f64();
    std::array::from_fn(|i| (counts[i].load(Ordering::Relaxed) - before[i]) as f64 / seconds)
}

async fn measure_requests(server: &Server, key: &str) {
    let count = Arc::new(AtomicU64::new(0));
    for round in 0..ROUNDS {
        let stop = CancellationToken::new();
        ask(server, key, None, &count, &stop);
        let (cpu, before) = (server.cpu_s(), count.load(Ordering::Relaxed));
        let [rate] = rates([&count]).await;
        let cpu = (server.cpu_s() - cpu) / (count.load(Ordering::Relaxed) - before) as f64;
        stop.cancel();
        println!(
            "{}",
            json!({"round": round, "requests_per_s": rate as u64, "cpu_us_per_request": (cpu * 1e6) as u64,
                   "cpu_allows_per_s_on_two_cores": (2.0 / cpu) as u64})
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn measure_acceptance(server: &Server, key: &str, accepted: &Arc<AtomicU64>, per_s: Option<u64>) {
    let mut ratios = Vec::new();
    let count = Arc::new(AtomicU64::new(0));
    for round in 0..ROUNDS {
        let [alone] = rates([accepted]).await;
        let stop = CancellationToken::new();
        ask(server, key, per_s, &count, &stop);
        let [beside, requests] = rates([accepted, &count]).await;
        stop.cancel();
        ratios.push(beside / alone);
        println!(
            "{}",
            json!({"round": round, "accepted_alone_per_s": alone as u64, "accepted_beside_per_s": beside as u64,
                   "requests_per_s": requests as u64})
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!("{}", json!({"requests": per_s, "accepted_beside_to_alone_median": ratios[ROUNDS / 2]}));
}

async fn run(dir: PathBuf, program: PathBuf) {
    let server = Server::start(&program, &dir).await;
    let tenant = server.post("/v1/tenants", json!({"name": "bench", "slug": "bench"})).await;
    let key = json!({"name": "bench", "tenant_id": tenant["id"], "environment": "test",
                     "scopes": ["smtp:send", "emails:read"]});
    let key = server.post("/v1/keys", key).await;
    let (user, secret) = (key["id"].as_str().unwrap(), key["secret"].as_str().unwrap());
    let (accepted, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
    let sender = format!("bench@sandbox.{HOSTNAME}");
    submit(&server, user, secret, &sender, &accepted, &stop).await;
    tokio::time::sleep(ROUND).await;
    measure_acceptance(&server, secret, &accepted, Some(PACED_PER_S)).await;
    measure_acceptance(&server, secret, &accepted, None).await;
    stop.cancel();
    tokio::time::sleep(ROUND).await;
    measure_requests(&server, secret).await;
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = PathBuf::from(arguments.first().expect("the directory to fill"));
    let program = arguments.get(1).map_or_else(|| PathBuf::from("target/release/pillarbox"), PathBuf::from);
    std::fs::create_dir(&dir).expect("a directory that does not exist yet");
    let dir = dir.canonicalize().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(dir, program));
}
