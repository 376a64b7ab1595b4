//! Decides what a validated answer proves about the requested name. No I/O.
//!
//! hickory validates each record set separately, so an answer may contain valid sets of unrelated zones: anyone between
//! us and the name server can add sets from a zone of their own.

use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::dnssec::rdata::{DNSSECRData, RRSIG};
use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::DnsError;

/// The DNSSEC result for one name.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// The data.
    pub data: Data,
    /// Whether the chain of signatures is complete; false if the zone is proved to be unsigned.
    pub is_signed: bool,
}

/// The data of one name.
#[derive(Debug, PartialEq)]
pub enum Data {
    /// Records of the requested type, at least one.
    Records(Vec<RData>),
    /// A CNAME target.
    Alias(Name),
    /// No record of the requested type.
    Empty,
}

/// Evaluates the answer for a name. `verdict` is hickory's validation of the proof of non-existence.
///
/// # Errors
/// [`DnsError::Temporary`] if the answer is neither validated nor proved to be unsigned (RFC 4035 §4.3).
pub fn evaluate(
    name: &Name,
    kind: RecordType,
    message: &Message,
    verdict: Proof,
) -> Result<Answer, DnsError> {
    let own = |kind: RecordType| -> Vec<&Record> {
        let of_name = message.answers.iter().filter(|record| record.name == *name);
        of_name.filter(|record| record.record_type() == kind).collect()
    };
    let mut records = own(kind);
    if records.is_empty() {
        records = own(RecordType::CNAME);
    }
    if records.is_empty() {
        return Ok(Answer { data: Data::Empty, is_signed: check_nonexistence(name, message, verdict)? });
    }
    let all_are = |proof| records.iter().all(|record| record.proof == proof);
    let is_signed = all_are(Proof::Secure);
    if !is_signed && !all_are(Proof::Insecure) {
        return Err(validation_failed(name));
    }
    // RFC 4035 §5.3.4: a wildcard answer needs a proof that the name itself does not exist.
    let is_expanded = signatures_of(&message.answers, records[0])
        .any(|signature| signature.input().num_labels < name.num_labels());
    if is_signed && is_expanded && !check_nonexistence(name, message, verdict)? {
        return Err(validation_failed(name));
    }
    let data = match &records[0].data {
        RData::CNAME(target) if kind != RecordType::CNAME => Data::Alias(target.0.clone()),
        _ => Data::Records(records.into_iter().map(|record| record.data.clone()).collect()),
    };
    Ok(Answer { data, is_signed })
}

/// True if non-existence is signed, false if the zone is proved to be unsigned. Only a zone at or above the name can
/// prove either.
fn check_nonexistence(name: &Name, message: &Message, verdict: Proof) -> Result<bool, DnsError> {
    let authorities = &message.authorities;
    let mut denials = authorities
        .iter()
        .filter(|record| {
            record.proof.is_secure() && matches!(record.record_type(), RecordType::NSEC | RecordType::NSEC3)
        })
        .peekable();
    if denials.peek().is_some() {
        let is_own = denials.all(|denial| {
            signatures_of(authorities, denial).any(|signature| signature.input().signer_name.zone_of(name))
        });
        return match verdict {
            Proof::Secure if is_own => Ok(true),
            // RFC 9276 §3.2: NSEC3 with too many iterations counts as unsigned.
            Proof::Insecure if is_own => Ok(false),
            _ => Err(validation_failed(name)),
        };
    }
    // If all of these records are unsigned, hickory does not check that they belong to a zone of the name.
    let is_insecure = |record: &Record| record.proof.is_insecure();
    let is_unchecked = !authorities.is_empty() && authorities.iter().all(is_insecure);
    let is_ours = !is_unchecked || authorities.iter().any(|record| record.name.zone_of(name));
    if verdict.is_secure() && is_ours { Ok(false) } else { Err(validation_failed(name)) }
}

/// The valid signatures of the record set of a record.
fn signatures_of<'a>(records: &'a [Record], of: &'a Record) -> impl Iterator<Item = &'a RRSIG> {
    let signatures = records.iter().filter(|record| record.name == of.name && record.proof.is_secure());
    signatures.filter_map(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature))
            if signature.input().type_covered == of.record_type() =>
        {
            Some(signature)
        }
        _ => None,
    })
}

