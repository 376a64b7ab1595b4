//! Sessions of the listener for reports.

use pillarbox::mail::TokenKind;

use crate::inbound_stage::{InboundStage, dsn};

#[tokio::test]
async fn a_report_to_a_token_is_recorded_before_its_reply() {
    let stage = InboundStage::start().await;
    let delivered = stage.deliver(&["bob@b.test"]).await.remove(0);
    let address = stage.address_of(TokenKind::Bounce, &delivered);
    let octets = dsn(&[("bob@b.test", "failed", "5.1.1", "550 5.1.1 no such user")]);
    stage.send_back("", &address, &octets).await.expect_saying(250, "Ok: recorded as rpt_");
}
