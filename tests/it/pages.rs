//! What every page has in common: it renders from every state, shows the error of the API, keeps its policy and its budget,
//! and shows text of other people as text.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use pillarbox::model::Scope;

use crate::api_objects::Belongings;
use crate::api_stage::ApiStage;
use crate::browser::{Browser, attributes, code_of, pages, target_of};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// Octets of a page, of the script, and of the style as it is and as it is sent.
const PAGE_MAX: usize = 100 * 1024;
const SCRIPT_MAX: usize = 12 * 1024;
const STYLE_MAX: usize = 32 * 1024;
const STYLE_SENT_MAX: usize = 8 * 1024;
/// A session shows fewer pages than this in a minute.
const PAGES_OF_SESSION: usize = 150;

/// Pages whose object here has nothing to show: a message without HTML and attachments.
const NOTHING_TO_SHOW: [&str; 2] = ["/ui/messages/{id}/preview", "/ui/messages/{id}/parts/{part}"];

/// Pages of one session after another, so that none shows too many.
struct Reader {
    browser: Browser,
    key: String,
    shown: usize,
}

impl Reader {
    async fn new(stage: &ApiStage, key: &str) -> Self {
        Self { browser: Browser::signed_in(stage.address, key).await, key: key.to_owned(), shown: 0 }
    }

    async fn get(&mut self, target: &str) -> crate::http::Answer {
        self.shown += 1;
        if self.shown % PAGES_OF_SESSION == 0 {
            self.browser = Browser::signed_in(self.browser.address, &self.key).await;
        }
        self.browser.get(target).await
    }
}

#[tokio::test]
async fn every_page_renders_empty_with_one_and_with_many() {
    let stage = ApiStage::start().await;
    let mut platform = Reader::new(&stage, &stage.platform).await;
    for page in pages().filter(|page| !page.path.contains("{id}")) {
        let answer = platform.get(page.path).await;
        assert_eq!(answer.status, 200, "{} empty: {answer}", page.path);
    }
    let own = Belongings::make(&stage, "own").await;
    let mut tenant = Reader::new(&stage, &own.tenant.key).await;
    for many in [false, true] {
        if many {
            for _ in 0..80 {
                stage.enqueue(own.tenant.id).await;
            }
        }
        for page in pages() {
            let target = target_of(page, &own);
            let answer = platform.get(&target).await;
            let expected = if NOTHING_TO_SHOW.contains(&page.path) { 404 } else { 200 };
            assert_eq!(answer.status, expected, "{target}: {answer}");
            assert!(answer.body.len() <= PAGE_MAX, "{target}: {} octets", answer.body.len());
            let answer = tenant.get(&target).await;
            let is_of_platform = page.audience == pillarbox::ui::Audience::Platform;
            let expected = if is_of_platform { 404 } else { expected };
            assert_eq!(answer.status, expected, "{target} of a tenant: {answer}");
        }
    }
    let list = String::from_utf8(platform.get("/ui/messages").await.body).unwrap();
    assert_eq!(list.matches("<tr id=\"msg_").count(), 50);
    let older = attributes(&list, "href").into_iter().find(|href| href.contains("after=")).unwrap();
    let older = String::from_utf8(platform.get(&older.replace("&amp;", "&")).await.body).unwrap();
    assert_eq!(older.matches("<tr id=\"msg_").count(), 31);
}

#[tokio::test]
async fn every_page_shows_the_error_of_the_api() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let sender = stage.key(own.tenant.id, &[Scope::SmtpSend], |_| {}).await;
    let mut browser = Reader::new(&stage, &sender).await;
    let without_objects = ["/ui/", "/ui/settings", "/ui/brand.css"];
    for page in pages().filter(|page| page.audience == pillarbox::ui::Audience::Everybody) {
        let target = target_of(page, &own);
        let answer = browser.get(&target).await;
        if without_objects.contains(&page.path) {
            assert_eq!(answer.status, 200, "{target}: {answer}");
        } else if !String::from_utf8_lossy(&answer.body).contains("is not there yet") {
            assert_eq!(
                (answer.status, code_of(&answer).as_str()),
                (403, "insufficient_scope"),
                "{target}: {answer}"
            );
            let text = String::from_utf8_lossy(&answer.body);
            assert!(text.contains("req_") && text.contains("<nav class=\"side\""), "{target}: {text}");
        }
    }
}

#[tokio::test]
async fn a_filter_that_is_wrong_keeps_the_form_and_says_what_is_wrong() {
    let stage = ApiStage::start().await;
    let browser = Browser::signed_in(stage.address, &stage.platform).await;
    let page = browser.page("/ui/messages?since=yesterday&from=%22x%22").await;
    assert!(page.contains("created_after") && page.contains("value=\"yesterday\""), "{page}");
    assert!(page.contains("value=\"&quot;x&quot;\""), "{page}");
}

#[tokio::test]
async fn every_page_has_the_policy_and_no_inline_script_or_style() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let mut browser = Reader::new(&stage, &stage.platform).await;
    let mut seen = 0;
    for page in pages() {
        let answer = browser.get(&target_of(page, &own)).await;
        let is_page = answer.header("content-type").is_some_and(|text| text.starts_with("text/html"));
        if !is_page {
            continue;
        }
        for (name, value) in [
            ("content-security-policy", POLICY),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{}", page.path);
        }
        assert_eq!(answer.header("content-encoding"), None, "{}", page.path);
        let text = String::from_utf8(answer.body).unwrap();
        assert!(!text.contains(" style=") && !text.contains("<style"), "{}", page.path);
        let tags = text.split('<').filter_map(|rest| rest.split('>').next());
        for tag in tags {
            assert!(
                !tag.split_whitespace().any(|word| word.starts_with("on") && word.contains('=')),
                "{tag}"
            );
            assert!(!tag.starts_with("script") || tag.contains(" src=\"/ui/assets/"), "{tag}");
        }
        seen += 1;
    }
    assert!(seen > 25, "{seen}");
}

