//! The parts of a message, and refused submissions by their reference.

use pillarbox::model::{Environment, MessageKind, Scope};
use serde_json::{Value, json};

use crate::api_stage::{ApiStage, Tenant, text};
use crate::wait::until;

/// A message with alternatives, a picture in the HTML, and an attachment.
const MIXED: &str = "\
From: =?utf-8?q?Gr=C3=BC=C3=9Fe?= <a@own.example>\r\n\
Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n =?utf-8?B?IOS9oOWlvQ==?=\r\n\
MIME-Version: 1.0\r\n\
Content-Type: multipart/mixed; boundary=m\r\n\
\r\n\
preamble\r\n\
--m\r\n\
Content-Type: multipart/related; boundary=r\r\n\
\r\n\
--r\r\n\
Content-Type: multipart/alternative; boundary=a\r\n\
\r\n\
--a\r\n\
Content-Type: text/plain; charset=iso-8859-1\r\n\
Content-Transfer-Encoding: quoted-printable\r\n\
\r\n\
caf=E9 =\r\nau lait\r\n\
--a\r\n\
Content-Type: TEXT/HTML; charset=utf-8\r\n\
\r\n\
<p><img src=\"cid:p@x\"></p>\r\n\
--a--\r\n\
--r\r\n\
Content-Type: image/png\r\n\
Content-ID: <p@x>\r\n\
Content-Disposition: inline\r\n\
Content-Transfer-Encoding: base64\r\n\
\r\n\
iVBORw==\r\n\
--r--\r\n\
--m\r\n\
Content-Type: text/html; name=\"x\"\r\n\
Content-Disposition: attachment; filename*=utf-8''..%2F..%2Fetc%2Fp%C3%A4%00ss.html\r\n\
\r\n\
<script>alert(1)</script>\r\n\r\n\
--m\r\n\
Content-Type: message/rfc822\r\n\
\r\n\
Subject: inner\r\n\
\r\n\
inner text\r\n\
--m--\r\n";

async fn parts(stage: &ApiStage, own: &Tenant, submitted: &[u8]) -> (String, Value) {
    let id = stage.enqueue_content(own.id, submitted.to_vec()).await;
    let path = format!("/v1/emails/{id}/parts");
    let answer = stage.get(&own.key, &path).await.expect(200);
    (path, answer)
}

#[tokio::test]
async fn parts_list_header_texts_and_attachments_in_order() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let (path, found) = parts(&stage, &own, MIXED.as_bytes()).await;
    assert_eq!(found["object"], "email_parts");
    assert_eq!(found["octets"], MIXED.len() + "A: b\r\n".len());
    let headers: Vec<_> = found["headers"].as_array().unwrap().iter().take(3).cloned().collect();
    let expected = [
        json!({"name": "A", "value": "b"}),
        json!({"name": "From", "value": "Gr\u{fc}\u{df}e <a@own.example>"}),
        json!({"name": "Subject", "value": "Gr\u{fc}\u{df}e \u{4f60}\u{597d}"}),
    ];
    assert_eq!(headers, expected);
    assert_eq!(found["text"], "caf\u{e9} au lait");
    assert_eq!(found["html"], "<p><img src=\"cid:p@x\"></p>");
    assert_eq!(found["truncated"], false);
    let part = |number: usize, kind: &str, octets: usize| {
        json!({
            "part": number, "type": kind, "charset": null, "name": null, "content_id": null,
            "disposition": null, "octets": octets,
        })
    };
    let mut expected = [
        part(0, "text/plain", 12),
        part(1, "text/html", 26),
        part(2, "image/png", 4),
        part(3, "text/html", 27),
        part(4, "message/rfc822", 28),
    ];
    expected[0]["charset"] = json!("iso-8859-1");
    expected[1]["charset"] = json!("utf-8");
    expected[2]["content_id"] = json!("p@x");
    expected[2]["disposition"] = json!("inline");
    expected[3]["name"] = json!("p\u{e4}ss.html");
    expected[3]["disposition"] = json!("attachment");
    assert_eq!(found["parts"], json!(expected));
    let inner = stage.get(&own.key, &format!("{path}/4")).await;
    assert_eq!(inner.body, b"Subject: inner\r\n\r\ninner text");
}

