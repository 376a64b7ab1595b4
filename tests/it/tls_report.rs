//! TLS reports (RFC 8460): what is counted, and how reports are sent.

use std::io::Read;

use mail_auth::report::tlsrpt::{PolicyType, ResultType, TlsReport};
use pillarbox::config::{Config, TlsReportMail};
use pillarbox::mail::{Date, SignedDuration, Timestamp};
use pillarbox::model::{TlsFailure, TlsPolicyType};
use pillarbox::store::{Access, Store, StoreOptions, TlsResult, TlsResults};

use crate::dane;
use crate::fake_mx::Offer;
use crate::mta_sts::{self, Shows, answer, policy};
use crate::receiver::Reaction;
use crate::server::TestServer;
use crate::wait::until;

/// The counts, as `domain policy host failure sessions`. The server must not be running.
async fn counted(config: &Config) -> Vec<String> {
    let store = Store::open(StoreOptions::new(config, Access::Manage).unwrap()).await.unwrap();
    let mut counted = Vec::new();
    for (day, domain) in store.unreported_tls_days(Date::MAX, None, 100).await.unwrap() {
        for result in store.tls_results(day, &domain).await.unwrap() {
            let TlsResult { policy, mx_host, failure, sessions, .. } = result;
            let (policy, failure) = (policy.as_str(), failure.map_or("", TlsFailure::as_str));
            counted.push(format!("{domain} {policy} {mx_host} {failure} {sessions}"));
        }
    }
    store.close().await;
    counted.sort();
    counted
}

async fn enable(server: &mut TestServer) {
    server.config.tls_report.enabled = true;
    server.config.tls_report.delay_max = std::time::Duration::ZERO;
    server.restart(|_| ()).await;
}

#[tokio::test]
async fn sessions_are_counted_under_their_mta_sts_policy() {
    use Shows::{NoTls, Right, Strange};
    let plain = "200 OK\r\nContent-Type: text/plain";
    let failing = [
        (Right, policy("enforce", "mx.d0.test"), vec!["sts mx.d0.test  1"]),
        (Strange, policy("enforce", "mx.d1.test"), vec!["sts mx.d1.test certificate-not-trusted 1"]),
        (NoTls, policy("enforce", "mx.d2.test"), vec!["sts mx.d2.test starttls-not-supported 1"]),
        (Right, policy("enforce", "mx.other.test"), vec!["sts mx.d3.test validation-failure 1"]),
        (Right, policy("testing", "mx.d4.test"), vec!["sts mx.d4.test  1"]),
        (Strange, policy("testing", "mx.d5.test"), vec!["sts mx.d5.test certificate-not-trusted 1"]),
        (NoTls, policy("testing", "mx.d6.test"), vec!["sts mx.d6.test starttls-not-supported 1"]),
        (Strange, policy("testing", "mx.other.test"), vec!["sts mx.d7.test validation-failure 1"]),
        (Strange, policy("none", "mx.other.test"), vec!["no-policy-found mx.d8.test  1"]),
        (
            Strange,
            answer("404 Not Found\r\nContent-Type: text/plain", ""),
            vec!["no-policy-found mx.d9.test  1", "sts  sts-policy-fetch-error 1"],
        ),
        (
            NoTls,
            answer(plain, "<html></html>"),
            vec!["no-policy-found mx.d10.test starttls-not-supported 1", "sts  sts-policy-invalid 1"],
        ),
    ];
    let shows: Vec<Shows> = failing.iter().map(|case| case.0).chain([Right]).collect();
    let mut stage = mta_sts::Stage::set(&shows, 10_000).await;
    enable(&mut stage.server).await;
    let mut expected = Vec::new();
    for (n, (_, reaction, counts)) in failing.into_iter().enumerate() {
        stage.policies.script([reaction]);
        stage.send(n).await;
        expected.extend(counts.into_iter().map(|count| format!("d{n}.test {count}")));
    }
    // The policy host has a certificate for other names.
    let other = "d0.d0.test";
    stage.dns.text(&format!("_mta-sts.{other}"), "v=STSv1; id=1");
    stage.dns.mx(other, &[(10, "mx.d11.test")]);
    stage.dns.addresses(&format!("mta-sts.{other}"), &[stage.policies.address.ip()]);
    stage.send_to(other).await;
    expected.push(format!("{other} no-policy-found mx.d11.test  1"));
    expected.push(format!("{other} sts  sts-webpki-invalid 1"));
    // A reused connection is not a new session.
    stage.send(0).await;
    stage.server.stop().await;
    expected.sort();
    assert_eq!(counted(&stage.server.config).await, expected);
}

