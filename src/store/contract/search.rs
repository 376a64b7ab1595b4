//! Messages are found by what people know of them, however many there are and however a page is cut.

use super::*;

fn of(tenant_id: Option<TenantId>) -> MessageFilter {
    MessageFilter { tenant_id, ..MessageFilter::default() }
}

fn words(text: &str) -> MessageFilter {
    MessageFilter { subject: Some(text.parse().unwrap()), ..of(None) }
}

/// All pages of a list from one end to the other, in the order of ids.
async fn walk(
    bed: &TestBed<impl Harness>,
    filter: &MessageFilter,
    limit: usize,
    upwards: bool,
) -> Vec<MessageId> {
    let mut request = PageRequest { limit, ..PageRequest::default() };
    if upwards {
        request.before = Some(MessageId::from(ulid::Ulid::nil()).to_string());
    }
    let mut found = Vec::new();
    loop {
        let page = bed.store.list_messages(filter.clone(), request.clone()).await.unwrap();
        assert!(page.items.len() <= limit);
        let ids = page.items.into_iter().map(|summary| summary.message.id);
        if upwards {
            found.extend(ids.rev())
        } else {
            found.extend(ids)
        }
        let Some(next) = page.next.map(|id| id.to_string()) else { break };
        let cursor = if upwards { &mut request.before } else { &mut request.after };
        *cursor = Some(next);
    }
    if upwards {
        found.reverse();
    }
    found
}

async fn enqueue(
    bed: &TestBed<impl Harness>,
    tenant: TenantId,
    change: impl FnOnce(&mut NewMessage),
) -> Message {
    let mut new = new_message(tenant, &["x@one.example"], "body");
    change(&mut new);
    bed.store.enqueue(new.clone()).await.unwrap();
    new.message
}

async fn with_subject(bed: &TestBed<impl Harness>, tenant: TenantId, subject: &str) -> MessageId {
    enqueue(bed, tenant, |new| new.message.subject = Some(subject.to_owned())).await.id
}

pub(super) async fn words_of_a_subject_are_found_without_case_and_accents_and_the_last_by_its_beginning<
    H: Harness,
>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let invoice = with_subject(&bed, tenant, "Your Invoice 2026-17 for café AND tea").await;
    let other = with_subject(&bed, tenant, "Re: invoices of May (tea*)").await;
    with_subject(&bed, tenant, "").await;
    for (text, expected) in [
        ("invoice", vec![other, invoice]),
        ("INVOICE 2026", vec![invoice]),
        ("tea invoice", vec![other, invoice]),
        ("invo tea", vec![]),
        ("tea invo", vec![other, invoice]),
        ("cafe", vec![invoice]),
        ("te", vec![other, invoice]),
        // Of one letter only the whole word.
        ("t", vec![]),
        ("i-", vec![]),
        ("17", vec![invoice]),
        ("2026-17", vec![invoice]),
        ("17-2026", vec![]),
        ("AND", vec![invoice]),
        ("facets : x", vec![]),
        ("invoice OR may", vec![]),
        ("NEAR(invoice tea)", vec![]),
        ("\"invoice\" * ) (", vec![other, invoice]),
        ("^your", vec![invoice]),
        ("-tea", vec![other, invoice]),
        ("tea\0", vec![other, invoice]),
    ] {
        assert_eq!(walk(&bed, &words(text), 10, false).await, expected, "{text:?}");
    }
    for text in ["", " ", "*", "\"", "a b c d e f g h i j k", &"x".repeat(201)] {
        assert!(text.parse::<SubjectWords>().is_err(), "{text:?}");
    }
}

pub(super) async fn a_subject_of_any_length_is_indexed<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let word = with_subject(&bed, tenant, &format!("long {}", "\u{732b}".repeat(1_000))).await;
    let many: Vec<_> = (0..100_000).map(|number| format!("long{number}")).collect();
    let words_of = with_subject(&bed, tenant, &format!("long {}", many.join(" "))).await;
    assert_eq!(walk(&bed, &words("long"), 10, false).await, [words_of, word]);
}

