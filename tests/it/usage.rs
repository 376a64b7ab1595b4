//! The usage of tenants over the API: it equals the journal, is separate for each tenant, and requests are limited.

use std::collections::BTreeMap;

use pillarbox::model::{Environment, Scope};
use serde_json::{Value, json};

use crate::api_stage::ApiStage;
use crate::calendar::advance_to_next_month;
use crate::fake_mx::{Fault, Phase};
use crate::http::{Answer, request, request_with};
use crate::server::{Account, RETRY_DELAY_MAX, TestServer, message, one_destination};
use crate::wait::until;

type Counts = BTreeMap<&'static str, u64>;

fn add(counts: &mut Counts, name: &'static str, count: u64) {
    *counts.entry(name).or_default() += count;
}

/// The usage according to the journal, message by message.
async fn recount(server: &TestServer, account: &Account) -> Counts {
    let mut counts = Counts::new();
    let tenant = &account.tenant_id;
    let emails = server.control.get(&format!("/v1/emails?limit=100&tenant_id={tenant}")).await;
    for email in emails["data"].as_array().unwrap() {
        let id = email["id"].as_str().unwrap();
        let email = server.control.get(&format!("/v1/emails/{id}")).await;
        let recipients = email["deliveries"].as_array().unwrap().len() as u64;
        if email["environment"] == "test" {
            add(&mut counts, "email_test", recipients);
            continue;
        }
        add(&mut counts, "emails_sent", recipients);
        let timeline = server.control.get(&format!("/v1/emails/{id}/timeline")).await;
        for entry in timeline["data"].as_array().unwrap() {
            match entry["type"].as_str().unwrap_or_default() {
                "message.delivered" => add(&mut counts, "emails_delivered", 1),
                "message.bounced" if entry["data"]["late"] == true => {
                    add(&mut counts, "emails_bounced_late", 1);
                }
                "message.bounced" | "message.expired" => add(&mut counts, "emails_bounced", 1),
                "message.unsubscribed" => add(&mut counts, "emails_unsubscribed", 1),
                "message.suppressed" => add(&mut counts, "emails_suppressed", 1),
                "message.complained" => add(&mut counts, "emails_complained", 1),
                _ => {}
            }
        }
    }
    let rejections = server.control.get(&format!("/v1/rejections?limit=100&tenant_id={tenant}")).await;
    for rejection in rejections["data"].as_array().unwrap() {
        match rejection["code"].as_str().unwrap() {
            _ if rejection["environment"] == "test" => {}
            "recipient_suppressed" => add(&mut counts, "emails_suppressed", 1),
            _ => add(&mut counts, "emails_rejected", 1),
        }
    }
    counts
}

/// The counted usage, without zeros.
fn counted(usage: &Value) -> Counts {
    let names = [
        "emails_sent",
        "emails_delivered",
        "emails_bounced",
        "emails_bounced_late",
        "emails_complained",
        "emails_unsubscribed",
        "emails_suppressed",
        "emails_rejected",
        "email_test",
    ];
    let counts = names.into_iter().map(|name| (name, usage[name].as_u64().unwrap()));
    counts.filter(|(_, count)| *count > 0).collect()
}

