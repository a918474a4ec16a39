//! Messages with `qmq_retain=0`: kept in memory only, the newest of each subject, for whoever looks.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use qmq_model::{Payload, Subject, UnixMillis};
use qmq_protocol::command::browse::From;

/// Property that says whether a message is stored.
const RETAIN: &[u8] = b"qmq_retain";
/// Its value for a message that is not.
const NOT: &[u8] = b"0";
/// What a message costs beside its payload, so that many small ones are bounded too.
const MESSAGE_OVERHEAD_BYTES: usize = 128;
/// Messages kept of one subject.
pub const RING_MESSAGES_MAX: usize = 1000;
/// Bytes kept of one subject; a message with a larger payload is refused. The newest message is kept
/// whatever it costs beside that.
pub const RING_BYTES_MAX: usize = 1 << 20;
/// Subjects of which anything is kept.
pub const RINGS_MAX: usize = 1000;
/// Bytes kept of all subjects.
pub const BYTES_MAX: usize = 64 << 20;
/// Sequences begin at the start's milliseconds times this, so that they go up over a restart too
/// unless more messages came in a millisecond than that, on average.
const SEQUENCES_PER_MS: i64 = 1024;

const _: () = assert!(RING_BYTES_MAX + MESSAGE_OVERHEAD_BYTES <= BYTES_MAX);

/// The rings of all subjects.
#[derive(Debug)]
pub struct Unretained {
    rings: Mutex<Rings>,
}

#[derive(Debug)]
struct Rings {
    by_subject: HashMap<Subject, Ring>,
    bytes: usize,
    /// The sequence of the next message of any subject.
    next: i64,
}

/// Messages of one subject, oldest first.
#[derive(Debug, Default)]
struct Ring {
    messages: VecDeque<(i64, Kept)>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Kept {
    taken: UnixMillis,
    payload: Bytes,
}

/// A portion of what is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Portion {
    /// Where to go on.
    pub next: i64,
    /// Behind the newest message.
    pub end: i64,
    /// Sequences and payloads.
    pub messages: Vec<(i64, Bytes)>,
}

/// Whether a message asks not to be stored.
#[must_use]
pub fn is_unretained(payload: &Payload<'_>) -> bool {
    payload.property(RETAIN) == Some(NOT)
}

impl Unretained {
    /// Keeps nothing yet.
    #[must_use]
    pub fn new(now: UnixMillis) -> Self {
        Self {
            rings: Mutex::new(Rings {
                by_subject: HashMap::new(),
                bytes: 0,
                next: now.0.saturating_mul(SEQUENCES_PER_MS),
            }),
        }
    }

    /// Keeps a message of at most [`RING_BYTES_MAX`] until newer ones take its room.
    pub fn keep(&self, subject: &Subject, payload: &[u8], now: UnixMillis) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        // Not a slice: that would keep alive all that arrived together with it.
        rings.keep(subject, Bytes::copy_from_slice(payload), now);
    }

    /// At most `count` messages of a subject, and no more than `bytes_max` bytes but one at least.
    #[must_use]
    pub fn portion(
        &self,
        subject: &Subject,
        from: From,
        count: usize,
        bytes_max: usize,
    ) -> Portion {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.portion(subject, from, count, bytes_max)
    }
}

impl Kept {
    fn cost(&self) -> usize {
        self.payload.len() + MESSAGE_OVERHEAD_BYTES
    }
}

impl Rings {
    fn keep(&mut self, subject: &Subject, payload: Bytes, taken: UnixMillis) {
        let sequence = self.next;
        self.next += 1;
        let kept = Kept { taken, payload };
        let bytes = kept.cost();
        self.bytes += bytes;
        if !self.by_subject.contains_key(subject) {
            if self.by_subject.len() >= RINGS_MAX {
                self.drop_oldest_ring();
            }
            self.by_subject.insert(subject.clone(), Ring::default());
        }
        let ring = self.by_subject.get_mut(subject).expect("it is there now");
        ring.bytes += bytes;
        ring.messages.push_back((sequence, kept));
        while ring.messages.len() > 1
            && (ring.messages.len() > RING_MESSAGES_MAX || ring.bytes > RING_BYTES_MAX)
        {
            self.bytes -= ring.drop_oldest();
        }
        while self.bytes > BYTES_MAX {
            self.drop_oldest_ring();
        }
    }

    /// Makes room where no message came for longest. There are few rings, and this is rare.
    fn drop_oldest_ring(&mut self) {
        let newest = |ring: &Ring| ring.messages.back().map(|(sequence, _)| *sequence);
        let oldest = self.by_subject.iter().min_by_key(|(_, ring)| newest(ring));
        let Some(subject) = oldest.map(|(subject, _)| subject.clone()) else {
            return;
        };
        if let Some(ring) = self.by_subject.remove(&subject) {
            self.bytes -= ring.bytes;
        }
    }

