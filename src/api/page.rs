//! Lists: pagination parameters and response body.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use schemars::{JsonSchema, Schema};
use serde::Serialize;

use crate::mail::{Timestamp, TimestampError};
use crate::store::{PAGE_OBJECTS_MAX, Page, PageRequest};

use super::error::{ApiError, FieldError, Result};
use super::json::echo;
use super::schema::Schemas;

/// Default page size.
pub const LIMIT_DEFAULT: usize = 20;
/// Maximum of parameters like `name[key]=value` with the same name.
const MAP_MEMBERS_MAX: usize = 10;

/// The parameters of every list.
pub const PARAMETERS: &[&str] = &["limit", "after", "before", "created_after", "created_before"];

/// The query parameters of a request, limited to those of the operation.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
    faults: Vec<FieldError>,
}

impl Query {
    /// Reads a query string. Unknown and duplicate parameters are errors.
    pub fn parse(text: &str, is_known: impl Fn(&str) -> bool) -> Self {
        let mut query = Self::default();
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()).into_owned() {
            if !is_known(&name) {
                let message = "this endpoint has no such query parameter";
                query.faults.push(FieldError::new(echo(&name), "unknown_parameter", message));
            } else if query.pairs.iter().any(|(earlier, _)| *earlier == name) {
                query.faults.push(FieldError::new(name, "duplicate", "this parameter is given twice"));
            } else {
                query.pairs.push((name, value));
            }
            // A query string can have thousands of parameters; the response lists only the first errors.
            if query.faults.len() >= 20 {
                break;
            }
        }
        query
    }

    /// The value of a parameter as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Adds a parameter that the request does not have.
    pub fn set(&mut self, name: &str, value: &str) {
        self.pairs.push((name.to_owned(), value.to_owned()));
    }

    /// The value of a parameter. A malformed value is an error.
    pub fn value<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        self.value_by(name, str::parse::<T>)
    }

    /// Like [`Query::value`], with a parser.
    pub fn value_by<T, E: Display>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> std::result::Result<T, E>,
    ) -> Option<T> {
        match read(self.text(name)?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.faults.push(FieldError::new(name, "invalid", error.to_string()));
                None
            }
        }
    }

    /// Like [`Query::value_by`] for a value that cannot have spaces, such as an address.
    pub fn value_with_plus<T, E: Display>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> std::result::Result<T, E>,
    ) -> Option<T> {
        self.value_by(name, |text| read(&restore_plus(text)))
    }

    /// The values of parameters like `name[key]=value`, by key.
    pub fn map(&mut self, name: &str) -> Vec<(String, String)> {
        let members = self.pairs.iter().filter_map(|(full, value)| Some((map_key(name, full)?, value)));
        let members: Vec<_> = members.map(|(key, value)| (key.to_owned(), value.clone())).collect();
        if members.len() > MAP_MEMBERS_MAX {
            let message = format!("this may be given for at most {MAP_MEMBERS_MAX} keys");
            self.faults.push(FieldError::new(name, "too_many", message));
        }
        members
    }

    /// The page size.
    pub fn limit(&mut self) -> usize {
        let limit = self.value_by("limit", |text| match text.parse() {
            Ok(limit @ 1..=PAGE_OBJECTS_MAX) => Ok(limit),
            _ => Err(format!("this must be a number from 1 to {PAGE_OBJECTS_MAX}")),
        });
        limit.unwrap_or(LIMIT_DEFAULT)
    }

    /// The requested page. `Id` is the id type of the cursors.
    pub fn page<Id: FromStr<Err: Display> + Display>(&mut self) -> PageRequest {
        let page = PageRequest {
            limit: self.limit(),
            after: self.value::<Id>("after").map(|id| id.to_string()),
            before: self.value::<Id>("before").map(|id| id.to_string()),
            created_after: self.value_by("created_after", read_time),
            created_before: self.value_by("created_before", read_time),
        };
        if page.after.is_some() && page.before.is_some() {
            self.faults.push(FieldError::new("before", "invalid", "give after or before, not both"));
        }
        page
    }

    /// Fails if a parameter was invalid.
    pub fn finish(&mut self) -> Result<()> {
        match std::mem::take(&mut self.faults) {
            faults if faults.is_empty() => Ok(()),
            faults => Err(ApiError::invalid(faults)),
        }
    }
}

/// The key of a parameter like `name[key]`.
pub(super) fn map_key<'a>(name: &str, parameter: &'a str) -> Option<&'a str> {
    parameter.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')
}

/// The schema of `limit`.
pub fn limit_schema(_: &mut Schemas) -> Schema {
    schemars::json_schema!({ "type": "integer", "minimum": 1, "maximum": PAGE_OBJECTS_MAX, "default": LIMIT_DEFAULT })
}

/// In a query string, `+` is a space. Many clients write it for itself, and in a value without spaces it can only be that.
/// A quoted local part may have spaces.
fn restore_plus(text: &str) -> Cow<'_, str> {
    match text.contains(' ') && !text.starts_with('"') {
        true => text.replace(' ', "+").into(),
        false => text.into(),
    }
}

/// A time, with a space or a `+` in front of the offset.
pub fn read_time(text: &str) -> std::result::Result<Timestamp, TimestampError> {
    // RFC 3339 §5.6: a space may also stand for the T.
    let text = if text.contains(['T', 't']) { restore_plus(text) } else { text.into() };
    text.parse()
}

/// A list response.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct List<T> {
    /// Always `list`.
    #[schemars(extend("const" = "list"))]
    object: &'static str,
    /// The objects, newest first unless the operation says otherwise.
    data: Vec<T>,
    /// Whether more objects follow.
    has_more: bool,
    /// Cursor of the next page: the value for `after`, or for `before` if the request had `before`. `null` at the end.
    next_cursor: Option<String>,
}

