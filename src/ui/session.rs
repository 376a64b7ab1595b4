//! Who is signed in. Sessions are in memory, so a restart signs everybody out; they have the digest of the secret of a key,
//! never the secret.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::counts::Counts;
use crate::api::{SignedIn, random_token};
use crate::config;
use crate::limits::eviction::{drop_oldest, drop_oldest_of_largest_owner};
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{Environment, LimitPeriod, Scope, TenantStatus};
use crate::policy::fixed_window::FixedWindow;

const SESSIONS_MAX: usize = 1000;
const SESSIONS_OF_KEY_MAX: usize = 20;
/// Pages of a session in a minute. A page that refreshes itself every two seconds takes 30.
pub const PAGES_PER_MINUTE: u64 = 240;

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

/// A session while a request uses it.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    /// The digest of its id, which names it on the page of sessions.
    pub digest: [u8; 32],
    pub signed_in: SignedIn,
    pub me: Arc<Me>,
    /// The time when the API said so.
    pub me_read_at: Timestamp,
    /// The token of its forms.
    pub csrf: Arc<str>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    /// `light` or `dark`, if the person chose one.
    pub theme: Option<&'static str>,
    /// Cancelled when the session ends.
    pub ended: CancellationToken,
    /// The counts in its navigation.
    pub counts: Counts,
}

struct Session {
    handle: SessionHandle,
    /// Cancels [`SessionHandle::ended`] when the session is removed.
    _end: DropGuard,
    last_seen: Timestamp,
    note: Option<String>,
}

/// All sessions.
pub struct Sessions {
    idle: SignedDuration,
    longest: SignedDuration,
    all: Mutex<HashMap<[u8; 32], Session>>,
    pages: Mutex<FixedWindow<[u8; 32]>>,
}

impl Sessions {
    /// Nobody is signed in.
    pub fn new(settings: &config::Ui) -> Self {
        let time = |duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        Self {
            idle: time(settings.session_idle),
            longest: time(settings.session_max),
            all: Mutex::default(),
            pages: Mutex::new(FixedWindow::new(LimitPeriod::Minute)),
        }
    }

    /// Begins a session and returns its id, for the cookie. Above the limits, the oldest ones of the key or of the tenant
    /// with most sessions end.
    pub fn begin(&self, signed_in: SignedIn, me: Me, until: Option<Timestamp>, now: Timestamp) -> String {
        let (id, ended) = (random_token(), CancellationToken::new());
        let longest = now.checked_add(self.longest).unwrap_or(Timestamp::MAX);
        let handle = SessionHandle {
            digest: Sha256::digest(&id).into(),
            signed_in,
            me: Arc::new(me),
            me_read_at: now,
            csrf: random_token().into(),
            created_at: now,
            expires_at: until.map_or(longest, |until| until.min(longest)),
            theme: None,
            ended: ended.clone(),
            counts: Counts::default(),
        };
        let mut all = self.lock();
        self.drop_ended(&mut all, now);
        let (owner, age) = (handle.signed_in.owner(), |session: &Session| session.last_seen);
        drop_oldest(&mut all, SESSIONS_OF_KEY_MAX, age, |other| other.handle.signed_in.owner() == owner);
        let tenant = |session: &Session| session.handle.me.tenant.as_ref().map(|tenant| tenant.id.clone());
        drop_oldest_of_largest_owner(&mut all, SESSIONS_MAX, age, tenant);
        all.insert(handle.digest, Session { handle, _end: ended.drop_guard(), last_seen: now, note: None });
        id
    }

    /// The session of an id, which is now in use.
    pub fn find(&self, id: &str, now: Timestamp) -> Option<SessionHandle> {
        let digest: [u8; 32] = Sha256::digest(id).into();
        let mut all = self.lock();
        self.drop_ended(&mut all, now);
        let session = all.get_mut(&digest)?;
        session.last_seen = now;
        Some(session.handle.clone())
    }

    /// Counts a page. If the session has shown too many in this minute, the error is the number of seconds until the next.
    pub fn take_page(&self, session: &SessionHandle, now: Timestamp) -> Result<(), NonZeroU32> {
        let mut pages = self.pages.lock();
        let status = pages.status(&session.digest, PAGES_PER_MINUTE, now);
        if status.remaining() == 0 {
            return Err(status.seconds_to_reset(now));
        }
        pages.take(session.digest, 1, now);
        Ok(())
    }

    /// Sets the theme.
    pub fn set_theme(&self, session: &SessionHandle, theme: Option<&'static str>) {
        if let Some(session) = self.lock().get_mut(&session.digest) {
            session.handle.theme = theme;
        }
    }

