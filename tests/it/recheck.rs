//! The regular check of domains, with many tenants.

use std::sync::Arc;

use pillarbox::mail::{DomainName, Timestamp, Verification};
use pillarbox::store::{Directory, NewDomain};
use pillarbox::verification;
use serde_json::json;

use crate::api_stage::{ApiStage, text};
use crate::wait::until;

#[tokio::test]
async fn domains_whose_dns_does_not_answer_delay_the_checks_of_their_own_tenant_only() {
    let stage = ApiStage::with(|_, domains| domains.check_interval = std::time::Duration::ZERO).await;
    let (slow, own) = (stage.tenant("slow").await, stage.tenant("own").await);
    stage.dns.silence("silent.example");
    let now = Timestamp::now();
    for n in 0..40 {
        let domain = NewDomain {
            tenant_id: Some(slow.id),
            name: DomainName::parse(&format!("d{n}.silent.example")).unwrap(),
            verification: Verification::Dns,
            subdomains: true,
            ownership_token: "token".into(),
            dkim_keys: vec![],
        };
        stage.store.create_domain(domain, now).await.unwrap();
    }
    let made = stage.post(&own.key, "/v1/domains", json!({"name": "own.example"})).await.expect(201);
    for record in &made["dns_records"].as_array().unwrap()[..2] {
        stage.dns.text(&text(record, "/name"), &text(record, "/value"));
    }
    let checking = tokio::spawn(verification::recheck_loop(
        Arc::clone(&stage.store),
        stage.resolver.clone(),
        stage.verification.clone(),
        stage.stop.clone(),
    ));
    let path = format!("/v1/domains/{}", text(&made, "/id"));
    until("the domain is verified", async || {
        (stage.get(&own.key, &path).await.expect(200)["status"] == "verified").then_some(())
    })
    .await;
    let asked = (0..40).filter(|n| stage.dns.queries(&format!("_pillarbox.d{n}.silent.example")) > 0).count();
    assert!((1..40).contains(&asked), "they were being looked at: {asked}");
    stage.stop.cancel();
    checking.await.unwrap();
}