pub(super) async fn every_combination_finds_what_it_means_in_pages_up_and_down<H: Harness>() {
    let bed = TestBed::<H>::without_hand_over().await;
    let tenants = [bed.tenant("a").await.id, bed.tenant("b").await.id];
    let senders = ["one@example.com", "two@example.com"];
    let mut all = Vec::new();
    for number in 0..60 {
        let message = enqueue(&bed, tenants[number % 2], |new| {
            new.message.reverse_path = ReversePath::Mailbox(address(senders[number / 2 % 2]));
            new.message.subject = Some(format!("number {} of many", number % 3));
            if number % 5 == 0 {
                new.recipients[0].1 = address("y@two.example").into();
            }
        })
        .await;
        all.push(message);
    }
    let batches = bed.claim(later(0)).await.batches;
    let mut states = std::collections::HashMap::new();
    let mut records = outcomes(&batches, DeliveryState::Delivered);
    for (number, (record, batch)) in records.records.iter_mut().zip(&batches).enumerate() {
        record.state = match number {
            0..40 => DeliveryState::Delivered,
            40..57 => DeliveryState::Bounced,
            _ => DeliveryState::Expired,
        };
        states.insert(batch.message.id, record.state);
    }
    bed.store.record(records).await.unwrap();
    let to = [None, Some(address("x@one.example")), Some(address("y@two.example"))];
    let from = [None, Some(ReversePath::Mailbox(address(senders[1])))];
    let subject = [None, Some("many num".parse::<SubjectWords>().unwrap()), Some("2".parse().unwrap())];
    let state =
        [None, Some(DeliveryState::Delivered), Some(DeliveryState::Bounced), Some(DeliveryState::Expired)];
    for choice in 0..2 * 3 * 2 * 3 * 4 {
        let filter = MessageFilter {
            tenant_id: [None, Some(tenants[0])][choice % 2],
            to: to[choice / 2 % 3].clone(),
            from: from[choice / 6 % 2].clone(),
            subject: subject[choice / 12 % 3].clone(),
            status: state[choice / 36],
            ..MessageFilter::default()
        };
        let number = |message: &Message| all.iter().position(|one| one.id == message.id).unwrap();
        let mut expected: Vec<_> = all
            .iter()
            .filter(|message| filter.tenant_id.is_none_or(|tenant| message.tenant_id == tenant))
            .filter(|message| filter.from.as_ref().is_none_or(|from| message.reverse_path == *from))
            .filter(|message| {
                let is_fifth = number(message) % 5 == 0;
                filter.to.as_ref().is_none_or(|to| (to.to_string() == "y@two.example") == is_fifth)
            })
            .filter(|message| choice / 12 % 3 != 2 || number(message) % 3 == 2)
            .filter(|message| filter.status.is_none_or(|state| states[&message.id] == state))
            .map(|message| message.id)
            .collect();
        expected.reverse();
        for upwards in [false, true] {
            assert_eq!(walk(&bed, &filter, 7, upwards).await, expected, "{filter:?}, upwards: {upwards}");
        }
    }
}

pub(super) async fn messages_are_found_by_key_recipient_domain_and_metadata<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (tenant, other) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let key = KeyId::generate(now());
    let metadata = serde_json::json!({
        "order": 4711, "user": "4711", "paid": true, "note": "a b", "nested": {"order": 1}, "none": null, "": "x",
    });
    let rich = enqueue(&bed, tenant, |new| {
        new.message.key_id = Some(key);
        new.message.annotations.metadata = Metadata::of(metadata.as_object().unwrap());
        new.recipients.push((DeliveryId::generate(now()), address("y@sub.one.example").into()));
    });
    let rich = rich.await.id;
    let plain = enqueue(&bed, tenant, |_| {}).await.id;
    let theirs = enqueue(&bed, other, |new| {
        let object = serde_json::json!({"order": "4711"});
        new.message.annotations.metadata = Metadata::of(object.as_object().unwrap());
    });
    let theirs = theirs.await.id;
    let of_key = |id| MessageFilter { key_id: Some(id), ..of(None) };
    assert_eq!(walk(&bed, &of_key(key), 10, false).await, [rich]);
    assert_eq!(walk(&bed, &of_key(KeyId::generate(now())), 10, false).await, []);
    let domain = |text: &str| MessageFilter { recipient_domain: DomainName::parse(text).ok(), ..of(None) };
    assert_eq!(walk(&bed, &domain("one.example"), 10, false).await, [theirs, plain, rich]);
    assert_eq!(walk(&bed, &domain("sub.one.example"), 10, false).await, [rich]);
    assert_eq!(walk(&bed, &domain("example"), 10, false).await, []);
    let with = |pairs: &[(&str, &str)], tenant_id| MessageFilter {
        metadata: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..of(tenant_id)
    };
    for (pairs, expected) in [
        (&[("order", "4711")][..], vec![theirs, rich]),
        (&[("order", "4711"), ("user", "4711"), ("paid", "true")], vec![rich]),
        (&[("note", "a b")], vec![rich]),
        (&[("note", "a")], vec![]),
        (&[("", "x")], vec![rich]),
        (&[("order", "471")], vec![]),
        (&[("Order", "4711")], vec![]),
        (&[("none", "null")], vec![]),
        (&[("nested", "{\"order\":1}")], vec![]),
    ] {
        assert_eq!(walk(&bed, &with(pairs, None), 10, false).await, expected, "{pairs:?}");
    }
    assert_eq!(walk(&bed, &with(&[("order", "4711")], Some(tenant)), 10, false).await, [rich]);
    // Few deliveries are bounced, so the page examines them one by one.
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Bounced)).await.unwrap();
    let delivery_state = Some(DeliveryState::Bounced);
    for filter in [of_key(key), domain("sub.one.example"), with(&[("user", "4711")], None)] {
        let filter = MessageFilter { delivery_state, ..filter };
        assert_eq!(walk(&bed, &filter, 10, false).await, [rich], "{filter:?}");
    }
}

