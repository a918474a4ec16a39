//! Single rules by example; the model test in `sim` covers their combinations.

use std::time::Duration;

use super::*;

const NOW: UnixMillis = UnixMillis(1_000);

fn id(name: &str) -> ConsumerId {
    ConsumerId::new(name).unwrap()
}

fn pull(consumer: &ConsumerId, pull_last: i64, count: usize) -> PullState<'_> {
    PullState {
        consumer,
        pull_last,
        count,
        broadcast: false,
    }
}

fn for_all(consumer: &ConsumerId, pull_last: i64) -> PullState<'_> {
    PullState {
        broadcast: true,
        ..pull(consumer, pull_last, 9)
    }
}

fn one(run: Range<i64>) -> Vec<Range<i64>> {
    vec![run]
}

fn new(messages: Range<i64>, count: usize) -> Offer {
    Offer::New { messages, count }
}

const PATIENCE: Patience = Patience {
    dead_after: Duration::from_secs(180),
    lost_ack_after: Duration::from_secs(30),
    forever_after: Duration::from_secs(48 * 3600),
    group_after: Duration::from_secs(720 * 3600),
    copies_per_second: 3,
};

fn later(seconds: u64) -> UnixMillis {
    NOW.plus(Duration::from_secs(seconds))
}

fn run(pull: i64, message: i64, count: i64) -> Unacked {
    Unacked {
        pull,
        message,
        count,
    }
}

/// A group of which `c1` holds messages 0..6 as pull sequences 0..6.
fn holding() -> (Subscription, ConsumerId) {
    let mut group = latest(0..0);
    let c1 = id("c1");
    group.meet(pull(&c1, -1, 6), NOW);
    group.hand_out(&c1, &one(0..6), 6);
    (group, c1)
}

fn latest(kept: Range<i64>) -> Subscription {
    Subscription::first_contact(StartAt::Latest, &kept, false, NOW)
}

#[test]
fn first_contact_is_recorded_before_it_is_answered() {
    let mut group = latest(0..7);
    let c1 = id("c1");
    let action = group.meet(pull(&c1, -1, 10), NOW).unwrap();
    assert_eq!(
        action,
        PullAction {
            pulls: 0..0,
            messages: 7..7,
            broadcast: false,
        }
    );
    assert_eq!(group.meet(pull(&c1, -1, 10), NOW), None);
    assert_eq!(group.offer(pull(&c1, -1, 10), &(0..7), 100), Offer::Nothing);
    assert_eq!(group.offer(pull(&c1, -1, 10), &(0..9), 100), new(7..9, 10));
}

#[test]
fn retry_subjects_start_at_the_oldest_message() {
    let group = Subscription::first_contact(StartAt::Earliest, &(3..9), false, NOW);
    assert_eq!(group.next(), MessageSequence(3));
}

#[test]
fn consumers_of_a_group_share_without_overlap() {
    let mut group = latest(0..0);
    let (c1, c2) = (id("c1"), id("c2"));
    group.meet(pull(&c1, -1, 3), NOW);
    group.meet(pull(&c2, -1, 3), NOW);
    let (first, actions) = group.hand_out(&c1, &one(0..3), 3);
    assert_eq!((first, actions.len()), (PullSequence(0), 1));
    assert_eq!(group.offer(pull(&c2, -1, 3), &(0..10), 100), new(3..10, 3));
}

#[test]
fn unacked_messages_come_again_to_the_same_consumer_only() {
    let mut group = latest(0..0);
    let (c1, c2) = (id("c1"), id("c2"));
    group.meet(pull(&c1, -1, 5), NOW);
    group.meet(pull(&c2, -1, 5), NOW);
    group.hand_out(&c1, &one(0..5), 5);
    assert_eq!(group.ack(&c1, &(0..2), NOW), Some(0..2));
    let again = Offer::Again(vec![Unacked {
        pull: 2,
        message: 2,
        count: 3,
    }]);
    assert_eq!(group.offer(pull(&c1, -1, 9), &(0..5), 100), again);
    // The consumer says that it holds them: nothing new, nothing again.
    assert_eq!(group.offer(pull(&c1, 4, 9), &(0..5), 100), Offer::Nothing);
    assert_eq!(group.offer(pull(&c2, -1, 9), &(0..5), 100), Offer::Nothing);
}

