//! Each promise can be broken, and it is noticed.

use super::owed::{DeadLetters, Move};
use super::*;

const QUEUE: Queue = Queue {
    group: (0, 0),
    is_retry: false,
};
const RETRY: Queue = Queue {
    is_retry: true,
    ..QUEUE
};
const NOW: UnixMillis = UnixMillis(100_000);
const DELAY: Duration = Duration::from_secs(5);

/// Wanted by nobody who wants anything in particular, and of unlimited deliveries.
fn plain() -> Letter {
    let is_plain = |letter: &Letter| {
        let picky = (1..Wish::COUNT).map(Wish);
        !letter.again().again().again().again().is_dead()
            && picky.into_iter().all(|wish| !wish.wants(*letter))
    };
    (0..).map(Letter::first).find(is_plain).unwrap()
}

fn message(sequence: i64, pull: i64) -> Delivered {
    Delivered {
        sequence,
        pull,
        letter: plain(),
        stored: NOW,
    }
}

fn by(queue: Queue, consumer: usize) -> Asked {
    Asked {
        who: (queue, consumer),
        broadcast: false,
        wish: Wish(0),
        now: NOW,
    }
}

fn promises() -> Promises {
    Promises::new(DELAY)
}

/// One message was acknowledged and the group began with it.
fn owing() -> Promises {
    let mut promises = promises();
    let stored = promises.acknowledged(Stream::Real(0), 3, plain(), NOW);
    stored.unwrap();
    promises.joined(QUEUE, 3);
    promises
}

#[test]
fn sequences_and_pull_sequences_stand_for_one_message() {
    let mut promises = owing();
    let other = Letter::first(plain().number + 1);
    let again = promises.acknowledged(Stream::Real(0), 3, other, NOW);
    assert!(again.is_err());

    let mut promises = owing();
    let me = by(QUEUE, 0);
    promises.delivered(&me, message(3, 0)).unwrap();
    assert!(promises.delivered(&me, message(4, 0)).is_err());
    promises.consumer_forgotten((QUEUE, 0), 0);
    assert!(promises.delivered(&me, message(4, 0)).is_err());
    promises.consumer_restarted((QUEUE, 0));
    assert!(promises.delivered(&me, message(4, 0)).is_ok());
    promises.consumer_restarted((QUEUE, 0));
    assert!(promises.delivered(&me, message(3, 0)).is_err());
    let broadcast = Asked {
        broadcast: true,
        ..by(QUEUE, 1)
    };
    assert!(promises.delivered(&broadcast, message(5, 6)).is_err());
}

#[test]
fn a_message_has_one_holder_until_it_is_confirmed() {
    let mut promises = owing();
    promises.delivered(&by(QUEUE, 0), message(3, 0)).unwrap();
    assert!(promises.delivered(&by(QUEUE, 1), message(3, 0)).is_err());
    promises.confirmed(QUEUE, [3], Outcome::Finished);
    assert!(promises.delivered(&by(QUEUE, 0), message(3, 0)).is_err());
    promises.power_cut();
    assert!(promises.delivered(&by(QUEUE, 1), message(3, 0)).is_ok());
}

#[test]
fn what_is_delivered_is_what_was_stored_and_wanted() {
    let mut promises = owing();
    let me = by(QUEUE, 0);
    let letter = Letter::first(plain().number + 1);
    let other = Delivered {
        letter,
        ..message(3, 0)
    };
    assert!(promises.delivered(&me, other).is_err());
    let stored = UnixMillis(1);
    let older = Delivered {
        stored,
        ..message(3, 0)
    };
    assert!(owing().delivered(&me, older).is_err());
    let picky = Asked {
        wish: Wish(1),
        ..me
    };
    assert!(owing().delivered(&picky, message(3, 0)).is_err());
}

#[test]
fn retries_come_late_enough_and_count_up() {
    let copy = |letter, age: u64| Delivered {
        letter,
        stored: UnixMillis(NOW.0 - i64::try_from(age).unwrap()),
        ..message(0, 0)
    };
    let me = by(RETRY, 0);
    let mut promises = owing();
    let second = plain().again();
    assert!(
        promises.delivered(&me, copy(second, 6_000)).is_err(),
        "of nothing"
    );
    promises.delivered(&by(QUEUE, 0), message(3, 0)).unwrap();
    assert!(
        promises.delivered(&me, copy(plain(), 6_000)).is_err(),
        "not counted"
    );
    let mut promises = owing();
    promises.delivered(&by(QUEUE, 0), message(3, 0)).unwrap();
    assert!(
        promises.delivered(&me, copy(second, 4_999)).is_err(),
        "early"
    );
    assert!(promises.delivered(&me, copy(second, 5_000)).is_ok());
    let dead = (0..).map(Letter::first).find(|l| l.again().is_dead());
    let dead = dead.unwrap();
    let first = Delivered {
        letter: dead,
        ..message(9, 9)
    };
    promises.delivered(&by(QUEUE, 0), first).unwrap();
    let late = Delivered {
        sequence: 1,
        pull: 1,
        ..copy(dead.again(), 6_000)
    };
    assert!(promises.delivered(&me, late).is_err(), "dead");
}

