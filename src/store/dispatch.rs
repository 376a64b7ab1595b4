//! The engine that keeps the data, and how a verb reaches it.

use super::sqlite::SqliteStore;
use super::{OpenError, StoreOptions};

/// The store, whichever engine keeps the data. It has the verbs of all traits; each is one `match` and no allocation.
pub enum Store {
    /// One process, one data directory.
    Sqlite(SqliteStore),
}

impl Store {
    /// Opens the data directory, making or migrating it as needed.
    pub fn open(options: StoreOptions) -> std::result::Result<Self, OpenError> {
        SqliteStore::open(options).map(Self::Sqlite)
    }

    /// Writes what waits and closes. Verbs that come later fail with [`StoreError::Closed`](super::StoreError::Closed).
    pub async fn close(&self) {
        match self {
            Self::Sqlite(engine) => engine.close().await,
        }
    }
}

/// Defines a trait of the store and implements it for [`Store`]. An engine implements the trait by hand; another engine
/// is one more variant of [`Store`] and one more arm in each of the two `match`es below.
///
/// `async fn` in the definition declares a function that answers a future which can move between threads.
macro_rules! store_trait {
    ($(#[$about:meta])* pub trait $Trait:ident { $($verbs:tt)* }) => {
        $(#[$about])*
        pub trait $Trait {
            $crate::store::dispatch::store_trait! { @declare $($verbs)* }
        }

        impl $Trait for $crate::store::Store {
            $crate::store::dispatch::store_trait! { @forward $Trait; $($verbs)* }
        }
    };

    (@declare) => {};
    (@declare $(#[$about:meta])*
        async fn $verb:ident(&self $(, $argument:ident: $type:ty)* $(,)?) -> $answer:ty; $($rest:tt)*
    ) => {
        $(#[$about])*
        fn $verb(&self $(, $argument: $type)*) -> impl ::std::future::Future<Output = $answer> + Send;
        $crate::store::dispatch::store_trait! { @declare $($rest)* }
    };
    (@declare $(#[$about:meta])*
        fn $verb:ident(&self $(, $argument:ident: $type:ty)* $(,)?) $(-> $answer:ty)?; $($rest:tt)*
    ) => {
        $(#[$about])*
        fn $verb(&self $(, $argument: $type)*) $(-> $answer)?;
        $crate::store::dispatch::store_trait! { @declare $($rest)* }
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
        $crate::store::dispatch::store_trait! { @forward $Trait; $($rest)* }
    };
    (@forward $Trait:ident; $(#[$about:meta])*
        fn $verb:ident(&self $(, $argument:ident: $type:ty)* $(,)?) $(-> $answer:ty)?; $($rest:tt)*
    ) => {
        fn $verb(&self $(, $argument: $type)*) $(-> $answer)? {
            match self {
                Self::Sqlite(engine) => $Trait::$verb(engine $(, $argument)*),
            }
        }
        $crate::store::dispatch::store_trait! { @forward $Trait; $($rest)* }
    };
}

pub(in crate::store) use store_trait;