#[test]
fn acks_of_numbers_never_handed_out_confirm_nothing() {
    let mut group = latest(0..0);
    let c1 = id("c1");
    assert_eq!(group.ack(&c1, &(0..10), NOW), None);
    group.meet(pull(&c1, -1, 5), NOW);
    assert_eq!(group.ack(&c1, &(0..10), NOW), None);
    group.hand_out(&c1, &one(0..5), 5);
    assert_eq!(group.ack(&c1, &(3..2_000_000_000), NOW), Some(3..5));
    assert_eq!(group.ack(&c1, &(Range { start: 9, end: 2 }), NOW), None);
    assert_eq!(group.ack(&c1, &(i64::MIN..i64::MAX), NOW), Some(0..5));
    assert_eq!(group.unacked_count(&c1), 0);
}

#[test]
fn a_gap_in_acks_stays_unconfirmed() {
    let mut group = latest(0..0);
    let c1 = id("c1");
    group.meet(pull(&c1, -1, 5), NOW);
    group.hand_out(&c1, &one(0..6), 6);
    assert_eq!(group.ack(&c1, &(4..6), NOW), Some(4..6));
    assert_eq!(group.unacked_count(&c1), 4);
}

#[test]
fn a_consumer_that_knows_more_raises_its_counter_within_bounds() {
    let mut group = latest(0..0);
    let c1 = id("c1");
    let action = group.meet(pull(&c1, 99, 5), NOW).unwrap();
    assert_eq!(action.pulls, 100..100);
    let action = group.meet(pull(&c1, i64::MAX, 5), NOW).unwrap();
    assert_eq!(action.pulls.start, 100 + PULL_SEQUENCE_RAISE_MAX);
    let (first, _) = group.hand_out(&c1, &one(0..1), 1);
    assert_eq!(first, PullSequence(100 + PULL_SEQUENCE_RAISE_MAX));
}

#[test]
fn who_outlived_our_memory_gets_no_number_twice() {
    let mut group = latest(0..0);
    let c1 = id("c1");
    let known = 3 * PULL_SEQUENCE_RAISE_MAX;
    for _ in 0..3 {
        group.meet(pull(&c1, known, 5), NOW).unwrap();
        let offer = group.offer(pull(&c1, known, 5), &(0..9), 100);
        assert_eq!(offer, Offer::Nothing);
    }
    let action = group.meet(pull(&c1, known, 5), NOW).unwrap();
    assert_eq!(action.pulls.start, known + 1);
    let offer = group.offer(pull(&c1, known, 5), &(0..9), 100);
    assert_eq!(offer, new(0..9, 5));
    // One that starts again knows no numbers.
    let offer = group.offer(pull(&c1, -1, 5), &(0..9), 100);
    assert_eq!(offer, new(0..9, 5));
}

#[test]
fn missing_messages_leave_no_gap_in_pull_sequences() {
    let mut group = latest(0..0);
    let c1 = id("c1");
    group.meet(pull(&c1, -1, 9), NOW);
    let (first, actions) = group.hand_out(&c1, &[0..2, 4..6], 8);
    assert_eq!(first, PullSequence(0));
    assert_eq!(
        actions,
        [
            PullAction {
                pulls: 0..2,
                messages: 0..2,
                broadcast: false,
            },
            PullAction {
                pulls: 2..4,
                messages: 4..6,
                broadcast: false,
            },
            PullAction {
                pulls: 4..4,
                messages: 8..8,
                broadcast: false,
            },
        ]
    );
    assert_eq!(group.next(), MessageSequence(8));
}

