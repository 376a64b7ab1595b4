//! The results of one batch: what is recorded, and what is reported to the sender.

use crate::dsn::recipient::DsnRecipient;
use crate::store::{AttemptRecord, Delivery, Message};

/// The records of a batch and the recipients of its DSN.
#[derive(Default)]
pub struct Outcomes {
    /// The records.
    pub records: Vec<AttemptRecord>,
    /// The recipients of the DSN.
    pub dsn_recipients: Vec<DsnRecipient>,
}

impl Outcomes {
    /// Adds and logs the result of one delivery. `server_sends_dsn`: the server that accepted the message sends the DSN.
    pub fn add(
        &mut self,
        message: &Message,
        delivery: &Delivery,
        record: AttemptRecord,
        server_sends_dsn: bool,
    ) {
        log_attempt(delivery, &record);
        self.dsn_recipients.extend(DsnRecipient::for_record(message, delivery, &record, server_sends_dsn));
        self.records.push(record);
    }
}

fn log_attempt(delivery: &Delivery, record: &AttemptRecord) {
    let attempt = record.attempt.as_ref();
    tracing::info!(
        delivery = %record.delivery_id,
        recipient = %delivery.recipient,
        host = attempt.map_or("", |attempt| attempt.host.as_str()),
        outcome = %record.state,
        bounce_class = record.bounce_class.map(tracing::field::display),
        code = attempt.and_then(|attempt| attempt.code),
        status = attempt.and_then(|attempt| attempt.enhanced).map(tracing::field::display),
        duration_ms = attempt.map_or(0, |attempt| attempt.duration_ms),
        reply = %record.reply,
        "attempt"
    );
}
