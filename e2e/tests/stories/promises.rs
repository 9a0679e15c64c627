//! Every promise, by its name. Those that run alone stand last, so that the others are not held up.

use crate::story::{Promise, Story};
use crate::{adoption, audience, bad_input, budget, outages, releases, requests, scaling, traces, verdict, zones};

macro_rules! promise {
    ($name:literal, $tell:path) => {
        Promise { name: $name, alone: false, tell: |story: Story| Box::pin($tell(story)) }
    };
    ($name:literal, $tell:path, alone) => {
        Promise { name: $name, alone: true, tell: |story: Story| Box::pin($tell(story)) }
    };
}

/// All of them, in the order in which they begin.
pub(crate) fn all() -> Vec<Promise> {
    let mut all = side_by_side();
    all.extend(alone());
    all
}

fn side_by_side() -> Vec<Promise> {
    vec![
        promise!("latency_rolls_back", releases::latency_rolls_back),
        promise!(
            "a_crash_looping_image_never_gets_traffic_and_rolls_back_at_the_deadline_with_the_reason",
            releases::crash_looping
        ),
        promise!(
            "a_never_ready_image_never_gets_traffic_and_rolls_back_at_the_deadline_with_the_reason",
            releases::never_ready
        ),
        promise!(
            "an_unpullable_image_never_gets_traffic_and_rolls_back_at_the_deadline_with_the_reason",
            releases::unpullable
        ),
        promise!("requests_stay_in_their_zone_in_both_versions_or_in_neither", zones::both_or_neither),
        promise!("names_of_63_characters_are_released_like_short_ones", releases::longest_names),
        promise!("a_revert_in_git_while_held_rolls_nothing", releases::revert_while_held),
        promise!("a_new_template_in_mid_release_starts_over_with_the_newest", releases::newest_template_wins),
        promise!("of_two_quick_commits_the_second_wins", releases::two_quick_commits),
        promise!(
            "adopting_and_removing_a_canary_moves_no_pod_and_loses_no_request_under_load",
            adoption::adopt_and_remove
        ),
        promise!(
            "kubectl_apply_and_diff_of_unchanged_manifests_show_nothing_at_every_phase",
            adoption::apply_and_diff_show_nothing
        ),
        promise!(
            "replica_changes_through_the_scale_subresource_in_mid_release_reach_both_arms",
            scaling::scale_reaches_both_arms
        ),
        promise!(
            "replicas_4_to_8_and_8_to_4_inside_the_adoption_window_lose_no_request",
            scaling::scale_in_adoption_window
        ),
        promise!("a_commit_inside_the_adoption_window_is_not_shipped_unjudged", scaling::commit_in_adoption_window),
        promise!("a_namespace_deleted_in_mid_release_goes_quietly", adoption::namespace_goes),
        promise!("a_service_with_a_second_tcp_port_keeps_it_working", adoption::second_port),
        promise!("a_rollout_restart_while_idle_is_a_native_restart", adoption::native_restart),
        promise!(
            "of_two_canaries_for_one_target_the_younger_is_refused_in_its_status",
            adoption::younger_canary_is_refused
        ),
        promise!("a_target_that_git_itself_pauses_stays_paused_and_says_so", adoption::paused_by_git),
        promise!("a_webhook_that_edits_templates_is_held_too", adoption::webhook_edit_is_held),
        promise!("rules_reach_clients_and_what_they_answer_is_no_versions", requests::rules_hold_and_are_no_arms),
        promise!(
            "retries_shield_users_and_a_version_that_needs_them_is_rolled_back",
            requests::retries_shield_users_not_the_version
        ),
        promise!("who_saw_the_canary_keeps_it_as_the_weight_rises", requests::who_saw_the_canary_keeps_it),
        promise!(
            "copies_come_before_the_first_weight_and_count_for_nobody",
            audience::copies_come_before_the_first_weight
        ),
        promise!(
            "a_version_that_fails_on_copies_is_seen_by_no_client",
            audience::what_fails_on_copies_is_seen_by_nobody
        ),
        promise!("an_ab_test_is_seen_by_its_audience_and_then_promoted", audience::an_ab_test_is_for_its_audience),
        promise!("an_audience_is_split_by_the_weight_and_nobody_else", audience::an_audience_is_split_by_the_weight),
        promise!("numbers_in_prometheus_lead_to_the_spans_of_their_requests", traces::numbers_lead_to_spans),
        promise!("no_traffic_holds", outages::no_traffic_holds),
        promise!("a_slack_endpoint_that_hangs_delays_nothing", outages::hanging_slack),
        promise!("a_proxy_ended_and_a_proxy_pool_rolled_under_load_lose_nothing", outages::proxies_killed_and_rolled),
        promise!(
            "a_proxy_killed_with_sigkill_under_load_loses_what_it_carried_and_nothing_once_it_is_out",
            outages::proxy_killed
        ),
        promise!(
            "a_canary_with_every_kind_of_bad_field_is_refused_by_the_api_server_with_a_readable_sentence",
            bad_input::bad_fields_are_refused
        ),
        promise!("a_metric_server_that_talks_nonsense_holds_the_release_and_is_named", bad_input::bad_answers_hold),
        promise!("a_metric_template_that_does_not_parse_is_named", bad_input::template_that_does_not_parse),
        promise!("a_metric_template_of_flagger_works_unchanged", bad_input::template_of_flagger_works),
        promise!("a_rollback_is_told_to_slack_and_its_address_to_nobody", bad_input::rollback_is_told_to_slack),
    ]
}

fn alone() -> Vec<Promise> {
    vec![
        promise!(
            "a_version_like_the_one_before_is_never_rolled_back_by_the_verdict",
            verdict::the_same_is_never_rolled_back,
            alone
        ),
        promise!(
            "a_version_of_which_half_fails_is_taken_off_by_the_verdict_in_seconds_with_its_sentence",
            verdict::what_is_broken_goes_at_once,
            alone
        ),
        promise!(
            "promoted_through_10_25_50_100_with_no_failed_request_and_the_judged_pods_still_serving",
            releases::promoted,
            alone
        ),
        promise!("errors_roll_back", releases::errors_roll_back, alone),
        promise!(
            "the_split_is_off_by_0_2_points_at_most_after_1000_requests_at_weight_10",
            releases::split_is_exact,
            alone
        ),
        promise!("every_weight_is_acknowledged_by_every_proxy", budget::weights_are_acknowledged, alone),
        promise!("a_release_takes_12_api_calls_a_step_at_most", budget::calls_per_step, alone),
        promise!("idle_there_is_no_list_and_no_write_but_the_lease", budget::idle_costs_nothing, alone),
        promise!("an_operator_killed_with_sigkill_at_every_phase_carries_on", outages::operator_killed, alone),
        promise!(
            "a_leader_deleted_in_mid_release_hands_over_before_its_lease_runs_out",
            outages::leader_hands_over,
            alone
        ),
        promise!(
            "an_operator_away_for_a_minute_lets_traffic_flow_and_holds_a_new_commit",
            outages::operator_away,
            alone
        ),
        promise!("prometheus_away_for_two_minutes_holds_and_then_goes_on", outages::prometheus_away, alone),
        promise!(
            "after_an_api_server_restart_a_template_change_is_held_and_a_service_routed_at_once",
            outages::api_server_restarts,
            alone
        ),
        promise!(
            "uninstalling_leaves_services_with_their_own_selectors_and_loses_no_request",
            adoption::uninstall_leaves_nothing,
            alone
        ),
    ]
}