#[tokio::test]
async fn the_usage_of_mixed_traffic_is_what_the_journal_tells() {
    let (_dns, mx, server) = one_destination().await;
    advance_to_next_month(&server.clock);
    mx.script(Phase::Rcpt, "gone@", usize::MAX, Fault::Reply("550 5.1.1 nobody of that name"));
    mx.script(Phase::Rcpt, "later@", 1, Fault::Reply("451 4.3.0 later"));
    let account = server.create_account("acme.test").await;
    let other = server.create_account("other.test").await;
    let tester = {
        let wanted = json!({"name": "test", "tenant_id": account.tenant_id, "environment": "test", "scopes": ["smtp:send"]});
        let key = server.control.ok("POST", "/v1/keys", wanted).await;
        let text = |name: &str| key[name].as_str().unwrap().to_owned();
        Account { user: text("id"), secret: text("secret"), ..account.clone() }
    };
    let suppressed = json!({"address": "never@b.test", "tenant_id": account.tenant_id});
    server.control.ok("POST", "/v1/suppressions", suppressed).await;

    let mut ids = Vec::new();
    for (number, recipients) in
        [&["bob@b.test", "gone@b.test"][..], &["later@b.test"], &["bob@b.test", "eve@b.test"]]
            .iter()
            .enumerate()
    {
        let content = message(&account, &format!("mixed{number}"));
        ids.push(server.submit(&account, recipients, &content).await);
    }
    ids.push(
        server.submit(&tester, &["complaint@x.test", "bounce@x.test"], &message(&account, "test")).await,
    );
    server.submit(&other, &["bob@b.test"], &message(&other, "other")).await;
    let mut client = server.log_in(&account).await;
    client.command("MAIL FROM:<alice@foreign.test>").await.expect_code(550);
    client.command("MAIL FROM:<alice@acme.test>").await.expect_code(250);
    client.command("RCPT TO:<never@b.test>").await.expect_saying(550, "[recipient_suppressed]");
    client.command("RSET").await.expect_code(250);
    client.send("alice@acme.test", &["bob@b.test"], b"Subject: no From\r\n\r\nx\r\n").await.expect_code(550);
    server.log_in(&tester).await.command("MAIL FROM:<alice@foreign.test>").await.expect_code(550);
    let email = json!({
        "from": "alice@acme.test", "to": ["bob@b.test", "never@b.test"], "subject": "over HTTP", "text": "x",
    });
    let sent =
        request(server.control.address, "POST", "/v1/emails", Some(&account.secret), Some(&email)).await;
    ids.push(sent.expect(202)["id"].as_str().unwrap().to_owned());
    server.wait_for_status(&ids[1], &["deferred"]).await;
    server.clock.advance(RETRY_DELAY_MAX);
    for id in &ids {
        server.wait_for_status(id, &["delivered", "bounced"]).await;
    }

    let path = format!("/v1/tenants/{}/usage", account.tenant_id);
    let usage = until("all was counted", async || {
        let rejections = recount(&server, &account).await;
        let usage = server.control.get(&path).await;
        (rejections.get("emails_rejected") == Some(&2)).then_some(usage)
    })
    .await;
    let expected = Counts::from([
        ("emails_sent", 6),
        ("emails_delivered", 5),
        ("emails_bounced", 1),
        ("emails_suppressed", 2),
        ("emails_rejected", 2),
        ("email_test", 2),
    ]);
    assert_eq!(recount(&server, &account).await, expected);
    assert_eq!(counted(&usage), expected);
    let of_test = until("the complaint came back", async || {
        let of_test = server.control.get(&format!("{path}?environment=test")).await;
        (of_test["emails_complained"] == 1).then_some(of_test)
    })
    .await;
    let expected = [
        ("emails_sent", 2),
        ("emails_delivered", 1),
        ("emails_bounced", 1),
        ("emails_complained", 1),
        ("emails_rejected", 1),
        ("email_test", 2),
    ];
    assert_eq!(counted(&of_test), Counts::from(expected));
    let of_other = server.control.get(&format!("/v1/tenants/{}/usage", other.tenant_id)).await;
    assert_eq!(of_other["emails_sent"], 1, "{of_other}");
    for interval in ["hour", "day"] {
        let series = server.control.get(&format!("{path}/timeseries?interval={interval}")).await;
        let parts = series["data"].as_array().unwrap();
        let sent: u64 = parts.iter().map(|part| part["emails_sent"].as_u64().unwrap()).sum();
        assert_eq!(sent, 6, "{series}");
    }
}

#[tokio::test]
async fn requests_are_counted_for_the_tenant_that_makes_them() {
    let stage = ApiStage::start().await;
    advance_to_next_month(&stage.clock);
    let (own, other) = (stage.tenant("own").await, stage.tenant("other").await);
    let test_key = stage.key(own.id, Scope::ALL, |key| key.environment = Environment::Test).await;
    for key in [&own.key, &own.key, &test_key] {
        stage.get(key, "/v1/emails").await.expect(200);
    }
    stage.get(&own.key, "/v1/emails/nonsense").await.expect(404);
    let usage = format!("/v1/tenants/{}/usage", own.id);
    let answer = until("the requests are written", async || {
        let answer = stage.get(&stage.platform, &usage).await.expect(200);
        (answer["api_requests"] == 4).then_some(answer)
    })
    .await;
    let month = stage.clock.now().strftime("%Y-%m").to_string();
    let expected = json!({
        "object": "usage", "tenant_id": own.id, "period": month, "environment": "live",
        "emails_sent": 0, "emails_delivered": 0, "emails_bounced": 0, "emails_bounced_late": 0,
        "emails_complained": 0, "emails_unsubscribed": 0, "emails_suppressed": 0, "emails_rejected": 0, "email_test": 0, "api_requests": 4,
    });
    assert_eq!(answer, expected);
    let of_other = stage.get(&stage.platform, &format!("/v1/tenants/{}/usage", other.id)).await.expect(200);
    assert_eq!(of_other["api_requests"], 0);
}