    fn portion(&self, subject: &Subject, from: From, count: usize, bytes_max: usize) -> Portion {
        let nothing = Portion {
            next: self.next,
            end: self.next,
            messages: Vec::new(),
        };
        let Some(ring) = self.by_subject.get(subject) else {
            return nothing;
        };
        let kept = &ring.messages;
        let begin = match from {
            // It was given out before a restart with another clock.
            From::Sequence(sequence) if sequence > self.next => 0,
            From::Sequence(first) => kept.partition_point(|(sequence, _)| *sequence < first),
            From::Time(millis) => kept.partition_point(|(_, kept)| kept.taken.0 < millis),
            From::Newest(wanted) => {
                let wanted = usize::try_from(wanted.max(0)).unwrap_or(usize::MAX);
                kept.len().saturating_sub(wanted)
            }
        };
        let mut portion = nothing;
        let mut bytes = 0;
        for (sequence, Kept { payload, .. }) in kept.iter().skip(begin) {
            bytes += payload.len();
            let is_full = portion.messages.len() >= count || bytes > bytes_max;
            if is_full && !portion.messages.is_empty() {
                portion.next = *sequence;
                break;
            }
            portion.messages.push((*sequence, payload.clone()));
        }
        portion
    }
}

impl Ring {
    /// Returns how many bytes became free.
    fn drop_oldest(&mut self) -> usize {
        let bytes = self.messages.pop_front().map_or(0, |(_, kept)| kept.cost());
        self.bytes -= bytes;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str) -> Subject {
        Subject::new(name).unwrap()
    }

    fn at(millis: i64) -> UnixMillis {
        UnixMillis(millis)
    }

    fn kept(all: &Unretained, name: &str) -> Vec<Bytes> {
        let portion = all.portion(&subject(name), From::Sequence(0), usize::MAX, usize::MAX);
        portion
            .messages
            .into_iter()
            .map(|(_, bytes)| bytes)
            .collect()
    }

    #[test]
    fn newer_messages_take_the_room_of_older_ones() {
        let all = Unretained::new(at(7));
        for number in 0..RING_MESSAGES_MAX + 5 {
            all.keep(&subject("s"), number.to_string().as_bytes(), at(7));
        }
        let messages = kept(&all, "s");
        assert_eq!(messages.len(), RING_MESSAGES_MAX);
        assert_eq!(messages[0], "5");
        let large = vec![0; RING_BYTES_MAX];
        all.keep(&subject("s"), &large, at(7));
        assert_eq!(kept(&all, "s"), [large]);
    }

    #[test]
    fn subjects_without_new_messages_make_room_for_others() {
        let all = Unretained::new(at(7));
        let large = vec![0; RING_BYTES_MAX];
        let rings = BYTES_MAX / (RING_BYTES_MAX + MESSAGE_OVERHEAD_BYTES);
        for number in 0..rings {
            all.keep(&subject(&format!("s{number}")), &large, at(7));
        }
        all.keep(&subject("s0"), b"again", at(7));
        assert_eq!(kept(&all, "s0"), ["again"]);
        all.keep(&subject("new"), &large, at(7));
        all.keep(&subject("newer"), &large, at(7));
        assert!(kept(&all, "s1").is_empty(), "it was silent for longest");
        assert_eq!(kept(&all, "s0").len(), 1);
        for number in 0..RINGS_MAX {
            all.keep(&subject(&format!("small{number}")), b"x", at(7));
        }
        assert!(all.rings.lock().unwrap().by_subject.len() <= RINGS_MAX);
        assert!(kept(&all, "s0").is_empty());
        let sum: usize = {
            let rings = all.rings.lock().unwrap();
            assert!(rings.bytes <= BYTES_MAX);
            let sum = rings.by_subject.values().map(|ring| ring.bytes).sum();
            assert_eq!(rings.bytes, sum, "what is counted is there");
            sum
        };
        assert!(sum > 0);
    }

    #[test]
    fn a_portion_says_where_to_go_on() {
        let all = Unretained::new(at(7));
        for time in 10..20 {
            all.keep(&subject("s"), b"12345", at(time));
        }
        let of = |from, count, bytes| all.portion(&subject("s"), from, count, bytes);
        let first = of(From::Sequence(-1), 3, usize::MAX);
        assert_eq!(first.messages.len(), 3);
        let second = of(From::Sequence(first.next), 100, usize::MAX);
        assert_eq!(second.messages.len(), 7);
        assert_eq!(second.next, second.end);
        assert_eq!(of(From::Sequence(second.next), 100, 100).messages, []);
        assert_eq!(of(From::Sequence(0), 100, 12).messages.len(), 2);
        assert_eq!(of(From::Sequence(0), 100, 1).messages.len(), 1);
        assert_eq!(of(From::Time(17), 100, 100).messages.len(), 3);
        assert_eq!(of(From::Newest(4), 100, 100).messages.len(), 4);
        assert_eq!(of(From::Newest(i64::MAX), 100, 100).messages.len(), 10);
        assert_eq!(of(From::Newest(-1), 100, 100).messages.len(), 0);
        // After a restart with a clock that was set back.
        assert_eq!(of(From::Sequence(i64::MAX), 100, 100).messages.len(), 10);
        let other = all.portion(&subject("other"), From::Sequence(0), 1, 1);
        assert_eq!((other.next, other.messages.len()), (second.end, 0));
    }

    #[test]
    fn sequences_go_up_over_a_restart() {
        let before = Unretained::new(at(1_000));
        before.keep(&subject("s"), b"x", at(1_000));
        let end = before.portion(&subject("s"), From::Sequence(0), 1, 1).end;
        let after = Unretained::new(at(1_001));
        after.keep(&subject("s"), b"y", at(1_001));
        let seen = after.portion(&subject("s"), From::Sequence(end), 1, 1);
        assert_eq!(seen.messages.len(), 1);
    }
}