fn validation_failed(name: &Name) -> DnsError {
    DnsError::Temporary(format!("the answer about {name} fails DNSSEC validation"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_resolver::proto::dnssec::Algorithm;
    use hickory_resolver::proto::dnssec::rdata::{NSEC, SigInput};
    use hickory_resolver::proto::op::{MessageType, OpCode};
    use hickory_resolver::proto::rr::SerialNumber;
    use hickory_resolver::proto::rr::rdata::{A, CNAME, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(owner: &str, data: RData, proof: Proof) -> Record {
        let mut record = Record::from_rdata(name(owner), 60, data);
        record.proof = proof;
        record
    }

    fn a(owner: &str, proof: Proof) -> Record {
        record(owner, RData::A(A(Ipv4Addr::LOCALHOST)), proof)
    }

    fn alias(owner: &str, target: &str, proof: Proof) -> Record {
        record(owner, RData::CNAME(CNAME(name(target))), proof)
    }

    fn soa(zone: &str, proof: Proof) -> Record {
        record(zone, RData::SOA(SOA::new(name("ns.x."), name("hm.x."), 1, 1, 1, 1, 1)), proof)
    }

    fn nsec(owner: &str) -> Record {
        record(owner, RData::DNSSEC(DNSSECRData::NSEC(NSEC::new(name("z.x."), []))), Proof::Secure)
    }

    /// A valid signature by a zone over this number of labels.
    fn signature(owner: &str, type_covered: RecordType, num_labels: u8, zone: &str) -> Record {
        let input = SigInput {
            type_covered,
            algorithm: Algorithm::ED25519,
            num_labels,
            original_ttl: 60,
            sig_expiration: SerialNumber::new(2),
            sig_inception: SerialNumber::new(1),
            key_tag: 1,
            signer_name: name(zone),
        };
        record(owner, RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, vec![]))), Proof::Secure)
    }

    /// The result for `mx.b.x` and its addresses: `signed` or `unsigned`, and the data.
    fn result(answers: Vec<Record>, authorities: Vec<Record>, verdict: Proof) -> String {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.add_answers(answers);
        message.add_authorities(authorities);
        match evaluate(&name("mx.b.x."), RecordType::A, &message, verdict) {
            Err(_) => "no answer".to_owned(),
            Ok(Answer { data, is_signed }) => {
                let data = match data {
                    Data::Records(records) => format!("{} records", records.len()),
                    Data::Alias(target) => format!("alias of {target}"),
                    Data::Empty => "nothing".to_owned(),
                };
                format!("{}: {data}", if is_signed { "signed" } else { "unsigned" })
            }
        }
    }

    #[test]
    fn only_records_of_the_name_are_used_and_must_be_validated() {
        use Proof::{Bogus, Indeterminate, Insecure, Secure};
        for (answers, expected) in [
            (vec![a("mx.b.x.", Secure)], "signed: 1 records"),
            (vec![a("MX.B.x.", Insecure), a("mx.b.x.", Insecure)], "unsigned: 2 records"),
            (vec![a("mx.b.x.", Secure), a("thief.y.", Secure)], "signed: 1 records"),
            (vec![a("mx.b.x.", Secure), a("thief.y.", Insecure)], "signed: 1 records"),
            (vec![a("mx.b.x.", Secure), a("thief.y.", Bogus)], "signed: 1 records"),
            (vec![a("mx.b.x.", Bogus)], "no answer"),
            (vec![a("mx.b.x.", Indeterminate)], "no answer"),
            (vec![a("mx.b.x.", Secure), a("mx.b.x.", Bogus)], "no answer"),
            (vec![alias("mx.b.x.", "real.y.", Secure), a("real.y.", Insecure)], "signed: alias of real.y."),
            (vec![alias("mx.b.x.", "real.y.", Insecure)], "unsigned: alias of real.y."),
            (vec![alias("mx.b.x.", "real.y.", Bogus), a("real.y.", Secure)], "no answer"),
        ] {
            assert_eq!(result(answers.clone(), vec![], Secure), expected, "{answers:?}");
        }
    }

    #[test]
    fn nonexistence_is_proved_by_zones_at_or_above_the_name() {
        use Proof::{Bogus, Insecure, Secure};
        let signed = |owner: &str, zone: &str| vec![nsec(owner), signature(owner, RecordType::NSEC, 2, zone)];
        for (authorities, verdict, expected) in [
            (signed("a.b.x.", "b.x."), Secure, "signed: nothing"),
            (signed("a.b.x.", "b.x."), Insecure, "unsigned: nothing"),
            (signed("a.b.x.", "b.x."), Bogus, "no answer"),
            (signed("a.y.", "y."), Secure, "no answer"),
            (signed("a.y.", "y."), Insecure, "no answer"),
            ([signed("a.b.x.", "b.x."), signed("a.y.", "y.")].concat(), Secure, "no answer"),
            (vec![nsec("a.b.x.")], Secure, "no answer"),
            (vec![soa("b.x.", Insecure)], Secure, "unsigned: nothing"),
            (vec![soa("mx.b.x.", Insecure)], Secure, "unsigned: nothing"),
            (vec![soa("x.", Insecure)], Secure, "unsigned: nothing"),
            (vec![soa("y.", Insecure)], Secure, "no answer"),
            (vec![soa("sub.mx.b.x.", Insecure)], Secure, "no answer"),
            (vec![soa("xb.x.", Insecure)], Secure, "no answer"),
            // hickory has found that the name is unsigned.
            (vec![], Secure, "unsigned: nothing"),
            (vec![soa("b.x.", Secure)], Secure, "unsigned: nothing"),
            (vec![], Bogus, "no answer"),
        ] {
            // Records of other names do not affect the result.
            for answers in [vec![], vec![a("thief.y.", Secure)]] {
                assert_eq!(
                    result(answers, authorities.clone(), verdict),
                    expected,
                    "{authorities:?} {verdict}"
                );
            }
        }
    }

    #[test]
    fn a_wildcard_answer_needs_proof_that_the_name_does_not_exist() {
        use Proof::{Bogus, Insecure, Secure};
        let expanded =
            || vec![alias("mx.b.x.", "y.", Secure), signature("mx.b.x.", RecordType::CNAME, 2, "b.x.")];
        let absent = || vec![nsec("a.b.x."), signature("a.b.x.", RecordType::NSEC, 3, "b.x.")];
        assert_eq!(result(expanded(), absent(), Secure), "signed: alias of y.");
        assert_eq!(result(expanded(), absent(), Bogus), "no answer");
        assert_eq!(result(expanded(), vec![soa("y.", Insecure)], Secure), "no answer");
        assert_eq!(result(expanded(), vec![soa("b.x.", Insecure)], Secure), "no answer");
        assert_eq!(result(expanded(), vec![], Secure), "no answer");
        let whole = vec![alias("mx.b.x.", "y.", Secure), signature("mx.b.x.", RecordType::CNAME, 3, "b.x.")];
        assert_eq!(result(whole, vec![soa("y.", Insecure)], Secure), "signed: alias of y.");
    }
}
