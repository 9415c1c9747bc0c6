//! Which delivery ids came before, in bounded memory.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};

/// Delivery ids that are remembered; the oldest is forgotten first.
pub const MAX_IDS: usize = 1_000_000;
/// The delivery ids that came, as 128 bits of keyed hash each: ids are of any length, memory is not.
#[derive(Debug, Default)]
pub(super) struct Seen {
    keys: [RandomState; 2],
    numbers: HashMap<[u64; 2], u64>,
    order: VecDeque<[u64; 2]>,
}

impl Seen {
    fn key(&self, id: &str) -> [u64; 2] {
        [self.keys[0].hash_one(id), self.keys[1].hash_one(id)]
    }

    pub(super) fn insert(&mut self, id: &str, number: u64) -> Option<u64> {
        let key = self.key(id);
        if let Some(first) = self.numbers.get(&key) {
            return Some(*first);
        }
        if self.order.len() >= MAX_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.numbers.remove(&oldest);
        }
        self.numbers.insert(key, number);
        self.order.push_back(key);
        None
    }

    pub(super) fn remove(&mut self, id: &str, number: u64) {
        let key = self.key(id);
        if self.numbers.get(&key) == Some(&number) {
            self.numbers.remove(&key);
            // Rare, and what is taken back is nearly always among the last.
            if let Some(at) = self.order.iter().rposition(|other| *other == key) {
                self.order.remove(at);
            }
        }
    }
}
