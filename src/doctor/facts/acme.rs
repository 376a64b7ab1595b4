//! The renewal of the certificate, and the records that it needs now.

use futures_util::future::join_all;

use super::{AcmeFacts, AcmeRecordFacts, Gatherer, NO_SERVER, Seen};
use crate::acme::PersistRecord;

pub async fn gather(gatherer: &Gatherer<'_>) -> Seen<AcmeFacts> {
    let state = match gatherer.acme {
        _ if !gatherer.config.acme.enabled => return Seen::Nothing,
        Some(acme) => acme.state(),
        None => return Seen::NotAsked(NO_SERVER),
    };
    let records = join_all(state.needed_records.iter().map(|record| look_up(record, gatherer))).await;
    Seen::Value(AcmeFacts { state, records })
}

async fn look_up(record: &PersistRecord, gatherer: &Gatherer<'_>) -> AcmeRecordFacts {
    let is_published = match gatherer.lookups.texts(&record.name).await {
        Seen::Value(texts) => Seen::Value(texts.iter().any(|text| record.is_met_by(text, gatherer.now))),
        Seen::Nothing => Seen::Value(false),
        other => other.absent(),
    };
    AcmeRecordFacts { name: record.name.clone(), value: record.value(), is_published }
}
