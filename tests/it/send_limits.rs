//! The send limits of a tenant, per minute, hour and day, its warm-up and its brakes.

use std::time::Duration;

use pillarbox::model::{Environment, EventKind, LimitPeriod, Ratio};
use pillarbox::store::{Directory, EventFilter, Journal, NewKey, PageRequest, Ramp, RateLimit, TenantPatch};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::api_stage::ApiStage;
use crate::calendar::advance_to_next_month;
use crate::client::Client;
use crate::fake_dns::FakeDns;
use crate::fake_mx::{FakeMx, Fault, Phase};
use crate::http::request;
use crate::server::{Account, TestServer, message, one_destination};
use crate::submission::{MESSAGE, log_in};
use crate::submission_stage::{HOSTNAME, SubmissionStage};
use crate::wait::until;

/// A stage where no minute, hour or day ends during a test.
async fn start() -> SubmissionStage {
    let stage = SubmissionStage::start().await;
    advance_to_next_month(&stage.clock);
    stage
}

async fn limit(stage: &SubmissionStage, rate_limit: RateLimit) {
    let patch = TenantPatch { rate_limit: Some(rate_limit), ..TenantPatch::default() };
    stage.store.update_tenant(stage.tenant, patch, stage.clock.now()).await.unwrap().unwrap();
}

fn a_day(recipients: u32) -> RateLimit {
    RateLimit { emails_per_day: Some(recipients), ..RateLimit::default() }
}

/// The warnings that the tenant got, the oldest first.
async fn warnings(stage: &SubmissionStage, count: usize) -> Vec<(EventKind, Value)> {
    until("the warnings are written", async || {
        let mut warnings = Vec::new();
        for kind in [EventKind::SendLimitApproaching, EventKind::SendLimitExceeded] {
            let filter =
                EventFilter { tenant_id: Some(stage.tenant), kind: Some(kind), ..EventFilter::default() };
            let page = PageRequest { limit: 100, ..PageRequest::default() };
            let found = stage.store.list_events(filter, page).await.unwrap().items;
            warnings.extend(found.into_iter().map(|event| (event.kind, event.data)));
        }
        (warnings.len() >= count).then_some(warnings)
    })
    .await
}

#[tokio::test]
async fn recipients_over_the_daily_limit_are_refused_and_the_others_get_the_message() {
    let stage = start().await;
    limit(&stage, a_day(5)).await;
    let mut client = log_in(&stage).await;
    client.send("app@own.example", &["a@other.example", "b@other.example"], MESSAGE).await.expect_code(250);
    client.command("MAIL FROM:<app@own.example>").await.expect_code(250);
    for local in ["c", "d"] {
        client.command(&format!("RCPT TO:<{local}@other.example>")).await.expect_code(250);
    }
    // A repeated recipient does not count again.
    client.command("RCPT TO:<d@other.example>").await.expect_code(250);
    client.command("RCPT TO:<e@other.example>").await.expect_code(250);
    let ends_at = LimitPeriod::Day.end_of(stage.clock.now()).to_string();
    let refused = client.command("RCPT TO:<f@other.example>").await;
    let refused = refused.expect_saying(452, "4.7.1 [send_limit_exceeded]").text();
    assert!(refused.contains(&ends_at) && refused.contains("(ref req_"), "{refused}");
    client.data(MESSAGE).await.expect_code(250);
    client.command("MAIL FROM:<app@own.example>").await.expect_saying(452, "4.7.1 [send_limit_exceeded]");

    let told = |used: u64| json!({"environment": "live", "period": "day", "limit": 5, "used": used, "resets_at": ends_at});
    let warnings = warnings(&stage, 1).await;
    assert_eq!(warnings, [(EventKind::SendLimitExceeded, told(2))], "when the first was refused, and once");
    limit(&stage, RateLimit::default()).await;
    client.command("MAIL FROM:<app@own.example>").await.expect_code(250);
}

