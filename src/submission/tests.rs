//! Concurrent submissions of two tenants, against a real store.

use tempfile::TempDir;
use tokio::task::{JoinSet, yield_now};

use super::*;
use crate::mail::{BodyType, MailParameters, Notify, SignedDuration};
use crate::model::{
    DkimAlgorithm, DkimKeyState, Environment, KeySecret, TenantId, TenantStatus, Verification,
};
use crate::store::{NewDkimKey, NewDomain, NewKey, NewTenant, RateLimit, SqliteOptions, TenantPatch};

const BACKLOG: usize = 20;

struct Fixture {
    _dir: TempDir,
    store: Arc<Store>,
    submission: SubmissionService,
}

impl Fixture {
    async fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(SqliteOptions::at(dir.path())).await.unwrap());
        let pair = crate::dkim::generate(DkimAlgorithm::Ed25519).unwrap();
        let sandbox = NewDomain {
            tenant_id: None,
            name: DomainName::parse("sandbox.example").unwrap(),
            verification: Verification::Manual,
            subdomains: false,
            ownership_token: String::new(),
            dkim_keys: vec![NewDkimKey {
                selector: "s".into(),
                algorithm: pair.algorithm,
                state: DkimKeyState::Active,
                public_key: pair.public_key,
                private_key: pair.private_key,
            }],
        };
        store.ensure_sandbox_domain(sandbox, Timestamp::now()).await.unwrap();
        let settings = SubmissionSettings {
            hostname: DomainName::parse("relay.example").unwrap(),
            message_lifetime: Duration::from_secs(3600),
            message_lifetime_max: Duration::from_secs(3600),
            allow_null_sender: false,
            allow_duplicate_headers: false,
            received_includes_client_address: false,
            inbound_host: None,
            return_path: Default::default(),
            public_url: None,
        };
        Self {
            _dir: dir,
            submission: SubmissionService::new(store.clone(), settings, Clock::system()),
            store,
        }
    }

    async fn submitter(&self, slug: &str) -> Arc<Submitter> {
        self.limited_submitter(slug, None).await
    }

    async fn limited_submitter(&self, slug: &str, emails_per_day: Option<u32>) -> Arc<Submitter> {
        let rate_limit = RateLimit { emails_per_day, ..RateLimit::default() };
        let new = NewTenant { rate_limit, ..NewTenant::named(slug, slug) };
        let tenant = self.store.create_tenant(new, Timestamp::now()).await.unwrap();
        let new = NewKey {
            tenant_id: Some(tenant.id),
            name: "app".into(),
            environment: Environment::Test,
            scopes: vec![Scope::SmtpSend],
            allowed_domain_ids: Vec::new(),
            allowed_cidrs: Vec::new(),
            expires_at: None,
            stored_secret: KeySecret::generate(Environment::Test).stored_secret(),
        };
        let key = self.store.create_key(new, Timestamp::now()).await.unwrap();
        Arc::new(Submitter {
            tenant: Arc::new(tenant),
            key: Arc::new(key),
            secret: None,
            client_address: IpAddr::from([127, 0, 0, 1]),
            scope: Scope::SmtpSend,
        })
    }
}

fn submission(submitter: &Arc<Submitter>) -> Submission {
    let sender = Address::parse("a@sandbox.example").unwrap();
    Submission {
        submitter: submitter.clone(),
        envelope: Envelope {
            reverse_path: ReversePath::Mailbox(sender),
            recipients: vec![Address::parse("b@else.example").unwrap().into()],
            body: BodyType::SevenBit,
            smtputf8: false,
            parameters: MailParameters::default(),
        },
        message: Bytes::from_static(b"From: a@sandbox.example\r\nSubject: x\r\n\r\nhello\r\n"),
        extras: SubmissionExtras::default(),
        trace: Trace { helo: "client.example".into(), protocol: "ESMTPSA", tls: None },
        received_at: Instant::now(),
    }
}

