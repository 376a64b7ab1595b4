//! Every check with facts that are wrong, right and not seen. What it then says is kept in `src/doctor/golden`, a file for each
//! check; `UPDATE_GOLDEN=1` writes them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::facts::{
    AcmeFacts, AcmeRecordFacts, Blocklist, BlocklistFacts, ConfigFacts, DkimFacts, DnsFacts, DomainFacts,
    EgressFacts, Facts, Failing, Handshake, HandshakeFacts, HeldSite, KeyMode, MachineFacts, MailExchange,
    PortFacts, PortState, ResolverFacts, SMART_HOST, Seen, SourceFacts, SpfFacts, StateFacts,
    SubmissionFacts, Times, TlsFacts,
};
use super::super::text::finding_lines;
use super::super::{Diagnosis, Finding, render, summarize};
use super::{CHECKS, Subject, network};
use crate::acme::{AcmeState, ListenFault};
use crate::mail::{DomainName, SignedDuration, Timestamp};
use crate::model::{DkimAlgorithm, FindingStatus};
use crate::store::{DatabaseSettings, DatabaseStatus};
use crate::tls::Inspection;

const OWN: &str = "192.0.2.7";
const OWN_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const GIB: u64 = 1 << 30;

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn spf(records: &[&str]) -> Seen<SpfFacts> {
    let records = records.iter().map(|&record| record.to_owned()).collect();
    Seen::Value(SpfFacts { records, refused: Vec::new(), lookups: 2, void_lookups: 0 })
}

/// A server of which everything is right.
fn server() -> Facts {
    let inspection = Inspection {
        names: vec!["mail.example.com".into()],
        is_for_hostname: true,
        not_before: at("2026-01-01T00:00:00Z"),
        not_after: at("2026-04-01T00:00:00Z"),
        chain_fault: None,
    };
    Facts {
        at: at("2026-02-01T00:00:00Z"),
        times: Times::default(),
        hostname: name("mail.example.com"),
        config: ConfigFacts {
            file: Some("pillarbox.toml".into()),
            api_listen: vec!["127.0.0.1:8587".parse().unwrap()],
            is_api_tls: false,
            is_public_url_https: false,
            ports: Seen::Value(vec![port(PortState::Free)]),
        },
        own_addresses: Seen::Value(vec![address(OWN)]),
        hostname_addresses: Seen::Value(vec![address(OWN)]),
        sources: vec![SourceFacts {
            address: address(OWN),
            ehlo: name("out.example.com"),
            ehlo_addresses: Seen::Value(vec![address(OWN)]),
            reverse: Seen::Value(vec![("out.example.com".into(), Seen::Value(vec![address(OWN)]))]),
        }],
        host_spf: spf(&["v=spf1 ip4:192.0.2.7 -all"]),
        included_spf: Some((name("spf.example.com"), spf(&["v=spf1 ip4:192.0.2.7 -all"]))),
        egress: Seen::Value(EgressFacts {
            host: "mx.example.org".into(),
            result: Ok((
                "220 mx.example.org ESMTP".into(),
                "250-mx.example.org at your service, [192.0.2.7]".into(),
            )),
            seen: Some(address(OWN)),
        }),
        blocklists: on_list(Seen::Value(Blocklist::Answers { asked: vec![OWN_V4], listed: Vec::new() })),
        dns: DnsFacts {
            resolvers: vec![resolver("127.0.0.1:53", Seen::Value(Duration::from_millis(12)))],
            is_dnssec_used: true,
            is_dnssec_passed: Seen::Value(true),
        },
        tls: TlsFacts {
            file: "/etc/pillarbox/tls.crt".into(),
            is_self_signed: false,
            is_by_acme: false,
            certificate: Seen::Value(inspection),
        },
        acme: Seen::Value(AcmeFacts {
            state: AcmeState {
                names: vec!["mail.example.com".into()],
                next_at: Some(at("2026-03-02T00:00:00Z")),
                challenge_listener: Some(Ok(())),
                ..AcmeState::default()
            },
            records: vec![needed_record(Seen::Value(true))],
        }),
        handshakes: HandshakeFacts { starttls: handshake(Ok(false)), implicit: handshake(Ok(false)) },
        submission: submitted(Ok(Seen::Value(true))),
        machine: MachineFacts {
            data_dir: "/var/lib/pillarbox".into(),
            space: Seen::Value((50 * GIB, 100 * GIB)),
            free_min: GIB,
            sync: Seen::Value((Duration::from_micros(800), Duration::from_millis(3))),
            file_system: Seen::Value("local"),
            master_key: "/etc/pillarbox/master.key".into(),
            master_key_mode: key_mode(0o600, false),
            master_key_opens: Seen::Value(()),
            is_master_key_beside_data: false,
            files: Seen::Value(65_536),
            files_needed: 14_268,
            memory: Seen::Value(4 * GIB),
            memory_needed: GIB,
            is_clock_synchronized: Seen::Value(true),
        },
        state: StateFacts {
            oldest_due: Seen::Nothing,
            held_sites: Seen::Value(Vec::new()),
            failing_webhooks: Seen::Value(Vec::new()),
            failing_domains: Seen::Value(Vec::new()),
            refused_smart_hosts: Seen::Value(Vec::new()),
            last_backup: Seen::Value(at("2026-01-31T21:00:00Z")),
            backup_age_max: SignedDuration::from_hours(168),
        },
        database_faults: Seen::Value(Vec::new()),
        postgres: Seen::Value(DatabaseStatus {
            name: "postgres://pillarbox@db.example.com:5432/pillarbox".into(),
            version: "15.18".into(),
            round_trip: Duration::from_micros(700),
            has_tables: true,
            settings: DatabaseSettings {
                max_wal_octets: 8 * GIB,
                checkpoint_timeout: Duration::from_secs(900),
                is_wal_compressed: true,
                autovacuum_naptime: Duration::from_secs(10),
            },
        }),
    }
}

fn postgres(facts: &mut Facts) -> &mut DatabaseStatus {
    let Seen::Value(status) = &mut facts.postgres else { panic!("no database") };
    status
}

fn on_list(answer: Seen<Blocklist>) -> Seen<Vec<BlocklistFacts>> {
    Seen::Value(vec![BlocklistFacts { list: name("list.example"), answer }])
}

fn submitted(result: Result<Seen<bool>, String>) -> Seen<SubmissionFacts> {
    Seen::Value(SubmissionFacts { domain: name("acme.com"), result })
}

fn key_mode(mode: u32, is_of_root: bool) -> Seen<KeyMode> {
    Seen::Value(KeyMode { mode, is_of_root })
}

/// Its sources greet with the host name.
fn greet_as_host(facts: &mut Facts) {
    let hostname = facts.hostname.clone();
    facts.sources.iter_mut().for_each(|source| source.ehlo = hostname.clone());
}

/// Its certificate is a copy that systemd has made.
fn copy_certificate(facts: &mut Facts) {
    facts.tls.file = "/run/credentials/pillarbox.service/tls.crt".into();
}

const ACME_FILE: &str = "/var/lib/pillarbox/acme/certificate.pem";

/// The server gets its certificate itself.
fn use_acme(facts: &mut Facts) {
    facts.tls.is_by_acme = true;
    facts.tls.file = ACME_FILE.into();
}

/// Its certificate is for other names.
fn name_others(facts: &mut Facts) {
    certificate(facts).is_for_hostname = false;
    certificate(facts).names = vec!["www.example.com".into(), "example.com".into()];
}

/// A record for dns-persist-01.
fn needed_record(is_published: Seen<bool>) -> AcmeRecordFacts {
    AcmeRecordFacts {
        name: "_validation-persist.mail.example.com".into(),
        value: "ca.example; accounturi=https://ca.example/acct/1".into(),
        is_published,
    }
}

fn acme(facts: &mut Facts) -> &mut AcmeFacts {
    match &mut facts.acme {
        Seen::Value(acme) => acme,
        _ => panic!("the server of the tests uses ACME"),
    }
}

fn refuse_port80(facts: &mut Facts, kind: ErrorKind, reason: &str) {
    let fault = ListenFault { address: "[::]:80".parse().unwrap(), kind, reason: reason.into() };
    acme(facts).state.challenge_listener = Some(Err(fault));
}