#[tokio::test]
async fn a_tenant_is_warned_at_80_percent_and_at_the_limit() {
    let stage = start().await;
    limit(&stage, a_day(5)).await;
    let mut client = log_in(&stage).await;
    for number in 0..5 {
        client.send("app@own.example", &[&format!("{number}@other.example")], MESSAGE).await.expect_code(250);
    }
    let warnings = warnings(&stage, 2).await;
    let told: Vec<_> = warnings.iter().map(|(kind, data)| (*kind, data["used"].as_u64().unwrap())).collect();
    assert_eq!(told, [(EventKind::SendLimitApproaching, 4), (EventKind::SendLimitExceeded, 5)]);
}

#[tokio::test]
async fn test_mail_has_the_same_limit_and_its_own_count() {
    let stage = start().await;
    limit(&stage, a_day(1)).await;
    let secret = pillarbox::model::KeySecret::generate(Environment::Test);
    let new = NewKey {
        tenant_id: Some(stage.tenant),
        name: "test".into(),
        environment: Environment::Test,
        scopes: vec![pillarbox::model::Scope::SmtpSend],
        allowed_domain_ids: vec![],
        allowed_cidrs: vec![],
        expires_at: None,
        stored_secret: secret.stored_secret(),
    };
    let key = stage.store.create_key(new, stage.clock.now()).await.unwrap();
    let mut live = log_in(&stage).await;
    let mut test =
        Client::connect_implicit(stage.submissions, HOSTNAME, stage.identity.client_config()).await;
    test.ehlo().await;
    test.auth_plain(&key.id.to_string(), secret.expose()).await.expect_code(235);
    for client in [&mut live, &mut test] {
        client.send("app@own.example", &["a@other.example"], MESSAGE).await.expect_code(250);
        client.command("MAIL FROM:<app@own.example>").await.expect_saying(452, "[send_limit_exceeded]");
    }
}

#[tokio::test]
async fn a_repeated_submission_uses_nothing_of_the_limit_and_causes_no_warning() {
    let stage = start().await;
    limit(&stage, a_day(5)).await;
    let keyed = [b"Idempotency-Key: order-17\r\n", MESSAGE].concat();
    let recipients = ["a@other.example", "b@other.example", "c@other.example"];
    let (mut first, mut second) = (log_in(&stage).await, log_in(&stage).await);
    for client in [&mut first, &mut second] {
        client.command("MAIL FROM:<app@own.example>").await.expect_code(250);
        for recipient in recipients {
            client.command(&format!("RCPT TO:<{recipient}>")).await.expect_code(250);
        }
    }
    let accepted = first.data(&keyed).await.expect_code(250).text();
    assert_eq!(second.data(&keyed).await.expect_code(250).text(), accepted);
    // The fourth of five messages is the first that causes a warning.
    first.send("app@own.example", &["d@other.example"], MESSAGE).await.expect_code(250);
    let warnings = warnings(&stage, 1).await;
    let told: Vec<_> = warnings.iter().map(|(kind, data)| (*kind, data["used"].as_u64().unwrap())).collect();
    assert_eq!(told, [(EventKind::SendLimitApproaching, 4)]);
}

#[tokio::test]
async fn parallel_sessions_send_no_more_than_the_limit() {
    const LIMIT: u32 = 7;
    let stage = start().await;
    limit(&stage, a_day(LIMIT)).await;
    let mut sessions = JoinSet::new();
    for number in 0..10 {
        let mut client = log_in(&stage).await;
        sessions.spawn(async move {
            // All sessions have sent RCPT before any sends its message.
            client.command("MAIL FROM:<app@own.example>").await.expect_code(250);
            client.command(&format!("RCPT TO:<{number}@other.example>")).await.expect_code(250);
            client
        });
    }
    let clients = sessions.join_all().await;
    let mut sessions = JoinSet::new();
    for mut client in clients {
        sessions.spawn(async move { client.data(MESSAGE).await });
    }
    let replies = sessions.join_all().await;
    let (accepted, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.code == 250);
    assert_eq!(accepted.len(), LIMIT as usize);
    for reply in refused {
        reply.expect_saying(452, "4.7.1 [send_limit_exceeded]");
    }
}

#[tokio::test]
async fn a_message_refused_for_another_reason_uses_nothing_of_the_limit() {
    let stage = start().await;
    limit(&stage, a_day(1)).await;
    let mut client = log_in(&stage).await;
    for _ in 0..3 {
        let foreign = b"From: app@foreign.example\r\n\r\ntext\r\n";
        client.send("app@own.example", &["a@other.example"], foreign).await.expect_code(550);
    }
    client.send("app@own.example", &["a@other.example"], MESSAGE).await.expect_code(250);
}

