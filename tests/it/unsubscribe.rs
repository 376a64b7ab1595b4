//! Messages that name a list: their header fields, their refusals, and the mail that unsubscribes.

use mail_parser::MessageParser;
use pillarbox::config::Config;
use pillarbox::mail::{Address, Timestamp, Token, TokenKind};
use pillarbox::model::{Environment, ListName, SuppressedMail, SuppressionReason, TenantId, UnsubscribeLink};
use pillarbox::store::{Directory, NewSuppression, Reports};
use serde_json::{Value, json};

use crate::dkim::{publish, verify};
use crate::http::{Answer, request};
use crate::inbound_stage::{DOMAIN, InboundStage, PLATFORM_HOST, arf};
use crate::server::{Account, message, message_id, text};
use crate::wait;

pub const PUBLIC_URL: &str = "https://mail.relay.test";

/// A server that receives mail and serves the public pages.
pub async fn start() -> InboundStage {
    InboundStage::start_with(open_pages).await
}

pub fn open_pages(config: &mut Config) {
    config.public.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.public.url = Some(PUBLIC_URL.parse().unwrap());
}

/// A message of a list over SMTP.
pub fn list_message(account: &Account, list: &str, subject: &str) -> Vec<u8> {
    [format!("X-Pillarbox-List: {list}\r\n").as_bytes(), &message(account, subject)].concat()
}

/// The header of a message, without folds.
fn header_of(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content).into_owned();
    let (header, _) = text.split_once("\r\n\r\n").unwrap();
    header.replace("\r\n\t", " ").replace("\r\n ", " ")
}

fn value_of(header: &str, name: &str) -> String {
    let prefix = format!("{name}: ");
    let values: Vec<&str> = header.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
    assert_eq!(values.len(), 1, "{name} in {header}");
    values[0].to_owned()
}

/// The link and the address of a List-Unsubscribe field.
fn ways_of(content: &[u8]) -> (String, String) {
    let value = value_of(&header_of(content), "List-Unsubscribe");
    let (link, mail) = value.split_once(", ").unwrap();
    let bare = |text: &str| text.trim_matches(['<', '>']).to_owned();
    let mail = bare(mail);
    let mail = mail.strip_prefix("mailto:").and_then(|mail| mail.strip_suffix("?subject=unsubscribe"));
    (bare(link), mail.unwrap().to_owned())
}

/// The message that was relayed last, when there are so many.
async fn relayed(stage: &InboundStage, count: usize) -> Vec<u8> {
    stage.mx.wait_for(count).await.pop().unwrap().content
}

pub fn open(stage: &InboundStage, url: &str) -> UnsubscribeLink {
    let sealed = url.strip_prefix(PUBLIC_URL).and_then(|path| path.strip_prefix("/u/")).unwrap();
    stage.server.running().store().link_keys().open(sealed).unwrap()
}

pub async fn send_over_http(stage: &InboundStage, changes: Value) -> Answer {
    let from = format!("alice@{DOMAIN}");
    let mut email = json!({"from": from, "to": ["bob@b.test"], "subject": "s", "text": "t"});
    for (name, value) in changes.as_object().unwrap() {
        email[name] = value.clone();
    }
    let api = stage.server.control.address;
    request(api, "POST", "/v1/emails", Some(&stage.account.secret), Some(&email)).await
}

pub async fn leave(stage: &InboundStage, list: &str, mail: SuppressedMail, reason: SuppressionReason) {
    let tenant: TenantId = stage.account.tenant_id.parse().unwrap();
    let bob = Address::parse("bob@b.test").unwrap();
    let new = NewSuppression {
        mail,
        ..NewSuppression::of_all_mail(Some(tenant), Environment::Live, bob.clone(), reason)
    };
    let store = stage.server.running().store();
    store.suppress(new, Timestamp::now()).await.unwrap();
    let (list, folded): (ListName, _) = (list.parse().unwrap(), bob.folded());
    let found = store.list_suppression_of(tenant, Environment::Live, &folded, &list, Timestamp::now());
    assert!(found.await.unwrap().is_some());
}

