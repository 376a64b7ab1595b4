//! The form of the traits of the store.

/// Defines a trait of the store. `async fn` in the definition declares a function that returns a `Send` future.
macro_rules! store_trait {
    ($(#[$about:meta])* pub trait $Trait:ident { $($verbs:tt)* }) => {
        $(#[$about])*
        pub trait $Trait {
            $crate::store::traits::store_trait! { @declare $($verbs)* }
        }
    };

    (@declare) => {};
    (@declare $(#[$about:meta])*
        async fn $verb:ident(&self $(, $argument:ident: $type:ty)* $(,)?) -> $answer:ty; $($rest:tt)*
    ) => {
        $(#[$about])*
        fn $verb(&self $(, $argument: $type)*) -> impl ::std::future::Future<Output = $answer> + Send;
        $crate::store::traits::store_trait! { @declare $($rest)* }
    };
    (@declare $(#[$about:meta])*
        fn $verb:ident(&self $(, $argument:ident: $type:ty)* $(,)?) $(-> $answer:ty)?; $($rest:tt)*
    ) => {
        $(#[$about])*
        fn $verb(&self $(, $argument: $type)*) $(-> $answer)?;
        $crate::store::traits::store_trait! { @declare $($rest)* }
    };
}

pub(in crate::store) use store_trait;