#[tokio::test]
async fn sessions_are_counted_under_their_tlsa_records() {
    let right = dane::Chain::new("mx.right.test");
    let wrong = dane::Chain::new("mx.wrong.test");
    let expired = dane::Chain::expired("mx.expired.test");
    let misnamed = dane::Chain::new("elsewhere.test");
    let hosts = vec![
        ("right", right.offer(), vec![right.leaf.record(3, 1, 1)], "tlsa mx.right.test  1"),
        (
            "wrong",
            wrong.offer(),
            vec![right.leaf.record(3, 1, 1)],
            "tlsa mx.wrong.test certificate-not-trusted 1",
        ),
        (
            "expired",
            expired.offer(),
            vec![expired.authority.record(2, 1, 1)],
            "tlsa mx.expired.test certificate-expired 1",
        ),
        (
            "misnamed",
            misnamed.offer(),
            vec![misnamed.authority.record(2, 1, 1)],
            "tlsa mx.misnamed.test certificate-host-mismatch 1",
        ),
        (
            "clear",
            Offer::default(),
            vec![right.leaf.record(3, 1, 1)],
            "tlsa mx.clear.test starttls-not-supported 1",
        ),
        ("useless", right.offer(), vec![(1, 1, 1, vec![0; 32])], "tlsa mx.useless.test tlsa-invalid 1"),
        ("broken", right.offer(), vec![right.leaf.record(3, 1, 1)], "tlsa mx.broken.test dnssec-invalid 1"),
        ("none", right.offer(), vec![], "no-policy-found mx.none.test  1"),
        ("required", right.offer(), vec![], "tlsa mx.required.test dane-required 1"),
    ];
    let offers = hosts.iter().map(|(name, offer, _, _)| (*name, offer.clone()));
    let mut stage = dane::Stage::set(offers.collect()).await;
    for (name, _, records, _) in &hosts {
        stage.publish(name, records);
    }
    stage.dns.fail(&format!("_{}._tcp.mx.broken.test", stage.port()));
    stage.server.config.relay.tls_minimum = vec![pillarbox::config::DestinationTls {
        domain: "required.test".parse().unwrap(),
        minimum: "dane".parse().unwrap(),
    }];
    enable(&mut stage.server).await;
    let mut expected = Vec::new();
    for (name, _, _, count) in &hosts {
        let id = stage.submit(name).await;
        stage.server.wait_for_status(&id, &["delivered", "deferred"]).await;
        expected.push(format!("{name}.test {count}"));
    }
    stage.server.stop().await;
    expected.sort();
    assert_eq!(counted(&stage.server.config).await, expected);
}

#[tokio::test]
async fn nothing_is_counted_for_a_domain_that_asks_for_no_reports() {
    let mut stage = mta_sts::Stage::set(&[Shows::Strange], 10_000).await;
    stage.policies.script([policy("enforce", "mx.d0.test")]);
    stage.send(0).await;
    stage.server.stop().await;
    assert_eq!(counted(&stage.server.config).await, Vec::<String>::new());
}

/// The counts of a past day: five successful sessions, and three with a wrong certificate.
async fn count_on_an_earlier_day(stage: &mta_sts::Stage, domain: &str) -> Date {
    let two_days_ago = Timestamp::now() - SignedDuration::from_hours(48);
    let day: Date = two_days_ago.to_string()[..10].parse().unwrap();
    let result = |failure, sessions| TlsResult {
        day,
        domain: domain.parse().unwrap(),
        policy: TlsPolicyType::Sts,
        mx_host: format!("mx.{domain}"),
        failure,
        sessions,
    };
    let results = vec![result(None, 5), result(Some(TlsFailure::CertificateExpired), 3)];
    stage.server.running().store().add_tls_results(results).await.unwrap();
    day
}

async fn is_forgotten(stage: &mta_sts::Stage, day: Date, domain: &str) -> bool {
    let domain = domain.parse().unwrap();
    stage.server.running().store().tls_results(day, &domain).await.unwrap().is_empty()
}

fn check(report: &TlsReport, day: Date, domain: &str) {
    assert_eq!(report.organization_name.as_deref(), Some("Example Ltd"));
    assert_eq!(report.contact_info.as_deref(), Some("tls@acme.test"));
    assert_eq!(report.report_id, format!("{day}.{domain}@relay.test"));
    assert_eq!(report.date_range.start_datetime.to_rfc3339(), format!("{day}T00:00:00Z"));
    assert_eq!(report.date_range.end_datetime.to_rfc3339(), format!("{day}T23:59:59Z"));
    let [policy] = &report.policies[..] else { panic!("{report:#?}") };
    assert_eq!((policy.policy.policy_type, policy.policy.policy_domain.as_str()), (PolicyType::Sts, domain));
    assert_eq!((policy.summary.total_success, policy.summary.total_failure), (5, 3));
    let [failure] = &policy.failure_details[..] else { panic!("{report:#?}") };
    assert_eq!((failure.result_type, failure.failed_session_count), (ResultType::CertificateExpired, 3));
    assert_eq!(failure.receiving_mx_hostname, Some(format!("mx.{domain}")));
}

