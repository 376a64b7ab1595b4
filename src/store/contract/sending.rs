//! What sending over HTTP needs: templates, answers that are given again, notes on messages.

use super::*;

pub(super) async fn a_template_is_its_tenants_own_and_its_name_unique_there<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let made = bed.store.create_template(new_template(a, "hello"), now()).await.unwrap();
    assert_eq!(bed.store.template(Some(a), made.id).await.unwrap(), Some(made.clone()));
    assert_eq!(bed.store.template(Some(b), made.id).await.unwrap(), None);
    let taken = bed.store.create_template(new_template(a, "hello"), now()).await;
    assert!(matches!(taken, Err(StoreError::Conflict(Conflict::TemplateName))), "{taken:?}");
    bed.store.create_template(new_template(b, "hello"), now()).await.unwrap();
    let patch = TemplatePatch { text: Some(None), html: Some(Some("<p>".into())), ..Default::default() };
    let changed_at = later(9);
    let changed = bed.store.update_template(made.id, patch, changed_at).await.unwrap().unwrap();
    let expected = Template { text: None, html: Some("<p>".into()), updated_at: changed_at, ..made.clone() };
    assert_eq!(changed, expected);
    let listed = bed
        .store
        .list_templates(TemplateFilter { tenant_id: Some(a), name: None }, page(10))
        .await
        .unwrap()
        .items;
    let Template { id, tenant_id, name, subject, created_at, updated_at, .. } = expected;
    assert_eq!(listed, [TemplateSummary { id, tenant_id, name, subject, created_at, updated_at }]);
    assert_eq!(bed.store.list_templates(TemplateFilter::default(), page(10)).await.unwrap().items.len(), 2);
    assert!(!bed.store.delete_template(Some(b), made.id).await.unwrap());
    assert!(bed.store.delete_template(Some(a), made.id).await.unwrap());
}

pub(super) async fn an_answer_is_kept_for_a_day_and_the_first_one_stays<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let new = || new_key(Some(tenant), &KeySecret::generate(Environment::Live));
    let key = bed.store.create_key(new(), now()).await.unwrap().id;
    let other = bed.store.create_key(new(), now()).await.unwrap().id;
    let answer = |body: &str| IdempotentResponse {
        digest: [7; 32],
        status: 201,
        body: body.as_bytes().to_vec().into(),
    };
    let start = now();
    let after = |seconds| start + SignedDuration::from_secs(seconds);
    bed.store.store_idempotent_response(key, "n", answer("first"), start).await.unwrap();
    bed.store.store_idempotent_response(key, "n", answer("second"), after(60)).await.unwrap();
    let day = 24 * 60 * 60;
    assert_eq!(bed.store.idempotent_response(key, "n", after(day)).await.unwrap(), Some(answer("first")));
    assert_eq!(bed.store.idempotent_response(other, "n", start).await.unwrap(), None);
    assert_eq!(bed.store.idempotent_response(key, "n", after(day + 1)).await.unwrap(), None);
    // As if it had never been, even before the janitor has come by.
    bed.store.store_idempotent_response(key, "n", answer("third"), after(day + 1)).await.unwrap();
    assert_eq!(bed.store.idempotent_response(key, "n", after(day + 2)).await.unwrap(), Some(answer("third")));
    assert_eq!(bed.store.prune(KEEP, after(3 * day), 10).await.unwrap().idempotent_responses, 1);
}

pub(super) async fn the_notes_of_a_message_are_read_back_and_its_tags_find_it<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut new = new_message(tenant, &["x@one.example"], "tagged");
    new.suppressed = vec![address("gone@one.example")];
    let (id, annotations) = (new.message.id, new.message.annotations.clone());
    assert!(!annotations.tags.is_empty() && !annotations.metadata.is_empty());
    bed.store.enqueue(new).await.unwrap();
    let mut plain = new_message(tenant, &["x@one.example"], "plain");
    plain.message.annotations = Annotations::default();
    let plain_id = plain.message.id;
    bed.store.enqueue(plain).await.unwrap();
    assert_eq!(bed.store.message(None, id).await.unwrap().unwrap().annotations, annotations);
    assert_eq!(bed.store.message(None, plain_id).await.unwrap().unwrap().annotations, Annotations::default());
    for tenant_id in [Some(tenant), None] {
        let filter = MessageFilter { tenant_id, tag: Some("welcome".into()), ..Default::default() };
        let found = bed.store.list_messages(filter, page(10)).await.unwrap().items;
        assert_eq!(found.iter().map(|one| one.message.id).collect::<Vec<_>>(), [id]);
    }
    let events = bed.store.message_events(id, None, 10).await.unwrap().items;
    let left_out: Vec<_> = events.iter().filter(|e| e.kind == EventKind::MessageSuppressed).collect();
    assert_eq!(left_out.len(), 1);
    assert_eq!(left_out[0].data["recipient"], "gone@one.example");
}
