//! Who is signed in to the pages: keys and links, cookies, forms of other sites, and the end of a session.

use std::net::SocketAddr;
use std::time::Duration;

use pillarbox::model::{Environment, KeyId, KeySecret, Scope};
use serde_json::json;

use crate::api_objects::{Belongings, body, operations};
use crate::api_stage::{ApiStage, text};
use crate::browser::{Browser, code_of};
use crate::http::{exchange, request_with};
use crate::http2::{self, Http2};
use crate::program::Serving;
use crate::wait::until;

const MINUTE: Duration = Duration::from_secs(60);

/// A link of a key.
async fn link(stage: &ApiStage, key: &str, body: serde_json::Value) -> String {
    text(&stage.post(key, "/v1/sessions", body).await.expect(201), "/url")
}

/// Whether a browser is signed in.
async fn is_signed_in(browser: &Browser) -> bool {
    let answer = browser.get("/ui/settings").await;
    let is_redirect = answer.header("location").is_some_and(|to| to.starts_with("/ui/sign-in"));
    assert!(answer.status == 200 || (answer.status == 303 && is_redirect), "{answer}");
    answer.status == 200
}

#[tokio::test]
async fn a_cookie_is_http_only_strict_and_for_this_host() {
    let stage = ApiStage::start().await;
    let answer = Browser::at(stage.address).sign_in(&[("key", &stage.platform)]).await;
    let cookie = answer.header("set-cookie").unwrap().to_owned();
    let (pair, attributes) = cookie.split_once(';').unwrap();
    assert_eq!(attributes, " HttpOnly; SameSite=Strict; Path=/");
    let (name, id) = pair.split_once('=').unwrap();
    assert_eq!((name, id.len()), ("pillarbox", 43));

    let stage = ApiStage::with(|api, _| api.public_url = "https://mail.example".parse().ok()).await;
    let mut browser = Browser { origin: "https://mail.example".into(), ..Browser::at(stage.address) };
    let answer = browser.sign_in(&[("key", &stage.platform)]).await;
    let cookie = answer.header("set-cookie").unwrap();
    let (pair, attributes) = cookie.split_once(';').unwrap();
    assert_eq!(attributes, " HttpOnly; Secure; SameSite=Strict; Path=/");
    assert!(pair.starts_with("__Host-pillarbox="), "{pair}");
    assert!(browser.get("/ui/settings").await.header("strict-transport-security").is_some());
}

#[tokio::test]
async fn the_id_changes_at_sign_in() {
    let stage = ApiStage::start().await;
    let mut browser = Browser::at(stage.address);
    browser.cookie = Some("pillarbox=planted".into());
    browser.sign_in(&[("key", &stage.platform)]).await;
    let first = browser.clone();
    assert_ne!(first.cookie.as_deref(), Some("pillarbox=planted"));
    browser.sign_in(&[("key", &stage.platform)]).await;
    assert_ne!(first.cookie, browser.cookie);
    let planted = Browser { cookie: Some("pillarbox=planted".into()), ..Browser::at(stage.address) };
    assert!(!is_signed_in(&planted).await);
    assert!(is_signed_in(&browser).await);
    assert!(!is_signed_in(&first).await, "nobody has the cookie that was replaced");
}

#[tokio::test]
async fn a_form_without_the_token_of_its_session_changes_nothing() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let browser = Browser::signed_in(stage.address, &own.tenant.key).await;
    let of_other_session = Browser::signed_in(stage.address, &own.tenant.key).await.token().await;
    let target = format!("/ui/messages/{}", own.email);
    for token in [None, Some(""), Some("x"), Some(of_other_session.as_str())] {
        let fields: Vec<_> =
            [("do", "cancel")].into_iter().chain(token.map(|token| ("token", token))).collect();
        let answer = browser.post_as_is(&target, &fields).await;
        assert_eq!((answer.status, code_of(&answer).as_str()), (403, "form_expired"), "{answer}");
    }
    // The token in the address is not that of the form.
    let in_address = format!("{target}?token={}", browser.token().await);
    assert_eq!(browser.post_as_is(&in_address, &[("do", "cancel")]).await.status, 403);
    let email = stage.get(&own.tenant.key, &format!("/v1/emails/{}", own.email)).await.expect(200);
    assert_eq!(email["status"], "queued");
    assert_eq!(browser.post(&target, &[("do", "cancel")]).await.status, 303);
    let email = stage.get(&own.tenant.key, &format!("/v1/emails/{}", own.email)).await.expect(200);
    assert_eq!(email["status"], "cancelled");
}

