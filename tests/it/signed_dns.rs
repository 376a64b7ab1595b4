//! Signs the answers of the fake DNS. The root's key signs everything except zones that are delegated without a
//! signature. There is no other zone, so the root itself denies each missing name and type.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hickory_server::proto::dnssec::crypto::Ed25519SigningKey;
use hickory_server::proto::dnssec::rdata::{DNSKEY, DNSSECRData, NSEC, RRSIG};
use hickory_server::proto::dnssec::{DnssecSigner, PublicKey, SigningKey};
use hickory_server::proto::rr::rdata::NS;
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordSet, RecordType};

pub struct Signing {
    signer: DnssecSigner,
    key: DNSKEY,
    /// Zones delegated without a signature.
    pub unsigned: BTreeSet<Name>,
    /// Names whose signatures an attacker removes.
    pub tampered: BTreeSet<Name>,
}

impl Signing {
    pub fn new() -> Self {
        let private_key = Ed25519SigningKey::generate_pkcs8().unwrap();
        let private_key = Ed25519SigningKey::from_pkcs8(&private_key).unwrap();
        let key = DNSKEY::from_key(&private_key.to_public_key().unwrap());
        let lifetime = Duration::from_secs(30 * 365 * 24 * 60 * 60);
        let signer = DnssecSigner::new(key.clone(), Box::new(private_key), Name::root(), lifetime);
        Self { signer, key, unsigned: BTreeSet::new(), tampered: BTreeSet::new() }
    }

    /// The root's key as a line of a zone file.
    pub fn trust_anchor(&self) -> String {
        let public_key = BASE64_STANDARD.encode(self.key.public_key().public_bytes());
        let algorithm = u8::from(self.key.public_key().algorithm());
        format!(". 3600 IN DNSKEY {} 3 {algorithm} {public_key}\n", self.key.flags())
    }

    /// The records that only a signed zone has: its keys and its delegations.
    pub fn own_records(&self, owner: &Name, kind: RecordType) -> Vec<RData> {
        match kind {
            RecordType::DNSKEY if owner.is_root() => {
                vec![RData::DNSSEC(DNSSECRData::DNSKEY(self.key.clone()))]
            }
            RecordType::NS if owner.is_root() || self.unsigned.contains(owner) => {
                vec![RData::NS(NS(Name::from_ascii("ns.test.").unwrap()))]
            }
            _ => Vec::new(),
        }
    }

    /// The records, each set with its signature.
    pub fn sign(&self, records: Vec<Record>) -> Vec<Record> {
        let mut sets: Vec<RecordSet> = Vec::new();
        for record in records {
            let known =
                sets.iter_mut().find(|s| *s.name() == record.name && s.record_type() == record.record_type());
            let set = match known {
                Some(set) => set,
                None => {
                    sets.push(RecordSet::new(record.name.clone(), record.record_type(), 0));
                    sets.last_mut().unwrap()
                }
            };
            set.insert(record, 0);
        }
        let mut signed = Vec::new();
        for set in sets {
            signed.extend(set.records_without_rrsigs().cloned());
            if self.is_signed(set.name()) && !self.tampered.contains(set.name()) {
                signed.push(self.signature_of(&set));
            }
        }
        signed
    }

    /// Denies all types of a name except these.
    pub fn deny(&self, owner: &Name, present: BTreeSet<RecordType>, authority: Record) -> Vec<Record> {
        if !self.is_signed(owner) {
            let mut authority = authority;
            authority.name = self.unsigned.iter().find(|cut| cut.zone_of(owner)).unwrap().clone();
            return vec![authority];
        }
        self.prove_absence(owner, present, authority)
    }

    /// Denies DS records of a delegation, signed by the parent.
    pub fn deny_delegation(&self, cut: &Name, authority: Record) -> Vec<Record> {
        self.prove_absence(cut, [RecordType::NS].into(), authority)
    }

    fn prove_absence(&self, owner: &Name, present: BTreeSet<RecordType>, authority: Record) -> Vec<Record> {
        let next = owner.prepend_label(&b"\0"[..]).unwrap();
        let nsec = NSEC::new_cover_self(next, present);
        let nsec = Record::from_rdata(owner.clone(), 0, RData::DNSSEC(DNSSECRData::NSEC(nsec)));
        let sets = [authority, nsec].into_iter().flat_map(|record| {
            let mut set = RecordSet::new(record.name.clone(), record.record_type(), 0);
            set.insert(record.clone(), 0);
            let lost = self.tampered.contains(&record.name);
            let signature = (!lost).then(|| self.signature_of(&set));
            std::iter::once(record).chain(signature)
        });
        sets.collect()
    }

    fn is_signed(&self, owner: &Name) -> bool {
        !self.unsigned.iter().any(|cut| cut.zone_of(owner))
    }

    fn signature_of(&self, set: &RecordSet) -> Record {
        let inception = rcgen::date_time_ymd(2025, 1, 1);
        let signature = RRSIG::from_rrset(set, DNSClass::IN, inception, &self.signer).unwrap();
        Record::from_rdata(set.name().clone(), 0, RData::DNSSEC(DNSSECRData::RRSIG(signature)))
    }
}
