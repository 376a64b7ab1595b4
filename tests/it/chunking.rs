//! RFC 3030: a message sent in chunks is delivered like any other.

use crate::server::{message, message_id, one_destination};

#[tokio::test]
async fn a_message_in_chunks_is_delivered_with_the_same_octets_to_a_server_without_chunking() {
    let (_dns, mx, server) = one_destination().await;
    let account = server.create_account("acme.test").await;
    let mut submitted = message(&account, "chunks");
    submitted.extend(b"a line of a large message\r\n".repeat(20_000));
    let mut client = server.log_in(&account).await;
    // The first chunk ends within a CRLF. All chunks are sent before a reply is read.
    let split = 1 + submitted.iter().position(|&octet| octet == b'\r').unwrap();
    let (first, rest) = submitted.split_at(split);
    let mut wire = b"MAIL FROM:<alice@acme.test> BODY=BINARYMIME\r\nRCPT TO:<bob@b.test>\r\n".to_vec();
    for (chunk, last) in [(first, ""), (rest, ""), (&b""[..], " LAST")] {
        wire.extend(format!("BDAT {}{last}\r\n", chunk.len()).bytes());
        wire.extend(chunk);
    }
    client.write(&wire).await;
    for _ in 0..4 {
        client.read_reply().await.expect_code(250);
    }
    let id = message_id(&client.read_reply().await.expect_code(250));
    server.wait_for_status(&id, &["delivered"]).await;
    mx.wait_for(1).await[0].prefix_before(&submitted);

    client.command("MAIL FROM:<alice@acme.test> BODY=BINARYMIME").await.expect_code(250);
    client.command("RCPT TO:<bob@b.test>").await.expect_code(250);
    client.write(b"BDAT 8 LAST\r\nA: b\r\n\r\n").await;
    client.read_reply().await.expect_code(550);
    client.command("MAIL FROM:<alice@acme.test> BODY=BINARYMIME").await.expect_code(250);
    client.command("RCPT TO:<bob@b.test>").await.expect_code(250);
    client.write(b"BDAT 9 LAST\r\nA: b\r\n\r\n\0").await;
    client.read_reply().await.expect_saying(554, "[conversion_required]");
    crate::wait::until("the refusal is noted", async || {
        let rejections = server.control.get("/v1/rejections").await.to_string();
        rejections.contains("conversion_required").then_some(())
    })
    .await;
}
