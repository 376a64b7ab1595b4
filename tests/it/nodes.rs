//! Two servers on one database in PostgreSQL: what a person or a program begins at one goes on at the other. Skipped where
//! PostgreSQL is not installed.

use pillarbox::config::Config;
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Phase};
use crate::http::{Answer, request_with};
use crate::postgres::postgres_server::Server;
use crate::postgres::start_database;
use crate::server::{TestServer, message, one_destination_with};
use crate::wait::until;

struct Nodes {
    one: TestServer,
    other: TestServer,
    mx: FakeMx,
    _dns: FakeDns,
    _database: Server,
}

impl Nodes {
    async fn start() -> Option<Self> {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl Fn(&mut Config)) -> Option<Self> {
        let (database, url) = start_database().await?;
        let configure = |config: &mut Config| {
            config.store.url = Some(url.clone().into());
            config.store.unsafe_database = true;
            change(config);
        };
        let (dns, mx, one) = one_destination_with(configure).await;
        let key_file = one.config.data_dir.join("master.key");
        let other = TestServer::start_with(&dns, mx.address.port(), |config| {
            configure(config);
            config.master_key_file = Some(key_file);
        })
        .await;
        Some(Self { one, other, mx, _dns: dns, _database: database })
    }

    /// Sends the same request to both at the same time.
    async fn both(&self, method: &str, path: &str, body: Value, header: (&str, &str)) -> [Answer; 2] {
        let send = async |server: &TestServer| {
            let address = server.control.address;
            request_with(address, method, path, Some(&self.one.control.secret), Some(&body), &[header]).await
        };
        let (one, other) = tokio::join!(send(&self.one), send(&self.other));
        [one, other]
    }
}

#[tokio::test]
async fn of_two_conditional_changes_at_two_nodes_one_gets_412() {
    let Some(nodes) = Nodes::start().await else { return };
    let tenant = nodes.one.control.ok("POST", "/v1/tenants", json!({"name": "own"})).await;
    let path = format!("/v1/tenants/{}", tenant["id"].as_str().unwrap());
    for round in 0..5 {
        let secret = Some(&*nodes.one.control.secret);
        let read = request_with(nodes.other.control.address, "GET", &path, secret, None, &[]).await;
        let tag = read.header("etag").unwrap().to_owned();
        let change = json!({"name": format!("name {round}")});
        let answers = nodes.both("PATCH", &path, change, ("If-Match", &tag)).await;
        let mut statuses = answers.map(|answer| answer.status);
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412]);
    }
}

#[tokio::test]
async fn a_request_with_an_idempotency_key_is_carried_out_by_one_node() {
    let Some(nodes) = Nodes::start().await else { return };
    for round in 0..5 {
        let name = format!("tenant {round}");
        let key = format!("key {round}");
        let new = json!({ "name": name });
        let answers = nodes.both("POST", "/v1/tenants", new, ("Idempotency-Key", &key)).await;
        let ids: Vec<_> = answers.map(|answer| answer.expect(201)["id"].clone()).into();
        assert_eq!(ids[0], ids[1]);
    }
    let all = nodes.one.control.get("/v1/tenants?limit=100").await;
    let own = all["data"].as_array().unwrap().iter().filter(|tenant| tenant["name"] != "default");
    assert_eq!(own.filter(|tenant| tenant["name"].as_str().unwrap().starts_with("tenant ")).count(), 5);
}

#[tokio::test]
async fn a_person_who_is_signed_in_at_one_node_is_signed_in_at_all() {
    let Some(nodes) = Nodes::start().await else { return };
    let (one, other) = (nodes.one.control.address, nodes.other.control.address);
    let url = nodes.one.control.ok("POST", "/v1/sessions", json!({"path": "/ui/settings"})).await;
    let url = url["url"].as_str().unwrap().to_owned();
    let mut browser = Browser::at(other);
    assert_eq!(browser.open_link(&url).await.status, 303);
    assert_eq!(Browser::at(one).open_link(&url).await.status, 403, "a link works once");

    // The form of one node, sent to the other; the note of that change, shown by the first.
    let at_one = Browser { address: one, ..browser.clone() };
    let second = Browser::signed_in(one, &nodes.one.control.secret).await;
    let token = at_one.token().await;
    let page = at_one.page("/ui/settings").await;
    let name = page.split("name=\"session\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let fields = [("token", token.as_str()), ("do", "end"), ("session", name)];
    assert_eq!(browser.post_as_is("/ui/settings", &fields).await.status, 303);
    assert!(at_one.page("/ui/settings").await.contains("The session has ended."));
    assert!(!browser.page("/ui/settings").await.contains("The session has ended."), "a note is shown once");
    assert_eq!(second.get("/ui/settings").await.status, 303, "it is signed out");

    let mut stream = browser.follow("/ui/messages/live").await;
    assert_eq!(at_one.post("/ui/settings", &[("do", "sign_out")]).await.status, 303);
    assert_eq!(browser.get("/ui/settings").await.status, 303);
    stream.until_end().await;
}

#[tokio::test]
async fn a_message_that_waits_in_the_memory_of_one_node_is_cancelled_at_another() {
    let Some(nodes) = Nodes::start_with(|config| config.relay.connections_max = 1).await else { return };
    let account = nodes.one.create_account("sender.example").await;
    let going_on = nodes.mx.wait_at(Phase::Mail);
    let send =
        async |subject: &str| nodes.one.submit(&account, &["to@b.test"], &message(&account, subject)).await;
    let first = send("first").await;
    until("the first one is being delivered", async || (!nodes.mx.connections().is_empty()).then_some(()))
        .await;
    let second = send("second").await;
    let cancel = async |id: &str| {
        let path = format!("/v1/emails/{id}/cancel");
        let secret = Some(&*nodes.one.control.secret);
        request_with(nodes.other.control.address, "POST", &path, secret, None, &[]).await
    };
    let answer = cancel(&second).await.expect(200);
    assert_eq!(answer["cancelled"][0]["recipient"], "to@b.test", "{answer}");
    let answer = cancel(&first).await.expect(200);
    assert_eq!(answer["in_flight"][0]["recipient"], "to@b.test", "{answer}");
    assert_eq!(answer["cancelled"], json!([]));
    going_on.cancel();
    nodes.one.wait_for_status(&first, &["delivered"]).await;
    assert_eq!(nodes.one.wait_for_status(&second, &["cancelled"]).await["deliveries"][0]["attempts"], 0);
    assert_eq!(nodes.mx.transactions().len(), 1);
}