#[tokio::test]
async fn the_limit_per_minute_has_its_own_reply() {
    let stage = start().await;
    let limits = RateLimit { emails_per_minute: Some(2), emails_per_day: Some(1000), ..RateLimit::default() };
    limit(&stage, limits).await;
    let mut client = log_in(&stage).await;
    for _ in 0..2 {
        client.send("app@own.example", &["a@other.example"], MESSAGE).await.expect_code(250);
    }
    let ends_at = LimitPeriod::Minute.end_of(stage.clock.now());
    let refused = client.command("MAIL FROM:<app@own.example>").await;
    let text = refused.expect_saying(450, "4.7.1 [send_limit_exceeded]").text();
    assert!(text.contains(&ends_at.to_string()), "{text}");
}

#[tokio::test]
async fn the_daily_count_survives_a_restart_and_belongs_to_the_tenant() {
    let dns = FakeDns::start().await;
    let mx = FakeMx::start().await;
    let mut server = TestServer::start(&dns, mx.address.port()).await;
    advance_to_next_month(&server.clock);
    let account = server.create_account("acme.test").await;
    let other = server.create_account("other.test").await;
    for tenant in [&account.tenant_id, &other.tenant_id] {
        let limits = json!({"rate_limit": {"emails_per_day": 3}});
        server.control.ok("PATCH", &format!("/v1/tenants/{tenant}"), limits).await;
    }
    server.submit(&account, &["a@x.test", "b@x.test"], &message(&account, "first")).await;
    server.restart(|_| ()).await;
    let mut client = server.log_in(&account).await;
    client.command("MAIL FROM:<alice@acme.test>").await.expect_code(250);
    client.command("RCPT TO:<c@x.test>").await.expect_code(250);
    client.command("RCPT TO:<d@x.test>").await.expect_saying(452, "[send_limit_exceeded]");
    client.data(&message(&account, "second")).await.expect_code(250);
    let email = json!({"from": "alice@acme.test", "to": ["e@x.test"], "subject": "x", "text": "x"});
    let answer =
        request(server.control.address, "POST", "/v1/emails", Some(&account.secret), Some(&email)).await;
    answer.expect_error(429, "send_limit_exceeded");
    server.submit(&other, &["a@x.test", "b@x.test", "c@x.test"], &message(&other, "theirs")).await;
}

#[tokio::test]
async fn the_limit_applies_over_http_and_every_response_shows_its_state() {
    let stage = ApiStage::start().await;
    advance_to_next_month(&stage.clock);
    let tenant = stage.tenant("Acme").await;
    let domain = json!({"name": "acme.example", "tenant_id": tenant.id, "verification": "manual"});
    stage.post(&stage.platform, "/v1/domains", domain).await.expect(201);
    let email = |to: &[&str]| json!({"from": "a@acme.example", "to": to, "subject": "x", "text": "x"});
    let free = stage.post(&tenant.key, "/v1/emails", email(&["a@x.example"])).await;
    assert!(free.header("x-sendlimit-limit").is_none());
    free.expect(202);
    let limits = json!({"rate_limit": {"emails_per_day": 5, "emails_per_minute": 1000}});
    stage.patch(&stage.platform, &format!("/v1/tenants/{}", tenant.id), limits).await.expect(200);

    let sent = stage.post(&tenant.key, "/v1/emails", email(&["a@x.example", "b@x.example"])).await;
    let stands = |answer: &crate::http::Answer| {
        ["limit", "remaining", "reset"].map(|name| {
            let value = answer.header(&format!("x-sendlimit-{name}")).unwrap_or_else(|| panic!("{answer}"));
            value.parse::<i64>().unwrap()
        })
    };
    let [limit, remaining, reset] = stands(&sent);
    assert_eq!((limit, remaining), (5, 2), "what was sent before the limit counts: {sent}");
    assert!((1..=LimitPeriod::Day.seconds()).contains(&reset), "{sent}");
    sent.expect(202);

    // A batch is sent as a whole or not at all.
    let batch = json!({"emails": [email(&["c@x.example"]), email(&["d@x.example", "e@x.example"])]});
    let refused = stage.post(&tenant.key, "/v1/emails/batch", batch).await;
    assert_eq!(stands(&refused)[..2], [5, 2]);
    let wait: i64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((reset - 60..=reset).contains(&wait), "{refused}");
    let error = refused.expect_error(429, "send_limit_exceeded");
    let ends_at = LimitPeriod::Day.end_of(stage.clock.now()).to_string();
    assert!(error["hint"].as_str().unwrap().contains(&ends_at), "{error}");
    assert_eq!(error["errors"][0]["path"], "emails[1]");

    let too_many: Vec<_> = (0..6).map(|number| format!("{number}@x.example")).collect();
    let too_many: Vec<_> = too_many.iter().map(String::as_str).collect();
    let error = stage.post(&tenant.key, "/v1/emails", email(&too_many)).await;
    assert_eq!(error.header("retry-after"), None, "no time makes that right: {error}");
    error.expect_error(429, "send_limit_exceeded");
    let rest = stage.post(&tenant.key, "/v1/emails", email(&["c@x.example", "d@x.example"])).await;
    assert_eq!(stands(&rest)[..2], [5, 0]);
    rest.expect(202);
}