fn handshake(result: Result<bool, String>) -> Seen<Vec<Handshake>> {
    Seen::Value(vec![Handshake { address: "127.0.0.1:587".parse().unwrap(), result }])
}

fn resolver(address: &str, answered_in: Seen<Duration>) -> ResolverFacts {
    ResolverFacts { address: address.parse().unwrap(), answered_in }
}

fn failing(names: &[&str], reason: &str) -> Seen<Vec<Failing>> {
    let of =
        |name: &&str| Failing { name: (*name).to_owned(), id: (*name).to_owned(), reason: reason.to_owned() };
    Seen::Value(names.iter().map(of).collect())
}

/// So many sites, of which no domain is known.
fn hold(facts: &mut Facts, sites: usize) {
    let until = at("2026-02-01T01:00:00Z");
    let site = HeldSite { name: "x.example".into(), domain: None, until, reply: "421 busy".into() };
    facts.state.held_sites = Seen::Value(vec![site; sites]);
}

fn failing_webhooks(ids: &[&str]) -> Seen<Vec<Failing>> {
    let of = |id: &&str| Failing {
        name: format!("webhook {id}"),
        id: (*id).to_owned(),
        reason: "has failed since noon".to_owned(),
    };
    Seen::Value(ids.iter().map(of).collect())
}

/// The names of an address, each with the addresses that it leads to.
type Reverse = Seen<Vec<(String, Seen<Vec<IpAddr>>)>>;

fn v6(facts: &mut Facts, reverse: Reverse) {
    facts.sources[0].address = address("2a00:1450::7");
    facts.sources[0].reverse = reverse;
}

const SERVER_NOT_ASKED: &str = "the running server was not asked";

fn port(state: PortState) -> PortFacts {
    PortFacts { option: "smtp.submission", address: "0.0.0.0:587".parse().unwrap(), state }
}

/// A domain of which everything is right.
fn domain() -> DomainFacts {
    let record = "v=DKIM1; k=rsa; p=MIIB";
    DomainFacts {
        name: name("acme.com"),
        duration_ms: 0,
        ownership: (
            "_pillarbox.acme.com".into(),
            "pillarbox-verify=abc".into(),
            texts(&["pillarbox-verify=abc"]),
        ),
        is_manual: false,
        keys: vec![DkimFacts {
            selector: "pb1".into(),
            record_name: "pb1._domainkey.acme.com".into(),
            record: record.into(),
            algorithm: DkimAlgorithm::Rsa,
            rsa_bits: Some(2048),
            is_signing: true,
            found: texts(&[record]),
            verifies: Seen::Value(true),
        }],
        spf: spf(&["v=spf1 include:mail.example.com -all"]),
        own_addresses: Seen::Value(vec![address(OWN)]),
        spf_include: name("mail.example.com"),
        includes_us: true,
        spf_wanted: "v=spf1 include:mail.example.com -all".into(),
        dmarc: Seen::Value((name("acme.com"), vec!["v=DMARC1; p=reject".into()])),
        report_consents: vec![(name("reports.example"), Seen::Value(true))],
        reverse_path: name("acme.com"),
        mail_exchanges: Seen::Value(MailExchange::Hosts(
            ["mx.acme.com", "b.example", "c.example", "d.example"].map(str::to_owned).to_vec(),
        )),
        taken_above: None,
    }
}

fn texts(all: &[&str]) -> Seen<Vec<String>> {
    Seen::Value(all.iter().map(|&text| text.to_owned()).collect())
}

const UNKNOWN: &str = "the address that the Internet sees is not known";

fn failed<T>() -> Seen<T> {
    Seen::Failed("DNS lookup failed: timeout".into())
}

/// Makes one thing of a server wrong.
type OfServer = fn(&mut Facts);
/// Makes one thing of a domain wrong.
type OfDomain = fn(&mut DomainFacts);

