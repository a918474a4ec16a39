//! Messages waiting for a request, one lane per broker (pure).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// What a lane needs to know of a message to put it into a request.
pub(crate) trait Batchable {
    /// Bytes it takes in a request.
    fn wire_bytes(&self) -> usize;
    /// Its id: replies name messages by id, so a request holds each id once.
    fn message_id(&self) -> &[u8];
}

/// Bounds of one request and of the requests under way to one broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneLimits {
    /// Most messages of a request.
    pub batch_max: usize,
    /// Most bytes of a request; a longer message travels alone.
    pub batch_bytes_max: usize,
    /// Most requests under way to one broker.
    pub in_flight_max: usize,
}

/// All lanes. A lane exists while it has messages or requests.
///
/// Messages gather only while all requests of a broker are under way, so an idle producer adds no
/// delay and a busy one sends full batches.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    limits: LaneLimits,
    lanes: HashMap<Arc<str>, Lane<T>>,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<T>,
    in_flight: usize,
}

impl<T: Batchable> Lanes<T> {
    /// No lane yet.
    pub(crate) fn new(limits: LaneLimits) -> Self {
        Self {
            limits,
            lanes: HashMap::new(),
        }
    }

    /// Adds a message for the broker at `address`. True when one more request may be under way: the
    /// caller then sends batches until [`Self::next_batch`] has none.
    #[must_use]
    pub(crate) fn push(&mut self, address: &Arc<str>, message: T) -> bool {
        let lane = self
            .lanes
            .entry(Arc::clone(address))
            .or_insert_with(|| Lane {
                waiting: VecDeque::new(),
                in_flight: 0,
            });
        lane.waiting.push_back(message);
        let may_send = lane.in_flight < self.limits.in_flight_max;
        lane.in_flight += usize::from(may_send);
        may_send
    }

    /// The messages of the next request, in the order they came. `None` ends the caller's turn.
    pub(crate) fn next_batch(&mut self, address: &str) -> Option<Vec<T>> {
        let lane = self.lanes.get_mut(address)?;
        let count = batch_len(&lane.waiting, self.limits);
        if count > 0 {
            return Some(lane.waiting.drain(..count).collect());
        }
        lane.in_flight -= 1;
        if lane.in_flight == 0 {
            self.lanes.remove(address);
        }
        None
    }
}

fn batch_len<T: Batchable>(waiting: &VecDeque<T>, limits: LaneLimits) -> usize {
    let mut bytes = 0;
    let mut ids = HashSet::new();
    waiting
        .iter()
        .take(limits.batch_max)
        .take_while(|message| {
            bytes += message.wire_bytes();
            let fits = ids.is_empty() || bytes <= limits.batch_bytes_max;
            fits && ids.insert(message.message_id())
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Fake(&'static str, usize);

    impl Batchable for Fake {
        fn wire_bytes(&self) -> usize {
            self.1
        }
        fn message_id(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }

    fn lanes() -> (Lanes<Fake>, Arc<str>) {
        let limits = LaneLimits {
            batch_max: 3,
            batch_bytes_max: 100,
            in_flight_max: 2,
        };
        (Lanes::new(limits), "b:1".into())
    }

    fn batch(lanes: &mut Lanes<Fake>, broker: &str) -> Option<Vec<&'static str>> {
        lanes
            .next_batch(broker)
            .map(|batch| batch.iter().map(|message| message.0).collect())
    }

    #[test]
    fn messages_gather_while_all_requests_are_under_way() {
        let (mut lanes, broker) = lanes();
        let turns: Vec<_> = ["a", "b", "c", "d", "e", "f"]
            .into_iter()
            .map(|id| lanes.push(&broker, Fake(id, 1)))
            .collect();
        assert_eq!(turns, [true, true, false, false, false, false]);
        assert_eq!(batch(&mut lanes, &broker), Some(vec!["a", "b", "c"]));
        assert_eq!(batch(&mut lanes, &broker), Some(vec!["d", "e", "f"]));
        assert_eq!(batch(&mut lanes, &broker), None);
        assert!(lanes.push(&broker, Fake("g", 1)), "one turn is free again");
        assert_eq!(batch(&mut lanes, &broker), Some(vec!["g"]));
        assert_eq!(batch(&mut lanes, &broker), None);
        assert_eq!(batch(&mut lanes, &broker), None);
        assert!(lanes.lanes.is_empty(), "idle lanes cost nothing");
    }

    #[test]
    fn requests_are_bounded_in_bytes_but_take_one_long_message() {
        let (mut lanes, broker) = lanes();
        for message in [
            Fake("a", 60),
            Fake("b", 50),
            Fake("huge", 500),
            Fake("c", 1),
        ] {
            let _ = lanes.push(&broker, message);
        }
        assert_eq!(batch(&mut lanes, &broker), Some(vec!["a"]));
        assert_eq!(batch(&mut lanes, &broker), Some(vec!["b"]));
        assert_eq!(batch(&mut lanes, &broker), Some(vec!["huge"]));
        assert_eq!(batch(&mut lanes, &broker), Some(vec!["c"]));
    }

    #[test]
    fn a_request_holds_each_id_once() {
        let (mut lanes, broker) = lanes();
        for message in [Fake("a", 1), Fake("a", 1), Fake("b", 1)] {
            let _ = lanes.push(&broker, message);
        }
        assert_eq!(batch(&mut lanes, &broker), Some(vec!["a"]));
        assert_eq!(batch(&mut lanes, &broker), Some(vec!["a", "b"]));
    }
}
