//! The tests that every engine passes. A test that is missing here is dead code, which clippy refuses.

macro_rules! run_on {
    ($engine:ident, $Harness:ty) => {
        mod $engine {
            engine_tests! {
                $Harness;
                acme_accounts {
                    an_account_belongs_to_its_directory_and_is_replaced,
                }
                audit {
                    an_entry_is_stored_with_its_change_and_completed_afterwards,
                    a_crash_after_the_change_leaves_its_entry,
                    what_changes_nothing_or_is_refused_leaves_no_entry,
                    of_a_tenant_with_all_its_entries_the_oldest_makes_room,
                    entries_are_found_by_owner_key_operation_and_object,
                    entries_end_after_their_retention,
                    a_change_fails_if_another_request_has_changed_the_object,
                    of_two_requests_with_one_idempotency_key_one_changes_something,
                    the_octets_of_stored_responses_are_counted_by_tenant_and_day,
                }
                sign_ins {
                    a_session_holds_after_a_restart_with_what_was_changed,
                    of_many_who_take_a_link_one_gets_it,
                    the_sessions_of_an_owner_do_not_end_those_of_others,
                    the_sessions_of_all_keys_of_a_tenant_do_not_end_those_of_others,
                    the_revocation_of_a_key_ends_the_sessions_and_links_of_all_its_secrets,
                }
                tenants {
                    a_tenant_is_read_back_as_it_was_written_and_changed,
                    a_smart_host_password_is_kept_replaced_and_cleared,
                    a_slug_is_used_once,
                    the_default_tenant_is_made_once_unless_its_slug_is_in_use,
                    lists_go_from_new_to_old_and_page_both_ways,
                    removing_a_tenant_counts_first_and_leaves_the_others,
                    a_change_of_status_has_its_event_and_a_patch_without_one_none,
                }
                domains {
                    a_pending_claim_blocks_nobody_and_the_first_to_prove_it_wins,
                    the_platform_can_vouch_for_a_domain_and_checks_do_not_undo_that,
                    a_check_that_finds_nothing_new_leaves_the_version_of_the_directory,
                    domains_are_checked_again_the_longest_unchecked_first,
                    the_domains_that_cover_a_sender_are_found_on_whole_labels_the_closest_first,
                    a_dkim_key_signs_once_its_record_is_seen_and_the_one_before_it_retires,
                    a_replaced_dkim_key_goes_when_nothing_that_it_signed_waits_any_more,
                    a_domain_has_so_many_dkim_keys_of_which_one_waits_for_its_first_record,
                }
                keys {
                    a_key_is_found_by_its_secret_and_can_be_revoked_once,
                    a_key_has_an_event_14_and_3_days_before_its_expiry_each_once,
                    of_a_tenant_with_all_its_keys_the_oldest_revoked_one_makes_room,
                    a_deleted_domain_leaves_its_keys_which_stay_restricted,
                }
                suppressions {
                    a_tenants_own_suppression_goes_before_the_platforms_and_an_expired_one_stops_nothing,
                    a_suppression_stops_mail_of_its_environment_only,
                    many_addresses_are_suppressed_together_or_not_at_all,
                    an_address_that_is_suppressed_again_counts_once,
                    an_expired_suppression_is_deleted_and_counts_no_more,
                    what_a_person_suppresses_stays_although_its_site_becomes_suspicious,
                    a_suppression_concerns_all_mail_that_was_accepted_before_its_commit,
                }
                directory {
                    a_foreign_object_is_as_absent_as_one_that_never_was,
                    a_tenant_has_so_many_objects_and_no_more,
                    what_is_refused_has_changed_nothing_before,
                    a_change_advances_the_versions_that_it_concerns_and_no_others,
                    the_events_of_many_keys_that_expire_at_once_are_appended_in_several_commits,
                }
                journal {
                    the_journal_is_read_on_from_any_position_also_after_a_restart,
                    the_events_of_a_tenant_are_read_on_from_any_position,
                    the_journal_and_the_states_agree,
                    an_event_tells_what_the_reply_was,
                    a_message_in_a_list_has_the_last_reply_to_a_delivery_of_its_status,
                    of_a_long_story_as_much_is_read_as_was_asked_for,
                    messages_are_found_by_what_people_know_of_them,
                    a_report_is_listed_apart_and_raises_no_event_counts_nowhere_and_suppresses_nobody,
                    a_refusal_is_noted_without_waiting_and_seen_by_its_tenant_only,
                    retention_counts_from_the_last_delivery_and_spares_what_is_open,
                    bodies_of_a_tenant_go_when_it_wants_and_before_its_rows,
                    what_is_to_go_is_found_behind_a_long_queue_that_is_older,
                    pruning_takes_no_more_than_its_limit,
                    recipients_of_one_try_share_its_transcript_which_goes_before_the_attempts_do,
                }
                outbox {
                    what_is_to_be_told_outlives_a_crash,
                    a_webhook_gets_the_events_of_its_environments_and_of_shared_objects,
                    later_events_of_a_message_wait_for_the_first_tries_of_an_earlier_one,
                    what_waits_for_an_earlier_event_is_not_due_before_it,
                    a_webhook_that_fails_for_days_is_disabled_and_one_success_begins_anew,
                    a_webhook_that_does_not_keep_up_is_disabled_before_it_fills_the_disk,
                    waiting_events_of_a_tenant_take_so_much_and_a_webhook_that_keeps_up_stays,
                    what_a_transaction_took_back_is_not_told,
                    what_was_told_is_forgotten_after_its_retention_and_goes_with_its_webhook,
                    a_page_of_events_looks_at_so_many_and_says_where_to_go_on,
                    pages_of_events_skip_nothing_and_show_no_id_of_another_tenant,
                    events_of_a_type_without_message_are_found_behind_any_number_of_others,
                    events_are_found_by_the_microsecond_they_happened_at,
                }
                reports {
                    a_late_failure_bounces_the_delivery_once_with_event_suppression_and_usage,
                    a_report_that_comes_again_is_counted_and_changes_nothing,
                    a_failure_that_is_reported_before_and_after_the_success_bounces_the_delivery,
                    a_failure_of_a_delivery_that_is_not_delivered_is_an_event_and_suppresses,
                    a_report_without_proof_of_its_recipient_changes_no_state,
                    a_recipient_complains_once,
                    a_recipient_leaves_a_list_once_also_when_the_message_is_gone,
                    a_recipient_who_unsubscribes_again_by_mail_leaves_a_list_that_he_joined_again,
                    a_day_has_16_reports_of_a_delivery_and_all_days_64,
                    a_report_goes_with_its_message_and_its_text_before,
                    reports_are_listed_by_owner_environment_message_kind_and_effect,
                    an_automatic_suppression_shortens_none_and_one_of_a_list_stops_that_list_only,
                    earlier_generations_of_keys_end_after_sixty_days_or_at_once,
                }
                sts_policies {
                    a_policy_survives_a_restart_and_ends_when_it_expires,
                    the_policies_that_were_fetched_longest_ago_come_first,
                }
                search {
                    words_of_a_subject_are_found_without_case_and_accents_and_the_last_by_its_beginning,
                    a_subject_of_any_length_is_indexed,
                    every_combination_finds_what_it_means_in_pages_up_and_down,
                    messages_are_found_by_key_recipient_domain_and_metadata,
                    a_message_is_listed_once_however_many_of_its_deliveries_are_meant,
                    a_list_by_status_has_each_message_under_the_status_that_it_shows,
                    a_list_by_status_shows_no_other_status_while_deliveries_end,
                    messages_are_found_by_the_microsecond_they_were_accepted_at,
                    a_message_of_many_recipients_is_found_by_each_and_makes_a_round_of_its_own,
                    a_list_of_a_tenant_tells_of_no_message_of_another,
                    messages_of_one_millisecond_are_all_found,
                    what_was_not_followed_yet_is_found_after_a_restart_and_what_is_removed_is_forgotten,
                    what_comes_is_found_though_the_last_event_is_gone_and_the_clock_went_back,
                    a_list_by_tenant_and_environment_has_what_the_index_does_not_have_yet,
                }
                sending {
                    a_template_is_its_tenants_own_and_its_name_unique_there,
                    an_answer_is_kept_for_a_day_and_the_first_one_stays,
                    the_notes_of_a_message_are_read_back_and_its_tags_find_it,
                }
                spool {
                    what_is_due_comes_page_by_page_in_its_order_and_with_what_comes_next,
                    what_is_finished_or_gone_is_not_taken,
                    a_row_is_put_off_only_while_the_pause_that_was_seen_is_there,
                    the_feed_tells_what_was_committed_in_its_order_and_what_holds_after_a_restart,
                    memory_for_accepted_messages_is_bounded_and_comes_back,
                    what_waits_is_counted_for_all_and_for_a_tenant,
                }
                tls_results {
                    sessions_of_one_kind_add_up_and_survive_a_restart,
                    days_that_have_ended_are_told_in_order_until_they_are_forgotten,
                }
                usage {
                    what_was_used_is_what_the_journal_tells,
                    what_is_repeated_cancelled_or_not_written_is_not_counted,
                    usage_stands_in_the_hour_and_the_day_of_its_time,
                    hours_go_after_ninety_days_and_days_stay,
                    a_tenant_is_warned_of_a_limit_once_in_a_period_whoever_restarts,
                    usage_of_all_tenants_is_summed_by_tenant_key_domain_and_day,
                    the_days_of_a_deleted_tenant_are_kept_for_its_last_bill,
                    usage_by_key_of_a_day_has_so_many_rows_and_the_rest_goes_under_no_key,
                }
            }
        }
    };
}

/// Runs functions of the modules beside the one that calls this, each as a test of one engine.
macro_rules! engine_tests {
    ($Harness:ty; $($role:ident { $($test:ident,)* })*) => {$(
        mod $role {
            $(
                #[tokio::test]
                async fn $test() {
                    if <$Harness as $crate::store::contract::Harness>::is_available() {
                        super::super::$role::$test::<$Harness>().await;
                    }
                }
            )*
        }
    )*};
}
pub(crate) use engine_tests;
