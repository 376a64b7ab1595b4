//! Certificates from an authority by ACME (RFC 8555): account, orders, challenges, renewal. The listeners get a new certificate
//! by [`Certificate::adopt`]; whatever fails, the present one stays in use.
//!
//! `renewal` decides when. `order` goes from the names to the chain: `challenge_listener` answers http-01, `persist` knows the
//! record of dns-persist-01. `account` keeps the account in the store, `certificate_file` the result in one file. `transport`
//! sends the requests of the library over `http_client`. Imports `mail`, `model`, `store`, `dns`, `http_client`, `accept_loop`
//! and `durable_file`.

mod account;
mod certificate_file;
mod challenge_listener;
mod error;
mod nonce;
mod order;
mod persist;
mod renewal;
mod transport;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::FutureExt;
use instant_acme::{Account, CertificateIdentifier, Error};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Instant};
use crate::config;
use crate::dns::Resolver;
use crate::mail::{DomainName, SignedDuration, Timestamp};
use crate::model::EventKind;
use crate::rng::Rng;
use crate::store::{Journal, NewEvent, Store};
use crate::tls::{Certificate, TlsError};

use self::certificate_file::{CertificateFile, Held};
use self::renewal::Window;
use self::transport::Transport;

pub use self::certificate_file::{certificate_file, present_file};
pub use self::error::{AcmeError, ListenFault};
pub use self::persist::PersistRecord;

/// The first order waits until the listeners serve; a server that fails sooner, again and again, does not order each time.
const FIRST_LOOK_AFTER: Duration = Duration::from_secs(10);
/// The certificate is looked at this often at least, and the authority is asked when it is to be renewed.
const LOOK_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);
/// The bounds of the time after which the authority wants to be asked again.
const ASK_MIN: Duration = Duration::from_secs(60 * 60);
const ASK_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The pause after an order that succeeded, whatever the life of the certificate is.
const PAUSE_AFTER_SUCCESS: SignedDuration = SignedDuration::from_hours(1);
/// The pause between two looks for a record that an order lacked. They cost the authority nothing.
const RECORD_PAUSE: Duration = Duration::from_secs(10 * 60);

/// What the renewal needs.
pub struct AcmeDependencies {
    /// `[acme]` of the configuration.
    pub settings: config::Acme,
    /// The names of the certificate.
    pub names: Vec<DomainName>,
    /// Where the certificate is.
    pub data_dir: PathBuf,
    /// Where the listeners for http-01 lead people, without a slash at its end.
    pub public_url: Option<String>,
    /// The account, and the events.
    pub store: Arc<Store>,
    /// The certificate of the listeners.
    pub certificate: Arc<Certificate>,
    /// Looks for the records.
    pub resolver: Resolver,
    /// The clock.
    pub clock: Clock,
    /// Spreads renewals.
    pub rng: Rng,
}

/// What is known about the renewal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcmeState {
    /// The directory of the authority.
    pub directory: String,
    /// The URL of the account, once it is known.
    pub account: Option<String>,
    /// The names of the certificate.
    pub names: Vec<String>,
    /// The challenge of the last order that succeeded.
    pub challenge: Option<&'static str>,
    /// Whether an order runs.
    pub is_running: bool,
    /// When the certificate is renewed, or tried again.
    pub next_at: Option<Timestamp>,
    /// When the last order succeeded, since the start.
    pub renewed_at: Option<Timestamp>,
    /// Since when orders fail.
    pub failing_since: Option<Timestamp>,
    /// Why the last order failed.
    pub error: Option<String>,
    /// Names and values of the records for dns-persist-01.
    pub records: Vec<(String, String)>,
    /// Those that the last order needed, whether the DNS had them or not.
    pub needed_records: Vec<PersistRecord>,
    /// Whether the listeners for http-01 could be opened; `None` if the last order did not try it.
    pub challenge_listener: Option<Result<(), ListenFault>>,
}

/// The renewal of the certificate.
pub struct Acme {
    parts: AcmeDependencies,
    transport: Transport,
    file: CertificateFile,
    state: Mutex<AcmeState>,
    wake: Notify,
    first_look: Instant,
    /// Whether the last order failed with dns-persist-01: the authority may not see a record that we see.
    record_failed: AtomicBool,
}

