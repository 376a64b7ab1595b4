//! Values of PostgreSQL in the forms of SQLite: integers, texts, octets.
//!
//! PostgreSQL tells the type of each parameter and column. Truth values are integers here, as in SQLite, and sums, which
//! PostgreSQL computes as `numeric`, must be integers.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

type AnyError = Box<dyn Error + Sync + Send>;

/// Digits of `numeric` are in base 10,000.
const NUMERIC_BASE: i128 = 10_000;

/// A parameter of a statement.
#[derive(Debug)]
pub(super) struct Parameter<'a>(pub(super) ToSqlOutput<'a>);

/// A parameter of a statement that is sent later.
#[derive(Debug)]
pub(super) struct OwnedParameter(Value);

impl OwnedParameter {
    pub(super) fn of(value: &dyn rusqlite::types::ToSql) -> rusqlite::Result<Self> {
        Ok(Self(match value.to_sql()? {
            ToSqlOutput::Owned(value) => value,
            ToSqlOutput::Borrowed(value) => Value::try_from(value)?,
            _ => return Err(rusqlite::Error::InvalidQuery),
        }))
    }

    pub(super) fn as_ref(&self) -> ValueRef<'_> {
        ValueRef::from(&self.0)
    }
}

impl ToSql for OwnedParameter {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        put(self.as_ref(), ty, out)
    }

    fn accepts(_ty: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl ToSql for Parameter<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        match &self.0 {
            ToSqlOutput::Borrowed(value) => put(*value, ty, out),
            ToSqlOutput::Owned(value) => put(ValueRef::from(value), ty, out),
            _ => Err("a parameter of no plain form".into()),
        }
    }

    fn accepts(_ty: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn put(value: ValueRef<'_>, ty: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
    match value {
        ValueRef::Null => return Ok(IsNull::Yes),
        ValueRef::Integer(number) => put_integer(number, ty, out)?,
        ValueRef::Real(number) => out.put_f64(number),
        ValueRef::Text(text) => put_text(text, ty, out),
        ValueRef::Blob(octets) => out.put_slice(octets),
    }
    Ok(IsNull::No)
}

fn put_integer(number: i64, ty: &Type, out: &mut BytesMut) -> Result<(), AnyError> {
    match *ty {
        Type::BOOL => out.put_u8(u8::from(number != 0)),
        Type::INT2 => out.put_i16(number.try_into()?),
        Type::INT4 => out.put_i32(number.try_into()?),
        Type::INT8 => out.put_i64(number),
        // 15 digits are exact.
        Type::FLOAT8 => out.put_f64(number as f64),
        Type::NUMERIC => put_numeric(number.into(), out),
        Type::TEXT | Type::VARCHAR | Type::UNKNOWN => out.put_slice(number.to_string().as_bytes()),
        _ => return Err(format!("an integer for a parameter of the type {ty}").into()),
    }
    Ok(())
}

/// PostgreSQL stores no NUL in a text.
fn put_text(text: &[u8], ty: &Type, out: &mut BytesMut) {
    if *ty == Type::BYTEA || !text.contains(&0) {
        return out.put_slice(text);
    }
    for part in text.split_inclusive(|&octet| octet == 0) {
        match part.split_last() {
            Some((0, before)) => {
                out.put_slice(before);
                out.put_slice("\u{fffd}".as_bytes());
            }
            _ => out.put_slice(part),
        }
    }
}

fn put_numeric(number: i128, out: &mut BytesMut) {
    let (mut digits, mut rest) = (Vec::new(), number.unsigned_abs());
    while rest > 0 {
        digits.push((rest % NUMERIC_BASE.unsigned_abs()) as u16);
        rest /= NUMERIC_BASE.unsigned_abs();
    }
    // Number of digits, weight of the first one, sign, decimals.
    out.put_u16(digits.len() as u16);
    out.put_i16((digits.len() as i16 - 1).max(0));
    out.put_u16(if number < 0 { 0x4000 } else { 0 });
    out.put_u16(0);
    digits.iter().rev().for_each(|&digit| out.put_u16(digit));
}

/// A value of a row as PostgreSQL sent it.
pub(super) struct Stored<'a> {
    ty: Type,
    octets: &'a [u8],
}

impl<'a> FromSql<'a> for Stored<'a> {
    fn from_sql(ty: &Type, octets: &'a [u8]) -> Result<Self, AnyError> {
        Ok(Self { ty: ty.clone(), octets })
    }

    fn accepts(_ty: &Type) -> bool {
        true
    }
}

impl<'a> Stored<'a> {
    /// The value in the form of SQLite.
    pub(super) fn value(&self) -> Result<ValueRef<'a>, AnyError> {
        let octets = self.octets;
        Ok(match self.ty {
            Type::BOOL => ValueRef::Integer(i64::from(octets != [0])),
            Type::INT2 => ValueRef::Integer(i16::from_be_bytes(octets.try_into()?).into()),
            Type::INT4 => ValueRef::Integer(i32::from_be_bytes(octets.try_into()?).into()),
            Type::INT8 => ValueRef::Integer(i64::from_be_bytes(octets.try_into()?)),
            Type::FLOAT8 => ValueRef::Real(f64::from_be_bytes(octets.try_into()?)),
            Type::NUMERIC => ValueRef::Integer(integer_of_numeric(octets)?),
            Type::BYTEA => ValueRef::Blob(octets),
            _ => ValueRef::Text(octets),
        })
    }
}

fn integer_of_numeric(octets: &[u8]) -> Result<i64, AnyError> {
    let words: Vec<u16> = octets.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]])).collect();
    let [_, weight, sign, _, digits @ ..] = &words[..] else { return Err("a numeric without a head".into()) };
    let places = usize::try_from(i32::from(*weight as i16) + 1)?;
    if digits.len() > places || places > 5 {
        return Err("a numeric that is no integer of 64 bits".into());
    }
    let mut number: i128 = 0;
    for place in 0..places {
        number = number * NUMERIC_BASE + i128::from(digits.get(place).copied().unwrap_or(0));
    }
    match sign {
        0 => Ok(number.try_into()?),
        0x4000 => Ok((-number).try_into()?),
        _ => Err("a numeric that is no number".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_is_the_same_as_numeric() {
        for number in [0, 1, 9_999, 10_000, 10_001, 100_000_000, -1, -70_000, i64::MAX, i64::MIN] {
            let mut octets = BytesMut::new();
            put_numeric(number.into(), &mut octets);
            assert_eq!(integer_of_numeric(&octets).unwrap(), number);
        }
        let third = [0, 1, 0xff, 0xff, 0, 0, 0, 4, 0x0d, 0x05];
        assert!(integer_of_numeric(&third).is_err(), "0.3333");
    }

    #[test]
    fn a_text_has_no_nul() {
        let mut octets = BytesMut::new();
        put_text(b"a\0b\0", &Type::TEXT, &mut octets);
        assert_eq!(octets, "a\u{fffd}b\u{fffd}");
        octets.clear();
        put_text(b"a\0b", &Type::BYTEA, &mut octets);
        assert_eq!(&octets[..], b"a\0b");
    }
}