/// For each check of the server: what is wrong, and what was not seen.
fn server_cases() -> Vec<(&'static str, Vec<OfServer>, Option<OfServer>)> {
    vec![
        ("config.hostname", vec![|facts| facts.hostname = name("localhost")], None),
        (
            "config.api_exposed",
            vec![|facts| facts.config.api_listen = vec!["0.0.0.0:8587".parse().unwrap()], |facts| {
                facts.config.api_listen = vec!["0.0.0.0:8587".parse().unwrap()];
                facts.config.is_public_url_https = true;
            }],
            None,
        ),
        (
            "config.ports",
            vec![
                |facts| facts.config.ports = Seen::Value(vec![port(PortState::Taken)]),
                |facts| facts.config.ports = Seen::Value(vec![port(PortState::Forbidden)]),
                |facts| {
                    facts.config.ports =
                        Seen::Value(vec![port(PortState::Unusable("no such address".into()))])
                },
            ],
            Some(|facts| facts.config.ports = Seen::NotAsked("the running server has its ports")),
        ),
        (
            "name.resolves",
            vec![
                |facts| {
                    greet_as_host(facts);
                    facts.hostname_addresses = Seen::Nothing;
                },
                // Behind a translator of addresses.
                |facts| {
                    greet_as_host(facts);
                    facts.hostname_addresses = Seen::Value(vec![address("10.0.0.7")]);
                },
                |facts| {
                    facts.own_addresses = Seen::Value(vec![address(OWN), address("2a00:1450::7")]);
                    facts
                        .sources
                        .push(SourceFacts { address: address("2a00:1450::7"), ..facts.sources[0].clone() });
                    greet_as_host(facts);
                },
                |facts| facts.hostname_addresses = Seen::Nothing,
            ],
            Some(|facts| facts.hostname_addresses = failed()),
        ),
        (
            "name.ehlo",
            vec![|facts| facts.sources[0].ehlo_addresses = Seen::Nothing],
            Some(|facts| facts.sources[0].ehlo = facts.hostname.clone()),
        ),
        (
            "name.ptr",
            vec![
                |facts| facts.sources[0].reverse = Seen::Nothing,
                |facts| facts.sources[0].reverse = reverse(&["other.example"], "192.0.2.8"),
                |facts| facts.sources[0].reverse = reverse(&["out.example.com"], "192.0.2.8"),
                |facts| facts.sources[0].reverse = reverse(&["a.example", "b.example"], OWN),
                |facts| facts.sources[0].reverse = reverse(&["dyn-192-0-2-7.isp.example"], OWN),
                |facts| facts.sources[0].reverse = reverse(&["mail.other.example"], OWN),
            ],
            Some(|facts| facts.sources[0].reverse = failed()),
        ),
        (
            "net.port25",
            vec![
                |facts| egress(facts).result = Err("the connection timed out".into()),
                |facts| egress(facts).result = Ok(("554 no service for you".into(), String::new())),
                |facts| egress(facts).result = Ok(("220 mx.example.org".into(), "550 who are you".into())),
            ],
            Some(|facts| facts.egress = Seen::NotAsked("no domain to connect to: set doctor.egress_domain")),
        ),
        (
            "net.public_address",
            vec![
                |facts| {
                    facts.own_addresses = Seen::NotAsked(UNKNOWN);
                    facts.egress = Seen::NotAsked("nobody looked");
                },
                |facts| facts.own_addresses = Seen::NotAsked(UNKNOWN),
                |facts| egress(facts).seen = Some(address("192.0.2.99")),
            ],
            Some(|facts| egress(facts).seen = None),
        ),
        ("net.ipv6", vec![|facts| v6(facts, Seen::Nothing)], Some(|facts| v6(facts, failed()))),
        (
            "net.dnsbl",
            vec![
                |facts| {
                    let listed = vec![(OWN_V4, "see https://list.example/".to_owned())];
                    facts.blocklists =
                        on_list(Seen::Value(Blocklist::Answers { asked: vec![OWN_V4], listed }));
                },
                |facts| {
                    let both = [OWN_V4, Ipv4Addr::new(192, 0, 2, 8)];
                    let listed = vec![(both[0], String::new()), (both[1], "the whole network".to_owned())];
                    facts.blocklists =
                        on_list(Seen::Value(Blocklist::Answers { asked: both.to_vec(), listed }));
                },
            ],
            Some(|facts| {
                let broken = Blocklist::Broken("it has an address that no list has");
                let lists = [Seen::Value(Blocklist::Refuses), Seen::Value(broken), failed(), Seen::Nothing];
                let fact = |answer| BlocklistFacts { list: name("list.example"), answer };
                facts.blocklists = Seen::Value(lists.into_iter().map(fact).collect());
            }),
        ),
        (
            "dns.answers",
            vec![|facts| facts.dns.resolvers = vec![resolver("192.0.2.53:53", failed())], |facts| {
                facts.dns.resolvers = vec![resolver("192.0.2.53:53", Seen::Value(Duration::from_millis(800)))]
            }],
            Some(|facts| facts.dns.resolvers.clear()),
        ),
        (
            "dns.dnssec",
            vec![|facts| facts.dns.is_dnssec_passed = Seen::Value(false), |facts| {
                facts.dns.is_dnssec_used = false
            }],
            Some(|facts| facts.dns.is_dnssec_passed = failed()),
        ),
        (
            "dns.public_resolver",
            vec![|facts| {
                facts.dns.resolvers = vec![resolver("8.8.8.8:53", Seen::Value(Duration::from_millis(8)))]
            }],
            Some(|facts| facts.dns.resolvers.clear()),
        ),
        (
            "spf.host",
            vec![
                |facts| facts.host_spf = Seen::Nothing,
                |facts| facts.host_spf = spf(&["v=spf1 -all", "v=spf1 mx -all"]),
                |facts| refuse(&mut facts.host_spf),
                |facts| {
                    facts.host_spf = spf(&["v=spf1 ip4:192.0.2.0/28 include:other.example -all"]);
                    cost(&mut facts.host_spf, 11, 0);
                },
            ],
            Some(|facts| facts.host_spf = failed()),
        ),
        (
            "spf.include",
            vec![|facts| cost(&mut facts.included_spf.as_mut().unwrap().1, 10, 0), |facts| {
                cost(&mut facts.included_spf.as_mut().unwrap().1, 5, 3)
            }],
            Some(|facts| facts.included_spf = None),
        ),
        (
            "tls.chain",
            vec![
                |facts| facts.tls.is_self_signed = true,
                |facts| certificate(facts).chain_fault = Some("no authority has issued it".into()),
                |facts| {
                    facts.tls.certificate =
                        Seen::Failed("/etc/pillarbox/tls.crt: not a certificate in PEM".into())
                },
                |facts| {
                    copy_certificate(facts);
                    certificate(facts).chain_fault = Some("no authority has issued it".into());
                },
                |facts| {
                    use_acme(facts);
                    facts.tls.is_self_signed = true;
                },
                |facts| {
                    use_acme(facts);
                    facts.tls.certificate = Seen::Failed(format!("{ACME_FILE}: not a certificate in PEM"));
                },
            ],
            Some(|facts| {
                facts.tls.certificate = Seen::NotAsked("the server makes a certificate at its first start")
            }),
        ),
        (
            "tls.name",
            vec![name_others, |facts| {
                use_acme(facts);
                name_others(facts);
            }],
            Some(|facts| facts.tls.certificate = Seen::Failed("not readable".into())),
        ),
        (
            "tls.expires",
            vec![
                |facts| facts.at = at("2026-05-01T00:00:00Z"),
                |facts| facts.at = at("2026-03-30T00:00:00Z"),
                |facts| facts.at = at("2026-03-30T12:00:00Z"),
                |facts| facts.at = at("2026-03-31T12:00:00Z"),
                |facts| facts.at = at("2026-03-22T00:00:00Z"),
                |facts| facts.at = at("2025-12-01T00:00:00Z"),
                |facts| {
                    use_acme(facts);
                    facts.at = at("2026-03-30T00:00:00Z");
                },
                // Of another program, in a directory that has the same name.
                |facts| {
                    facts.tls.file = "/etc/lego/acme/certificate.pem".into();
                    facts.at = at("2026-03-30T00:00:00Z");
                },
                |facts| {
                    copy_certificate(facts);
                    facts.at = at("2026-03-22T00:00:00Z");
                },
            ],
            Some(|facts| facts.tls.certificate = Seen::Failed("not readable".into())),
        ),
        (
            "tls.starttls",
            vec![
                |facts| {
                    facts.handshakes.starttls =
                        handshake(Err("received fatal alert: HandshakeFailure".into()))
                },
                |facts| {
                    copy_certificate(facts);
                    facts.handshakes.starttls =
                        handshake(Err("received fatal alert: HandshakeFailure".into()));
                },
            ],
            Some(|facts| facts.handshakes.starttls = Seen::Value(Vec::new())),
        ),
        (
            "tls.implicit",
            vec![|facts| facts.handshakes.implicit = handshake(Err("Connection refused".into()))],
            Some(|facts| facts.handshakes.implicit = Seen::NotAsked(SERVER_NOT_ASKED)),
        ),
        (
            "tls.no_auth_in_clear",
            vec![|facts| facts.handshakes.starttls = handshake(Ok(true))],
            Some(|facts| facts.handshakes.starttls = handshake(Err("Connection refused".into()))),
        ),
        (
            "self.submission",
            vec![
                |facts| facts.submission = submitted(Err("535 5.7.8 [login_refused] no such key".into())),
                |facts| facts.submission = submitted(Ok(Seen::Value(false))),
            ],
            Some(|facts| facts.submission = submitted(Ok(failed()))),
        ),
        (
            "acme.order",
            vec![|facts| {
                acme(facts).state.error =
                    Some("the authority refused mail.example.com: connection: timeout".into());
                acme(facts).state.failing_since = Some(at("2026-01-31T10:00:00Z"));
            }],
            Some(|facts| facts.acme = Seen::Nothing),
        ),
        (
            "acme.record",
            vec![|facts| acme(facts).records[0].is_published = Seen::Value(false), |facts| {
                let other = needed_record(Seen::Value(false));
                acme(facts)
                    .records
                    .push(AcmeRecordFacts { name: other.name.replace("mail", "smtp"), ..other });
            }],
            Some(|facts| {
                acme(facts).records[0].is_published = failed();
            }),
        ),
        (
            "acme.port80",
            vec![
                |facts| refuse_port80(facts, ErrorKind::AddrInUse, "Address already in use (os error 98)"),
                |facts| refuse_port80(facts, ErrorKind::PermissionDenied, "Permission denied (os error 13)"),
                |facts| {
                    let reason = "Address family not supported by protocol (os error 97)";
                    refuse_port80(facts, ErrorKind::Unsupported, reason);
                },
            ],
            Some(|facts| acme(facts).state.challenge_listener = None),
        ),
        (
            "disk.free",
            vec![|facts| facts.machine.space = Seen::Value((GIB / 2, 100 * GIB)), |facts| {
                facts.machine.space = Seen::Value((8 * GIB, 100 * GIB))
            }],
            Some(|facts| facts.machine.space = Seen::Failed("Permission denied".into())),
        ),
        (
            "disk.fsync",
            vec![|facts| {
                facts.machine.sync = Seen::Value((Duration::from_millis(40), Duration::from_millis(90)))
            }],
            Some(|facts| facts.machine.sync = Seen::NotAsked("the data directory does not exist yet")),
        ),
        (
            "disk.kind",
            vec![|facts| facts.machine.file_system = Seen::Value("tmpfs"), |facts| {
                facts.machine.file_system = Seen::Value("nfs")
            }],
            Some(|facts| facts.machine.file_system = Seen::Failed("Permission denied".into())),
        ),
        (
            "key.mode",
            vec![|facts| facts.machine.master_key_mode = key_mode(0o644, false), |facts| {
                facts.machine.master_key_mode = key_mode(0o604, true)
            }],
            Some(|facts| facts.machine.master_key_mode = Seen::NotAsked("the master key does not exist yet")),
        ),
        (
            "key.opens",
            vec![|facts| {
                facts.machine.master_key_opens = Seen::Failed("master key: the file is missing".into())
            }],
            Some(|facts| {
                facts.machine.master_key_opens = Seen::NotAsked("the master key does not exist yet")
            }),
        ),
        ("key.beside_data", vec![|facts| facts.machine.is_master_key_beside_data = true], None),
        (
            "limit.files",
            vec![|facts| facts.machine.files = Seen::Value(1024)],
            Some(|facts| facts.machine.files = Seen::Failed("no limit can be read".into())),
        ),
        (
            "limit.memory",
            vec![|facts| facts.machine.memory = Seen::Value(GIB / 2)],
            Some(|facts| facts.machine.memory = Seen::Failed("Permission denied".into())),
        ),
        (
            "clock.synced",
            vec![|facts| facts.machine.is_clock_synchronized = Seen::Value(false)],
            Some(|facts| {
                facts.machine.is_clock_synchronized = Seen::NotAsked("systemd-timesyncd does not run")
            }),
        ),
        (
            "queue.age",
            vec![|facts| {
                facts.state.oldest_due =
                    Seen::Value((at("2026-01-31T22:00:00Z"), "450 4.2.1 try later".into()));
            }],
            Some(|facts| facts.state.oldest_due = Seen::NotAsked(SERVER_NOT_ASKED)),
        ),
        (
            "queue.site_held",
            vec![
                |facts| {
                    let until = at("2026-02-01T01:00:00Z");
                    facts.state.held_sites = Seen::Value(vec![HeldSite {
                        name: "mx.example.org".into(),
                        domain: Some("example.org".into()),
                        until,
                        reply: "421 busy".into(),
                    }]);
                },
                |facts| hold(facts, 7),
            ],
            Some(|facts| facts.state.held_sites = Seen::NotAsked(SERVER_NOT_ASKED)),
        ),
        (
            "webhook.failing",
            vec![|facts| facts.state.failing_webhooks = failing_webhooks(&["whk_1"]), |facts| {
                facts.state.failing_webhooks = failing_webhooks(&["a", "b", "c", "d", "e", "f", "g"])
            }],
            Some(|facts| facts.state.failing_webhooks = Seen::NotAsked(SERVER_NOT_ASKED)),
        ),
        (
            "domain.failing",
            vec![|facts| {
                facts.state.failing_domains = failing(&["acme.com"], "has wrong records since noon")
            }],
            Some(|facts| facts.state.failing_domains = Seen::NotAsked(SERVER_NOT_ASKED)),
        ),
        (
            "smart_host.refused",
            vec![|facts| {
                facts.state.refused_smart_hosts =
                    failing(&["tnt_1"], "has a smart host that refuses the login: 535 5.7.8 wrong password")
            }],
            Some(|facts| facts.state.refused_smart_hosts = Seen::NotAsked(SERVER_NOT_ASKED)),
        ),
        (
            "store.database",
            vec![
                |facts| {
                    facts.postgres =
                        Seen::Failed("postgres://u@h:5432/d: error connecting to server: refused".into())
                },
                |facts| postgres(facts).round_trip = Duration::from_millis(21),
                |facts| {
                    postgres(facts).settings = DatabaseSettings {
                        max_wal_octets: GIB,
                        checkpoint_timeout: Duration::from_secs(300),
                        is_wal_compressed: false,
                        autovacuum_naptime: Duration::from_secs(60),
                    }
                },
            ],
            Some(|facts| facts.postgres = Seen::NotAsked("the database is in SQLite, in the data directory")),
        ),
        (
            "store.quick_check",
            vec![
                |facts| {
                    facts.database_faults = texts(&["Tree 5 page 6: btreeInitPage() returns error code 11"])
                },
                |facts| {
                    facts.database_faults = texts(&["row 7 missing from index", "row 8 missing from index"])
                },
            ],
            Some(|facts| {
                facts.database_faults = Seen::NotAsked("not asked for; --deep reads the whole database")
            }),
        ),
        (
            "backup.age",
            vec![|facts| facts.state.last_backup = Seen::Nothing, |facts| {
                facts.state.last_backup = Seen::Value(at("2026-01-20T00:00:00Z"));
            }],
            Some(|facts| facts.state.last_backup = Seen::Failed("Permission denied".to_owned())),
        ),
    ]
}

