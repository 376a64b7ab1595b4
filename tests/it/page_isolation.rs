//! Every page with every kind of session: who sees it, and what another tenant can learn from it.

use std::collections::BTreeSet;

use pillarbox::model::{Environment, Scope};
use pillarbox::ui::{Audience, Page};

use crate::api_objects::Belongings;
use crate::api_stage::ApiStage;
use crate::browser::{Browser, attributes, pages, target_of};
use crate::http::Answer;

/// A page without what is different for each request: the id that was asked for, the request and its address.
fn comparable(answer: &Answer, id: &str) -> (u16, String) {
    let mut text = String::from_utf8_lossy(&answer.body).replace(id, "ID");
    while let Some(at) = text.find("req_") {
        let end = text[at..].find('<').map_or(text.len(), |end| at + end);
        text.replace_range(at..end, "REQUEST");
    }
    (answer.status, text)
}

/// The id in the path of a page.
fn id_in<'a>(page: &Page, target: &'a str) -> &'a str {
    let at = page.path.split('/').position(|part| part == "{id}").unwrap();
    target.split('/').nth(at).unwrap()
}

#[tokio::test]
async fn without_a_session_every_page_asks_who_it_is() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let before = own.look(&stage).await;
    let signed_out = Browser { cookie: Some("pillarbox=0".into()), ..Browser::at(stage.address) };
    for page in pages() {
        let target = target_of(page, &own);
        for browser in [&Browser::at(stage.address), &signed_out] {
            let answer = browser.get(&target).await;
            assert_eq!(answer.status, 303, "{target}: {answer}");
            assert!(answer.header("location").unwrap().starts_with("/ui/sign-in?next="), "{answer}");
            assert!(answer.body.is_empty(), "{answer}");
            let answer = browser.post_as_is(&target, &[("do", "delete"), ("do", "cancel")]).await;
            assert_eq!(answer.status, 403, "{target}: {answer}");
        }
    }
    assert_eq!(own.look(&stage).await, before);
}

#[tokio::test]
async fn objects_of_another_tenant_look_like_objects_that_do_not_exist() {
    let stage = ApiStage::start().await;
    let (own, other) = (Belongings::make(&stage, "own").await, Belongings::make(&stage, "other").await);
    let gone = {
        let gone = Belongings::make(&stage, "gone").await;
        let target = format!("/v1/tenants/{}", gone.tenant.id);
        stage.delete(&stage.platform, &target).await;
        gone
    };
    let browser = Browser::signed_in(stage.address, &own.tenant.key).await;
    for page in pages().filter(|page| page.path.contains("{id}")) {
        let (theirs, nobodys) = (target_of(page, &other), target_of(page, &gone));
        let answer = browser.get(&theirs).await;
        assert_eq!(answer.status, 404, "{theirs}: {answer}");
        let of_nobody = browser.get(&nobodys).await;
        assert_eq!(
            comparable(&answer, id_in(page, &theirs)),
            comparable(&of_nobody, id_in(page, &nobodys)),
            "{theirs}"
        );
    }
}

#[tokio::test]
async fn a_tenant_sees_no_page_of_the_platform() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let browser = Browser::signed_in(stage.address, &own.tenant.key).await;
    let overview = browser.page("/ui/").await;
    for page in pages().filter(|page| page.audience == Audience::Platform) {
        assert_eq!(browser.get(page.path).await.status, 404, "{}", page.path);
        assert_eq!(browser.post(page.path, &[("do", "x")]).await.status, 404, "{}", page.path);
        assert!(!attributes(&overview, "href").contains(&page.path), "{}", page.path);
    }
}

#[tokio::test]
async fn no_list_of_a_tenant_names_an_object_of_another() {
    let stage = ApiStage::start().await;
    let (own, other) = (Belongings::make(&stage, "own").await, Belongings::make(&stage, "other").await);
    let browser = Browser::signed_in(stage.address, &own.tenant.key).await;
    let id = other.tenant.id.to_string();
    for page in pages().filter(|page| !page.path.contains("{id}")) {
        for target in [page.path.to_owned(), format!("{}?tenant_id={id}", page.path)] {
            let answer = browser.get(&target).await;
            let shown = String::from_utf8_lossy(&answer.body).replace(&id, "");
            let named = other.listed().into_iter().find(|id| shown.contains(id.as_str()));
            assert_eq!(named, None, "{target}");
            assert!(!shown.contains("other.example"), "{target}");
        }
    }
}

#[tokio::test]
async fn no_form_changes_an_object_of_another_tenant() {
    let stage = ApiStage::start().await;
    let (own, other) = (Belongings::make(&stage, "own").await, Belongings::make(&stage, "other").await);
    let owner = Browser::signed_in(stage.address, &other.tenant.key).await;
    let platform = Browser::signed_in(stage.address, &stage.platform).await;
    let browser = Browser::signed_in(stage.address, &own.tenant.key).await;
    let token = browser.token().await;
    let before = other.look(&stage).await;
    let mut sent = 0;
    for page in pages() {
        let target = target_of(page, &other);
        let mut actions: BTreeSet<String> = ["delete", "cancel", "revoke"].map(str::to_owned).into();
        for shown in [owner.get(&target).await, platform.get(&target).await] {
            let text = String::from_utf8_lossy(&shown.body).into_owned();
            let named = text.split("name=\"do\" value=\"").skip(1).filter_map(|rest| rest.split('"').next());
            actions.extend(
                named
                    .filter(|action| !action.starts_with("sign_out") && *action != "theme")
                    .map(str::to_owned),
            );
        }
        let tenant = other.tenant.id.to_string();
        for action in actions.iter().filter(|_| page.path.contains("{id}")) {
            let fields = [
                ("token", token.as_str()),
                ("do", action),
                ("tenant_id", &tenant),
                ("name", "taken.example"),
                ("confirm", "other"),
                ("slug", "other"),
            ];
            let answer = browser.post_as_is(&target, &fields).await;
            assert!([400, 403, 404, 405, 422].contains(&answer.status), "{target} {action}: {answer}");
            sent += 1;
        }
    }
    assert!(sent > 25, "{sent}");
    // The selected rows of a list.
    for (list, action, id) in [
        ("/ui/messages", "retry", &other.email),
        ("/ui/messages", "cancel", &other.email),
        ("/ui/suppressions", "lift", &other.suppression),
    ] {
        let fields = [("token", token.as_str()), ("do", action), ("ticked", id)];
        let answer = browser.post_as_is(list, &fields).await;
        assert_eq!(answer.status, 404, "{list} {action}: {answer}");
    }
    assert_eq!(other.look(&stage).await, before);
}

#[tokio::test]
async fn a_session_of_a_test_key_shows_nothing_live() {
    let stage = ApiStage::start().await;
    let own = Belongings::make(&stage, "own").await;
    let test = stage.key(own.tenant.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    let browser = Browser::signed_in(stage.address, &test).await;
    let message = format!("/ui/messages/{}", own.email);
    assert_eq!(browser.get(&message).await.status, 404);
    for page in ["/ui/", "/ui/messages", "/ui/messages?environment=live", "/ui/sandbox", "/ui/events"] {
        let answer = browser.get(page).await;
        let shown = String::from_utf8_lossy(&answer.body);
        assert!(!shown.contains(&own.email) && !shown.contains("to@remote.example"), "{page}");
    }
}