impl<T> List<T> {
    /// A page of a list. Its cursor continues in the direction of the request.
    pub fn page<I>(
        page: Page<I>,
        request: &PageRequest,
        id: impl Fn(&I) -> String,
        view: impl FnMut(I) -> T,
    ) -> Self {
        let edge = if request.before.is_some() { page.items.first() } else { page.items.last() };
        let next_cursor = edge.filter(|_| page.has_more).map(id);
        let data = page.items.into_iter().map(view).collect();
        Self { object: "list", data, has_more: page.has_more, next_cursor }
    }

    /// A complete list.
    pub fn whole(data: Vec<T>) -> Self {
        Self { object: "list", data, has_more: false, next_cursor: None }
    }

    /// A page with a given cursor.
    pub fn resumed(data: Vec<T>, next_cursor: Option<String>) -> Self {
        Self { object: "list", data, has_more: next_cursor.is_some(), next_cursor }
    }

    /// A list without cursor that may be incomplete.
    pub fn without_cursor(data: Vec<T>, has_more: bool) -> Self {
        Self { object: "list", data, has_more, next_cursor: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Address;
    use crate::model::{DomainId, DomainStatus, KeyId};

    fn read(text: &str) -> (PageRequest, Vec<(String, &'static str)>) {
        let mut query = Query::parse(text, |name| PARAMETERS.contains(&name) || name == "status");
        let page = query.page::<KeyId>();
        query.value::<DomainStatus>("status");
        let faults = query.finish().err().map(|e| e.fields).unwrap_or_default();
        (page, faults.into_iter().map(|f| (f.path, f.code)).collect())
    }

    #[test]
    fn list_parameters_are_read_and_invalid_ones_reported() {
        let id = KeyId::generate(Timestamp::UNIX_EPOCH);
        let other = DomainId::generate(Timestamp::UNIX_EPOCH);
        for (text, faults) in [
            (String::new(), vec![]),
            ("limit=1&status=verified".into(), vec![]),
            ("limit=100".into(), vec![]),
            (format!("after={id}"), vec![]),
            (
                "created_after=2026-01-31T12:00:00Z&created_before=2026-01-31T12%3A00%3A00%2B02:00".into(),
                vec![],
            ),
            ("limit=0".into(), vec![("limit", "invalid")]),
            ("limit=101".into(), vec![("limit", "invalid")]),
            ("limit=".into(), vec![("limit", "invalid")]),
            ("limit=-1".into(), vec![("limit", "invalid")]),
            ("limit=99999999999999999999".into(), vec![("limit", "invalid")]),
            (format!("after={other}"), vec![("after", "invalid")]),
            (format!("after={id}&before={id}"), vec![("before", "invalid")]),
            ("created_after=yesterday".into(), vec![("created_after", "invalid")]),
            ("status=good".into(), vec![("status", "invalid")]),
            ("limit=1&limit=2".into(), vec![("limit", "duplicate")]),
            ("Limit=1&x=2".into(), vec![("Limit", "unknown_parameter"), ("x", "unknown_parameter")]),
        ] {
            let expected: Vec<_> = faults.into_iter().map(|(path, code)| (path.to_owned(), code)).collect();
            assert_eq!(read(&text).1, expected, "{text}");
        }
        assert_eq!(read("").0.limit, LIMIT_DEFAULT);
        assert_eq!(read("limit=7").0.limit, 7);
        assert_eq!(read(&format!("before={id}")).0.before, Some(id.to_string()));
    }

    #[test]
    fn a_plus_in_a_value_without_spaces_is_taken_for_itself() {
        for (text, expected) in [
            ("a=bob+tag@b.example", "bob+tag@b.example"),
            ("a=bob%2Btag@b.example", "bob+tag@b.example"),
            ("a=bob%20tag@b.example", "bob+tag@b.example"),
            ("a=%22bob+tag%22@b.example", "\"bob tag\"@b.example"),
            ("a=%22bob%2Btag%22@b.example", "bob+tag@b.example"),
        ] {
            let mut query = Query::parse(text, |_| true);
            let address = query.value_with_plus("a", Address::parse).map(|address| address.to_string());
            assert_eq!(address.as_deref(), Some(expected), "{text}");
        }
        let at = read_time("2026-01-31T12:00:00 02:00").unwrap();
        assert_eq!(at, "2026-01-31T10:00:00Z".parse().unwrap());
        assert_eq!(read_time("2026-01-31 12:00:00+02:00"), Ok(at));
        assert_eq!(read_time("2026-01-31 12:00"), Err(TimestampError));
    }

    #[test]
    fn the_cursor_continues_in_the_direction_of_the_request() {
        let page = |has_more| Page { items: vec![3, 2, 1], has_more };
        let cursor = |has_more, request: &PageRequest| {
            List::page(page(has_more), request, i32::to_string, |i| i).next_cursor
        };
        let down = PageRequest::default();
        let up = PageRequest { before: Some("0".into()), ..PageRequest::default() };
        assert_eq!(cursor(true, &down).as_deref(), Some("1"));
        assert_eq!(cursor(true, &up).as_deref(), Some("3"));
        assert_eq!(cursor(false, &down), None);
    }

    #[test]
    fn a_query_with_thousands_of_unknown_parameters_gets_a_short_response() {
        let text: String = (0..5000).map(|i| format!("x{i}=1&")).collect();
        assert_eq!(read(&text).1.len(), 20);
    }
}