#[tokio::test]
async fn a_form_of_another_origin_changes_nothing() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let browser = Browser::signed_in(stage.address, &own.tenant.key).await;
    let (target, token) = (format!("/ui/messages/{}", own.email), browser.token().await);
    let form = [("token", token.as_str()), ("do", "cancel")];
    for headers in [
        &[][..],
        &[("Origin", "http://evil.example")],
        &[("Origin", "null")],
        &[("Origin", "null"), ("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "https://localhost")],
        &[("Origin", "http://localhost"), ("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "http://localhost"), ("Sec-Fetch-Site", "same-site")],
        &[("Origin", "http://evil.example"), ("Sec-Fetch-Site", "same-origin")],
        &[("Sec-Fetch-Site", "none")],
        &[("Referer", "http://localhost/ui/")],
    ] {
        let answer = browser.send("POST", &target, headers, Some(&form)).await;
        assert_eq!(
            (answer.status, code_of(&answer).as_str()),
            (403, "foreign_origin"),
            "{headers:?}: {answer}"
        );
        let answer = Browser::at(stage.address)
            .send("POST", "/ui/sign-in", headers, Some(&[("key", &own.tenant.key)]))
            .await;
        assert_eq!((answer.status, answer.header("set-cookie")), (403, None), "{headers:?}");
    }
    let email = stage.get(&own.tenant.key, &format!("/v1/emails/{}", own.email)).await.expect(200);
    assert_eq!(email["status"], "queued");
    // A form of a page with `Referrer-Policy: no-referrer` has the origin `null`.
    for headers in [
        &[("Origin", "http://localhost")][..],
        &[("Sec-Fetch-Site", "same-origin")],
        &[("Origin", "null"), ("Sec-Fetch-Site", "same-origin")],
    ] {
        let answer =
            browser.send("POST", "/ui/settings", headers, Some(&[("token", &token), ("do", "theme")])).await;
        assert_eq!(answer.status, 303, "{headers:?}: {answer}");
    }
}

#[tokio::test]
async fn the_cookie_opens_nothing_under_v1() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let browser = Browser::signed_in(stage.address, &stage.platform).await;
    let headers = [("Cookie", browser.cookie.as_deref().unwrap()), ("Sec-Fetch-Site", "same-origin")];
    let before = own.look(&stage).await;
    let mut asked = 0;
    for (route, operation) in operations() {
        let (method, path) = (operation.method.as_str(), own.path(route));
        let body = body(route, operation, Some(own.tenant.id));
        let body = (!body.is_null()).then_some(&body);
        let answer = request_with(stage.address, method, &path, None, body, &headers).await;
        answer.expect_error(401, "authentication_required");
        asked += 1;
    }
    assert!(asked > 100, "{asked}");
    assert_eq!(own.look(&stage).await, before);
}

#[tokio::test]
async fn a_link_works_once_and_for_five_minutes() {
    let stage = ApiStage::start().await;
    let url = link(&stage, &stage.platform, json!({"path": "/ui/messages?status=deferred"})).await;
    assert!(url.starts_with("http://api/ui/sign-in#"), "{url}");
    for path in ["/ui/\u{1b}", "/ui/\\", "/ui/a b", "//a"] {
        let refused = stage.post(&stage.platform, "/v1/sessions", json!({ "path": path })).await;
        refused.expect_error(422, "validation_failed");
    }
    let mut browser = Browser::at(stage.address);
    let answer = browser.open_link(&url).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/ui/messages?status=deferred")));
    assert!(is_signed_in(&browser).await);

    let answer = Browser::at(stage.address).open_link(&url).await;
    assert_eq!(
        (answer.status, code_of(&answer).as_str(), answer.header("set-cookie")),
        (403, "link_used", None)
    );
}

#[tokio::test]
async fn a_link_that_nobody_opens_ends_after_five_minutes() {
    let stage = ApiStage::start().await;
    let (in_time, too_late) =
        (link(&stage, &stage.platform, json!({})).await, link(&stage, &stage.platform, json!({})).await);
    stage.clock.advance(5 * MINUTE - Duration::from_secs(5));
    assert_eq!(Browser::at(stage.address).open_link(&in_time).await.status, 303);
    stage.clock.advance(Duration::from_secs(5));
    let answer = Browser::at(stage.address).open_link(&too_late).await;
    assert_eq!((answer.status, code_of(&answer).as_str()), (403, "link_used"), "{answer}");
}

#[tokio::test]
async fn a_link_of_a_platform_key_sees_its_tenant_only() {
    let stage = ApiStage::start().await;
    let (own, other) = (Belongings::make(&stage, "own").await, Belongings::make(&stage, "other").await);
    let url = link(&stage, &stage.platform, json!({"tenant_id": own.tenant.id})).await;
    let mut browser = Browser::at(stage.address);
    browser.open_link(&url).await;
    let list = browser.page("/ui/messages").await;
    assert!(list.contains(&own.email) && !list.contains(&other.email));
    assert_eq!(browser.get(&format!("/ui/messages/{}", own.email)).await.status, 200);
    for target in
        [format!("/ui/messages/{}", other.email), "/ui/queue".into(), "/ui/bans".into(), "/ui/doctor".into()]
    {
        assert_eq!(browser.get(&target).await.status, 404, "{target}");
    }
    // It does not see other sessions of the key that made it, and does not end them.
    let platform = Browser::signed_in(stage.address, &stage.platform).await;
    let sessions = browser.page("/ui/settings").await;
    assert!(!sessions.contains("name=\"session\""), "{sessions}");
    assert!(!sessions.contains("sign_out_everywhere"));
    // Nor the key itself.
    let key = stage.get(&stage.platform, "/v1/me").await.expect(200)["key"].clone();
    for part in ["/id", "/name"].map(|part| text(&key, part)) {
        assert!(!sessions.contains(&part), "{part} in {sessions}");
    }
    let answer = browser.post("/ui/settings", &[("do", "sign_out_everywhere")]).await;
    assert_eq!(answer.status, 400, "{answer}");
    assert!(is_signed_in(&platform).await);
}

#[tokio::test]
async fn a_link_gives_no_right_that_its_key_lacks() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let other = stage.tenant("other").await;
    let reader = stage.key(own.tenant.id, &[Scope::EmailsRead], |_| {}).await;
    let wider = json!({"scopes": ["keys:manage"]});
    stage.post(&reader, "/v1/sessions", wider).await.expect_error(403, "insufficient_scope");
    let answer = stage.post(&reader, "/v1/sessions", json!({"tenant_id": other.id})).await;
    assert!([403, 404].contains(&answer.status), "{answer}");

    // A narrower link of a key with all scopes.
    let url = link(&stage, &own.tenant.key, json!({"scopes": ["emails:read"]})).await;
    let mut browser = Browser::at(stage.address);
    browser.open_link(&url).await;
    let message = format!("/ui/messages/{}", own.email);
    let page = browser.page(&message).await;
    assert!(!page.contains("value=\"cancel\""));
    let answer = browser.post(&message, &[("do", "cancel")]).await;
    assert_eq!((answer.status, code_of(&answer).as_str()), (403, "insufficient_scope"), "{answer}");
    assert!(!page.contains("href=\"/ui/keys\""), "the navigation shows what the session may see");
}

#[tokio::test]
async fn a_revoked_key_ends_its_sessions_within_a_second() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let reader = stage.key(own.tenant.id, &[Scope::EmailsRead], |key| key.name = "reader".into()).await;
    let by_key = Browser::signed_in(stage.address, &reader).await;
    let mut by_link = Browser::at(stage.address);
    by_link.open_link(&link(&stage, &reader, json!({})).await).await;
    let of_platform = stage.platform_key(|_| {}).await;
    let mut by_platform = Browser::at(stage.address);
    by_platform.open_link(&link(&stage, &of_platform, json!({"tenant_id": own.tenant.id})).await).await;
    let unopened = link(&stage, &reader, json!({})).await;

    for secret in [&reader, &of_platform] {
        let id: KeyId = text(&stage.get(secret, "/v1/me").await.expect(200), "/key/id").parse().unwrap();
        stage.delete(&stage.platform, &format!("/v1/keys/{id}")).await.expect(200);
    }
    for browser in [&by_key, &by_link, &by_platform] {
        assert!(!is_signed_in(browser).await);
    }
    let answer = Browser::at(stage.address).open_link(&unopened).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (403, None), "{answer}");
}