#[tokio::test]
async fn the_limit_of_an_hour_and_the_warm_up_apply_over_smtp_and_http() {
    let stage = start().await;
    limit(&stage, RateLimit { emails_per_hour: Some(1), ..RateLimit::default() }).await;
    let mut client = log_in(&stage).await;
    client.send("app@own.example", &["a@other.example"], MESSAGE).await.expect_code(250);
    let refused = client.command("MAIL FROM:<app@own.example>").await;
    let refused = refused.expect_saying(450, "4.7.1 [send_limit_exceeded]").text();
    assert!(refused.contains("1 recipients per hour"), "{refused}");
    // One recipient on the first day, two on the second.
    let since = stage.clock.now().checked_sub(pillarbox::mail::SignedDuration::from_hours(24)).unwrap();
    let ramp = Ramp { start: 1, factor: Ratio::new(2.0).unwrap(), until: 3, since };
    limit(&stage, RateLimit { ramp: Some(ramp), ..RateLimit::default() }).await;
    client.send("app@own.example", &["b@other.example"], MESSAGE).await.expect_code(250);
    client.command("MAIL FROM:<app@own.example>").await.expect_saying(452, "4.7.1 [send_limit_exceeded]");
    limit(&stage, RateLimit { ramp: Some(Ramp { until: 2, ..ramp }), ..RateLimit::default() }).await;
    client.send("app@own.example", &["c@other.example"], MESSAGE).await.expect_code(250);

    let dns = FakeDns::start().await;
    let mx = FakeMx::start().await;
    let server = TestServer::start(&dns, mx.address.port()).await;
    advance_to_next_month(&server.clock);
    let account = server.create_account("acme.test").await;
    let tenant = format!("/v1/tenants/{}", account.tenant_id);
    let email = json!({"from": "a@acme.test", "to": ["bob@b.test"], "subject": "Hi", "text": "x"});
    let send = async || {
        request(server.control.address, "POST", "/v1/emails", Some(&account.secret), Some(&email)).await
    };
    let set = async |limits: Value| server.control.ok("PATCH", &tenant, json!({"rate_limit": limits})).await;
    set(json!({"emails_per_hour": 1})).await;
    send().await.expect(202);
    let refused = send().await;
    let wait: i64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3600).contains(&wait), "{refused}");
    refused.expect_error(429, "send_limit_exceeded");
    let shown = set(json!({"emails_per_hour": null, "ramp": {"start": 1, "factor": 1.5, "until": 9}})).await;
    let ramp = shown["rate_limit"]["ramp"].clone();
    assert_eq!((&ramp["factor"], &ramp["until"]), (&json!(1.5), &json!(9)), "{shown}");
    assert_eq!(
        set(json!({"ramp": {"start": 1, "factor": 2, "until": 9}})).await["rate_limit"]["ramp"]["since"],
        ramp["since"]
    );
    send().await.expect_error(429, "send_limit_exceeded");
    set(json!({"ramp": null})).await;
    send().await.expect(202);
    let wrong = json!({"rate_limit": {"ramp": {"start": 0, "factor": 1, "until": 0}, "emails_per_hour": 0}});
    let error =
        request(server.control.address, "PATCH", &tenant, Some(&server.control.secret), Some(&wrong)).await;
    let error = error.expect_error(422, "validation_failed");
    assert_eq!(error["errors"].as_array().unwrap().len(), 4, "{error}");
}