fn egress(facts: &mut Facts) -> &mut EgressFacts {
    let Seen::Value(egress) = &mut facts.egress else { panic!("no mail host") };
    egress
}

fn reverse(names: &[&str], leads_to: &str) -> Reverse {
    let lead = |&name: &&str| (name.to_owned(), Seen::Value(vec![address(leads_to)]));
    Seen::Value(names.iter().map(lead).collect())
}

fn refuse(spf: &mut Seen<SpfFacts>) {
    let Seen::Value(spf) = spf else { panic!("no SPF") };
    spf.records = vec!["v=spf1 mx ~all".into()];
    spf.refused = vec![address(OWN)];
}

fn cost(spf: &mut Seen<SpfFacts>, lookups: u32, void_lookups: u32) {
    let Seen::Value(spf) = spf else { panic!("no SPF") };
    (spf.lookups, spf.void_lookups) = (lookups, void_lookups);
}

fn certificate(facts: &mut Facts) -> &mut Inspection {
    let Seen::Value(certificate) = &mut facts.tls.certificate else { panic!("no certificate") };
    certificate
}

/// For each check of a domain: what is wrong, and what was not seen.
fn domain_cases() -> Vec<(&'static str, Vec<OfDomain>, Option<OfDomain>)> {
    vec![
        (
            "domain.ownership",
            vec![|facts| facts.ownership.2 = Seen::Nothing, |facts| {
                facts.ownership.2 = texts(&["pillarbox-verify=xyz"])
            }],
            Some(|facts| facts.ownership.2 = failed()),
        ),
        (
            "dkim.record",
            vec![
                |facts| facts.keys[0].found = Seen::Nothing,
                |facts| facts.keys[0].verifies = Seen::Value(false),
                |facts| {
                    let pending =
                        DkimFacts { is_signing: false, found: Seen::Nothing, ..facts.keys[0].clone() };
                    facts.keys.push(pending);
                },
            ],
            Some(|facts| facts.keys[0].found = failed()),
        ),
        (
            "dkim.size",
            vec![|facts| facts.keys[0].rsa_bits = Some(768), |facts| facts.keys[0].rsa_bits = Some(1024)],
            Some(|facts| facts.keys[0].rsa_bits = None),
        ),
        (
            "dkim.duplicate",
            vec![|facts| facts.keys[0].found = texts(&["v=DKIM1; k=rsa; p=MIIB", "v=DKIM1; p=MIIC"])],
            Some(|facts| facts.keys[0].found = Seen::Nothing),
        ),
        (
            "spf.one",
            vec![|facts| facts.spf = Seen::Nothing, |facts| {
                facts.spf = spf(&["v=spf1 mx ~all", "v=spf1 -all"])
            }],
            Some(|facts| facts.spf = failed()),
        ),
        (
            "spf.passes",
            vec![
                |facts| {
                    facts.includes_us = false;
                    refuse(&mut facts.spf);
                },
                |facts| {
                    facts.includes_us = false;
                    facts.own_addresses = Seen::NotAsked(UNKNOWN);
                },
            ],
            Some(|facts| facts.spf = Seen::Nothing),
        ),
        (
            "spf.lookups",
            vec![|facts| cost(&mut facts.spf, 11, 0), |facts| cost(&mut facts.spf, 4, 3)],
            Some(|facts| facts.spf = Seen::Nothing),
        ),
        (
            "spf.plus_all",
            vec![|facts| facts.spf = spf(&["v=spf1 mx +all"])],
            Some(|facts| facts.spf = Seen::Nothing),
        ),
        (
            "dmarc.one",
            vec![
                |facts| facts.dmarc = Seen::Nothing,
                |facts| facts.dmarc = dmarc(&["v=DMARC1; p=reject", "v=DMARC1; p=none"]),
                |facts| {
                    facts.dmarc = dmarc(&["v=DMARC1; p=reject", "v=DMARC1; p=none"]);
                    facts.name = name("news.acme.com");
                },
            ],
            Some(|facts| facts.dmarc = failed()),
        ),
        (
            "dmarc.policy",
            vec![|facts| facts.dmarc = dmarc(&["v=DMARC1; p=none"]), |facts| {
                facts.dmarc = dmarc(&["v=DMARC1; p=reject; sp=none"]);
                facts.name = name("news.acme.com");
            }],
            Some(|facts| facts.dmarc = Seen::Nothing),
        ),
        (
            "dmarc.aligned",
            vec![
                |facts| {
                    facts.keys[0].verifies = Seen::Value(false);
                    facts.reverse_path = name("bounces.example");
                },
                |facts| {
                    facts.keys[0].verifies = Seen::Value(false);
                    refuse(&mut facts.spf);
                },
                |facts| {
                    facts.keys.clear();
                    facts.spf = Seen::Nothing;
                },
            ],
            Some(|facts| {
                facts.keys[0].found = failed();
                facts.keys[0].verifies = Seen::NotAsked("there is no record to verify a signature with");
            }),
        ),
        (
            "dmarc.rua",
            vec![|facts| facts.report_consents[0].1 = Seen::Value(false)],
            Some(|facts| facts.report_consents[0].1 = failed()),
        ),
        (
            "mx.replies",
            vec![
                |facts| facts.mail_exchanges = Seen::Value(MailExchange::NullMx),
                |facts| facts.mail_exchanges = Seen::Nothing,
                |facts| {
                    facts.mail_exchanges = Seen::Nothing;
                    facts.reverse_path = name("bounces.host.example");
                },
            ],
            Some(|facts| facts.mail_exchanges = failed()),
        ),
        (
            "domain.taken_above",
            vec![|facts| facts.taken_above = Some(name("acme.com")), |facts| {
                facts.taken_above = Some(name("com.example"))
            }],
            None,
        ),
    ]
}