#[test]
fn what_is_owed_is_finished_or_dead_in_the_end() {
    let none = DeadLetters::new();
    let mut promises = owing();
    assert!(promises.settle(&none).is_err(), "never delivered");
    promises.delivered(&by(QUEUE, 0), message(3, 0)).unwrap();
    promises.confirmed(QUEUE, [3], Outcome::Failed);
    assert!(promises.settle(&none).is_err(), "failed only");
    promises.perhaps_confirmed(QUEUE, [3], Outcome::Finished);
    assert!(promises.settle(&none).is_ok());

    let letter = (0..).map(Letter::first).find(|l| l.again().is_dead());
    let letter = letter.unwrap();
    let mut promises = Promises::new(DELAY);
    let stored = promises.acknowledged(Stream::Real(0), 0, letter, NOW);
    stored.unwrap();
    promises.joined(QUEUE, 0);
    let dead = |letter| DeadLetters::from([((0, 0), BTreeMap::from([(0, letter)]))]);
    assert!(
        promises.settle(&dead(letter.again())).is_err(),
        "never tried"
    );
    let first = Delivered {
        letter,
        ..message(0, 0)
    };
    promises.delivered(&by(QUEUE, 0), first).unwrap();
    assert!(promises.settle(&dead(letter)).is_err(), "not counted");
    assert!(promises.settle(&dead(letter.again())).is_ok());
    let stored = promises.acknowledged(Stream::Dead((0, 0)), 1, letter.again(), NOW);
    stored.unwrap();
    assert!(promises.settle(&dead(letter.again())).is_err(), "lost");
}

#[test]
fn other_wishes_excuse_only_what_they_could_pass_over() {
    let picky = Asked {
        wish: Wish(1),
        ..by(QUEUE, 0)
    };
    let none = DeadLetters::new();
    let mut promises = promises();
    promises.asked(&picky);
    let stored = promises.acknowledged(Stream::Real(0), 3, plain(), NOW);
    stored.unwrap();
    promises.joined(QUEUE, 3);
    promises.asked(&by(QUEUE, 0));
    assert!(promises.settle(&none).is_err());
    promises.asked(&picky);
    assert!(promises.settle(&none).is_ok());
    let (queue, from, to) = (QUEUE, 4, 0);
    promises.moved(Move {
        queue,
        from,
        to,
        broadcast: false,
    });
    assert!(promises.settle(&none).is_err());
}

#[test]
fn a_moved_group_is_owed_what_lies_behind() {
    let none = DeadLetters::new();
    let step = |from, to| Move {
        queue: QUEUE,
        from,
        to,
        broadcast: false,
    };
    let mut promises = owing();
    promises.perhaps_moved(step(4, 3));
    assert!(promises.settle(&none).is_err());
    promises.perhaps_moved(step(3, 4));
    assert!(promises.settle(&none).is_ok());
    promises.moved(step(4, 2));
    assert!(promises.settle(&none).is_err());
    promises.delivered(&by(QUEUE, 0), message(3, 0)).unwrap();
    promises.confirmed(QUEUE, [3], Outcome::Finished);
    assert!(promises.settle(&none).is_ok());
    promises.moved(step(4, 3));
    assert!(promises.settle(&none).is_err(), "once more");
    let broadcast = Move {
        broadcast: true,
        ..step(4, 4)
    };
    promises.perhaps_moved(broadcast);
    assert!(promises.settle(&none).is_ok());
    promises.moved(step(4, 3));
    assert!(promises.delivered(&by(QUEUE, 1), message(3, 0)).is_ok());
    promises.group_forgotten(QUEUE);
    assert!(promises.settle(&none).is_ok());
    assert_eq!(promises.first_since(Stream::Real(0), NOW), 3);
    let later = promises.first_since(Stream::Real(0), UnixMillis(NOW.0 + 1));
    assert_eq!(later, i64::MAX);
}