/// Submits a backlog of one tenant and then one message of another while no permits are free. Returns the tenants in
/// the order of acceptance.
async fn accept_backlog_and_one(
    fixture: Fixture,
    semaphore: fn(&SubmissionService) -> &TenantSemaphore,
) -> (Vec<TenantId>, TenantId) {
    let [busy, calm] = [fixture.submitter("busy").await, fixture.submitter("calm").await];
    let service = Arc::new(fixture.submission);
    let (order, mut accepted) = tokio::sync::mpsc::unbounded_channel();
    let permit = semaphore(&service).acquire(None).await.unwrap();
    let mut submissions = JoinSet::new();
    for (submitter, count) in [(&busy, BACKLOG), (&calm, 1)] {
        for _ in 0..count {
            let (service, order, submission) = (service.clone(), order.clone(), submission(submitter));
            submissions.spawn(async move {
                let tenant = submission.submitter.tenant.id;
                service.accept(submission).await.unwrap();
                order.send(tenant).unwrap();
            });
        }
        while semaphore(&service).requests_of(Some(submitter.tenant.id)) < count {
            yield_now().await;
        }
    }
    drop(permit);
    submissions.join_all().await;
    drop(order);
    let mut order = Vec::new();
    while let Some(tenant) = accepted.recv().await {
        order.push(tenant);
    }
    (order, calm.tenant.id)
}

fn assert_calm_came_early((order, calm): (Vec<TenantId>, TenantId)) {
    assert_eq!(order.len(), BACKLOG + 1);
    // At least one of the others comes before it; a few more may be answered sooner, as they share a commit.
    let place = order.iter().position(|&tenant| tenant == calm).unwrap();
    assert!(place < BACKLOG / 2, "{place}");
}

#[tokio::test]
async fn a_message_is_not_signed_behind_the_backlog_of_another_tenant() {
    let mut fixture = Fixture::make().await;
    fixture.submission.signing = TenantSemaphore::new(1, 1);
    assert_calm_came_early(accept_backlog_and_one(fixture, |service| &service.signing).await);
}

#[tokio::test]
async fn a_message_is_not_stored_behind_the_backlog_of_another_tenant() {
    let mut fixture = Fixture::make().await;
    fixture.submission.storing = TenantSemaphore::new(1, 1);
    assert_calm_came_early(accept_backlog_and_one(fixture, |service| &service.storing).await);
}

fn keyed(submitter: &Arc<Submitter>) -> Submission {
    let message = b"From: a@sandbox.example\r\nIdempotency-Key: k\r\n\r\nhello\r\n";
    Submission { message: Bytes::from_static(message), ..submission(submitter) }
}

async fn used(fixture: &Fixture, submitter: &Submitter) -> u64 {
    let standing =
        fixture.submission.send_limit_status(&submitter.tenant, Environment::Test, Timestamp::now()).await;
    standing.unwrap().unwrap().used
}

#[tokio::test]
async fn a_submission_cancelled_before_it_is_stored_uses_no_quota() {
    let mut fixture = Fixture::make().await;
    fixture.submission.storing = TenantSemaphore::new(1, 1);
    let fixture = Arc::new(fixture);
    let submitter = fixture.limited_submitter("limited", Some(9)).await;
    let permit = fixture.submission.storing.acquire(None).await.unwrap();
    let accepting = tokio::spawn({
        let (fixture, submission) = (fixture.clone(), submission(&submitter));
        async move { fixture.submission.accept(submission).await }
    });
    while fixture.submission.storing.requests_of(Some(submitter.tenant.id)) == 0 {
        yield_now().await;
    }
    assert_eq!(used(&fixture, &submitter).await, 1);
    accepting.abort();
    assert!(accepting.await.unwrap_err().is_cancelled());
    assert_eq!(used(&fixture, &submitter).await, 0);
    drop(permit);
}

#[tokio::test]
async fn a_duplicate_submission_is_accepted_when_the_limit_is_used_up() {
    let fixture = Fixture::make().await;
    let submitter = fixture.limited_submitter("limited", Some(1)).await;
    let id = fixture.submission.accept(keyed(&submitter)).await.unwrap();
    assert_eq!(fixture.submission.accept(keyed(&submitter)).await.unwrap(), id);
    assert_eq!(used(&fixture, &submitter).await, 1);
    let (path, recipient) =
        (keyed(&submitter).envelope.reverse_path, Address::parse("b@else.example").unwrap());
    for (already_counted, earlier) in [(true, None), (false, Some(0))] {
        let sender = fixture.submission.admit_sender(&submitter, &path, already_counted).await;
        let admitted = fixture.submission.admit_recipient(&submitter, &recipient, true, earlier).await;
        assert_eq!((sender.is_ok(), admitted.is_ok()), (already_counted, already_counted));
    }
    let refused = fixture.submission.accept(submission(&submitter)).await.unwrap_err();
    assert_eq!(refused.code, RefusalCode::DailySendLimitExceeded);
}