#[tokio::test]
async fn a_message_with_a_list_gets_a_link_and_an_address_that_its_signature_covers_against_a_second_one() {
    let stage = start().await;
    let domain = stage.server.control.get(&format!("/v1/domains/{}", stage.account.domain_id)).await;
    publish(&stage.dns, &domain, &["return_path"]);
    let submitted = b"X-Pillarbox-List: news\r\nFrom: alice@own.test\r\nTo: Bob@b.test\r\n\r\nhello\r\n";
    let id = stage.server.submit(&stage.account, &["Bob@b.test"], submitted).await;
    let content = relayed(&stage, 1).await;
    let header = header_of(&content);
    assert!(!header.contains("X-Pillarbox-List"), "{header}");
    assert_eq!(value_of(&header, "List-Unsubscribe-Post"), "List-Unsubscribe=One-Click");
    assert_eq!(value_of(&header, "List-Id"), "<news.own.test>");
    let (link, mailbox) = ways_of(&content);
    let opened = open(&stage, &link);
    assert_eq!(opened.tenant_id.to_string(), stage.account.tenant_id);
    assert_eq!((opened.message_id.to_string(), opened.environment), (id.clone(), Environment::Live));
    assert_eq!((opened.list.as_str(), opened.address.to_string().as_str()), ("news", "Bob@b.test"));
    let (local, host) = mailbox.split_once('@').unwrap();
    let token = Token::parse(local).unwrap();
    assert_eq!((token.kind, host), (TokenKind::Unsubscribe, PLATFORM_HOST));
    stage.server.running().store().token_keys().verify(&token, Timestamp::now()).unwrap();
    let email = stage.server.control.get(&format!("/v1/emails/{id}")).await;
    assert_eq!(email["list"], "news");

    let signed: Vec<String> = header
        .split("h=")
        .nth(1)
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .split(':')
        .map(|name| name.trim().to_lowercase())
        .collect();
    for name in ["list-unsubscribe", "list-unsubscribe-post"] {
        assert_eq!(signed.iter().filter(|signed| *signed == name).count(), 2, "{signed:?}");
    }
    let holds = async |content: &[u8]| {
        let results = verify(&stage.dns, content).await;
        assert!(!results.is_empty());
        results.iter().all(|(.., holds)| *holds)
    };
    assert!(holds(&content).await);
    for second in ["List-Unsubscribe: <https://evil.test/>\r\n", "List-Unsubscribe-Post: x\r\n"] {
        assert!(!holds(&[second.as_bytes(), &content].concat()).await, "{second}");
    }
}

#[tokio::test]
async fn a_message_without_a_list_gets_none_of_the_fields_and_an_own_list_id_stays() {
    let stage = start().await;
    stage.server.submit(&stage.account, &["bob@b.test"], &message(&stage.account, "plain")).await;
    let header = header_of(&relayed(&stage, 1).await);
    assert!(!header.contains("List-"), "{header}");
    let own =
        [b"List-Id: Own <own.list>\r\n".as_slice(), &list_message(&stage.account, "news", "own")].concat();
    stage.server.submit(&stage.account, &["bob@b.test"], &own).await;
    assert_eq!(value_of(&header_of(&relayed(&stage, 2).await), "List-Id"), "Own <own.list>");
}

#[tokio::test]
async fn the_field_that_names_the_list_occurs_once_with_one_name() {
    let stage = start().await;
    let twice =
        [b"X-Pillarbox-List: news\r\n".as_slice(), &list_message(&stage.account, "news", "twice")].concat();
    let wrong =
        [twice, list_message(&stage.account, "News", "case"), list_message(&stage.account, "", "empty")];
    let mut client = stage.server.log_in(&stage.account).await;
    for message in wrong {
        let from = format!("alice@{DOMAIN}");
        client.send(&from, &["bob@b.test"], &message).await.expect_saying(554, "[header_malformed]");
    }
    let error = send_over_http(&stage, json!({"unsubscribe": {"list": "News"}})).await;
    let error = error.expect_error(422, "validation_failed");
    assert!(error.to_string().contains("unsubscribe.list"), "{error}");
    let error = send_over_http(&stage, json!({"headers": {"x-pillarbox-list": "news"}})).await;
    error.expect_error(422, "validation_failed");
}