#[tokio::test]
async fn sessions_end_when_idle_and_at_their_end() {
    let stage = ApiStage::start().await;
    let idle = Browser::signed_in(stage.address, &stage.platform).await;
    let busy = Browser::signed_in(stage.address, &stage.platform).await;
    let mut short = Browser::at(stage.address);
    short.open_link(&link(&stage, &stage.platform, json!({"expires_in": 300})).await).await;
    assert!(is_signed_in(&short).await);
    stage.clock.advance(5 * MINUTE);
    assert!(!is_signed_in(&short).await);
    stage.clock.advance(54 * MINUTE);
    assert!(is_signed_in(&busy).await);
    stage.clock.advance(MINUTE);
    assert!(!is_signed_in(&idle).await && is_signed_in(&busy).await);
    for _ in 0..21 {
        stage.clock.advance(30 * MINUTE);
        assert!(is_signed_in(&busy).await);
    }
    stage.clock.advance(30 * MINUTE);
    assert!(!is_signed_in(&busy).await, "twelve hours have passed");
}

#[tokio::test]
async fn the_oldest_session_of_a_key_ends_at_the_twenty_first() {
    let stage = ApiStage::start().await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(Browser::signed_in(stage.address, &stage.platform).await);
        stage.clock.advance(MINUTE);
    }
    let other = Browser::signed_in(stage.address, &stage.platform_key(|_| {}).await).await;
    assert!(is_signed_in(&sessions[0]).await);
    stage.clock.advance(MINUTE);
    let last = Browser::signed_in(stage.address, &stage.platform).await;
    assert!(!is_signed_in(&sessions[1]).await, "the one that was not used for longest");
    for browser in [&sessions[0], &sessions[2], &other, &last] {
        assert!(is_signed_in(browser).await);
    }
}

