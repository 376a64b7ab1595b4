//! Who wants reports on a domain (RFC 8460 §3).

use mail_auth::common::parse::TxtRecordParser;
use mail_auth::mta_sts::{ReportUri, TlsRpt};

/// The receivers that the TXT records at `_smtp._tls` name. RFC 8460 §3: several records are as good as none.
pub fn read<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<ReportUri> {
    let mut records = texts.filter(|text| {
        let version = text.split(';').next().unwrap_or_default();
        version.split_once('=').is_some_and(|(name, value)| name.trim() == "v" && value.trim() == "TLSRPTv1")
    });
    match (records.next(), records.next()) {
        (Some(record), None) => TlsRpt::parse(record.as_bytes()).map(|record| record.rua).unwrap_or_default(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_names_the_receivers_and_two_name_nobody() {
        let mail = || ReportUri::Mail("tls@b.test".into());
        let http = || ReportUri::Http("https://b.test/v1?x=1".into());
        let good = "v=TLSRPTv1; rua=mailto:tls@b.test,https://b.test/v1?x=1";
        for (texts, expected) in [
            (vec![good], vec![mail(), http()]),
            (vec!["v=spf1 -all", "v=TLSRPTv1;rua=mailto:tls@b.test;"], vec![mail()]),
            (vec![good, "v=TLSRPTv1; rua=mailto:other@b.test"], vec![]),
            (vec!["v=TLSRPTv2; rua=mailto:tls@b.test"], vec![]),
            (vec!["v=TLSRPTv1; rua=http://b.test/"], vec![]),
            (vec!["v=TLSRPTv1"], vec![]),
            (vec![], vec![]),
        ] {
            assert_eq!(read(texts.iter().copied()), expected, "{texts:?}");
        }
    }
}
