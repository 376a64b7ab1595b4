//! Who is signed in. Sessions are in the store, so they hold on all nodes; they have the digest of the secret of a key, never
//! the secret. What the API said about a session is remembered for a minute.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::counts::Counts;
use crate::api::{
    ApiError, InProcess, SessionChange, SignIn, SignInLimits, SignedIn, digest_of_token, random_token,
};
use crate::config;
use crate::limits::eviction::drop_oldest;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{Environment, LimitPeriod, Scope, TenantId, TenantStatus};
use crate::policy::fixed_window::FixedWindow;

/// Sessions of one key, for each tenant of its links, and of all.
const LIMITS: SignInLimits = SignInLimits { of_owner: 20, total: 1000 };
/// Sessions of which this process remembers something; beyond it, the ones that were not used for longest are asked about again.
const REMEMBERED_MAX: usize = 1000;
/// Look-ups of ids and tokens that this process does not know, at the same time. Anyone can make one up, and they must leave
/// connections of the store to others.
const UNKNOWN_LOOKUPS_MAX: usize = 2;
/// How exactly the last page of a session is stored, because each time is a commit.
const SEEN_RESOLUTION: SignedDuration = SignedDuration::from_secs(30);
const NOTE_CHARS_MAX: usize = 1000;
/// The themes that a person may choose.
pub const THEMES: [&str; 2] = ["dark", "light"];
/// Pages of a session in a minute. A page that refreshes itself every two seconds takes 30.
pub const PAGES_PER_MINUTE: u64 = 240;
/// Changes of sessions by one session in a minute. Each is a commit, and no request to the API, which limits the others.
pub const CHANGES_PER_MINUTE: u64 = 60;

/// Who is signed in, as `GET /v1/me` says it.
#[derive(Debug, Clone, Deserialize)]
pub struct Me {
    pub key: MeKey,
    pub tenant: Option<MeTenant>,
    pub environment: Environment,
    pub scopes: Vec<Scope>,
}

/// The key of a session.
#[derive(Debug, Clone, Deserialize)]
pub struct MeKey {
    pub id: String,
    pub name: String,
}

/// The tenant of a session.
#[derive(Debug, Clone, Deserialize)]
pub struct MeTenant {
    pub id: String,
    pub name: String,
    pub slug: String,
    pub status: TenantStatus,
    #[serde(default)]
    pub brand: Option<Brand>,
}

impl Me {
    /// Whether its tenant is archived.
    pub fn is_archived(&self) -> bool {
        self.tenant.as_ref().is_some_and(|tenant| tenant.status == TenantStatus::Archived)
    }

    /// With the scopes that the API lets it use: the keys of an archived tenant may only read.
    pub fn with_scopes_of_its_status(mut self) -> Self {
        if self.is_archived() {
            self.scopes.retain(|scope| !matches!(scope, Scope::SmtpSend | Scope::EmailsSend));
            self.scopes.iter_mut().for_each(|scope| *scope = scope.read_only());
        }
        self
    }
}

/// How the pages of a tenant look.
#[derive(Debug, Clone, Deserialize)]
pub struct Brand {
    pub name: Option<String>,
    pub color: Option<String>,
}

/// A session, as it is stored.
#[derive(Debug, Clone)]
pub struct Session {
    /// The digest of its id, which names it on the page of sessions.
    pub digest: [u8; 32],
    pub signed_in: SignedIn,
    /// Whose objects it sees; `None` for the platform.
    pub tenant_id: Option<TenantId>,
    pub created_at: Timestamp,
    /// Its last page, within some seconds.
    pub seen_at: Timestamp,
    pub expires_at: Timestamp,
    /// `light` or `dark`, if the person chose one.
    pub theme: Option<&'static str>,
    /// What the next page says.
    pub note: Option<String>,
}

impl From<SignIn> for Session {
    fn from(stored: SignIn) -> Self {
        let theme = stored.theme.as_deref();
        Self {
            digest: stored.digest,
            signed_in: SignedIn::from(&stored),
            tenant_id: stored.tenant_id,
            created_at: stored.created_at,
            seen_at: stored.seen_at,
            expires_at: stored.expires_at,
            theme: THEMES.into_iter().find(|known| Some(*known) == theme),
            note: stored.note,
        }
    }
}

/// A session while a request uses it.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    pub digest: [u8; 32],
    pub signed_in: SignedIn,
    pub me: Arc<Me>,
    /// The token of its forms.
    pub csrf: Arc<str>,
    pub theme: Option<&'static str>,
    /// Cancelled when this process learns that the session has ended.
    pub ended: CancellationToken,
    /// The counts in its navigation.
    pub counts: Counts,
}

/// What this process remembers of a session.
struct Remembered {
    token: CancellationToken,
    /// Cancels the token when the session is removed.
    _end: DropGuard,
    used_at: Timestamp,
    /// Who is signed in, and when the API said so.
    me: Option<(Arc<Me>, Timestamp)>,
    counts: Counts,
}

