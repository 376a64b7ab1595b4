//! The engine that stores the data, and how a call reaches it.

use std::sync::Arc;

use super::sqlite::SqliteStore;
use super::{AuditTrail, OpenError, Requester, ResponseRecorder, StoreOptions};

/// The store, whichever engine stores the data. It implements all traits; each method is one `match` without allocation.
/// A clone is another handle of the same store.
#[derive(Clone)]
pub enum Store {
    /// SQLite in one data directory, for one process.
    Sqlite(SqliteStore),
}

impl Store {
    /// Opens the store; creates or migrates it if necessary.
    pub async fn open(options: impl Into<StoreOptions>) -> std::result::Result<Self, OpenError> {
        match options.into() {
            StoreOptions::Sqlite(options) => SqliteStore::open(options).await.map(Self::Sqlite),
        }
    }

    /// A handle whose queries are those of `requester`, which shares the connections fairly with others. Other handles are
    /// those of the server itself.
    pub fn for_requester(&self, requester: Requester) -> Self {
        match self {
            Self::Sqlite(engine) => Self::Sqlite(engine.for_requester(requester)),
        }
    }

    /// A handle whose changes also store the response that `recorder` renders from their result, in their transaction.
    pub fn recording(&self, recorder: ResponseRecorder) -> Self {
        match self {
            Self::Sqlite(engine) => Self::Sqlite(engine.recording(recorder)),
        }
    }

    /// A handle whose changes also store an entry of the audit log, in their transactions.
    pub fn auditing(&self, trail: Arc<AuditTrail>) -> Self {
        match self {
            Self::Sqlite(engine) => Self::Sqlite(engine.auditing(trail)),
        }
    }

    /// Writes pending changes and closes. Later calls fail with [`StoreError::Closed`](super::StoreError::Closed).
    pub async fn close(&self) {
        match self {
            Self::Sqlite(engine) => engine.close().await,
        }
    }
}

/// Defines a trait of the store and implements it for [`Store`]. Each engine implements the trait itself. A new engine
/// adds a variant to [`Store`] and an arm to each of the two `match`es below.
///
/// `async fn` in the definition declares a function that returns a `Send` future.
macro_rules! store_trait {
    ($(#[$about:meta])* pub trait $Trait:ident { $($verbs:tt)* }) => {
        $(#[$about])*
        pub trait $Trait {
            $crate::store::engine::store_trait! { @declare $($verbs)* }
        }

        impl $Trait for $crate::store::Store {
            $crate::store::engine::store_trait! { @forward $Trait; $($verbs)* }
        }
    };

    (@declare) => {};
    (@declare $(#[$about:meta])*
        async fn $verb:ident(&self $(, $argument:ident: $type:ty)* $(,)?) -> $answer:ty; $($rest:tt)*
    ) => {
        $(#[$about])*
        fn $verb(&self $(, $argument: $type)*) -> impl ::std::future::Future<Output = $answer> + Send;
        $crate::store::engine::store_trait! { @declare $($rest)* }
    };
    (@declare $(#[$about:meta])*
        fn $verb:ident(&self $(, $argument:ident: $type:ty)* $(,)?) $(-> $answer:ty)?; $($rest:tt)*
    ) => {
        $(#[$about])*
        fn $verb(&self $(, $argument: $type)*) $(-> $answer)?;
        $crate::store::engine::store_trait! { @declare $($rest)* }
    };

    (@forward $Trait:ident;) => {};
    (@forward $Trait:ident; $(#[$about:meta])*
        async fn $verb:ident(&self $(, $argument:ident: $type:ty)* $(,)?) -> $answer:ty; $($rest:tt)*
    ) => {
        async fn $verb(&self $(, $argument: $type)*) -> $answer {
            match self {
                Self::Sqlite(engine) => $Trait::$verb(engine $(, $argument)*).await,
            }
        }
        $crate::store::engine::store_trait! { @forward $Trait; $($rest)* }
    };
    (@forward $Trait:ident; $(#[$about:meta])*
        fn $verb:ident(&self $(, $argument:ident: $type:ty)* $(,)?) $(-> $answer:ty)?; $($rest:tt)*
    ) => {
        fn $verb(&self $(, $argument: $type)*) $(-> $answer)? {
            match self {
                Self::Sqlite(engine) => $Trait::$verb(engine $(, $argument)*),
            }
        }
        $crate::store::engine::store_trait! { @forward $Trait; $($rest)* }
    };
}

pub(in crate::store) use store_trait;