#[tokio::test]
async fn a_report_is_sent_over_https_and_by_mail_although_the_receivers_tls_is_broken() {
    // The web server has the certificate of `mta-sts.d0.test`.
    let mut stage = mta_sts::Stage::set(&[Shows::Right, Shows::Strange], 10_000).await;
    let url = format!("https://mta-sts.d0.test:{}/v1/tls?a=b", stage.policies.address.port());
    stage.dns.text("_smtp._tls.d0.test", &format!("v=TLSRPTv1; rua={url},mailto:tls@d1.test"));
    let key_file = stage.server.config.data_dir.join("tls-report.key");
    std::fs::write(&key_file, format!("{}\n", stage.account.secret)).unwrap();
    let config = &mut stage.server.config.tls_report;
    config.organization = Some("Example Ltd".into());
    config.contact = Some("tls@acme.test".into());
    config.mail = Some(TlsReportMail {
        tenant: "acme-test".into(),
        key_file,
        from: pillarbox::mail::Address::parse("tls@acme.test").unwrap(),
    });
    // The policy remains for other mail; the report must not depend on it.
    stage.policies.script([Reaction::default(), policy("enforce", "mx.d1.test")]);
    let day = count_on_an_earlier_day(&stage, "d0.test").await;
    enable(&mut stage.server).await;
    let requests = stage.policies.wait_for(1).await;
    assert!(requests[0].head.starts_with("POST /v1/tls?a=b HTTP/1.1\r\n"), "{}", requests[0].head);
    assert_eq!(requests[0].header("content-type"), "application/tlsrpt+gzip");
    let mut json = String::new();
    flate2::read::GzDecoder::new(&requests[0].body[..]).read_to_string(&mut json).unwrap();
    assert!(!json.contains("null"), "{json}");
    let posted = TlsReport::parse_json(json.as_bytes()).unwrap();
    check(&posted, day, "d0.test");

    let taken = until("the report came by mail", async || stage.hosts[1].transactions().pop()).await;
    assert_eq!(taken.reverse_path, "tls@acme.test");
    assert_eq!(taken.recipients, ["tls@d1.test"]);
    assert_eq!(TlsReport::parse_rfc5322(&taken.wire, 1 << 20).unwrap(), posted);
    let message = mail_parser::MessageParser::default().parse(&taken.wire).unwrap();
    let subject = format!("Report Domain: d0.test Submitter: relay.test Report-ID: <{}>", posted.report_id);
    assert_eq!(message.subject(), Some(subject.as_str()));
    let header = |name: &str| message.header_raw(name).unwrap_or_default().trim().to_owned();
    assert_eq!(header("TLS-Report-Domain"), "d0.test");
    assert_eq!(header("TLS-Report-Submitter"), "relay.test");
    assert_eq!(header("TLS-Required"), "No");
    assert!(header("Content-Type").starts_with("multipart/report"), "{}", header("Content-Type"));
    assert!(header("Content-Type").contains("report-type=\"tlsrpt\""), "{}", header("Content-Type"));
    assert!(header("DKIM-Signature").contains("d=acme.test"), "{}", header("DKIM-Signature"));
    assert!(message.date().is_some());
    until("it is forgotten", async || is_forgotten(&stage, day, "d0.test").await.then_some(())).await;

    // The receiver's policy applies to all other mail.
    assert_eq!(stage.send(1).await.0, "deferred");
    stage.server.stop().await;
    assert_eq!(counted(&stage.server.config).await, ["d1.test sts mx.d1.test certificate-not-trusted 1"]);
}

#[tokio::test]
async fn a_report_that_is_refused_is_kept_and_redirects_are_not_followed() {
    let mut stage = mta_sts::Stage::set(&[Shows::Right], 10_000).await;
    let url = |path: &str| format!("https://mta-sts.d0.test:{}/{path}", stage.policies.address.port());
    stage.dns.text("_smtp._tls.d0.test", &format!("v=TLSRPTv1; rua={}", url("one")));
    stage.dns.text("_smtp._tls.d1.test", &format!("v=TLSRPTv1; rua={}", url("two")));
    let moved = format!("HTTP/1.1 307 Moved\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", url("other"));
    stage.policies.script([Reaction::Write(moved.clone().into()), Reaction::Write(moved.into())]);
    let mut day = count_on_an_earlier_day(&stage, "d0.test").await;
    count_on_an_earlier_day(&stage, "d1.test").await;
    // No domain asks for this report, so it is deleted.
    day = day.max(count_on_an_earlier_day(&stage, "d2.test").await);
    enable(&mut stage.server).await;
    let requests = stage.policies.wait_for(2).await;
    assert!(requests.iter().all(|request| !request.head.contains("/other")));
    until("the third is forgotten", async || is_forgotten(&stage, day, "d2.test").await.then_some(())).await;
    assert!(!is_forgotten(&stage, day, "d0.test").await && !is_forgotten(&stage, day, "d1.test").await);
    assert_eq!(stage.policies.requests().len(), 2);
}