#[tokio::test]
async fn a_series_has_every_interval_of_its_range_and_invalid_parameters_are_reported() {
    let stage = ApiStage::start().await;
    let own = stage.tenant("own").await;
    let path = |query: &str| format!("/v1/tenants/{}/usage/timeseries?{query}", own.id);
    let series = stage.get(&own.key, &path("from=2026-01-30&to=2026-02-02")).await.expect(200);
    let dates: Vec<_> = series["data"].as_array().unwrap().iter().map(|part| part["date"].clone()).collect();
    assert_eq!(
        dates,
        ["2026-01-30T00:00:00.000000Z", "2026-01-31T00:00:00.000000Z", "2026-02-01T00:00:00.000000Z"]
    );
    assert_eq!(series["data"][0]["emails_sent"], 0);
    assert_eq!(series["interval"], "day");
    let series = stage.get(&own.key, &path("interval=hour")).await.expect(200);
    assert_eq!(series["data"].as_array().unwrap().len(), 25, "the last day and the hour that runs");
    for (query, field) in [
        ("interval=week", "interval"),
        ("from=yesterday", "from"),
        ("from=2026-02-02&to=2026-02-01", "to"),
        ("from=2020-01-01&to=2026-01-01", "from"),
        ("interval=hour&from=2020-01-01&to=2020-01-02", "from"),
        ("environment=both", "environment"),
        ("period=2026-01", "period"),
    ] {
        let error = stage.get(&own.key, &path(query)).await.expect_error(422, "validation_failed");
        assert_eq!(error["errors"][0]["path"], field, "{query}: {error}");
    }
    let month = |period: &str| format!("/v1/tenants/{}/usage?period={period}", own.id);
    assert_eq!(stage.get(&own.key, &month("2026-02")).await.expect(200)["period"], "2026-02");
    stage.get(&own.key, &month("2026-2")).await.expect_error(422, "validation_failed");
}

/// Sends requests until one is refused.
async fn exhaust(stage: &ApiStage, key: &str) -> Vec<Answer> {
    let mut answers = Vec::new();
    while answers.last().is_none_or(|last: &Answer| last.status == 200) {
        answers.push(stage.get(key, "/v1/emails").await);
    }
    answers
}

#[tokio::test]
async fn the_requests_of_a_key_and_of_its_tenant_are_limited_per_minute() {
    let stage = ApiStage::with(|api, _| {
        api.requests_per_minute = 5;
        api.key_requests_per_minute = 3;
    })
    .await;
    advance_to_next_month(&stage.clock);
    let (own, other) = (stage.tenant("own").await, stage.tenant("other").await);
    let second = stage.key(own.id, Scope::ALL, |_| {}).await;
    let answers = [exhaust(&stage, &own.key).await, exhaust(&stage, &second).await];
    assert_eq!(answers.each_ref().map(Vec::len), [4, 3]);
    for (of_key, limits, remaining) in [
        (&answers[0], ["3", "3", "3", "3"], ["2", "1", "0", "0"]),
        (&answers[1], ["5", "5", "5", ""], ["1", "0", "0", ""]),
    ] {
        for ((answer, limit), remaining) in of_key.iter().zip(limits).zip(remaining) {
            assert_eq!(answer.header("ratelimit-limit"), Some(limit), "{answer}");
            assert_eq!(answer.header("ratelimit-remaining"), Some(remaining), "{answer}");
            let reset: u64 = answer.header("ratelimit-reset").unwrap().parse().unwrap();
            assert!((1..=60).contains(&reset), "{answer}");
        }
    }
    for refused in answers {
        let refused = refused.into_iter().next_back().unwrap();
        assert_eq!(refused.header("retry-after"), refused.header("ratelimit-reset"));
        let error = refused.expect_error(429, "rate_limited");
        assert_eq!(error["type"], "rate_limited");
    }
    // The limit affects neither another tenant nor the platform.
    stage.get(&other.key, "/v1/emails").await.expect(200);
    for _ in 0..10 {
        let answer = stage.get(&stage.platform, "/v1/emails").await;
        assert!(answer.header("ratelimit-limit").is_none());
        answer.expect(200);
    }
    let raised = json!({"rate_limit": {"requests_per_minute": 1000}});
    stage.patch(&stage.platform, &format!("/v1/tenants/{}", own.id), raised).await.expect(200);
    let third = stage.key(own.id, Scope::ALL, |_| {}).await;
    assert_eq!(exhaust(&stage, &third).await.len(), 4, "now the key's own limit is the smaller one");
}

