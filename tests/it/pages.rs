//! What every page has in common: it renders from every state, shows the error of the API, keeps its policy and its budget,
//! and shows text of other people as text.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use pillarbox::mail::Timestamp;
use pillarbox::model::{AttemptId, DeliveryState, Environment, MessageId, MessageKind, Scope, TenantId};
use pillarbox::store::{Attempt, AttemptRecord, Journal, Metadata, RecordBatch, Spool};

use crate::api_objects::Belongings;
use crate::api_stage::ApiStage;
use crate::browser::{Browser, attributes, code_of, pages, target_of};
use crate::wait::until;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// Octets of a page, of the script, and of the style as it is and as it is sent.
const PAGE_MAX: usize = 100 * 1024;
const SCRIPT_MAX: usize = 12 * 1024;
const STYLE_MAX: usize = 32 * 1024;
const STYLE_SENT_MAX: usize = 8 * 1024;
/// A session shows fewer pages than this in a minute.
const PAGES_OF_SESSION: usize = 150;

/// Its object here has nothing to show: a message without HTML.
const NOTHING_TO_SHOW: &str = "/ui/messages/{id}/preview";

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
        if self.shown.is_multiple_of(PAGES_OF_SESSION) {
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
            let expected = if page.path == NOTHING_TO_SHOW { 404 } else { 200 };
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
        } else {
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
        // The frame of a message or a template has a policy of its own.
        if !is_page || page.path.ends_with("/preview") {
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

/// The files of the pages with their texts.
fn sources() -> Vec<(PathBuf, String)> {
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ui")];
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => found.extend(std::fs::read_to_string(&path).map(|text| (path, text))),
            }
        }
    }
    found
}

/// The codes of problems that the pages find themselves.
pub fn codes() -> BTreeSet<String> {
    problems().into_iter().map(|(_, code)| code).collect()
}

/// The same, each with the name of its status.
pub fn problems() -> BTreeSet<(String, String)> {
    let mut problems = BTreeSet::new();
    for (_, text) in sources() {
        let text: String = text.split_whitespace().collect();
        for call in text.split("::new(StatusCode::").skip(1) {
            let mut parts = call.split([',', '"']);
            problems.extend(parts.next().map(str::to_owned).zip(parts.nth(1).map(str::to_owned)));
        }
    }
    problems
}

#[test]
fn no_markup_is_made_without_escaping() {
    let unsafe_files = sources().into_iter().filter(|(_, text)| text.contains("PreEscaped"));
    assert_eq!(unsafe_files.map(|(path, _)| path).collect::<Vec<_>>(), [""; 0].map(PathBuf::from));
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
    let head = "time,id,status,from,to,recipients,subject,message_id,size,tags,last_reply\n";
    assert!(text.starts_with(head), "{text}");
    assert!(text.contains("\"'=HYPERLINK(\"\"//evil.example\"\")\""), "{text}");
    assert_eq!(text.lines().count(), 3);
}

#[tokio::test]
async fn the_list_of_messages_shows_the_last_reply() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let id = stage.enqueue(own.id).await;
    record_attempts(&stage, own.id, id, "451 4.7.1 <later>", "< 451", 2).await;
    let list = stage.get(&own.key, "/v1/emails").await.expect(200);
    let one = stage.get(&own.key, &format!("/v1/emails/{id}")).await.expect(200);
    for email in [&list["data"][0], &one] {
        assert_eq!(email["last_reply"], "451 4.7.1 <later>", "{email}");
    }
    let browser = Browser::signed_in(stage.address, &own.key).await;
    let page = browser.page("/ui/messages").await;
    assert!(page.contains("<bdi>451 4.7.1 &lt;later&gt;</bdi>"), "{page}");
    let file = browser.get("/ui/messages?format=csv").await.body;
    assert!(String::from_utf8(file).unwrap().ends_with(",451 4.7.1 <later>\n"));
}

