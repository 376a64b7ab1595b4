//! Parameters of statements.

use rusqlite::types::ToSql;

/// The parameters of a statement, in order.
pub(in crate::store) trait Params {
    /// Runs a statement with them.
    fn with<R>(self, run: impl FnOnce(&[&dyn ToSql]) -> R) -> R;
}

/// No parameters.
impl Params for [&(dyn ToSql + Send + Sync); 0] {
    fn with<R>(self, run: impl FnOnce(&[&dyn ToSql]) -> R) -> R {
        run(&[])
    }
}

impl Params for &[&dyn ToSql] {
    fn with<R>(self, run: impl FnOnce(&[&dyn ToSql]) -> R) -> R {
        run(self)
    }
}

macro_rules! arrays {
    ($($length:literal)*) => {$(
        impl<T: ToSql> Params for [T; $length] {
            fn with<R>(self, run: impl FnOnce(&[&dyn ToSql]) -> R) -> R {
                run(&self.each_ref().map(|value| value as &dyn ToSql))
            }
        }
    )*};
}

arrays!(1 2 3 4);

/// Parameters from an iterator.
pub(in crate::store) struct ParamsFromIter<I>(I);

/// The items of an iterator as parameters.
pub(in crate::store) fn params_from_iter<I: IntoIterator<Item: ToSql>>(values: I) -> ParamsFromIter<I> {
    ParamsFromIter(values)
}

impl<I: IntoIterator<Item: ToSql>> Params for ParamsFromIter<I> {
    fn with<R>(self, run: impl FnOnce(&[&dyn ToSql]) -> R) -> R {
        let values: Vec<_> = self.0.into_iter().collect();
        run(&values.iter().map(|value| value as &dyn ToSql).collect::<Vec<_>>())
    }
}

/// Parameters of different types.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$(&$value as &dyn $crate::store::database::ToSql),*] as &[&dyn $crate::store::database::ToSql]
    };
}
pub(in crate::store) use params;