#[tokio::test]
async fn a_part_is_decoded_and_never_shown_by_a_browser() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let (path, _) = parts(&stage, &own, MIXED.as_bytes()).await;
    for (number, octets) in
        [(0, &b"caf\xe9 au lait"[..]), (2, b"\x89PNG"), (3, b"<script>alert(1)</script>\r\n")]
    {
        let answer = stage.get(&own.key, &format!("{path}/{number}")).await;
        assert_eq!((answer.status, &answer.body[..]), (200, octets), "{number}");
        for (name, value) in [
            ("content-type", "application/octet-stream"),
            ("content-disposition", "attachment"),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "sandbox; default-src 'none'; frame-ancestors 'none'"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{number}");
        }
    }
    for number in ["5", "-1", "x", "99999999999999999999", "%ff", "0%20"] {
        stage.get(&own.key, &format!("{path}/{number}")).await.expect_error(404, "not_found");
    }
}

#[tokio::test]
async fn a_message_over_five_mebibytes_is_given_whole_only() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let of_octets = |octets: usize| [&b"\r\n"[..], &vec![b'x'; octets - b"A: b\r\n\r\n".len()]].concat();
    let (path, found) = parts(&stage, &own, &of_octets(5 << 20)).await;
    assert_eq!(found["octets"], 5 << 20);
    assert_eq!((text(&found, "/text").len(), &found["truncated"]), (512 << 10, &json!(true)));
    assert_eq!(stage.get(&own.key, &format!("{path}/0")).await.body.len(), (5 << 20) - 8);
    let id = stage.enqueue_content(own.id, of_octets((5 << 20) + 1)).await;
    for path in ["parts", "parts/0", "authentication"] {
        let path = format!("/v1/emails/{id}/{path}");
        let error = stage.get(&own.key, &path).await.expect_error(413, "message_too_large");
        assert_eq!(error["hint"], "get it whole with GET /v1/emails/{id}/raw");
    }
    assert_eq!(stage.get(&own.key, &format!("/v1/emails/{id}/raw")).await.body.len(), (5 << 20) + 1);
}