fn dmarc(records: &[&str]) -> Seen<(DomainName, Vec<String>)> {
    Seen::Value((name("acme.com"), records.iter().map(|&record| record.to_owned()).collect()))
}

fn changed<T>(mut facts: T, change: fn(&mut T)) -> T {
    change(&mut facts);
    facts
}

/// What the cases of a check found: wrong ones, the right one, and the one that was not seen.
struct Outcome {
    id: &'static str,
    wrong: Vec<Vec<Finding>>,
    right: Vec<Finding>,
    skipped: Option<Vec<Finding>>,
}

fn outcomes() -> Vec<Outcome> {
    let of = |id: &'static str, findings: Vec<Finding>| -> Vec<Finding> {
        findings.into_iter().filter(|finding| finding.id == id).collect()
    };
    let look_at_server = |id, facts: &Facts| of(id, super::server(facts));
    let look_at_domain = |id, facts: &DomainFacts| of(id, super::domain(facts));
    let mut all: Vec<Outcome> = vec![Outcome {
        id: "config.valid",
        wrong: vec![of(
            "config.valid",
            super::invalid_config("pillarbox.toml", "pillarbox.toml: no such file"),
        )],
        right: look_at_server("config.valid", &server()),
        skipped: None,
    }];
    all.extend(server_cases().into_iter().map(|(id, wrong, skipped)| Outcome {
        id,
        wrong: wrong.into_iter().map(|change| look_at_server(id, &changed(server(), change))).collect(),
        right: look_at_server(id, &server()),
        skipped: skipped.map(|change| look_at_server(id, &changed(server(), change))),
    }));
    all.extend(domain_cases().into_iter().map(|(id, wrong, skipped)| Outcome {
        id,
        wrong: wrong.into_iter().map(|change| look_at_domain(id, &changed(domain(), change))).collect(),
        right: look_at_domain(id, &domain()),
        skipped: skipped.map(|change| look_at_domain(id, &changed(domain(), change))),
    }));
    all
}

fn worst(findings: &[Finding]) -> FindingStatus {
    findings.iter().map(|finding| finding.status).max().unwrap()
}

#[test]
fn every_check_has_a_case_that_fails_and_one_that_is_right() {
    let outcomes = outcomes();
    let ids: Vec<&str> = outcomes.iter().map(|outcome| outcome.id).collect();
    let known: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(ids, known);
    for Outcome { id, wrong, right, skipped } in &outcomes {
        assert_eq!(worst(right), FindingStatus::Ok, "{id}: {right:?}");
        assert!(worst(&wrong[0]) >= FindingStatus::Info, "{id}");
        for finding in wrong.iter().flatten().filter(|finding| finding.status >= FindingStatus::Warning) {
            let fix = finding.fix.as_ref().unwrap_or_else(|| panic!("{id} has no fix: {finding:?}"));
            assert!(!fix.text.is_empty(), "{id}");
        }
        for findings in wrong {
            assert!(worst(findings) >= FindingStatus::Info, "{id}: {findings:?}");
        }
        for finding in skipped.iter().flatten() {
            assert_eq!(finding.status, FindingStatus::Skipped, "{id}: {finding:?}");
        }
    }
}

#[test]
fn each_check_says_what_its_file_has() {
    for Outcome { id, wrong, right, skipped } in outcomes() {
        let mut text = String::new();
        let titled = wrong.into_iter().map(|found| ("wrong", found));
        for (title, findings) in
            titled.chain([("right", right)]).chain(skipped.map(|found| ("skipped", found)))
        {
            text += &format!("# {title}\n");
            for finding in &findings {
                text += &finding_lines(finding);
                text += &format!("{}\n", serde_json::to_string(finding).unwrap());
            }
        }
        compare(&format!("{id}.txt"), &text);
    }
}

#[test]
fn the_whole_output_is_sorted_by_what_needs_something() {
    let mut facts = server();
    facts.sources[0].reverse = Seen::Nothing;
    facts.at = at("2026-03-22T00:00:00Z");
    facts.state.last_backup = Seen::Value(at("2026-03-21T21:00:00Z"));
    facts.sources[0].ehlo = facts.hostname.clone();
    let found = Diagnosis::new("mail.example.com", super::server(&facts), facts.at, 2345);
    compare("whole.txt", &format!("{}{}{}", render(&found, false), render(&found, true), summarize(&found)));
    let right = Diagnosis::new("mail.example.com", super::server(&server()), facts.at, 40);
    compare("right.txt", &format!("{}{}", render(&right, false), summarize(&right)));
}

/// Compares with a file, or writes it. The version of the program is left out.
fn compare(file: &str, text: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/doctor/golden").join(file);
    let text = text.replace(concat!("Pillarbox ", env!("CARGO_PKG_VERSION")), "Pillarbox VERSION");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, kept, "{file}; UPDATE_GOLDEN=1 writes it");
}

#[test]
fn nothing_is_ok_that_was_not_seen() {
    const NOT_SEEN: &str = "nobody looked";
    let mut facts = server();
    facts.config.ports = Seen::NotAsked(NOT_SEEN);
    facts.own_addresses = Seen::NotAsked(NOT_SEEN);
    facts.hostname_addresses = Seen::NotAsked(NOT_SEEN);
    facts.sources.clear();
    facts.host_spf = Seen::NotAsked(NOT_SEEN);
    facts.included_spf = Some((name("spf.example.com"), Seen::NotAsked(NOT_SEEN)));
    facts.handshakes =
        HandshakeFacts { starttls: Seen::NotAsked(NOT_SEEN), implicit: Seen::NotAsked(NOT_SEEN) };
    facts.egress = Seen::NotAsked(NOT_SEEN);
    facts.blocklists = Seen::NotAsked(NOT_SEEN);
    facts.submission = Seen::NotAsked(NOT_SEEN);
    facts.database_faults = Seen::NotAsked(NOT_SEEN);
    facts.postgres = Seen::NotAsked(NOT_SEEN);
    facts.dns.resolvers.clear();
    facts.dns.is_dnssec_passed = Seen::NotAsked(NOT_SEEN);
    facts.state = StateFacts {
        oldest_due: Seen::NotAsked(NOT_SEEN),
        held_sites: Seen::NotAsked(NOT_SEEN),
        failing_webhooks: Seen::NotAsked(NOT_SEEN),
        failing_domains: Seen::NotAsked(NOT_SEEN),
        refused_smart_hosts: Seen::NotAsked(NOT_SEEN),
        last_backup: Seen::NotAsked(NOT_SEEN),
        backup_age_max: SignedDuration::from_hours(168),
    };
    facts.tls.certificate = Seen::NotAsked(NOT_SEEN);
    // A server that has just started.
    facts.acme = Seen::Value(AcmeFacts::default());
    facts.machine = MachineFacts {
        space: Seen::NotAsked(NOT_SEEN),
        sync: Seen::NotAsked(NOT_SEEN),
        file_system: Seen::NotAsked(NOT_SEEN),
        master_key_mode: Seen::NotAsked(NOT_SEEN),
        master_key_opens: Seen::NotAsked(NOT_SEEN),
        files: Seen::NotAsked(NOT_SEEN),
        memory: Seen::NotAsked(NOT_SEEN),
        is_clock_synchronized: Seen::NotAsked(NOT_SEEN),
        ..facts.machine
    };
    // These look at the configuration only.
    let of_config = ["config.valid", "config.hostname", "config.api_exposed", "key.beside_data"];
    let found = super::server(&facts);
    for finding in found.iter().filter(|finding| !of_config.contains(&finding.id.as_ref())) {
        assert_ne!(finding.status, FindingStatus::Ok, "{finding:?}");
    }
    let mut facts = domain();
    facts.ownership.2 = Seen::NotAsked(NOT_SEEN);
    (facts.keys[0].found, facts.keys[0].verifies) = (Seen::NotAsked(NOT_SEEN), Seen::NotAsked(NOT_SEEN));
    (facts.spf, facts.dmarc) = (Seen::NotAsked(NOT_SEEN), Seen::NotAsked(NOT_SEEN));
    (facts.report_consents[0].1, facts.mail_exchanges) = (Seen::NotAsked(NOT_SEEN), Seen::NotAsked(NOT_SEEN));
    // The size of a key and the owners of domains are our own data.
    for finding in super::domain(&facts) {
        let is_own = ["dkim.size", "domain.taken_above"].contains(&finding.id.as_ref());
        assert!(is_own || finding.status != FindingStatus::Ok, "{finding:?}");
    }
}