#[tokio::test]
async fn the_navigation_counts_what_waits_and_what_fails() {
    let stage = ApiStage::with(|_, domains| domains.verification_grace = std::time::Duration::ZERO).await;
    let (own, other) = (stage.tenant("own").await, stage.tenant("other").await);
    for tenant in [own.id, own.id, other.id] {
        stage.enqueue(tenant).await;
    }
    let verify = format!("{}/verify", stage.publish_domain(&own.key, "own.example").await);
    stage.post(&own.key, &verify, serde_json::json!({})).await.expect(200);
    stage.dns.text("_pillarbox.own.example", "pillarbox-verify=other");
    let failing = stage.post(&own.key, &verify, serde_json::json!({})).await.expect(200);
    assert_eq!(failing["status"], "failing", "{failing}");
    let disable = async || {
        let webhook = serde_json::json!({"url": "https://own.example/"});
        let webhook = stage.post(&own.key, "/v1/webhooks", webhook).await.expect(201);
        let path = format!("/v1/webhooks/{}", crate::api_stage::text(&webhook, "/id"));
        stage.patch(&own.key, &path, serde_json::json!({"status": "disabled"})).await.expect(200);
        path
    };
    // A webhook that a person disabled needs no attention.
    let (webhook, _by_person) = (disable().await, disable().await);
    let by_server = "UPDATE webhook SET disabled_reason = 'failing' WHERE id = ?1";
    stage.database().execute(by_server, [webhook.rsplit('/').next()]).unwrap();
    // The diagnosis is there, so that no page waits for it.
    stage.get(&stage.platform, "/v1/doctor").await.expect(200);

    // A page does not wait long for its counts.
    let wait_for = async |browser: &Browser, expected: &[String]| {
        let what = format!("the navigation counts {expected:?}");
        until(&what, async || (counts_of(browser).await == expected).then_some(())).await;
    };
    let platform = Browser::signed_in(stage.address, &stage.platform).await;
    let all = async || Some(counts_of(&platform).await).filter(|seen| seen.len() == 4);
    let seen = until("the navigation has four counts", all).await;
    assert_eq!(
        seen[..3],
        ["queue count 3", "domains count is-bad 1 failing", "webhooks count is-warn 1 disabled"]
    );
    assert!(seen[3].starts_with("doctor count is-"), "{seen:?}");
    assert_eq!(platform.page("/ui/").await.matches("</bdi> is disabled</a>").count(), 1);
    let of_own = Browser::signed_in(stage.address, &own.key).await;
    wait_for(&of_own, &seen[1..3]).await;
    let of_other = Browser::signed_in(stage.address, &other.key).await;
    assert_eq!(counts_of(&of_other).await, [""; 0]);

    // What is kept is read again after a change, and after half a minute.
    stage.patch(&own.key, &webhook, serde_json::json!({"status": "enabled"})).await.expect(200);
    assert_eq!(counts_of(&of_own).await, seen[1..3]);
    of_own.post("/ui/settings", &[("do", "theme"), ("theme", "dark")]).await;
    wait_for(&of_own, &seen[1..2]).await;
    stage.clock.advance(std::time::Duration::from_secs(31));
    wait_for(&platform, &[&seen[..2], &seen[3..]].concat()).await;
}

#[tokio::test]
async fn a_count_that_takes_long_is_on_a_later_page() {
    let stage = ApiStage::start().await;
    stage.dns.silence("host.example");
    let browser = Browser::signed_in(stage.address, &stage.platform).await;
    // This page begins to count. For half a minute, no other does.
    counts_of(&browser).await;
    stage.get(&stage.platform, "/v1/doctor").await.expect(200);
    let of_doctor = async || counts_of(&browser).await.into_iter().find(|count| count.starts_with("doctor"));
    until("the navigation has the count of the diagnosis", of_doctor).await;
}

