use pillarbox::mail::{Address, DomainName};
use pillarbox::policy::mta_sts::{StsMode, StsPolicy, read_record};
use pillarbox::tls_report::record::{self, Receiver};
use pillarbox::verification::{merged_spf, spf_policies, spf_refers_to};

/// What other domains publish: each line of the input is a TXT record, and all of it the file of an MTA-STS policy.
pub fn records(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let texts: Vec<String> = text.split('\n').map(str::to_owned).collect();
    check_policy(text);
    if let Some(id) = read_record(texts.iter().map(String::as_str)) {
        assert!((1..=32).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_alphanumeric()), "{id}");
        // White space in the record is passed over.
        assert!(text.split_whitespace().collect::<String>().contains(&id), "{id}");
    }
    check_receivers(&record::read(texts.iter().map(String::as_str)));
    check_spf(&spf_policies(&texts));
}

/// A policy has hosts, and its fields written anew are the same policy.
fn check_policy(text: &str) {
    let Ok(policy) = StsPolicy::parse(text) else { return };
    assert!(policy.mode == StsMode::None || !policy.mx().is_empty());
    let mut written = format!("version: STSv1\nmode: {}\nmax_age: {}\n", policy.mode.as_str(), policy.max_age_s);
    for pattern in policy.mx() {
        written += &format!("mx: {pattern}\n");
        match pattern.strip_prefix("*.") {
            Some(parent) => assert!(policy.names(&format!("label.{parent}")), "{pattern}"),
            None => assert!(policy.names(pattern) && DomainName::parse(pattern).is_ok(), "{pattern}"),
        }
    }
    assert_eq!(StsPolicy::parse(&written).as_ref(), Ok(&policy), "{written}");
}

/// Reports go to addresses and over HTTPS only.
fn check_receivers(receivers: &[Receiver]) {
    for receiver in receivers {
        let shown = receiver.to_string();
        assert!(!shown.contains(char::is_control), "{shown:?}");
        match receiver {
            Receiver::Mail(address) => assert_eq!(Address::parse(&address.to_string()).as_ref(), Ok(address)),
            Receiver::Https(url) => {
                assert!(url.scheme() == "https" && url.has_host(), "{url}");
                // The host is decoded, so it may contain what ends a URI in the record.
                if !shown.contains([',', ';']) {
                    let record = format!("v=TLSRPTv1; rua={url}");
                    assert_eq!(record::read([record.as_str()].into_iter()), std::slice::from_ref(receiver), "{record}");
                }
            }
        }
    }
}

/// The policy that is proposed permits the host, and is proposed again if it is published.
fn check_spf(policies: &[String]) {
    let host = DomainName::parse("spf.pillarbox.example").expect("a name");
    let proposed = merged_spf(policies, &host);
    assert_eq!(spf_policies(std::slice::from_ref(&proposed)).len(), 1, "{proposed}");
    assert!(spf_refers_to(&proposed, host.as_str()), "{proposed}");
    assert_eq!(merged_spf(std::slice::from_ref(&proposed), &host), proposed);
}