/// The time of a look, and the checks that are about its facts.
type Looked = (fn(&mut Times) -> &mut u64, &'static [&'static str]);

#[test]
fn each_finding_has_the_time_of_the_look_that_its_facts_come_from() {
    let looks: [Looked; 13] = [
        (|times| &mut times.names, &["name.resolves", "name.ehlo", "name.ptr", "net.ipv6"]),
        (|times| &mut times.spf, &["spf.host", "spf.include"]),
        (|times| &mut times.egress, &["net.port25", "net.public_address"]),
        (|times| &mut times.blocklists, &["net.dnsbl"]),
        (|times| &mut times.name_servers, &["dns.answers", "dns.dnssec"]),
        (|times| &mut times.certificate, &["tls.chain", "tls.name", "tls.expires", "acme.record"]),
        (|times| &mut times.handshakes, &["tls.starttls", "tls.implicit", "tls.no_auth_in_clear"]),
        (|times| &mut times.submission, &["self.submission"]),
        (|times| &mut times.machine, &["disk.free", "disk.fsync", "disk.kind", "key.mode", "key.opens"]),
        (|times| &mut times.ports, &["config.ports"]),
        (
            |times| &mut times.state,
            &[
                "queue.age",
                "queue.site_held",
                "webhook.failing",
                "domain.failing",
                "smart_host.refused",
                "backup.age",
            ],
        ),
        (|times| &mut times.postgres, &["store.database"]),
        (|times| &mut times.database, &["store.quick_check"]),
    ];
    for (time, expected) in looks {
        let mut facts = server();
        *time(&mut facts.times) = 7;
        let timed = super::server(&facts).into_iter().filter(|finding| finding.duration_ms == 7);
        let ids: Vec<_> = timed.map(|finding| finding.id.into_owned()).collect();
        assert_eq!(ids, expected);
    }
    let facts = DomainFacts { duration_ms: 7, ..domain() };
    assert!(super::domain(&facts).iter().all(|finding| finding.duration_ms == 7));
}

#[test]
fn every_public_resolver_is_known_by_its_address() {
    for resolver in network::PUBLIC_RESOLVERS {
        let address = SocketAddr::new(address(resolver), 53);
        let mut facts = server();
        facts.dns.resolvers = vec![ResolverFacts { address, answered_in: Seen::Nothing }];
        let [(status, _)] = said(super::server(&facts), "dns.public_resolver")[..] else {
            panic!("one finding")
        };
        assert_eq!(status, FindingStatus::Info, "{resolver}");
    }
}

/// What the files of the checks have not.
#[test]
fn each_check_has_its_status_for_what_is_rare() {
    use FindingStatus::{Error, Ok, Skipped, Warning};
    fn no_certificate(facts: &mut Facts) {
        facts.tls.certificate = Seen::Nothing;
    }
    fn of_localhost(facts: &mut Facts) {
        facts.hostname = name("localhost");
        facts.sources[0].ehlo = name("localhost");
    }
    let of_server: [(&str, &[FindingStatus], OfServer); 20] = [
        ("acme.order", &[Skipped], |facts| acme(facts).state.is_running = true),
        ("acme.record", &[Skipped], |facts| acme(facts).records.clear()),
        ("config.ports", &[Ok], |facts| facts.config.ports = Seen::Value(vec![port(PortState::Ours)])),
        ("disk.free", &[Skipped], |facts| facts.machine.space = Seen::Nothing),
        ("disk.kind", &[Error], |facts| facts.machine.file_system = Seen::Value("ramfs")),
        ("disk.kind", &[Error], |facts| facts.machine.file_system = Seen::Value("overlayfs")),
        ("key.mode", &[Error], |facts| facts.machine.master_key_mode = key_mode(0o640, false)),
        ("name.ehlo", &[Skipped], greet_as_host),
        ("name.ptr", &[Skipped], of_localhost),
        ("name.ptr", &[Skipped], |facts| v6(facts, Seen::Nothing)),
        ("name.ptr", &[Skipped], |facts| {
            facts.sources[0].reverse = Seen::Value(vec![("out.example.com".into(), failed())]);
        }),
        ("name.resolves", &[Skipped], of_localhost),
        ("net.ipv6", &[Ok], |facts| v6(facts, reverse(&["out.example.com"], "2a00:1450::7"))),
        ("net.port25", &[Skipped], |facts| facts.egress = Seen::Nothing),
        ("queue.site_held", &[Warning; 5], |facts| hold(facts, 5)),
        ("self.submission", &[Skipped], |facts| facts.submission = Seen::Nothing),
        ("spf.host", &[Skipped], of_localhost),
        ("tls.chain", &[Skipped], no_certificate),
        ("tls.expires", &[Skipped], no_certificate),
        ("tls.name", &[Skipped], no_certificate),
    ];
    let statuses = |found: Vec<Finding>, id: &str| {
        said(found, id).into_iter().map(|(status, _)| status).collect::<Vec<_>>()
    };
    for (row, (id, expected, change)) in of_server.into_iter().enumerate() {
        let found = super::server(&changed(server(), change));
        assert_eq!(statuses(found, id), expected, "{id} in row {row}");
    }
    let of_domain: [(&str, FindingStatus, OfDomain); 14] = [
        ("domain.ownership", Skipped, |facts| facts.is_manual = true),
        ("dkim.record", Skipped, |facts| facts.keys.clear()),
        ("dkim.size", Skipped, |facts| facts.keys.clear()),
        ("dkim.duplicate", Skipped, |facts| facts.keys.clear()),
        ("dkim.record", Skipped, |facts| {
            facts.keys[0].found = texts(&["v=DKIM1; k=rsa; p=MIIB", "v=DKIM1; p=MIIC"]);
            facts.keys[0].verifies = Seen::Value(false);
        }),
        ("dkim.size", Ok, |facts| {
            facts.keys[0] =
                DkimFacts { algorithm: DkimAlgorithm::Ed25519, rsa_bits: None, ..facts.keys[0].clone() };
        }),
        ("spf.passes", Skipped, |facts| refuse(&mut facts.spf)),
        ("spf.passes", Ok, |facts| facts.own_addresses = Seen::NotAsked(UNKNOWN)),
        ("spf.plus_all", Error, |facts| facts.spf = spf(&["v=spf1 mx ALL"])),
        ("dmarc.aligned", Ok, |facts| facts.keys[0].verifies = Seen::Value(false)),
        ("dmarc.aligned", Error, |facts| {
            facts.keys[0].verifies = Seen::Value(false);
            facts.own_addresses = Seen::NotAsked(UNKNOWN);
        }),
        ("dmarc.aligned", Error, |facts| {
            facts.keys[0].verifies = Seen::Value(false);
            facts.spf = spf(&["v=spf1 mx ~all", "v=spf1 -all"]);
        }),
        ("dmarc.rua", Ok, |facts| facts.report_consents.clear()),
        ("mx.replies", Ok, |facts| facts.mail_exchanges = Seen::Value(MailExchange::Here)),
    ];
    for (row, (id, expected, change)) in of_domain.into_iter().enumerate() {
        let found = super::domain(&changed(domain(), change));
        assert_eq!(statuses(found, id), [expected], "{id} in row {row}");
    }
    let mut facts = domain();
    facts.keys[0].verifies = Seen::Value(false);
    facts.keys.insert(0, DkimFacts { is_signing: false, record_name: "new".into(), ..facts.keys[0].clone() });
    refuse(&mut facts.spf);
    let fix = &said(super::domain(&facts), "dmarc.aligned")[0].1;
    assert!(fix.starts_with("set TXT pb1._domainkey.acme.com"), "the key that signs: {fix}");
    let invalid = super::invalid_config("pillarbox.toml", "no such file");
    assert!(invalid.iter().skip(1).all(|finding| finding.status == Skipped), "{invalid:?}");
}

