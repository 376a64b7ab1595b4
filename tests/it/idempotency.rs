//! A submission that is repeated with its Idempotency-Key is sent once.

use crate::server::{message, message_id, one_destination};

#[tokio::test]
async fn a_repeated_submission_gets_the_first_reply_and_is_sent_once() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let plain = message(&account, "once");
    let keyed = [b"Idempotency-Key: order-17\r\n", &plain[..]].concat();
    let id = server.submit(&account, &["bob@b.test"], &keyed).await;
    server.wait_for_status(&id, &["delivered"]).await;
    assert_eq!(server.submit(&account, &["bob@b.test"], &keyed).await, id);

    let mut client = server.log_in(&account).await;
    // A library gives each submission a new Date, Message-ID and boundary.
    let again = [b"Idempotency-Key: order-17\r\n", &message(&account, "again")[..]].concat();
    let reply = client.send("alice@acme.test", &["bob@b.test"], &again).await;
    assert_eq!(message_id(&reply.expect_code(250)), id);
    for (sender, recipients) in [
        ("alice@acme.test", &["carol@b.test"][..]),
        ("alice@acme.test", &["bob@b.test", "carol@b.test"]),
        ("bounces@acme.test", &["bob@b.test"]),
    ] {
        let reply = client.send(sender, recipients, &keyed).await;
        reply.expect_saying(554, "5.6.0 [idempotency_key_reused]");
    }
    crate::wait::until("the refusals are noted", async || {
        let rejections = server.control.get("/v1/rejections").await.to_string();
        (rejections.matches("idempotency_key_reused").count() >= 3).then_some(())
    })
    .await;

    let theirs = server.create_account("other.test").await;
    let own = [b"Idempotency-Key: order-17\r\n", &message(&theirs, "theirs")[..]].concat();
    let reply = server.log_in(&theirs).await.send("alice@other.test", &["bob@b.test"], &own).await;
    let theirs = message_id(&reply.expect_code(250));
    server.wait_for_status(&theirs, &["delivered"]).await;
    let all = mx.transactions();
    assert_eq!(all.len(), 2);
    let prefix = all[0].prefix_before(&plain);
    assert!(!prefix.contains("order-17"), "the key is not the recipient's: {prefix}");
}