#[tokio::test]
async fn somebody_signs_out_here_elsewhere_and_everywhere() {
    let stage = ApiStage::start().await;
    let (one, two) = (
        Browser::signed_in(stage.address, &stage.platform).await,
        Browser::signed_in(stage.address, &stage.platform).await,
    );
    let page = one.page("/ui/settings").await;
    let name = page.split("name=\"session\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    one.post("/ui/settings", &[("do", "end"), ("session", name)]).await;
    assert!(is_signed_in(&one).await && !is_signed_in(&two).await);

    let three = Browser::signed_in(stage.address, &stage.platform).await;
    let answer = three.post("/ui/settings", &[("do", "sign_out")]).await;
    assert!(answer.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")), "{answer}");
    assert!(is_signed_in(&one).await && !is_signed_in(&three).await);

    let four = Browser::signed_in(stage.address, &stage.platform).await;
    let unopened = link(&stage, &stage.platform, json!({})).await;
    one.post("/ui/settings", &[("do", "sign_out_everywhere")]).await;
    assert!(!is_signed_in(&one).await && !is_signed_in(&four).await);
    let answer = Browser::at(stage.address).open_link(&unopened).await;
    assert_eq!((answer.status, code_of(&answer).as_str()), (403, "link_used"), "{answer}");
}

#[tokio::test]
async fn wrong_keys_are_banned_and_not_behind_a_proxy() {
    let stage = ApiStage::start().await;
    let wrong = || KeySecret::generate(Environment::Live).expose().to_owned();
    let mut browser = Browser::at(stage.address);
    let answer = browser.sign_in(&[("key", &wrong())]).await;
    assert_eq!((answer.status, code_of(&answer).as_str()), (401, "invalid_api_key"), "{answer}");
    // One wrong key is a mistake; several ones are a guess.
    let mut tries = 1;
    while browser.sign_in(&[("key", &wrong())]).await.status == 401 {
        tries += 1;
        assert!(tries < 20, "an address may guess for ever");
    }
    let answer = browser.sign_in(&[("key", &stage.platform)]).await;
    assert_eq!((answer.status, code_of(&answer).as_str()), (429, "rate_limited"), "{answer}");
    assert!(browser.cookie.is_none());
    let events = stage.get(&stage.platform, "/v1/events?type=login.banned").await.expect(200);
    assert_eq!(events["data"][0]["data"]["network"], "127.0.0.1/32", "{events}");

    // A right key shows that the wrong ones were mistakes.
    let stage = ApiStage::start().await;
    for _ in 0..2 {
        for _ in 0..2 {
            assert_eq!(Browser::at(stage.address).sign_in(&[("key", &wrong())]).await.status, 401);
        }
        assert_eq!(Browser::at(stage.address).sign_in(&[("key", &stage.platform)]).await.status, 303);
    }

    let stage = ApiStage::with(|api, _| api.public_url = "https://mail.example".parse().ok()).await;
    let mut browser = Browser { origin: "https://mail.example".into(), ..Browser::at(stage.address) };
    for _ in 0..3 {
        assert_eq!(browser.sign_in(&[("key", &wrong())]).await.status, 401);
    }
    assert_eq!(browser.sign_in(&[("key", &stage.platform)]).await.status, 303);
}

#[tokio::test]
async fn the_token_of_a_link_is_no_session_and_the_id_of_a_session_is_no_link() {
    let stage = ApiStage::start().await;
    let browser = Browser::signed_in(stage.address, &stage.platform).await;
    let (name, id) = browser.cookie.as_deref().unwrap().split_once('=').unwrap();
    let url = link(&stage, &stage.platform, json!({})).await;
    let token = url.split_once('#').unwrap().1;
    let with_token = Browser { cookie: Some(format!("{name}={token}")), ..Browser::at(stage.address) };
    assert!(!is_signed_in(&with_token).await);
    let answer = Browser::at(stage.address).sign_in(&[("link", id)]).await;
    assert_eq!((answer.status, code_of(&answer).as_str()), (403, "link_used"), "{answer}");
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn a_link_to_another_tenant_asks_who_is_signed_in() {
    let stage = ApiStage::start().await;
    let (own, other) = (stage.tenant("own").await, stage.tenant("other").await);
    let mut browser = Browser::signed_in(stage.address, &own.key).await;
    let own_cookie = browser.cookie.clone();
    let url = link(&stage, &other.key, json!({"path": "/ui/keys"})).await;
    let answer = browser.open_link(&url).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (200, None), "{answer}");
    assert!(String::from_utf8_lossy(&answer.body).contains("name=\"confirm\""), "{answer}");
    assert!(is_signed_in(&browser).await && browser.cookie == own_cookie);

    // The link still works, and for somebody who expects it.
    let token = url.split_once('#').unwrap().1;
    let answer = browser.sign_in(&[("link", token), ("confirm", "1")]).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/ui/keys")), "{answer}");
    assert!(!is_signed_in(&Browser { cookie: own_cookie, ..Browser::at(stage.address) }).await);
    // A link to the pages of the same tenant needs no question.
    let answer =
        browser.open_link(&link(&stage, &stage.platform, json!({"tenant_id": other.id})).await).await;
    assert_eq!(answer.status, 303, "{answer}");
}

#[tokio::test]
async fn a_stream_ends_with_the_session_that_opened_it() {
    let stage = ApiStage::start().await;
    let browser = Browser::signed_in(stage.address, &stage.platform).await;
    let mut stream = browser.follow("/ui/messages/live").await;
    browser.post("/ui/settings", &[("do", "sign_out")]).await;
    stream.until_end().await;
}

#[tokio::test]
async fn the_customers_of_one_platform_key_have_a_rate_limit_each() {
    let stage = ApiStage::with(|api, _| api.key_requests_per_minute = 20).await;
    let [busy, calm] = [stage.tenant("busy").await.id, stage.tenant("calm").await.id];
    let link_to = async |tenant_id| link(&stage, &stage.platform, json!({ "tenant_id": tenant_id })).await;
    let (mut of_busy, mut of_calm) = (Browser::at(stage.address), Browser::at(stage.address));
    of_busy.open_link(&link_to(busy).await).await;
    of_calm.open_link(&link_to(calm).await).await;
    let mut pages = 0;
    while of_busy.get("/ui/messages").await.status == 200 {
        pages += 1;
        assert!(pages < 30, "the key has no limit");
    }
    assert_eq!(of_busy.get("/ui/messages").await.status, 429);
    assert_eq!(of_calm.get("/ui/messages").await.status, 200);

    // A link that the limit refuses works a minute later.
    let url = link_to(busy).await;
    let mut late = Browser::at(stage.address);
    let answer = late.open_link(&url).await;
    assert_eq!((answer.status, code_of(&answer).as_str()), (429, "rate_limited"), "{answer}");
    stage.clock.advance(MINUTE);
    assert_eq!(late.open_link(&url).await.status, 303);
}

#[tokio::test]
async fn a_session_that_shows_too_many_pages_may_still_change_something() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    let browser = Browser::signed_in(stage.address, &tenant.key).await;
    let token = browser.token().await;
    let mut shown = 1;
    let refused = loop {
        let answer = browser.get("/ui/settings").await;
        if answer.status != 200 {
            break answer;
        }
        shown += 1;
        assert!(shown < 1000, "a session has no limit");
    };
    assert_eq!((refused.status, code_of(&refused).as_str()), (429, "rate_limited"), "{refused}");
    let seconds: u64 = refused.header("retry-after").expect("a time").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{refused}");
    assert_eq!(browser.get("/ui/brand.css").await.status, 200);
    let fields = [("token", token.as_str()), ("do", "theme"), ("theme", "dark")];
    assert_eq!(browser.post_as_is("/ui/settings", &fields).await.status, 303);
    stage.clock.advance(Duration::from_secs(seconds));
    assert_eq!(browser.get("/ui/settings").await.status, 200);
}

#[tokio::test]
async fn a_session_may_change_itself_so_often_in_a_minute() {
    let stage = ApiStage::start().await;
    let browser = Browser::signed_in(stage.address, &stage.platform).await;
    let token = browser.token().await;
    let choose = async |theme: &str| {
        let fields = [("token", token.as_str()), ("do", "theme"), ("theme", theme)];
        browser.post_as_is("/ui/settings", &fields).await
    };
    for _ in 0..30 {
        for theme in ["dark", "light"] {
            assert_eq!(choose(theme).await.status, 303);
        }
    }
    let refused = choose("dark").await;
    assert_eq!((refused.status, code_of(&refused).as_str()), (429, "rate_limited"), "{refused}");
    stage.clock.advance(MINUTE);
    assert_eq!(choose("dark").await.status, 303);
}

#[tokio::test]
async fn over_http_2_a_link_begins_with_the_authority() {
    let stage = ApiStage::start().await;
    let mut client = Http2::connect(stage.address).await;
    client.begin_post(1, "/v1/sessions", &stage.platform).await;
    client.send(http2::DATA, 0x1, 1, b"{}").await;
    let answered = until("the response", async || {
        let frame = client.frame().await.expect("the connection lives");
        (frame.kind == http2::DATA).then(|| String::from_utf8(frame.payload).unwrap())
    });
    let body = answered.await;
    assert!(body.contains("\"http://a/ui/sign-in#"), "{body}");
}

#[tokio::test]
async fn a_sign_in_form_of_any_size_is_refused_on_its_page() {
    let stage = ApiStage::start().await;
    let answer = Browser::at(stage.address).sign_in(&[("key", &"x".repeat(9000))]).await;
    assert_eq!((answer.status, code_of(&answer).as_str()), (413, "payload_too_large"), "{answer}");
}

#[tokio::test]
async fn a_cross_site_visit_reloads_itself() {
    let stage = ApiStage::start().await;
    let answer = Browser::at(stage.address)
        .send("GET", "/ui/messages", &[("Sec-Fetch-Site", "cross-site")], None)
        .await;
    let page = String::from_utf8(answer.body.clone()).unwrap();
    assert_eq!(answer.status, 200);
    assert!(page.contains("<meta http-equiv=\"refresh\" content=\"0\">") && page.len() < 500, "{page}");
    let answer = Browser::at(stage.address)
        .send("GET", "/ui/messages", &[("Sec-Fetch-Site", "same-origin")], None)
        .await;
    assert_eq!(answer.header("location"), Some("/ui/sign-in?next=%2Fui%2Fmessages"));
}

#[tokio::test]
async fn signing_in_leads_back_to_pages_only() {
    let stage = ApiStage::start().await;
    for (next, expected) in [
        ("/ui/messages?status=queued", "/ui/messages?status=queued"),
        ("//evil.example", "/ui/"),
        ("https://evil.example/ui/", "/ui/"),
        ("/ui/\\evil.example", "/ui/"),
        ("/ui/sign-in", "/ui/"),
        ("/ui/\u{1b}", "/ui/"),
        ("/ui/messages?q=ä", "/ui/"),
        ("/v1/me", "/ui/"),
        ("", "/ui/"),
    ] {
        let fields = [("key", stage.platform.as_str()), ("next", next)];
        let answer = Browser::at(stage.address).sign_in(&fields).await;
        assert_eq!(answer.header("location"), Some(expected), "{next}");
    }
}

/// A running `quickstart` with these settings besides, its address, its platform key, and its folder.
async fn quickstart(settings: &str) -> (Serving, SocketAddr, String, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let config = format!(
        "hostname = \"localhost\"\ndata_dir = \"{}\"\n[log]\nlevel = \"trace\"\nformat = \"json\"\n[smtp]\n\
         submission = [\"127.0.0.1:0\"]\nsubmissions = [\"127.0.0.1:0\"]\n[api]\nlisten = [\"127.0.0.1:0\"]\n\
         [store]\nfree_disk_min = \"1MiB\"\n{settings}",
        directory.path().join("data").display()
    );
    std::fs::write(directory.path().join("pillarbox.toml"), config).unwrap();
    let mut server = Serving::start(&["quickstart", "--dir", directory.path().to_str().unwrap()]);
    server.wait_for_line("Ctrl-C stops it").await;
    let word_after = |text: &str, part: &str| {
        text.split_once(part).unwrap().1.split_whitespace().next().unwrap().to_owned()
    };
    let platform = word_after(&server.said, "platform key   ");
    let address = word_after(&server.said, "http://").split('/').next().unwrap().parse().unwrap();
    (server, address, platform, directory)
}

#[tokio::test]
async fn a_server_without_pages_makes_no_links() {
    let (server, address, platform, _directory) = quickstart("[ui]\nenabled = false\n").await;
    let refused =
        crate::http::request(address, "POST", "/v1/sessions", Some(&platform), Some(&json!({}))).await;
    refused.expect_error(404, "not_found");
    server.end("TERM").await;
}

#[tokio::test]
async fn no_secret_is_in_the_log_a_url_or_a_page() {
    let (mut server, address, platform, _directory) = quickstart("").await;
    let started = server.said.len();
    let mut browser = Browser::signed_in(address, &platform).await;
    let url = {
        let made =
            crate::http::request(address, "POST", "/v1/sessions", Some(&platform), Some(&json!({}))).await;
        text(&made.expect(201), "/url")
    };
    let link_token = url.split_once('#').unwrap().1.to_owned();
    let mut secrets = vec![platform.clone(), link_token];
    secrets.push(browser.cookie.clone().unwrap().split_once('=').unwrap().1.to_owned());
    browser.open_link(&url).await;
    secrets.push(browser.cookie.clone().unwrap().split_once('=').unwrap().1.to_owned());
    for path in
        ["/ui/", "/ui/messages", "/ui/settings", "/ui/keys", "/ui/queue", "/ui/sandbox", "/ui/tenants"]
    {
        let answer = browser.get(path).await;
        let shown = format!("{}\n{}", answer.head, String::from_utf8_lossy(&answer.body));
        for secret in &secrets {
            assert!(!shown.contains(secret.as_str()), "{path}");
        }
    }
    let token = browser.token().await;
    browser.post("/ui/settings", &[("do", "sign_out")]).await;
    crate::http::request(address, "GET", "/v1/tenants", Some(&platform), None).await.expect(200);
    server.wait_for_line("\"path\":\"/v1/tenants\"").await;
    secrets.push(token);
    for secret in &secrets {
        assert!(!server.said[started..].contains(secret.as_str()), "a secret is in the log");
    }
    server.end("TERM").await;
}

#[tokio::test]
async fn behind_a_proxy_links_cookies_and_origins_follow_the_public_url() {
    let stage = ApiStage::with(|api, _| api.public_url = "https://mail.example/pillar".parse().ok()).await;
    let url = link(&stage, &stage.platform, json!({})).await;
    assert!(url.starts_with("https://mail.example/pillar/ui/sign-in#"), "{url}");
    let mut browser = Browser { origin: "https://mail.example".into(), ..Browser::at(stage.address) };
    let answer = browser.open_link(&url).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/pillar/ui/")), "{answer}");
    let page = browser.page("/ui/messages").await;
    for link in page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(link.starts_with("/pillar/ui/") || link.starts_with('#'), "{link}");
    }
    for form in page.split("action=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(form.starts_with("/pillar/ui/"), "{form}");
    }
    let token = browser.token().await;
    let fields = [("token", token.as_str()), ("do", "theme"), ("theme", "dark"), ("back", "/ui/messages")];
    let answer = browser.post_as_is("/ui/settings", &fields).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/pillar/ui/messages")), "{answer}");
    assert!(browser.page("/ui/messages").await.contains("data-theme=\"dark\""));
    let of_listener = Browser { origin: "http://localhost".into(), ..browser.clone() };
    assert_eq!(of_listener.post_as_is("/ui/settings", &fields).await.status, 403);
    let nobody = Browser::at(stage.address).get("/ui/messages").await;
    assert_eq!(nobody.header("location"), Some("/pillar/ui/sign-in?next=%2Fui%2Fmessages"));
}

#[tokio::test]
async fn the_front_page_leads_people_to_the_pages_and_programs_to_the_404() {
    let stage = ApiStage::start().await;
    let people = Browser::at(stage.address).get("/").await;
    assert_eq!((people.status, people.header("location")), (303, Some("/ui/")));
    let program = exchange(stage.address, b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n").await;
    assert_eq!(program.status, 404);
    assert_eq!(program.json()["error"]["code"], "not_found");
}
