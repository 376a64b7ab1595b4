//! An authoritative name server for any name, on UDP and TCP at one loopback port. Records can change while it runs, so
//! no answer may be cached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, TLSA, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::signed_dns::Signing;

pub struct FakeDns {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _server: Server<Answerer>,
}

#[derive(Default)]
struct Zone {
    records: BTreeMap<String, Vec<RData>>,
    failing: BTreeSet<String>,
    signing: Option<Signing>,
    silent: BTreeSet<String>,
    /// Whether queries with EDNS are answered with FORMERR, as by a server that does not know it.
    denies_edns: bool,
    /// How an attacker between resolver and server changes the answers about a name.
    intrusions: BTreeMap<(String, RecordType), Intrusion>,
    queries: Vec<(String, RecordType)>,
}

enum Intrusion {
    /// Adds the records of another name.
    Add(Name),
    /// Denies the existence, in the name of another zone.
    Deny(Name),
}

impl FakeDns {
    pub async fn start() -> Self {
        Self::with(Zone::default()).await
    }

    /// Starts a server that signs all zones except those of [`FakeDns::unsign`].
    pub async fn start_signed() -> Self {
        Self::with(Zone { signing: Some(Signing::new()), ..Zone::default() }).await
    }

    async fn with(zone: Zone) -> Self {
        let zone = Arc::new(Mutex::new(zone));
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

    /// A null MX (RFC 7505 §3): the domain accepts no mail.
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

    /// One more address of a host.
    pub fn add_address(&self, host: &str, address: IpAddr) {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        self.zone.lock().unwrap().records.entry(key(host)).or_default().push(data);
    }

    /// The name servers of a zone.
    pub fn name_servers(&self, zone: &str, hosts: &[&str]) {
        let data = hosts.iter().map(|host| RData::NS(NS(name(host))));
        self.replace(zone, RecordType::NS, data.collect());
    }

    /// The PTR record of a name.
    pub fn pointer(&self, owner: &str, target: &str) {
        self.replace(owner, RecordType::PTR, vec![RData::PTR(PTR(name(target)))]);
    }

    /// A TXT record, split into strings of at most 255 octets.
    pub fn text(&self, owner: &str, value: &str) {
        let strings = value.as_bytes().chunks(255).collect();
        self.replace(owner, RecordType::TXT, vec![RData::TXT(TXT::from_bytes(strings))]);
    }

    /// Several TXT records of at most 255 octets each.
    pub fn texts(&self, owner: &str, values: &[&str]) {
        let data = values.iter().map(|value| RData::TXT(TXT::from_bytes(vec![value.as_bytes()])));
        self.replace(owner, RecordType::TXT, data.collect());
    }

    /// Removes all records of a name.
    pub fn remove(&self, owner: &str) {
        self.zone.lock().unwrap().records.remove(&key(owner));
    }

    /// TLSA records for a port of a host: usage, selector, matching type and data.
    pub fn tlsa(&self, port: u16, host: &str, records: &[(u8, u8, u8, Vec<u8>)]) {
        let data = records.iter().map(|(usage, selector, matching, data)| {
            let (usage, selector) = (CertUsage::from(*usage), Selector::from(*selector));
            RData::TLSA(TLSA::new(usage, selector, Matching::from(*matching), data.clone()))
        });
        self.replace(&format!("_{port}._tcp.{host}"), RecordType::TLSA, data.collect());
    }

    /// The root's key, for a file of trust anchors.
    pub fn trust_anchor(&self) -> String {
        self.zone.lock().unwrap().signing.as_ref().unwrap().trust_anchor()
    }

    /// Delegates a zone without signatures.
    pub fn unsign(&self, origin: &str) {
        self.zone.lock().unwrap().signing.as_mut().unwrap().unsigned.insert(name(origin));
    }

    /// From now on, answers about a name have no signatures.
    pub fn strip_signatures(&self, owner: &str) {
        self.zone.lock().unwrap().signing.as_mut().unwrap().tampered.insert(name(owner));
    }

    /// A CNAME record.
    pub fn alias(&self, owner: &str, target: &str) {
        self.replace(owner, RecordType::CNAME, vec![RData::CNAME(CNAME(name(target)))]);
    }

    /// From now on, an attacker adds the signed records of another name to the answers about a name.
    pub fn slip_in(&self, owner: &str, kind: RecordType, other: &str) {
        self.zone.lock().unwrap().intrusions.insert((key(owner), kind), Intrusion::Add(name(other)));
    }

    /// From now on, an attacker denies the records of a name, in the name of another zone.
    pub fn deny_by(&self, owner: &str, kind: RecordType, zone: &str) {
        self.zone.lock().unwrap().intrusions.insert((key(owner), kind), Intrusion::Deny(name(zone)));
    }

    /// Answers SERVFAIL for a name until [`FakeDns::mend`].
    pub fn fail(&self, owner: &str) {
        self.zone.lock().unwrap().failing.insert(key(owner));
    }

    /// Ends [`FakeDns::fail`].
    pub fn mend(&self, owner: &str) {
        self.zone.lock().unwrap().failing.remove(&key(owner));
    }

    /// From now on, answers FORMERR to queries with EDNS.
    pub fn deny_edns(&self) {
        self.zone.lock().unwrap().denies_edns = true;
    }

    /// Never answers queries about a name or the names below it.
    pub fn silence(&self, owner: &str) {
        self.zone.lock().unwrap().silent.insert(key(owner));
    }

    /// The number of queries for a name, of any type.
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

/// The form in which names are stored: lower case, no final dot.
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
        let denied = request.edns.is_some() && self.0.lock().unwrap().denies_edns;
        let (code, answers, authorities) = match denied {
            true => (ResponseCode::FormErr, Vec::new(), Vec::new()),
            false => self.0.lock().unwrap().respond(&owner, info.query.query_type()),
        };
        if self.0.lock().unwrap().is_silent(&owner) {
            std::future::pending::<()>().await;
        }
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        metadata.recursion_available = true;
        metadata.response_code = code;
        let edns = request.edns.as_ref().filter(|_| !denied);
        let builder = MessageResponseBuilder::new(&request.queries, edns);
        let message = builder.build(metadata, &answers, [], &authorities, []);
        response.send_response(message).await.expect("the answer can be sent")
    }
}