/// All sessions.
pub struct Sessions {
    api: InProcess,
    unknown_lookups: Semaphore,
    idle: SignedDuration,
    longest: SignedDuration,
    remembered: Mutex<HashMap<[u8; 32], Remembered>>,
    pages: Mutex<FixedWindow<[u8; 32]>>,
    changes: Mutex<FixedWindow<[u8; 32]>>,
}

impl Sessions {
    /// Those that the API stores.
    pub fn new(settings: &config::Ui, api: InProcess) -> Self {
        let time = |duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        Self {
            api,
            unknown_lookups: Semaphore::new(UNKNOWN_LOOKUPS_MAX),
            idle: time(settings.session_idle),
            longest: time(settings.session_max),
            remembered: Mutex::default(),
            pages: Mutex::new(FixedWindow::new(LimitPeriod::Minute)),
            changes: Mutex::new(FixedWindow::new(LimitPeriod::Minute)),
        }
    }

    /// Begins a session and returns its id, for the cookie. At the limits, the ones that were not used for longest end: of the
    /// key, or of the tenant with most sessions.
    pub async fn begin(
        &self,
        signed_in: SignedIn,
        me: Me,
        until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<String, ApiError> {
        let id = random_token();
        let longest = now.checked_add(self.longest).unwrap_or(Timestamp::MAX);
        let expires_at = until.map_or(longest, |until| until.min(longest));
        let new = SignIn {
            digest: digest_of_token(&id),
            secret: signed_in.digest,
            // Without the tenant of its link, a session would have all rights of the key.
            tenant_id: signed_in
                .tenant_of_link()
                .or_else(|| me.tenant.as_ref().and_then(|tenant| tenant.id.parse().ok())),
            scopes: signed_in.rights.as_ref().map(|rights| rights.scopes.clone()),
            path: None,
            created_at: now,
            seen_at: now,
            ends_at: self.end_of_idle(now).min(expires_at),
            expires_at,
            theme: None,
            note: None,
        };
        let digest = new.digest;
        self.api.add_session(new, LIMITS).await?;
        self.remember_me(digest, Arc::new(me), now);
        Ok(id)
    }

    /// The session of an id.
    pub async fn find(&self, id: &str) -> Result<Option<Session>, ApiError> {
        let digest = digest_of_token(id);
        let found = self.look_up(digest).await?.filter(|found| found.path.is_none());
        if found.is_none() {
            self.forget(&digest);
        }
        Ok(found.map(Session::from))
    }

    /// A link that nobody has opened.
    pub async fn find_link(&self, token: &str) -> Result<Option<SignIn>, ApiError> {
        Ok(self.look_up(digest_of_token(token)).await?.filter(|found| found.path.is_some()))
    }

    async fn look_up(&self, digest: [u8; 32]) -> Result<Option<SignIn>, ApiError> {
        let is_known = self.lock().contains_key(&digest);
        let _permit = match is_known {
            true => None,
            false => self.unknown_lookups.acquire().await.ok(),
        };
        self.api.find_sign_in(digest).await
    }

    /// Notes that a session is used. It ends early if that is not stored, so an error is only logged.
    pub async fn note_use(&self, session: &Session, now: Timestamp) {
        if now.duration_since(session.seen_at) < SEEN_RESOLUTION.min(self.idle / 8) {
            return;
        }
        let ends_at = self.end_of_idle(now).min(session.expires_at);
        let seen = SessionChange::Seen { at: now, ends_at };
        if let Err(error) = self.api.change_session(session.digest, seen).await {
            tracing::warn!(error = %error.refusal.message, "the use of a session was not stored");
        }
    }

    /// Counts a page. If the session has shown too many in this minute, the error is the number of seconds until the next.
    pub fn take_page(&self, session: &Session, now: Timestamp) -> Result<(), NonZeroU32> {
        take(&mut self.pages.lock(), session.digest, PAGES_PER_MINUTE, now)
    }

    /// Counts a change of a session. If this one has made too many in this minute, the error is the number of seconds until
    /// the next.
    pub fn take_change(&self, session: &SessionHandle, now: Timestamp) -> Result<(), NonZeroU32> {
        take(&mut self.changes.lock(), session.digest, CHANGES_PER_MINUTE, now)
    }

    /// Sets the theme.
    pub async fn set_theme(
        &self,
        session: &SessionHandle,
        theme: Option<&'static str>,
    ) -> Result<(), ApiError> {
        let theme = SessionChange::Theme(theme.map(str::to_owned));
        self.api.change_session(session.digest, theme).await
    }

    /// Sets what the next page says.
    pub async fn set_note(&self, digest: [u8; 32], note: Option<&str>) -> Result<(), ApiError> {
        let note = note.map(|note| note.chars().take(NOTE_CHARS_MAX).collect());
        self.api.change_session(digest, SessionChange::Note(note)).await
    }

    /// Who is signed in, and when the API said so, as far as this process remembers it.
    pub fn remembered_me(&self, session: &Session) -> Option<(Arc<Me>, Timestamp)> {
        self.lock().get(&session.digest)?.me.clone()
    }

    /// Remembers who is signed in.
    pub fn remember_me(&self, digest: [u8; 32], me: Arc<Me>, now: Timestamp) {
        self.remember(digest, now, |remembered| remembered.me = Some((me, now)));
    }

    /// The session for a request, with the id of its cookie.
    pub fn open(&self, session: &Session, id: &str, me: Arc<Me>, now: Timestamp) -> SessionHandle {
        let (ended, counts) = self.remember(session.digest, now, |remembered| {
            (remembered.token.clone(), remembered.counts.clone())
        });
        SessionHandle {
            digest: session.digest,
            signed_in: session.signed_in.clone(),
            me,
            csrf: form_token(id).into(),
            theme: session.theme,
            ended,
            counts,
        }
    }

    /// Changes the counts in the navigation, and returns them.
    pub fn change_counts(&self, session: &SessionHandle, change: impl FnOnce(&mut Counts)) -> Counts {
        let mut all = self.lock();
        let Some(remembered) = all.get_mut(&session.digest) else { return Counts::default() };
        change(&mut remembered.counts);
        remembered.counts.clone()
    }

    /// Ends a session.
    pub async fn end(&self, digest: [u8; 32]) -> Result<(), ApiError> {
        self.api.take_sign_in(digest).await?;
        self.forget(&digest);
        Ok(())
    }

    /// Ends all sessions of the key of this one, and links that nobody has opened.
    pub async fn end_all_of_key(&self, session: &SessionHandle) -> Result<(), ApiError> {
        let secret = session.signed_in.digest;
        let own = self.api.sessions_of(secret).await?;
        self.api.end_sign_ins_of(secret).await?;
        own.iter().for_each(|session| self.forget(&session.digest));
        Ok(())
    }

    /// The sessions that this one may see, the newest first. A session of a link sees itself only, because others of the key
    /// may be of other people.
    pub async fn of_key(&self, session: &SessionHandle) -> Result<Vec<Session>, ApiError> {
        let all = self.api.sessions_of(session.signed_in.digest).await?;
        let is_shown = |other: &SignIn| match session.signed_in.rights {
            Some(_) => other.digest == session.digest,
            None => true,
        };
        Ok(all.into_iter().filter(is_shown).map(Session::from).collect())
    }

    /// Whether a session has not ended. It may have ended on another node, or because nobody opens a page.
    pub async fn is_open(&self, session: &SessionHandle) -> bool {
        !matches!(self.api.find_sign_in(session.digest).await, Ok(None))
    }

    fn end_of_idle(&self, now: Timestamp) -> Timestamp {
        now.checked_add(self.idle).unwrap_or(Timestamp::MAX)
    }

    /// Changes what is remembered of a session.
    fn remember<T>(&self, digest: [u8; 32], now: Timestamp, change: impl FnOnce(&mut Remembered) -> T) -> T {
        let mut all = self.lock();
        if !all.contains_key(&digest) {
            drop_oldest(&mut all, REMEMBERED_MAX, |remembered| remembered.used_at);
        }
        let remembered = all.entry(digest).or_insert_with(Remembered::new);
        remembered.used_at = now;
        change(remembered)
    }

    fn forget(&self, digest: &[u8; 32]) {
        self.lock().remove(digest);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Remembered>> {
        self.remembered.lock()
    }
}

impl Remembered {
    fn new() -> Self {
        let token = CancellationToken::new();
        let _end = token.clone().drop_guard();
        Self { token, _end, used_at: Timestamp::MIN, me: None, counts: Counts::default() }
    }
}

/// Counts one, unless the limit is reached; then the error is the number of seconds until the next.
fn take(
    window: &mut FixedWindow<[u8; 32]>,
    digest: [u8; 32],
    limit: u64,
    now: Timestamp,
) -> Result<(), NonZeroU32> {
    let status = window.status(&digest, limit, now);
    if status.remaining() == 0 {
        return Err(status.seconds_to_reset(now));
    }
    window.take(digest, 1, now);
    Ok(())
}

/// The token of the forms of a session. It follows from the id, so every node knows it, and only the browser has the id.
fn form_token(id: &str) -> String {
    HEXLOWER.encode(&Sha256::new().chain_update("form token ").chain_update(id).finalize())
}

/// Completes when `ended` is cancelled, or a look at this interval finds that the session has ended.
pub async fn until_end<F: Future<Output = bool>>(
    ended: CancellationToken,
    interval: Duration,
    is_open: impl Fn() -> F,
) {
    while tokio::time::timeout(interval, ended.cancelled()).await.is_err() {
        if !is_open().await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn a_stream_ends_with_a_session_that_ended_elsewhere() {
        let looks = Cell::new(0);
        let is_open = || {
            looks.set(looks.get() + 1);
            ready(looks.get() < 3)
        };
        let end = until_end(CancellationToken::new(), Duration::from_millis(1), is_open);
        assert!(tokio::time::timeout(Duration::from_secs(10), end).await.is_ok());
        assert_eq!(looks.get(), 3);
    }

    #[test]
    fn the_token_of_a_form_is_not_the_id() {
        assert_ne!(form_token("a"), form_token("b"));
        assert!(!form_token("abcdefgh").contains("abcdefgh"));
        // The page of sessions shows the digest.
        assert_ne!(form_token("a"), HEXLOWER.encode(&digest_of_token("a")));
    }
}
