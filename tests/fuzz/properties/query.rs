use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use pillarbox::api::parsing::{ETag, LIST_PARAMETERS, Query, read_idempotency_key};
use pillarbox::mail::Address;
use pillarbox::model::MessageId;
use pillarbox::store::JournalCursor;

/// The lines of the input are a query string, the value of `Idempotency-Key`, that of `If-Match` and `If-None-Match`, and a cursor.
pub fn query(octets: &[u8]) {
    let mut lines = octets.split(|&octet| octet == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (query, key, tags, cursor) = (next(), next(), next(), next());
    if let Ok(text) = std::str::from_utf8(query) {
        check_query(text);
    }
    if let Ok(value) = HeaderValue::from_bytes(key) {
        check_key(value);
    }
    if let Ok(value) = HeaderValue::from_bytes(tags) {
        check_tags(&value);
    }
    if let Some(cursor) = std::str::from_utf8(cursor).ok().and_then(|text| text.parse::<JournalCursor>().ok()) {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert!(cursor.rounded_down() <= cursor);
    }
}

fn read(text: &str) -> (Query, Option<Address>, pillarbox::store::PageRequest) {
    let is_known = |name: &str| LIST_PARAMETERS.contains(&name) || name == "to" || name.starts_with("metadata[");
    let mut query = Query::parse(text, is_known);
    let page = query.page::<MessageId>();
    let to = query.value_with_plus("to", Address::parse);
    query.map("metadata");
    (query, to, page)
}

/// The parameters are refused with faults that name them, or mean the same if they are written anew.
fn check_query(text: &str) {
    let (mut query, to, page) = read(text);
    if let Err(error) = query.finish() {
        assert!(error.status() == 422 && !error.fields.is_empty(), "{error:?}");
        return assert!(error.fields.iter().all(|field| field.path.chars().count() <= text.len().max(101) && !field.message.is_empty()));
    }
    assert!((1..=100).contains(&page.limit) && (page.after.is_none() || page.before.is_none()));
    let mut written = form_of([
        ("after", page.after.clone()),
        ("before", page.before.clone()),
        ("created_after", page.created_after.map(|time| time.to_string())),
        ("created_before", page.created_before.map(|time| time.to_string())),
        ("limit", Some(page.limit.to_string())),
        ("to", to.as_ref().map(Address::to_string)),
    ]);
    for (key, value) in query.map("metadata") {
        written += &form_of([(format!("metadata[{key}]").as_str(), Some(value))]);
    }
    let (mut again, to_again, page_again) = read(&written);
    assert!(again.finish().is_ok(), "{written}");
    assert_eq!((format!("{page_again:?}"), to_again), (format!("{page:?}"), to), "{written}");
    assert_eq!(again.map("metadata"), query.map("metadata"), "{written}");
}

fn form_of<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let given = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.map(|(name, value)| url::form_urlencoded::Serializer::new(String::new()).append_pair(name, &value).finish() + "&").collect()
}

/// A key is one line of printable ASCII.
fn check_key(value: HeaderValue) {
    let mut headers = HeaderMap::from_iter([(HeaderName::from_static("idempotency-key"), value.clone())]);
    if let Ok(name) = read_idempotency_key(&headers) {
        let name = name.expect("the header is there");
        assert!((1..=255).contains(&name.len()) && name.bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{name:?}");
        assert_eq!(name.as_bytes(), value.as_bytes());
    }
    headers.append("idempotency-key", value);
    assert!(read_idempotency_key(&headers).is_err());
}

/// A list of tags names an object if its tag is added, and without the tag only as `*`.
fn check_tags(value: &HeaderValue) {
    let tag = ETag::of(br#"{"name":"a","last_used_at":7}"#, &["last_used_at"]);
    let own = tag.to_header().expect("a header");
    let own = own.to_str().expect("text");
    let Ok(text) = value.to_str() else { return };
    for field in [IF_MATCH, IF_NONE_MATCH] {
        let is_named = |text: &str| {
            let value = HeaderValue::from_str(text).expect("a value");
            tag.is_named_by(&field, &HeaderMap::from_iter([(field.clone(), value)]))
        };
        assert_eq!(is_named(&format!("{text},{own}")), Some(true), "{text}");
        let lasting = own.trim_matches('"').split('.').next().unwrap_or_default();
        assert!(is_named(text) != Some(true) || text.contains('*') || text.contains(lasting), "{text}");
    }
}