#[tokio::test]
async fn a_duplicate_submission_has_the_same_parameters() {
    let fixture = Fixture::make().await;
    let submitter = fixture.submitter("one").await;
    let at = |seconds| Some(Timestamp::now() + SignedDuration::from_secs(seconds));
    let scheduled = |hold_for_s, release_at| {
        let mut submission = keyed(&submitter);
        submission.envelope.parameters =
            MailParameters { hold_for_s, release_at, ..MailParameters::default() };
        submission
    };
    let first = fixture.submission.accept(scheduled(Some(60), at(60))).await.unwrap();
    assert_eq!(
        fixture.submission.accept(scheduled(Some(60), at(65))).await.unwrap(),
        first,
        "HOLDFOR said the same"
    );
    let mut others = vec![scheduled(Some(61), at(61)), scheduled(None, at(60)), keyed(&submitter)];
    for change in [
        |submission: &mut Submission| submission.envelope.parameters.require_tls = true,
        |submission: &mut Submission| submission.envelope.parameters.envelope_id = "x".parse().ok(),
        |submission: &mut Submission| {
            submission.envelope.parameters.return_content = Some(crate::mail::ReturnContent::Full);
        },
        |submission: &mut Submission| {
            let never = Notify { success: false, failure: false, delay: false };
            submission.envelope.recipients[0].parameters.notify = Some(never);
        },
        |submission: &mut Submission| {
            submission.envelope.recipients[0].parameters.original_recipient = "rfc822;b".parse().ok();
        },
    ] {
        let mut other = scheduled(Some(60), at(60));
        change(&mut other);
        others.push(other);
    }
    for other in others {
        let refused = fixture.submission.accept(other).await.unwrap_err();
        assert_eq!(refused.code, RefusalCode::IdempotencyKeyReused);
    }
}

#[tokio::test]
async fn each_command_looks_up_the_key_once_and_so_does_storing() {
    let fixture = Fixture::make().await;
    let submitter = fixture.limited_submitter("limited", Some(9)).await;
    let service = &fixture.submission;
    let lookups = || service.directory.key_lookups.swap(0, std::sync::atomic::Ordering::Relaxed);
    let mut envelope = keyed(&submitter).envelope;
    let recipient = envelope.recipients.remove(0).address;
    service.admit_sender(&submitter, &envelope.reverse_path, false).await.unwrap();
    assert_eq!(lookups(), 1, "MAIL");
    service.admit_recipient(&submitter, &recipient, true, Some(0)).await.unwrap();
    assert_eq!(lookups(), 1, "RCPT");
    let message =
        b"From: a@sandbox.example\r\nSender: a@sandbox.example\r\nIdempotency-Key: k\r\n\r\nhello\r\n";
    let submission = Submission { message: Bytes::from_static(message), ..submission(&submitter) };
    let checked = service.check(submission).await.unwrap();
    assert_eq!(lookups(), 1, "the end of DATA");
    service.enqueue(checked).await.unwrap();
    assert_eq!(lookups(), 1, "storing");
}

#[tokio::test]
async fn a_revoked_key_or_suspended_tenant_is_noticed_at_every_command_of_a_transaction() {
    let fixture = Fixture::make().await;
    let submitter = fixture.submitter("one").await;
    let service = &fixture.submission;
    let checked = service.check(submission(&submitter)).await.unwrap();
    let (path, recipient) =
        (submission(&submitter).envelope.reverse_path, Address::parse("b@else.example").unwrap());
    let suspended = TenantPatch { status: Some(TenantStatus::Suspended), ..TenantPatch::default() };
    fixture.store.update_tenant(submitter.tenant.id, suspended, Timestamp::now()).await.unwrap();
    let again = service.check(submission(&submitter)).await;
    assert_eq!(again.map(drop).unwrap_err().code, RefusalCode::TenantSuspended);
    assert_eq!(service.enqueue(checked).await.unwrap_err().code, RefusalCode::TenantSuspended);
    let active = TenantPatch { status: Some(TenantStatus::Active), ..TenantPatch::default() };
    fixture.store.update_tenant(submitter.tenant.id, active, Timestamp::now()).await.unwrap();
    let checked = service.check(submission(&submitter)).await.unwrap();
    assert!(fixture.store.revoke_key(submitter.key.id, Timestamp::now()).await.unwrap());
    for refused in [
        service.admit_sender(&submitter, &path, false).await,
        service.admit_recipient(&submitter, &recipient, true, Some(0)).await,
        service.check(submission(&submitter)).await.map(drop),
        service.enqueue(checked).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().code, RefusalCode::RevokedApiKey);
    }
}