#[test]
fn a_consumer_holds_a_bounded_number_of_unacked_messages() {
    let mut group = latest(0..0);
    let c1 = id("c1");
    group.meet(pull(&c1, -1, 9), NOW);
    group.hand_out(&c1, &one(0..4), 4);
    assert_eq!(group.offer(pull(&c1, 3, 9), &(0..99), 6), new(4..99, 2));
    group.hand_out(&c1, &one(4..6), 6);
    assert_eq!(group.offer(pull(&c1, 5, 9), &(0..99), 6), Offer::Nothing);
}

#[test]
fn expired_messages_are_stepped_over() {
    let mut group = latest(0..0);
    let c1 = id("c1");
    group.meet(pull(&c1, -1, 9), NOW);
    assert_eq!(
        group.offer(pull(&c1, -1, 3), &(10..99), 100),
        new(10..99, 3)
    );
}

#[test]
fn a_subject_shorter_than_the_position_waits() {
    let mut group = latest(0..50);
    let c1 = id("c1");
    group.meet(pull(&c1, -1, 9), NOW);
    assert_eq!(group.offer(pull(&c1, -1, 9), &(0..20), 100), Offer::Nothing);
}

#[test]
fn broadcast_pull_sequences_are_message_sequences() {
    let mut group = Subscription::first_contact(StartAt::Latest, &(0..40), true, NOW);
    let c1 = id("c1");
    let action = group.meet(for_all(&c1, -1), NOW).unwrap();
    assert_eq!(
        action,
        PullAction {
            pulls: 40..40,
            messages: 40..40,
            broadcast: true,
        }
    );
    let (first, actions) = group.hand_out(&c1, &one(42..44), 44);
    assert_eq!(first, PullSequence(42));
    assert_eq!(
        actions,
        [PullAction {
            pulls: 42..44,
            messages: 42..44,
            broadcast: true,
        }]
    );
    // A restart before the first ack brings what was pulled, not history from 0.
    let again = Offer::Again(vec![Unacked {
        pull: 42,
        message: 42,
        count: 2,
    }]);
    assert_eq!(group.offer(pull(&c1, -1, 9), &(0..50), 100), again);
    assert_eq!(group.meet(for_all(&c1, 10_000), NOW), None);
}

#[test]
fn who_comes_first_decides_that_it_is_a_broadcast() {
    let mut group = latest(0..40);
    group.reset(MessageSequence(10));
    let (c1, c2) = (id("c1"), id("c2"));
    let action = group.meet(for_all(&c1, -1), NOW).unwrap();
    assert_eq!(action.pulls, 10..10);
    assert!(group.is_broadcast());
    // One that is mistaken does not change what the others rely on, nor what is written down.
    let action = group.meet(pull(&c2, -1, 9), NOW).unwrap();
    assert!(group.is_broadcast() && action.broadcast);
    let (_, actions) = group.hand_out(&c2, &one(10..12), 13);
    assert!(actions.iter().all(|action| action.broadcast));
}

#[test]
fn a_silent_consumer_is_dead_and_its_oldest_messages_are_named() {
    let (mut group, c1) = holding();
    assert_eq!(group.overdue(later(179), &PATIENCE), []);
    let overdue = group.overdue(later(180), &PATIENCE);
    assert_eq!(
        overdue,
        [Overdue {
            consumer: c1.clone(),
            runs: vec![run(0, 0, 3)],
        }]
    );
    // Named, not given up: until the copies are safe they stay where they are.
    assert_eq!(group.unacked_count(&c1), 6);
    assert!(group.pass_over(&c1, &(0..3)));
    assert!(!group.pass_over(&c1, &(0..3)));
    assert_eq!(group.overdue(later(180), &PATIENCE)[0].runs, [run(3, 3, 3)]);
    // A sign of life ends it.
    group.keep_alive(&c1, later(181));
    assert_eq!(group.overdue(later(182), &PATIENCE), []);
    // A sign of life from before a later one changes nothing.
    group.keep_alive(&c1, later(10));
    assert_eq!(group.last_seen(&c1), Some(later(181)));
}

