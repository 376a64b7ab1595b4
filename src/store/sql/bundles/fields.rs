//! The fields of the objects of a bundle: each has a name in public and a column. One table is read in both directions, so that
//! an imported object is exported as it was.

use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::mail::Timestamp;
use crate::store::database::{self, Row, Value as Column, ValueRef};
use crate::store::sql::sql_types::{self, time_if_any, us};

/// A field of an object.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) column: &'static str,
    pub(super) form: Form,
    /// Whether an object with another value is another object. Others change by use.
    pub(super) is_compared: bool,
}

/// The form of a field. A check keeps out what the store could not read.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Text(fn(&str) -> bool),
    Json(fn(&str) -> bool),
    Number(fn(i64) -> bool),
    Switch,
    Time,
    /// So many.
    Octets(usize),
    /// Encrypted for this column.
    Secret(&'static str),
}

/// What a bundle has in place of a secret.
pub(super) fn excluded() -> Value {
    json!({ "excluded": true })
}

/// Whether a text can be read as this.
pub(super) fn is<T: FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

/// Whether a text is this as the store writes it. Ids and domain names are read in any case, but queries compare their text: an
/// id in other letters would be a second row of the same object, perhaps of another tenant.
pub(super) fn is_exactly<T: FromStr + ToString>(text: &str) -> bool {
    text.parse::<T>().is_ok_and(|value| value.to_string() == text)
}

/// Whether a JSON text can be read as this.
pub(super) fn holds<T: DeserializeOwned>(text: &str) -> bool {
    serde_json::from_str::<T>(text).is_ok()
}

pub(super) fn any_text(_: &str) -> bool {
    true
}

pub(super) fn any_number(_: i64) -> bool {
    true
}

impl Field {
    pub(super) const fn new(name: &'static str, column: &'static str, form: Form) -> Self {
        Self { name, column, form, is_compared: true }
    }

    /// Changes by use.
    pub(super) const fn changing(self) -> Self {
        Self { is_compared: false, ..self }
    }

    /// The value of a column in public.
    pub(super) fn read(&self, row: &Row<'_>, place: usize) -> database::Result<Value> {
        Ok(match self.form {
            Form::Text(_) => row.get::<_, Option<String>>(place)?.into(),
            Form::Json(_) => sql_types::json_if_any(row, place)?.unwrap_or(Value::Null),
            Form::Number(_) => row.get::<_, Option<i64>>(place)?.into(),
            Form::Switch => row.get::<_, Option<bool>>(place)?.into(),
            Form::Time => json!(time_if_any(row, place)?),
            Form::Octets(_) => {
                row.get::<_, Option<Vec<u8>>>(place)?.map(|octets| HEXLOWER.encode(&octets)).into()
            }
            Form::Secret(_) => match row.get_ref(place)? {
                ValueRef::Null => Value::Null,
                _ => excluded(),
            },
        })
    }

    /// The column of a public value, or what is wrong with it.
    pub(super) fn parse(&self, value: &Value) -> Result<Column, String> {
        let wrong = |form: &str| format!("{} must be {form}", self.name);
        if value.is_null() || matches!(self.form, Form::Secret(_)) {
            return Ok(Column::Null);
        }
        match self.form {
            Form::Text(check) => {
                let text = value.as_str().filter(|text| check(text));
                text.map(|text| text.to_owned().into()).ok_or_else(|| wrong("a valid text"))
            }
            Form::Json(check) => {
                let text = value.to_string();
                if check(&text) { Ok(text.into()) } else { Err(wrong("valid JSON of its kind")) }
            }
            Form::Number(check) => {
                let number = value.as_i64().filter(|number| check(*number));
                number.map(Column::from).ok_or_else(|| wrong("a valid number"))
            }
            Form::Switch => value.as_bool().map(Column::from).ok_or_else(|| wrong("true or false")),
            Form::Time => {
                let time = value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
                time.map(|at| us(at).into()).ok_or_else(|| wrong("a time of RFC 3339"))
            }
            Form::Octets(number) => {
                let octets = value.as_str().and_then(|text| HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok());
                let octets = octets.filter(|octets| octets.len() == number);
                octets.map(Column::from).ok_or_else(|| wrong(&format!("{} hexadecimal digits", 2 * number)))
            }
            Form::Secret(_) => Ok(Column::Null),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_the_store_could_not_read_is_refused() {
        let parse = |form, value| Field::new("f", "f", form).parse(&value);
        assert_eq!(parse(Form::Text(is::<u8>), json!("7")), Ok(Column::from("7".to_owned())));
        assert_eq!(parse(Form::Octets(2), json!("00ff")), Ok(Column::from(vec![0, 255])));
        assert_eq!(parse(Form::Time, json!("1970-01-01T00:00:00.000001Z")), Ok(Column::from(1_i64)));
        assert_eq!(parse(Form::Switch, json!(true)), Ok(Column::from(true)));
        assert_eq!(parse(Form::Secret("t.f"), excluded()), Ok(Column::Null));
        assert_eq!(parse(Form::Json(holds::<Vec<u8>>), json!([1])), Ok(Column::from("[1]".to_owned())));
        for (form, value) in [
            (Form::Text(is::<u8>), json!("x")),
            (Form::Text(is_exactly::<u8>), json!("07")),
            (Form::Text(any_text), json!(1)),
            (Form::Octets(1), json!("0")),
            (Form::Octets(3), json!("00ff")),
            (Form::Octets(1), json!("zz")),
            (Form::Time, json!("tomorrow")),
            (Form::Switch, json!("true")),
            (Form::Number(|number| number < 5), json!(7)),
            (Form::Json(holds::<Vec<u8>>), json!({})),
        ] {
            assert!(parse(form, value.clone()).is_err(), "{value}");
        }
    }
}
