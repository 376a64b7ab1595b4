//! HTML of a message in a frame without rights. Pictures that are parts of it are shown; nothing else is loaded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use maud::{Markup, html};

use crate::ui::components::{self, foreign};
use crate::ui::request::{PageRequest, segment};
use crate::ui::view::{Outcome, Problem, View};

use super::page_of;
use super::parts::{Part, Parts};

/// Octets of the pictures of a message.
const PICTURES_OCTETS_MAX: u64 = 2 * 1024 * 1024;
/// Media types of pictures. Others stay out, also SVG.
const PICTURES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];
/// Links under the frame.
const LINKS_MAX: usize = 50;

/// The frame, and the links of the message as text.
pub fn tab(request: &PageRequest, parts: &Parts) -> Markup {
    let Some(html) = &parts.html else {
        return html! { section.panel { (components::empty("This message has no HTML; see its text.", None)) } };
    };
    let links = links(html);
    html! {
        section.panel.pad.stack {
            iframe sandbox="" src=(request.href(&format!("{}/preview", page_of(request)))) title="The message as HTML" {}
            p.soft.small { "Nothing is loaded from elsewhere, no script runs, and no link opens." }
        }
        @if !links.is_empty() {
            section.panel {
                header { h2 { "Links" } }
                div.pad { ul { @for link in &links { li { code { (foreign(link)) } } } } }
            }
        }
    }
}

/// The HTML for the frame.
pub async fn preview(request: PageRequest) -> Outcome {
    let path = format!("/v1/emails/{}/parts", segment(&request.id));
    let parts: Parts = request.get(&path).await?;
    let Some(html) = &parts.html else {
        let (message, hint) = ("this message has no HTML", "read its text");
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", message, hint));
    };
    let mut html = html.clone();
    let mut left = PICTURES_OCTETS_MAX;
    for (name, part) in pictures(&parts) {
        let address = format!("cid:{name}");
        // A picture counts as often as the message shows it.
        let needed = part.octets.saturating_mul(html.matches(&address).count() as u64);
        if needed == 0 || needed > left {
            continue;
        }
        let response = request.open(&format!("{path}/{}", part.part), None).await;
        if !response.status().is_success() {
            continue;
        }
        let Ok(octets) = axum::body::to_bytes(response.into_body(), PICTURES_OCTETS_MAX as usize).await
        else {
            continue;
        };
        left -= needed;
        html =
            html.replace(&address, &format!("data:{};base64,{}", part.media_type, STANDARD.encode(&octets)));
    }
    Ok(View::Foreign(html))
}

/// The pictures with their Content-IDs, the longest first, because another one may begin like it.
fn pictures(parts: &Parts) -> Vec<(&str, &Part)> {
    let of_type = parts.parts.iter().filter(|part| PICTURES.contains(&part.media_type.as_str()));
    let named = of_type.filter_map(|part| Some((part.content_id.as_deref()?.trim_matches(['<', '>']), part)));
    let mut pictures: Vec<_> = named.filter(|(name, _)| !name.is_empty()).collect();
    pictures.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    pictures
}

/// The addresses of links, in order, each once.
fn links(html: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut rest = html;
    while let Some(at) = find_ignoring_case(rest, "href") {
        rest = rest[at + 4..].trim_start();
        let Some(value) = rest.strip_prefix('=').map(str::trim_start) else { continue };
        let (value, after) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
            _ => value.split_once([' ', '\t', '\n', '\r', '>']).unwrap_or((value, "")),
        };
        // Each octet is looked at once, whatever the message has.
        rest = after;
        let link = value.trim().replace("&amp;", "&");
        if !link.is_empty() && !link.starts_with('#') && !found.contains(&link) {
            found.push(link.chars().take(2000).collect());
        }
        if found.len() >= LINKS_MAX {
            break;
        }
    }
    found
}

fn find_ignoring_case(text: &str, word: &str) -> Option<usize> {
    text.as_bytes().windows(word.len()).position(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_listed_as_they_are_written() {
        let html = "<a HREF = \"https://a.example/?x=1&amp;y=2\">a</a> <a href='javascript:alert(1)'>b</a>\
                    <a href=//c.example>c</a><a href=\"#top\">t</a><a href='//c.example'>again</a> href é";
        assert_eq!(links(html), ["https://a.example/?x=1&y=2", "javascript:alert(1)", "//c.example"]);
    }

    #[test]
    fn a_link_in_a_value_is_a_part_of_the_value() {
        assert_eq!(links("<a href=\"#top href=https://a.example\">"), [""; 0]);
        assert_eq!(links(&"href=#".repeat(80_000)), [""; 0]);
    }
}
