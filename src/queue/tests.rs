//! The queue manager over a real store: each test takes an engine as its parameter, as the contract tests of the store do.

mod claims;
mod deliveries;
mod nodes;
mod operator_actions;
mod site_backoff;

use std::ops::Deref;
use std::sync::Arc;

use super::{ClaimCounts, ClaimLimits, Claimed, QueueDepth, QueueManager};
use crate::clock::Clock;
use crate::config;
use crate::mail::{Host, ReversePath, SignedDuration, Timestamp};
use crate::model::{DeliveryId, DeliveryState, Environment, QueueFilter, TenantId};
use crate::rng::Rng;
use crate::store::contract::{
    Harness, KEEP, TestBed, ids, later, new_message, new_suppression, now, outcomes,
};
use crate::store::*;

macro_rules! run_on {
    ($engine:ident, $Harness:ty) => {
        mod $engine {
            crate::store::contract::engine_tests! {
                $Harness;
                claims {
                    the_room_is_split_between_tenants_however_deep_one_queue_is,
                    a_tenant_never_has_more_out_than_its_limit,
                    a_saturated_destination_holds_up_nothing_but_itself,
                    more_than_one_pass_looks_at_is_reached_by_the_next_ones,
                    a_suspended_tenant_is_held_and_resumes,
                    a_suspended_tenant_is_held_over_a_restart,
                    a_batch_holds_at_most_a_hundred_deliveries,
                    what_does_not_fit_into_memory_is_claimed_from_the_database,
                    recipients_take_room_in_memory_too,
                    with_room_for_one_neither_fresh_mail_nor_what_is_due_again_waits_for_ever,
                    a_flood_of_fresh_mail_leaves_room_for_what_is_due_again,
                    a_claim_that_nobody_waited_for_is_released,
                    what_cannot_be_recorded_is_not_due_until_it_is_released,
                    nothing_is_handed_out_twice_whoever_races,
                    fresh_mail_is_claimed_evenly_and_what_finds_no_room_is_left_to_the_next_claim,
                    a_call_examines_a_bounded_number_of_refused_destinations_and_the_next_continues,
                }
                deliveries {
                    an_accepted_message_is_handed_over_in_memory_with_its_bytes,
                    a_message_claimed_from_the_database_is_the_one_that_was_accepted,
                    what_was_unfinished_before_a_crash_is_due_after_it,
                    a_deferred_delivery_is_due_again_at_its_time_and_not_before,
                    a_delivery_that_is_held_back_is_as_it_was_and_counts_no_attempt,
                    what_waits_for_another_try_is_made_due_and_nothing_else,
                    more_than_one_step_holds_is_made_due,
                    a_message_that_is_held_is_due_when_it_is_released_and_not_before,
                    a_submission_under_the_same_key_is_stored_once_for_a_day,
                    of_submissions_at_the_same_time_under_one_key_one_is_stored,
                    a_released_delivery_is_due_as_it_was_and_wakes_the_relay,
                    a_final_state_is_final,
                    a_report_is_a_message_of_the_tenant_written_with_the_records,
                    records_of_a_removed_tenant_are_passed_over_with_their_report,
                    a_job_that_fails_does_not_take_others_with_it,
                    a_recipient_is_suppressed_by_the_record_and_told_once,
                    a_dropped_enqueue_is_done_whole_or_not_at_all,
                }
                operator_actions {
                    a_paused_destination_is_held_for_everybody_and_resumes,
                    a_pause_of_one_tenants_mail_for_a_destination_holds_nothing_else,
                    a_pause_of_all_mail_holds_everybody_and_ends_by_hand_or_by_itself,
                    a_pause_holds_no_test_mail_but_a_suspension_does,
                    what_its_tenant_holds_counts_as_paused,
                    a_pause_ends_by_itself_when_its_time_has_come,
                    a_later_pause_of_the_same_part_replaces_the_one_before,
                    pauses_outlive_a_restart,
                    what_fell_due_while_its_tenant_was_held_is_due_when_that_ended,
                    the_pauses_of_a_tenant_go_with_it_and_nobody_elses_can_be_made,
                    a_flush_makes_due_what_was_tried_and_leaves_what_is_scheduled,
                    a_retry_makes_one_messages_deferred_deliveries_due,
                    what_is_cancelled_is_never_handed_out_and_what_is_in_flight_is_told,
                    the_overview_counts_each_group_and_says_why_it_is_due_later,
                    the_groups_of_a_long_queue_come_page_by_page_each_once,
                }
                site_backoff {
                    a_site_is_tried_again_when_its_rest_is_over_and_begins_anew_when_it_accepts_something,
                    a_claim_of_a_former_lease_is_not_delivered,
                }
            }
        }
    };
}

run_on!(sqlite, crate::store::contract::SqliteHarness);
run_on!(postgres, crate::store::contract::postgres::PostgresHarness);

/// A store in a directory of its own, and its queue manager.
struct Bed<H> {
    bed: TestBed<H>,
    queue: Arc<QueueManager>,
}

impl<H> Deref for Bed<H> {
    type Target = TestBed<H>;
    fn deref(&self) -> &TestBed<H> {
        &self.bed
    }
}

impl<H: Harness> Bed<H> {
    fn over(bed: TestBed<H>) -> Self {
        let queue = Arc::new(QueueManager::new(
            Arc::clone(&bed.store),
            &config::Relay::default(),
            Clock::system(),
            Rng::system(),
        ));
        Self { bed, queue }
    }

    async fn new() -> Self {
        Self::with_hot_queue(1024 * 1024).await
    }

    async fn with_hot_queue(octets: u64) -> Self {
        Self::over(TestBed::with_hot_queue(octets).await)
    }

    /// Without a hot queue: everything is claimed from the database.
    async fn without_hand_over() -> Self {
        Self::over(TestBed::without_hand_over().await)
    }

    /// As after a crash: nothing is closed, what memory knew is gone.
    async fn restart(self) -> Self {
        let Self { bed, queue } = self;
        drop(queue);
        Self::over(bed.restart().await)
    }

    async fn claim(&self, at: Timestamp) -> Claimed {
        self.settle().await;
        self.queue.claim_due(at, &plenty()).await.unwrap()
    }

    /// Waits until the database knows of all releases. PostgreSQL learns of them later.
    async fn settle(&self) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        // Gives the releases so far to the store.
        drop(self.queue.lock());
        while self.store.has_given_back() {
            assert!(std::time::Instant::now() < end, "the database does not learn of releases");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

fn plenty() -> ClaimLimits {
    ClaimLimits { deliveries_max: 1000, per_tenant_max: 1000, admits: Arc::new(|_: &Host| true) }
}
