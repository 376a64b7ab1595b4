//! The regular check of domains, with many tenants.

use pillarbox::mail::{DomainName, Timestamp};
use pillarbox::model::Verification;
use pillarbox::store::{Directory, NewDomain};

use crate::api_stage::ApiStage;

#[tokio::test]
async fn a_dns_that_does_not_answer_delays_the_checks_of_its_own_tenant_only() {
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
    let path = stage.publish_domain(&own.key, "own.example").await;
    let checking = stage.recheck_until_verified(&own.key, &path).await;
    let asked = (0..40).filter(|n| stage.dns.queries(&format!("_pillarbox.d{n}.silent.example")) > 0).count();
    assert!((1..40).contains(&asked), "they were being looked at: {asked}");
    stage.stop.cancel();
    checking.await.unwrap();
}