#[test]
fn each_bound_belongs_to_the_side_that_the_documentation_says() {
    use FindingStatus::{Error, Ok, Warning};
    fn answer(facts: &mut Facts, ms: u64) {
        facts.dns.resolvers = vec![resolver("192.0.2.53:53", Seen::Value(Duration::from_millis(ms)))];
    }
    fn sync(facts: &mut Facts, ms: u64) {
        facts.machine.sync = Seen::Value((Duration::from_millis(1), Duration::from_millis(ms)));
    }
    fn due(facts: &mut Facts, at: Timestamp) {
        facts.state.oldest_due = Seen::Value((at, "450 later".into()));
    }
    fn held(facts: &mut Facts, until: Timestamp) {
        let site = HeldSite { name: "x.example".into(), domain: None, until, reply: "421 busy".into() };
        facts.state.held_sites = Seen::Value(vec![site]);
    }
    fn host(facts: &mut Facts, lookups: u32, void_lookups: u32) {
        cost(&mut facts.host_spf, lookups, void_lookups);
    }
    fn include(facts: &mut Facts, lookups: u32) {
        cost(&mut facts.included_spf.as_mut().unwrap().1, lookups, 0);
    }
    let rows: [(&str, FindingStatus, OfServer); 25] = [
        ("dns.answers", Ok, |facts| answer(facts, 500)),
        ("dns.answers", Warning, |facts| answer(facts, 501)),
        ("disk.fsync", Ok, |facts| sync(facts, 50)),
        ("disk.fsync", Warning, |facts| sync(facts, 51)),
        ("disk.free", Ok, |facts| facts.machine.space = Seen::Value((10 * GIB, 100 * GIB))),
        ("disk.free", Warning, |facts| facts.machine.space = Seen::Value((10 * GIB - 1, 100 * GIB))),
        ("disk.free", Ok, |facts| facts.machine.space = Seen::Value((4 * GIB, 4 * GIB))),
        ("disk.free", Warning, |facts| facts.machine.space = Seen::Value((4 * GIB - 1, 4 * GIB))),
        ("disk.free", Warning, |facts| facts.machine.space = Seen::Value((GIB, 4 * GIB))),
        ("disk.free", Error, |facts| facts.machine.space = Seen::Value((GIB - 1, 4 * GIB))),
        ("limit.files", Ok, |facts| facts.machine.files = Seen::Value(facts.machine.files_needed)),
        ("limit.memory", Ok, |facts| facts.machine.memory = Seen::Value(facts.machine.memory_needed)),
        ("tls.expires", Ok, |facts| facts.at = at("2026-03-02T00:00:00Z")),
        ("tls.expires", Warning, |facts| facts.at = at("2026-03-02T00:00:01Z")),
        ("tls.expires", Warning, |facts| facts.at = at("2026-03-29T00:00:00Z")),
        ("tls.expires", Error, |facts| facts.at = at("2026-03-29T00:00:01Z")),
        ("queue.age", Ok, |facts| due(facts, at("2026-01-31T23:00:00Z"))),
        ("queue.age", Warning, |facts| due(facts, at("2026-01-31T22:59:59Z"))),
        ("queue.site_held", Ok, |facts| held(facts, at("2026-02-01T00:30:00Z"))),
        ("queue.site_held", Warning, |facts| held(facts, at("2026-02-01T00:30:01Z"))),
        ("backup.age", Ok, |facts| facts.state.last_backup = Seen::Value(at("2026-01-25T00:00:00Z"))),
        ("backup.age", Warning, |facts| facts.state.last_backup = Seen::Value(at("2026-01-24T23:59:59Z"))),
        ("spf.host", Ok, |facts| host(facts, 10, 2)),
        ("spf.host", Error, |facts| host(facts, 1, 3)),
        ("spf.include", Ok, |facts| include(facts, 9)),
    ];
    for (row, (id, expected, change)) in rows.into_iter().enumerate() {
        let found = said(super::server(&changed(server(), change)), id);
        assert_eq!(found[0].0, expected, "{id} in row {row}");
    }
    let of_bits = |bits: usize| {
        let mut facts = domain();
        facts.keys[0].rsa_bits = Some(bits);
        said(super::domain(&facts), "dkim.size")[0].0
    };
    assert_eq!([1023, 1024, 2047, 2048].map(of_bits), [Error, Warning, Warning, Ok]);
    let of_cost = |(lookups, void): (u32, u32)| {
        let mut facts = domain();
        cost(&mut facts.spf, lookups, void);
        said(super::domain(&facts), "spf.lookups")[0].0
    };
    assert_eq!([(10, 2), (11, 0), (1, 3)].map(of_cost), [Ok, Error, Warning]);
}

