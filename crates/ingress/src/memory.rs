//! Memory as a budget: the octets of messages that all sessions may hold at a time.
//!
//! What always holds: the sum of all [`Reservation`]s never exceeds the limit; one that is dropped gives back what it
//! had. A session reserves before it keeps, so that a client that sends more than there is room for hears 452 and
//! nothing grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The octets that are held, over all sessions.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    used: AtomicU64,
}

impl Memory {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
        })
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Room for so many octets, if there is.
    pub(crate) fn reserve(self: &Arc<Self>, octets: u64) -> Option<Reservation> {
        let mut reservation = Reservation {
            memory: self.clone(),
            octets: 0,
        };
        reservation.grow_to(octets).then_some(reservation)
    }
}

/// Room for one message.
#[derive(Debug)]
pub(crate) struct Reservation {
    memory: Arc<Memory>,
    octets: u64,
}

impl Reservation {
    /// Makes it at least so large; false, and nothing changes, when there is no room.
    pub(crate) fn grow_to(&mut self, octets: u64) -> bool {
        let Some(more) = octets.checked_sub(self.octets).filter(|more| *more > 0) else {
            return true;
        };
        let limit = self.memory.limit;
        let fits = |used: u64| used.checked_add(more).filter(|sum| *sum <= limit);
        // The number guards no other memory: relaxed is enough.
        let grown = self
            .memory
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        if grown.is_ok() {
            self.octets = octets;
        }
        grown.is_ok()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.octets, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_never_exceeds_the_limit() {
        let memory = Memory::new(100);
        let mut first = memory.reserve(60).unwrap();
        assert!(memory.reserve(41).is_none(), "no room for a second one");
        assert_eq!(memory.used(), 60, "a refusal keeps nothing");
        let second = memory.reserve(40).unwrap();
        assert!(!first.grow_to(61), "nor for growth");
        assert!(first.grow_to(10), "it never shrinks");
        drop(second);
        assert!(first.grow_to(100), "what was given back can be had");
        assert!(!first.grow_to(u64::MAX), "no overflow");
        drop(first);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn many_threads_stay_within_it() {
        let memory = Memory::new(1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for octets in 0..2000 {
                        let reservation = memory.reserve(octets % 700);
                        assert!(memory.used() <= 1000);
                        drop(reservation);
                    }
                });
            }
        });
        assert_eq!(memory.used(), 0);
    }
}
