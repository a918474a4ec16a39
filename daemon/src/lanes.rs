//! A queue with a lane for each connection (pure). Connections take turns, so that one with many
//! requests under way does not put off those of others; the requests of one keep their order.

use std::collections::{HashMap, VecDeque};

/// Bytes of one connection that are taken before the next one has its turn.
const TURN_BYTES: usize = 16 << 10;

/// Items with their size, by connection. Its owner bounds their number.
#[derive(Debug)]
pub struct Lanes<T> {
    by_connection: HashMap<u64, VecDeque<(usize, T)>>,
    /// Connections with items, the next one first.
    turns: VecDeque<u64>,
    bytes: usize,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self {
            by_connection: HashMap::new(),
            turns: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<T> Lanes<T> {
    /// Adds an item of `bytes` behind the others of its connection.
    pub fn push(&mut self, connection: u64, bytes: usize, item: T) {
        let lane = self.by_connection.entry(connection).or_default();
        if lane.is_empty() {
            self.turns.push_back(connection);
        }
        lane.push_back((bytes, item));
        self.bytes += bytes;
    }

    /// Size of all that waits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Moves items of about `bytes_max` to `taken`, at least one if there is any.
    pub fn take(&mut self, bytes_max: usize, taken: &mut Vec<T>) {
        let mut left = bytes_max;
        while left > 0
            && let Some(connection) = self.turns.pop_front()
        {
            let Some(lane) = self.by_connection.get_mut(&connection) else {
                continue;
            };
            let mut turn = TURN_BYTES;
            while left > 0
                && turn > 0
                && let Some((bytes, item)) = lane.pop_front()
            {
                self.bytes -= bytes;
                left = left.saturating_sub(bytes.max(1));
                turn = turn.saturating_sub(bytes.max(1));
                taken.push(item);
            }
            if lane.is_empty() {
                self.by_connection.remove(&connection);
            } else {
                self.turns.push_back(connection);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take<T>(lanes: &mut Lanes<T>, bytes: usize) -> Vec<T> {
        let mut taken = Vec::new();
        lanes.take(bytes, &mut taken);
        taken
    }

    #[test]
    fn a_busy_connection_does_not_put_off_a_quiet_one() {
        let mut lanes = Lanes::default();
        (0..5_000).for_each(|n| lanes.push(1, 1_000, n));
        lanes.push(2, 1_000, 9_999);
        let taken = take(&mut lanes, 64 << 10);
        assert!(
            taken.contains(&9_999),
            "the quiet one is in the first batch"
        );
        let busy: Vec<_> = taken.iter().filter(|n| **n != 9_999).collect();
        assert!(busy.windows(2).all(|pair| pair[0] < pair[1]), "in order");
        assert_eq!(taken.len(), 66);
    }

    #[test]
    fn gives_everything_once_and_in_order() {
        let mut lanes = Lanes::default();
        for n in 0..3_000_u64 {
            lanes.push(n % 7, usize::try_from(n % 3).unwrap() * 10_000, n);
        }
        let mut all = Vec::new();
        let mut bytes = lanes.bytes();
        assert_eq!(bytes, 1_000 * (10_000 + 20_000));
        while !lanes.is_empty() {
            let before = all.len();
            lanes.take(50_000, &mut all);
            assert!(all.len() > before, "never nothing");
            let taken = all[before..].iter().map(|n| (n % 3) * 10_000).sum::<u64>();
            bytes -= usize::try_from(taken).unwrap();
            assert_eq!(lanes.bytes(), bytes);
        }
        for connection in 0..7 {
            let own: Vec<_> = all.iter().filter(|n| **n % 7 == connection).collect();
            assert!(own.windows(2).all(|pair| pair[0] < pair[1]));
        }
        assert_eq!(all.len(), 3_000);
        assert!(take(&mut lanes, 1).is_empty() && lanes.by_connection.is_empty());
    }

    #[test]
    fn one_large_item_is_taken_whole() {
        let mut lanes = Lanes::default();
        lanes.push(1, 8 << 20, 'a');
        lanes.push(1, 1, 'b');
        assert_eq!(take(&mut lanes, 1 << 20), ['a']);
        assert_eq!(take(&mut lanes, 1 << 20), ['b']);
    }
}