#[tokio::test]
async fn a_message_that_cannot_be_left_is_refused_with_the_same_code_over_smtp_and_http() {
    let stage = start().await;
    let from = format!("alice@{DOMAIN}");
    let mut client = stage.server.log_in(&stage.account).await;
    let of_list = list_message(&stage.account, "news", "several");
    let reply = client.send(&from, &["bob@b.test", "eve@b.test"], &of_list).await;
    reply.expect_saying(554, "[unsubscribe_needs_one_recipient]");
    let news = json!({"list": "news"});
    for changes in [json!({"to": ["bob@b.test", "eve@b.test"]}), json!({"bcc": "eve@b.test"})] {
        let mut changes = changes;
        changes["unsubscribe"] = news.clone();
        send_over_http(&stage, changes).await.expect_error(422, "unsubscribe_needs_one_recipient");
    }
    for name in ["List-Unsubscribe", "List-Unsubscribe-Post"] {
        let own = [format!("{name}: <https://own.test/>\r\n").as_bytes(), &of_list].concat();
        client.send(&from, &["bob@b.test"], &own).await.expect_saying(554, "[unsubscribe_conflict]");
        let changes = json!({"unsubscribe": news, "headers": {name: "<https://own.test/>"}});
        send_over_http(&stage, changes).await.expect_error(422, "unsubscribe_conflict");
    }

    let closed = InboundStage::start().await;
    let mut client = closed.server.log_in(&closed.account).await;
    let reply = client.send(&from, &["bob@b.test"], &list_message(&closed.account, "news", "closed")).await;
    reply.expect_saying(554, "[unsubscribe_unavailable]");
    send_over_http(&closed, json!({"unsubscribe": news})).await.expect_error(422, "unsubscribe_unavailable");

    // Refusals of both protocols are recorded.
    for (stage, code, expected) in [
        (&stage, "unsubscribe_needs_one_recipient", 3),
        (&stage, "unsubscribe_conflict", 4),
        (&closed, "unsubscribe_unavailable", 2),
    ] {
        let path = format!("/v1/rejections?tenant_id={}", stage.account.tenant_id);
        wait::until(code, async || {
            let page = stage.server.control.get(&path).await;
            let rejections = page["data"].as_array().unwrap().iter();
            (rejections.filter(|rejection| rejection["code"] == code).count() == expected).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn who_left_a_list_gets_no_mail_of_it_but_other_mail() {
    let stage = start().await;
    let news = SuppressedMail::List("news".parse().unwrap());
    leave(&stage, "news", news, SuppressionReason::Unsubscribe).await;
    let from = format!("alice@{DOMAIN}");
    let mut client = stage.server.log_in(&stage.account).await;
    let reply = client.send(&from, &["Bob@b.test"], &list_message(&stage.account, "news", "a")).await;
    reply.expect_saying(550, "[recipient_unsubscribed]");
    client.send(&from, &["bob@b.test"], &list_message(&stage.account, "offers", "b")).await.expect_code(250);
    client.send(&from, &["bob@b.test"], &message(&stage.account, "reset")).await.expect_code(250);
    let of_list = |list: &str| json!({"unsubscribe": {"list": list}});
    send_over_http(&stage, of_list("news")).await.expect_error(422, "recipient_unsubscribed");
    send_over_http(&stage, of_list("offers")).await.expect(202);
    send_over_http(&stage, json!({})).await.expect(202);
}

#[tokio::test]
async fn who_complained_about_a_list_gets_no_mail_of_any_list_but_other_mail() {
    let stage = start().await;
    leave(&stage, "offers", SuppressedMail::EveryList, SuppressionReason::Complaint).await;
    let from = format!("alice@{DOMAIN}");
    let mut client = stage.server.log_in(&stage.account).await;
    let reply = client.send(&from, &["bob@b.test"], &list_message(&stage.account, "offers", "a")).await;
    reply.expect_saying(550, "[recipient_unsubscribed]");
    client.send(&from, &["bob@b.test"], &message(&stage.account, "reset")).await.expect_code(250);
}

#[tokio::test]
async fn a_template_shows_the_link_of_its_message_and_may_use_the_name_itself_without_a_list() {
    let stage = start().await;
    let tenant = &stage.account.tenant_id;
    let template =
        json!({"name": "t", "tenant_id": tenant, "subject": "s", "text": "Leave: {{ unsubscribe_url }}"});
    let template = stage.server.control.ok("POST", "/v1/templates", template).await;
    let filled = |changes: Value| {
        let mut email =
            json!({"from": format!("alice@{DOMAIN}"), "to": "bob@b.test", "template_id": template["id"]});
        for (name, value) in changes.as_object().unwrap() {
            email[name] = value.clone();
        }
        email
    };
    let send = async |email: Value| {
        request(stage.server.control.address, "POST", "/v1/emails", Some(&stage.account.secret), Some(&email))
            .await
    };
    let of_list = json!({"unsubscribe": {"list": "news"}});
    let id = text(&send(filled(of_list.clone())).await.expect(202)["id"]);
    let content = relayed(&stage, 1).await;
    let parsed = MessageParser::default().parse(&content).unwrap();
    let shown = parsed.body_text(0).unwrap();
    let link = open(&stage, shown.trim().strip_prefix("Leave: ").unwrap());
    assert_eq!((link.message_id.to_string(), link.list.as_str()), (id, "news"));
    assert_eq!(open(&stage, &ways_of(&content).0), link);

    let own = json!({"template_data": {"unsubscribe_url": "https://own.test/"}});
    send(filled(own.clone())).await.expect(202);
    let mut both = own;
    both["unsubscribe"] = of_list["unsubscribe"].clone();
    let error = send(filled(both)).await.expect_error(422, "validation_failed");
    assert!(error.to_string().contains("template_data.unsubscribe_url"), "{error}");
    send(filled(json!({}))).await.expect_error(422, "template_failed");
}

#[tokio::test]
async fn a_mail_to_the_address_unsubscribes_whoever_sends_it_but_a_bounce_and_an_automatic_reply_do_not() {
    let stage = start().await;
    let id = stage
        .server
        .submit(&stage.account, &["bob@b.test"], &list_message(&stage.account, "news", "a"))
        .await;
    stage.server.wait_for_status(&id, &["delivered"]).await;
    let (_, mailbox) = ways_of(&relayed(&stage, 1).await);
    let unsubscribed = async || {
        let events = stage.events_of(&id).await;
        events.into_iter().filter(|event| event["type"] == "message.unsubscribed").collect::<Vec<_>>()
    };
    let wish =
        |more: &str| format!("From: else@c.test\r\nSubject: unsubscribe\r\n{more}\r\n\r\n").into_bytes();
    stage.send_back("", &mailbox, &wish("X-A: b")).await.expect_code(250);
    let automatic = "Auto-Submitted: auto-generated";
    let opt_out = [format!("{automatic}\r\n").as_bytes(), &arf("opt-out", "Subject: a")].concat();
    for automatic in [wish(automatic), opt_out] {
        stage.send_back("bob@b.test", &mailbox, &automatic).await.expect_code(250);
    }
    assert_eq!(unsubscribed().await, [Value::Null; 0]);
    for more in ["X-A: b", "X-A: b\r\n\r\nPlease."] {
        stage.send_back("else@c.test", &mailbox, &wish(more)).await.expect_code(250);
    }
    let events = unsubscribed().await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&events[0]["data"]["list"], &events[0]["data"]["via"]), (&json!("news"), &json!("mail")));
    let mut client = stage.server.log_in(&stage.account).await;
    let again = list_message(&stage.account, "news", "again");
    let reply = client.send(&format!("alice@{DOMAIN}"), &["bob@b.test"], &again).await;
    reply.expect_saying(550, "[recipient_unsubscribed]");
    let offers = list_message(&stage.account, "offers", "more");
    let reply = client.send(&format!("alice@{DOMAIN}"), &["bob@b.test"], &offers).await;
    message_id(&reply.expect_code(250));
}
