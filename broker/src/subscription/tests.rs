//! Single rules by example; the model test in `sim` covers their combinations.

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
    }
}

fn one(run: Range<i64>) -> Vec<Range<i64>> {
    vec![run]
}

fn latest(kept: Range<i64>) -> Subscription {
    Subscription::first_contact(StartAt::Latest, &kept, false)
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
            messages: 7..7
        }
    );
    assert_eq!(group.meet(pull(&c1, -1, 10), NOW), None);
    assert_eq!(group.offer(pull(&c1, -1, 10), &(0..7), 100), Offer::Nothing);
    assert_eq!(
        group.offer(pull(&c1, -1, 10), &(0..9), 100),
        Offer::New(7..9)
    );
}

#[test]
fn retry_subjects_start_at_the_oldest_message() {
    let group = Subscription::first_contact(StartAt::Earliest, &(3..9), false);
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
    assert_eq!(
        group.offer(pull(&c2, -1, 3), &(0..10), 100),
        Offer::New(3..6)
    );
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
                messages: 0..2
            },
            PullAction {
                pulls: 2..4,
                messages: 4..6
            },
            PullAction {
                pulls: 4..4,
                messages: 8..8
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
    assert_eq!(group.offer(pull(&c1, 3, 9), &(0..99), 6), Offer::New(4..6));
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
        Offer::New(10..13)
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
    let mut group = Subscription::first_contact(StartAt::Latest, &(0..40), true);
    let c1 = id("c1");
    let action = group.meet(pull(&c1, -1, 9), NOW).unwrap();
    assert_eq!(
        action,
        PullAction {
            pulls: 40..40,
            messages: 40..40
        }
    );
    let (first, actions) = group.hand_out(&c1, &one(42..44), 44);
    assert_eq!(first, PullSequence(42));
    assert_eq!(
        actions,
        [PullAction {
            pulls: 42..44,
            messages: 42..44
        }]
    );
    // A restart before the first ack brings what was pulled, not history from 0.
    let again = Offer::Again(vec![Unacked {
        pull: 42,
        message: 42,
        count: 2,
    }]);
    assert_eq!(group.offer(pull(&c1, -1, 9), &(0..50), 100), again);
    assert_eq!(group.meet(pull(&c1, 10_000, 9), NOW), None);
}