pub(super) async fn a_message_is_listed_once_however_many_of_its_deliveries_are_meant<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut expected = Vec::new();
    for _ in 0..3 {
        expected.insert(0, bed.enqueue(tenant, &["x@one.example", "y@one.example"]).await.message.id);
    }
    let in_state = |state, tenant_id| MessageFilter { delivery_state: Some(state), ..of(tenant_id) };
    for scope in [None, Some(tenant)] {
        let found = walk(&bed, &in_state(DeliveryState::Queued, scope), 2, false).await;
        assert_eq!(found, expected);
    }
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Bounced)).await.unwrap();
    for scope in [None, Some(tenant)] {
        for upwards in [false, true] {
            let found = walk(&bed, &in_state(DeliveryState::Bounced, scope), 2, upwards).await;
            assert_eq!(found, expected);
        }
    }
}

/// Lists by every status and through every source of candidates, and checks the status of all that is listed.
async fn list_by_status(bed: &TestBed<impl Harness>, source: &MessageFilter) -> Vec<MessageId> {
    let mut listed = Vec::new();
    for status in DeliveryState::ALL {
        let filter = MessageFilter { status: Some(*status), ..source.clone() };
        let found = bed.store.list_messages(filter.clone(), page(100)).await.unwrap().items;
        for summary in found {
            assert_eq!(DeliveryState::combine(&summary.states), *status, "{filter:?} lists {summary:?}");
            listed.push(summary.message.id);
        }
    }
    listed.sort();
    listed
}

const RECIPIENTS: [&str; 2] = ["x@one.example", "y@one.example"];

pub(super) async fn a_list_by_status_has_each_message_under_the_status_that_it_shows<H: Harness>() {
    use DeliveryState::{Bounced, Cancelled, Deferred, Delivered, Expired, Queued};
    let bed = TestBed::<H>::without_hand_over().await;
    let tenant = bed.tenant("a").await.id;
    // Fewer than one page looks at, more than are few.
    let states = [Deferred, Delivered, Bounced, Expired, Cancelled, Queued];
    let mut pairs = Vec::new();
    for pair in (0..18).map(|number| [states[number % 6], states[(number + number / 6) % 6]]) {
        let subject = Some("about many".to_owned());
        let mut new = new_message(tenant, &RECIPIENTS, "body");
        new.message.subject = subject;
        bed.store.enqueue(new.clone()).await.unwrap();
        pairs.push((new.message.id, pair));
    }
    let batches = bed.claim(later(0)).await.batches;
    let mut records = outcomes(&batches, Delivered);
    for record in &mut records.records {
        let (_, pair) = pairs.iter().find(|(id, _)| *id == record.message_id).unwrap();
        let batch = batches.iter().find(|batch| batch.message.id == record.message_id).unwrap();
        let first = batch
            .deliveries
            .iter()
            .any(|d| d.id == record.delivery_id && d.recipient == address(RECIPIENTS[0]));
        record.state = pair[usize::from(!first)];
        record.next_attempt_at = record.state.is_open().then(|| later(3600));
    }
    records.records.retain(|record| record.state != Queued);
    bed.store.record(records).await.unwrap();
    let mut all: Vec<_> = pairs.iter().map(|(id, _)| *id).collect();
    all.sort();
    let to = MessageFilter { to: Some(address(RECIPIENTS[1])), ..of(None) };
    for source in [of(None), of(Some(tenant)), words("many"), to] {
        assert_eq!(list_by_status(&bed, &source).await, all, "{source:?}");
        for status in states {
            let filter = MessageFilter { delivery_state: Some(status), ..source.clone() };
            let mut expected: Vec<_> =
                pairs.iter().filter(|(_, pair)| pair.contains(&status)).map(|(id, _)| *id).collect();
            expected.reverse();
            assert_eq!(walk(&bed, &filter, 100, false).await, expected, "{filter:?}");
            let both = MessageFilter { status: Some(Bounced), ..filter };
            expected.retain(|id| {
                let pair = pairs.iter().find(|(one, _)| one == id).unwrap().1;
                DeliveryState::combine(&pair) == Bounced
            });
            assert_eq!(walk(&bed, &both, 100, false).await, expected, "{both:?}");
        }
    }
}

