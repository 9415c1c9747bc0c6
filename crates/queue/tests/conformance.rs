//! One suite of the queue's invariants, run on both implementations.

mod common;
mod suite;

use common::Kind;

macro_rules! on_both {
    ($($module:ident :: $test:ident,)+) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::suite::$module::$test(super::Kind::Memory).await;
            })+
        }
        mod redis_streams {
            $(#[tokio::test]
            async fn $test() {
                super::suite::$module::$test(super::Kind::Redis).await;
            })+
        }
    };
}

on_both! {
    arrival::passes_a_message_on_whole,
    arrival::takes_an_empty_body,
    arrival::needs_every_chunk,
    arrival::refuses_a_chunk_too_large,
    arrival::steps_can_be_repeated,
    arrival::commits_only_what_exists,
    arrival::abort_leaves_nothing,
    arrival::unfinished_bodies_go_by_themselves,
    arrival::lifetime_starts_at_commit,
    arrival::takes_any_length_of_time,
    arrival::doubt_is_resolved_by_delivery,
    claims::hands_out_in_order_and_given_back_first,
    claims::says_whether_more_may_be_ready,
    claims::a_claim_is_good_once,
    claims::retries_when_due,
    claims::heartbeat_keeps_and_silence_loses,
    claims::the_loser_never_renews,
    claims::many_workers_deliver_each_once,
    claims::wakes_who_waits,
    ends::each_end_is_counted_and_told,
    ends::retained_bodies_stay_for_their_time,
    ends::expires_on_the_way,
    ends::in_flight_is_left_to_its_worker,
    ends::dead_letters_are_bounded,
    ends::intakes_are_apart,
    ends::numbers_are_never_given_twice,
    dead::replay_puts_the_copy_back,
    dead::replays_what_it_can_and_says_what_not,
    dead::many_replay_at_once_and_none_doubles,
    dead::purge_leaves_nothing,
    dead::letters_go_in_their_time,
    dead::pages_go_back_in_time,
    leases::targets,
    leases::shares_are_fair,
    leases::a_lease_is_its_owners,
    leases::a_dead_workers_share_is_free_in_time,
    leases::feedback_moves_the_window,
    leases::says_what_is_known_of_the_intake,
}