/// The pages of the navigation that have a count, with the classes and the text of the count.
async fn counts_of(browser: &Browser) -> Vec<String> {
    let page = browser.page("/ui/messages").await;
    let navigation = page.split("<nav class=\"side\"").nth(1).unwrap().split("</nav>").next().unwrap();
    let links = navigation.split("<a href=\"/ui/").skip(1).map(|rest| rest.split("</a>").next().unwrap());
    let counted =
        links.filter_map(|link| Some((link.split('"').next()?, link.split("<span class=\"").nth(1)?)));
    let counted =
        counted.map(|(page, count)| format!("{page} {}", count.replace("\">", " ").replace("</span>", "")));
    counted.collect()
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

/// An attempt that was deferred, with this reply in every place where a server says something.
async fn record_attempts(
    stage: &ApiStage,
    tenant: TenantId,
    id: MessageId,
    reply: &str,
    transcript: &str,
    count: i64,
) {
    let delivery_id = stage.store.deliveries(id).await.unwrap()[0].id;
    let now = stage.clock.now();
    let records = (0..count).map(|number| AttemptRecord {
        message_id: id,
        kind: MessageKind::Message,
        tenant_id: tenant,
        environment: Environment::Live,
        key_id: None,
        sender_domain: None,
        delivery_id,
        state: DeliveryState::Deferred,
        bounce_class: None,
        next_attempt_at: Some(now),
        attempt: Some(Attempt {
            id: AttemptId::generate(now),
            message_id: id,
            delivery_id,
            started_at: Timestamp::from_microsecond(1_700_000_000_000_000 + number).unwrap(),
            duration_ms: 1,
            host: reply.into(),
            address: None,
            source: None,
            tls: Some(reply.into()),
            tls_policy: Some(reply.into()),
            code: None,
            enhanced: None,
            text: reply.into(),
            transcript: format!("{transcript}{number}").into(),
            outcome: DeliveryState::Deferred,
            bounce_class: None,
            reason: reply.into(),
        }),
        reply: reply.into(),
        suppress: None,
        delayed: false,
        at: now,
    });
    stage.store.record(RecordBatch { records: records.collect(), report: None }).await.unwrap();
}

/// 40 texts that would do something if a page took them for markup.
fn payloads() -> Vec<String> {
    let texts: Vec<String> = serde_json::from_str(include_str!("../page/payloads.json")).unwrap();
    assert_eq!(texts.len(), 40);
    texts.into_iter().map(|text| if text == "A*1048576" { "A".repeat(1 << 20) } else { text }).collect()
}

/// Whether a character hides itself or turns the direction of text.
fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[tokio::test]
async fn hostile_text_of_a_message_is_text_on_its_pages() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let mut reader = Reader::new(&stage, &own.key).await;
    for payload in payloads() {
        let short: String = payload.chars().take(2000).collect();
        let metadata = serde_json::json!({ short.clone(): short.clone() });
        let id = stage
            .enqueue_with(own.id, format!("X-Header: {short}\r\n\r\n{short}\r\n").into_bytes(), |message| {
                message.subject = Some(payload.clone());
                message.header_from = Some(short.clone());
                message.header_message_id = Some(short.clone());
                message.annotations.tags = vec![payload.chars().take(50).collect()];
                message.annotations.metadata = Metadata::of(metadata.as_object().unwrap());
            })
            .await;
        record_attempts(&stage, own.id, id, &short, &format!("< 451 {short}\n> {short}\n* {short}"), 1).await;
        let page = format!("/ui/messages/{id}");
        for target in [
            "/ui/messages".to_owned(),
            page.clone(),
            format!("{page}?tab=headers"),
            format!("{page}?tab=text"),
        ] {
            let answer = reader.get(&target).await;
            assert_eq!(answer.status, 200, "{payload:.100}: {answer}");
            let text = String::from_utf8(answer.body).unwrap();
            assert!(text.len() <= PAGE_MAX, "{target} of {payload:.20}: {} octets", text.len());
            let is_markup = payload.contains('<') || payload.contains("\">");
            assert!(!(is_markup && text.contains(&payload)), "{payload} in {target}: {text}");
            assert_eq!(text.chars().find(|c| is_hidden(*c)), None, "{payload:.100} in {target}");
            if payload.contains('\u{202e}') && !target.contains("tab=") {
                assert!(text.contains("<span class=\"cp\">U+202E</span>"), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_message_with_many_attempts_is_a_page_of_its_budget() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let id = stage.enqueue(own.id).await;
    record_attempts(&stage, own.id, id, "421 later", &"< 421 later\n".repeat(100), 400).await;
    let browser = Browser::signed_in(stage.address, &own.key).await;
    let page = browser.page(&format!("/ui/messages/{id}")).await;
    assert!(page.len() <= PAGE_MAX, "{} octets", page.len());
    assert!(page.contains("more entries") && page.contains("3 to 398"), "{page}");
}

#[tokio::test]
async fn a_picture_counts_as_often_as_the_message_shows_it() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    stage.add_domain(own.id, "sender.example").await;
    let image = |id: &str| format!("<img src=\"cid:{id}\">");
    let large = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [7; 100 * 1024]);
    let picture = |id: &str, content: &str| serde_json::json!({"filename": "a.png", "content": content, "content_type": "image/png", "content_id": id});
    let email = serde_json::json!({
        "from": "a@sender.example", "to": ["b@x.example"], "subject": "s", "text": "t",
        "html": image("large").repeat(1000) + &image("logo@x") + &image("logo"),
        "attachments": [picture("logo", "c2hvcnQ="), picture("large", &large), picture("logo@x", "bG9uZw==")],
    });
    let sent = stage.post(&own.key, "/v1/emails", email).await.expect(202);
    let browser = Browser::signed_in(stage.address, &own.key).await;
    let shown = browser.page(&format!("/ui/messages/{}/preview", crate::api_stage::text(&sent, "/id"))).await;
    assert!(shown.len() < 3 << 20, "{} octets", shown.len());
    let shown = shown.replace(&image("large"), "");
    let both =
        ["bG9uZw==", "c2hvcnQ="].map(|text| format!("<img src=\"data:image/png;base64,{text}\">")).concat();
    assert!(shown.contains(&both), "a Content-ID that begins like another one: {shown}");
}

#[tokio::test]
async fn a_tenant_reads_its_name_and_not_its_id() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let browser = Browser::signed_in(stage.address, &own.tenant.key).await;
    let page = browser.page(&format!("/ui/messages/{}", own.email)).await;
    let content = page.split("<main").nth(1).unwrap();
    assert!(content.contains(&format!("href=\"/ui/tenants/{}\">own</a>", own.tenant.id)), "{page}");
}

#[tokio::test]
async fn html_of_a_message_is_in_a_frame_without_rights() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    stage.add_domain(own.id, "sender.example").await;
    let html = "<h1>Hi</h1><script>alert(1)</script><img src=\"cid:logo@x\"><img src=\"https://evil.example/p.gif\">\
                <a href=\"https://shop.example/?a=1&amp;b=2\">shop</a>";
    let email = serde_json::json!({
        "from": "a@sender.example", "to": ["b@x.example"], "subject": "s", "text": "t", "html": html,
        "attachments": [
            {"filename": "logo.png", "content": "aGVsbG8=", "content_type": "image/png", "content_id": "logo@x"},
            {"filename": "../../x.html", "content": "PGgxPg==", "content_type": "text/html"},
        ],
    });
    let sent = stage.post(&own.key, "/v1/emails", email).await.expect(202);
    let page = format!("/ui/messages/{}", crate::api_stage::text(&sent, "/id"));
    let browser = Browser::signed_in(stage.address, &own.key).await;

    let tab = browser.page(&format!("{page}?tab=preview")).await;
    assert!(tab.contains(&format!("<iframe sandbox=\"\" src=\"{page}/preview\"")), "{tab}");
    assert!(!tab.contains("<h1>Hi</h1>") && tab.contains("https://shop.example/?a=1&amp;b=2"), "{tab}");

    let answer = browser.get(&format!("{page}/preview")).await;
    assert_eq!(answer.status, 200, "{answer}");
    assert_eq!(
        answer.header("content-security-policy"),
        Some(
            "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; frame-ancestors 'self'"
        )
    );
    let shown = String::from_utf8(answer.body.clone()).unwrap();
    assert!(shown.contains("<img src=\"data:image/png;base64,aGVsbG8=\">"), "{shown}");
    assert!(answer.header("set-cookie").is_none());

    let list = browser.page(&format!("{page}?tab=attachments")).await;
    let parts: Vec<_> =
        attributes(&list, "href").into_iter().filter(|href| href.contains("/parts/")).collect();
    assert!(parts.len() >= 2, "{parts:?}");
    for part in parts.iter().chain([&format!("{page}/raw").as_str()]) {
        let file = browser.get(part).await;
        assert_eq!(file.status, 200, "{file}");
        assert_eq!(file.header("content-type"), Some("application/octet-stream"), "{part}");
        let disposition = file.header("content-disposition").unwrap();
        assert!(
            disposition.starts_with("attachment; filename=\"") && !disposition.contains('/'),
            "{disposition}"
        );
        assert_eq!(
            file.header("content-security-policy"),
            Some("sandbox; default-src 'none'; form-action 'none'; frame-ancestors 'none'")
        );
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
    }
}
