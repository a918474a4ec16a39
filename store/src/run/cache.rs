//! Blocks of runs in memory, under a budget.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::run::block::{BLOCK_BYTES, Block};

/// Run and number of the block in it.
type Key = (u64, u32);

/// Blocks used lately. The lock is held for a look-up only, never during IO.
#[derive(Debug)]
pub(crate) struct BlockCache {
    generations: Mutex<Generations>,
    /// Blocks in one generation.
    blocks_max: usize,
}

/// When the young generation is full it becomes the old one, and what nobody asked for since goes.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Block>,
    old: HashMap<Key, Block>,
}

impl BlockCache {
    /// Holds at most `bytes_max` bytes of blocks, and at least two blocks.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            generations: Mutex::default(),
            blocks_max: (bytes_max / BLOCK_BYTES / 2).max(1),
        }
    }

    pub(crate) fn get(&self, run: u64, number: u32) -> Option<Block> {
        let mut generations = self.lock();
        if let Some(block) = generations.young.get(&(run, number)) {
            return Some(block.clone());
        }
        let block = generations.old.remove(&(run, number))?;
        self.keep(&mut generations, (run, number), block.clone());
        Some(block)
    }

    pub(crate) fn insert(&self, run: u64, number: u32, block: Block) {
        self.keep(&mut self.lock(), (run, number), block);
    }

    fn keep(&self, generations: &mut Generations, key: Key, block: Block) {
        if generations.young.len() >= self.blocks_max {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, block);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn block(number: u8) -> Block {
        Block(Arc::from(vec![number; BLOCK_BYTES]))
    }

    #[test]
    fn keeps_what_is_used_within_its_budget() {
        let cache = BlockCache::new(8 * BLOCK_BYTES);
        for number in 0..100 {
            cache.insert(1, number.into(), block(number));
            assert!(cache.get(1, 0).is_some(), "asked for after {number} others");
            let generations = cache.lock();
            assert!(generations.young.len() + generations.old.len() <= 8);
        }
        assert!(cache.get(1, 50).is_none());
        assert!(cache.get(2, 0).is_none());
        assert_eq!(cache.get(1, 99).map(|found| found.0[7]), Some(99));
    }
}