/// What is remembered from one look at the certificate to the next.
struct Cycle {
    /// The place in the window of the authority, drawn once for each certificate.
    place: f64,
    window: Option<Window>,
    /// When the authority is asked for the window.
    ask_at: Timestamp,
    /// Failures in a row.
    failures: u32,
    /// No order before this time.
    pause_until: Timestamp,
    /// The records that the last order lacked.
    awaited: Vec<PersistRecord>,
    /// Whether the event about the failures was appended.
    is_reported: bool,
}

impl Cycle {
    fn new(rng: &Rng, pause_until: Timestamp) -> Self {
        Self {
            place: rng.random(),
            window: None,
            ask_at: Timestamp::MIN,
            failures: 0,
            pause_until,
            awaited: Vec::new(),
            is_reported: false,
        }
    }
}

impl Acme {
    /// Nothing has been ordered yet.
    ///
    /// # Errors
    /// `acme.ca_file` cannot be used.
    pub fn new(parts: AcmeDependencies) -> Result<Self, TlsError> {
        let state = AcmeState {
            directory: parts.settings.directory.to_string(),
            names: parts.names.iter().map(ToString::to_string).collect(),
            ..AcmeState::default()
        };
        let file = CertificateFile {
            path: certificate_file(&parts.data_dir),
            names: parts.names.clone(),
            directory: state.directory.clone(),
        };
        Ok(Self {
            transport: Transport::new(&parts.settings, &parts.resolver, parts.clock.clone())?,
            file,
            first_look: parts.clock.instant() + FIRST_LOOK_AFTER,
            parts,
            state: Mutex::new(state),
            wake: Notify::new(),
            record_failed: AtomicBool::new(false),
        })
    }

    /// What is known now.
    pub fn state(&self) -> AcmeState {
        self.state.lock().clone()
    }

    /// Whether the listeners use a certificate by ACME.
    pub fn is_in_use(&self) -> bool {
        self.parts.certificate.path() == self.file.path
    }

    /// Orders a certificate now, unless an order runs.
    pub fn renew_now(&self) {
        self.change(|state| state.is_running = true);
        self.wake.notify_one();
    }