fn start_of_authority() -> SOA {
    SOA::new(name("ns.test"), name("hostmaster.test"), 1, 1, 1, 1, 0)
}

impl Zone {
    /// The response code, the answers and the authorities, signed if the zone is.
    fn respond(&mut self, owner: &Name, kind: RecordType) -> (ResponseCode, Vec<Record>, Vec<Record>) {
        let (code, mut answers) = self.answer(owner, kind);
        let denier = match self.intrusions.get(&(key(&owner.to_utf8()), kind)) {
            Some(Intrusion::Deny(zone)) => Some(zone.clone()),
            Some(Intrusion::Add(other)) => {
                let other = other.clone();
                answers.extend(self.answer(&other, kind).1);
                None
            }
            None => None,
        };
        let of_zone = |zone: Name| Record::from_rdata(zone, 0, RData::SOA(start_of_authority()));
        let authority = of_zone(name("test"));
        let Some(signing) = &self.signing else {
            let authorities = if answers.is_empty() { vec![authority] } else { Vec::new() };
            return (code, answers, authorities);
        };
        if code == ResponseCode::ServFail {
            return (code, answers, Vec::new());
        }
        if let Some(zone) = denier {
            return (ResponseCode::NoError, Vec::new(), signing.sign(vec![of_zone(zone)]));
        }
        let own = signing.own_records(owner, kind);
        answers.extend(own.into_iter().map(|data| Record::from_rdata(owner.clone(), 0, data)));
        if owner.is_root() && kind == RecordType::SOA {
            answers.push(of_zone(Name::root()));
        }
        let end = answers.last().map_or(owner.clone(), |record| match &record.data {
            RData::CNAME(target) => target.0.clone(),
            _ => record.name.clone(),
        });
        let authority = of_zone(Name::root());
        let mut authorities = Vec::new();
        if !answers.iter().any(|record| record.record_type() == kind) {
            let records = self.records.get(&key(&end.to_utf8()));
            let present: BTreeSet<RecordType> =
                records.into_iter().flatten().map(RData::record_type).collect();
            if kind == RecordType::DS && signing.unsigned.contains(&end) {
                authorities = signing.deny_delegation(&end, authority);
            } else {
                authorities = signing.deny(&end, present, authority);
            }
        }
        (ResponseCode::NoError, signing.sign(answers), authorities)
    }

    fn is_silent(&self, owner: &Name) -> bool {
        let owner = key(&owner.to_ascii());
        self.silent.iter().any(|name| owner == *name || owner.ends_with(&format!(".{name}")))
    }

    /// The answer of a recursive server, which follows aliases.
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
