//! An authoritative name server for any name, on UDP and TCP at one loopback port. Records can change while it runs;
//! nothing it says may be cached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, SOA, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

pub struct FakeDns {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _server: Server<Answerer>,
}

#[derive(Default)]
struct Zone {
    records: BTreeMap<String, Vec<RData>>,
    failing: BTreeSet<String>,
    silent: BTreeSet<String>,
    queries: Vec<(String, RecordType)>,
}

impl FakeDns {
    pub async fn start() -> Self {
        let zone = Arc::new(Mutex::new(Zone::default()));
        let mut server = Server::new(Answerer(zone.clone()));
        let (udp, tcp) = bind_both().await;
        let address = tcp.local_addr().unwrap();
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(30), 32);
        Self { address, zone, _server: server }
    }

    /// The MX records of a domain: preference and host.
    pub fn mx(&self, domain: &str, hosts: &[(u16, &str)]) {
        let data = hosts.iter().map(|&(preference, host)| RData::MX(MX::new(preference, name(host))));
        self.replace(domain, RecordType::MX, data.collect());
    }

    /// A domain that takes no mail, RFC 7505 §3.
    pub fn null_mx(&self, domain: &str) {
        self.mx(domain, &[(0, "")]);
    }

    /// The A or AAAA records of a host.
    pub fn addresses(&self, host: &str, addresses: &[IpAddr]) {
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(IpAddr::is_ipv4);
        let data = |address: &IpAddr| match *address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        self.replace(host, RecordType::A, v4.iter().map(data).collect());
        self.replace(host, RecordType::AAAA, v6.iter().map(data).collect());
    }

    /// A TXT record, cut into strings of at most 255 octets.
    pub fn text(&self, owner: &str, value: &str) {
        let strings = value.as_bytes().chunks(255).collect();
        self.replace(owner, RecordType::TXT, vec![RData::TXT(TXT::from_bytes(strings))]);
    }

    /// A CNAME record.
    pub fn alias(&self, owner: &str, target: &str) {
        self.replace(owner, RecordType::CNAME, vec![RData::CNAME(CNAME(name(target)))]);
    }

    /// Answers SERVFAIL for a name until [`FakeDns::mend`].
    pub fn fail(&self, owner: &str) {
        self.zone.lock().unwrap().failing.insert(key(owner));
    }

    /// Ends [`FakeDns::fail`].
    pub fn mend(&self, owner: &str) {
        self.zone.lock().unwrap().failing.remove(&key(owner));
    }

    /// Never answers questions about a name or what is under it.
    pub fn silence(&self, owner: &str) {
        self.zone.lock().unwrap().silent.insert(key(owner));
    }

    /// How often a name was asked for, with any type.
    pub fn queries(&self, owner: &str) -> usize {
        let owner = key(owner);
        self.zone.lock().unwrap().queries.iter().filter(|(name, _)| *name == owner).count()
    }

    fn replace(&self, owner: &str, kind: RecordType, data: Vec<RData>) {
        let mut zone = self.zone.lock().unwrap();
        let records = zone.records.entry(key(owner)).or_default();
        records.retain(|old| old.record_type() != kind);
        records.extend(data);
    }
}

/// UDP and TCP at the same port.
async fn bind_both() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

/// How names are kept: lower case, no final dot.
fn key(owner: &str) -> String {
    owner.trim_end_matches('.').to_ascii_lowercase()
}

fn name(text: &str) -> Name {
    Name::from_str(&format!("{}.", text.trim_end_matches('.'))).unwrap()
}

struct Answerer(Arc<Mutex<Zone>>);

#[async_trait::async_trait]
impl RequestHandler for Answerer {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let info = request.request_info().expect("resolvers ask one question at a time");
        let owner = Name::from(info.query.name().clone());
        let (code, answers) = self.0.lock().unwrap().answer(&owner, info.query.query_type());
        if self.0.lock().unwrap().is_silent(&owner) {
            std::future::pending::<()>().await;
        }
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        metadata.recursion_available = true;
        metadata.response_code = code;
        let authority = Record::from_rdata(name("test"), 0, RData::SOA(start_of_authority()));
        let negative = if answers.is_empty() { Some(&authority) } else { None };
        let builder = MessageResponseBuilder::new(&request.queries, request.edns.as_ref());
        let message = builder.build(metadata, &answers, [], negative, []);
        response.send_response(message).await.expect("the answer can be sent")
    }
}

fn start_of_authority() -> SOA {
    SOA::new(name("ns.test"), name("hostmaster.test"), 1, 1, 1, 1, 0)
}

impl Zone {
    fn is_silent(&self, owner: &Name) -> bool {
        let owner = key(&owner.to_ascii());
        self.silent.iter().any(|name| owner == *name || owner.ends_with(&format!(".{name}")))
    }

    /// The answer a recursive server gives: aliases are followed.
    fn answer(&mut self, owner: &Name, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        let mut owner = owner.clone();
        self.queries.push((key(&owner.to_utf8()), kind));
        let mut answers = Vec::new();
        for _ in 0..8 {
            let key = key(&owner.to_utf8());
            if self.failing.contains(&key) {
                return (ResponseCode::ServFail, Vec::new());
            }
            let Some(records) = self.records.get(&key) else {
                let code = if self.has_below(&key) { ResponseCode::NoError } else { ResponseCode::NXDomain };
                return (code, answers);
            };
            let found = |kind| {
                let owner = owner.clone();
                let of_kind = records.iter().filter(move |data| data.record_type() == kind);
                of_kind.map(move |data| Record::from_rdata(owner.clone(), 0, data.clone()))
            };
            answers.extend(found(kind));
            let alias = records.iter().find_map(|data| match data {
                RData::CNAME(CNAME(target)) if kind != RecordType::CNAME => Some(target.clone()),
                _ => None,
            });
            let Some(target) = alias else { break };
            answers.extend(found(RecordType::CNAME));
            owner = target;
        }
        (ResponseCode::NoError, answers)
    }

    fn has_below(&self, key: &str) -> bool {
        let suffix = format!(".{key}");
        self.records.keys().any(|name| name.ends_with(&suffix))
    }
}