#[tokio::test]
async fn every_link_of_every_page_leads_somewhere() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let mut browser = Reader::new(&stage, &stage.platform).await;
    let mut links = BTreeSet::new();
    for page in pages() {
        let target = target_of(page, &own);
        let text = String::from_utf8_lossy(&browser.get(&target).await.body).into_owned();
        for href in attributes(&text, "href").into_iter().chain(attributes(&text, "src")) {
            let href = href.replace("&amp;", "&");
            let path = href.split('#').next().unwrap_or_default();
            match path.chars().next() {
                Some('/') => links.insert((path.to_owned(), target.clone())),
                Some('?') => panic!("{target}: {href} depends on the address"),
                _ => true,
            };
        }
    }
    let mut asked = BTreeSet::new();
    for (link, from) in links.into_iter().filter(|(link, _)| !link.starts_with("/ui/messages/live")) {
        if asked.insert(link.clone()) {
            let answer = browser.get(&link).await;
            let is_nothing = link.ends_with("/preview") && answer.status == 404;
            assert!([200, 303].contains(&answer.status) || is_nothing, "{link} of {from}: {answer}");
        }
    }
    assert!(asked.len() > 30, "{asked:?}");
}

#[tokio::test]
async fn assets_are_within_their_budget_and_are_kept_by_browsers() {
    let stage = ApiStage::start().await;
    let browser = Browser::signed_in(stage.address, &stage.platform).await;
    let page = browser.page("/ui/").await;
    let assets: Vec<&str> = attributes(&page, "href")
        .into_iter()
        .chain(attributes(&page, "src"))
        .filter(|path| path.starts_with("/ui/assets/"))
        .collect();
    assert_eq!(assets.len(), 3, "{assets:?}");
    let nobody = Browser::at(stage.address);
    for asset in assets {
        let plain = nobody.get(asset).await;
        assert_eq!(plain.header("cache-control"), Some("public, max-age=31536000, immutable"), "{asset}");
        let sent = nobody.send("GET", asset, &[("Accept-Encoding", "gzip")], None).await;
        assert_eq!(sent.header("content-encoding"), Some("gzip"));
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&sent.body[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain.body);
        let (max, sent_max) =
            if asset.ends_with(".css") { (STYLE_MAX, STYLE_SENT_MAX) } else { (SCRIPT_MAX, SCRIPT_MAX) };
        assert!(plain.body.len() <= max, "{asset}: {} octets", plain.body.len());
        assert!(sent.body.len() <= sent_max, "{asset}: {} octets as sent", sent.body.len());
    }
    let script = include_str!("../../src/ui/assets/page.js");
    assert!(script.lines().count() <= 300);
    for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
        assert!(!script.contains(word), "{word}");
    }
}

#[test]
fn no_markup_is_made_without_escaping() {
    fn walk(directory: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if std::fs::read_to_string(&path).is_ok_and(|text| text.contains("PreEscaped")) {
                found.push(path.display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ui"), &mut found);
    assert_eq!(found, [""; 0]);
}

#[tokio::test]
async fn the_page_of_messages_is_a_file_for_spreadsheets_without_formulas() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    stage.add_domain(own.tenant.id, "sender.example").await;
    let email = serde_json::json!({
        "from": "a@sender.example", "to": ["b@x.example"], "subject": "=HYPERLINK(\"//evil.example\")", "text": "t",
    });
    stage.post(&own.tenant.key, "/v1/emails", email).await.expect(202);
    let browser = Browser::signed_in(stage.address, &own.tenant.key).await;
    let answer = browser.get("/ui/messages?format=csv").await;
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"messages.csv\""));
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.starts_with("time,id,status,from,to,recipients,subject,message_id,size,tags\n"), "{text}");
    assert!(text.contains("\"'=HYPERLINK(\"\"//evil.example\"\")\""), "{text}");
    assert_eq!(text.lines().count(), 3);
}

#[tokio::test]
async fn the_list_of_messages_learns_from_a_stream_that_it_has_changed() {
    let stage = ApiStage::start().await;
    let (own, other) = (Belongings::make(&stage, "own").await, Belongings::make(&stage, "other").await);
    let url =
        stage.post(&stage.platform, "/v1/sessions", serde_json::json!({"tenant_id": own.tenant.id})).await;
    let url = crate::api_stage::text(&url.expect(201), "/url");
    let mut by_link = Browser::at(stage.address);
    by_link.open_link(&url).await;
    for browser in [by_link, Browser::signed_in(stage.address, &own.tenant.key).await] {
        let mut stream = browser.follow("/ui/messages/live").await;
        stage.enqueue(other.tenant.id).await;
        let email = stage.enqueue(own.tenant.id).await.to_string();
        let seen = stream.until(&email).await;
        assert!(seen.contains("event: message.accepted"), "{seen}");
        assert!(!seen.contains(&other.tenant.id.to_string()), "{seen}");
    }
}