#[test]
fn a_hostile_reverse_name_is_one_line() {
    let mut facts = server();
    facts.sources[0].reverse = reverse(&["a\u{1b}[2J\nOK       all is well"], "192.0.2.8");
    let found = Diagnosis::new("mail.example.com", super::server(&facts), facts.at, 0);
    let text = render(&found, false);
    let line = text.lines().find(|line| line.contains("name.ptr")).unwrap();
    assert!(line.ends_with("a [2J OK       all is well"), "{line}");
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn hostile_records_banners_and_replies_stay_short_and_on_one_line() {
    let hostile = format!("x\u{1b}[2J\u{202e}\r\nOK       all is well\u{2028}{}", "A".repeat(100_000));
    let mut server = server();
    server.sources[0].reverse = reverse(&[&hostile, "b.example"], OWN);
    egress(&mut server).result = Ok((format!("554 {hostile}"), String::new()));
    let listed = vec![(OWN_V4, hostile.clone())];
    server.blocklists = on_list(Seen::Value(Blocklist::Answers { asked: vec![OWN_V4], listed }));
    server.submission = submitted(Err(hostile.clone()));
    server.host_spf = spf(&[&format!("v=spf1 exp={hostile}"), "v=spf1 -all"]);
    let mut domain = domain();
    domain.dmarc = Seen::Value((name("acme.com"), vec![hostile.clone(); 100]));
    domain.ownership.2 = Seen::Value(vec![hostile.clone(); 100]);
    domain.mail_exchanges = Seen::Value(MailExchange::Hosts(vec![hostile]));
    let findings: Vec<Finding> = [super::server(&server), super::domain(&domain)].concat();
    let is_safe = |text: &str, max: usize| {
        text.chars().count() <= max && !text.contains(['\r', '\n', '\u{1b}', '\u{202e}', '\u{2028}'])
    };
    for finding in &findings {
        assert!(is_safe(&finding.text, 401), "{finding:?}");
        assert!(finding.found.len() <= 20 && finding.found.iter().all(|found| is_safe(found, 2001)));
        assert!(finding.expected.iter().all(|expected| is_safe(expected, 2001)), "{finding:?}");
        if let Some(fix) = &finding.fix {
            assert!(is_safe(&fix.text, 2001), "{finding:?}");
            assert!(fix.record.iter().all(|record| is_safe(&record.value, 2000)), "{finding:?}");
            // What was cut is not for publishing.
            assert!(!fix.text.ends_with('…'), "{finding:?}");
        }
    }
    let shown = Diagnosis::new("mail.example.com", findings, server.at, 0);
    let lines = render(&shown, true);
    assert!(!lines.lines().any(|line| line.starts_with("OK       all is well")), "{lines}");
}

/// The servers that people really have.
#[test]
fn a_translator_of_addresses_a_split_name_and_ipv6_without_a_reverse_name_are_found() {
    let both = || Seen::Value(vec![address(OWN), address("2a00:1450::7")]);
    let statuses = |facts: &Facts| -> BTreeMap<String, FindingStatus> {
        let mut statuses = BTreeMap::new();
        for finding in super::server(facts) {
            let worst = statuses.entry(finding.id.into_owned()).or_insert(finding.status);
            *worst = finding.status.max(*worst);
        }
        statuses
    };
    // The name server of the office answers with the private address.
    let split = changed(server(), |facts| {
        greet_as_host(facts);
        facts.hostname_addresses = Seen::Value(vec![address("192.168.1.7")]);
    });
    assert_eq!(statuses(&split)["name.resolves"], FindingStatus::Error);
    // With both addresses in the DNS, the one of IPv6 has no reverse name.
    let mut v6 = server();
    (v6.own_addresses, v6.hostname_addresses) = (both(), both());
    let mut source = v6.sources[0].clone();
    (source.address, source.reverse) = (address("2a00:1450::7"), Seen::Nothing);
    v6.sources.push(source);
    let found = statuses(&v6);
    assert_eq!((found["name.resolves"], found["net.ipv6"]), (FindingStatus::Ok, FindingStatus::Warning));
    // Behind a translator of addresses nothing about names is OK before the public address is known.
    let unknown = changed(server(), |facts| {
        facts.own_addresses = Seen::NotAsked(UNKNOWN);
        facts.egress = Seen::NotAsked("nobody looked");
    });
    let found = statuses(&unknown);
    for id in ["name.resolves", "name.ehlo", "name.ptr", "spf.host", "spf.include"] {
        assert_eq!(found[id], FindingStatus::Skipped, "{id}");
    }
    assert_eq!(found["net.public_address"], FindingStatus::Warning);
}

/// What the check of an id says, with the text of its fix.
fn said(findings: Vec<Finding>, id: &str) -> Vec<(FindingStatus, String)> {
    let of_check = findings.into_iter().filter(|finding| finding.id == id);
    of_check.map(|finding| (finding.status, finding.fix.map(|fix| fix.text).unwrap_or_default())).collect()
}

#[test]
fn a_source_that_greets_with_another_name_needs_no_record_of_the_host_name() {
    let elsewhere =
        changed(server(), |facts| facts.hostname_addresses = Seen::Value(vec![address("192.0.2.80")]));
    assert_eq!(said(super::server(&elsewhere), "name.resolves")[0].0, FindingStatus::Ok);
    // A record that is missing stands beside the others.
    let greeting = changed(elsewhere, greet_as_host);
    let found = said(super::server(&greeting), "name.resolves");
    let fix = "add A mail.example.com with 192.0.2.7; keep its other addresses that are right";
    assert_eq!(found, [(FindingStatus::Error, fix.to_owned())]);
}

#[test]
fn several_spf_records_become_one_that_permits_what_they_permitted() {
    let mut facts = server();
    facts.host_spf = spf(&["v=spf1 include:other.example -all", "v=spf1 mx include:mail.example.com ~all"]);
    let (_, fix) = &said(super::server(&facts), "spf.host")[0];
    assert_eq!(
        fix,
        "replace all SPF records of mail.example.com by one: v=spf1 ip4:192.0.2.7 include:other.example mx -all"
    );
    let mut facts = domain();
    facts.spf = spf(&["v=spf1 mx ~all", "v=spf1 -all"]);
    let (_, fix) = &said(super::domain(&facts), "spf.one")[0];
    assert!(fix.starts_with("replace all SPF records of acme.com by one: v=spf1"), "{fix}");
}

#[test]
fn nothing_is_wrong_about_addresses_if_mail_leaves_through_a_smart_host() {
    let mut facts = server();
    facts.own_addresses = Seen::NotAsked(SMART_HOST);
    facts.egress = Seen::NotAsked("mail leaves through a smart host");
    facts.sources.clear();
    (facts.host_spf, facts.hostname_addresses) = (Seen::Nothing, Seen::Nothing);
    let found = super::server(&facts);
    for id in ["name.resolves", "name.ptr", "net.port25", "net.public_address", "net.ipv6", "spf.host"] {
        assert_eq!(said(found.clone(), id), [(FindingStatus::Skipped, String::new())], "{id}");
    }
}

#[test]
fn the_key_file_is_not_called_lost_because_of_its_mode() {
    let mut facts = server();
    facts.machine.master_key_mode = key_mode(0o604, true);
    facts.machine.master_key_opens = Seen::Failed("users other than its owner can access the file".into());
    let found = super::server(&facts);
    let closed = changed(facts, |facts| facts.machine.master_key_mode = key_mode(0o600, true));
    let text = "only root and the group of the server can read /etc/pillarbox/master.key";
    let of_mode = super::server(&closed).into_iter().find(|finding| finding.id == "key.mode");
    assert_eq!(of_mode.unwrap().text, text);
    assert_eq!(said(found.clone(), "key.opens")[0].0, FindingStatus::Skipped);
    let fix = found.into_iter().find(|finding| finding.id == "key.mode").unwrap().fix.unwrap();
    // The server may read a key of root by its group only.
    assert_eq!(fix.command.as_deref(), Some("chmod 640 /etc/pillarbox/master.key"));
}

#[test]
fn a_certificate_that_the_server_is_going_to_renew_is_no_warning() {
    let mut facts = changed(server(), use_acme);
    facts.at = at("2026-03-22T00:00:00Z");
    let status = |facts: &Facts| super::tls::expires(facts)[0].status;
    acme(&mut facts).state.next_at = Some(at("2026-03-23T00:00:00Z"));
    assert_eq!(status(&facts), FindingStatus::Ok);
    acme(&mut facts).state.error = Some("cannot reach the authority".into());
    assert_eq!(status(&facts), FindingStatus::Warning);
    acme(&mut facts).state.error = None;
    facts.at = at("2026-03-30T00:00:00Z");
    acme(&mut facts).state.next_at = Some(at("2026-03-31T00:00:00Z"));
    assert_eq!(status(&facts), FindingStatus::Error);
}

#[test]
fn the_policy_of_subdomains_and_capital_letters_are_read() {
    let policy = |of: &str, record: &str| {
        let mut facts = domain();
        facts.dmarc = Seen::Value((name(of), vec![record.to_owned()]));
        said(super::domain(&facts), "dmarc.policy")[0].0
    };
    assert_eq!(policy("acme.com", "v=DMARC1; p=Reject; sp=none"), FindingStatus::Ok);
    assert_eq!(policy("com", "v=DMARC1; p=reject; sp=none"), FindingStatus::Info);
    assert_eq!(policy("com", "v=DMARC1; p=reject"), FindingStatus::Ok);
    assert_eq!(policy("com", "v=DMARC1; p=none; sp=quarantine"), FindingStatus::Ok);
}

#[test]
fn a_name_that_nobody_can_look_up_gets_no_records() {
    let mut facts = changed(server(), |facts| facts.hostname = name("localhost"));
    facts.sources[0].ehlo = name("localhost");
    facts.included_spf = None;
    let found = super::server(&facts);
    let wrong: Vec<&str> =
        found.iter().filter(|one| one.status >= FindingStatus::Warning).map(|one| one.id.as_ref()).collect();
    assert_eq!(wrong, ["config.hostname"]);
}

#[test]
fn the_checks_of_a_domain_and_of_the_server_are_apart() {
    let of = |subject: Subject| {
        CHECKS.iter().filter(|check| check.subject == subject).map(|check| check.id).collect::<Vec<_>>()
    };
    let ids = |findings: Vec<Finding>| {
        findings.into_iter().map(|finding| finding.id.into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(super::server(&server())), of(Subject::Server));
    assert_eq!(ids(super::domain(&domain())), of(Subject::Domain));
}