#[tokio::test]
async fn broken_mime_gives_parts_and_no_error() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let multipart = |rest: &str| format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{rest}");
    let nested_messages = "Content-Type: message/rfc822\r\n\r\n".repeat(100_000);
    let nested_multiparts: String = (0..5000)
        .map(|level| format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n"))
        .collect();
    for (name, submitted, kinds, shown) in [
        ("no body", "B: c\r\n".to_owned(), vec!["text/plain"], Some("")),
        ("no header", "\r\nhello".to_owned(), vec!["text/plain"], Some("hello")),
        ("no boundary", "Content-Type: multipart/mixed\r\n\r\nx".to_owned(), vec!["multipart/mixed"], None),
        ("no delimiter", multipart("nothing here"), vec!["multipart/mixed"], None),
        ("no end", multipart("--b\r\n\r\nhello"), vec!["text/plain"], Some("hello")),
        ("an empty part", multipart("--b\r\n--b--"), vec!["text/plain"], Some("")),
        (
            "wrong base64",
            "Content-Transfer-Encoding: base64\r\n\r\n\u{e9}!".to_owned(),
            vec!["text/plain"],
            Some("\u{e9}!"),
        ),
        (
            "wrong quotes",
            "Content-Transfer-Encoding: quoted-printable\r\n\r\na=zz b".to_owned(),
            vec!["text/plain"],
            Some("a=zz b"),
        ),
        (
            "unknown words",
            "Content-Type: text/plain; charset=none\r\nContent-Transfer-Encoding: zip\r\n\r\nx".to_owned(),
            vec!["text/plain"],
            Some("x"),
        ),
        (
            "bare line feeds",
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\n\nhello\n--b--\n".to_owned(),
            vec!["text/plain"],
            Some("hello"),
        ),
        ("no type", "Content-Type: ;;;\r\n\r\nx".to_owned(), vec!["text/plain"], Some("x")),
        ("messages in messages", nested_messages, vec!["message/rfc822"], None),
        ("multiparts in multiparts", nested_multiparts, vec!["multipart/mixed"], None),
        ("many parts", multipart(&"--b\r\n\r\nx\r\n".repeat(10_000)), vec!["text/plain"; 200], Some("x")),
    ] {
        let (path, found) = parts(&stage, &own, submitted.as_bytes()).await;
        let of_parts = found["parts"].as_array().unwrap();
        let of_parts: Vec<_> = of_parts.iter().map(|part| text(part, "/type")).collect();
        assert_eq!(of_parts, kinds, "{name}");
        assert_eq!(found["text"].as_str(), shown, "{name}");
        assert_eq!(found["truncated"], name == "many parts", "{name}");
        assert_eq!(stage.get(&own.key, &format!("{path}/0")).await.status, 200, "{name}");
    }
    let fields: String = (0..500).map(|number| format!("X-{number}: y\r\n")).collect();
    let (_, found) = parts(&stage, &own, format!("{fields}\r\nx").as_bytes()).await;
    assert_eq!((found["headers"].as_array().unwrap().len(), &found["truncated"]), (200, &json!(true)));
    let long = format!("X: {}\r\nY: z\r\n\r\nx", "y\r\n ".repeat(30_000));
    let (_, found) = parts(&stage, &own, long.as_bytes()).await;
    assert_eq!((found["headers"].as_array().unwrap().len(), &found["truncated"]), (1, &json!(true)));
}

#[tokio::test]
async fn the_parts_of_a_confirmation_mail_cannot_be_read() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    stage.add_sandbox_domain().await;
    stage.post(&own.key, "/v1/inboxes", json!({"address": "a@x.example"})).await.expect(201);
    let path = format!("/v1/emails?kind={}", MessageKind::Confirmation);
    let sent = stage.get(&own.key, &path).await.expect(200);
    let path = format!("/v1/emails/{}", text(&sent, "/data/0/id"));
    let raw = stage.get(&own.key, &format!("{path}/raw")).await.expect_error(404, "not_found");
    for parts in ["parts", "parts/0"] {
        let refused = stage.get(&own.key, &format!("{path}/{parts}")).await.expect_error(404, "not_found");
        assert_eq!(refused["message"], raw["message"]);
    }
}

#[tokio::test]
async fn a_rejection_is_found_by_its_reference() {
    let stage = ApiStage::start().await;
    let (own, other) = (stage.tenant("own").await, stage.tenant("other").await);
    let email = json!({"from": "a@foreign.example", "to": ["b@x.example"], "subject": "s", "text": "t"});
    let refused = stage.post(&own.key, "/v1/emails", email.clone()).await;
    let reference = text(&refused.expect_error(403, "domain_not_allowed_for_key"), "/request_id");
    let path = format!("/v1/rejections/{reference}");
    let found = until("it is recorded", async || {
        let answer = stage.get(&own.key, &path).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!(found["id"], reference);
    assert_eq!(found["code"], "domain_not_allowed_for_key");
    let listed = stage.get(&own.key, "/v1/rejections").await.expect(200);
    assert_eq!(listed["data"][0], found);
    assert_eq!(stage.get(&stage.platform, &path).await.expect(200), found);
    stage.get(&other.key, &path).await.expect_error(404, "not_found");
    let tester = stage.key(own.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    stage.get(&tester, &path).await.expect_error(404, "not_found");
    stage.get(&own.key, "/v1/rejections/req_nonsense").await.expect_error(404, "not_found");
}