#[tokio::test]
async fn the_usage_of_all_tenants_comes_in_one_response_as_json_or_csv_and_a_tenant_gets_its_own() {
    let stage = ApiStage::start().await;
    let (own, other) = (stage.tenant("own").await, stage.tenant("other").await);
    let gone = stage.tenant("gone").await;
    for tenant in [own.id, own.id, other.id, gone.id] {
        stage.enqueue(tenant).await;
    }
    let renamed = json!({"name": "=A1, \"Acme\"", "external_ref": "C-7"});
    stage.patch(&stage.platform, &format!("/v1/tenants/{}", own.id), renamed).await.expect(200);
    stage.delete(&stage.platform, &format!("/v1/tenants/{}", gone.id)).await.expect(200);
    let sent = |list: &Value| {
        let sums = list["data"].as_array().unwrap().iter();
        let of = |sum: &Value| {
            (sum["tenant_slug"].as_str().unwrap().to_owned(), sum["emails_sent"].as_u64().unwrap())
        };
        sums.map(of).filter(|(_, sent)| *sent > 0).collect::<BTreeMap<_, _>>()
    };
    let of = |pairs: &[(&str, u64)]| {
        pairs.iter().map(|(slug, sent)| ((*slug).to_owned(), *sent)).collect::<BTreeMap<_, _>>()
    };
    for group in ["tenant", "key", "domain", "day"] {
        let list = stage.get(&stage.platform, &format!("/v1/usage?group_by={group}")).await.expect(200);
        assert_eq!(sent(&list), of(&[("gone", 1), ("other", 1), ("own", 2)]), "{list}");
        let deleted = list["data"].as_array().unwrap().iter().filter(|sum| sum["is_deleted"] == true);
        assert!(deleted.into_iter().all(|sum| sum["tenant_id"] == gone.id.to_string()), "{list}");
        let list = stage.get(&own.key, &format!("/v1/usage?group_by={group}")).await.expect(200);
        assert_eq!(sent(&list), of(&[("own", 2)]), "{list}");
        let sum = list["data"].as_array().unwrap().iter().find(|sum| sum["emails_sent"] == 2).unwrap();
        let field = |name: &str| sum.get(name).cloned();
        let is_day = |date: &str| {
            date.starts_with(sum["period"].as_str().unwrap()) && date.ends_with("T00:00:00.000000Z")
        };
        let has_day = field("date").is_some_and(|date| is_day(date.as_str().unwrap()));
        assert_eq!(has_day, group == "day", "{sum}");
        assert_eq!(field("key_id"), (group == "key").then_some(Value::Null), "{sum}");
        assert_eq!(field("domain"), (group == "domain").then(|| "own.example".into()), "{sum}");
    }
    let filtered = format!("/v1/usage?tenant_id={}", other.id);
    assert_eq!(sent(&stage.get(&stage.platform, &filtered).await.expect(200)), of(&[("other", 1)]));
    stage.get(&own.key, &filtered).await.expect(404);
    let past = stage.get(&stage.platform, "/v1/usage?period=2020-01").await.expect(200);
    assert_eq!(past["data"], json!([]));
    for wrong in ["period=2026-1", "group_by=week", "format=xml", "limit=0", "after=x"] {
        stage.get(&own.key, &format!("/v1/usage?{wrong}")).await.expect_error(422, "validation_failed");
    }

    let csv = stage.get(&own.key, "/v1/usage?format=csv").await;
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    let text = String::from_utf8(csv.body.clone()).unwrap();
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(
        lines[0],
        "tenant_id,tenant_slug,tenant_name,external_ref,is_deleted,period,environment,emails_sent,emails_delivered,\
         emails_bounced,emails_bounced_late,emails_complained,emails_unsubscribed,emails_suppressed,emails_rejected,email_test,api_requests"
    );
    let begin = format!("{},own,\"'=A1, \"\"Acme\"\"\",C-7,false,", own.id);
    assert!(lines[1].starts_with(&begin) && lines[1].contains(",live,2,0,0,0,0,0,0,0,0,"), "{text}");
    assert_eq!(lines[2..], [""]);
    let asked =
        request_with(stage.address, "GET", "/v1/usage", Some(&own.key), None, &[("Accept", "text/csv")])
            .await;
    assert_eq!(asked.header("content-type"), csv.header("content-type"));

    // One at a time, as a large platform gets them.
    let (mut target, mut rows) = ("/v1/usage?format=csv&limit=1".to_owned(), 0);
    loop {
        let page = stage.get(&stage.platform, &target).await;
        rows += String::from_utf8_lossy(&page.body).matches(",live,").count();
        let Some(link) = page.header("link") else { break };
        target = link.trim_start_matches('<').split_once(">; rel=\"next\"").unwrap().0.to_owned();
    }
    assert_eq!(rows, 3);
}