    /// Renews the certificate when it is time, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let clock = &self.parts.clock;
        let mut cycle = Cycle::new(&self.parts.rng, Timestamp::MIN);
        let mut look_at = self.first_look;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = clock.sleep_until(look_at) => {}
            }
            let Some(pause) = stop.run_until_cancelled(self.look(&mut cycle)).await else { return };
            look_at = clock.instant() + pause;
        }
    }

    /// Renews the certificate if it is time, or if somebody asks for it. Returns the time until the next look.
    async fn look(&self, cycle: &mut Cycle) -> Duration {
        let present = self.read_present().await;
        let next_at = self.renewal_time(present.as_ref(), cycle).await;
        let is_due = next_at <= self.parts.clock.now();
        let mut is_asked_for = false;
        self.change(|state| {
            // Between two looks, only `renew_now` sets it.
            is_asked_for = state.is_running;
            state.is_running |= is_due;
        });
        if !is_due && !is_asked_for {
            self.change(|state| state.next_at = Some(next_at));
            return self.time_until(next_at.min(cycle.ask_at));
        }
        let awaited = std::mem::take(&mut cycle.awaited);
        let missing = if is_asked_for { Vec::new() } else { self.missing(awaited).await };
        let renewed = match missing.is_empty() {
            true => caught(self.renew(present)).await,
            false => Err(AcmeError::Records(missing)),
        };
        if let Err(error) = renewed {
            return self.end_failed(error, cycle).await;
        }
        *cycle = Cycle::new(&self.parts.rng, self.parts.clock.now() + PAUSE_AFTER_SUCCESS);
        let next_at = self.renewal_time(self.read_present().await.as_ref(), cycle).await;
        self.end(next_at, cycle)
    }

    /// Ends a look that failed. Returns the time until the next one.
    async fn end_failed(&self, error: AcmeError, cycle: &mut Cycle) -> Duration {
        let pause = match &error {
            AcmeError::Records(missing) => {
                cycle.awaited = missing.clone();
                cycle.failures = cycle.failures.max(1);
                RECORD_PAUSE
            }
            _ => {
                cycle.failures += 1;
                let asked = self.transport.retry_after();
                renewal::pause_after(cycle.failures, asked, self.parts.rng.random())
            }
        };
        cycle.pause_until = self.parts.clock.now().saturating_add(pause).unwrap_or(Timestamp::MAX);
        self.note_failure(&error, cycle).await;
        self.end(cycle.pause_until, cycle)
    }

    fn end(&self, next_at: Timestamp, cycle: &Cycle) -> Duration {
        self.change(|state| (state.is_running, state.next_at) = (false, Some(next_at)));
        self.time_until(next_at.min(cycle.ask_at))
    }

    /// The certificate in its file, if it can be used for all names.
    async fn read_present(&self) -> Option<Held> {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || file.read()).await.ok()?;
        read.inspect_err(|error| tracing::debug!(%error, "no certificate by ACME")).ok()
    }

    /// Those of the records that the DNS does not have.
    async fn missing(&self, records: Vec<PersistRecord>) -> Vec<PersistRecord> {
        let mut missing = Vec::new();
        for record in records {
            if !self.is_published(&record).await {
                missing.push(record);
            }
        }
        missing
    }

    async fn is_published(&self, record: &PersistRecord) -> bool {
        record.is_published(&self.parts.resolver.without_cache(), self.parts.clock.now()).await
    }

    /// The time until the next look. While the machine sleeps, only the wall clock goes on.
    fn time_until(&self, next_look: Timestamp) -> Duration {
        let pause = Duration::try_from(next_look.duration_since(self.parts.clock.now())).unwrap_or_default();
        pause.clamp(Duration::from_secs(1), LOOK_INTERVAL)
    }

    /// When the certificate is renewed: at once if there is none, or if an order failed.
    async fn renewal_time(&self, present: Option<&Held>, cycle: &mut Cycle) -> Timestamp {
        let now = self.parts.clock.now();
        if cycle.ask_at <= now {
            cycle.ask_at = now.saturating_add(LOOK_INTERVAL).unwrap_or(Timestamp::MAX);
            if let Err(error) = caught(self.ask_window(present, cycle)).await {
                tracing::debug!(%error, "the authority does not say when to renew");
            }
        }
        let due = match present {
            Some(held) if cycle.failures == 0 => held.life.renew_at(cycle.window, cycle.place),
            // What failed is tried again, also if somebody asked for it before it was time.
            _ => Timestamp::MIN,
        };
        due.max(cycle.pause_until)
    }

    /// Asks the authority when it wants the certificate to be renewed (RFC 9773). After an error, its last answer holds.
    async fn ask_window(&self, present: Option<&Held>, cycle: &mut Cycle) -> Result<(), AcmeError> {
        let Some(account) = account::restore(&self.parts, &self.transport).await? else { return Ok(()) };
        self.note_account(&account);
        let Some(id) = present.and_then(identifier_of) else { return Ok(()) };
        match account.renewal_info(&id).await {
            Ok((info, pause)) => {
                let window = info.suggested_window;
                cycle.window = Window::new(window.start.unix_timestamp(), window.end.unix_timestamp());
                let now = self.parts.clock.now();
                cycle.ask_at = now.saturating_add(pause.clamp(ASK_MIN, ASK_MAX)).unwrap_or(Timestamp::MAX);
                Ok(())
            }
            Err(Error::Unsupported(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Orders a certificate, puts it in place of the present one and tells so.
    async fn renew(&self, present: Option<Held>) -> Result<(), AcmeError> {
        self.transport.begin_order();
        let replaced = present.as_ref().and_then(identifier_of);
        let account = account::open(&self.parts, &self.transport).await?;
        self.note_account(&account);
        let issued = match order::run(self, &account, replaced.clone()).await {
            Err(error) if error.is_of_unknown_account() => {
                tracing::warn!(account = account.id(), "the authority does not know the ACME account");
                let account = account::create(&self.parts, &self.transport).await?;
                self.note_account(&account);
                order::run(self, &account, replaced).await?
            }
            ended => ended?,
        };
        let (file, certificate, now) =
            (self.file.clone(), self.parts.certificate.clone(), self.parts.clock.now());
        blocking(move || {
            file.replace(&issued.pem, now)?;
            certificate.adopt(&file.path, &file.path).map_err(AcmeError::Certificate)
        })
        .await?;
        self.note_success(issued.challenge).await;
        Ok(())
    }

    /// The account, and the records as its directory lets expect them. A challenge can correct them.
    fn note_account(&self, account: &Account) {
        let issuers = self.transport.identities();
        let record = |name: &DomainName| PersistRecord::new(name.as_str(), issuers.clone(), account.id());
        let records = self.parts.names.iter().filter_map(record);
        let records: Vec<_> = records.map(|record| (record.name.clone(), record.value())).collect();
        self.change(|state| {
            let is_new = state.account.as_deref() != Some(account.id());
            state.account = Some(account.id().to_owned());
            if is_new {
                state.records = records;
            }
        });
    }

    async fn note_success(&self, challenge: Option<&'static str>) {
        let now = self.parts.clock.now();
        let expires_at = self.parts.certificate.expires_at();
        self.change(|state| {
            state.challenge = challenge.or(state.challenge);
            state.renewed_at = Some(now);
            (state.failing_since, state.error) = (None, None);
        });
        let names = self.state().names;
        tracing::info!(
            ?names,
            challenge,
            expires_at = expires_at.map(tracing::field::display),
            "certificate renewed"
        );
        let data = json!({"names": names, "challenge": challenge, "expires_at": expires_at});
        self.append(EventKind::CertificateRenewed, data).await;
    }

    /// The event is appended once until an order succeeds. A missing record must be missing at two looks: with
    /// dns-persist-01 alone, nobody can know it before the first order.
    async fn note_failure(&self, error: &AcmeError, cycle: &mut Cycle) {
        let (now, next_at) = (self.parts.clock.now(), cycle.pause_until);
        let (is_record, error) = (matches!(error, AcmeError::Records(_)), error.to_string());
        let (mut is_first, mut is_known) = (false, false);
        self.change(|state| {
            is_first = state.failing_since.is_none();
            state.failing_since.get_or_insert(now);
            is_known = state.error.replace(error.clone()).as_ref() == Some(&error);
        });
        if !is_record || !is_known {
            tracing::error!(%next_at, "no certificate by ACME: {error}; the present one stays in use");
        }
        if !(cycle.is_reported || is_record && is_first) {
            cycle.is_reported = true;
            let data = json!({"names": self.state().names, "error": error, "next_at": next_at});
            self.append(EventKind::CertificateFailing, data).await;
        }
    }

    async fn append(&self, kind: EventKind, data: Value) {
        let event = NewEvent { kind, tenant_id: None, environment: None, data, at: self.parts.clock.now() };
        if let Err(error) = self.parts.store.append(event).await {
            tracing::warn!(%error, "cannot append the event {kind}");
        }
    }

    fn change(&self, change: impl FnOnce(&mut AcmeState)) {
        change(&mut self.state.lock());
    }
}

/// The library panics on some answers of authorities, and mail does not stop for that.
async fn caught<T>(work: impl Future<Output = Result<T, AcmeError>>) -> Result<T, AcmeError> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or(Err(AcmeError::Panicked))
}

/// Does what may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AcmeError> + Send + 'static,
) -> Result<T, AcmeError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(AcmeError::Panicked))
}

/// The name of a certificate for its authority (RFC 9773 §4.1); `None` if it does not say which key has signed it.
fn identifier_of(held: &Held) -> Option<CertificateIdentifier<'static>> {
    CertificateIdentifier::try_from(&held.leaf).ok().map(|id| id.into_owned())
}

/// Checks that the key of an external account can be used.
///
/// # Errors
/// [`AcmeError::BindingKey`].
pub fn check(settings: &config::Acme) -> Result<(), AcmeError> {
    account::external_account(settings).map(drop)
}
