//! Rules of dispatch, one by one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::limits::{PARKED_MAX, ROUTE_ASKS_MAX, STUCK_MAX, UNREADABLE_PAUSE};
use super::*;
use qmq_store::AcceptSequence;

type Sent = (RequestId, Arc<str>, Arc<[Pending]>, u32);

/// The rules, a store that begins whatever it is asked to, and what came out.
struct Desk {
    dispatch: Dispatch,
    now: Moment,
    sent: VecDeque<Sent>,
    asked: Vec<DelaySubject>,
    confirmed: Vec<u64>,
    refused: Vec<u64>,
}

fn entry(subject: u32, sequence: u64) -> Pending {
    Pending {
        due: UnixMillis(1000 + i64::try_from(sequence).expect("small")),
        sequence: AcceptSequence(sequence),
        subject: DelaySubject(subject),
        bytes: 100,
    }
}

fn numbers(entries: &[Pending]) -> Vec<u64> {
    entries.iter().map(|entry| entry.sequence.0).collect()
}

fn group(name: &str) -> Arc<str> {
    name.into()
}

impl Desk {
    fn new(limits: Limits) -> Self {
        Self {
            dispatch: Dispatch::new(limits, 7),
            now: Duration::from_secs(1000),
            sent: VecDeque::new(),
            asked: Vec::new(),
            confirmed: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn with_route(subject: u32, groups: &[&str]) -> Self {
        let mut desk = Self::new(Limits::default());
        desk.route(subject, groups);
        desk
    }

    fn route(&mut self, subject: u32, groups: &[&str]) {
        let groups: Vec<_> = groups.iter().map(|name| group(name)).collect();
        self.dispatch.lines.line(DelaySubject(subject));
        self.dispatch
            .route(DelaySubject(subject), &groups, self.now);
    }

    fn due(&mut self, entries: &[Pending]) {
        self.dispatch.due(entries, Timeliness::OnTime, self.now);
        self.poll();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.poll();
    }

    /// As the scheduler does, until there is nothing to be done now.
    fn poll(&mut self) {
        loop {
            let mut out = Vec::new();
            self.dispatch.poll(self.now, &mut out);
            if out.is_empty() {
                return;
            }
            for output in out {
                self.carry_out(output);
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::AskRoute { subject } => self.asked.push(subject),
            Output::Begin {
                request, entries, ..
            } => {
                assert!(!entries.is_empty());
                self.dispatch.began(request, &entries, self.now);
            }
            Output::Send {
                request,
                group,
                entries,
                attempt,
            } => {
                assert!(!entries.is_empty());
                self.sent.push_back((request, group, entries, attempt));
            }
            Output::Confirm { entries } => self.confirmed.extend(numbers(&entries)),
            Output::Refuse { entries } => self.refused.extend(numbers(&entries)),
        }
    }

    /// Answers the oldest request.
    fn reply(&mut self, reply: &Reply) {
        let (request, ..) = self.sent.pop_front().expect("a request");
        self.dispatch.replied(request, reply, self.now);
        self.poll();
    }

    fn reply_all(&mut self, outcome: Outcome) {
        self.reply(&Reply::All(outcome));
    }

    /// Group, messages and earlier attempts of the only request.
    fn only(&self) -> (&str, Vec<u64>, u32) {
        assert_eq!(self.sent.len(), 1, "{:?}", self.sent);
        let (_, group, entries, attempt) = &self.sent[0];
        (group, numbers(entries), *attempt)
    }
}

#[test]
fn a_message_is_done_when_a_broker_confirmed_it() {
    let mut desk = Desk::with_route(1, &["a"]);
    desk.due(&[entry(1, 1), entry(1, 2), entry(1, 3)]);
    assert_eq!(desk.only(), ("a", vec![1, 2, 3], 0));
    let each = vec![Outcome::Confirmed, Outcome::Rejected, Outcome::Confirmed];
    desk.reply(&Reply::Each(each));
    assert_eq!((&*desk.confirmed, &*desk.refused), (&[1, 3][..], &[2][..]));
    assert!(desk.sent.is_empty());
    desk.pass(Duration::from_secs(1));
    assert_eq!(desk.only(), ("a", vec![2], 0));
    desk.reply_all(Outcome::Confirmed);
    assert_eq!(desk.confirmed, [1, 3, 2]);
    assert_eq!((desk.dispatch.queued(), desk.dispatch.requests()), (0, 0));
    assert_eq!(desk.dispatch.next_wake(), None);
}

#[test]
fn an_unknown_outcome_is_repeated_to_the_same_group() {
    let mut desk = Desk::with_route(1, &["a", "b"]);
    desk.due(&[entry(1, 1), entry(1, 2)]);
    let first = desk.only().0.to_owned();
    desk.reply_all(Outcome::Unknown);
    for attempt in 1..10 {
        desk.pass(Duration::from_secs(5));
        assert_eq!(desk.only(), (&*first, vec![1, 2], attempt));
        // Once it may have arrived, a refusal does not say that it did not.
        let outcomes = [Outcome::TurnedAway, Outcome::Unknown];
        desk.reply_all(outcomes[attempt as usize % 2]);
    }
    assert!(desk.refused.is_empty());
    desk.pass(Duration::from_secs(5));
    desk.reply_all(Outcome::Confirmed);
    assert_eq!(desk.confirmed, [1, 2]);
}

#[test]
fn a_definite_refusal_is_routed_again_at_once() {
    let mut desk = Desk::with_route(1, &["a", "b"]);
    desk.due(&[entry(1, 1), entry(1, 2)]);
    let first = desk.only().0.to_owned();
    desk.reply_all(Outcome::TurnedAway);
    assert_eq!(desk.refused, [1, 2]);
    let other = if first == "a" { "b" } else { "a" };
    assert_eq!(desk.only(), (other, vec![1, 2], 0));
    assert_eq!(desk.asked, [], "the route is fresh");
    desk.now += Duration::from_secs(2);
    desk.reply_all(Outcome::TurnedAway);
    assert_eq!(desk.asked, [DelaySubject(1)]);
}

#[test]
fn a_group_that_fails_is_probed_with_one_request_and_then_trusted_again() {
    let mut desk = Desk::with_route(1, &["a"]);
    let many: Vec<_> = (1..=2000).map(|sequence| entry(1, sequence)).collect();
    desk.due(&many);
    assert_eq!(desk.sent.len(), 8);
    for _ in 0..8 {
        desk.reply_all(Outcome::Unknown);
    }
    assert!(desk.sent.is_empty());
    desk.pass(Duration::from_secs(5));
    assert_eq!(desk.only().1, (1..=200).collect::<Vec<_>>());
    let wake = desk.dispatch.next_wake();
    assert_eq!(wake, None, "its answer is waited for, nothing else");
    desk.reply_all(Outcome::Confirmed);
    assert_eq!(desk.sent.len(), 8);
    assert_eq!(desk.sent[0].3, 1, "the others are repeated first");
    assert_eq!(desk.sent[7].3, 0);
}

#[test]
fn pauses_are_told_to_the_caller() {
    let mut desk = Desk::with_route(1, &["a"]);
    desk.due(&[entry(1, 1)]);
    for _ in 0..20 {
        desk.reply_all(Outcome::Unknown);
        let wake = desk.dispatch.next_wake().expect("a pause");
        assert!(wake > desk.now && wake <= desk.now + Duration::from_secs(5));
        desk.now = wake - Duration::from_nanos(1);
        desk.poll();
        assert!(desk.sent.is_empty());
        desk.pass(Duration::from_nanos(1));
        assert_eq!(desk.only().1, [1]);
    }
}

#[test]
fn what_a_dead_group_may_have_goes_elsewhere() {
    let mut desk = Desk::with_route(1, &["a"]);
    desk.due(&[entry(1, 1), entry(1, 2)]);
    desk.reply_all(Outcome::Unknown);
    desk.dispatch.group_gone("a", desk.now);
    desk.poll();
    assert_eq!(desk.refused, [1, 2]);
    assert_eq!(desk.dispatch.counts().abandoned, 2);
    assert!(desk.sent.is_empty());
    desk.pass(Duration::from_secs(1));
    assert_eq!(desk.asked, [DelaySubject(1)], "there must be another way");
    desk.route(1, &["b"]);
    desk.poll();
    assert_eq!(desk.only(), ("b", vec![1, 2], 0));
}

#[test]
fn an_answer_from_a_dead_group_still_counts() {
    let mut desk = Desk::with_route(1, &["a"]);
    desk.due(&[entry(1, 1), entry(1, 2)]);
    desk.dispatch.group_gone("a", desk.now);
    let each = vec![Outcome::Confirmed, Outcome::Unknown];
    desk.reply(&Reply::Each(each));
    assert_eq!((&*desk.confirmed, &*desk.refused), (&[1][..], &[2][..]));
    assert_eq!(desk.dispatch.counts().abandoned, 1);
    // The metaserver names it again.
    desk.route(1, &["a"]);
    desk.poll();
    assert_eq!(desk.only(), ("a", vec![2], 0));
}

#[test]
fn nothing_leaves_for_a_group_that_died_while_it_was_begun() {
    let mut desk = Desk::with_route(1, &["a"]);
    desk.dispatch
        .due(&[entry(1, 1)], Timeliness::OnTime, desk.now);
    let mut out = Vec::new();
    desk.dispatch.poll(desk.now, &mut out);
    let [Output::Begin { request, .. }] = out[..] else {
        panic!("{out:?}");
    };
    desk.dispatch.group_gone("a", desk.now);
    desk.dispatch.began(request, &[entry(1, 1)], desk.now);
    desk.poll();
    assert!(desk.sent.is_empty());
    assert_eq!(
        (&*desk.refused, desk.dispatch.counts().abandoned),
        (&[1][..], 0)
    );
}

#[test]
fn what_the_store_does_not_begin_is_not_sent() {
    let mut desk = Desk::with_route(1, &["a"]);
    let entries = [entry(1, 1), entry(1, 2), entry(1, 3)];
    for (accepted, expected) in [(&entries[1..2], vec![vec![2]]), (&[][..], vec![])] {
        desk.dispatch.due(&entries, Timeliness::OnTime, desk.now);
        let mut out = Vec::new();
        desk.dispatch.poll(desk.now, &mut out);
        let [Output::Begin { request, .. }] = out[..] else {
            panic!("{out:?}");
        };
        desk.dispatch.began(request, accepted, desk.now);
        desk.poll();
        let sent = desk.sent.iter().map(|(_, _, entries, _)| numbers(entries));
        assert_eq!(sent.collect::<Vec<_>>(), expected);
        if !expected.is_empty() {
            desk.reply_all(Outcome::Confirmed);
        }
        assert_eq!((desk.dispatch.queued(), desk.dispatch.requests()), (0, 0));
    }
}

#[test]
fn a_store_that_cannot_write_is_asked_again_later() {
    let mut desk = Desk::with_route(1, &["a"]);
    desk.dispatch
        .due(&[entry(1, 1), entry(1, 2)], Timeliness::OnTime, desk.now);
    for _ in 0..5 {
        let mut out = Vec::new();
        desk.dispatch.poll(desk.now, &mut out);
        let [
            Output::Begin {
                request,
                ref entries,
                ..
            },
        ] = out[..]
        else {
            panic!("{out:?}");
        };
        assert_eq!(numbers(entries), [1, 2]);
        desk.dispatch.not_begun(request, desk.now);
        desk.poll();
        let wake = desk.dispatch.next_wake().expect("a pause");
        assert!(wake > desk.now);
        desk.now = wake;
    }
    desk.poll();
    assert_eq!(desk.only().1, [1, 2]);
}

#[test]
fn after_a_start_what_was_begun_goes_to_the_same_group() {
    let mut desk = Desk::new(Limits {
        batch_messages: 2,
        ..Limits::default()
    });
    desk.dispatch.resume(
        &group("b"),
        &[entry(1, 1), entry(2, 2), entry(2, 3)],
        desk.now,
    );
    desk.poll();
    let sent = desk
        .sent
        .iter()
        .map(|(_, group, entries, attempt)| (&**group, numbers(entries), *attempt));
    assert_eq!(
        sent.collect::<Vec<_>>(),
        [("b", vec![1, 2], 1), ("b", vec![3], 1)]
    );
    assert_eq!(
        desk.asked,
        [DelaySubject(1), DelaySubject(2)],
        "its address is needed"
    );
    desk.reply_all(Outcome::TurnedAway);
    desk.reply_all(Outcome::Confirmed);
    assert_eq!((&*desk.confirmed, &*desk.refused), (&[3][..], &[][..]));
    desk.pass(Duration::from_secs(5));
    assert_eq!(desk.only(), ("b", vec![1, 2], 2));
}

#[test]
fn a_subject_without_a_route_waits_alone() {
    let mut desk = Desk::with_route(2, &["a"]);
    desk.due(&[entry(1, 1)]);
    assert_eq!(desk.asked, [DelaySubject(1)]);
    for asked in 2..20 {
        desk.dispatch.route_failed(DelaySubject(1), desk.now);
        desk.poll();
        let wake = desk.dispatch.next_wake().expect("asked again");
        assert!(wake <= desk.now + Duration::from_secs(30));
        desk.now = wake;
        desk.poll();
        assert_eq!(desk.asked.len(), asked);
        assert!(desk.sent.is_empty());
    }
    desk.route(2, &["a"]);
    desk.due(&[entry(2, 2)]);
    assert_eq!(desk.only().1, [2]);
    desk.reply_all(Outcome::Confirmed);
    desk.route(1, &["a"]);
    desk.poll();
    assert_eq!(desk.only().1, [1]);
}

#[test]
fn few_routes_are_asked_for_at_a_time() {
    let mut desk = Desk::new(Limits::default());
    let entries: Vec<_> = (0..200)
        .map(|number| entry(number, number.into()))
        .collect();
    desk.due(&entries);
    assert_eq!(desk.asked.len(), ROUTE_ASKS_MAX);
    desk.dispatch.route_failed(desk.asked[0], desk.now);
    desk.route(desk.asked[1].0, &["a"]);
    desk.poll();
    assert_eq!(desk.asked.len(), ROUTE_ASKS_MAX + 2);
    let different: BTreeSet<_> = desk.asked.iter().collect();
    assert_eq!(different.len(), desk.asked.len());
}

#[test]
fn subjects_take_turns() {
    let mut desk = Desk::with_route(1, &["a"]);
    desk.route(2, &["a"]);
    desk.route(3, &["a"]);
    let million: Vec<_> = (0..100_000).map(|sequence| entry(1, sequence)).collect();
    desk.dispatch.due(&million, Timeliness::OnTime, desk.now);
    desk.due(&[entry(2, 200_000), entry(3, 200_001)]);
    let (_, _, first, _) = &desk.sent[0];
    let of = |subject| {
        first
            .iter()
            .filter(|entry| entry.subject == DelaySubject(subject))
            .count()
    };
    assert_eq!((of(1), of(2), of(3)), (198, 1, 1));
}

#[test]
fn a_request_is_bounded_in_bytes_and_a_large_message_goes_alone() {
    let mut desk = Desk::with_route(1, &["a"]);
    let sizes = [400_000, 400_000, 400_000, 5_000_000, 1];
    let entries = sizes.iter().zip(1..).map(|(bytes, sequence)| Pending {
        bytes: *bytes,
        ..entry(1, sequence)
    });
    desk.due(&entries.collect::<Vec<_>>());
    let sent = desk.sent.iter().map(|(_, _, entries, _)| numbers(entries));
    assert_eq!(
        sent.collect::<Vec<_>>(),
        [vec![1, 2], vec![3], vec![4], vec![5]]
    );
}

#[test]
fn overdue_messages_pass_at_their_rate_beside_those_on_time() {
    let limits = Limits {
        overdue_per_second: 1000,
        ..Limits::default()
    };
    let mut desk = Desk::new(limits);
    let overdue = (0..10_000).map(|number| entry(1 + number % 2, number.into()));
    desk.route(1, &["a"]);
    desk.route(2, &["a"]);
    desk.dispatch
        .due(&overdue.collect::<Vec<_>>(), Timeliness::Overdue, desk.now);
    let mut overdue = BTreeMap::<u32, u64>::new();
    let mut at_first = 0;
    for step in 0..400 {
        if step == 200 {
            at_first = overdue.values().sum();
            // An operator is in no hurry.
            desk.dispatch.set_overdue_rate(100);
        }
        let on_time = 1_000_000 + step;
        desk.due(&[entry(1, on_time)]);
        let mut was_sent = false;
        while let Some((_, _, entries, _)) = desk.sent.front() {
            was_sent |= entries.iter().any(|entry| entry.sequence.0 == on_time);
            for entry in entries.iter().filter(|entry| entry.sequence.0 < 1_000_000) {
                *overdue.entry(entry.subject.0).or_default() += 1;
            }
            desk.reply_all(Outcome::Confirmed);
        }
        assert!(was_sent, "message {on_time} waits behind overdue ones");
        desk.pass(Duration::from_millis(10));
    }
    assert!((1900..=2200).contains(&at_first), "{at_first}");
    let slowly = overdue.values().sum::<u64>() - at_first;
    assert!((150..=250).contains(&slowly), "{slowly}");
    assert!(overdue[&1].abs_diff(overdue[&2]) < 10, "{overdue:?}");
}

#[test]
fn what_finds_no_room_is_asked_for_again_when_there_is_some() {
    let mut desk = Desk::new(Limits::default());
    let parked: Vec<_> = (0..3000).map(|sequence| entry(1, sequence)).collect();
    desk.due(&parked);
    assert_eq!(desk.dispatch.queued(), PARKED_MAX);
    assert_eq!(desk.dispatch.left_count(), 2000);
    assert_eq!(
        desk.dispatch.take_left(desk.now),
        None,
        "it would find no room"
    );
    desk.route(1, &["a"]);
    desk.poll();
    while !desk.sent.is_empty() {
        desk.reply_all(Outcome::Confirmed);
    }
    desk.now += LEFT_PAUSE;
    assert_eq!(desk.dispatch.take_left(desk.now), Some(parked[1000].due));
    desk.now += LEFT_PAUSE;
    assert_eq!(desk.dispatch.take_left(desk.now), None);
}

#[test]
fn one_subject_does_not_take_all_the_room() {
    let mut desk = Desk::new(Limits {
        queued_max: 10_000,
        ..Limits::default()
    });
    desk.route(1, &["a"]);
    desk.route(2, &["a"]);
    let many: Vec<_> = (0..20_000).map(|sequence| entry(1, sequence)).collect();
    desk.dispatch.due(&many, Timeliness::OnTime, desk.now);
    assert_eq!(desk.dispatch.queued(), 7500);
    let few: Vec<_> = (0..500)
        .map(|sequence| entry(2, 30_000 + sequence))
        .collect();
    desk.dispatch.due(&few, Timeliness::OnTime, desk.now);
    assert_eq!(desk.dispatch.queued(), 8000);
    // Its only group fails: it gives room back, and what it gave is not forgotten.
    desk.poll();
    while !desk.sent.is_empty() {
        desk.reply_all(Outcome::TurnedAway);
    }
    desk.pass(TRIM_PAUSE);
    assert!(desk.dispatch.queued() <= 2 * STUCK_MAX + 200);
    desk.pass(Duration::from_secs(10));
    while !desk.sent.is_empty() {
        desk.reply_all(Outcome::Confirmed);
    }
    let from = desk
        .dispatch
        .take_left(desk.now + LEFT_PAUSE)
        .expect("something is left");
    assert!(from <= many[300].due);
}

#[test]
fn an_unreadable_message_stays_pending_and_holds_up_nobody() {
    let mut desk = Desk::with_route(1, &["a"]);
    desk.due(&[entry(1, 1), entry(1, 2)]);
    desk.reply(&Reply::Each(vec![Outcome::Unreadable, Outcome::Confirmed]));
    assert_eq!((&*desk.confirmed, &*desk.refused), (&[2][..], &[1][..]));
    desk.due(&[entry(1, 3)]);
    assert_eq!(desk.only().1, [3]);
    desk.reply_all(Outcome::Confirmed);
    desk.pass(UNREADABLE_PAUSE - Duration::from_secs(1));
    assert!(desk.sent.is_empty());
    desk.pass(Duration::from_secs(1));
    assert_eq!(desk.only().1, [1]);
    assert_eq!(desk.dispatch.counts().unreadable, 1);
}

#[test]
fn a_message_without_a_result_goes_to_the_same_group_again_on_its_own() {
    let mut desk = Desk::with_route(1, &["a", "b"]);
    desk.due(&[entry(1, 1), entry(1, 2)]);
    let first = desk.only().0.to_owned();
    // The answer is short.
    desk.reply(&Reply::Each(vec![Outcome::Confirmed]));
    assert_eq!((&*desk.confirmed, &*desk.refused), (&[1][..], &[][..]));
    for (outcome, pause) in [
        (Outcome::Rejected, 1),
        (Outcome::Unreadable, 2),
        (Outcome::Confirmed, 60),
    ] {
        desk.pass(Duration::from_secs(pause));
        assert_eq!(desk.only(), (&*first, vec![2], 1));
        desk.reply(&Reply::Each(vec![outcome]));
    }
    assert_eq!((&*desk.confirmed, &*desk.refused), (&[1, 2][..], &[][..]));
}

#[test]
fn stops_beginning_and_waits_for_what_is_under_way() {
    let mut desk = Desk::with_route(1, &["a"]);
    desk.due(&[entry(1, 1)]);
    desk.dispatch.stop();
    desk.due(&[entry(1, 2)]);
    assert_eq!(desk.dispatch.requests(), 1);
    desk.reply_all(Outcome::Confirmed);
    assert_eq!(desk.confirmed, [1]);
    assert_eq!(desk.dispatch.requests(), 0);
    desk.pass(Duration::from_secs(100));
    assert!(desk.sent.is_empty());
}