#[tokio::test]
async fn a_brake_pauses_the_mail_of_a_tenant_that_bounces_too_much_until_its_queue_is_resumed() {
    let (_dns, mx, server) = one_destination().await;
    mx.script(Phase::Rcpt, "gone", usize::MAX, Fault::Reply("550 5.1.1 nobody of that name"));
    let (account, other) =
        (server.create_account("acme.test").await, server.create_account("other.test").await);
    let tenant = format!("/v1/tenants/{}", account.tenant_id);
    let brakes = json!({"settings": {"brakes": {"bounce_rate": 0.5, "min_recipients": 3}}});
    let shown = server.control.ok("PATCH", &tenant, brakes.clone()).await;
    assert_eq!(shown["settings"]["brakes"]["window"], "24h", "{shown}");
    let own = request(server.control.address, "PATCH", &tenant, Some(&account.secret), Some(&brakes)).await;
    assert_eq!(own.status, 403, "a tenant cannot lift its own brakes: {own}");
    for recipient in ["gone1@b.test", "gone2@b.test", "gone3@b.test", "gone4@b.test", "bob@b.test"] {
        for account in [&account, &other] {
            let id = server.submit(account, &[recipient], &message(account, "before")).await;
            server.wait_for_status(&id, &["delivered", "bounced"]).await;
        }
    }
    let applied_to = async |account: &Account| {
        let path = format!("/v1/events?type=brake.applied&tenant_id={}", account.tenant_id);
        server.control.get(&path).await["data"].as_array().unwrap().clone()
    };
    let applied = async || applied_to(&account).await;
    let pauses = async || server.control.get("/v1/queue").await["pauses"].as_array().unwrap().clone();
    assert!(applied().await.is_empty());
    server.clock.advance(Duration::from_secs(61));
    let events = until("the brake is applied", async || {
        let events = applied().await;
        (!events.is_empty()).then_some(events)
    })
    .await;
    let data = json!({
        "metric": "bounce_rate", "rate": 0.8, "limit": 0.5, "recipients": 5, "window": "24h", "action": "pause",
    });
    assert_eq!(events[0]["data"], data);
    let reasons = pauses().await;
    assert_eq!(reasons.len(), 1, "only this tenant: {reasons:?}");
    assert_eq!(reasons[0]["reason"], "brake: 80 % bounces of 5 recipients, more than 50 %");
    let waits = server.submit(&account, &["bob@b.test"], &message(&account, "waits")).await;
    let passes = server.submit(&other, &["bob@b.test"], &message(&other, "passes")).await;
    server.wait_for_status(&passes, &["delivered"]).await;
    let email = server.control.get(&format!("/v1/emails/{waits}")).await;
    assert_eq!((&email["status"], &email["deliveries"][0]["attempts"]), (&json!("queued"), &json!(0)));

    server.control.ok("POST", "/v1/queue/resume", json!({"tenant_id": account.tenant_id})).await;
    server.wait_for_status(&waits, &["delivered"]).await;
    // The brakes of the other tenant are checked after those of this one.
    server.control.ok("PATCH", &format!("/v1/tenants/{}", other.tenant_id), brakes).await;
    server.clock.advance(Duration::from_secs(61));
    until("the brake of the other tenant is applied", async || {
        (!applied_to(&other).await.is_empty()).then_some(())
    })
    .await;
    let third = server.submit(&account, &["bob@b.test"], &message(&account, "after")).await;
    server.wait_for_status(&third, &["delivered"]).await;
    assert_eq!(applied().await.len(), 1, "the same bounces do not count again");
    assert_eq!(
        pauses().await.iter().map(|pause| &pause["tenant_id"]).collect::<Vec<_>>(),
        [&json!(other.tenant_id)]
    );
}
