use crate::mail::Timestamp;
use crate::model::SecretDigest;
use crate::store::traits::store_trait;
use crate::store::{Result, SessionChange, SignIn, SignInLimits};

store_trait! {
    /// Who is signed in to the pages: sessions, and links that begin one. They end by themselves, and with the revocation of
    /// their key.
    pub trait SignIns {
        /// Adds a session or a link. At a limit, the one that was not used for longest ends: of the same owner, or of the tenant
        /// with most of them.
        async fn add_sign_in(&self, new: SignIn, limits: SignInLimits) -> Result<()>;
        /// A session or link that has not ended.
        async fn sign_in(&self, digest: [u8; 32], now: Timestamp) -> Result<Option<SignIn>>;
        /// Removes a link or session and returns it, if it has not ended. Only one caller gets it.
        async fn take_sign_in(&self, digest: [u8; 32], now: Timestamp) -> Result<Option<SignIn>>;
        /// The sessions of a secret that have not ended, the newest first.
        async fn sessions_of(&self, secret: SecretDigest, now: Timestamp) -> Result<Vec<SignIn>>;
        /// Changes a session, if it exists.
        async fn change_session(&self, digest: [u8; 32], change: SessionChange) -> Result<()>;
        /// Ends all sessions and links of a secret.
        async fn end_sign_ins_of(&self, secret: SecretDigest) -> Result<()>;
    }
}