#[test]
fn messages_left_out_of_acks_are_overdue_after_a_while() {
    let (mut group, c1) = holding();
    assert_eq!(group.ack(&c1, &(2..4), NOW), Some(2..4));
    assert_eq!(group.gap_due(&c1, &PATIENCE), Some(later(30)));
    group.keep_alive(&c1, later(29));
    assert_eq!(group.overdue(later(29), &PATIENCE), []);
    assert_eq!(group.overdue(later(30), &PATIENCE)[0].runs, [run(0, 0, 2)]);
    // What it holds above is not concerned, and late acks close the gap.
    group.ack(&c1, &(0..2), later(30));
    assert_eq!(group.overdue(later(31), &PATIENCE), []);
    group.forget(later(31), &PATIENCE);
    assert_eq!(group.gap_due(&c1, &PATIENCE), None);
}

#[test]
fn who_holds_nothing_and_stays_away_is_forgotten() {
    let (mut group, c1) = holding();
    let two_days = 48 * 3600;
    assert_eq!(group.forget(later(two_days), &PATIENCE), []);
    group.pass_over(&c1, &(0..6));
    assert_eq!(group.forget(later(two_days - 1), &PATIENCE), []);
    assert_eq!(group.forget(later(two_days), &PATIENCE), [c1]);
    assert!(!group.is_abandoned(later(720 * 3600 - 1), &PATIENCE));
    assert!(group.is_abandoned(later(720 * 3600), &PATIENCE));
}

#[test]
fn broadcast_consumers_are_never_dead_and_go_with_their_group() {
    let mut group = Subscription::first_contact(StartAt::Latest, &(0..0), true, NOW);
    let c1 = id("c1");
    group.meet(for_all(&c1, -1), NOW);
    group.hand_out(&c1, &one(0..3), 3);
    let month = later(720 * 3600);
    assert_eq!(group.overdue(month, &PATIENCE), []);
    assert_eq!(group.forget(month, &PATIENCE), []);
    assert!(group.is_abandoned(month, &PATIENCE));
}

#[test]
fn the_next_look_comes_when_something_can_be_due() {
    let (mut group, c1) = holding();
    assert_eq!(group.look_again(NOW, &PATIENCE), later(180));
    group.ack(&c1, &(2..4), NOW);
    assert_eq!(group.look_again(NOW, &PATIENCE), later(30));
    // Something is overdue already: soon, but not at once.
    assert_eq!(group.look_again(later(500), &PATIENCE), later(501));
    // Who holds nothing now can be handed something and die before anybody looks again.
    group.pass_over(&c1, &(0..6));
    assert_eq!(group.look_again(later(60), &PATIENCE), later(240));
    let two_days = later(48 * 3600);
    assert_eq!(group.forget(two_days, &PATIENCE), [c1]);
    assert_eq!(group.look_again(two_days, &PATIENCE), later(720 * 3600));
}

#[test]
fn a_reset_moves_the_group_and_leaves_what_is_held() {
    let (mut group, c1) = holding();
    group.reset(MessageSequence(2));
    assert_eq!(group.next(), MessageSequence(2));
    assert_eq!(group.unacked_count(&c1), 6);
    assert_eq!(group.offer(pull(&c1, 5, 9), &(0..9), 100), new(2..9, 9));
    let (first, _) = group.hand_out(&c1, &one(2..4), 4);
    assert_eq!(first, PullSequence(6));

    let mut group = Subscription::first_contact(StartAt::Latest, &(0..0), true, NOW);
    group.meet(for_all(&c1, -1), NOW);
    group.hand_out(&c1, &one(0..3), 3);
    group.reset(MessageSequence(1));
    let (first, _) = group.hand_out(&c1, &one(1..3), 3);
    assert_eq!(first, PullSequence(1));
}