pub(super) async fn a_list_by_status_shows_no_other_status_while_deliveries_end<H: Harness>() {
    let bed = TestBed::<H>::without_hand_over().await;
    let tenant = bed.tenant("a").await.id;
    for _ in 0..20 {
        bed.enqueue(tenant, &RECIPIENTS).await;
    }
    let batches = bed.claim(later(0)).await.batches;
    let mut rounds = Vec::new();
    for batch in &batches {
        for (delivery, state) in
            batch.deliveries.iter().zip([DeliveryState::Bounced, DeliveryState::Delivered])
        {
            let record = outcome(tenant, delivery, state);
            rounds.push(RecordBatch { records: vec![record], report: None });
        }
    }
    let ended = async {
        for round in rounds {
            bed.store.record(round).await.unwrap();
        }
    };
    let lists = async {
        loop {
            for source in
                [of(None), of(Some(tenant)), MessageFilter { to: Some(address(RECIPIENTS[1])), ..of(None) }]
            {
                list_by_status(&bed, &source).await;
            }
        }
    };
    tokio::select! {
        () = ended => {}
        () = lists => {}
    }
    assert_eq!(list_by_status(&bed, &of(None)).await.len(), 20);
}

pub(super) async fn messages_are_found_by_the_microsecond_they_were_accepted_at<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut messages = Vec::new();
    let begin = now();
    for number in 0..6 {
        // Two in each millisecond, so that their ids do not tell which was first.
        let at = begin + SignedDuration::from_micros(500 * number);
        let message = enqueue(&bed, tenant, |new| {
            new.message.id = MessageId::generate(at);
            new.message.created_at = at;
        });
        messages.push(message.await);
    }
    for (since, until) in [(None, Some(3)), (Some(2), None), (Some(1), Some(4)), (Some(3), Some(3))] {
        let at = |number: Option<usize>| number.map(|number| messages[number].created_at);
        let request = PageRequest {
            limit: 100,
            created_after: at(since),
            created_before: at(until),
            ..PageRequest::default()
        };
        let by_address = MessageFilter { to: Some(address("x@one.example")), ..of(None) };
        for filter in [of(None), of(Some(tenant)), by_address] {
            let page = bed.store.list_messages(filter, request.clone()).await.unwrap();
            let mut found: Vec<_> = page.items.iter().map(|found| found.message.created_at).collect();
            found.sort();
            let expected = &messages[since.unwrap_or(0)..until.unwrap_or(6)];
            assert!(found.iter().eq(expected.iter().map(|message| &message.created_at)), "{request:?}");
        }
    }
}

pub(super) async fn a_message_of_many_recipients_is_found_by_each_and_makes_a_round_of_its_own<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let recipients: Vec<_> = (0..1000).map(|number| format!("u{number}@one.example")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    for _ in 0..6 {
        bed.enqueue(tenant, &recipients).await;
    }
    let last = bed.enqueue(tenant, &["u999@one.example"]).await.message.id;
    let to = |text| MessageFilter { to: Some(address(text)), ..of(Some(tenant)) };
    assert!(bed.store.index_messages().await.unwrap(), "5,000 recipients are enough for a round");
    assert!(!bed.store.index_messages().await.unwrap());
    assert_eq!(walk(&bed, &to("u0@one.example"), 10, false).await.len(), 6);
    let found = walk(&bed, &to("u999@one.example"), 10, false).await;
    assert_eq!((found.len(), found[0]), (7, last));
}

