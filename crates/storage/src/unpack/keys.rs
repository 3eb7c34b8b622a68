//! Which path is at which position of the tar-split, in 24 bytes an entry instead of the path.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// A map from paths to positions. A path is known by 128 bits of two keyed hashes: no archive can
/// be made that has two paths of one key.
#[derive(Debug, Default)]
pub(super) struct Keys {
    hashers: (RandomState, RandomState),
    positions: HashMap<(u64, u64), u64>,
}

impl Keys {
    fn key(&self, path: &[u8]) -> (u64, u64) {
        (self.hashers.0.hash_one(path), self.hashers.1.hash_one(path))
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<u64> {
        self.positions.get(&self.key(path)).copied()
    }

    pub(super) fn insert(&mut self, path: &[u8], position: u64) {
        self.positions.insert(self.key(path), position);
    }

    pub(super) fn remove(&mut self, path: &[u8]) -> Option<u64> {
        self.positions.remove(&self.key(path))
    }
}
