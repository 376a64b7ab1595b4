//! The DNS records of a domain: what to publish, and what was found.

use maud::{Markup, html};
use serde::Deserialize;

use crate::ui::components::{self, Tab, block, copied, foreign, visible};
use crate::ui::request::PageRequest;

/// Octets of one string of a TXT record (RFC 1035 §3.3.14).
const STRING_OCTETS_MAX: usize = 255;

/// A record that a domain should have.
#[derive(Deserialize)]
pub struct Record {
    pub purpose: String,
    #[serde(rename = "type")]
    kind: String,
    name: String,
    value: String,
    alternatives: Vec<Alternative>,
    pub status: String,
    found: Vec<String>,
    hint: Option<String>,
    required: bool,
    dkim_key_state: Option<String>,
}

#[derive(Deserialize)]
struct Alternative {
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

/// How names are shown: forms of DNS providers often add the domain by themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Whole,
    Short,
    Zone,
}

impl Record {
    /// The selector of a DKIM record.
    pub fn selector(&self) -> &str {
        self.name.split("._domainkey.").next().unwrap_or(&self.name)
    }

    /// Whether the last check found it.
    pub fn is_right(&self) -> bool {
        self.status == "ok"
    }

    fn title(&self) -> &str {
        match self.purpose.as_str() {
            "ownership" => "Ownership",
            "dkim" => "DKIM",
            "spf" => "SPF",
            "dmarc" => "DMARC",
            "return_path" => "Return host",
            other => other,
        }
    }
}

/// The records, the wrong ones first.
pub fn show(request: &PageRequest, domain: &str, records: &[Record]) -> Markup {
    let names = match request.parameter("names") {
        Some("short") => Names::Short,
        Some("zone") => Names::Zone,
        _ => Names::Whole,
    };
    let (right, wrong): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.is_right());
    let titles = right.iter().map(|record| record.title()).collect::<Vec<_>>().join(", ");
    html! {
        header { h2 { "Records to publish" } (choices(request, names)) }
        @if names == Names::Zone {
            div.pad { (block(&zone(records))) }
        } @else {
            @if !wrong.is_empty() { (table(domain, names, &wrong)) }
            @if !right.is_empty() {
                details.pad open[wrong.is_empty()] {
                    summary { @if right.len() == 1 { "1 record is right: " } @else { (right.len()) " records are right: " } (titles) }
                    (table(domain, names, &right))
                }
            }
        }
    }
}

fn choices(request: &PageRequest, names: Names) -> Markup {
    let path = request.address.split('?').next().unwrap_or_default();
    let until = request.parameter("until").unwrap_or_default();
    let tab = |value: &str, name: &'static str, is: Names| Tab {
        href: request.href(&request.with_query(path, &[("names", value), ("until", until)])),
        name,
        count: None,
        is_current: names == is,
    };
    let tabs = [
        tab("", "Whole names", Names::Whole),
        tab("short", "Without the domain", Names::Short),
        tab("zone", "Zone file", Names::Zone),
    ];
    components::choices("Names", &tabs)
}

/// The name as the form of a provider wants it that adds the domain itself.
fn short<'a>(name: &'a str, domain: &str) -> &'a str {
    match name.strip_suffix(domain) {
        Some("") => "@",
        Some(rest) => rest.trim_end_matches('.'),
        None => name,
    }
}

fn table(domain: &str, names: Names, records: &[&Record]) -> Markup {
    html! {
        table.cards.records {
            thead { tr { th scope="col" { "Record" } th scope="col" { "Type and name" } th scope="col" { "Value" } } }
            tbody {
                @for record in records {
                    tr {
                        td.lead {
                            span.strong { (visible(record.title())) } br;
                            (components::status(&record.status))
                            @if !record.required { span.sub { "recommended" } }
                            @if let Some(state) = &record.dkim_key_state { span.sub { "key " (visible(state)) } }
                        }
                        td data-label="Name" {
                            span.soft { (visible(&record.kind)) }
                            (copied(if names == Names::Short { short(&record.name, domain) } else { &record.name }))
                        }
                        td data-label="Value" { (value(record)) }
                    }
                }
            }
        }
    }
}

fn value(record: &Record) -> Markup {
    html! {
        (copied(&record.value))
        @if !record.is_right() && !record.found.is_empty() {
            @for found in &record.found { span.sub { "Found: " code { (foreign(found)) } } }
        } @else if record.status == "missing" {
            span.sub { "Found: nothing." }
        }
        @if let Some(hint) = &record.hint { span.sub { (visible(hint)) } }
        @if !record.alternatives.is_empty() && !record.is_right() {
            details {
                summary { "Or these together" }
                @for other in &record.alternatives { span.soft { (visible(&other.kind)) } (copied(&other.value)) }
            }
        }
    }
}

/// The records as lines of a zone file.
fn zone(records: &[Record]) -> String {
    let line = |record: &Record| {
        format!("{}. 3600 IN {} {}\n", record.name, record.kind, zone_value(&record.kind, &record.value))
    };
    records.iter().map(line).collect()
}

fn zone_value(kind: &str, value: &str) -> String {
    match kind {
        "TXT" => strings(value),
        // The value ends with a host name, which is complete.
        _ if value.ends_with('.') => value.to_owned(),
        _ => format!("{value}."),
    }
}

/// A text as quoted strings that are not too long.
fn strings(text: &str) -> String {
    let mut strings = vec![String::new()];
    for c in text.chars() {
        let octets: usize = strings.last().map_or(0, String::len);
        if octets + c.len_utf8() > STRING_OCTETS_MAX {
            strings.push(String::new());
        }
        if let Some(last) = strings.last_mut() {
            last.push(c);
        }
    }
    let quoted =
        strings.iter().map(|part| format!("\"{}\"", part.replace('\\', "\\\\").replace('"', "\\\"")));
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_the_domain_that_forms_of_providers_add() {
        assert_eq!(short("pb1._domainkey.acme.com", "acme.com"), "pb1._domainkey");
        assert_eq!(short("acme.com", "acme.com"), "@");
        assert_eq!(short("bounce.other.com", "acme.com"), "bounce.other.com");
    }

    #[test]
    fn a_line_of_a_zone_has_quoted_strings_of_255_octets_and_complete_names() {
        let long = format!("v=DKIM1; p={}", "A".repeat(400));
        let written = zone_value("TXT", &long);
        let parts: Vec<_> = written.split("\" \"").collect();
        assert_eq!((parts.len(), parts[0].len(), parts[1].len()), (2, 256, 411 - 255 + 1));
        assert_eq!(zone_value("TXT", "a\"b\\"), r#""a\"b\\""#);
        assert_eq!(zone_value("MX", "10 mail.host.example"), "10 mail.host.example.");
        assert_eq!(zone_value("CNAME", "bounce.host.example."), "bounce.host.example.");
    }
}