/// A page that is not full returns the id at which the next one starts.
pub(super) async fn a_list_of_a_tenant_tells_of_no_message_of_another<H: Harness>() {
    let bed = TestBed::<H>::without_hand_over().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    let first = bed.enqueue(a, &["x@one.example"]).await.message.id;
    for _ in 0..50 {
        bed.enqueue(b, &["x@one.example"]).await;
    }
    let mut own = vec![first];
    for _ in 0..30 {
        own.push(bed.enqueue(a, &["x@one.example"]).await.message.id);
    }
    let delivered = Some(DeliveryState::Delivered);
    let to = MessageFilter { to: Some(address("x@one.example")), ..of(Some(a)) };
    for filter in
        [MessageFilter { status: delivered, ..to }, MessageFilter { status: delivered, ..of(Some(a)) }]
    {
        let mut request = PageRequest { limit: 10, ..PageRequest::default() };
        let mut pages = 0;
        while let Some(next) = bed.store.list_messages(filter.clone(), request.clone()).await.unwrap().next {
            assert!(own.contains(&next));
            request.after = Some(next.to_string());
            pages += 1;
        }
        assert_eq!(pages, 1, "20 of 31 are looked at, then 11");
    }
}

pub(super) async fn messages_of_one_millisecond_are_all_found<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let at = now();
    let mut expected = Vec::new();
    for number in 0..100_u128 {
        let message = enqueue(&bed, tenant, |new| {
            let milliseconds = u64::try_from(at.as_millisecond()).unwrap();
            // Two of each hundred share all that makes a place.
            let random = ((number / 2) << 70) | number;
            new.message.id = ulid::Ulid::from_parts(milliseconds, random).into();
        })
        .await;
        expected.push(message.id);
    }
    let filter = MessageFilter { to: Some(address("x@one.example")), ..of(None) };
    let mut found = walk(&bed, &filter, 7, false).await;
    found.sort();
    assert_eq!(found, expected);
}

pub(super) async fn what_was_not_followed_yet_is_found_after_a_restart_and_what_is_removed_is_forgotten<
    H: Harness,
>() {
    let bed = TestBed::<H>::new().await;
    let tenant = bed.tenant("a").await.id;
    let first = with_subject(&bed, tenant, "first of all").await;
    assert!(!bed.store.index_messages().await.unwrap());
    let second = with_subject(&bed, tenant, "second of all").await;
    let bed = bed.restart().await;
    assert_eq!(walk(&bed, &words("all"), 10, false).await, [second, first]);
    let batches = bed.claim(later(0)).await.batches;
    bed.store.record(outcomes(&batches, DeliveryState::Delivered)).await.unwrap();
    let policy = RetentionPolicy { body_days: 0, transcript_days: 0, row_days: 0, ..KEEP };
    assert_eq!(bed.store.prune(policy, later(60), 1).await.unwrap().messages, 1);
    assert_eq!(walk(&bed, &words("all"), 10, false).await, [second]);
    assert!(bed.store.remove_tenant(tenant, now()).await.unwrap().is_some());
    assert_eq!(walk(&bed, &words("all"), 10, false).await, []);
}

pub(super) async fn what_comes_is_found_though_the_last_event_is_gone_and_the_clock_went_back<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (gone, tenant) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    enqueue(&bed, gone, |new| new.message.created_at = later(3600)).await;
    assert!(!bed.store.index_messages().await.unwrap());
    assert!(bed.store.remove_tenant(gone, now()).await.unwrap().is_some());
    let bed = bed.restart().await;
    let id = with_subject(&bed, tenant, "after all").await;
    assert_eq!(walk(&bed, &words("all"), 10, false).await, [id]);
}

pub(super) async fn a_list_by_tenant_and_environment_has_what_the_index_does_not_have_yet<H: Harness>() {
    let bed = TestBed::<H>::new().await;
    let (a, b) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
    // More events than one round indexes.
    let of_others = (0..600).map(|_| new_message(b, &["x@one.example"], "body"));
    bed.store.enqueue_all(of_others.collect()).await.unwrap();
    let test = enqueue(&bed, a, |new| new.message.environment = Environment::Test).await.id;
    // More messages than one page examines.
    let mut live = Vec::new();
    for _ in 0..30 {
        live.insert(0, enqueue(&bed, a, |_| {}).await.id);
    }
    for (tenant, environment, expected) in [
        (Some(a), Environment::Live, &live[..10]),
        (Some(a), Environment::Test, &[test][..]),
        (None, Environment::Test, &[test][..]),
    ] {
        let filter = MessageFilter { environment: Some(environment), ..of(tenant) };
        let page = bed.store.list_messages(filter, page(10)).await.unwrap();
        let found: Vec<_> = page.items.iter().map(|summary| summary.message.id).collect();
        assert_eq!(found, expected, "{tenant:?} {environment}");
        assert_eq!(page.next.is_some(), expected.len() == 10);
    }
}