    /// Changes the counts in the navigation, and returns them.
    pub fn change_counts(&self, session: &SessionHandle, change: impl FnOnce(&mut Counts)) -> Counts {
        let mut all = self.lock();
        let Some(session) = all.get_mut(&session.digest) else { return Counts::default() };
        change(&mut session.handle.counts);
        session.handle.counts.clone()
    }

    /// Renews who is signed in.
    pub fn set_me(&self, session: &SessionHandle, me: Arc<Me>, now: Timestamp) {
        if let Some(session) = self.lock().get_mut(&session.digest) {
            session.handle.me = me;
            session.handle.me_read_at = now;
        }
    }

    /// Ends a session.
    pub fn end(&self, session: &SessionHandle) {
        self.lock().remove(&session.digest);
    }

    /// Completes when a session has ended. Looks for idle sessions at this interval, because nobody may open a page meanwhile.
    pub async fn until_end(&self, session: &SessionHandle, interval: Duration, now: impl Fn() -> Timestamp) {
        while tokio::time::timeout(interval, session.ended.cancelled()).await.is_err() {
            self.drop_ended(&mut self.lock(), now());
        }
    }

    /// Ends all sessions of the key of this one.
    pub fn end_all_of_key(&self, session: &SessionHandle) {
        let key = session.signed_in.digest;
        self.lock().retain(|_, other| other.handle.signed_in.digest != key);
    }

    /// The sessions that this one may see, the newest first, with the time of their last page. A session of a link sees
    /// itself only, because others of the key may be of other people.
    pub fn of_key(&self, session: &SessionHandle, now: Timestamp) -> Vec<(SessionHandle, Timestamp)> {
        let mut all = self.lock();
        self.drop_ended(&mut all, now);
        let is_shown = |other: &SessionHandle| match session.signed_in.rights {
            Some(_) => other.digest == session.digest,
            None => other.signed_in.digest == session.signed_in.digest,
        };
        let shown = all.values().filter(|other| is_shown(&other.handle));
        let mut found: Vec<_> = shown.map(|other| (other.handle.clone(), other.last_seen)).collect();
        found.sort_by_key(|(handle, _)| std::cmp::Reverse(handle.created_at));
        found
    }

    /// Sets the note that the next page shows.
    pub fn set_note(&self, session: &SessionHandle, note: Option<String>) {
        if let Some(session) = self.lock().get_mut(&session.digest) {
            session.note = note;
        }
    }

    /// The note of the last change, once.
    pub fn take_note(&self, session: &SessionHandle) -> Option<String> {
        self.lock().get_mut(&session.digest)?.note.take()
    }

    fn drop_ended(&self, all: &mut HashMap<[u8; 32], Session>, now: Timestamp) {
        all.retain(|_, session| {
            session.handle.expires_at > now && now.duration_since(session.last_seen) < self.idle
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.all.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::KeySecret;

    fn me(tenant: Option<&str>) -> Me {
        let name = |id: &str| MeTenant {
            id: id.into(),
            name: id.into(),
            slug: id.into(),
            status: TenantStatus::Active,
            brand: None,
        };
        Me {
            key: MeKey { id: "key".into(), name: "key".into() },
            tenant: tenant.map(name),
            environment: Environment::Live,
            scopes: Vec::new(),
        }
    }

    #[test]
    fn the_sessions_of_all_keys_of_a_tenant_do_not_end_those_of_others() {
        let now = Timestamp::UNIX_EPOCH;
        let sessions = Sessions::new(&config::Ui::default());
        let key = || SignedIn { digest: KeySecret::generate(Environment::Live).digest(), rights: None };
        let others = [None, Some("calm")].map(|tenant| sessions.begin(key(), me(tenant), None, now));
        let later = now + SignedDuration::from_secs(1);
        for _ in 0..SESSIONS_MAX / SESSIONS_OF_KEY_MAX + 1 {
            let key = key();
            for _ in 0..SESSIONS_OF_KEY_MAX {
                sessions.begin(key.clone(), me(Some("busy")), None, later);
            }
        }
        assert_eq!(sessions.lock().len(), SESSIONS_MAX);
        for other in others {
            assert!(sessions.find(&other, later).is_some());
        }
    }

    #[tokio::test]
    async fn a_stream_ends_with_an_idle_session_although_nobody_opens_a_page() {
        let begun = Timestamp::UNIX_EPOCH;
        let sessions = Sessions::new(&config::Ui::default());
        let key = SignedIn { digest: KeySecret::generate(Environment::Live).digest(), rights: None };
        let id = sessions.begin(key, me(None), None, begun);
        let session = sessions.find(&id, begun).unwrap();
        let end = sessions.until_end(&session, Duration::from_millis(1), || begun + sessions.idle);
        assert!(tokio::time::timeout(Duration::from_secs(10), end).await.is_ok());
    }
}
