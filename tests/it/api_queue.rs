//! The queue over the API: parameters, wait reasons beside the counts, and the mail that each command affects.

use pillarbox::mail::{Host, Timestamp};
use pillarbox::model::{QueueFilter, Scope, WaitReason};
use pillarbox::queue::wait_reasons::WaitRecord;
use serde_json::json;

use crate::api_stage::{ApiStage, text};
use crate::wait::until;

#[tokio::test]
async fn a_pause_is_of_a_part_of_the_queue_or_of_all_and_invalid_requests_are_refused() {
    let stage = ApiStage::start().await;
    let pause = async |body| stage.post(&stage.platform, "/v1/queue/pause", body).await;
    let all = pause(json!({})).await.expect(200);
    assert_eq!((&all["tenant_id"], &all["destination"]), (&json!(null), &json!(null)));
    let resumed = stage.post(&stage.platform, "/v1/queue/resume", json!({})).await.expect(200);
    assert_eq!(resumed["resumed"], true);
    stage.post(&stage.platform, "/v1/queue/resume", json!({})).await.expect_error(404, "not_found");
    let past = json!({"destination": "a..b", "until": "2020-01-01T00:00:00Z", "reason": "a\nb"});
    let error = pause(past).await.expect_error(422, "validation_failed");
    assert_eq!(error["errors"].as_array().unwrap().len(), 3, "{error}");
    pause(json!({"domain": "b.test"})).await.expect_error(422, "unknown_field");
    let nobody = json!({"tenant_id": "tnt_01ARZ3NDEKTSV4RRFFQ69G5FAV"});
    pause(nobody).await.expect_error(422, "validation_failed");
    let made = pause(json!({"destination": "B.test"})).await.expect(200);
    assert_eq!(made["destination"], "b.test");
    let resume = json!({"destination": "b.test"});
    stage.post(&stage.platform, "/v1/queue/resume", resume.clone()).await.expect(200);
    stage.post(&stage.platform, "/v1/queue/resume", resume).await.expect_error(404, "not_found");
}

#[tokio::test]
async fn the_wait_reasons_of_the_relay_are_shown_beside_the_groups_they_concern() {
    let stage = ApiStage::start().await;
    let tenant = stage.tenant("own").await;
    stage.enqueue(tenant.id).await;
    let notice = WaitRecord {
        reason: WaitReason::SiteBackoff,
        detail: "421 4.7.0 too many connections".into(),
        since: Timestamp::now(),
        until: None,
    };
    let part = QueueFilter::destination(Host::parse("remote.example").unwrap());
    stage.queue.wait_reasons().post(part, notice.clone(), Timestamp::now());
    stage.queue.wait_reasons().post(
        QueueFilter::destination(Host::parse("x.example").unwrap()),
        notice,
        Timestamp::now(),
    );
    let queue = stage.get(&stage.platform, "/v1/queue").await.expect(200);
    let reasons = queue["data"][0]["reasons"].as_array().unwrap();
    let codes: Vec<_> = reasons.iter().map(|wait| wait["reason"].as_str().unwrap()).collect();
    assert_eq!(codes, ["site_backoff", "due"], "{queue}");
    assert_eq!(reasons[0]["detail"], "421 4.7.0 too many connections");
}

#[tokio::test]
async fn the_queue_is_filtered_and_paged_by_cursor() {
    let stage = ApiStage::start().await;
    let mut deepest = String::new();
    for (name, messages) in [("one", 1), ("two", 2), ("three", 3)] {
        let tenant = stage.tenant(name).await;
        for _ in 0..messages {
            stage.enqueue(tenant.id).await;
        }
        deepest = tenant.id.to_string();
    }
    let get = async |query: &str| stage.get(&stage.platform, &format!("/v1/queue{query}")).await;
    let first = get("?limit=2").await.expect(200);
    assert_eq!((&first["open"], &first["data"][0]["tenant_id"]), (&json!(6), &json!(deepest)), "{first}");
    let cursor = text(&first, "/next_cursor");
    let second = get(&format!("?limit=2&after={cursor}")).await.expect(200);
    assert_eq!((&second["data"][0]["open"], &second["has_more"]), (&json!(1), &json!(false)), "{second}");
    let own = get(&format!("?tenant_id={deepest}&destination=remote.example")).await.expect(200);
    assert_eq!((&own["open"], &own["group_count"]), (&json!(3), &json!(1)));
    for wrong in ["?after=x", "?limit=0", "?destination=a..b", "?before=x"] {
        get(wrong).await.expect_error(422, "validation_failed");
    }
}

#[tokio::test]
async fn retry_and_cancel_affect_an_open_message_of_the_tenant_only() {
    let stage = ApiStage::start().await;
    let (own, stranger) = (stage.tenant("own").await, stage.tenant("stranger").await);
    let id = stage.enqueue(own.id).await;
    let key = stage.key(own.id, &[Scope::EmailsSend], |_| {}).await;
    for order in ["retry", "cancel"] {
        let path = format!("/v1/emails/{id}/{order}");
        stage.post(&stranger.key, &path, json!(null)).await.expect_error(404, "not_found");
    }
    // The message is due already, so there is nothing to retry.
    let retried = stage.post(&key, &format!("/v1/emails/{id}/retry"), json!(null)).await.expect(200);
    assert_eq!(retried["retried"], json!([]));
    let cancelled = stage.post(&key, &format!("/v1/emails/{id}/cancel"), json!(null)).await.expect(200);
    assert_eq!(cancelled["cancelled"][0]["recipient"], "to@remote.example");
    for order in ["retry", "cancel"] {
        let path = format!("/v1/emails/{id}/{order}");
        stage.post(&key, &path, json!(null)).await.expect_error(409, "message_finished");
    }
    until("nothing waits", async || {
        let queue = stage.get(&stage.platform, "/v1/queue").await.expect(200);
        (queue["open"] == 0).then_some(())
    })
    .await;
}
